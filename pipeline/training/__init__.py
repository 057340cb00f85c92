"""From a config to records. No files, no clock, no MLflow."""
