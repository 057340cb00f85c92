"""Updates lost to rounding in float32."""
