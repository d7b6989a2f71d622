"""Every DAG by name, one module of this folder each. Importing this imports nothing else."""

DAGS = ("nightly", "post_training", "distillation")
