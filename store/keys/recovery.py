"""The recovery key: 32 random bytes that are written down on paper and typed in again.

Its text has 60 characters of Crockford's base32 (no I, L, O, U), in 12 groups of 5:

    "T" ‖ base32(key (256 bits) ‖ the first 39 bits of SHA-256("tacit/2/recovery-key" ‖ key))

Reading it forgives upper and lower case, spaces, dashes, and the look-alikes O for 0 and I or L for 1. Any other slip
is found by the checksum, but for one in 2^39.

>>> RecoveryKey.from_text("  " + RecoveryKey.generate().text().lower().replace("0", "O").replace("1", "l"))
RecoveryKey(***)
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import unicodedata

from store.keys.crypto import KEY_BYTES, Secret

TEXT_CHARACTERS = 60
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES = {character: value for value, character in enumerate(_ALPHABET)} | {"O": 0, "I": 1, "L": 1}
_VERSION = "T"
_GROUP = 5
_CHECK_BITS = 39
_LONGEST = 1024


class RecoveryKey(Secret):
    """A random key of exactly 32 bytes with a text form for paper. Opens a slot of a store, or an archive."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if not isinstance(key, bytes) or len(key) != KEY_BYTES:
            size = f"{len(key)}" if isinstance(key, bytes) else type(key).__name__
            raise ValueError(f"Expected a recovery key of {KEY_BYTES} bytes, got {size}: use RecoveryKey.generate().")
        self._key = key

    @classmethod
    def generate(cls) -> RecoveryKey:
        """A fresh key from the operating system's random source."""
        return cls(secrets.token_bytes(KEY_BYTES))

    def text(self) -> str:
        """The key for printing: 12 groups of 5 characters, with dashes between them."""
        number = int.from_bytes(self._key, "big") << _CHECK_BITS | _checksum(self._key)
        digits = [_ALPHABET[number >> 5 * place & 31] for place in range(TEXT_CHARACTERS - 2, -1, -1)]
        whole = _VERSION + "".join(digits)
        return "-".join(whole[at : at + _GROUP] for at in range(0, TEXT_CHARACTERS, _GROUP))

    @classmethod
    def from_text(cls, text: str) -> RecoveryKey:
        """The key that :meth:`text` printed. Raises ``ValueError`` for a mistyped one, and does not quote it."""
        if not isinstance(text, str):
            raise TypeError(f"Expected the recovery key as text, got {type(text).__name__}.")
        whole = _plain(text[:_LONGEST])
        if len(whole) != TEXT_CHARACTERS:
            raise ValueError(f"A recovery key has {TEXT_CHARACTERS} characters, this has {len(whole)}: type it again.")
        if whole[0] != _VERSION:
            raise ValueError(f"A recovery key begins with {_VERSION}, this does not: check what you copied.")
        number = 0
        for place, character in enumerate(whole[1:], 1):
            if character not in _VALUES:
                group = place // _GROUP + 1
                raise ValueError(f"Group {group} of the recovery key has a character that no key has: type it again.")
            number = number << 5 | _VALUES[character]
        key = (number >> _CHECK_BITS).to_bytes(KEY_BYTES, "big")
        given = number & (1 << _CHECK_BITS) - 1
        if not hmac.compare_digest(given.to_bytes(5, "big"), _checksum(key).to_bytes(5, "big")):
            raise ValueError("The recovery key is mistyped, its checksum does not fit: compare it with what you noted.")
        return cls(key)


def _plain(text: str) -> str:
    """``text`` in upper case, without spaces and dashes of any script."""
    folded = unicodedata.normalize("NFKC", text).upper()
    return "".join(c for c in folded if unicodedata.category(c) not in ("Pd", "Zs", "Cc", "Cf") and c not in "−_")


def _checksum(key: bytes) -> int:
    digest = hashlib.sha256(b"tacit/2/recovery-key" + key).digest()
    return int.from_bytes(digest[:5], "big") >> 40 - _CHECK_BITS
