"""Reading a store of format 1, for its upgrade: ``tests/vectors/store_format1.json`` holds one.

Format 1 sealed each value under one key a kind, with random nonces; the data key was wrapped under a key that the
passphrase or device key gave.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from store.disk.database import Database
from store.errors import TamperedError, WrongKeyError
from store.format.parts import prefixed
from store.format.records import Record
from store.format.vectors import Vectors
from store.keys.crypto import MAGIC, Secret, hkdf
from store.keys.unlock import Argon2, DeviceKey, Passphrase, Unlock

_HEADER = "format, store_id, unlock, salt, memory_kib, passes, lanes, key_check, wrapped_key, digest"
_KINDS = {"passphrase": Passphrase, "device-key": DeviceKey}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A memory of format 1 with its vector (d,)."""

    id: int
    version: int
    record: Record
    vector: Vectors


class Format1(Secret):
    """A store of format 1, opened to be read once. Raises ``WrongKeyError`` or ``TamperedError``."""

    def __init__(self, database: Database, unlock: Unlock) -> None:
        self._database = database
        rows = database.rows(f"SELECT {_HEADER} FROM header")
        if len(rows) != 1:
            raise _damaged()
        form, self._store_id, kind, salt, memory_kib, passes, lanes, check, wrapped, digest = rows[0]
        try:
            cost = struct.pack(">III", memory_kib, passes, lanes)
            binding = prefixed(kind.encode("ascii"), salt, cost, check)
            expected = hashlib.sha256(prefixed(MAGIC, struct.pack(">I", form), self._store_id, binding, wrapped))
        except (struct.error, TypeError, AttributeError):
            raise _damaged() from None
        if form != 1 or expected.digest() != digest or kind not in _KINDS:
            raise _damaged()
        if not isinstance(unlock, _KINDS[kind]):
            raise WrongKeyError(f"The store opens with a {kind.replace('-', ' ')}: give that one, and it is upgraded.")
        root = _stretch(unlock, salt, Argon2(memory_kib=memory_kib, passes=passes, lanes=lanes))
        if not hmac.compare_digest(check, hkdf(root, "tacit/1/key-check", salt=self._store_id)):
            raise WrongKeyError(f"This {kind.replace('-', ' ')} does not open the store: check it and try again.")
        wrap = hkdf(root, "tacit/1/wrap", salt=self._store_id)
        self._data_key = self._open_under(wrap, "key", wrapped, binding, 1)

    def dimension(self) -> int:
        """How many floats each vector has."""
        rows = self._database.rows("SELECT version, sealed FROM state")
        if len(rows) != 1:
            raise _damaged()
        content = self._open("state", rows[0][1], struct.pack(">q", 1), rows[0][0])
        return int(_json(content)["dimension"])

    def last_id(self) -> int:
        """The highest id that was ever given."""
        rows = self._database.rows("SELECT seq FROM sqlite_sequence WHERE name = 'memory'")
        return int(rows[0][0]) if rows else 0

    def rows(self) -> Iterator[Row]:
        """All memories by id."""
        for id, version, vector, record in self._database.rows(
            "SELECT id, version, vector, record FROM memory ORDER BY id"
        ):
            object_id = struct.pack(">q", id)
            floats = np.frombuffer(self._open("vector", vector, object_id, version), dtype="<f4").astype(np.float32)
            fields = _json(self._open("record", record, object_id, version))
            try:
                yield Row(id=id, version=version, record=Record(**fields), vector=floats)
            except (TypeError, ValueError):
                raise _damaged() from None

    def values(self) -> Iterator[tuple[str, str, bytes]]:
        """(kind, name, value) of all named values."""
        for lookup, version, title, value in self._database.rows("SELECT lookup, version, title, value FROM named"):
            content = _unpad(self._open("title", title, lookup, version))
            size = int.from_bytes(content[:4], "big")
            kind, name = content[4 : 4 + size].decode("utf-8"), content[8 + size :].decode("utf-8")
            yield kind, name, _unpad(self._open("value", value, lookup, version))

    def _open(self, kind: str, sealed: object, object_id: bytes, version: int) -> bytes:
        key = hkdf(self._data_key, f"tacit/1/{kind}", salt=self._store_id)
        return self._open_under(key, kind, sealed, object_id, version)

    def _open_under(self, key: bytes, kind: str, sealed: object, object_id: bytes, version: object) -> bytes:
        if not isinstance(sealed, bytes) or len(sealed) < 29 or sealed[0] != 1 or type(version) is not int:
            raise _damaged()
        if not 0 < version < 2**63:
            raise _damaged()
        place = prefixed(MAGIC, struct.pack(">I", 1), self._store_id, kind.encode("ascii"))
        associated = place + prefixed(object_id, struct.pack(">Q", version))
        try:
            return AESGCM(key).decrypt(sealed[1:13], sealed[13:], associated)
        except InvalidTag:
            raise _damaged() from None


def _stretch(unlock: Unlock, salt: bytes, cost: Argon2) -> bytes:
    if isinstance(unlock, DeviceKey):
        return hkdf(unlock._key, "tacit/1/device-key", salt=salt)
    from store.keys.unlock import stretch

    return stretch(unlock, salt, cost)


def _unpad(padded: bytes) -> bytes:
    length = int.from_bytes(padded[:4], "big")
    content = padded[4 : 4 + length]
    if len(content) != length or padded[4 + length :].strip(b"\0"):
        raise _damaged()
    return content


def _json(padded: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(_unpad(padded))
    except ValueError:
        raise _damaged() from None
    if not isinstance(fields, dict):
        raise _damaged()
    return fields


def _damaged() -> TamperedError:
    return TamperedError("A sealed value of this format-1 store was changed: restore it from a backup, then upgrade.")
