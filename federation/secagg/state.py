"""What a device keeps between the messages of a round: one blob, sealed by the caller, erased with the round.

    version byte 1 ‖ stage (1) ‖ index (4) ‖ for each field its length (4) and its bytes

Secrets are in it: the seed until the input left, others' shares until they were given. ``RoundState`` prints as
``RoundState(***)`` and refuses pickling.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from federation.secagg.errors import StateError
from federation.secagg.keys import Secret

SHARE_PAIR_BYTES = 64
_VERSION = 1
_HEAD = struct.Struct("<BBI")
_LENGTH = struct.Struct("<I")
_HELD = struct.Struct(f"<I?{SHARE_PAIR_BYTES}s")
_FIELDS = (
    "announcement",
    "request",
    "reply",
    "seed",
    "cohort",
    "found",
    "peers",
    "choosers",
    "sharers",
    "held",
    "survivors",
)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False, eq=False)
class RoundState(Secret):
    """``stage`` is the last one answered (1 to 6), ``request`` the digest of the message, ``reply`` the answer."""

    stage: int
    index: int
    announcement: bytes
    request: bytes
    reply: bytes
    seed: bytes = b""
    cohort: bytes = b""
    found: bytes = b""
    peers: bytes = b""
    choosers: bytes = b""
    sharers: bytes = b""
    held: bytes = b""
    survivors: bytes = b""

    def to_bytes(self) -> bytes:
        """The blob."""
        values: list[bytes] = [getattr(self, name) for name in _FIELDS]
        return _HEAD.pack(_VERSION, self.stage, self.index) + b"".join(_LENGTH.pack(len(v)) + v for v in values)

    @classmethod
    def from_bytes(cls, blob: bytes) -> RoundState:
        """Raises ``StateError``. That nobody changed the blob is for the caller's seal to hold."""
        try:
            version, stage, index = _HEAD.unpack_from(blob)
            at, values = _HEAD.size, []
            for _ in _FIELDS:
                (length,) = _LENGTH.unpack_from(blob, at)
                at += _LENGTH.size + length
                values.append(blob[at - length : at])
        except struct.error:
            raise StateError("The stored state of a round is cut short: abandon the round.") from None
        if version != _VERSION or not 1 <= stage <= 6 or at != len(blob):
            raise StateError("The stored state of a round is damaged or of another version: abandon the round.")
        return cls(stage=stage, index=index, **dict(zip(_FIELDS, values, strict=True)))


def pack_positions(positions: tuple[int, ...]) -> bytes:
    """Four bytes each."""
    return struct.pack(f"<{len(positions)}I", *positions)


def unpack_positions(packed: bytes) -> tuple[int, ...]:
    """What :func:`pack_positions` packed."""
    return struct.unpack(f"<{len(packed) // 4}I", packed)


def pack_held(held: list[tuple[int, bytes | None]]) -> bytes:
    """(position, its two shares or none) for each."""
    empty = bytes(SHARE_PAIR_BYTES)
    return b"".join(_HELD.pack(position, pair is not None, pair or empty) for position, pair in held)


def unpack_held(packed: bytes) -> list[tuple[int, bytes | None]]:
    """What :func:`pack_held` packed."""
    return [(position, pair if there else None) for position, there, pair in _HELD.iter_unpack(packed)]
