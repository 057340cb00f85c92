"""Published results and theory, measured: claims, sweeps, analyses and figures."""
