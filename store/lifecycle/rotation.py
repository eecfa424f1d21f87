"""Rotation: new keys throughout, in short transactions, readable and writable on the way, resumable after a crash.

It begins a second generation of key trees in the root. Then each step seals one segment's rows, or the tail's, anew
under it and moves the mark ``rotated_to`` in the head: a reader picks the generation of a row by that mark. New rows
and pages belong to the new generation from the start. The last step seals the named values and the ledger anew, gives
every slot a new store key, drops the old generation, and begins a new epoch as a forget does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace

from store.errors import StoreError
from store.format.columns import Columns, Entry, encode_entry
from store.format.head import SEGMENT_ROWS
from store.keys.crypto import KEY_BYTES, Place, mark, open_stamp, seal, tampered
from store.keys.root import Generation, Root
from store.lifecycle.access import Access
from store.tables.commit import Commits
from store.tables.core import Core
from store.tables.forgetting import entries_of
from store.tables.ledger import Ledger
from store.tables.named import NamedValues
from store.tables.rows import Rows

# SQLite gives the lock to whoever asks first, and those who wait ask ten times a second: without a pause they starve.
_PAUSE_S = 0.02


class Rotation:
    """The rotation of one open store."""

    def __init__(self, core: Core, rows: Rows, commits: Commits, access: Access) -> None:
        self._core, self._rows, self._commits, self._access = core, rows, commits, access
        self._named, self._ledger = NamedValues(core), Ledger(core)

    def run(self, progress: Callable[[int, int], None]) -> None:
        """Begin, or go on where an earlier call stopped, and finish."""
        core = self._core
        self._begin()
        while True:
            with self._commits.transaction() as work:
                head = core.view.head
                if not head.old_generation:
                    return  # Another process finished it.
                if head.rotated_to >= head.rotation_slot:
                    self._end()
                    break
                self._step(head.rotated_to)
                work.touched = True
                done, total = core.view.head.rotated_to - 1, head.rotation_slot - 1
            progress(min(done, total), total)
            time.sleep(_PAUSE_S)

    def _begin(self) -> None:
        core = self._core
        with self._commits.transaction() as work:
            if core.database.depth > 1:
                raise StoreError("A store does not rotate inside a transaction: leave the block first.")
            head = core.view.head
            if head.old_generation:
                return
            fresh = Generation.fresh(head.generation + 1)
            self._access.reseal(replace(core.keys.root, generations=(*core.keys.root.generations, fresh)))
            core.view.head = core.view.head._replace(
                generation=fresh.number,
                old_generation=head.generation,
                rotated_to=1,
                rotation_slot=head.next_slot,
                rotation_page=head.next_page,
            )
            work.touched = True

    def _step(self, first: int) -> None:
        """Seal the rows of the segment that begins at ``first``, or of the tail, under the new generation."""
        core, view = self._core, self._core.view
        number = (first - 1) // SEGMENT_ROWS
        ref = view.manifest.segments.get(number)
        end = min(first + SEGMENT_ROWS, view.head.rotation_slot)
        if first >= view.head.tail_first:
            entries = [view.tail[slot] for slot in sorted(view.tail) if slot < end]
            opened = self._opened(entries)
            view.head = view.head._replace(rotated_to=end)
            for entry in self._sealed(entries, opened):
                view.tail[entry.slot] = entry
            self._rows.redo_digest()
            return
        if ref is None:
            view.head = view.head._replace(rotated_to=end)
            return
        left = self._rows.segments.without(ref, set(view.manifest.pending_in(number)))
        if left is None:
            self._rows.segments.drop(number)
            view.head = view.head._replace(rotated_to=end)
            return
        entries = sorted(entries_of(core, left.columns.slots), key=lambda entry: entry.slot)
        opened = self._opened(entries)
        view.head = view.head._replace(rotated_to=end)
        fresh = Columns.of(self._sealed(entries, opened))
        self._rows.segments.seal(number, left._replace(columns=fresh))

    def _opened(self, entries: list[Entry]) -> list[tuple[bytes, bytes]]:
        """The plaintexts (vector, record) of rows, as they are under their present keys."""
        core = self._core
        found = []
        for entry in entries:
            rows = core.database.rows("SELECT stamp, vector, record FROM memory WHERE slot = ?", (entry.slot,))
            if len(rows) != 1 or not isinstance(rows[0][0], bytes) or mark(rows[0][0]) != entry.mark:
                raise tampered("record")
            key = core.keys.row(entry.slot, core.view.head)
            lock = open_stamp(key, Place(core.store_id, "row", entry.slot), rows[0][0])
            found.append((lock.open(0, "vector", rows[0][1]), lock.open(1, "record", rows[0][2])))
        return found

    def _sealed(self, entries: list[Entry], opened: list[tuple[bytes, bytes]]) -> list[Entry]:
        """Seal rows anew under their present keys; the entries with their new marks."""
        core, head = self._core, self._core.view.head
        fresh = []
        for entry, (vector, record) in zip(entries, opened, strict=True):
            parts = {"vector": vector, "record": record}
            in_tail = entry.slot >= head.tail_first
            if in_tail:
                parts["entry"] = encode_entry(entry)
            place = Place(core.store_id, "row", entry.slot)
            stamp, sealed = seal(core.keys.row(entry.slot, head), place, parts)
            core.database.run(
                "UPDATE memory SET stamp = ?, vector = ?, record = ? WHERE slot = ?",
                (stamp, sealed[0], sealed[1], entry.slot),
            )
            if in_tail:
                core.database.run("UPDATE tail SET stamp = ?, entry = ? WHERE slot = ?", (stamp, sealed[2], entry.slot))
            fresh.append(entry._replace(mark=mark(stamp)))
        return fresh

    def _end(self) -> None:
        """Seal what is left and drop the old generation; call inside a transaction."""
        core, work = self._core, self._core.work
        before, head = core.keys.root, core.view.head
        log_key, lookup_key = os.urandom(KEY_BYTES), os.urandom(KEY_BYTES)
        self._named.move_all(lookup_key)
        self._ledger.reseal(before.log_key, log_key)
        core.keys.root = replace(before, log_key=log_key, lookup_key=lookup_key)
        core.view.head = core.view.head._replace(old_generation=0, rotated_to=0, rotation_slot=0, rotation_page=0)
        work.touched = work.forgets = True
        work.reason = "rotate"

        def renewed(root: Root) -> Root:
            core.keys.drop_generation(head.old_generation)
            latest = tuple(g for g in root.generations if g.number == core.view.head.generation)
            return self._access.rewrap(replace(root, generations=latest, log_key=log_key, lookup_key=lookup_key))

        work.change_root = renewed
