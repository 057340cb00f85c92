"""Speed, both sides measured in one run."""
