"""The typed recipe, one module per section."""
