"""From records to estimates, verdict, explanation and remedies. Pure functions."""
