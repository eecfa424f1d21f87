"""Which segments there are, in one array: a million records' worth is written, compared and read at once.

A row has 35 bytes, big-endian: number (8), page (8), mark (8), live (2), soonest as float64 (8), linked (1). Rows
ascend by number.

>>> ref = SegmentRef(number=3, page=9, mark=b"markmark", live=1024, soonest=float("inf"), linked=False)
>>> table = NO_SEGMENTS.with_ref(ref)
>>> len(table.data), table[3] == ref, 4 in table
(35, True, False)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from store.errors import TamperedError
from store.format.head import SEGMENT_ROWS

_REF = struct.Struct(">QQ8sHd?")
_ROW = np.dtype(
    [("number", ">u8"), ("page", ">u8"), ("mark", ">u8"), ("live", ">u2"), ("soonest", ">f8"), ("linked", "?")]
)


def slots_of(number: int, offsets: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
    """The slots (n,) that are so far (n,) from the first of segment ``number``."""
    slots: npt.NDArray[np.int64] = offsets.astype(np.int64)
    slots += number * SEGMENT_ROWS + 1
    return slots


class SegmentRef(NamedTuple):
    """Segment ``number`` holds the slots from 1,024·number + 1 on: sealed as ``page`` with ``mark``.

    ``live``: records in it. ``soonest``: the first time (Unix seconds) at which one of them expires, or infinity.
    ``linked``: whether one of them supersedes another or was derived from others.
    """

    number: int
    page: int
    mark: bytes
    live: int
    soonest: float
    linked: bool = False

    @property
    def identity(self) -> tuple[int, bytes]:
        """What tells this sealing of the segment from any other."""
        return self.page, self.mark

    def slots(self, offsets: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
        """The slots (n,) that are so far (n,) from its first."""
        return slots_of(self.number, offsets)


class SegmentTable(Mapping[int, SegmentRef]):
    """Segments by number, ascending; never changed, but replaced. ``data`` holds the rows as they are sealed."""

    __slots__ = ("_made", "_rows", "data")

    def __init__(self, data: bytes) -> None:
        """The table in ``data``. Raises ``TamperedError`` unless its rows ascend and say what segments can have."""
        try:
            self._rows = np.frombuffer(data, dtype=_ROW)
        except ValueError:
            raise _malformed() from None
        self.data = data
        self._made: dict[int, SegmentRef] = {}
        numbers, live = self._rows["number"], self._rows["live"]
        if (numbers[1:] <= numbers[:-1]).any() or ((live < 1) | (live > SEGMENT_ROWS)).any():
            raise _malformed()
        if np.isnan(self._rows["soonest"]).any():
            raise _malformed()

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows["number"].tolist())

    def __getitem__(self, number: int) -> SegmentRef:
        ref = self._made.get(number)
        if ref is None:
            at = self._place(number)
            if at == len(self._rows) or self._rows["number"][at] != number:
                raise KeyError(number)
            ref = self._made[number] = self._ref(at)
        return ref

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SegmentTable) and self.data == other.data

    def __hash__(self) -> int:
        return hash(self.data)

    def with_ref(self, ref: SegmentRef) -> SegmentTable:
        """This table with ``ref`` in place of the segment of that number, if there is one."""
        at = self._place(ref.number)
        return SegmentTable(self._before(at) + _REF.pack(*ref) + self._after(at + (ref.number in self)))

    def without(self, number: int) -> SegmentTable:
        """This table without a segment that is in it."""
        at = self._place(number)
        return SegmentTable(self._before(at) + self._after(at + 1))

    def soonest(self) -> float:
        """The first time at which any record expires, or infinity."""
        return float(self._rows["soonest"].min(initial=np.inf))

    def expiring(self, now: float) -> list[SegmentRef]:
        """The segments that hold a record whose time is over at ``now``."""
        return self._refs(self._rows["soonest"] <= now)

    def linked(self) -> list[SegmentRef]:
        """The segments that hold a record which supersedes another or was derived from others."""
        return self._refs(self._rows["linked"])

    def changes_since(self, earlier: SegmentTable) -> tuple[list[int], list[SegmentRef]]:
        """Numbers of ``earlier`` whose segments are gone or sealed anew, and the segments that are new or anew here."""
        if self.data == earlier.data:
            return [], []
        ours, theirs = self._rows, earlier._rows
        same = np.zeros(len(ours), dtype=np.bool_)
        kept = np.zeros(len(theirs), dtype=np.bool_)
        if len(theirs):
            at = np.minimum(np.searchsorted(theirs["number"], ours["number"]), len(theirs) - 1)
            same = np.logical_and.reduce([theirs[name][at] == ours[name] for name in ("number", "page", "mark")])
            kept[at[same]] = True
        return theirs["number"][~kept].tolist(), self._refs(~same)

    def _refs(self, chosen: npt.NDArray[np.bool_]) -> list[SegmentRef]:
        if chosen.all():
            return list(map(SegmentRef._make, _REF.iter_unpack(self.data)))
        return [self._ref(at) for at in np.flatnonzero(chosen).tolist()]

    def _ref(self, at: int) -> SegmentRef:
        return SegmentRef._make(_REF.unpack_from(self.data, at * _REF.size))

    def _place(self, number: int) -> int:
        return int(self._rows["number"].searchsorted(np.uint64(number)))

    def _before(self, at: int) -> bytes:
        return self.data[: at * _REF.size]

    def _after(self, at: int) -> bytes:
        return self.data[at * _REF.size :]


NO_SEGMENTS = SegmentTable(b"")


def _malformed() -> TamperedError:
    return TamperedError("A list of segments is not laid out as in format 2: restore the store from a backup.")
