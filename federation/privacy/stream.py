"""A stream of random words for noise and coins, from the system's secure source.

The system gives a 256-bit key, AES-256 in counter mode (NIST SP 800-38A) the words. A reader who does not know the key
tells b blocks from true randomness with an advantage of at most b²/2¹²⁹, by the PRP-PRF switching lemma.

>>> SecureStream().words(3).shape
(3,)
"""

import os
import secrets
import threading
from typing import NoReturn

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

Words = npt.NDArray[np.uint64]
KEY_BYTES = 32


class SecureStream:
    """Words of AES-256-CTR under a fresh key. Safe between threads; a forked process draws a key of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._start(secrets.token_bytes(KEY_BYTES))

    def words(self, count: int) -> Words:
        """Return ``count`` words, each uniform on 0 … 2⁶⁴ − 1, uint64 (count,)."""
        return np.frombuffer(self._bytes(8 * count), dtype="<u8").astype(np.uint64)

    def signs(self, count: int) -> npt.NDArray[np.int64]:
        """Return ``count`` fair signs, each −1 or 1, int64 (count,)."""
        bits = np.unpackbits(np.frombuffer(self._bytes((count + 7) // 8), dtype=np.uint8), count=count)
        return 2 * bits.astype(np.int64) - 1

    def _bytes(self, count: int) -> bytes:
        with self._lock:
            if self._process != os.getpid():  # Two processes with one key would add the same noise.
                self._start(secrets.token_bytes(KEY_BYTES))
            return self._cipher.update(bytes(count))

    def _start(self, key: bytes) -> None:
        self._process = os.getpid()
        self._cipher: CipherContext = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def __repr__(self) -> str:
        return "SecureStream(***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A SecureStream is not pickled: its copy would give the same noise again.")


def stream_of_key(key: bytes) -> SecureStream:
    """The stream of ``key`` (32 bytes): for noise that whoever is told the key takes off again."""
    stream = SecureStream()
    stream._start(key)
    return stream
