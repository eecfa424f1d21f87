"""The file of a store: making it whole or not at all, and finding out what lies at a path.

A new store is built under another name, made durable, and only then given its own, so that a crash leaves
either a whole store or none. It never replaces one.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from store.crypto import StoreKeys
from store.database import Database
from store.errors import (
    StoreError,
    StoreExistsError,
    StoreFullError,
    StoreMissingError,
    TamperedError,
    UnknownFormatError,
)
from store.header import Header, make_header
from store.keys import Unlock, sync_folder
from store.named import NamedValues
from store.schema import APPLICATION_ID, SCHEMA, migrate
from store.state import State, write_state

FILE_NAME = "memory.tacit"
_JOURNALS = ("", "-wal", "-shm", "-journal")
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


Values = Mapping[tuple[str, str], bytes]


def create_file(folder: Path, unlock: Unlock, dimension: int, values: Values) -> tuple[Header, bytes]:
    """Make a store of ``values`` alone in ``folder``; its header and data key. Raises ``StoreExistsError``, others."""
    path = folder / FILE_NAME
    with _typed_errors(path):
        is_new = not folder.exists()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for suffix in _JOURNALS:
            # A journal left by an earlier store would be replayed into the new one.
            if os.path.lexists(f"{path}{suffix}"):
                raise StoreExistsError(f"{path}{suffix} exists: open that store, or choose another folder.")
        header, data_key = make_header(unlock)
        building = folder / f".{FILE_NAME}.{secrets.token_hex(8)}.new"
        try:
            _build(building, header, data_key, dimension, values)
            _publish(building, path)
        except StoreFullError:
            # SQLite's own text names the file under construction, which the user never chose.
            raise _no_space(path) from None
        finally:
            for suffix in _JOURNALS:
                Path(f"{building}{suffix}").unlink(missing_ok=True)
        sync_folder(folder)
        if is_new:
            sync_folder(folder.absolute().parent)
    return header, data_key


def connect(folder: Path, busy_timeout_s: float) -> Database:
    """A connection to the store's file in ``folder``, its kind and format checked. Raises as ``open`` does."""
    path = folder / FILE_NAME
    with _typed_errors(path):
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UnknownFormatError(f"{path} is no regular file: check the path.")
    if status.st_size == 0:
        raise TamperedError(f"{path} is empty, it was cut off: restore it from a backup.")
    database = Database(path, busy_timeout_s=busy_timeout_s)
    try:
        if database.number("PRAGMA application_id") != APPLICATION_ID:
            raise UnknownFormatError(f"{path} is a database but no Tacit store: check the path.")
        schema = database.number("PRAGMA user_version")
        if schema > SCHEMA:
            raise UnknownFormatError(f"{path} has format {schema}, newer than {SCHEMA}: install a newer Tacit.")
        if schema < SCHEMA:
            raise TamperedError(f"{path} has no valid format number: restore it from a backup.")
        if database.rows("PRAGMA journal_mode") != [("wal",)]:
            database.rows("PRAGMA journal_mode = WAL")
        return database
    except BaseException:
        database.close()
        raise


def read_header(database: Database) -> Header:
    """The header of the store, its fields not yet checked. Raises ``TamperedError``."""
    columns = ", ".join(Header.__slots__)
    rows = database.rows(f"SELECT {columns} FROM header")
    if len(rows) != 1:
        raise TamperedError(f"{database.path} lacks its header: restore it from a backup.")
    return Header(**dict(zip(Header.__slots__, rows[0], strict=True)))


def _build(path: Path, header: Header, data_key: bytes, dimension: int, values: Values) -> None:
    """A whole store in the new file ``path``, durable."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        database = Database(path, busy_timeout_s=0)
        try:
            # Nobody sees this file before it is whole, so one sync at the end is enough.
            database.rows("PRAGMA journal_mode = MEMORY")
            database.run("PRAGMA synchronous = OFF")
            with database.write():
                migrate(database.utils)
                database.utils.table("header").insert({"id": 1, **header.columns()})
                keys = StoreKeys(data_key, header.store_id)
                write_state(database, keys, State(dimension=dimension))
                named = NamedValues(database, keys)
                for (kind, name), value in values.items():
                    named.put(kind, name, value)
            database.rows("PRAGMA journal_mode = WAL")
        finally:
            database.close()
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _publish(building: Path, path: Path) -> None:
    """Give the finished file its name, unless another process was faster."""
    try:
        os.link(building, path)
    except FileExistsError:
        raise StoreExistsError(f"{path} exists: open that store, or choose another folder.") from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A file system without hard links: here two creators at the same instant are not kept apart.
        building.rename(path)


@contextmanager
def _typed_errors(path: Path) -> Iterator[None]:
    """Errors of the file system as this package's own."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise StoreMissingError(f"There is no store at {path}: create one, or check the path.") from None
    except FileExistsError:
        raise StoreMissingError(f"{path.parent} is no folder: choose another path.") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _no_space(path) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StoreMissingError(f"{path} cannot be reached ({error.strerror}): check its owner and mode.") from None
        raise StoreError(f"The file system failed at {path} ({error.strerror}): check the disk, then repeat.") from None


def _no_space(path: Path) -> StoreFullError:
    return StoreFullError(f"The disk is full, {path} was not made: free some space, then repeat.")
