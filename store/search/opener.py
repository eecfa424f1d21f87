"""Opening vectors and records for searches, through caches that follow what the store holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from store.format.columns import Entry
from store.format.head import SEGMENT_ROWS
from store.format.records import StoredRecord
from store.format.vectors import Vectors
from store.index.terms import clear_cache
from store.keys.crypto import tampered
from store.search.opened import Derive, OpenedRecord, OpenedRecords, OpenedVectors
from store.tables.core import Core
from store.tables.rows import Rows

Slots = npt.NDArray[np.int64]


class Opener:
    """Opens rows of one store, and keeps what it opened while the store holds it. Call inside ``core.snapshot()``.

    A slot holds one version of one record for ever, but where a transaction was undone: who knows of that calls
    :meth:`clear`. ``cache_bytes`` bounds the vectors that are kept, half of it the records.
    """

    def __init__(self, core: Core, rows: Rows, cache_bytes: int) -> None:
        self._core, self._rows, self._cache_bytes = core, rows, cache_bytes
        self.kept_vectors: OpenedVectors | None = None
        self.kept_records = OpenedRecords(cache_bytes // 2)
        self._head, self._segments = core.view.head, core.view.manifest.segments

    def vectors(self, slots: Slots) -> Vectors:
        """The vectors (n, d) in ``slots`` (n,). Raises ``TamperedError``."""
        dimension = self._core.view.head.dimension
        if self.kept_vectors is None or self.kept_vectors.dimension != dimension:
            self.kept_vectors = OpenedVectors(dimension, self._cache_bytes)
        return self.kept_vectors.get(slots.tolist(), lambda missing: self._rows.vectors(missing, self.marks(missing)))

    def records(self, slots: Slots, derive: Derive | None) -> list[OpenedRecord]:
        """The records in ``slots`` (n,), with what ``derive`` makes of each. Raises ``TamperedError``."""
        return self.kept_records.get(slots.tolist(), self._open_records, derive)

    def marks(self, slots: Sequence[int]) -> list[bytes]:
        """The marks with which the rows in ``slots`` were sealed; empty for one that holds nothing."""
        view = self._core.view
        marks = []
        for slot in slots:
            entry = view.tail.get(slot)
            if entry is not None:
                marks.append(entry.mark)
                continue
            columns = self._core.columns_of(slot)
            at = columns.position(slot)
            marks.append(b"" if at is None else columns.mark(at))
        return marks

    def follow(self) -> None:
        """Drop what the store no longer holds at the present commit, whichever process made it."""
        view = self._core.view
        if view.head is self._head:
            return
        gone = [*view.manifest.pending, *view.head.pending_slots()]
        if view.head.epoch != self._head.epoch:
            # Something was forgotten, perhaps by another process.
            clear_cache()
            kept = [self.kept_records.slots, *([] if self.kept_vectors is None else [self.kept_vectors.slots])]
            gone += self._gone(np.unique(np.concatenate(kept)))
            self._segments = view.manifest.segments
        self._head = view.head
        self.drop(gone)

    def drop(self, slots: Sequence[int]) -> None:
        """Drop what is kept of these slots, if anything."""
        self.kept_records.drop(slots)
        if self.kept_vectors is not None:
            self.kept_vectors.drop(slots)

    def clear(self) -> None:
        """Drop all that is kept."""
        self.kept_vectors = None
        self.kept_records.clear()

    def _gone(self, slots: Slots) -> list[int]:
        """Which of ``slots`` (n,), each of which held a record when it was opened, hold none any more.

        A segment that is as it was when the epoch began has lost nothing but what is pending.
        """
        view = self._core.view
        changed, fresh = view.manifest.segments.changes_since(self._segments)
        doubtful = np.array([*changed, *(ref.number for ref in fresh)], dtype=np.int64)
        doubted = slots[np.isin((slots - 1) // SEGMENT_ROWS, doubtful) | (slots >= view.head.tail_first)]
        return [slot for slot in doubted.tolist() if not self._core.holds(slot)]

    def _open_records(self, slots: Sequence[int]) -> list[StoredRecord]:
        return self._rows.records([self._brief(slot) for slot in slots])

    def _brief(self, slot: int) -> Entry:
        """As much of the entry in ``slot`` as it takes to open the record, made quickly."""
        entry = self._core.view.tail.get(slot)
        if entry is not None:
            return entry
        columns = self._core.columns_of(slot)
        at = columns.position(slot)
        if at is None:
            raise tampered("segment")
        return Entry(slot, columns.mark(at), columns.ids.item(at), columns.versions.item(at), 0.0)
