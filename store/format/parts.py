"""Joining byte strings so that they come apart again.

>>> split_parts(prefixed(b"a", b"bc"), 2)
[b'a', b'bc']
"""

from __future__ import annotations

import struct


def prefixed(*parts: bytes) -> bytes:
    """The parts, each after its length as 4 bytes big-endian, so that no two lists of parts read alike."""
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def split_parts(data: bytes, count: int) -> list[bytes]:
    """The ``count`` parts of ``data``. Raises ``ValueError`` unless it is exactly as many."""
    return [data[start:end] for start, end in _limits(data, count)]


def views_of_parts(data: memoryview, count: int) -> list[memoryview]:
    """As :func:`split_parts`, without copying the parts."""
    return [data[start:end] for start, end in _limits(data, count)]


def _limits(data: bytes | memoryview, count: int) -> list[tuple[int, int]]:
    limits, at, size = [], 0, len(data)
    for _ in range(count):
        start, at = at + 4, at + 4 + int.from_bytes(data[at : at + 4], "big")
        if start > size:
            break
        limits.append((start, at))
    if at != size or len(limits) != count:
        raise ValueError(f"Expected {count} length-prefixed parts and nothing after them.")
    return limits
