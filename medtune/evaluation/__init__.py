"""Scores, statistics and figures."""
