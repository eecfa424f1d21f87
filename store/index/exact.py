"""Exact search over vectors by inner product, in memory, with FAISS; for stores small enough to hold them all.

FAISS (Douze et al. 2024, https://arxiv.org/abs/2401.08281) runs on one thread a query, which under load is many times
faster than several. A vector is taken out by moving the last one into its place.

>>> index = ExactIndex(2)
>>> index.extend(np.array([7, 9]), np.array([[1, 0], [0, 1]], dtype=np.float32))
>>> [part[:1].tolist() for part in index.search(np.array([0.5, 1], dtype=np.float32), 1)]
[[9], [1.0]]
>>> index.vectors(np.array([9])).tolist()
[[0.0, 1.0]]
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from store.format.vectors import Vectors

if TYPE_CHECKING:
    import faiss

Slots = npt.NDArray[np.int64]


class ExactIndex:
    """The vectors of rows by slot. Not safe for several threads."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._faiss = _flat_index(dimension)
        self._slots: list[int] = []
        self._places: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def size_bytes(self) -> int:
        """Bytes of the vectors in memory, and of their slots."""
        return len(self) * (4 * self.dimension + 8)

    def extend(self, slots: Slots, vectors: Vectors) -> None:
        """Add the rows of ``vectors`` (n, d) under ``slots`` (n,), which are new."""
        if len(slots):
            self._faiss.add(np.ascontiguousarray(vectors))
            start = len(self._slots)
            self._slots += slots.tolist()
            self._places.update((slot, start + at) for at, slot in enumerate(slots.tolist()))

    def vectors(self, slots: Slots) -> Vectors:
        """The vectors (n, d) of ``slots`` (n,), all of which must be here."""
        places = np.array([self._places[slot] for slot in slots.tolist()], dtype=np.intp)
        return self._table().take(places, axis=0)

    def _table(self) -> Vectors:
        """The vectors (len(self), d) as they lie in FAISS."""
        import faiss

        table: Vectors = faiss.rev_swig_ptr(self._faiss.get_xb(), len(self) * self.dimension)
        return table.reshape(-1, self.dimension)

    def remove(self, slots: Iterable[int]) -> None:
        """Take these rows out; unknown ones are passed over."""
        for slot in slots:
            place = self._places.pop(slot, None)
            if place is None:
                continue
            last = len(self._slots) - 1
            table = self._table()
            if place != last:
                table[place] = table[last]
                self._slots[place] = self._slots[last]
                self._places[self._slots[place]] = place
            table[last] = 0
            del self._slots[last]
            self._faiss.codes.resize(last * self.dimension * 4)
            self._faiss.ntotal = last

    def search(self, vector: Vectors, k: int) -> tuple[Slots, Vectors]:
        """The ``k`` slots with the highest product with ``vector`` (d,), best first, and all that tie the last."""
        count = len(self._slots)
        k = min(k, count)
        if k == 0:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        # FAISS breaks ties as it likes, so ask for more until the last score is below the k-th.
        wanted = k
        while True:
            wanted = min(count, wanted + 8)
            scores, places = self._faiss.search(vector[None, :], wanted)  # (1, wanted) each
            if wanted == count or scores[0, -1] < scores[0, k - 1]:
                break
            wanted *= 2
        return np.array([self._slots[place] for place in places[0]], dtype=np.int64), scores[0]


def _flat_index(dimension: int) -> faiss.IndexFlatIP:
    import faiss  # Takes 0.2 s, so only a store that is searched pays for it.

    faiss.omp_set_num_threads(1)
    return faiss.IndexFlatIP(dimension)
