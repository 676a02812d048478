"""The MLflow store, runs and live curves, and what a stage is made of."""
