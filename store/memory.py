"""The encrypted memory of one user: sealed records with their vectors, searchable, in one SQLite file.

Guarantees: what a call acknowledged survives a crash; a call that raised changed nothing; no byte of a text, label,
time, vector, word or name lies in the folder unsealed; a changed, swapped or older byte raises ``TamperedError`` when
it is read; an older copy of the whole file raises ``RolledBackError``, one from before the last forget never opens.
What was forgotten cannot be recovered from today's files, nor from an older copy with the passphrase and today's device
secret.
``FORMAT.md`` gives the layout, ``docs/threat-model.md`` the limits.

>>> import tempfile, numpy as np
>>> from store.keys.unlock import DeviceKey
>>> from store.outside.device_secret import FileSecret
>>> folder, key = tempfile.mkdtemp() + "/home", DeviceKey.generate()
>>> secret = FileSecret(tempfile.mkdtemp() + "/home.secret")
>>> with EncryptedStore.create(folder, key, dimension=2, secret=secret) as store:
...     number = store.add(Record(text="window seat", time=0.0), np.array([1, 0], dtype=np.float32))
>>> with EncryptedStore.open(folder, key, secret=secret) as store:
...     store.get(number).record.text
'window seat'
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from store.errors import RecordMissingError
from store.format.columns import Entry, Where
from store.format.receipts import Receipt
from store.format.records import Record, StoredRecord, require_records
from store.format.vectors import Vectors, as_matrix, as_vector, check_dimension
from store.index.terms import clear_cache
from store.keys.unlock import Unlock
from store.lifecycle import files
from store.lifecycle.opening import open_core
from store.open_store import AcceptRollback
from store.outside.device_secret import DeviceSecret
from store.outside.witness import Witness
from store.search.readable import current, ids_of, where_slots
from store.search.searcher import DEFAULT_CACHE_BYTES
from store.searched import EVERYTHING, SearchedStore
from store.tables.forgetting import all_entries, entries_of, expired, reached

_PAGE_ROWS = 256
_MOST_PENDING = 256


class EncryptedStore(SearchedStore):
    """A store that is open. Made by :meth:`create` or :meth:`open`; threads may share it.

    Ids are never given twice. A memory's version is 1 when added and grows by one with each change.
    """

    @classmethod
    def create(
        cls,
        folder: Path | str,
        unlock: Unlock,
        *,
        dimension: int,
        values: files.Values | None = None,
        secret: DeviceSecret | None = None,
        witness: Witness | None = None,
        busy_timeout_s: float = 5.0,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> EncryptedStore:
        """Make a store for vectors of ``dimension`` floats in ``folder`` (made with mode 0700 if missing).

        It holds the named ``values``, by (kind, name), from the first moment that it can be opened. ``secret`` and
        ``witness`` lie outside the folder: by default files in the user's state folder. Raises ``StoreExistsError`` if
        a store is there. A call that is cut off at any point leaves no store.
        """
        check_dimension(dimension)
        opening = files.Opening(
            unlock=unlock, secret=secret, witness=witness, busy_timeout_s=busy_timeout_s, clock=clock
        )
        files.create_file(Path(folder), opening, dimension, values or {})
        return cls(*open_core(Path(folder), replace(opening, accept_rollback=True)), cache_bytes)

    @classmethod
    def open(
        cls,
        folder: Path | str,
        unlock: Unlock,
        *,
        secret: DeviceSecret | None = None,
        witness: Witness | None = None,
        busy_timeout_s: float = 5.0,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        clock: Callable[[], float] = time.time,
        accept: AcceptRollback | None = None,
    ) -> EncryptedStore:
        """Open the store in ``folder``. A write waits at most ``busy_timeout_s`` for other processes.

        ``cache_bytes`` bounds the memory for opened vectors, half of it that for opened records. Raises
        ``StoreMissingError``, ``UnknownFormatError``, ``WrongKeyError``, ``DeviceSecretError``, ``ForgottenEpoch``,
        ``RolledBackError``, ``TamperedError`` and ``BusyError``.
        """
        opening = files.Opening(
            unlock=unlock,
            secret=secret,
            witness=witness,
            busy_timeout_s=busy_timeout_s,
            clock=clock,
            accept_rollback=accept is not None,
        )
        return cls(*open_core(Path(folder), opening), cache_bytes)

    # Records

    def add(self, record: Record, vector: Vectors) -> int:
        """Store ``record`` with its ``vector`` (d,) float32; the id given to it."""
        with self._commits.transaction():
            return self._add([record], as_vector(vector, self._core.view.head.dimension)[None, :])[0]

    def add_many(self, records: Sequence[Record], vectors: Vectors) -> list[int]:
        """Store ``records`` with their ``vectors`` (n, d) float32, all or none; their ids, in order."""
        with self._commits.transaction():
            return self._add(list(records), as_matrix(vectors, len(records), self._core.view.head.dimension))

    def _add(self, records: list[Record], matrix: Vectors) -> list[int]:
        require_records(records)
        linked = [record for record in records if record.supersedes is not None or record.derived_from]
        replaced = [self._entry(record.supersedes) for record in linked if record.supersedes is not None]
        for record in linked:
            for id in record.derived_from:
                self._entry(id)
        ids = self._rows.add([(None, 1, record) for record in records], matrix)
        if replaced:
            self._hide({entry.slot for entry in replaced})
        return ids

    def _hide(self, slots: set[int]) -> None:
        view = self._core.view
        view.manifest = replace(view.manifest, superseded=view.manifest.superseded | slots)

    def get(self, id: int) -> StoredRecord:
        """The record with this id, history and expired ones included. Raises ``RecordMissingError``."""
        with self._core.snapshot():
            return self._rows.record(self._entry(id))

    def vector(self, id: int) -> Vectors:
        """The vector (d,) of the record with this id. Raises ``RecordMissingError``."""
        with self._core.snapshot():
            entry = self._entry(id)
            return self._rows.vectors([entry.slot], [entry.mark]).reshape(-1)

    def vectors(self, where: Where = EVERYTHING) -> tuple[list[int], Vectors]:
        """All ids, ascending, and their vectors (n, d)."""
        with self._core.snapshot():
            entries = self._current(where)
            ids = [entry.id for entry in entries]
            return ids, self._rows.vectors([e.slot for e in entries], [e.mark for e in entries])

    def read(self, where: Where = EVERYTHING) -> tuple[list[StoredRecord], Vectors]:
        """All records that may be read, by id, and their vectors (n, d), as one commit has them.

        For who reads them again and again: what was opened stays in memory, within ``cache_bytes``, until the record is
        forgotten or changed or the store is closed, so that the next reading opens what is new.
        """
        with self._core.snapshot():
            slots = current(self._core, where, self._core.clock())
            return self._search.read(slots[np.argsort(ids_of(self._core, slots))])

    def iter(
        self,
        *,
        scope: str | None = None,
        purpose: str | None = None,
        source: str | None = None,
        after: float | None = None,
        before: float | None = None,
        without: str | None = None,
        history: bool = False,
    ) -> Iterator[StoredRecord]:
        """The records in id order, only those of the given scope, purpose, source and time; see `Where`.

        Records that a later one superseded, or whose time is over, show with ``history`` only. Reads in pages: what is
        added or deleted meanwhile may show or not, each record is whole, and the caller may change the store between
        two of them.
        """
        where = Where(scope=scope, purpose=purpose, source=source, after=after, before=before, without=without)
        last = 0
        while True:
            with self._core.snapshot():
                slots = current(self._core, where, self._core.clock(), history=history)
                ids = ids_of(self._core, slots)
                order = np.argsort(ids)
                first = np.searchsorted(ids[order], last, side="right")
                page = entries_of(self._core, slots[order[first : first + _PAGE_ROWS]])
                records = self._rows.records(page)
            yield from records
            if len(page) < _PAGE_ROWS:
                return
            last = page[-1].id

    def history(self, id: int) -> list[StoredRecord]:
        """The record and those it superseded, newest first. Raises ``RecordMissingError``."""
        with self._core.snapshot():
            chain: list[Entry] = []
            entry: Entry | None = self._entry(id)
            while entry is not None:
                chain.append(entry)
                entry = self._core.locate(entry.supersedes) if entry.supersedes else None
            return self._rows.records(chain)

    def update(self, id: int, record: Record, vector: Vectors | None = None) -> int:
        """Replace the record, and the vector unless it is ``None``; the new version. Raises ``RecordMissingError``.

        The earlier version cannot be read any more at once, and is forgotten for good with the next forget, with 256
        such versions, or when the store is closed. What the record supersedes stays as it is.
        """
        with self.transaction():
            entry = self._entry(id)
            old = self._rows.vectors([entry.slot], [entry.mark])[0]
            require_records([record])
            for source in record.derived_from:
                self._entry(source)
            if (record.supersedes or 0) != entry.supersedes:
                raise ValueError("Expected the record to supersede what it superseded: add a new record instead.")
            matrix = as_vector(old if vector is None else vector, self.dimension)[None, :]  # (1, d)
            self._replace([entry], [record], matrix)
            return entry.version + 1

    def _replace(self, entries: Sequence[Entry], records: Sequence[Record], matrix: Vectors) -> None:
        """Store new versions in place of ``entries``; call inside a transaction."""
        view = self._core.view
        hidden = {entry.id for entry in entries if entry.slot in view.manifest.superseded}
        self._rows.kill(entries)
        self._search.opener.drop([entry.slot for entry in entries])
        rows = [(entry.id, entry.version + 1, record) for entry, record in zip(entries, records, strict=True)]
        self._rows.add(rows, matrix)
        if hidden:
            found = (self._core.locate(id) for id in hidden)
            self._hide({entry.slot for entry in found if entry is not None})
        if len(view.manifest.pending) + len(view.head.pending_slots()) > _MOST_PENDING:
            self._forget_at_commit("purge", [])

    def count(self, where: Where = EVERYTHING) -> int:
        """The number of records."""
        with self._core.snapshot() as view:
            allowed, listed = where_slots(self._core, where, self._core.clock())
            if allowed is None:
                return view.head.live
            return view.head.live - len(view.manifest.superseded) if listed is None else len(listed)

    def replace_vectors(self, ids: Sequence[int], vectors: Vectors, dimension: int) -> None:
        """Give every record a new vector (n, dimension), as a new encoder needs, all at once.

        ``ids`` must name every record in the store, history included, once each; each version grows by one. Raises
        ``ValueError``.
        """
        check_dimension(dimension)
        matrix = as_matrix(vectors, len(ids), dimension)
        with self.transaction():
            view = self._core.view
            place = {_number(id): index for index, id in enumerate(ids)}
            entries = all_entries(self._core)
            if len(place) != len(ids) or {entry.id for entry in entries} != place.keys():
                raise ValueError(f"Expected the ids of all {len(entries)} records, once each: take them from iter().")
            records = [stored.record for stored in self._rows.records(entries)]
            self._rows.segments.drop_all()
            view.head = view.head._replace(dimension=dimension)
            self._rows.resize_noise()
            self._search.drop()
            self._replace(entries, records, matrix[[place[entry.id] for entry in entries]])
            self._core.work.touched = True
            self._forget_at_commit("purge", [])

    # Forgetting

    def forget(self, ids: int | Iterable[int]) -> Receipt | None:
        """Forget these records for good, with all that was derived from them and all that they superseded.

        The receipt says what is gone; inside a transaction there is none yet (it is in :meth:`receipts` after the
        block). Raises ``RecordMissingError`` and forgets none if one is missing, ``ForgetPending`` if a reader in
        another process holds back the last step.
        """
        wanted = list(ids) if isinstance(ids, Iterable) else [ids]
        with self.transaction() as work:
            entries = reached(self._core, [self._entry(id) for id in wanted])
            self._kill(entries, "forget")
        return work.receipt

    def erase(self, where: Where) -> Receipt | None:
        """Forget all records of a scope, purpose, source or time, history included."""
        with self.transaction() as work:
            entries = [entry for entry in all_entries(self._core) if where.fits(entry)]
            self._kill(reached(self._core, entries), "forget")
        return work.receipt

    def expire(self) -> Receipt | None:
        """Forget all records whose time is over; ``None`` if there is none."""
        with self.transaction() as work:
            entries = expired(self._core, self._core.clock())
            if entries:
                self._kill(reached(self._core, entries), "expire")
        return work.receipt

    def delete(self, id: int) -> None:
        """Forget the record with this id: see :meth:`forget`."""
        self.forget([id])

    def delete_many(self, ids: Iterable[int]) -> None:
        """Forget these records: see :meth:`forget`."""
        self.forget(list(ids))

    def receipts(self) -> list[Receipt]:
        """All receipts of forgetting, oldest first, as the chained ledger holds them. Raises ``TamperedError``."""
        with self._core.snapshot():
            return [Receipt.from_bytes(content) for _, _, content in self._ledger.entries("receipt")]

    def _kill(self, entries: Sequence[Entry], reason: str) -> None:
        if not entries:
            return
        self._rows.kill(entries)
        clear_cache()
        self._forget_at_commit(reason, [entry.id for entry in entries])

    def _forget_at_commit(self, reason: str, ids: list[int]) -> None:
        work = self._core.work
        work.forgets = True
        work.what += ids
        work.reason = reason if not work.what or reason != "purge" else work.reason

    # Inside

    def _entry(self, id: int) -> Entry:
        """The entry of the record with this id. Raises ``RecordMissingError``."""
        entry = self._core.locate(_number(id))
        if entry is None:
            raise _missing(id)
        return entry

    def _current(self, where: Where) -> list[Entry]:
        """The entries of the records that may be read, by id."""
        return entries_of(self._core, current(self._core, where, self._core.clock()))


def _number(id: int) -> int:
    """``id`` as a Python integer; what no row can have as its id is as good as missing."""
    number = operator.index(id)
    if not 0 < number < 2**63:
        raise _missing(number)
    return number


def _missing(id: int) -> RecordMissingError:
    return RecordMissingError(f"There is no record with id {id}: it was deleted or never added.")
