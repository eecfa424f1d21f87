"""Upgrading a store of format 1 in place: read whole, written anew beside it, and then put in its place at once.

Ids, versions, records, vectors and named values carry over; keys do not. The old file's bytes are overwritten once the
new one stands. A copy of the format-1 file that was made earlier opens with its key as ever: say so to who keeps one.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from store.disk.database import Database
from store.disk.folders import sync_folder
from store.errors import BusyError, TamperedError, UnknownFormatError
from store.format.vectors import as_matrix
from store.keys.crypto import KEY_BYTES
from store.lifecycle.files import FILE_NAME, Filling, Opening, build, building, refuse_inside, typed_errors
from store.lifecycle.format1 import Format1, Row
from store.lifecycle.header import make_header

_BATCH = 256


def upgrade(folder: Path, opening: Opening) -> None:
    """Replace the format-1 store in ``folder`` by one of today's format. Raises as ``EncryptedStore.open`` does.

    Holds the store locked: ``BusyError`` if another process has it open for writing. A crash leaves either store.
    """
    path = folder / FILE_NAME
    with typed_errors(path):
        before = path.stat().st_ino
        try:
            _replace(path, before, opening)
        except (UnknownFormatError, TamperedError):
            # Another process that was faster has overwritten the old file, which this one had waited for.
            if path.stat().st_ino == before:
                raise


def _replace(path: Path, before: int, opening: Opening) -> None:
    old = Database(path, busy_timeout_s=opening.busy_timeout_s)
    try:
        # A journal is found by its file's name, so the old one must be gone before the new file takes that name.
        if old.rows("PRAGMA journal_mode = DELETE") != [("delete",)]:
            raise BusyError(f"{path} is open in another process and cannot be upgraded now: close it there.")
        with old.write():
            if old.number("PRAGMA user_version") != 1:
                return  # Another process was faster.
            source = Format1(old, opening.unlock)
            header = make_header()
            secret = opening.secret_for(header.store_id)
            refuse_inside(secret, path.parent)
            with building(path) as new:
                secret.create(1, first := os.urandom(KEY_BYTES))
                try:
                    build(new, header, opening, first, source.dimension(), lambda store: _fill(store, source))
                    _swap(path, new)
                except BaseException:
                    if path.stat().st_ino == before:
                        secret.destroy()
                    raise
    finally:
        old.close()


def _fill(store: Filling, source: Format1) -> None:
    """Write all rows under their old ids, then the values."""
    batch: list[Row] = []
    for row in source.rows():
        if batch and (row.id != batch[-1].id + 1 or len(batch) == _BATCH):
            _write(store, batch)
            batch = []
        batch.append(row)
    _write(store, batch)
    _skip_to(store, source.last_id() + 1)
    for kind, name, value in source.values():
        store.named.put(kind, name, value)
    store.finish()


def _write(store: Filling, batch: list[Row]) -> None:
    """Add rows with consecutive ids; the slots of ids that are missing before them stay empty."""
    if not batch:
        return
    dimension = store.core.view.head.dimension
    _skip_to(store, batch[0].id)
    matrix = as_matrix(np.stack([row.vector for row in batch]), len(batch), dimension)
    store.rows.add([(None, row.version, row.record) for row in batch], matrix)


def _skip_to(store: Filling, id: int) -> None:
    """Leave slots empty up to this id: no id is given twice."""
    while store.core.view.head.next_slot < id:
        store.rows.skip()


def _swap(path: Path, new: Path) -> None:
    """Give the new file the old one's name, and overwrite the old one's bytes as far as the file system lets us."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        new.rename(path)
        sync_folder(path.parent)
        for at in range(0, os.fstat(descriptor).st_size, 1 << 20):
            os.pwrite(descriptor, bytes(min(1 << 20, os.fstat(descriptor).st_size - at)), at)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
