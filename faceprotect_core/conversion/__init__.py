"""How the shipped weights files were made, from public packages. Commands; imported by nothing else."""
