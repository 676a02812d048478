"""Rows: sources, quality, identity, splits, templates, labels."""
