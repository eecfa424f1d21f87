"""Bounded caches of opened vectors and of opened records, so that a warm search opens few rows. Counted as memory."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from store.format.records import Record, StoredRecord
from store.format.vectors import Vectors

Slots = npt.NDArray[np.int64]
Fetch = Callable[[Sequence[int]], Vectors]
FetchRecords = Callable[[Sequence[int]], Sequence[StoredRecord]]
_LARGEST = 32  # What takes more than this part of a cache of records is not kept.
_RECORD_BYTES = 600  # Of an opened record without the letters of its text and label.


class Derived(Protocol):
    """What a reader makes of a record, to be kept beside it; its bytes in memory never exceed ``size_bytes``."""

    @property
    def size_bytes(self) -> int:
        """Bytes in memory at most."""
        ...


Derive = Callable[[Sequence[Record]], Sequence[Derived]]
"""What a reader makes of each of some records, whatever it is that it looks for."""


class OpenedRecord(NamedTuple):
    """A record as it was opened, and what its reader derived from it, if anything."""

    stored: StoredRecord
    derived: Any
    size_bytes: int


class OpenedVectors:
    """Vectors by slot in one array of at most ``size_bytes``; the oldest place is taken over first."""

    def __init__(self, dimension: int, size_bytes: int) -> None:
        self.dimension = dimension
        self._most = size_bytes // (4 * dimension)
        self._table = np.zeros((0, dimension), dtype=np.float32)
        self._places: dict[int, int] = {}
        self._slots: Slots = np.zeros(0, dtype=np.int64)  # By place; -1 for one that was dropped or never taken.
        self._used = 0
        self._hand = 0

    @property
    def size_bytes(self) -> int:
        """Bytes in memory."""
        return self._table.nbytes + 16 * len(self._slots)

    @property
    def slots(self) -> Slots:
        """The slots (n,) whose vectors are kept."""
        return self._slots[self._slots >= 0]

    def get(self, slots: Sequence[int], fetch: Fetch) -> Vectors:
        """The vectors (n, d) in ``slots``; ``fetch`` opens those that are missing."""
        places = list(map(self._places.get, slots))
        if None not in places:
            return self._table.take(np.array(places, dtype=np.intp), axis=0)
        missing = [slot for slot, place in zip(slots, places, strict=True) if place is None]
        opened = fetch(missing)
        matrix = np.empty((len(slots), opened.shape[1]), dtype=np.float32)
        known = [at for at, place in enumerate(places) if place is not None]
        matrix[known] = self._table[[place for place in places if place is not None]]
        matrix[[at for at, place in enumerate(places) if place is None]] = opened
        self._keep(missing, opened)
        return matrix

    def drop(self, slots: Sequence[int]) -> None:
        """Overwrite these vectors with zeros."""
        for slot in slots:
            place = self._places.pop(slot, None)
            if place is not None:
                self._table[place] = 0
                self._slots[place] = -1

    def _keep(self, slots: Sequence[int], vectors: Vectors) -> None:
        for slot, vector in zip(slots[-self._most :] if self._most else (), vectors[-self._most :], strict=False):
            if self._used < self._most:
                place = self._used
                self._used += 1
                self._grow(self._used)
            else:
                place = self._hand
                self._hand = (self._hand + 1) % self._most
                self._places.pop(self._slots.item(place), None)
            self._slots[place] = slot
            self._places[slot] = place
            self._table[place] = vector

    def _grow(self, rows: int) -> None:
        if rows > len(self._table):
            size = min(self._most, max(256, 2 * len(self._table), rows))
            table = np.zeros((size, self._table.shape[1]), dtype=np.float32)
            table[: len(self._table)] = self._table
            slots = np.full(size, -1, dtype=np.int64)
            slots[: len(self._slots)] = self._slots
            self._table, self._slots = table, slots


class OpenedRecords:
    """Records by slot with what one reader derives from them, of at most ``size_bytes``; the oldest leaves first.

    A record that was read by who derives nothing is kept too.
    """

    def __init__(self, size_bytes: int) -> None:
        self._most = size_bytes
        self._kept: OrderedDict[int, OpenedRecord] = OrderedDict()
        self._derive: Derive | None = None
        self.size_bytes = 0

    @property
    def slots(self) -> Slots:
        """The slots (n,) whose records are kept."""
        return np.fromiter(self._kept, dtype=np.int64, count=len(self._kept))

    def get(self, slots: Sequence[int], fetch: FetchRecords, derive: Derive | None) -> list[OpenedRecord]:
        """The records in ``slots``, each with what ``derive`` makes of it; ``fetch`` opens those that are missing.

        Another ``derive`` than before finds nothing kept; none takes records as they are kept.
        """
        if derive is not None and derive != self._derive:
            if self._derive is not None:
                self.clear()
            self._derive = derive
        missing = [slot for slot in slots if slot not in self._kept]
        bare = [] if derive is None else [slot for slot in slots if self._is_bare(slot)]
        if not missing and not bare:
            return [self._kept[slot] for slot in slots]
        stored = [*(self._kept[slot].stored for slot in bare), *(fetch(missing) if missing else ())]
        derived = [None] * len(stored) if derive is None else derive([one.record for one in stored])
        opened = dict(zip([*bare, *missing], map(_sized, stored, derived), strict=True))
        found = [opened.get(slot) or self._kept[slot] for slot in slots]
        self.drop(bare)
        for slot, one in opened.items():
            self._keep(slot, one)
        return found

    def drop(self, slots: Sequence[int]) -> None:
        """Let go of these records and of what was derived from them."""
        for slot in slots:
            gone = self._kept.pop(slot, None)
            if gone is not None:
                self.size_bytes -= gone.size_bytes

    def clear(self) -> None:
        """Let go of all records."""
        self._kept.clear()
        self.size_bytes = 0

    def _is_bare(self, slot: int) -> bool:
        return slot in self._kept and self._kept[slot].derived is None

    def _keep(self, slot: int, opened: OpenedRecord) -> None:
        if opened.size_bytes > self._most // _LARGEST:
            return
        self._kept[slot] = opened
        self.size_bytes += opened.size_bytes
        while self.size_bytes > self._most:
            _, oldest = self._kept.popitem(last=False)
            self.size_bytes -= oldest.size_bytes


def _sized(stored: StoredRecord, derived: Derived | None) -> OpenedRecord:
    record = stored.record
    letters = sum(map(sys.getsizeof, (record.text, record.label, record.scope, record.purpose, record.source)))
    size_bytes = _RECORD_BYTES + letters + 36 * len(record.derived_from)
    return OpenedRecord(stored, derived, size_bytes + (0 if derived is None else derived.size_bytes))
