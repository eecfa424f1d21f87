"""The device's own side of a round: what it checks, computes and lets out. It opens stores and knows no server."""
