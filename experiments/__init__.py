"""Scripts that run the environment and its agents: `python -m experiments.NAME --help`."""
