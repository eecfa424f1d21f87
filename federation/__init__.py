"""Rounds on Flower over many devices, and the `tacit` command."""
