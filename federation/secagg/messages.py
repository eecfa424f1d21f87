"""The messages of a round in their one canonical form. Sizes depend on public numbers only (a device's own, on the
cohort's; those of what it is told, on the graph too); anything else is refused.

>>> decode_bitmap(encode_bitmap((0, 2), 10), 10)
(0, 2)
>>> RevealMessage.decode(RevealMessage(index=3, revealed=bytes(16)).encode()).index
3

``PROTOCOL.md``, "Messages", lists them. Decoders raise ``WireError``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from federation.secagg.errors import WireError
from federation.secagg.masks import Words
from federation.secagg.parameters import Parameters
from federation.secagg.terms import VERSION

SEALED_BYTES = 1 + 64 + 16
COHORT, PEERS, FORWARDED, SURVIVORS, SIGNERS = 2, 3, 4, 5, 6
ADVERT, REVEAL, SHARES, INPUT, AGREEMENT, UNMASK = 17, 18, 19, 20, 21, 22
NOTHING, OF_SELF, OF_MASK_KEY = 0, 1, 2
_ADVERT = struct.Struct("<BBI32s32s32s64s")
_REVEAL = struct.Struct("<BBI16s")
_PEER = struct.Struct("<I32s32s16s64s")
_FORWARDED = struct.Struct(f"<I{SEALED_BYTES}s")
_OPENED = struct.Struct("<B32s")
_HEAD_BYTES = 2


def encode_bitmap(places: Iterable[int], size: int) -> bytes:
    """⌈size/8⌉ bytes with the bits of ``places`` set, the first bit lowest."""
    bits = np.zeros(size, dtype=np.uint8)
    bits[list(places)] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def decode_bitmap(encoded: bytes, size: int) -> tuple[int, ...]:
    """The places set in ``encoded``, ascending. Raises ``WireError`` for another size or bits beyond the end."""
    if len(encoded) != (size + 7) // 8:
        raise WireError(f"Expected a bitmap of {(size + 7) // 8} bytes, got {len(encoded)}: refuse it.")
    bits = np.unpackbits(np.frombuffer(encoded, dtype=np.uint8), bitorder="little")
    if bits[size:].any():
        raise WireError("A bitmap has bits beyond its end: refuse it.")
    return tuple(int(place) for place in np.flatnonzero(bits))


def body(message: bytes, kind: int, size: int) -> bytes:
    """What follows version and kind. Raises ``WireError`` unless it has ``size`` bytes."""
    if not isinstance(message, bytes) or len(message) != _HEAD_BYTES + size or message[:2] != bytes((VERSION, kind)):
        raise WireError(
            f"Expected a message of kind {kind}, version {VERSION} and {_HEAD_BYTES + size} bytes: refuse it."
        )
    return message[_HEAD_BYTES:]


def framed(kind: int, *parts: bytes) -> bytes:
    """``parts`` with version and kind before them."""
    return bytes((VERSION, kind)) + b"".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvertMessage:
    """Keys of one device for one round, and what it commits to, signed by its roster key."""

    index: int
    share_key: bytes
    mask_key: bytes
    commitment: bytes
    signature: bytes

    def encode(self) -> bytes:
        """166 bytes."""
        rest = (self.index, self.share_key, self.mask_key, self.commitment, self.signature)
        return _ADVERT.pack(VERSION, ADVERT, *rest)

    @classmethod
    def decode(cls, message: bytes) -> AdvertMessage:
        """Raises ``WireError``."""
        body(message, ADVERT, _ADVERT.size - _HEAD_BYTES)
        _, _, index, share_key, mask_key, committed, signature = _ADVERT.unpack(message)
        return cls(index=index, share_key=share_key, mask_key=mask_key, commitment=committed, signature=signature)


@dataclass(frozen=True, slots=True, kw_only=True)
class RevealMessage:
    """What a device had committed to."""

    index: int
    revealed: bytes

    def encode(self) -> bytes:
        """22 bytes."""
        return _REVEAL.pack(VERSION, REVEAL, self.index, self.revealed)

    @classmethod
    def decode(cls, message: bytes) -> RevealMessage:
        """Raises ``WireError``."""
        body(message, REVEAL, _REVEAL.size - _HEAD_BYTES)
        _, _, index, revealed = _REVEAL.unpack(message)
        return cls(index=index, revealed=revealed)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRecord:
    """A neighbour as the server passes it on: position, advert (its commitment follows from r), r."""

    position: int
    share_key: bytes
    mask_key: bytes
    revealed: bytes
    signature: bytes


def encode_peers(peers: Sequence[PeerRecord]) -> bytes:
    """The neighbours of one device, ascending by position."""
    return framed(PEERS, *(_PEER.pack(p.position, p.share_key, p.mask_key, p.revealed, p.signature) for p in peers))


def decode_peers(message: bytes, found: Parameters) -> tuple[PeerRecord, ...]:
    """Raises ``WireError``."""
    rows = _rows(message, PEERS, 0, _PEER.size, found.neighbours + found.extra)
    return tuple(
        PeerRecord(position=at, share_key=share_key, mask_key=mask_key, revealed=revealed, signature=signature)
        for at, share_key, mask_key, revealed, signature in _ascending(_PEER.iter_unpack(rows), found.devices)
    )


def encode_shares(sealed: Sequence[bytes]) -> bytes:
    """The sealed shares for the neighbours that a device chose, ascending by position; zeros for those missing."""
    return framed(SHARES, *sealed)


def decode_shares(message: bytes, found: Parameters) -> tuple[bytes, ...]:
    """Raises ``WireError``."""
    rest = body(message, SHARES, SEALED_BYTES * found.neighbours)
    return tuple(rest[at : at + SEALED_BYTES] for at in range(0, len(rest), SEALED_BYTES))


def encode_forwarded(sharers: bytes, sealed: Sequence[tuple[int, bytes]]) -> bytes:
    """The sharers (a bitmap), and the shares sent to one device: (sender's position, sealed), ascending."""
    return framed(FORWARDED, sharers, *(_FORWARDED.pack(position, share) for position, share in sealed))


def decode_forwarded(message: bytes, found: Parameters) -> tuple[bytes, tuple[tuple[int, bytes], ...]]:
    """The bitmap of the sharers, and (sender's position, sealed share) for each that came. Raises ``WireError``."""
    bitmap = (found.devices + 7) // 8
    rows = _rows(message, FORWARDED, bitmap, _FORWARDED.size, found.choosers)
    return message[_HEAD_BYTES : _HEAD_BYTES + bitmap], tuple(_ascending(_FORWARDED.iter_unpack(rows), found.devices))


def encode_input(masked: Words, committed: bytes, signature: bytes) -> bytes:
    """The masked vector (d,) as uint32, the commitment to b (32), the signature of H2 (64)."""
    return framed(INPUT, masked.astype("<u4", copy=False).tobytes(), committed, signature)


def decode_input(message: bytes, dimension: int) -> tuple[Words, bytes, bytes]:
    """The masked vector, the commitment and the signature. Raises ``WireError``."""
    rest, end = body(message, INPUT, 4 * dimension + 32 + 64), 4 * dimension
    masked = np.frombuffer(rest, dtype="<u4", count=dimension).astype(np.uint32, copy=False)
    return masked, rest[end : end + 32], rest[end + 32 :]


def encode_signers(signers: bytes, signatures: Sequence[bytes], inputs: Sequence[bytes]) -> bytes:
    """Who signed H3 (a bitmap over the cohort) and their signatures, ascending by position; then, for one device, those
    of H2 that came with the inputs of the survivors that chose it and are not among the signers, ascending too."""
    return framed(SIGNERS, signers, *signatures, *inputs)


def decode_signers(message: bytes, found: Parameters) -> tuple[bytes, tuple[bytes, ...], tuple[bytes, ...]]:
    """Who signed, their signatures of H3, and those of H2. Raises ``WireError``."""
    bitmap = (found.devices + 7) // 8
    rest = _rows(message, SIGNERS, bitmap, 64, found.quorum + found.choosers)
    if len(rest) < 64 * found.quorum:
        raise WireError(f"Expected {found.quorum} signatures or more, got {len(rest) // 64}: refuse the message.")
    signatures = tuple(rest[at : at + 64] for at in range(0, len(rest), 64))
    return message[_HEAD_BYTES : _HEAD_BYTES + bitmap], signatures[: found.quorum], signatures[found.quorum :]


def encode_unmask(opened: Sequence[tuple[int, bytes]], found: Parameters) -> bytes:
    """One (kind, share) for each sharer that chose the device, ascending by position; zeros after them."""
    rows = [_OPENED.pack(kind, share) for kind, share in opened]
    return framed(UNMASK, *rows, bytes(_OPENED.size * (found.choosers - len(rows))))


def decode_unmask(message: bytes, found: Parameters) -> tuple[tuple[int, bytes], ...]:
    """All places, the empty ones of kind 0. Raises ``WireError``."""
    rows = tuple(_OPENED.iter_unpack(body(message, UNMASK, _OPENED.size * found.choosers)))
    if any(kind not in (NOTHING, OF_SELF, OF_MASK_KEY) for kind, _ in rows):
        raise WireError("A share is of a kind that does not exist: refuse the message.")
    return rows


def sizes(
    found: Parameters,
    *,
    roster: int,
    dimension: int,
    peers: int | None = None,
    held: int | None = None,
    unsigned: int | None = None,
) -> dict[str, tuple[int, int]]:
    """Bytes (to the device, from the device) of each stage, without the announcement's own transport.

    For a device that was shown ``peers`` and holds shares of ``held``, of which ``unsigned`` survived and are not among
    the signers that it is told of; the most that may be, unless given.
    """
    bitmap = (found.devices + 7) // 8
    peers = found.neighbours + found.extra if peers is None else peers
    held = found.choosers if held is None else held
    unsigned = found.choosers if unsigned is None else unsigned
    return {
        "advert": (92, _ADVERT.size),
        "reveal": (2 + (roster + 7) // 8, _REVEAL.size),
        "shares": (2 + _PEER.size * peers, 2 + SEALED_BYTES * found.neighbours),
        "input": (2 + bitmap + _FORWARDED.size * held, 2 + 4 * dimension + 32 + 64),
        "agree": (2 + bitmap, 2 + 64),
        "unmask": (2 + bitmap + 64 * (found.quorum + unsigned), 2 + _OPENED.size * found.choosers),
    }


def _rows(message: bytes, kind: int, head: int, size: int, most: int) -> bytes:
    """What follows version, kind and ``head`` bytes: at most ``most`` rows of ``size``. Raises ``WireError``."""
    count = max(0, len(message) - _HEAD_BYTES - head) // size if isinstance(message, bytes) else 0
    rest = body(message, kind, head + size * count)
    if count > most:
        raise WireError(f"A message of kind {kind} has {count} rows, at most {most} may be: refuse it.")
    return rest[head:]


def _ascending(rows: Iterable[tuple[Any, ...]], devices: int) -> list[tuple[Any, ...]]:
    """The rows. Raises ``WireError`` unless their positions ascend and are of the cohort."""
    rows = list(rows)
    places = [row[0] for row in rows]
    if any(after <= before for before, after in pairwise(places)) or max(places, default=0) >= devices:
        raise WireError("A list is out of order, repeats a place or has one beyond the cohort: refuse the message.")
    return rows
