"""Rows that hold nothing: random bytes that nobody without the keys tells from sealed ones."""

from __future__ import annotations

import os

from store.keys.crypto import FORMAT, STAMP_BYTES


def noise(size_bytes: int) -> bytes:
    """Bytes that look as if sealed: the format's version, then the system's randomness."""
    return bytes((FORMAT,)) + os.urandom(size_bytes - 1)


def noise_stamp() -> bytes:
    """Bytes that look like a stamp."""
    return noise(STAMP_BYTES)
