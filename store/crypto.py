"""Sealing: AES-256-GCM, with keys that serve one kind of value each.

Guarantees: a sealed value opens only under the key, store, kind, id and version that it was sealed for, and
only if no byte of it changed; everything else raises ``TamperedError``. What is sealed has the layout

    version byte (1) ‖ nonce (12 bytes, random) ‖ ciphertext ‖ tag (16 bytes)

>>> key = SealKey(bytes(32), store_id=bytes(16), kind="record")
>>> sealed = key.seal(b"hello", object_id=row_id(7), version=1)
>>> key.open(sealed, object_id=row_id(7), version=1)
b'hello'
>>> key
SealKey(***)

Nonces are random, 96 bits. NIST SP 800-38D (section 8.3) allows 2^32 values under one key this way; each
kind of value in each store has a key of its own. HKDF is RFC 5869 with SHA-256.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from typing import NoReturn, SupportsIndex

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from store.errors import TamperedError

MAGIC = b"tacit"
FORMAT = 1
SEAL_VERSION = 1
KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
OVERHEAD_BYTES = 1 + NONCE_BYTES + TAG_BYTES
SMALLEST_CLASS_BYTES = 256
MAX_VERSION = 2**63 - 1


class Secret:
    """Base of everything that holds key material: prints as ``Name(***)``, refuses pickling and copying."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***)"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} holds a secret and cannot be pickled or copied: pass the object itself."
        )


def hkdf(key: bytes, info: str, *, salt: bytes = b"") -> bytes:
    """32 bytes derived from ``key`` for the purpose named by ``info`` (HKDF-SHA256, RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info.encode("ascii")).derive(key)


def row_id(number: int) -> bytes:
    """The object id of a numbered row: 8 bytes, big-endian (two's complement, so that no forged id fails here)."""
    return number.to_bytes(8, "big", signed=True)


def prefixed(*parts: bytes) -> bytes:
    """The parts, each after its length as 4 bytes big-endian, so that no two lists of parts read alike."""
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


class SealKey(Secret):
    """A key that seals one kind of value in one store.

    The associated data is magic ‖ format ‖ store id ‖ kind ‖ object id ‖ version, each part length-prefixed.
    """

    __slots__ = ("_aead", "_kind", "_prefix")

    def __init__(self, key: bytes, *, store_id: bytes, kind: str) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"Expected a key of {KEY_BYTES} bytes, got {len(key)}.")
        self._aead = AESGCM(key)
        self._kind = kind
        self._prefix = prefixed(MAGIC, struct.pack(">I", FORMAT), store_id, kind.encode("ascii"))

    def seal(self, plaintext: bytes | memoryview, *, object_id: bytes, version: int) -> bytes:
        """``plaintext`` sealed under a fresh random nonce."""
        return self._seal_with_nonce(os.urandom(NONCE_BYTES), plaintext, object_id=object_id, version=version)

    def _seal_with_nonce(self, nonce: bytes, plaintext: bytes | memoryview, *, object_id: bytes, version: int) -> bytes:
        """The deterministic half of :meth:`seal`, for test vectors only: a nonce used twice breaks the cipher."""
        header = bytes((SEAL_VERSION,)) + nonce
        return header + self._aead.encrypt(nonce, plaintext, self._associated(object_id, version))

    def open(self, sealed: object, *, object_id: bytes, version: int) -> bytes:
        """The plaintext of ``sealed``. Raises ``TamperedError`` if anything about it is not as it was sealed."""
        data = self._checked(sealed, version)
        try:
            return self._aead.decrypt(data[1:13], data[13:], self._associated(object_id, version))
        except InvalidTag:
            raise self._tampered() from None

    def open_into(self, sealed: object, buffer: memoryview, *, object_id: bytes, version: int) -> None:
        """Open ``sealed`` into ``buffer``, which must have the plaintext's size. Raises ``TamperedError``.

        On an error the buffer's content is undefined and must not be used.
        """
        data = self._checked(sealed, version)
        if len(data) != len(buffer) + OVERHEAD_BYTES:
            raise self._tampered()
        try:
            self._aead.decrypt_into(data[1:13], memoryview(data)[13:], self._associated(object_id, version), buffer)
        except InvalidTag:
            raise self._tampered() from None

    def _associated(self, object_id: bytes, version: int) -> bytes:
        return self._prefix + struct.pack(">I", len(object_id)) + object_id + struct.pack(">IQ", 8, version)

    def _checked(self, sealed: object, version: int) -> bytes:
        """``sealed`` if it can be a sealed value at all: what lies in a damaged row may have any type."""
        if type(version) is not int or not 0 < version <= MAX_VERSION:
            raise self._tampered()
        if not isinstance(sealed, bytes) or len(sealed) < OVERHEAD_BYTES or sealed[0] != SEAL_VERSION:
            raise self._tampered()
        return sealed

    def _tampered(self) -> TamperedError:
        return TamperedError(
            f"A sealed {self._kind} was changed since it was written: restore the store from a backup."
        )


class StoreKeys(Secret):
    """The keys of one store, all derived from its data key by HKDF, one for each kind of value."""

    __slots__ = ("_lookup", "record", "state", "title", "value", "vector")

    def __init__(self, data_key: bytes, store_id: bytes) -> None:
        self.record = _subkey(data_key, store_id, "record")
        self.vector = _subkey(data_key, store_id, "vector")
        self.title = _subkey(data_key, store_id, "title")
        self.value = _subkey(data_key, store_id, "value")
        self.state = _subkey(data_key, store_id, "state")
        self._lookup = hkdf(data_key, "tacit/1/lookup", salt=store_id)

    def lookup(self, kind: str, name: str) -> bytes:
        """The 32 bytes under which the value ``kind``/``name`` is found (HMAC-SHA256): tells nothing of the name."""
        message = prefixed(kind.encode("utf-8"), name.encode("utf-8"))
        return hmac.new(self._lookup, message, hashlib.sha256).digest()


def _subkey(data_key: bytes, store_id: bytes, kind: str) -> SealKey:
    return SealKey(hkdf(data_key, f"tacit/1/{kind}", salt=store_id), store_id=store_id, kind=kind)


def size_class(size_bytes: int) -> int:
    """The padded size for ``size_bytes``: 256, then four classes in each doubling (at most a quarter is padding).

    >>> [size_class(n) for n in (0, 256, 257, 320, 321, 512, 1_000_000)]
    [256, 256, 320, 320, 384, 512, 1048576]
    """
    if size_bytes <= SMALLEST_CLASS_BYTES:
        return SMALLEST_CLASS_BYTES
    step = 1 << ((size_bytes - 1).bit_length() - 3)
    return -(-size_bytes // step) * step


def pad(content: bytes) -> bytes:
    """Length of ``content`` (4 bytes, big-endian), ``content``, zeros up to the next size class."""
    size_bytes = size_class(4 + len(content))
    return (struct.pack(">I", len(content)) + content).ljust(size_bytes, b"\0")


def unpad(padded: bytes) -> bytes:
    """The content inside ``padded``. Raises ``ValueError`` unless :func:`pad` made exactly these bytes."""
    length = int.from_bytes(padded[:4], "big")
    content = padded[4 : 4 + length]
    if len(content) != length or len(padded) != size_class(4 + length) or padded[4 + length :].strip(b"\0"):
        raise ValueError("Expected content padded with zeros to its size class.")
    return content
