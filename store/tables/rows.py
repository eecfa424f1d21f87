"""The rows of the table ``memory``: sealing, opening, replacing by noise; and when the tail is folded into a segment.

A row holds one version of one record: its vector and its text, sealed under the key of its slot. A row that holds
nothing, because it was not used yet or its record is gone, holds random bytes of a usual size, so that the table shows
neither how many records there are nor which were forgotten.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from store.format.columns import NEVER, Entry, encode_entry
from store.format.head import SEGMENT_ROWS, chained, with_bit
from store.format.padding import count_class
from store.format.records import Record, StoredRecord, decode_record, encode_record
from store.format.vectors import STORED, Vectors, vector_bytes
from store.index.quantizer import Codes
from store.index.terms import entry_of
from store.keys.crypto import TAG_BYTES, Place, mark, open_each, open_stamp, seal, tampered
from store.tables.core import Core
from store.tables.noise import noise_stamp
from store.tables.segments import Segments

_PAGE_ROWS = 256
_FIRST_BYTES = (256 + TAG_BYTES, 512 + TAG_BYTES)  # Of a record and an entry in a store that holds none yet.
_LEDGER_OF_SIZES = 64


class Rows:
    """The record rows of one store."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.segments = Segments(core)

    # Writing; all inside a transaction

    def add(self, records: Sequence[tuple[int | None, int, Record]], matrix: Vectors) -> list[int]:
        """Store rows (id or ``None`` for a new one, version, record); the ids.

        Their vectors are ``matrix`` (n, d), which :func:`as_matrix` let through.
        """
        core, head = self._core, self._core.view.head
        codes = self.segments.quantizer().codes_of(matrix)  # (n, code_bytes)
        last_first = (head.next_slot + len(records) - 1) // SEGMENT_ROWS * SEGMENT_ROWS + 1
        rows, tails, ids, start = [], [], [], 0
        while start < len(records):
            slot = core.view.head.next_slot
            end = start + SEGMENT_ROWS - (slot - 1) % SEGMENT_ROWS  # As many as the tail has room for.
            entries = []
            for (id, version, record), vector, code in zip(
                records[start:end], matrix[start:end], codes[start:end], strict=True
            ):
                row, tail, entry = self._sealed(slot, slot if id is None else id, version, record, vector, code)
                rows.append(row)
                entries.append(entry)
                if slot >= last_first:
                    tails.append(tail)
                slot += 1
            self._append(entries)
            ids += [entry.id for entry in entries]
            start = end
        core.database.run_many("INSERT OR REPLACE INTO memory VALUES (?, ?, ?, ?)", rows)
        core.database.run_many("INSERT OR REPLACE INTO tail VALUES (?, ?, ?)", tails)
        core.work.touched = core.work.touched or bool(records)
        return ids

    def _sealed(
        self, slot: int, id: int, version: int, record: Record, vector: Vectors, code: Codes
    ) -> tuple[tuple[object, ...], tuple[object, ...], Entry]:
        core = self._core
        bare = Entry(
            slot=slot,
            mark=b"",
            id=id,
            version=version,
            time=record.time,
            expires=NEVER if record.expires is None else record.expires,
            supersedes=record.supersedes or 0,
            scope=record.scope,
            purpose=record.purpose,
            source=record.source,
            derived_from=record.derived_from,
            code=code.tobytes(),
            terms=entry_of(record.text),
        )
        parts = {"vector": vector_bytes(vector), "record": encode_record(record), "entry": encode_entry(bare)}
        place = Place(core.store_id, "row", slot)
        stamp, sealed = seal(core.keys.row(slot, core.view.head), place, parts)
        return (slot, stamp, sealed[0], sealed[1]), (slot, stamp, sealed[2]), bare._replace(mark=mark(stamp))

    def _append(self, entries: Sequence[Entry]) -> None:
        """Take ``entries``, which the tail has room for, into the view, and fold the tail if it is full."""
        view = self._core.view
        digest = view.head.tail_digest
        view.soonest = min(view.soonest, *(entry.expires for entry in entries))
        for entry in entries:
            view.tail[entry.slot] = entry
            view.tail_ids[entry.id] = entry.slot
            digest = chained(digest, entry.slot, entry.mark)
        if entries[-1].slot % SEGMENT_ROWS == 0:
            self._fold()
            digest = bytes(32)
        head = view.head
        next_slot, live = entries[-1].slot + 1, head.live + len(entries)
        view.head = head._replace(next_slot=next_slot, live=live, tail_digest=digest)

    def _fold(self) -> None:
        """Write the tail, which is full, as a segment. The head still counts it as the tail."""
        core, view = self._core, self._core.view
        head, entries = view.head, [view.tail[slot] for slot in sorted(view.tail)]
        view.manifest = replace(view.manifest, pending=view.manifest.pending | set(head.pending_slots()))
        if entries:
            self.segments.write((head.tail_first - 1) // SEGMENT_ROWS, entries)
        core.database.run("DELETE FROM tail WHERE slot < ?", (head.tail_first + SEGMENT_ROWS,))
        view.tail, view.tail_ids = {}, {}
        blank = bytes(len(head.dead))
        view.head = view.head._replace(dead=blank, pending=blank)

    def skip(self) -> None:
        """Leave the next slot empty for ever: an id that an upgraded store had given and forgotten."""
        view = self._core.view
        head = view.head
        self._write_noise([head.next_slot])
        view.head = head._replace(dead=with_bit(head.dead, head.next_slot - head.tail_first))
        if head.next_slot % SEGMENT_ROWS == 0:
            self._fold()
        view.head = view.head._replace(next_slot=head.next_slot + 1)
        if view.head.next_slot % SEGMENT_ROWS == 1:
            view.head = view.head._replace(tail_digest=bytes(32))

    def kill(self, entries: Sequence[Entry]) -> None:
        """Overwrite these rows with noise; their keys are punctured at the next forget."""
        core, view = self._core, self._core.view
        for entry in entries:
            self._overwrite(entry.slot)
            head = view.head
            view.head = head._replace(live=head.live - 1)
            if entry.slot >= head.tail_first:
                index = entry.slot - head.tail_first
                dead, pending = with_bit(head.dead, index), with_bit(head.pending, index)
                view.head = view.head._replace(dead=dead, pending=pending)
                del view.tail[entry.slot]
                view.tail_ids.pop(entry.id, None)
            else:
                view.manifest = replace(view.manifest, pending=view.manifest.pending | {entry.slot})
            if entry.slot in view.manifest.superseded:
                view.manifest = replace(view.manifest, superseded=view.manifest.superseded - {entry.slot})
        if any(entry.slot >= view.head.tail_first for entry in entries):
            self.redo_digest()
        core.work.touched = True

    def redo_digest(self) -> None:
        """Compute the tail's digest from its entries."""
        view, digest = self._core.view, bytes(32)
        for slot in sorted(view.tail):
            digest = chained(digest, slot, view.tail[slot].mark)
        view.head = view.head._replace(tail_digest=digest)

    def _overwrite(self, slot: int) -> None:
        database, stamp = self._core.database, noise_stamp()
        database.run(
            "UPDATE memory SET stamp = ?, vector = randomblob(length(vector)), record = randomblob(length(record))"
            " WHERE slot = ?",
            (stamp, slot),
        )
        # The same stamp in both tables, as a row has it that holds something.
        database.run("UPDATE tail SET stamp = ?, entry = randomblob(length(entry)) WHERE slot = ?", (stamp, slot))

    def resize_noise(self) -> None:
        """Give every row a vector of today's dimension: noise of another would stand out. All rows must be replaced."""
        size = self._core.view.head.dimension * STORED.itemsize + TAG_BYTES
        self._core.database.run("UPDATE memory SET vector = randomblob(?) WHERE length(vector) != ?", (size, size))

    def allocate(self) -> None:
        """Fill the table with noise up to the next class of row counts."""
        core, head = self._core, self._core.view.head
        used = head.next_slot - 1
        target = count_class(used)
        if target <= head.allocated and used <= head.allocated:
            return
        start = max(head.allocated, used) + 1
        self._write_noise(range(start, target + 1))
        core.view.head = head._replace(allocated=max(target, used))

    def _write_noise(self, slots: Iterable[int]) -> None:
        """Insert rows that hold nothing, of usual sizes."""
        core, head = self._core, self._core.view.head
        vector_size = head.dimension * STORED.itemsize + TAG_BYTES
        rng = random.Random(os.urandom(16))  # Picks which size noise has; the noise is the system's.
        sizes = self._usual_sizes()
        picked = [(slot, noise_stamp(), *rng.choice(sizes)) for slot in slots]
        core.database.run_many(
            "INSERT OR REPLACE INTO memory VALUES (?, ?, ?, ?)",
            [(slot, stamp, os.urandom(vector_size), os.urandom(record)) for slot, stamp, record, _ in picked],
        )
        core.database.run_many(
            "INSERT OR REPLACE INTO tail VALUES (?, ?, ?)",
            [(slot, stamp, os.urandom(entry)) for slot, stamp, _, entry in picked if slot >= head.tail_first],
        )

    def _usual_sizes(self) -> list[tuple[int, int]]:
        """Sizes (of a sealed record, of a sealed entry) as the latest rows have them."""
        rows = self._core.database.rows(
            "SELECT length(record), coalesce(length(entry), 0) FROM memory LEFT JOIN tail USING (slot)"
            " ORDER BY slot DESC LIMIT ?",
            (_LEDGER_OF_SIZES,),
        )
        entries = [entry for _, entry in rows if entry] or [_FIRST_BYTES[1]]
        return [(record, entry or entries[0]) for record, entry in rows] or [_FIRST_BYTES]

    # Reading

    def record(self, entry: Entry) -> StoredRecord:
        """The record behind ``entry``. Raises ``TamperedError``."""
        (stored,) = self.records([entry])
        return stored

    def records(self, entries: Sequence[Entry]) -> list[StoredRecord]:
        """The records behind ``entries``, in their order. Raises ``TamperedError``."""
        sealed, core = self._select("record", [entry.slot for entry in entries]), self._core
        keys = core.keys.rows([entry.slot for entry in entries], core.view.head)
        rows = []
        for entry, key in zip(entries, keys, strict=True):
            stamp, record = sealed.get(entry.slot, (None, None))
            if not isinstance(stamp, bytes) or mark(stamp) != entry.mark:
                raise tampered("record")
            rows.append((key, entry.slot, stamp, record))
        opened = open_each(core.store_id, "row", 1, "record", rows)
        return [
            StoredRecord(id=entry.id, version=entry.version, record=decode_record(plain))
            for entry, plain in zip(entries, opened, strict=True)
        ]

    def vectors(self, slots: Sequence[int], marks: Sequence[bytes]) -> Vectors:
        """The vectors (n, d) in these slots, whose rows were sealed with these marks. Raises ``TamperedError``.

        Each is opened straight into its place in one array: fresh buffers would cost several times as much.
        """
        dimension = self._core.view.head.dimension
        matrix = np.empty((len(slots), dimension), dtype=STORED)
        places = matrix.view(np.uint8).reshape(-1).data
        size_bytes = dimension * STORED.itemsize
        for start in range(0, len(slots), _PAGE_ROWS):
            page = slots[start : start + _PAGE_ROWS]
            sealed = self._select("vector", page)
            for at, slot in enumerate(page, start):
                stamp, vector = sealed.get(slot, (None, None))
                place = places[at * size_bytes : (at + 1) * size_bytes]
                self._lock(slot, marks[at], stamp).open_into(0, "vector", vector, place)
        return matrix.astype(np.float32, copy=False)

    def _select(self, column: str, slots: Sequence[int]) -> dict[int, tuple[object, object]]:
        rows: dict[int, tuple[object, object]] = {}
        for start in range(0, len(slots), _PAGE_ROWS):
            page = slots[start : start + _PAGE_ROWS]
            marks = ",".join("?" * len(page))
            for slot, stamp, sealed in self._core.database.rows(
                f"SELECT slot, stamp, {column} FROM memory WHERE slot IN ({marks})", page
            ):
                rows[slot] = (stamp, sealed)
        return rows

    def _lock(self, slot: int, expected: bytes, stamp: object):  # type: ignore[no-untyped-def]
        if not isinstance(stamp, bytes) or mark(stamp) != expected:
            raise tampered("record")
        core = self._core
        return open_stamp(core.keys.row(slot, core.view.head), Place(core.store_id, "row", slot), stamp)
