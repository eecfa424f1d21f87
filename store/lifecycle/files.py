"""The file of a store: making it whole or not at all, and finding out what lies at a path.

A new store is built under another name, made durable, and only then given its own, so that a crash leaves
either a whole store or none. It never replaces one.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from store.disk.database import Database
from store.disk.folders import sync_folder
from store.disk.schema import APPLICATION_ID, PAGE_BYTES, SCHEMA, migrate
from store.errors import (
    StoreError,
    StoreExistsError,
    StoreFullError,
    StoreMissingError,
    TamperedError,
    UnknownFormatError,
)
from store.format.columns import NEVER
from store.format.head import Head
from store.format.manifest import Manifest
from store.format.registry import Registry
from store.keys.crypto import KEY_BYTES
from store.keys.keyring import Keyring
from store.keys.root import Root
from store.keys.slots import make_slot_with_key, write_slots
from store.keys.unlock import Unlock
from store.lifecycle.header import Header, make_header
from store.outside.device_secret import DeviceSecret, FileSecret, default_secret
from store.outside.witness import AnchorFile, Witness, default_anchor
from store.tables.commit import first_directories
from store.tables.core import Core, View
from store.tables.ledger import Ledger
from store.tables.named import NamedValues
from store.tables.rows import Rows

FILE_NAME = "memory.tacit"
JOURNALS = ("", "-wal", "-shm", "-journal")
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


Values = Mapping[tuple[str, str], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How a store is opened: what unlocks it, the device secret and the witness (``None``: the usual ones beside each
    other in the state folder), the time limit for a busy store, the clock (Unix seconds).
    """

    unlock: Unlock
    secret: DeviceSecret | None
    witness: Witness | None
    busy_timeout_s: float
    clock: Callable[[], float]
    accept_rollback: bool = False

    def secret_for(self, store_id: bytes) -> DeviceSecret:
        """The device secret of this store."""
        return default_secret(store_id) if self.secret is None else self.secret

    def witness_for(self, store_id: bytes) -> Witness:
        """The witness of this store: an anchor beside the device secret where that is a file."""
        if self.witness is not None:
            return self.witness
        if isinstance(self.secret, FileSecret):
            return AnchorFile(self.secret.path.with_suffix(".anchor"))
        return default_anchor(store_id)


def create_file(folder: Path, opening: Opening, dimension: int, values: Values) -> None:
    """Make a store of ``values`` alone in ``folder``. Raises ``StoreExistsError`` and others."""
    path = folder / FILE_NAME
    with typed_errors(path):
        is_new = not folder.exists()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for suffix in JOURNALS:
            # A journal left by an earlier store would be replayed into the new one.
            if os.path.lexists(f"{path}{suffix}"):
                raise StoreExistsError(f"{path}{suffix} exists: open that store, or choose another folder.")
        with building(path) as new:
            header = make_header()
            secret = opening.secret_for(header.store_id)
            refuse_inside(secret, folder)
            refuse_inside(opening.witness_for(header.store_id), folder)
            secret.create(1, first := os.urandom(KEY_BYTES))
            try:
                build(new, header, opening, first, dimension, lambda store: _put_all(store, values))
                publish(new, path)
            except BaseException:
                if not path.exists():
                    secret.destroy()
                raise
        sync_folder(folder)
        if is_new:
            sync_folder(folder.absolute().parent)


@contextmanager
def building(path: Path) -> Iterator[Path]:
    """The name of a file under construction beside ``path``; what is left of it at the end is deleted."""
    new = path.parent / f".{path.name}.{secrets.token_hex(8)}.new"
    try:
        yield new
    except StoreFullError:
        # SQLite's own text names the file under construction, which the user never chose.
        raise _no_space(path) from None
    finally:
        for suffix in JOURNALS:
            Path(f"{new}{suffix}").unlink(missing_ok=True)


def refuse_inside(outside: DeviceSecret | Witness, folder: Path) -> None:
    """Raise ``KeyFileError`` if the device secret or the witness is a file in the store's folder."""
    if isinstance(outside, (FileSecret, AnchorFile)):
        outside.refuse_inside(folder)


def connect(folder: Path, busy_timeout_s: float) -> tuple[Database, int]:
    """A connection to the store's file in ``folder``, and the file's format. Raises as ``open`` does."""
    path = folder / FILE_NAME
    with typed_errors(path):
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
        if schema < 1:
            raise TamperedError(f"{path} has no valid format number: restore it from a backup.")
        if schema == SCHEMA and database.rows("PRAGMA journal_mode") != [("wal",)]:
            database.rows("PRAGMA journal_mode = WAL")
        return database, schema
    except BaseException:
        database.close()
        raise


def build(
    path: Path, header: Header, opening: Opening, secret: bytes, dimension: int, fill: Callable[[Filling], None]
) -> None:
    """A whole store in the new file ``path``, durable: empty but for what ``fill`` puts into it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        database = Database(path, busy_timeout_s=0)
        try:
            # Nobody sees this file before it is whole, so one sync at the end is enough.
            database.run(f"PRAGMA page_size = {PAGE_BYTES}")
            database.rows("PRAGMA journal_mode = MEMORY")
            database.run("PRAGMA synchronous = OFF")
            store_key = os.urandom(KEY_BYTES)
            slot, kek = make_slot_with_key(1, opening.unlock, store_key=store_key, store_id=header.store_id)
            root = replace(Root.fresh(), slot_keys=((1, kek),))
            with database.write():
                with database.typed_errors():
                    migrate(database.utils)
                    database.utils.table("header").insert({"id": 1, **asdict(header)})
                write_slots(database, [slot])
                sealed = root.seal(store_key, secret, header.store_id)
                database.run("INSERT INTO root (id, epoch, sealed) VALUES (1, ?, ?)", (root.epoch, sealed))
                keys = Keyring(database, header.store_id, store_key, root)
                fill(Filling(database, keys, opening, dimension))
            database.rows("PRAGMA journal_mode = WAL")
        finally:
            database.close()
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Filling:
    """A store under construction: rows and values may be put, then :meth:`finish` seals head and directories."""

    def __init__(self, database: Database, keys: Keyring, opening: Opening, dimension: int) -> None:
        view = View(Head(dimension=dimension), Manifest(), Registry(), {}, {}, NEVER)
        secret = opening.secret_for(keys.store_id)
        self.core = Core(database, keys, secret=secret, witness=None, clock=opening.clock, view=view)
        self.named = NamedValues(self.core)
        self.rows = Rows(self.core)
        self.named.allocate()  # Before there are values, so that these take any of the rows.

    def finish(self) -> None:
        """Write what is written once."""
        self.rows.allocate()
        Ledger(self.core).allocate(self.core.view.head.ledger_count)
        first_directories(self.core)


def _put_all(store: Filling, values: Values) -> None:
    for (kind, name), value in values.items():
        store.named.put(kind, name, value)
    store.finish()


def publish(new: Path, path: Path) -> None:
    """Give the finished file its name, unless another process was faster."""
    try:
        os.link(new, path)
    except FileExistsError:
        raise StoreExistsError(f"{path} exists: open that store, or choose another folder.") from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A file system without hard links: here two creators at the same instant are not kept apart.
        new.rename(path)


@contextmanager
def typed_errors(path: Path) -> Iterator[None]:
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
