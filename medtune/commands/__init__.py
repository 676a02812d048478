"""Commands of `medtune` by subject; cli.py lists them. Beside the floors: they may call any below the stages."""
