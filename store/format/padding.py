"""Size classes: what is sealed is padded first, so that its length tells little about its content.

>>> len(pad(b"short")), len(pad(b"a little longer than short"))
(256, 256)
>>> unpad(pad(b"short"))
b'short'
"""

from __future__ import annotations

import struct

SMALLEST_CLASS_BYTES = 256


def size_class(size_bytes: int) -> int:
    """The padded size for ``size_bytes``: 256, then eight classes in each doubling (at most an eighth is padding).

    >>> [size_class(n) for n in (0, 256, 257, 288, 289, 512, 1_000_000)]
    [256, 256, 288, 288, 320, 512, 1048576]
    """
    if size_bytes <= SMALLEST_CLASS_BYTES:
        return SMALLEST_CLASS_BYTES
    step = 1 << ((size_bytes - 1).bit_length() - 4)
    return -(-size_bytes // step) * step


def pad(content: bytes) -> bytes:
    """Length of ``content`` (4 bytes, big-endian), ``content``, zeros up to the next size class."""
    return pad_to(content, size_class(4 + len(content)))


def pad_to(content: bytes, size_bytes: int) -> bytes:
    """As :func:`pad`, to exactly ``size_bytes``. Raises ``ValueError`` if the content does not fit."""
    if 4 + len(content) > size_bytes:
        raise ValueError(f"Expected at most {size_bytes - 4} bytes of content, got {len(content)}.")
    return b"".join((struct.pack(">I", len(content)), content, bytes(size_bytes - 4 - len(content))))


def unpad(padded: bytes, size_bytes: int | None = None) -> bytes:
    """The content inside ``padded``, which :func:`pad` made (or :func:`pad_to`, if ``size_bytes`` is given).

    Raises ``ValueError`` for anything else.
    """
    return padded[4 : _end(padded, size_bytes)]


def unpadded(padded: bytes) -> memoryview:
    """As :func:`unpad`, without copying the content."""
    return memoryview(padded)[4 : _end(padded, None)]


def _end(padded: bytes, size_bytes: int | None) -> int:
    """Where the padding begins. Raises ``ValueError``."""
    size, end = len(padded), 4 + int.from_bytes(padded[:4], "big")
    if end > size or size != (size_bytes or size_class(end)) or padded.count(0, end) != size - end:
        raise ValueError("Expected content padded with zeros to its size class.")
    return end


def count_class(count: int) -> int:
    """How many rows a table shows that holds ``count``: powers of two from 16 to 256, then multiples of 256.

    >>> [count_class(n) for n in (0, 1, 16, 17, 200, 257, 1000)]
    [16, 16, 16, 32, 256, 512, 1024]
    """
    if count <= 16:
        return 16
    if count <= 256:
        return 1 << (count - 1).bit_length()
    return -(-count // 256) * 256
