"""Exact search over vectors by inner product, in memory, with FAISS.

Nothing of the index reaches the disk: it is built from opened vectors at the first search. FAISS (Douze et
al. 2024, https://arxiv.org/abs/2401.08281) runs on one thread a query, which under load is many times
faster than several.

>>> index = ExactIndex(2)
>>> index.put([7, 9], [1, 1], np.array([[1, 0], [0, 1]], dtype=np.float32))
>>> index.search(np.array([0.5, 1], dtype=np.float32), 1)
[(9, 1.0)]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from store.vectors import Vectors

if TYPE_CHECKING:
    import faiss


class ExactIndex:
    """The vectors of rows by id, and which version of each row they belong to. Not safe for several threads."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.versions: dict[int, int] = {}
        self._faiss = _flat_index(dimension)

    def put(self, ids: Sequence[int], versions: Sequence[int], vectors: Vectors) -> None:
        """Add the rows of ``vectors`` (n, d), in place of what the index holds under the same ids."""
        self.drop([number for number in ids if number in self.versions])
        if len(ids):
            self._faiss.add_with_ids(np.ascontiguousarray(vectors), np.array(ids, dtype=np.int64))
            self.versions.update(zip(ids, versions, strict=True))

    def drop(self, ids: Sequence[int]) -> None:
        """Remove the rows with these ids; unknown ids are passed over."""
        known = [number for number in ids if number in self.versions]
        if known:
            import faiss

            self._faiss.remove_ids(faiss.IDSelectorBatch(np.array(known, dtype=np.int64)))
            for number in known:
                del self.versions[number]

    def search(self, vector: Vectors, k: int) -> list[tuple[int, float]]:
        """The ``k`` ids with the highest inner product with ``vector`` (d,), best first, equal scores by lower id."""
        count = len(self.versions)
        k = min(k, count)
        if k == 0:
            return []
        # FAISS breaks ties as it likes, so ask for more until the last score is below the k-th.
        wanted = k
        while True:
            wanted = min(count, wanted + 8)
            scores, ids = self._faiss.search(vector[None, :], wanted)  # (1, wanted) each
            if wanted == count or scores[0, -1] < scores[0, k - 1]:
                break
            wanted *= 2
        order = np.lexsort((ids[0], -scores[0]))[:k]
        return [(int(ids[0, i]), float(scores[0, i])) for i in order]


def _flat_index(dimension: int) -> faiss.IndexIDMap2:
    import faiss  # Takes 0.2 s, so only a store that is searched pays for it.

    faiss.omp_set_num_threads(1)
    return faiss.IndexIDMap2(faiss.IndexFlatIP(dimension))
