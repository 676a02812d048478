"""One module per node of dvc.yaml."""
