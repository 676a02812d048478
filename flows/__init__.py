"""Prefect flows over the graph of dvc.yaml."""
