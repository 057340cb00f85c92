"""Speed, measured: both sides of every claim in one run."""
