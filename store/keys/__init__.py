"""Sealing one value, and the keys for it: from what the owner holds, through slots and the root, to one for a row."""
