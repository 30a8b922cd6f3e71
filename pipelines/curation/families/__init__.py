"""Dataset families: one module each, with the facts of its format and nothing else."""
