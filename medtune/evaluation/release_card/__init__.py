"""The release card: all that is known about a candidate, as a page, as JSON and as a model card for the hub."""
