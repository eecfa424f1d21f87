"""Sealing with single-use keys that are committed to: AES-256-GCM, one fresh key for each sealing.

Guarantees: what was sealed opens only under the key, store, space and number that it was sealed for, and only if no
byte of it changed; anything else raises ``TamperedError``. A ciphertext opens under one key only. Each sealing draws
a salt of 16 bytes, and from key and salt come a cipher key of its own and a commitment to both and to the place:

    stamp = version byte 2 ‖ salt (16) ‖ commitment (32)
    cipher key (32) ‖ commitment (32) = BLAKE2b(lp(salt, "tacit", u32(2), store id, space, u64(number)))
                                        with the key, 64 bytes of output, and "tacit/2/seal" as its personalisation

Under one stamp several parts may be sealed, each with a nonce that is its place in the list of parts and with its name
as associated data. So no nonce repeats under one key, not even in a store that was rolled back.

>>> place = Place(bytes(16), "record", 7)
>>> stamp, (sealed,) = seal(bytes(32), place, {"text": b"hello"})
>>> open_stamp(bytes(32), place, stamp).open(0, "text", sealed)
b'hello'

GCM alone commits to nothing: Albertini et al. 2022, "How to Abuse and Fix Authenticated Encryption Without Key
Commitment"; the derivation of key and commitment from one PRF is the transform UtC of Bellare and Hoang 2022,
"Efficient Schemes for Committing Authenticated Encryption". Keyed BLAKE2b is a PRF
of one pass (RFC 7693, section 2.9), HKDF is RFC 5869.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple, NoReturn, SupportsIndex

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from store.errors import TamperedError
from store.format.parts import prefixed

MAGIC = b"tacit"
FORMAT = 2
KEY_BYTES = 32
SALT_BYTES = 16
TAG_BYTES = 16
STAMP_BYTES = 1 + SALT_BYTES + 32
_NONCES = tuple(part.to_bytes(12, "big") for part in range(4))
_NUMBER = struct.Struct(">IQ")
_PERSON = b"tacit/2/seal"
_SALT_PREFIX = struct.pack(">I", SALT_BYTES)


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


class Place(NamedTuple):
    """Where a sealed value belongs: the store (16 bytes), the space (a table's name), the number within it."""

    store_id: bytes
    space: str
    number: int

    def context(self) -> bytes:
        """The bytes that a commitment binds besides key and salt."""
        return _start_of_context(self.store_id, self.space) + _NUMBER.pack(8, self.number)


@functools.lru_cache(maxsize=64)
def _start_of_context(store_id: bytes, space: str) -> bytes:
    return prefixed(MAGIC, struct.pack(">I", FORMAT), store_id, space.encode("ascii"))


class Lock(Secret):
    """What one stamp opens: the cipher key of one sealing. Made by :func:`open_stamp`."""

    __slots__ = ("_aead", "_space")

    def __init__(self, cipher_key: bytes, space: str) -> None:
        self._aead = AESGCM(cipher_key)
        self._space = space

    def open(self, part: int, name: str, sealed: object) -> bytes:
        """The plaintext of the part with this place and name. Raises ``TamperedError``."""
        return _decrypted(self._aead, _NONCES[part], sealed, name.encode("ascii"), self._space)

    def open_into(self, part: int, name: str, sealed: object, buffer: memoryview) -> None:
        """Open into ``buffer``, which must have the plaintext's size. On an error its content must not be used."""
        if not isinstance(sealed, bytes) or len(sealed) != len(buffer) + TAG_BYTES:
            raise tampered(self._space)
        try:
            self._aead.decrypt_into(_NONCES[part], sealed, name.encode("ascii"), buffer)
        except InvalidTag:
            raise tampered(self._space) from None


def seal(key: bytes, place: Place, parts: Mapping[str, bytes]) -> tuple[bytes, list[bytes]]:
    """A fresh stamp, and each of ``parts`` (name to plaintext, in order, at most four) sealed under it."""
    return _seal_with_salt(os.urandom(SALT_BYTES), key, place, parts)


def _seal_with_salt(salt: bytes, key: bytes, place: Place, parts: Mapping[str, bytes]) -> tuple[bytes, list[bytes]]:
    """The deterministic half of :func:`seal`, for test vectors only: a salt used twice breaks the cipher."""
    derived = _derive(key, salt, place.context())
    aead = AESGCM(derived[:32])
    sealed = [
        aead.encrypt(nonce, plaintext, name.encode("ascii"))
        for nonce, (name, plaintext) in zip(_NONCES, parts.items(), strict=False)
    ]
    if len(sealed) != len(parts):
        raise ValueError(f"Expected at most {len(_NONCES)} parts, got {len(parts)}.")
    return bytes((FORMAT,)) + salt + derived[32:], sealed


def open_stamp(key: bytes, place: Place, stamp: object) -> Lock:
    """The lock behind ``stamp``. Raises ``TamperedError`` unless it was made with this key for this place."""
    start = _start_of_context(place.store_id, place.space)
    return Lock(_cipher_key(key, start, place.number, stamp, place.space), place.space)


def open_each(
    store_id: bytes, space: str, part: int, name: str, rows: Iterable[tuple[bytes, int, object, object]]
) -> list[bytes]:
    """The plaintexts of one part of many rows (key, number, stamp, sealed part), as :func:`open_stamp` opens each.

    A store that unlocks opens up to a thousand. Raises ``TamperedError``.
    """
    start, nonce, bound = _start_of_context(store_id, space), _NONCES[part], name.encode("ascii")
    return [
        _decrypted(AESGCM(_cipher_key(key, start, number, stamp, space)), nonce, sealed, bound, space)
        for key, number, stamp, sealed in rows
    ]


def seal_one(key: bytes, place: Place, plaintext: bytes) -> bytes:
    """``plaintext`` sealed alone: stamp ‖ ciphertext ‖ tag."""
    stamp, (sealed,) = seal(key, place, {place.space: plaintext})
    return stamp + sealed


def open_one(key: bytes, place: Place, sealed: object) -> bytes:
    """The plaintext that :func:`seal_one` sealed. Raises ``TamperedError``."""
    if not isinstance(sealed, bytes):
        raise tampered(place.space)
    return open_stamp(key, place, sealed[:STAMP_BYTES]).open(0, place.space, sealed[STAMP_BYTES:])


def mark(stamp: bytes) -> bytes:
    """The 8 bytes of a stamp's salt by which a directory tells this sealing from any other of the same place."""
    return stamp[1:9]


def tampered(space: str) -> TamperedError:
    """The error for a sealed value of ``space`` that is not as it was sealed."""
    return TamperedError(f"A sealed {space} was changed since it was written: restore the store from a backup.")


def _cipher_key(key: bytes, start: bytes, number: int, stamp: object, space: str) -> bytes:
    """The cipher key behind ``stamp``; the place is given by the start of its context. Raises ``TamperedError``."""
    if not isinstance(stamp, bytes) or len(stamp) != STAMP_BYTES or stamp[0] != FORMAT:
        raise tampered(space)
    derived = _derive(key, stamp[1 : 1 + SALT_BYTES], start + _NUMBER.pack(8, number))
    if not hmac.compare_digest(derived[32:], stamp[1 + SALT_BYTES :]):
        raise tampered(space)
    return derived[:32]


def _decrypted(aead: AESGCM, nonce: bytes, sealed: object, bound: bytes, space: str) -> bytes:
    """What ``sealed`` holds, with ``bound`` as associated data. Raises ``TamperedError``."""
    if not isinstance(sealed, bytes) or len(sealed) < TAG_BYTES:
        raise tampered(space)
    try:
        return aead.decrypt(nonce, sealed, bound)
    except InvalidTag:
        raise tampered(space) from None


def _derive(key: bytes, salt: bytes, context: bytes) -> bytes:
    return hashlib.blake2b(_SALT_PREFIX + salt + context, key=key, person=_PERSON).digest()
