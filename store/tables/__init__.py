"""The rows of an open store under its keys: read, written, forgotten, and committed in transactions."""
