"""The header of a store: all that is needed to get from a passphrase or device key to its data key.

The data key is random and never changes; the header holds it wrapped under the key-encryption key, which
``stretch`` makes from what the user gives. Three checks tell three failures apart: an unkeyed digest over
the header (damage), a key check derived from the key-encryption key (wrong key), and the seal of the
wrapped key itself (forgery). A forger who also renews the digest can make a right key look wrong; no
header can prevent that, and nothing opens.

>>> header, data_key = make_header(DeviceKey(bytes(32)))
>>> header.data_key(DeviceKey(bytes(32))) == data_key
True
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from dataclasses import astuple, dataclass, replace

from store.crypto import FORMAT, KEY_BYTES, MAGIC, SealKey, hkdf, prefixed
from store.errors import TamperedError, UnknownFormatError, WrongKeyError
from store.keys import SALT_BYTES, Argon2, DeviceKey, Passphrase, Unlock, stretch

STORE_ID_BYTES = 16
_KINDS = {"passphrase": "a passphrase", "device-key": "a device key"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The row of the table ``header``; its fields are its columns, in their order."""

    format: int
    store_id: bytes
    unlock: str
    salt: bytes
    memory_kib: int
    passes: int
    lanes: int
    key_check: bytes
    wrapped_key: bytes
    digest: bytes

    def __post_init__(self) -> None:
        """Refuse what no version of this package wrote. Runs before any key is derived from the fields."""
        numbers = (self.format, self.memory_kib, self.passes, self.lanes)
        blobs = (self.store_id, self.salt, self.key_check, self.wrapped_key, self.digest)
        if not all(type(number) is int and 0 <= number < 2**32 for number in numbers):
            raise _damaged()
        if not all(isinstance(blob, bytes) for blob in blobs) or self.unlock not in _KINDS:
            raise _damaged()

    def check(self) -> None:
        """Raise unless the header is whole, of a known format, and asks for a bounded amount of work."""
        if self.digest != self._digest():
            raise _damaged()
        if self.format != FORMAT:
            raise UnknownFormatError(f"The store has format {self.format}, not {FORMAT}: install a newer Tacit.")
        if len(self.store_id) != STORE_ID_BYTES or len(self.salt) != SALT_BYTES:
            raise _damaged()
        self._cost()

    def data_key(self, unlock: Unlock) -> bytes:
        """The data key, unwrapped. Raises ``WrongKeyError`` or ``TamperedError``."""
        self.check()
        if self.unlock != _kind(unlock):
            raise WrongKeyError(
                f"The store opens with {_KINDS[self.unlock]}, not with {_KINDS[_kind(unlock)]}: give that one."
            )
        root = stretch(unlock, self.salt, self._cost())
        if not hmac.compare_digest(self.key_check, _key_check(root, self.store_id)):
            what = "passphrase" if isinstance(unlock, Passphrase) else "device key"
            raise WrongKeyError(f"This {what} does not open the store: check it and try again.")
        data_key = _wrap_key(root, self.store_id).open(self.wrapped_key, object_id=self._binding(), version=1)
        if len(data_key) != KEY_BYTES:
            raise _damaged()
        return data_key

    def columns(self) -> dict[str, object]:
        """The fields by name, for the row."""
        return dict(zip(self.__slots__, astuple(self), strict=True))

    def _cost(self) -> Argon2:
        return Argon2(memory_kib=self.memory_kib, passes=self.passes, lanes=self.lanes)

    def _binding(self) -> bytes:
        """What the wrapped key is bound to besides the store: every field that decides how it is unwrapped."""
        return prefixed(
            self.unlock.encode("ascii"),
            self.salt,
            struct.pack(">III", self.memory_kib, self.passes, self.lanes),
            self.key_check,
        )

    def _digest(self) -> bytes:
        parts = (MAGIC, struct.pack(">I", self.format), self.store_id, self._binding(), self.wrapped_key)
        return hashlib.sha256(prefixed(*parts)).digest()


def make_header(unlock: Unlock, cost: Argon2 | None = None) -> tuple[Header, bytes]:
    """A header for a new store that ``unlock`` opens, and the store's fresh data key."""
    data_key = os.urandom(KEY_BYTES)
    header = _make_header(unlock, cost or Argon2(), data_key, os.urandom(STORE_ID_BYTES), os.urandom(SALT_BYTES))
    return header, data_key


def _make_header(unlock: Unlock, cost: Argon2, data_key: bytes, store_id: bytes, salt: bytes) -> Header:
    root = stretch(unlock, salt, cost)
    # A device key is not stretched, so its costs read as the default and count for nothing.
    header = Header(
        format=FORMAT,
        store_id=store_id,
        unlock=_kind(unlock),
        salt=salt,
        memory_kib=cost.memory_kib,
        passes=cost.passes,
        lanes=cost.lanes,
        key_check=_key_check(root, store_id),
        wrapped_key=b"",
        digest=b"",
    )
    wrapped = _wrap_key(root, store_id).seal(data_key, object_id=header._binding(), version=1)
    header = replace(header, wrapped_key=wrapped)
    return replace(header, digest=header._digest())


def _kind(unlock: Unlock) -> str:
    if not isinstance(unlock, (Passphrase, DeviceKey)):
        raise TypeError(f"Expected a Passphrase or a DeviceKey, got {type(unlock).__name__}.")
    return "passphrase" if isinstance(unlock, Passphrase) else "device-key"


def _key_check(root: bytes, store_id: bytes) -> bytes:
    """Commits to the key-encryption key and shows nothing of it: a branch of HKDF used for nothing else."""
    return hkdf(root, "tacit/1/key-check", salt=store_id)


def _wrap_key(root: bytes, store_id: bytes) -> SealKey:
    return SealKey(hkdf(root, "tacit/1/wrap", salt=store_id), store_id=store_id, kind="key")


def _damaged() -> TamperedError:
    return TamperedError("The header of the store was changed since it was written: restore the store from a backup.")
