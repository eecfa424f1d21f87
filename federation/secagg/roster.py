"""The roster: which devices there are. Signed by the publisher, whose key the server does not have, and versioned.

>>> publisher, device = SigningKey(bytes(32)), SigningKey(b"1" * 32)
>>> signed = sign_roster(Roster(version=1, keys=(device.public,)), publisher)
>>> open_roster(signed, publisher=publisher.public).index(device.public)
0
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field

from federation.secagg.errors import PeerKeyError, RosterError, RosterRollbackError
from federation.secagg.keys import KEY_BYTES, SIGNATURE_BYTES, SigningKey, verify

MOST_KEYS = 1_000_000
_HEAD = struct.Struct("<BQI")
_VERSION = 1
_LABEL = b"tacit/secagg/1/roster\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """A version (from 1) and the Ed25519 keys (32 bytes each) of the devices; a device's place is its index."""

    version: int
    keys: tuple[bytes, ...]
    hash: bytes = field(init=False)

    def __post_init__(self) -> None:
        if type(self.version) is not int or not 1 <= self.version < 2**64:
            raise RosterError(f"Expected a roster version from 1 to 2^64 - 1, got {self.version}.")
        if not 1 <= len(self.keys) <= MOST_KEYS or any(len(key) != KEY_BYTES for key in self.keys):
            raise RosterError(f"Expected 1 to {MOST_KEYS:,} keys of {KEY_BYTES} bytes on a roster.")
        if len(set(self.keys)) != len(self.keys):
            raise RosterError("The roster names a key twice: get a sound one from the publisher.")
        object.__setattr__(self, "hash", hashlib.sha256(_LABEL + self.encode()).digest())

    def encode(self) -> bytes:
        """Version byte, version (8), number of keys (4), the keys."""
        return _HEAD.pack(_VERSION, self.version, len(self.keys)) + b"".join(self.keys)

    def index(self, key: bytes) -> int:
        """The index of the device with this key. Raises ``RosterError``."""
        try:
            return self.keys.index(key)
        except ValueError:
            raise RosterError("This device is not on the roster: have the publisher add it.") from None


def sign_roster(roster: Roster, publisher: SigningKey) -> bytes:
    """The roster as devices take it: its encoding, then the publisher's signature."""
    encoded = roster.encode()
    return encoded + publisher.sign(_LABEL + encoded)


def open_roster(signed: bytes, *, publisher: bytes, seen: int = 0) -> Roster:
    """The roster in ``signed``, if ``publisher`` (the pinned key, 32 bytes) signed it, no older than ``seen``.

    Raises ``RosterError``, and ``RosterRollbackError`` for an older one.
    """
    encoded, signature = signed[:-SIGNATURE_BYTES], signed[-SIGNATURE_BYTES:]
    try:
        verify(publisher, signature, _LABEL + encoded)
    except PeerKeyError:
        raise RosterError("The roster is not signed by the pinned publisher: refuse it.") from None
    roster = unsigned_roster(signed)
    if roster.version < seen:
        raise RosterRollbackError(
            f"The roster has version {roster.version}, this device has seen {seen}: refuse the older one."
        )
    return roster


def unsigned_roster(signed: bytes) -> Roster:
    """The roster in ``signed``, whoever signed it: for a server, which vouches for none. Raises ``RosterError``."""
    encoded = signed[:-SIGNATURE_BYTES]
    try:
        layout, version, count = _HEAD.unpack_from(encoded)
    except struct.error:
        raise RosterError("The roster is cut short: get it again.") from None
    if layout != _VERSION or len(encoded) != _HEAD.size + KEY_BYTES * count:
        raise RosterError("The roster is of another format or size: update this program, or get it again.")
    keys = tuple(encoded[at : at + KEY_BYTES] for at in range(_HEAD.size, len(encoded), KEY_BYTES))
    return Roster(version=version, keys=keys)
