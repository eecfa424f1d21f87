"""Key slots: what the owner holds (passphrase, device key, recovery key, key in a keychain) wraps the store key.

A slot wraps the 32-byte store key and nothing else, so that one is added, changed or removed without touching data.
Three checks tell three failures apart: an unkeyed digest over the row (damage), a key check derived from the
key-encryption key (wrong key), and the seal of the wrapped key (forgery). A forger who also renews the digest can make
a right key look wrong; no header can prevent that, and nothing opens.

>>> from store.keys.unlock import DeviceKey
>>> slot = make_slot(1, DeviceKey(bytes(32)), store_key=bytes(range(32)), store_id=bytes(16))
>>> slot.open(DeviceKey(bytes(32)), bytes(16)) == bytes(range(32))
True
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

from store.disk.database import Database
from store.errors import SlotError, TamperedError, WrongKeyError
from store.format.parts import prefixed
from store.keys.crypto import KEY_BYTES, MAGIC, Place, hkdf, open_one, seal_one
from store.keys.unlock import SLOT_SALT_BYTES, Argon2, Unlock, kind_of, stretch

MAX_SLOTS = 8
_NAMES = {
    "passphrase": "a passphrase",
    "device-key": "a device key",
    "recovery-key": "a recovery key",
    "keychain": "a key in the keychain",
}
_COLUMNS = "number, kind, salt, memory_kib, passes, lanes, key_check, wrapped, digest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A row of the table ``slot``; its fields are its columns, in their order."""

    number: int
    kind: str
    salt: bytes
    memory_kib: int
    passes: int
    lanes: int
    key_check: bytes
    wrapped: bytes
    digest: bytes

    def __post_init__(self) -> None:
        """Refuse what no version of this package wrote. Runs before any key is derived from the fields."""
        numbers = (self.number, self.memory_kib, self.passes, self.lanes)
        blobs = (self.salt, self.key_check, self.wrapped, self.digest)
        if not all(type(number) is int and 0 <= number < 2**32 for number in numbers):
            raise _damaged()
        if not all(isinstance(blob, bytes) for blob in blobs) or self.kind not in _NAMES:
            raise _damaged()
        if self.digest and (len(self.salt) != SLOT_SALT_BYTES or self.digest != self._digest()):
            raise _damaged()

    def key_encryption_key(self, unlock: Unlock, store_id: bytes) -> bytes | None:
        """The key that ``unlock`` stands for in this slot, or ``None`` if it is not this slot's."""
        if self.kind != kind_of(unlock):
            return None
        cost = Argon2(memory_kib=self.memory_kib, passes=self.passes, lanes=self.lanes)
        kek = stretch(unlock, self.salt, cost)
        return kek if self.belongs_to(kek, store_id) else None

    def belongs_to(self, kek: bytes, store_id: bytes) -> bool:
        """Whether ``kek`` is this slot's key-encryption key."""
        return hmac.compare_digest(self.key_check, _key_check(kek, store_id))

    def unwrap(self, kek: bytes, store_id: bytes) -> bytes:
        """The store key. Raises ``TamperedError``."""
        store_key = open_one(_wrap_key(kek, store_id, self._binding()), self._place(store_id), self.wrapped)
        if len(store_key) != KEY_BYTES:
            raise _damaged()
        return store_key

    def open(self, unlock: Unlock, store_id: bytes) -> bytes | None:
        """The store key, or ``None`` if ``unlock`` is not this slot's. Raises ``TamperedError``."""
        kek = self.key_encryption_key(unlock, store_id)
        return None if kek is None else self.unwrap(kek, store_id)

    def rewrapped(self, kek: bytes, store_key: bytes, store_id: bytes) -> Slot:
        """This slot with another store key inside."""
        key = _wrap_key(kek, store_id, self._binding())
        bare = replace(self, wrapped=seal_one(key, self._place(store_id), store_key), digest=b"")
        return replace(bare, digest=bare._digest())

    def _place(self, store_id: bytes) -> Place:
        return Place(store_id, "slot", self.number)

    def _binding(self) -> bytes:
        """What the wrapped key is bound to besides its place: every field that decides how it is unwrapped."""
        cost = struct.pack(">III", self.memory_kib, self.passes, self.lanes)
        return prefixed(self.kind.encode("ascii"), self.salt, cost, self.key_check)

    def _digest(self) -> bytes:
        parts = (MAGIC, struct.pack(">I", self.number), self._binding(), self.wrapped)
        return hashlib.sha256(prefixed(*parts)).digest()


def make_slot(number: int, unlock: Unlock, *, store_key: bytes, store_id: bytes, cost: Argon2 | None = None) -> Slot:
    """A slot in which ``unlock`` wraps ``store_key``."""
    return make_slot_with_key(number, unlock, store_key=store_key, store_id=store_id, cost=cost)[0]


def make_slot_with_key(
    number: int, unlock: Unlock, *, store_key: bytes, store_id: bytes, cost: Argon2 | None = None
) -> tuple[Slot, bytes]:
    """A slot as :func:`make_slot` makes it, and its key-encryption key, which the store keeps sealed."""
    cost, salt = cost or Argon2(), os.urandom(SLOT_SALT_BYTES)
    kek = stretch(unlock, salt, cost)
    # Only a passphrase is stretched; for the other kinds the costs count for nothing.
    blank = Slot(
        number=number,
        kind=kind_of(unlock),
        salt=salt,
        memory_kib=cost.memory_kib,
        passes=cost.passes,
        lanes=cost.lanes,
        key_check=_key_check(kek, store_id),
        wrapped=b"",
        digest=b"",
    )
    return blank.rewrapped(kek, store_key, store_id), kek


def read_slots(database: Database) -> list[Slot]:
    """All slots by number. Raises ``TamperedError``."""
    rows = database.rows(f"SELECT {_COLUMNS} FROM slot ORDER BY number")
    if not 1 <= len(rows) <= MAX_SLOTS or any(len(row[-1]) != 32 for row in rows if isinstance(row[-1], bytes)):
        raise _damaged()
    return [Slot(**dict(zip(Slot.__slots__, row, strict=True))) for row in rows]


def write_slots(database: Database, slots: Sequence[Slot]) -> None:
    """Store ``slots`` in place of all earlier ones; call inside a transaction. Raises ``SlotError``."""
    if len(slots) > MAX_SLOTS:
        raise SlotError(f"A store has at most {MAX_SLOTS} key slots: remove one first.")
    database.run("DELETE FROM slot")
    marks = ", ".join("?" * len(Slot.__slots__))
    database.run_many(f"INSERT INTO slot ({_COLUMNS}) VALUES ({marks})", [astuple(slot) for slot in slots])


def find_slot(slots: Sequence[Slot], unlock: Unlock, store_id: bytes) -> tuple[int, bytes]:
    """The number of the slot that ``unlock`` opens, and its key-encryption key. Raises ``WrongKeyError``."""
    kind = kind_of(unlock)
    fitting = [slot for slot in slots if slot.kind == kind]
    if not fitting:
        known = " or ".join(dict.fromkeys(_NAMES[slot.kind] for slot in slots))
        raise WrongKeyError(f"The store opens with {known}, not with {_NAMES[kind]}: give that one.")
    for slot in fitting:
        kek = slot.key_encryption_key(unlock, store_id)
        if kek is not None:
            return slot.number, kek
    what = _NAMES[kind].removeprefix("a ")
    raise WrongKeyError(f"This {what} does not open the store: check it and try again.")


def _key_check(kek: bytes, store_id: bytes) -> bytes:
    """Commits to the key-encryption key and shows nothing of it: a branch of HKDF used for nothing else."""
    return hkdf(kek, "tacit/2/key-check", salt=store_id)


def _wrap_key(kek: bytes, store_id: bytes, binding: bytes) -> bytes:
    """The key that seals the store key: the row's fields go into it, so that none can be changed."""
    return hkdf(kek, "tacit/2/wrap", salt=store_id + hashlib.sha256(binding).digest())


def _damaged() -> TamperedError:
    return TamperedError("A key slot of the store was changed since it was written: restore the store from a backup.")
