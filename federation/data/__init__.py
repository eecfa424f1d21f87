"""Data sets: rows, conversations and choices as files hold them, and how rows become devices."""
