"""Reading what ``crypto.prefixed`` put together.

>>> split_parts(prefixed(b"a", b"bc"), 2)
[b'a', b'bc']
"""

from __future__ import annotations

from store.crypto import prefixed

__all__ = ["prefixed", "split_parts"]


def split_parts(data: bytes, count: int) -> list[bytes]:
    """The ``count`` parts of ``data``. Raises ``ValueError`` unless it is exactly as many."""
    parts, at = [], 0
    for _ in range(count):
        size = int.from_bytes(data[at : at + 4], "big")
        part = data[at + 4 : at + 4 + size]
        if len(part) != size or len(data) < at + 4:
            raise ValueError("Expected length-prefixed parts.")
        parts.append(part)
        at += 4 + size
    if at != len(data):
        raise ValueError("Expected no more parts.")
    return parts
