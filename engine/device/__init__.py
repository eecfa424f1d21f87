"""The device that an app holds: its memories, what it keeps of itself, its part in rounds, its answers."""
