"""A cohort as device and server both see it: who is in it, in what order, and what follows from its size."""

from __future__ import annotations

from collections.abc import Iterable

from federation.secagg.binding import next_hash, round_hash
from federation.secagg.errors import SurvivorError
from federation.secagg.graph import arcs
from federation.secagg.messages import decode_bitmap, encode_bitmap
from federation.secagg.parameters import Parameters
from federation.secagg.roster import Roster
from federation.secagg.terms import Announcement


class Cohort:
    """The cohort with this bitmap over the roster; ``found`` if it was derived before.

    Raises ``WireError`` and ``ParameterError``.
    """

    __slots__ = ("_places", "bitmap", "found", "h0", "h1", "indices", "keys")

    def __init__(
        self, announcement: Announcement, roster: Roster, bitmap: bytes, found: Parameters | None = None
    ) -> None:
        self.bitmap = bitmap
        self.indices: tuple[int, ...] = decode_bitmap(bitmap, len(roster.keys))
        self.found = found or announcement.terms.derive(len(self.indices))
        self.keys = tuple(roster.keys[index] for index in self.indices)
        self.h0 = round_hash(announcement)
        self.h1 = next_hash("cohort", self.h0, bitmap)
        self._places = {index: place for place, index in enumerate(self.indices)}

    def position(self, index: int) -> int:
        """The position of the device with this index. Raises ``SurvivorError``."""
        try:
            return self._places[index]
        except KeyError:
            raise SurvivorError("This device is not in the cohort that the server names: refuse the round.") from None

    def arcs(self, position: int, revealed: bytes) -> tuple[int, ...]:
        """The positions that the device at ``position`` chose."""
        size, k = self.found.devices, self.found.neighbours
        return arcs(self.h1, position=position, revealed=revealed, devices=size, neighbours=k)

    def encode(self, positions: Iterable[int]) -> bytes:
        """A bitmap over the cohort."""
        return encode_bitmap(positions, self.found.devices)

    def decode(self, bitmap: bytes) -> tuple[int, ...]:
        """The positions in a bitmap over the cohort. Raises ``WireError``."""
        return decode_bitmap(bitmap, self.found.devices)

    def h2(self, sharers: bytes) -> bytes:
        """H2 for this bitmap of sharers."""
        return next_hash("sharers", self.h1, sharers)

    def h3(self, sharers: bytes, survivors: bytes) -> bytes:
        """H3 for these bitmaps."""
        return next_hash("survivors", self.h2(sharers), survivors)
