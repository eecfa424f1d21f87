"""Sealed values by kind and name, for the layers above: settings, weights, ledgers, checkpoints.

A value is found by a keyed hash of its kind and name, so that the file shows neither. Sizes are padded to
classes. The store gives these methods to its callers under the same names.
"""

from __future__ import annotations

from store.crypto import StoreKeys, pad, prefixed, unpad
from store.database import Database
from store.errors import TamperedError

MAX_NAME_CHARS = 1_000
MAX_VALUE_BYTES = 256 * 1024 * 1024


class NamedValues:
    """The table ``named`` of one store."""

    def __init__(self, database: Database, keys: StoreKeys) -> None:
        self._database = database
        self._keys = keys

    def put(self, kind: str, name: str, value: bytes) -> None:
        """Store ``value`` under ``kind`` and ``name``, in place of an earlier one."""
        if not isinstance(value, bytes):
            raise TypeError(f"Expected a value of bytes, got {type(value).__name__}.")
        if len(value) > MAX_VALUE_BYTES:
            raise ValueError(f"Expected a value of at most {MAX_VALUE_BYTES} bytes, got {len(value)}: split it.")
        lookup = self._lookup(kind, name)
        title = pad(prefixed(kind.encode("utf-8"), name.encode("utf-8")))
        padded = pad(value)
        with self._database.write():
            rows = self._database.rows("SELECT version FROM named WHERE lookup = ?", (lookup,))
            version = rows[0][0] + 1 if rows else 1
            self._database.run(
                "INSERT INTO named (lookup, version, title, value) VALUES (?, ?, ?, ?) ON CONFLICT (lookup)"
                " DO UPDATE SET version = excluded.version, title = excluded.title, value = excluded.value",
                (
                    lookup,
                    version,
                    self._keys.title.seal(title, object_id=lookup, version=version),
                    self._keys.value.seal(padded, object_id=lookup, version=version),
                ),
            )

    def fetch(self, kind: str, name: str) -> bytes | None:
        """The value under ``kind`` and ``name``, or ``None`` if there is none."""
        lookup = self._lookup(kind, name)
        rows = self._database.rows("SELECT version, value FROM named WHERE lookup = ?", (lookup,))
        return self._open_value(lookup, *rows[0]) if rows else None

    def names(self, kind: str) -> list[str]:
        """The names under ``kind``, sorted. Opens the title of every named value in the store."""
        _check_name("kind", kind)
        rows = self._database.rows("SELECT lookup, version, title FROM named")
        titles = [self._open_title(*row) for row in rows]
        return sorted(name for its_kind, name in titles if its_kind == kind)

    def discard(self, kind: str, name: str) -> None:
        """Delete the value under ``kind`` and ``name``; without effect if there is none."""
        lookup = self._lookup(kind, name)
        with self._database.write():
            self._database.run("DELETE FROM named WHERE lookup = ?", (lookup,))

    def verify(self) -> int:
        """Open every title and value; how many there were. Raises ``TamperedError``."""
        checked = 0
        for (row,) in self._database.rows("SELECT id FROM named"):
            # One at a time: values may be large.
            for lookup, version, title, value in self._database.rows(
                "SELECT lookup, version, title, value FROM named WHERE id = ?", (row,)
            ):
                self._open_title(lookup, version, title)
                self._open_value(lookup, version, value)
                checked += 2
        return checked

    def _open_value(self, lookup: bytes, version: int, sealed: object) -> bytes:
        try:
            return unpad(self._keys.value.open(sealed, object_id=lookup, version=version))
        except ValueError:
            raise _malformed() from None

    def _open_title(self, lookup: object, version: int, sealed: object) -> tuple[str, str]:
        if not isinstance(lookup, bytes):
            raise _malformed()
        try:
            content = unpad(self._keys.title.open(sealed, object_id=lookup, version=version))
            size = int.from_bytes(content[:4], "big")
            kind, name = content[4 : 4 + size].decode("utf-8"), content[8 + size :].decode("utf-8")
        except ValueError:
            raise _malformed() from None
        if self._keys.lookup(kind, name) != lookup:
            raise _malformed()
        return kind, name

    def _lookup(self, kind: str, name: str) -> bytes:
        _check_name("kind", kind)
        _check_name("name", name)
        return self._keys.lookup(kind, name)


def _check_name(what: str, text: str) -> None:
    if not isinstance(text, str) or not 1 <= len(text) <= MAX_NAME_CHARS:
        raise ValueError(f"Expected {what} as text of 1 to {MAX_NAME_CHARS} characters.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"Expected {what} in valid Unicode.") from None


def _malformed() -> TamperedError:
    return TamperedError("A sealed value opened but is not laid out as in format 1: restore the store from a backup.")
