"""The manifest: which segments there are, and what is hidden or still to be punctured. Sealed, one row.

It is written when a segment is, and when a record that lies in a segment is replaced or forgotten: never by an add.

>>> manifest = Manifest().with_segment(SegmentRef(number=0, page=3, mark=bytes(8), live=1024, soonest=float("inf")))
>>> Manifest.from_bytes(manifest.to_bytes()) == manifest
True
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from store.errors import TamperedError
from store.format.head import SEGMENT_ROWS
from store.format.padding import pad, unpad
from store.format.parts import prefixed, split_parts
from store.format.ranges import NO_RANGES, Ranges
from store.format.segment_table import NO_SEGMENTS, SegmentRef, SegmentTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """``pending``: slots inside segments that are dead and whose keys are still to be punctured. ``superseded``: slots
    that a later record replaced and that stay as history. ``garbage``: replaced pages, still to be punctured.
    """

    segments: SegmentTable = NO_SEGMENTS
    pending: frozenset[int] = frozenset()
    superseded: frozenset[int] = frozenset()
    garbage: Ranges = NO_RANGES

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Manifest) and self.to_bytes() == other.to_bytes()

    __hash__ = None  # type: ignore[assignment]

    def with_segment(self, ref: SegmentRef) -> Manifest:
        """This manifest with ``ref`` in place of the segment of that number, whose page becomes garbage."""
        before = self.segments.get(ref.number)
        garbage = self.garbage if before is None else self.garbage.with_number(before.page)
        return replace(self, segments=self.segments.with_ref(ref), garbage=garbage)

    def without_segment(self, number: int) -> Manifest:
        """This manifest without a segment in which nothing lives."""
        garbage = self.garbage.with_number(self.segments[number].page)
        return replace(self, segments=self.segments.without(number), garbage=garbage)

    def pending_in(self, number: int) -> list[int]:
        """The pending slots of one segment."""
        return [slot for slot in self.pending if (slot - 1) // SEGMENT_ROWS == number]

    def to_bytes(self) -> bytes:
        """The plaintext of the table ``manifest``."""
        return pad(prefixed(self.segments.data, _slots(self.pending), _slots(self.superseded), self.garbage.to_bytes()))

    @classmethod
    def from_bytes(cls, padded: bytes) -> Manifest:
        """The manifest in ``padded``. Raises ``TamperedError``."""
        try:
            segments, pending, superseded, garbage = split_parts(unpad(padded), 4)
        except ValueError:
            raise _malformed() from None
        return cls(
            segments=SegmentTable(segments),
            pending=_read_slots(pending),
            superseded=_read_slots(superseded),
            garbage=Ranges.from_bytes(garbage),
        )


def _slots(slots: Iterable[int]) -> bytes:
    return np.array(sorted(slots), dtype=">u8").tobytes()


def _read_slots(data: bytes) -> frozenset[int]:
    if len(data) % 8:
        raise _malformed()
    return frozenset(np.frombuffer(data, dtype=">u8").tolist())


def _malformed() -> TamperedError:
    return TamperedError("The manifest opened but is not laid out as in format 2: restore the store from a backup.")
