"""The lexical index: BM25 over the postings of many segments and over single entries.

BM25 as in Robertson and Zaragoza 2009 ("The Probabilistic Relevance Framework: BM25 and Beyond", section 3), with an
inverse document frequency that is never negative, ln(1 + (N - n + 0.5) / (n + 0.5)), and k1 = 0.9 and b = 0.4 as in
Trotman, Puurula and Burgess 2014 ("Improvements to BM25 and Language Models Examined"), which suit short texts better
than 1.2 and 0.75. A document is a record; its length is the number of its words that are terms. How postings lie in
bytes stands in ``postings.py``.

>>> from store.index.terms import entry_of, terms_of
>>> index = LexicalIndex()
>>> index.put_entry(7, entry_of("Booked the flight to Oslo"))
>>> index.put_entry(9, entry_of("Lunch with Ada"))
>>> index.search(terms_of("booking"), 5)[0].tolist()
[7]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import numpy.typing as npt

from store.index.postings import (
    TF_BITS,
    TF_MAX,
    Bools,
    Counts,
    Hashes,
    Packed,
    Postings,
    Slots,
    join_entries,
    lengths_of,
    parse_postings,
)
from store.index.terms import decode_terms

K1 = 0.9
B = 0.4
Floats = npt.NDArray[np.float64]


class LexicalIndex:
    """BM25 over the documents of segments and over single ones, the *tail*; not safe for several threads.

    Statistics are exact: those of the documents that are neither dropped nor hidden. A slot is in one segment or in the
    tail. Segments stay as the bytes they came in, with arrays over them.
    """

    def __init__(self) -> None:
        self._segments: dict[int, Postings] = {}
        self._entries: dict[int, bytes] = {}
        self._rows: _Rows | None = None
        self._tail: _Tail | None = None

    def __len__(self) -> int:
        return self._folded().count + len(self._entries)

    @property
    def size_bytes(self) -> int:
        """Bytes in memory: postings and entries, and the arrays made of them."""
        held = sum(segment.size_bytes for segment in self._segments.values()) + sum(map(len, self._entries.values()))
        return held + (self._rows.size_bytes if self._rows else 0) + (self._tail.size_bytes if self._tail else 0)

    def put_segment(self, number: int, postings: bytes) -> None:
        """Take segment ``number`` in place of an earlier one; none of its documents is hidden.

        Raises ``TamperedError`` unless ``build_postings`` made exactly these bytes.
        """
        self._segments[number] = parse_postings(postings)
        self._rows = None

    def drop_segment(self, number: int) -> None:
        """Drop a segment, if it is there."""
        if self._segments.pop(number, None) is not None:
            self._rows = None

    def put_entry(self, slot: int, entry: bytes) -> None:
        """Take a single document in place of an earlier one in ``slot``. Raises ``TamperedError``."""
        decode_terms(entry)
        self._entries[slot] = entry
        self._tail = None

    def drop_entry(self, slot: int) -> None:
        """Drop a single document, if it is there."""
        if self._entries.pop(slot, None) is not None:
            self._tail = None

    def hide(self, slots: Iterable[int]) -> None:
        """Leave these documents of segments out of answers and statistics; slots in no segment are passed over."""
        gone = np.fromiter(slots, dtype=np.int64)
        if len(gone):
            rows = self._folded()
            at, known = rows.find(gone)
            rows.live[at[known]] = False
            rows.recount()

    def search(
        self, terms: Mapping[int, int], k: int, allowed: Callable[[Slots], Bools] | None = None
    ) -> tuple[Slots, Floats]:
        """The ``k`` best slots (n,) that have any of ``terms`` and their scores (n,): see :meth:`Scored.best`."""
        return self.scored(terms).best(k, allowed)

    def _folded(self) -> _Rows:
        if self._rows is None:
            self._rows = _Rows(self._segments.values())
        return self._rows

    def _single(self) -> _Tail:
        if self._tail is None:
            self._tail = _Tail(self._entries)
        return self._tail

    def scored(self, terms: Mapping[int, int]) -> Scored:
        """The BM25 scores of all documents; ``terms`` is as from ``terms_of``, each counts as often as it occurs."""
        rows, tail = self._folded(), self._single()
        scores = np.zeros(len(rows.slots) + len(tail.slots), dtype=np.float64)
        folded, single = scores[: len(rows.slots)], scores[len(rows.slots) :]
        count, length = rows.count + len(tail.slots), rows.length + int(tail.lengths.sum())
        wanted, rarity = sorted(terms), {}
        for term, (docs, tf) in zip(wanted, rows.postings(np.array(wanted, dtype=np.uint64)), strict=True):
            tail_docs, tail_tf = tail.postings(term)
            having = len(docs) + len(tail_docs)
            rarity[term] = float(np.log1p((count - having + 0.5) / (having + 0.5)))
            if not having:
                continue
            weight = terms[term] * (K1 + 1) * rarity[term]
            slope = K1 * B * count / length
            folded[docs] += weight * tf / (tf + (K1 * (1 - B) + slope * rows.lengths[docs]))
            single[tail_docs] += weight * tail_tf / (tail_tf + (K1 * (1 - B) + slope * tail.lengths[tail_docs]))
        return Scored(rows, tail, scores, rarity)


class Scored:
    """The scores of one query, valid until the index changes; exactly 0 where no term occurs.

    ``rarity`` is the inverse document frequency of each of the query's terms, highest for one that no document has.
    """

    def __init__(self, rows: _Rows, tail: _Tail, scores: Floats, rarity: dict[int, float]) -> None:
        self._rows, self._tail, self._scores = rows, tail, scores  # (folded + tail,)
        self.rarity = rarity

    def best(self, k: int, allowed: Callable[[Slots], Bools] | None = None) -> tuple[Slots, Floats]:
        """The ``k`` best slots (n,) that have any of the terms and their scores (n,), best first, ties by lower slot.

        ``allowed`` tells which of the slots (n,) that it is given may be answered.
        """
        found = np.flatnonzero(self._scores)
        slots, scores = np.concatenate((self._rows.slots, self._tail.slots))[found], self._scores[found]
        wanted = k if allowed is None else max(4 * k, 256)
        while True:
            best = _best(slots, scores, wanted)
            kept = best if allowed is None else best[allowed(slots[best])]
            if len(kept) >= k or wanted >= len(slots):
                return slots[kept[: max(k, 0)]], scores[kept[: max(k, 0)]]
            wanted *= 8

    def of(self, slots: Slots) -> Floats:
        """The scores (n,) of ``slots`` (n,): 0 for one that has none of the terms, is hidden or is not here."""
        scores, rows, tail = self._scores, self._rows, self._tail
        at, known = rows.find(slots)
        result = np.where(known, scores[at], 0.0) if len(rows.slots) else np.zeros(len(slots))
        if len(tail.slots):
            at = np.minimum(np.searchsorted(tail.slots, slots), len(tail.slots) - 1)
            result = np.where(tail.slots[at] == slots, scores[len(rows.slots) + at], result)
        return result


class _Rows:
    """The documents of all segments in one order, by their segments' first slots."""

    def __init__(self, segments: Iterable[Postings]) -> None:
        self.segments = sorted((segment for segment in segments if len(segment.slots)), key=_first_slot)
        sizes = np.array([len(segment.slots) for segment in self.segments], dtype=np.int64)
        self.bases = np.cumsum(sizes) - sizes  # (segments,)
        none = np.zeros(0)
        self.slots: Slots = np.concatenate([none.astype(np.int64), *(its.slots for its in self.segments)])
        self.lengths: Counts = np.concatenate([none.astype(np.uint32), *(its.lengths for its in self.segments)])
        self.live: Bools = np.concatenate([none.astype(np.bool_), *(its.live for its in self.segments)])
        # What is hidden here is hidden in the segments too, and so in the arrays that follow these.
        for segment, base in zip(self.segments, self.bases.tolist(), strict=True):
            segment.live = self.live[base : base + len(segment.slots)]
        self.order = None if (self.slots[1:] > self.slots[:-1]).all() else np.argsort(self.slots)
        if self.order is not None and (np.diff(self.slots[self.order]) == 0).any():
            raise ValueError("A slot is in two segments. Drop the older segment first.")
        self.recount()

    @property
    def size_bytes(self) -> int:
        arrays = (self.bases, self.slots, self.lengths, self.live)
        return sum(array.nbytes for array in arrays) + (0 if self.order is None else self.order.nbytes)

    def recount(self) -> None:
        """Count the documents that are not hidden, and their words."""
        self.count = int(self.live.sum())
        self.length = int(self.lengths.sum(where=self.live, dtype=np.int64))

    def find(self, slots: Slots) -> tuple[Slots, Bools]:
        """Positions (n,) of ``slots`` (n,), and which of them are here and not hidden."""
        if not len(self.slots):
            return np.zeros(len(slots), dtype=np.int64), np.zeros(len(slots), dtype=np.bool_)
        at = np.minimum(np.searchsorted(self.slots, slots, sorter=self.order), len(self.slots) - 1)
        at = at if self.order is None else self.order[at]
        return at, (self.slots[at] == slots) & self.live[at]

    def postings(self, terms: Hashes) -> list[tuple[Slots, Packed]]:
        """For each of ``terms`` (ascending) the positions of the documents that have it, and its counts there."""
        shape = (len(self.segments), len(terms))
        starts, ends = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        for at, segment in enumerate(self.segments):
            starts[at] = segment.offsets[segment.terms.searchsorted(terms)]
            ends[at] = segment.offsets[segment.terms.searchsorted(terms, "right")]
        return [self._gather(starts[:, at], ends[:, at]) for at in range(len(terms))]

    def _gather(self, starts: Slots, ends: Slots) -> tuple[Slots, Packed]:
        which = np.flatnonzero(ends > starts)
        if not len(which):
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint16)
        parts = zip(which.tolist(), starts[which].tolist(), ends[which].tolist(), strict=True)
        packed = np.concatenate([self.segments[at].packed[start:end] for at, start, end in parts])
        docs = (packed >> TF_BITS) + np.repeat(self.bases[which], (ends - starts)[which])
        tf = packed & np.uint16(TF_MAX)
        if self.count < len(self.slots):
            live = self.live[docs]
            return docs[live], tf[live]
        return docs, tf


class _Tail:
    """Single documents, by slot; a term is looked for among all of theirs."""

    def __init__(self, entries: Mapping[int, bytes]) -> None:
        self.slots: Slots = np.array(sorted(entries), dtype=np.int64)
        self.terms, self.docs, counts = join_entries([entries[slot] for slot in self.slots.tolist()])
        self.tf = np.minimum(counts, TF_MAX)
        self.lengths = lengths_of(self.docs, self.tf, len(self.slots))

    @property
    def size_bytes(self) -> int:
        arrays = (self.slots, self.terms, self.docs, self.tf, self.lengths)
        return sum(array.nbytes for array in arrays)

    def postings(self, term: int) -> tuple[Slots, Packed]:
        at = np.flatnonzero(self.terms == np.uint64(term))
        return self.docs[at], self.tf[at]


def _first_slot(segment: Postings) -> int:
    return int(segment.slots[0])


def _best(slots: Slots, scores: Floats, k: int) -> Slots:
    """The positions of the ``k`` highest scores, best first, ties by lower slot."""
    if k <= 0 or not len(scores):
        return np.zeros(0, dtype=np.int64)
    among = np.arange(len(scores))
    if k < len(scores):
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        among = np.flatnonzero(scores >= least)
    return among[np.lexsort((slots[among], -scores[among]))[:k]]
