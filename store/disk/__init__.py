"""The SQLite file, its tables and locks, and the folders around it. Knows no key."""
