"""One connection to the SQLite file of a store: settings, transactions, and errors with a type.

Guarantees: a write that returned is on the disk (write-ahead log, ``synchronous=FULL``); a block that
raised changed nothing; SQLite's errors leave as this package's own. One lock serialises the threads of the
process, ``BEGIN IMMEDIATE`` the processes. Sources: https://sqlite.org/wal.html, https://sqlite.org/rescode.html.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlite_utils

from store.disk.lockholder import holder_of
from store.errors import (
    BusyError,
    StoreError,
    StoreFullError,
    StoreMissingError,
    TamperedError,
    UnknownFormatError,
)

Row = tuple[Any, ...]
T = TypeVar("T")

_SETTINGS = (
    "PRAGMA synchronous = FULL",
    "PRAGMA secure_delete = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
)


class Database:
    """A connection that several threads may share."""

    def __init__(self, path: Path, *, busy_timeout_s: float) -> None:
        self.path = path
        self._busy_timeout_s = busy_timeout_s
        self._lock = threading.RLock()
        self.depth = 0
        self._pid = os.getpid()
        self._closed = False
        self._own_commits = 0
        self._foreign_changes = 0
        with self.typed_errors():
            uri = f"{path.absolute().as_uri()}?mode=rw"  # Never makes a file that is missing.
            connection = sqlite3.connect(
                uri, uri=True, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
            )
            # No plugins: whoever can install one would be handed the connection.
            self.utils = sqlite_utils.Database(connection, recursive_triggers=False, execute_plugins=False)
            self._connection = connection
            try:
                for setting in _SETTINGS:
                    connection.execute(setting)
                self._seen = self._pragma_data_version()
            except BaseException:
                connection.close()
                raise

    def close(self) -> None:
        """Close the connection; the last one to close folds the journal into the file. Again: no effect."""
        if self._pid != os.getpid():
            return  # The connection belongs to the parent process.
        with self._lock:
            if self._closed:
                return
            if self.depth:
                raise StoreError("The store cannot close inside its own transaction: leave the block first.")
            self._closed = True
            with self.typed_errors():
                self._connection.close()

    @property
    def usable(self) -> bool:
        """Whether the connection is open, in the process that opened it, and in no transaction."""
        return self._pid == os.getpid() and not self._closed and not self.depth

    @contextmanager
    def write(self) -> Iterator[None]:
        """A transaction that holds the write lock; blocks may nest, and each is undone alone if it raises."""
        self.require_own()
        with self._lock:  # Written out, as in :meth:`_done`: every add pays for it.
            self._require_open()
            if self.depth:
                yield from self._savepoint()
                return
            try:
                self.depth = 1
                self.run("BEGIN IMMEDIATE")
                yield
                self._require_transaction()
                self._own_commits += 1
                self.run("COMMIT")
            except BaseException:
                with self.typed_errors():
                    self.utils.rollback()
                raise
            finally:
                self.depth = 0

    def _savepoint(self) -> Iterator[None]:
        self._require_transaction()
        self.depth += 1
        try:
            with self.utils.atomic():
                yield
        finally:
            self.depth -= 1

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Reads inside the block all see one state, whatever other processes commit meanwhile."""
        with self.held():
            if self._connection.in_transaction:
                yield
                return
            try:
                self.run("BEGIN")
                yield
            finally:
                with self.typed_errors():
                    self.utils.rollback()

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """All rows that ``sql`` selects."""
        return self._done(lambda: self._connection.execute(sql, parameters).fetchall())

    def run(self, sql: str, parameters: Sequence[object] = ()) -> int:
        """Run one statement; the number of rows that it changed."""
        return self._done(lambda: self._connection.execute(sql, parameters).rowcount)

    def run_many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """Run one statement for each row: sqlite-utils inserts half as fast, so this is the hot path."""
        self._done(lambda: self._connection.executemany(sql, rows))

    def _done(self, step: Callable[[], T]) -> T:
        """What ``step`` returns: :meth:`held` and :meth:`typed_errors` in one, which takes a third of their time."""
        self.require_own()
        with self._lock:
            self._require_open()
            try:
                return step()
            except (sqlite3.Error, UnicodeDecodeError) as error:
                typed = self._typed(error)
                if typed is None:
                    raise
                raise typed from None

    def fold_journal(self) -> bool:
        """Move the journal into the file and empty it; ``False`` if a reader of an earlier state is in the way."""
        (busy, _, _), *_ = self.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        return bool(busy == 0)

    def number(self, sql: str) -> int:
        """The one integer that ``sql`` selects. Raises ``TamperedError`` where there is none."""
        rows = self.rows(sql)
        if len(rows) != 1 or type(rows[0][0]) is not int:
            raise TamperedError(f"{self.path} lacks a row that every store has: restore it from a backup.")
        return rows[0][0]

    def foreign_changes(self) -> int:
        """A count that grows whenever another connection or process was seen to have committed."""
        return self._done(self._counted_changes)

    def _counted_changes(self) -> int:
        now = self._pragma_data_version()
        if now != self._seen:
            self._seen = now
            self._foreign_changes += 1
        return self._foreign_changes

    def version(self) -> int:
        """A count that grows with every commit seen, one's own included."""
        with self.held():
            return self.foreign_changes() + self._own_commits

    def _pragma_data_version(self) -> int:
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    @property
    def lock(self) -> threading.RLock:
        """What serialises the threads of this process."""
        return self._lock

    @contextmanager
    def held(self) -> Iterator[None]:
        """A block in which no other thread uses the connection: open, and this process's own. Blocks may nest."""
        self.require_own()
        with self._lock:
            self._require_open()
            yield

    def require_own(self) -> None:
        """Raise ``StoreError`` in a process that was forked from the one that opened the store."""
        if self._pid != os.getpid():
            # SQLite's locks do not survive a fork: two processes on one connection would corrupt the file. Asked
            # before the lock, which another thread may have held at the fork and then nobody frees.
            raise StoreError("The store was opened before this process was forked: open it again here.")

    def _require_open(self) -> None:
        if self._closed:
            raise StoreError("The store is closed: open it again.")

    def _require_transaction(self) -> None:
        """After a full disk SQLite undoes the whole transaction; going on would commit each statement alone."""
        if not self._connection.in_transaction:
            raise StoreError("The transaction was undone by an earlier error: start it again.")

    @contextmanager
    def typed_errors(self) -> Iterator[None]:
        """A block in which SQLite's errors leave as this package's own."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            typed = self._typed(error)
            if typed is None:
                raise
            raise typed from None

    def _damaged(self) -> TamperedError:
        return TamperedError(f"{self.path} is damaged or was cut off: restore it from a backup.")

    def _typed(self, error: sqlite3.Error | UnicodeDecodeError) -> StoreError | None:
        """The error of this package for one of SQLite's; ``None`` for a misuse of the driver, which is a bug."""
        if isinstance(error, UnicodeDecodeError):
            return self._damaged()  # SQLite quotes damaged bytes in its messages, which Python then cannot read.
        code = getattr(error, "sqlite_errorcode", None)
        path = self.path
        if code is None:
            text = isinstance(error, sqlite3.OperationalError)  # Bytes that are no UTF-8, where text should be.
            return self._damaged() if text else None
        if code in (sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_FSYNC):
            return StoreFullError(f"The disk refused to write {path}: free some space, then repeat the last change.")
        if code == sqlite3.SQLITE_IOERR_SHORT_READ:
            return TamperedError(f"{path} was cut off: restore it from a backup.")
        match code & 0xFF:
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return BusyError(
                    f"{path} is busy: {holder_of(path)} has been writing for {self._busy_timeout_s:g} s. Let it finish "
                    "or close it, or raise busy_timeout_s."
                )
            case sqlite3.SQLITE_FULL:
                return StoreFullError(f"The disk is full, {path} is unchanged: free some space, then repeat.")
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_ERROR | sqlite3.SQLITE_CONSTRAINT | sqlite3.SQLITE_MISMATCH:
                return self._damaged()
            case sqlite3.SQLITE_NOTADB:
                return UnknownFormatError(f"{path} is no Tacit store, or its start is damaged: check the path.")
            case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM | sqlite3.SQLITE_READONLY:
                return StoreMissingError(f"{path} cannot be opened for writing: check its owner and mode.")
            case _:
                return StoreError(f"SQLite failed on {path} ({error.sqlite_errorname}): check the disk, then repeat.")
