"""The searches of an open store: by embedding, by words, by both, and candidates for a ranking of the caller's own."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from store.format.columns import Span, Where
from store.format.vectors import Vectors, as_vector
from store.open_store import OpenStore
from store.search.candidates import Candidates
from store.search.opened import Derive
from store.search.readable import where_slots

EVERYTHING = Where()


class SearchedStore(OpenStore):
    """The part of an open store that finds records."""

    def search(self, vector: Vectors, k: int, *, where: Where = EVERYTHING) -> list[tuple[int, float]]:
        """The ids of the ``k`` vectors with the highest inner product with ``vector`` (d,), and the products.

        Best first, equal products by lower id. Exact below 20,000 records, from there on the best of the candidates
        that the codes name. The first search opens the index.
        """
        k = _checked_k(k)
        with self._core.snapshot() as view:
            query = as_vector(vector, view.head.dimension)
            allowed, few = where_slots(self._core, where, self._core.clock())
            return self._as_ids(self._search.by_vector(query, k, allowed, few))

    def search_text(self, text: str, k: int, *, where: Where = EVERYTHING) -> list[tuple[int, float]]:
        """The ids of the ``k`` records that match the words of ``text`` best (BM25), and their scores, best first."""
        k = _checked_k(k)
        with self._core.snapshot():
            allowed, _ = where_slots(self._core, where, self._core.clock())
            slots, scores = self._search.by_words(text, k, allowed)
            return self._as_ids(list(zip(slots.tolist(), scores.tolist(), strict=True)))

    def search_hybrid(
        self, vector: Vectors, text: str, k: int, *, where: Where = EVERYTHING, weight: float = 0.5
    ) -> list[tuple[int, float]]:
        """The ids of the ``k`` best by meaning and words together, and their fused scores, best first.

        ``weight`` from 0 to 1 is the share of the embedding search.
        """
        k = _checked_k(k)
        with self._core.snapshot() as view:
            query = as_vector(vector, view.head.dimension)
            allowed, few = where_slots(self._core, where, self._core.clock())
            return self._as_ids(self._search.by_both(query, text, k, allowed, few, weight))

    def warm(self) -> None:
        """Load the embedding index, so that the first search finds it in memory."""
        with self._core.snapshot():
            self._search.embedding()

    def candidates(
        self,
        vector: Vectors,
        text: str,
        *,
        most: int = 40,
        around: int = 2,
        where: Where = EVERYTHING,
        then: Sequence[Span] = (),
        derive: Derive | None = None,
    ) -> Candidates:
        """The ``most`` best records by meaning and words together, and up to ``around`` neighbours of each a side.

        For a ranking of the caller's own; see :class:`Candidates`. With ``then`` (spans of Unix seconds) also the half
        as many best of those records whose time is in one of the spans. What ``derive`` makes of a record stays in
        memory with the opened record, within the same bound, until the record is forgotten or changed or the store is
        closed, or ``derive`` is not equal to the one before. Raises ``ValueError`` for ``most`` below 1 or ``around``
        outside 0 to 4.
        """
        most = _checked_k(most)
        if not 0 <= around <= 4:
            raise ValueError(f"Expected around={around} from 0 to 4.")
        with self._core.snapshot() as view:
            query = as_vector(vector, view.head.dimension)
            return self._search.candidates(query, text, most, around, where, then, self._core.clock(), derive)

    # Inside

    def _as_ids(self, hits: list[tuple[int, float]]) -> list[tuple[int, float]]:
        """Hits by id in place of slot; equal scores by lower id."""
        id_of = self._search.id_of
        named = [(-score, id_of(slot)) for slot, score in hits]
        named.sort()
        return [(id, -score) for score, id in named]


def _checked_k(k: int) -> int:
    number = operator.index(k)
    if number < 1:
        raise ValueError(f"Expected k={k} to be at least 1.")
    return number
