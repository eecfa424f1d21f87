"""Who holds a device's shares: a uniform k-subset of the others, from randomness that the device committed to.

>>> arcs(bytes(32), position=0, revealed=bytes(16), devices=5, neighbours=2)
(1, 3)
>>> arcs(bytes(32), position=0, revealed=bytes(16), devices=5, neighbours=4)
(1, 2, 3, 4)

Each device draws its own arcs (Bell et al. 2020, section 4), by Floyd's algorithm (Bentley and Floyd 1987, CACM 30,
"A sample of brilliance").
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

REVEALED_BYTES = 16


def arcs(cohort_hash: bytes, *, position: int, revealed: bytes, devices: int, neighbours: int) -> tuple[int, ...]:
    """The positions, ascending, of the ``neighbours`` that the device at ``position`` chose among ``devices``.

    ``cohort_hash`` is H1 (32 bytes), ``revealed`` what the device committed to (16 bytes).
    """
    others = devices - 1
    if neighbours == others:
        return tuple(place for place in range(devices) if place != position)
    label = b"tacit/secagg/1/graph\0" + cohort_hash + struct.pack("<I", position) + revealed
    drawn = _numbers(hashlib.sha256(label).digest(), neighbours)
    chosen: set[int] = set()
    for bound in range(others - neighbours + 1, others + 1):
        number = next(drawn)
        while number >= 2**64 - bound and number >= 2**64 - 2**64 % bound:  # It would favour low places: draw again.
            number = next(drawn)
        place = number % bound
        chosen.add(bound - 1 if place in chosen else place)
    # Places from the device's own on stand for the position after them.
    return tuple(sorted([place + (place >= position) for place in chosen]))


def _numbers(key: bytes, first: int) -> Iterator[int]:
    """Uniform numbers of 64 bits without end: AES-256 in counter mode. ``first`` are made at once."""
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    while True:
        yield from struct.unpack(f"<{first}Q", stream.update(bytes(8 * first)))
