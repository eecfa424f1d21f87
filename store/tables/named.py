"""Sealed values by kind and name, for the layers above: settings, consent, budget, weights, queued updates.

A value is found by a keyed hash of its kind and name, so that the file shows neither. Sizes are padded to classes. The
registry names the latest sealing of each, so that an older value put back is noticed. Random rows of the smallest size
fill the table up to a class of counts. The store gives these methods to its callers under the same names.
"""

from __future__ import annotations

import hmac
import os
import secrets

from store.errors import TamperedError
from store.format.padding import SMALLEST_CLASS_BYTES, count_class, pad, unpad
from store.format.parts import prefixed
from store.keys.crypto import TAG_BYTES, Place, mark, open_stamp, seal, tampered
from store.tables.core import Core
from store.tables.noise import noise, noise_stamp

MAX_NAME_CHARS = 1_000
_LOOKUP_BYTES = 32
_UPDATE = "UPDATE named SET lookup = ?, stamp = ?, title = ?, value = ? WHERE lookup = ?"
_NOISE_BYTES = SMALLEST_CLASS_BYTES + TAG_BYTES
MAX_VALUE_BYTES = 256 * 1024 * 1024


class NamedValues:
    """The table ``named`` of one store."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def put(self, kind: str, name: str, value: bytes) -> None:
        """Store ``value`` under ``kind`` and ``name``, in place of an earlier one; call inside a transaction."""
        if not isinstance(value, bytes):
            raise TypeError(f"Expected a value of bytes, got {type(value).__name__}.")
        if len(value) > MAX_VALUE_BYTES:
            raise ValueError(f"Expected a value of at most {MAX_VALUE_BYTES} bytes, got {len(value)}: split it.")
        lookup = self._lookup(kind, name)
        title = pad(prefixed(kind.encode("utf-8"), name.encode("utf-8")))
        row = lookup if lookup in self._core.view.registry.values else self._spare()
        self._write(row, lookup, title, pad(value))

    def _write(self, row: bytes, lookup: bytes, title: bytes, value: bytes) -> None:
        """Seal what is padded already under a fresh page, in the row that ``row`` finds so far."""
        core = self._core
        page = core.next_page()
        parts = {"title": title, "value": value}
        key = core.keys.page(page, core.view.head)
        stamp, sealed = seal(key, Place(core.store_id, "value", page), parts)
        if core.database.run(_UPDATE, (lookup, stamp, *sealed, row)) != 1:
            raise tampered("list of values")
        core.view.registry = core.view.registry.with_value(lookup, page, mark(stamp))
        core.work.touched = True

    def holds(self, kind: str, name: str) -> bool:
        """Whether there is a value under ``kind`` and ``name``."""
        return self._lookup(kind, name) in self._core.view.registry.values

    def fetch(self, kind: str, name: str) -> bytes | None:
        """The value under ``kind`` and ``name``, or ``None`` if there is none."""
        lookup = self._lookup(kind, name)
        if lookup not in self._core.view.registry.values:
            return None
        return self.open_padded(lookup)[1]

    def names(self, kind: str) -> list[str]:
        """The names under ``kind``, sorted. Opens the title of every named value in the store."""
        _check_name("kind", kind)
        titles = [self._open_title(lookup) for lookup in self._core.view.registry.values]
        return sorted(name for its_kind, name in titles if its_kind == kind)

    def discard(self, kind: str, name: str) -> None:
        """Delete the value under ``kind`` and ``name``; without effect if there is none."""
        lookup = self._lookup(kind, name)
        core = self._core
        if lookup in core.view.registry.values:
            core.database.run(_UPDATE, (*_noise_row(), lookup))
            core.view.registry = core.view.registry.without(lookup)
            core.work.touched = True

    def allocate(self) -> None:
        """Add noise up to the class that holds one value more than there are. Call inside a transaction."""
        there = self._core.database.number("SELECT count(*) FROM named")
        wanted = count_class(len(self._core.view.registry.values) + 1)
        rows = [_noise_row() for _ in range(wanted - there)]
        self._core.database.run_many("INSERT INTO named VALUES (?, ?, ?, ?)", rows)

    def _spare(self) -> bytes:
        """What finds a row that holds nothing, any of them: rows in use must not be the first or the last ones."""
        unused = self._unused()
        if not unused:
            self.allocate()
            unused = self._unused()
        return secrets.choice(unused)

    def _unused(self) -> list[bytes]:
        values = self._core.view.registry.values
        return [lookup for (lookup,) in self._core.database.rows("SELECT lookup FROM named") if lookup not in values]

    def verify(self) -> int:
        """Open every title and value; how many there were. Raises ``TamperedError``."""
        values = self._core.view.registry.values
        for lookup in values:
            self._open_title(lookup)
            self.open_padded(lookup)
        there = self._core.database.number("SELECT count(*) FROM named")
        if there != count_class(there) or there < len(values):
            raise tampered("list of values")
        return 2 * len(values)

    def move_all(self, lookup_key: bytes) -> None:
        """Seal every value anew, to be found by another key, and the noise; call inside a transaction."""
        core = self._core
        for lookup in self._unused():
            core.database.run(_UPDATE, (*_noise_row(), lookup))
        for old in list(core.view.registry.values):
            kind, name = self._open_title(old)
            title, value = self.open_padded(old)
            core.view.registry = core.view.registry.without(old)
            self._write(old, _hash(lookup_key, kind, name), title, pad(value))

    def open_padded(self, lookup: bytes) -> tuple[bytes, bytes]:
        """Title (still padded) and value of a lookup in the registry. Raises ``TamperedError``."""
        title, value = self._open(lookup, "title, value", ("title", "value"))
        try:
            return title, unpad(value)
        except ValueError:
            raise _malformed() from None

    def _open_title(self, lookup: bytes) -> tuple[str, str]:
        (title,) = self._open(lookup, "title", ("title",))
        try:
            content = unpad(title)
            size = int.from_bytes(content[:4], "big")
            kind, name = content[4 : 4 + size].decode("utf-8"), content[8 + size :].decode("utf-8")
        except ValueError:
            raise _malformed() from None
        if _hash(self._core.keys.root.lookup_key, kind, name) != lookup:
            raise _malformed()
        return kind, name

    def _open(self, lookup: bytes, columns: str, names: tuple[str, ...]) -> list[bytes]:
        core = self._core
        page, expected = core.view.registry.values[lookup]
        rows = core.database.rows(f"SELECT stamp, {columns} FROM named WHERE lookup = ?", (lookup,))
        if len(rows) != 1 or not isinstance(rows[0][0], bytes) or mark(rows[0][0]) != expected:
            raise tampered("value")
        lock = open_stamp(core.keys.page(page, core.view.head), Place(core.store_id, "value", page), rows[0][0])
        return [
            lock.open(part, name, sealed) for part, (name, sealed) in enumerate(zip(names, rows[0][1:], strict=True))
        ]

    def _lookup(self, kind: str, name: str) -> bytes:
        _check_name("kind", kind)
        _check_name("name", name)
        return _hash(self._core.keys.root.lookup_key, kind, name)


def _hash(lookup_key: bytes, kind: str, name: str) -> bytes:
    return hmac.digest(lookup_key, prefixed(kind.encode("utf-8"), name.encode("utf-8")), "sha256")


def _noise_row() -> tuple[bytes, ...]:
    return os.urandom(_LOOKUP_BYTES), noise_stamp(), noise(_NOISE_BYTES), noise(_NOISE_BYTES)


def _check_name(what: str, text: str) -> None:
    if not isinstance(text, str) or not 1 <= len(text) <= MAX_NAME_CHARS:
        raise ValueError(f"Expected {what} as text of 1 to {MAX_NAME_CHARS} characters.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"Expected {what} in valid Unicode.") from None


def _malformed() -> TamperedError:
    return TamperedError("A sealed value opened but is not laid out as in format 2: restore the store from a backup.")
