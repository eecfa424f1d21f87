"""Search: by embedding, by words, and by both.

Below 20,000 memories the embedding search is exact over all vectors. From there on it scans codes
(``index/codes.py``), opens the sealed vectors of the best candidates, and ranks these exactly. The lexical search is
BM25 (``index/lexical.py``). Nothing is opened before the first search asks for it, and each follows the store by
difference: what one commit changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from store.format.columns import Span, Where
from store.format.head import SEGMENT_ROWS
from store.format.ranges import outside
from store.format.records import StoredRecord
from store.format.segment_table import SegmentRef, slots_of
from store.format.vectors import Vectors
from store.index.codes import DEVIATIONS, CodeIndex, candidates_for, rerank
from store.index.exact import ExactIndex
from store.index.lexical import LexicalIndex, Scored
from store.index.quantizer import Codes
from store.index.terms import terms_of
from store.keys.crypto import tampered
from store.search.candidates import NOBODY, Candidates, with_neighbours
from store.search.follower import Follower
from store.search.fusion import fuse
from store.search.opened import Derive
from store.search.opener import Opener
from store.search.readable import current, ids_of, where_slots
from store.tables.core import Core
from store.tables.rows import Rows

EXACT_BELOW = 20_000
DEFAULT_CACHE_BYTES = 64 * 1024 * 1024
_FEW = 4_096
_FUSED = 100
_AT_ONCE = 16  # Segments, so that their codes stay in the processor's cache.
Slots = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Hits = list[tuple[int, float]]


class Searcher:
    """The in-memory side of searching one store. Call inside ``core.snapshot()`` or a transaction."""

    def __init__(self, core: Core, rows: Rows, cache_bytes: int) -> None:
        self._core, self._rows, self.opener = core, rows, Opener(core, rows, cache_bytes)
        core.before_forget = self.forget_pending
        self._index: ExactIndex | CodeIndex | None = None
        self._followed = Follower()
        self._removed: set[int] = set()
        self._lexical: LexicalIndex | None = None
        self._followed_words = Follower()
        self._hidden_words: set[int] = set()
        self._dimension = 0
        self._rollbacks, self._learnt_inside = core.rollbacks, False

    def _distrust(self) -> None:
        """Drop what was learnt inside a transaction that was undone: slots it used may be used again."""
        if self._learnt_inside and self._core.rollbacks != self._rollbacks:
            self.drop()
        if self._core.rollbacks != self._rollbacks or not self._core.database.depth:
            self._learnt_inside = False
        self._rollbacks = self._core.rollbacks
        self._learnt_inside = self._learnt_inside or self._core.database.depth > 0
        self.opener.follow()

    def drop(self) -> None:
        """Drop all that is in memory."""
        self._index = self._lexical = None
        self.opener.clear()

    def forget_pending(self) -> None:
        """Drop what is kept in memory of all slots whose keys are about to be punctured, older versions included."""
        self._distrust()  # Which lets go of opened rows.
        view = self._core.view
        if self._index is not None:
            slots = [*view.manifest.pending, *view.head.pending_slots()]
            self._index.remove(slots)  # What else follows from it, the next search brings about.
        if self._lexical is not None:
            self.lexical()

    def id_of(self, slot: int) -> int:
        """The id of the record in ``slot``."""
        entry = self._core.view.tail.get(slot)
        if entry is not None:
            return entry.id
        columns = self._core.columns_of(slot)
        at = columns.position(slot)
        if at is None:
            raise tampered("segment")
        return columns.ids.item(at)

    def sizes(self) -> dict[str, int]:
        """Bytes in memory by part."""
        return {
            "embedding": 0 if self._index is None else self._index.size_bytes,
            "vectors": 0 if self.opener.kept_vectors is None else self.opener.kept_vectors.size_bytes,
            "records": self.opener.kept_records.size_bytes,
            "lexical": 0 if self._lexical is None else self._lexical.size_bytes,
            "columns": self._core.columns_bytes,
        }

    # By embedding

    def by_vector(self, query: Vectors, k: int, allowed: Callable[[Slots], Bools] | None, few: Slots | None) -> Hits:
        """The ``k`` best (slot, product), best first, equal products by lower id where they are cut off.

        ``allowed`` tells which slots may be answered; ``few``, if given, lists them all.
        """
        if few is not None and len(few) <= _FEW:
            slots, scores = few, self._vectors(few) @ query
        else:
            slots, scores = self._scan(query, k, allowed)
        order = np.lexsort((slots, -scores))
        if len(order) > k and scores[order[k - 1]] == scores[order[k]]:
            # Of equal products the lower ids are wanted, which are not the lower slots where records were changed.
            order = np.lexsort((ids_of(self._core, slots), -scores))
        best = order[:k]
        return list(zip(slots[best].tolist(), scores[best].tolist(), strict=True))

    def _scan(self, query: Vectors, k: int, allowed: Callable[[Slots], Bools] | None) -> tuple[Slots, Vectors]:
        """Slots and exact products that hold the ``k`` best."""
        index = self.embedding()
        if isinstance(index, CodeIndex):
            return self._scan_codes(index, query, k, allowed)
        wanted = k
        while True:
            slots, scores = index.search(query, wanted)
            keep = np.ones(len(slots), dtype=np.bool_) if allowed is None else allowed(slots)
            kept = scores[keep]
            # Of equal products the index gives all or, where the last one has it, perhaps some.
            if wanted >= len(index) or (len(kept) >= k and kept[k - 1] > scores[-1]):
                return slots[keep], kept
            wanted *= 4

    def _scan_codes(
        self, index: CodeIndex, query: Vectors, k: int, allowed: Callable[[Slots], Bools] | None
    ) -> tuple[Slots, Vectors]:
        """As :meth:`_scan`, from codes; opens no more vectors than may be among the ``k`` best."""
        wanted = candidates_for(k)
        while True:
            slots, estimates, deviations = index.search(query, wanted)
            if allowed is not None:
                keep = allowed(slots)
                slots, estimates, deviations = slots[keep], estimates[keep], deviations[keep]
            if len(slots) >= min(candidates_for(k), len(index)) or wanted >= len(index):
                break
            wanted *= 4
        scores = rerank(query, k, slots, estimates + DEVIATIONS * deviations, self._vectors)
        return slots[: len(scores)], scores

    def score(self, query: Vectors, slots: Slots) -> Vectors:
        """The exact products (n,) of ``query`` (d,) with the vectors in ``slots``."""
        return self._vectors(slots) @ query

    def read(self, slots: Slots) -> tuple[list[StoredRecord], Vectors]:
        """The records in ``slots`` (n,) and their vectors (n, d); what has to be opened for it is kept."""
        vectors = self._vectors(slots)
        return [one.stored for one in self.opener.records(slots, None)], vectors

    def _vectors(self, slots: Slots) -> Vectors:
        self._distrust()
        if isinstance(self._index, ExactIndex) and self._followed.is_at(self._core.view):
            return self._index.vectors(slots)  # It holds them all.
        return self.opener.vectors(slots)

    def embedding(self) -> ExactIndex | CodeIndex:
        """The embedding index at the present commit."""
        self._distrust()
        view = self._core.view
        wants_exact = view.head.live < EXACT_BELOW
        index = self._index
        if index is not None and self._followed.is_at(view):
            return index
        if index is None or isinstance(index, ExactIndex) is not wants_exact or self._dimension != view.head.dimension:
            quantizer = self._rows.segments.quantizer()
            index = ExactIndex(view.head.dimension) if wants_exact else CodeIndex(quantizer)
            self._followed, self._removed, self._dimension = Follower(), set(), view.head.dimension
            self.opener.kept_vectors = None
        # Put back only when it is whole: an error on the way leaves no index, and the next search starts over.
        self._index = None
        self._bring(index)
        self._followed.arrived(view)
        self._index = index
        return index

    def _bring(self, index: ExactIndex | CodeIndex) -> None:
        core, followed = self._core, self._followed
        stale, fresh, gone, new = followed.changes(core)
        shrunk = {ref.number for ref in fresh if ref.number in followed.offsets and self._shrink(index, ref)}
        stale = [number for number in stale if number not in shrunk]
        fresh = [ref for ref in fresh if ref.number not in shrunk]
        if isinstance(index, CodeIndex) and len(fresh) > 1:
            index.reserve(len(index) + sum(ref.live for ref in fresh) + len(new))
        moved = self._folded(fresh, gone)
        for number in stale:
            index.remove(slots_of(number, followed.offsets.pop(number)).tolist())
        index.remove([slot for slot in gone if slot not in moved])
        for slot in gone:
            del followed.tail[slot]
        if isinstance(index, CodeIndex) and not moved:
            self._load_packed(index, fresh)
        else:
            for ref in fresh:
                self._load(index, ref, moved)
        if new:
            entries = [core.view.tail[slot] for slot in new]
            codes = np.frombuffer(b"".join(entry.code for entry in entries), dtype=np.uint8).reshape(len(new), -1)
            self._extend(index, np.array(new, dtype=np.int64), codes)
            followed.tail.update((entry.slot, entry.mark) for entry in entries)
        index.remove(core.view.manifest.pending - self._removed)
        self._removed = set(core.view.manifest.pending)

    def _shrink(self, index: ExactIndex | CodeIndex, ref: SegmentRef) -> bool:
        """Take out the rows that a segment lost, if it gained none: what a forget leaves."""
        slots, before = self._core.columns(ref).slots, self._followed.offsets[ref.number]
        first = ref.number * SEGMENT_ROWS + 1
        left, known = np.zeros((2, SEGMENT_ROWS), dtype=np.bool_)
        left[slots - first] = known[before] = True
        if (left & ~known).any():
            return False
        index.remove((np.flatnonzero(known & ~left) + first).tolist())
        self._note(ref, slots)
        return True

    def _folded(self, fresh: list[SegmentRef], gone: list[int]) -> set[int]:
        """The slots that only moved, from the tail into a segment."""
        moved = set()
        for ref in fresh if gone else ():
            columns = self._core.columns(ref)
            for slot in gone:
                at = columns.position(slot)
                if at is not None and columns.mark(at) == self._followed.tail[slot]:
                    moved.add(slot)
        return moved - self._removed

    def _load_packed(self, index: CodeIndex, refs: list[SegmentRef]) -> None:
        """Put segments into ``index`` as they are, some at a time: each step there has a price of its own."""
        for start in range(0, len(refs), _AT_ONCE):
            some = refs[start : start + _AT_ONCE]
            opened = self._rows.segments.packed_codes(some)
            for ref, (offsets, _, _) in zip(some, opened, strict=True):
                self._followed.offsets[ref.number] = offsets.copy()  # What it is a view of is a hundred times as large.
            pairs = zip(some, opened, strict=True)
            index.extend_packed([(ref.slots(offsets), packed, factors) for ref, (offsets, packed, factors) in pairs])

    def _load(self, index: ExactIndex | CodeIndex, ref: SegmentRef, moved: set[int]) -> None:
        """Put a segment's rows into ``index``, but for those that ``moved`` only."""
        slots = self._core.columns(ref).slots
        keep = outside(slots, moved)
        if keep.any():
            self._extend(index, slots[keep], self._rows.segments.codes(ref)[1][keep])
        self._note(ref, slots)

    def _note(self, ref: SegmentRef, slots: Slots) -> None:
        offsets = (slots - ref.number * SEGMENT_ROWS - 1).astype(np.uint16)
        self._followed.offsets[ref.number] = offsets

    def _extend(self, index: ExactIndex | CodeIndex, slots: Slots, codes: Codes) -> None:
        if isinstance(index, CodeIndex):
            index.extend(slots, codes)
            return
        live = ~np.isin(slots, np.array(sorted(self._core.view.manifest.pending), dtype=np.int64))
        marks = self.opener.marks(slots[live].tolist())
        index.extend(slots[live], self._rows.vectors(slots[live].tolist(), marks))

    # By words

    def by_words(
        self, text: str, k: int, allowed: Callable[[Slots], Bools] | None
    ) -> tuple[Slots, npt.NDArray[np.float64]]:
        """The ``k`` best slots (n,) by BM25 and their scores (n,), best first."""
        return self.lexical().search(terms_of(text), k, allowed)

    def by_both(
        self,
        query: Vectors,
        text: str,
        k: int,
        allowed: Callable[[Slots], Bools] | None,
        few: Slots | None,
        weight: float,
    ) -> Hits:
        """The ``k`` best of both searches, fused; ``weight`` is the embedding's share."""
        scored = self.lexical().scored(terms_of(text))
        slots = self._of_both(query, scored, max(_FUSED, k), allowed, few)
        if not len(slots):
            return []
        return fuse((slots, self.score(query, slots)), (slots, scored.of(slots)), k, weight)

    def _of_both(
        self, query: Vectors, scored: Scored, most: int, allowed: Callable[[Slots], Bools] | None, few: Slots | None
    ) -> Slots:
        """The slots (n,), ascending, that are among the ``most`` best of either search."""
        dense = np.array([slot for slot, _ in self.by_vector(query, most, allowed, few)], dtype=np.int64)
        words, _ = scored.best(most, allowed)
        return np.union1d(dense, words).astype(np.int64)

    def candidates(
        self,
        query: Vectors,
        text: str,
        most: int,
        around: int,
        where: Where,
        then: Sequence[Span],
        now: float,
        derive: Derive | None,
    ) -> Candidates:
        """The ``most`` best of both searches, fused, half as many of ``then``, and neighbours of each on both sides."""
        core = self._core
        scored = self.lexical().scored(terms_of(text))
        slots = self._of_both(query, scored, max(_FUSED, most), *where_slots(core, where, now))
        if not len(slots):
            return NOBODY
        found = self._fused(query, slots, scored, most)
        if then:
            kept = np.unique(np.concatenate([current(core, where.during(*span), now) for span in then]))
            some = self._of_both(query, scored, most, lambda slots: np.isin(slots, kept), kept)
            found = np.union1d(found, self._fused(query, some, scored, most // 2))
        slots, before = with_neighbours(core, where, now, found, around)
        vectors, opened = self._vectors(slots), self.opener.records(slots, derive)
        return Candidates(
            records=tuple(one.stored for one in opened),
            derived=() if derive is None else tuple(one.derived for one in opened),
            vectors=vectors,
            products=(vectors @ query).astype(np.float64),
            words=scored.of(slots),
            found=np.isin(slots, found),
            before=before,
            rarity=scored.rarity,
        )

    def _fused(self, query: Vectors, slots: Slots, scored: Scored, most: int) -> Slots:
        """The ``most`` best of ``slots`` (n,) by both scores."""
        best = fuse((slots, self.score(query, slots)), (slots, scored.of(slots)), most)
        return np.array([slot for slot, _ in best], dtype=np.int64)

    def lexical(self) -> LexicalIndex:
        """The lexical index at the present commit."""
        self._distrust()
        core, view = self._core, self._core.view
        index = self._lexical
        if index is not None and self._followed_words.is_at(view):
            return index
        if index is None:
            index, self._followed_words, self._hidden_words = LexicalIndex(), Follower(), set()
        self._lexical = None
        followed = self._followed_words
        stale, fresh, gone, new = followed.changes(core)
        for slot in gone:
            index.drop_entry(slot)
            del followed.tail[slot]
        for number in stale:
            index.drop_segment(number)
        for ref in fresh:
            index.put_segment(ref.number, bytes(self._rows.segments.postings(ref)))
        for slot in new:
            index.put_entry(slot, view.tail[slot].terms)
            followed.tail[slot] = view.tail[slot].mark
        reloaded = {ref.number for ref in fresh}
        again = {slot for slot in view.manifest.pending if (slot - 1) // SEGMENT_ROWS in reloaded}
        index.hide((view.manifest.pending - self._hidden_words) | again)
        self._hidden_words = set(view.manifest.pending)
        followed.arrived(view)
        self._lexical = index
        return index
