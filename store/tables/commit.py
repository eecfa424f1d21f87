"""Transactions: what is written once at their end, and the order in which a forget becomes final.

The order of a forget, each step durable before the next, so that a crash at any of them loses nothing and locks nobody
out: (1) the next device secret is written beside the current one; (2) one transaction rewrites the segments that held
the records, punctures their keys, seals a new root under the next secret, notes a receipt, and commits; (3) the journal
is folded into the file; (4) the old secret is destroyed; (5) the witness moves. Opening a store finishes what a crash
left undone after (2). A reader that holds (3) up gives ``ForgetPending``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from store.errors import ForgetPending, StoreError
from store.format.head import SEGMENT_ROWS
from store.format.ranges import NO_RANGES
from store.format.receipts import KIND as RECEIPT
from store.format.receipts import Receipt
from store.format.segment_table import SegmentRef
from store.keys.crypto import KEY_BYTES
from store.keys.root import Root
from store.outside.witness import Sighting, open_sighting, seal_sighting
from store.tables.core import Core, Work
from store.tables.ledger import Ledger

if TYPE_CHECKING:
    from store.tables.rows import Rows

WITNESS_EVERY = 64
_log = logging.getLogger("tacit.store")


class Commits:
    """Transactions of one store."""

    def __init__(self, core: Core, rows: Rows) -> None:
        self._core, self._rows, self._ledger = core, rows, Ledger(core)

    @contextmanager
    def transaction(self) -> Iterator[Work]:
        """A block whose changes are all durable when it ends, or undone if it raises. Blocks may nest."""
        core = self._core
        core.database.require_own()
        # Held from before it is asked whether this block is nested until the witness has been told: another thread's
        # block is none that this one could be nested in, and what it changes is not what this one tells.
        with core.database.lock:
            if core.database.depth:
                with self._restoring(), core.database.write():
                    yield core.work
                return
            core.work = work = Work()
            root, store_key = core.keys.root, core.keys.store_key
            try:
                with core.database.write():
                    core.sync(begins=True)
                    root, store_key = core.keys.root, core.keys.store_key
                    yield work
                    if work.touched:
                        self._finish(work)
            except BaseException:
                core.keys.store_key = store_key
                core.keys.adopt(root)  # Even the same root: its trees may have been punctured before the block failed.
                core.rollbacks += 1
                core.reread()  # So what the block left in the view is never looked at.
                raise
            if work.touched:
                self._after(work)

    @contextmanager
    def _restoring(self) -> Iterator[None]:
        """Put the view back if a nested block raises."""
        core = self._core
        view, work, before = core.view.copy(), core.work, core.work.copy()
        try:
            yield
        except BaseException:
            core.view = view
            work.restore(before)
            core.rollbacks += 1
            raise

    def _finish(self, work: Work) -> None:
        """Write what is written once a transaction: noise rows, a forget, manifest, registry, head."""
        core = self._core
        self._rows.allocate()
        before = core.view.head
        if work.forgets:
            self._forget(work)
        else:
            self._write_directories()
        witnessed = int(core.witnessed_at > 0) or before.witnessed
        counter = max(core.view.head.counter, before.counter + 1)
        core.view.head = core.view.head._replace(counter=counter, witnessed=witnessed)
        core.write_head()

    def _write_directories(self) -> None:
        """Write the manifest and the registry where they changed; a replaced page becomes garbage."""
        core, view = self._core, self._core.view
        if view.manifest is not core.written[0]:
            garbage = view.manifest.garbage.with_number(view.head.manifest_page)
            view.manifest = replace(view.manifest, garbage=garbage)
            core.write_manifest()
        if view.registry is not core.written[1]:
            view.registry = view.registry.with_garbage(view.head.registry_page)
            core.write_registry()

    # Forgetting

    def _forget(self, work: Work) -> None:
        """Puncture all that is pending and begin the next epoch. The next secret is durable before the commit is."""
        core = self._core
        core.before_forget()
        view = core.view
        tail_pending = view.head.pending_slots()
        slots = [*view.manifest.pending, *tail_pending]
        for number in sorted({(slot - 1) // SEGMENT_ROWS for slot in view.manifest.pending}):
            if number in view.manifest.segments:
                self._rewrite(view.manifest.segments[number], set(view.manifest.pending_in(number)))
        pages = [*view.manifest.garbage, *view.registry.garbage, view.head.manifest_page, view.head.registry_page]
        root = core.keys.punctured(slots, pages)
        if work.change_root is not None:
            root = work.change_root(root)
        secret = os.urandom(KEY_BYTES)
        core.secret.prepare(root.epoch, secret)
        self._note_receipt(work, core.keys.root, root)
        core.keys.adopt(root)
        core.database.run(
            "INSERT OR REPLACE INTO root (id, epoch, sealed) VALUES (1, ?, ?)",
            (root.epoch, root.seal(core.keys.store_key, secret, core.store_id)),
        )
        view.manifest = replace(view.manifest, pending=frozenset(), garbage=NO_RANGES)
        view.registry = replace(view.registry, garbage=NO_RANGES)
        view.head = view.head._replace(epoch=root.epoch, pending=bytes(len(view.head.pending)))
        core.write_manifest()
        core.write_registry()

    def _rewrite(self, ref: SegmentRef, gone: set[int]) -> None:
        """Seal a segment anew without these slots; drop it if nothing is left."""
        segments = self._rows.segments
        left = segments.without(ref, gone)
        if left is None:
            segments.drop(ref.number)
        elif len(left.columns) < len(self._core.columns(ref)):
            segments.seal(ref.number, left)

    def _note_receipt(self, work: Work, before: Root, after: Root) -> None:
        core = self._core
        receipt = Receipt(
            what=work.reason,
            ids=tuple(sorted(set(work.what))),
            time=core.clock(),
            epoch=after.epoch,
            root_before=before.commitment(core.store_id),
            root_after=after.commitment(core.store_id),
        )
        self._ledger.append(RECEIPT, receipt.to_bytes())
        work.receipt = receipt

    # After the commit

    def _after(self, work: Work) -> None:
        core = self._core
        core.written = (core.view.manifest, core.view.registry)
        core.committed = core.view.head.counter
        core.keys.slot = work.new_slot or core.keys.slot
        if work.forgets:
            self.complete_forget()
        elif work.witnesses:
            self.witness()
        elif core.view.head.counter - core.witnessed_at >= WITNESS_EVERY:
            try:
                self.witness()
            except StoreError as error:
                # The change is durable, and a caller who were told otherwise would repeat it: the next commit tries
                # again.
                _log.warning("%s", error)

    def complete_forget(self) -> None:
        """Fold the journal and destroy the secrets of earlier epochs. Raises ``ForgetPending``."""
        core = self._core
        if not core.database.fold_journal():
            raise ForgetPending(
                "The records are gone from the store, but another process still reads an earlier state and holds back "
                "the last step: an old copy of the files could be opened until it ends. Close it, then call purge() or "
                "open the store."
            )
        core.secret.commit(core.keys.root.epoch)
        self.witness()

    def finish_forget(self) -> None:
        """Complete a forget whose last step a crash or another process held back. Raises ``ForgetPending``."""
        secrets = self._core.secret.read()
        if len(secrets) > 1 and max(secrets) == self._core.keys.root.epoch:
            self.complete_forget()

    def witness(self) -> None:
        """Let the witness outside know how far the store has come."""
        core, head = self._core, self._core.view.head
        if core.witness is None or head.counter == core.witnessed_at:
            return
        # Another process may have moved it further: its commits came after ours, and a witness never moves back.
        seen = core.witness.read()
        if seen is None or self.sighted(seen).counter < head.counter:
            core.witness.write(self.sighting())
        core.witnessed_at = head.counter

    def sighting(self) -> bytes:
        """What a witness keeps: a fresh ciphertext of fixed size."""
        core, head = self._core, self._core.view.head
        sighting = Sighting(counter=head.counter, root=head.root_hash(), ratchet=head.ratchet)
        return seal_sighting(core.keys.root.anchor_key, core.store_id, sighting)

    def sighted(self, data: bytes) -> Sighting:
        """What a witness kept. Raises ``TamperedError``."""
        return open_sighting(self._core.keys.root.anchor_key, self._core.store_id, data)


def first_directories(core: Core) -> None:
    """Write manifest, registry and head of a store under construction; call inside a transaction."""
    core.write_manifest()
    core.write_registry()
    core.view.head = core.view.head._replace(counter=1, epoch=core.keys.root.epoch)
    core.write_head()
