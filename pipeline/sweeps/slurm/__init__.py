"""Run the stacks of a sweep as tasks of a Slurm cluster."""
