"""Blind review by clinicians: pairs of answers, the page that shows them, and what the votes say."""
