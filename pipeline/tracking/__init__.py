"""The MLflow store. The only wing that imports MLflow."""
