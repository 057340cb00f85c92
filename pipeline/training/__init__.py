"""Train the network of a config and return records. No files, no clock, no MLflow."""
