"""Shipped weights."""

WEIGHTS = {"meaning": 1.0, "words": 1.0}
