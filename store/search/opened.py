"""A bounded cache of opened vectors, so that a warm search opens few rows. Counted as memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from store.format.vectors import Vectors

Slots = npt.NDArray[np.int64]
Fetch = Callable[[Sequence[int]], Vectors]


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
