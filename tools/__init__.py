"""Tools for people who work on gradvitals."""
