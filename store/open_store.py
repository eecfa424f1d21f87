"""An open store as a whole: transactions, sealed values, witnesses, slots, checks, closing. Records: ``memory.py``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from store.errors import BusyError, ForgetPending, RolledBackError, StoreFullError, WrongKeyError
from store.format.head import MAX_RATCHET_BYTES, Head
from store.format.receipts import Receipt
from store.keys.crypto import Secret
from store.lifecycle.access import Access
from store.lifecycle.rotation import Rotation
from store.lifecycle.verify import verify
from store.search.searcher import Searcher
from store.tables.commit import Commits
from store.tables.core import Core, Work
from store.tables.ledger import Ledger
from store.tables.named import NamedValues
from store.tables.rows import Rows


class AcceptRollback:
    """Pass one as ``accept`` to open an older copy of a store, of the same epoch, in place of the latest one.

    What was remembered since is lost; what was spent since (the ratchet) stays spent.
    """


class OpenStore(Secret):
    """The part of an open store that is not about records."""

    def __init__(self, core: Core, rows: Rows, commits: Commits, cache_bytes: int) -> None:
        """Internal: use ``EncryptedStore.create`` or ``EncryptedStore.open``."""
        self._core, self._rows, self._commits = core, rows, commits
        self._database = core.database
        self._named = NamedValues(core)
        self._search = Searcher(core, rows, cache_bytes)
        self._ledger = Ledger(core)
        self._left_in = 0  # The epoch in which this connection last replaced a named value.
        self.access = Access(core, commits)

    # Sealed values and the ledger

    def put(self, kind: str, name: str, value: bytes, *, purges: bool = True) -> None:
        """Seal ``value`` under ``kind`` and ``name``, in place of an earlier one.

        What was there is forgotten for good with the next forget, or, where it ``purges``, at the latest when the store
        is closed.
        """
        with self.transaction():
            if purges:
                self._leaves(kind, name)
            self._named.put(kind, name, value)

    def fetch(self, kind: str, name: str) -> bytes | None:
        """The value under ``kind`` and ``name``, or ``None`` if there is none."""
        with self._core.snapshot():
            return self._named.fetch(kind, name)

    def names(self, kind: str) -> list[str]:
        """The names under ``kind``, sorted."""
        with self._core.snapshot():
            return self._named.names(kind)

    def discard(self, kind: str, name: str) -> None:
        """Delete the value under ``kind`` and ``name``; without effect if there is none."""
        with self.transaction():
            self._leaves(kind, name)
            self._named.discard(kind, name)

    def _leaves(self, kind: str, name: str) -> None:
        if self._named.holds(kind, name):
            self._left_in = self._core.view.head.epoch

    def _head(self) -> Head:
        """The head of the latest commit, or of the transaction under way."""
        with self._core.snapshot() as view:
            return view.head

    def append(self, kind: str, content: bytes) -> int:
        """Add an entry to the ledger, chained to all before it; its number. ``receipt`` is the store's own kind."""
        if kind == "receipt":
            raise ValueError("Expected another kind than 'receipt': the store writes these itself.")
        with self.transaction():
            return self._ledger.append(kind, content)

    @property
    def epoch(self) -> int:
        """The number of the epoch: it grows with each forget, and with each change of slots or rotation."""
        return self._head().epoch

    @property
    def ledger_count(self) -> int:
        """The number of the ledger's entries: it grows with each forget, too."""
        return self._head().ledger_count

    def entries(self, kind: str | None = None) -> list[tuple[int, str, bytes]]:
        """(number, kind, content) of the ledger's entries, of one kind if given. Raises ``TamperedError``."""
        with self._core.snapshot():
            return list(self._ledger.entries(kind))

    # Witnesses

    @property
    def ratchet(self) -> bytes:
        """Opaque bytes that a rollback does not take back: what a budget has spent."""
        return self._head().ratchet

    def charge(self, ratchet: bytes) -> None:
        """Set the ratchet; durable here and at the witness when this returns. At most 192 bytes."""
        if len(ratchet) > MAX_RATCHET_BYTES:
            raise ValueError(f"Expected a ratchet of at most {MAX_RATCHET_BYTES} bytes, got {len(ratchet)}.")
        with self.transaction() as work:
            self._core.view.head = self._core.view.head._replace(ratchet=ratchet)
            self._core.work.touched = work.witnesses = True

    def sighting(self) -> bytes:
        """What a witness elsewhere, such as the federation server, may keep: fixed size, opaque, new each time."""
        with self._core.snapshot():
            return self._commits.sighting()

    def check_sighting(self, data: bytes) -> None:
        """Compare with what :meth:`sighting` gave. Raises ``RolledBackError`` if this store is older than it."""
        with self._core.snapshot() as view:
            seen = self._commits.sighted(data)
            if seen.counter > view.head.counter or (
                seen.counter == view.head.counter and seen.root != view.head.root_hash()
            ):
                raise RolledBackError(
                    f"The store is an older copy: it is at commit {view.head.counter}, and a witness elsewhere has "
                    f"seen {seen.counter}. Use the latest one."
                )

    # The store as a whole

    @contextmanager
    def transaction(self, *, witness: bool = False) -> Iterator[Work]:
        """Group changes: all of the block's are durable when it ends, none if it raises. Blocks may nest.

        With ``witness``, the witness outside knows of them too before the block returns.
        """
        with self._commits.transaction() as work:
            work.witnesses = work.witnesses or witness
            yield work

    def rotate(self, progress: Callable[[int, int], None] = lambda done, all_of_them: None) -> None:
        """Give the store new keys throughout: root, key trees, store key, and each sealed value anew.

        Works in short transactions between which the store is read and written as usual, by this or other processes;
        after a crash, calling it again goes on. ``progress`` is told (rows done, rows in all).
        """
        Rotation(self._core, self._rows, self._commits, self.access).run(progress)

    @property
    def rotating(self) -> bool:
        """Whether a rotation began and has not ended."""
        return self._head().old_generation != 0

    @property
    def dimension(self) -> int:
        """How many floats each vector has."""
        return self._head().dimension

    @property
    def store_id(self) -> bytes:
        """16 random bytes that name this store."""
        return self._core.store_id

    @property
    def lock(self) -> threading.RLock:
        """What serialises the threads that share this store. A layer above takes it too, as two locks could block."""
        return self._database.lock

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction of this connection is under way."""
        return self._database.depth > 0

    def data_version(self) -> int:
        """A number that changes whenever this connection, another one or another process has committed."""
        return self._database.version()

    def index_bytes(self) -> dict[str, int]:
        """Bytes in memory: ``embedding`` index, opened ``vectors`` and ``records``, ``lexical`` index, ``columns``."""
        return self._search.sizes()

    def verify(self) -> int:
        """Open every sealed value and check it against all that names it; how many. Raises ``TamperedError``."""
        with self._database.held():
            if not self._database.depth:
                self._core.reread()  # What is in memory says nothing of the file.
            self._core.drop_columns()
            with self._core.snapshot():
                return verify(self._core, self._rows, self._named, self._ledger)

    def close(self) -> None:
        """Close the store; calling it again has no effect.

        What updates left behind is forgotten for good, if the disk has room, no other process is in the way, and the
        slot that opened the store is still there.
        """
        try:
            if self._database.usable:
                self._settle()
        finally:
            self._search.drop()
            self._core.drop_columns()
            self._database.close()

    def purge(self) -> Receipt | None:
        """Forget for good what updates and discarded values left behind; ``None`` if there is nothing.

        Completes a forget that raised ``ForgetPending``; raises it again if the other process still reads.
        """
        with self._database.held():
            with self.transaction() as work:
                if self._has_left():
                    work.touched = work.forgets = True
                    work.reason = "purge" if not work.what else work.reason
            if not self._database.depth:
                with self._core.snapshot():
                    pass  # The latest root, if another process has forgotten something meanwhile.
                self._commits.finish_forget()
            return work.receipt

    def _has_left(self) -> bool:
        """Whether updates or replaced values left something. Each forget, by whomever, takes it all along."""
        view = self._core.view
        return bool(view.manifest.pending) or any(view.head.pending) or self._left_in == view.head.epoch

    def _settle(self) -> None:
        """Forget what updates left behind, and let the witness know the last commit; not where that must wait."""
        try:
            with self._core.snapshot():
                left = self._has_left()
            if left:
                self.purge()
            else:
                self._commits.finish_forget()
                self._commits.witness()
        except (BusyError, StoreFullError, ForgetPending, WrongKeyError):
            return  # All of it is durable, and whoever opens or forgets next does this.

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"EncryptedStore({str(self._database.path.parent)!r})"
