"""Versions, the gate and its decisions."""
