"""Masks: a key of 256 bits becomes d uniform numbers modulo 2^32, by AES-256 in counter mode from zero.

>>> total = MaskedSum(4)
>>> total.add(np.array([1, 2, 3, 4], dtype=np.uint32))
>>> total.mask(bytes(32), +1)
>>> total.mask(bytes(32), -1)
>>> total.values
array([1, 2, 3, 4], dtype=uint32)

Each key is used for one stream, so the counter starts at zero (NIST SP 800-38A, section 6.5).
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from federation.secagg.binding import pair_info
from federation.secagg.keys import AgreementKey, derive_key

Words = NDArray[np.uint32]


class MaskedSum:
    """A running sum (d,) of vectors and masks modulo 2^32."""

    __slots__ = ("_stream", "_zeros", "values")

    def __init__(self, dimension: int) -> None:
        self.values: Words = np.zeros(dimension, dtype=np.uint32)
        self._zeros = bytes(4 * dimension)
        self._stream = bytearray(4 * dimension)

    def add(self, vector: Words) -> None:
        """Add ``vector`` (d,)."""
        np.add(self.values, vector, out=self.values)

    def mask(self, key: bytes, sign: int) -> None:
        """Add the mask of ``key`` (32 bytes) where ``sign`` is 1, take it off where it is −1."""
        Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update_into(self._zeros, self._stream)
        words = np.frombuffer(self._stream, dtype="<u4")  # (d,)
        (np.add if sign > 0 else np.subtract)(self.values, words, out=self.values)


def pair_mask_key(own: AgreementKey, peer: bytes, h2: bytes, first: int, second: int) -> bytes:
    """The key of the mask that two positions share: 32 bytes, the same from either side. Raises ``PeerKeyError``."""
    return derive_key(own.agree(peer), "mask", salt=h2, info=pair_info(min(first, second), max(first, second)))


def self_mask_key(secret: bytes, h2: bytes, position: int) -> bytes:
    """The key of a device's own mask, from its b: 32 bytes."""
    return derive_key(secret, "self mask", salt=h2, info=pair_info(position, position))
