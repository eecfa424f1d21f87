"""The header: which format and which store this is. Checked before any key is asked for.

>>> header = make_header()
>>> header.check() is None
True
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass

from store.disk.database import Database
from store.errors import TamperedError, UnknownFormatError
from store.format.parts import prefixed
from store.keys.crypto import FORMAT, MAGIC

STORE_ID_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The row of the table ``header``; its fields are its columns, in their order."""

    format: int
    store_id: bytes
    digest: bytes

    def check(self) -> None:
        """Raise unless the header is whole and of a known format."""
        if type(self.format) is not int or not 0 <= self.format < 2**32 or not isinstance(self.store_id, bytes):
            raise _damaged()
        if self.digest != digest_of(self.format, self.store_id) or len(self.store_id) != STORE_ID_BYTES:
            raise _damaged()
        if self.format != FORMAT:
            raise UnknownFormatError(f"The store has format {self.format}, not {FORMAT}: install a newer Tacit.")


def make_header(store_id: bytes | None = None) -> Header:
    """The header of a new store."""
    store_id = store_id or os.urandom(STORE_ID_BYTES)
    return Header(format=FORMAT, store_id=store_id, digest=digest_of(FORMAT, store_id))


def read_header(database: Database) -> Header:
    """The header of the store. Raises ``TamperedError`` or ``UnknownFormatError``."""
    rows = database.rows("SELECT format, store_id, digest FROM header")
    if len(rows) != 1:
        raise TamperedError(f"{database.path} lacks its header: restore it from a backup.")
    header = Header(format=rows[0][0], store_id=rows[0][1], digest=rows[0][2])
    header.check()
    return header


def digest_of(format_number: int, store_id: bytes) -> bytes:
    """Tells damage from another format; it has no key and stops no forger."""
    return hashlib.sha256(prefixed(MAGIC, struct.pack(">I", format_number), store_id)).digest()


def _damaged() -> TamperedError:
    return TamperedError("The header of the store was changed since it was written: restore the store from a backup.")
