"""Finding memories: what a search ranks by, with which weights, and why each result is there."""
