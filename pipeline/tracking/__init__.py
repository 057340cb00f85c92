"""Everything that is kept in MLflow. The only wing that imports it."""
