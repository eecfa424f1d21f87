"""Figures: the protocols for routing, choice and memory, metrics, and the methods beside ours."""
