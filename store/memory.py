"""The encrypted memory of one user: sealed records with their vectors, in one SQLite file.

Guarantees: what ``add``, ``update``, ``put`` and the others acknowledged survives a crash; a call that
raised changed nothing; no byte of a text, label, time, vector or name lies in the folder unsealed; a
changed byte raises ``TamperedError`` when it is read. ``FORMAT.md`` gives the layout.

>>> import tempfile, numpy as np
>>> from store.keys import DeviceKey
>>> folder, key = tempfile.mkdtemp(), DeviceKey.generate()
>>> with EncryptedStore.create(folder, key, dimension=2) as store:
...     number = store.add(Record(text="window seat", time=0.0), np.array([1, 0], dtype=np.float32))
>>> with EncryptedStore.open(folder, key) as store:
...     store.get(number).record.text
'window seat'

Not covered: who can write to the file can put back an older copy of it, or of a row, unseen, or remove rows.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from store import files
from store.crypto import StoreKeys, row_id
from store.database import Database
from store.errors import RecordMissingError, TamperedError
from store.header import Header
from store.index import ExactIndex
from store.keys import Unlock
from store.named import NamedValues
from store.records import Record, StoredRecord, decode_record, encode_record
from store.state import State, read_state, write_state
from store.vectors import Vectors, as_matrix, as_vector, check_dimension, open_vectors, vector_bytes

_PAGE_ROWS = 256
_BEFORE_ALL = -(2**63)  # A row that was moved to a negative id must not hide from the reading by pages.


class EncryptedStore:
    """A store that is open. Made by :meth:`create` or :meth:`open`; threads may share it.

    Ids are never given twice. A memory's version is 1 when added and grows by one with each change.
    """

    def __init__(self, database: Database, header: Header, data_key: bytes) -> None:
        """Internal: use :meth:`create` or :meth:`open`."""
        self._database = database
        self._store_id = header.store_id
        self._keys = StoreKeys(data_key, header.store_id)
        self._named = NamedValues(database, self._keys)
        self._index: ExactIndex | None = None
        self._index_seen = -1
        self._index_touched = False
        database.on_rollback = self._forget_uncommitted
        self._state_seen, self._state = database.foreign_changes(), read_state(database, self._keys)

    @classmethod
    def create(
        cls,
        folder: Path | str,
        unlock: Unlock,
        *,
        dimension: int,
        values: files.Values | None = None,
        busy_timeout_s: float = 5.0,
    ) -> EncryptedStore:
        """Make a store for vectors of ``dimension`` floats in ``folder`` (made with mode 0700 if missing).

        It holds the named ``values``, by (kind, name), from the first moment that it can be opened.
        Raises ``StoreExistsError`` if one is there. A call that is cut off at any point leaves no store.
        """
        check_dimension(dimension)
        header, data_key = files.create_file(Path(folder), unlock, dimension, values or {})
        return cls(files.connect(Path(folder), busy_timeout_s), header, data_key)

    @classmethod
    def open(cls, folder: Path | str, unlock: Unlock, *, busy_timeout_s: float = 5.0) -> EncryptedStore:
        """Open the store in ``folder``. A write waits at most ``busy_timeout_s`` for other processes.

        Raises ``StoreMissingError``, ``UnknownFormatError``, ``WrongKeyError``, ``TamperedError``, ``BusyError``.
        """
        database = files.connect(Path(folder), busy_timeout_s)
        try:
            header = files.read_header(database)
            return cls(database, header, header.data_key(unlock))
        except BaseException:
            database.close()
            raise

    # Records

    def add(self, record: Record, vector: Vectors) -> int:
        """Store ``record`` with its ``vector`` (d,) float32; the id given to it."""
        with self.transaction():
            return self._add([record], as_vector(vector, self.dimension)[None, :])[0]

    def add_many(self, records: Sequence[Record], vectors: Vectors) -> list[int]:
        """Store ``records`` with their ``vectors`` (n, d) float32, all or none; their ids, in order."""
        with self.transaction():
            return self._add(list(records), as_matrix(vectors, len(records), self.dimension))

    def get(self, id: int) -> StoredRecord:
        """The record with this id. Raises ``RecordMissingError``."""
        rows = self._database.rows("SELECT id, version, record FROM memory WHERE id = ?", (_number(id),))
        if not rows:
            raise _missing(id)
        return self._open_record(*rows[0])

    def vector(self, id: int) -> Vectors:
        """The vector (d,) of the record with this id. Raises ``RecordMissingError``."""
        with self._database.snapshot():
            rows = self._database.rows("SELECT id, version, vector FROM memory WHERE id = ?", (_number(id),))
            if not rows:
                raise _missing(id)
            matrix = open_vectors(rows, self._keys, self.dimension)  # (1, d)
            return matrix.reshape(-1)

    def vectors(self) -> tuple[list[int], Vectors]:
        """All ids, ascending, and their vectors (n, d)."""
        with self._database.snapshot():
            rows = self._database.rows("SELECT id, version, vector FROM memory ORDER BY id")
            return [row[0] for row in rows], open_vectors(rows, self._keys, self.dimension)

    def iter(
        self, *, scope: str | None = None, purpose: str | None = None, source: str | None = None
    ) -> Iterator[StoredRecord]:
        """The records in id order, only those with the given scope, purpose and source.

        Reads in pages: what is added or deleted meanwhile may show or not, each record is whole, and the
        caller may change the store between two of them.
        """
        last = _BEFORE_ALL
        while True:
            rows = self._database.rows(
                "SELECT id, version, record FROM memory WHERE id > ? ORDER BY id LIMIT ?", (last, _PAGE_ROWS)
            )
            for row in rows:
                stored = self._open_record(*row)
                record = stored.record
                wanted = ((scope, record.scope), (purpose, record.purpose), (source, record.source))
                if all(want is None or want == have for want, have in wanted):
                    yield stored
            if len(rows) < _PAGE_ROWS:
                return
            last = rows[-1][0]

    def update(self, id: int, record: Record, vector: Vectors | None = None) -> int:
        """Replace the record, and the vector unless it is ``None``; the new version. Raises ``RecordMissingError``."""
        with self.transaction():
            rows = self._database.rows("SELECT id, version, vector FROM memory WHERE id = ?", (_number(id),))
            if not rows:
                raise _missing(id)
            # Opened even where a new one comes: a forged version number must not be built upon.
            kept = open_vectors(rows, self._keys, self.dimension)[0]
            matrix = as_vector(kept if vector is None else vector, self.dimension)[None, :]  # (1, d)
            id, version = rows[0][0], int(rows[0][1]) + 1
            (row,) = self._sealed([id], [version], [record], matrix)
            self._database.run("UPDATE memory SET version = ?2, vector = ?3, record = ?4 WHERE id = ?1", row)
            self._index_put([id], [version], matrix)
            return version

    def delete(self, id: int) -> None:
        """Delete the record with this id and its vector. Raises ``RecordMissingError``."""
        self.delete_many([id])

    def delete_many(self, ids: Iterable[int]) -> None:
        """Delete these records and their vectors, all or, if one is missing, none: ``RecordMissingError``."""
        numbers = sorted({_number(id) for id in ids})
        with self.transaction():
            for number in numbers:
                if self._database.run("DELETE FROM memory WHERE id = ?", (number,)) != 1:
                    raise _missing(number)
            if self._index is not None:
                self._index_touched = True
                self._index.drop(numbers)

    def count(self) -> int:
        """The number of records."""
        return self._database.number("SELECT count(*) FROM memory")

    def replace_vectors(self, ids: Sequence[int], vectors: Vectors, dimension: int) -> None:
        """Give every record a new vector (n, dimension), as a new encoder needs, all at once.

        ``ids`` must name every record in the store, once each; each version grows by one. Raises ``ValueError``.
        """
        check_dimension(dimension)
        matrix = as_matrix(vectors, len(ids), dimension)
        with self.transaction():
            place = {_number(id): index for index, id in enumerate(ids)}
            rows = self._database.rows("SELECT id, version, record FROM memory ORDER BY id")
            if len(place) != len(ids) or {row[0] for row in rows} != place.keys():
                raise ValueError(f"Expected the ids of all {len(rows)} records, once each: take them from vectors().")
            order = [place[row[0]] for row in rows]
            records = [self._open_record(*row).record for row in rows]
            sealed = self._sealed([row[0] for row in rows], [row[1] + 1 for row in rows], records, matrix[order])
            self._database.run_many("UPDATE memory SET version = ?2, vector = ?3, record = ?4 WHERE id = ?1", sealed)
            self._state = write_state(self._database, self._keys, State(dimension=dimension))
            self._index, self._index_touched = None, True

    # Search

    def search(self, vector: Vectors, k: int) -> list[tuple[int, float]]:
        """The ids of the ``k`` vectors with the highest inner product with ``vector`` (d,), and the products.

        Best first, equal products by lower id; exact. The first search opens every vector.
        """
        if operator.index(k) < 1:
            raise ValueError(f"Expected k={k} to be at least 1.")
        with self._database.snapshot():
            query = as_vector(vector, self.dimension)
            return self._current_index().search(query, operator.index(k))

    def _current_index(self) -> ExactIndex:
        """The index, brought to the state that this snapshot shows."""
        seen = self._database.foreign_changes()
        index = self._index
        if index is None or index.dimension != self.dimension:
            index = ExactIndex(self.dimension)
        elif seen == self._index_seen:
            return index
        # Put back only when it is whole: an error on the way leaves no index, and the next search starts over.
        self._index, self._index_touched = None, True
        stored: dict[int, int] = dict(self._database.rows("SELECT id, version FROM memory"))
        index.drop([id for id, version in index.versions.items() if stored.get(id) != version])
        missing = [id for id in stored if id not in index.versions]
        for start in range(0, len(missing), _PAGE_ROWS):
            page = missing[start : start + _PAGE_ROWS]
            marks = ",".join("?" * len(page))
            rows = self._database.rows(f"SELECT id, version, vector FROM memory WHERE id IN ({marks})", page)
            opened = open_vectors(rows, self._keys, self.dimension)
            index.put([row[0] for row in rows], [row[1] for row in rows], opened)
        self._index, self._index_seen = index, seen
        return index

    # Named values

    def put(self, kind: str, name: str, value: bytes) -> None:
        """Seal ``value`` under ``kind`` and ``name``, in place of an earlier one."""
        with self.transaction():
            self._named.put(kind, name, value)

    def fetch(self, kind: str, name: str) -> bytes | None:
        """The value under ``kind`` and ``name``, or ``None`` if there is none."""
        return self._named.fetch(kind, name)

    def names(self, kind: str) -> list[str]:
        """The names under ``kind``, sorted."""
        return self._named.names(kind)

    def discard(self, kind: str, name: str) -> None:
        """Delete the value under ``kind`` and ``name``; without effect if there is none."""
        with self.transaction():
            self._named.discard(kind, name)

    # The store as a whole

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Group changes: all of the block's are durable when it ends, none if it raises. Blocks may nest."""
        with self._database.write():
            if self._database.depth == 1:
                self._index_touched = False
            yield

    @property
    def dimension(self) -> int:
        """How many floats each vector has."""
        seen = self._database.foreign_changes()
        if seen != self._state_seen:
            self._state_seen, self._state = seen, read_state(self._database, self._keys)
        return self._state.dimension

    @property
    def store_id(self) -> bytes:
        """16 random bytes that name this store."""
        return self._store_id

    def data_version(self) -> int:
        """A number that changes whenever this connection, another one or another process has committed."""
        return self._database.version()

    def verify(self) -> int:
        """Open every sealed value and check the file's structure; how many values. Raises ``TamperedError``."""
        with self._database.snapshot():
            if self._database.rows("PRAGMA integrity_check(1)") != [("ok",)]:
                raise TamperedError(f"{self._database.path} is damaged: restore it from a backup.")
            read_state(self._database, self._keys)
            checked, last = 1, _BEFORE_ALL
            while rows := self._database.rows(
                "SELECT id, version, vector, record FROM memory WHERE id > ? ORDER BY id LIMIT ?", (last, _PAGE_ROWS)
            ):
                open_vectors([row[:3] for row in rows], self._keys, self.dimension)
                for id, version, _, record in rows:
                    self._open_record(id, version, record)
                checked, last = checked + 2 * len(rows), rows[-1][0]
            return checked + self._named.verify()

    def close(self) -> None:
        """Close the store; calling it again has no effect."""
        self._index = None
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"EncryptedStore({str(self._database.path.parent)!r})"

    # Inside

    def _add(self, records: list[Record], matrix: Vectors) -> list[int]:
        """Store ``records`` with ``matrix`` (n, d) under the next ids; call inside a transaction."""
        last = self._database.number("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'memory'")
        ids = list(range(last + 1, last + 1 + len(records)))
        versions = [1] * len(ids)
        self._database.run_many(
            "INSERT INTO memory (id, version, vector, record) VALUES (?, ?, ?, ?)",
            self._sealed(ids, versions, records, matrix),
        )
        self._index_put(ids, versions, matrix)
        return ids

    def _sealed(
        self, ids: Sequence[int], versions: Sequence[int], records: Sequence[Record], matrix: Vectors
    ) -> list[tuple[int, int, bytes, bytes]]:
        """The rows (id, version, sealed vector, sealed record) for ``records`` and ``matrix`` (n, d)."""
        rows = []
        for id, version, record, vector in zip(ids, versions, records, matrix, strict=True):
            if not isinstance(record, Record):
                raise TypeError(f"Expected a Record, got {type(record).__name__}.")
            object_id = row_id(id)
            sealed_vector = self._keys.vector.seal(vector_bytes(vector), object_id=object_id, version=version)
            sealed_record = self._keys.record.seal(encode_record(record), object_id=object_id, version=version)
            rows.append((id, version, sealed_vector, sealed_record))
        return rows

    def _open_record(self, id: int, version: int, sealed: object) -> StoredRecord:
        record = decode_record(self._keys.record.open(sealed, object_id=row_id(id), version=version))
        return StoredRecord(id=id, version=version, record=record)

    def _index_put(self, ids: Sequence[int], versions: Sequence[int], matrix: Vectors) -> None:
        """Tell the index of rows just written; call inside a transaction."""
        if self._index is None:
            return
        self._index_touched = True
        if self._index.dimension == self.dimension:
            self._index.put(ids, versions, matrix)
        else:
            self._index = None

    def _forget_uncommitted(self) -> None:
        """After a block was undone: nothing kept in memory may show what it had written."""
        self._state_seen = -1
        if self._index_touched:
            self._index = None


def _number(id: int) -> int:
    """``id`` as a Python integer; what no row can have as its id is as good as missing."""
    number = operator.index(id)
    if not 0 < number < 2**63:
        raise _missing(number)
    return number


def _missing(id: int) -> RecordMissingError:
    return RecordMissingError(f"There is no record with id {id}: it was deleted or never added.")
