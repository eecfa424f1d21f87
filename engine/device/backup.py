"""Taking a device's memories out as a whole and in again: a sealed archive, or plain lines for the owner to read.

An archive holds what the user said and its terms, history and expired ones included; vectors are made anew at import,
so that it can go to a device with another encoder. It is sealed under a recovery key of its own. Forgetting on the
device does not reach it.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.device.keeper import Memory, MemoryKeeper
from engine.errors import BackupError
from store import Record, RecoveryKey, StoredRecord
from store.outside.archive import read_archive, read_plain, write_archive, write_plain

_HEADER = {"kind": "tacit memories", "version": 1}
_FIELDS = ("text", "label", "time", "scope", "purpose", "source", "expires", "supersedes", "derived_from")


class BackedUpKeeper(MemoryKeeper):
    """A memory keeper that exports and imports. Use `Device`."""

    def export(self, path: Path | str, key: RecoveryKey) -> int:
        """Write all memories to the new file ``path``, sealed under ``key``; how many. Raises `ArchiveError`."""
        with self._lock:
            rows = (json.dumps(_as_row(stored), ensure_ascii=False).encode() for stored in self._all())
            return write_archive(Path(path), key, _HEADER, rows)

    def export_plain(self, path: Path | str) -> int:
        """Write all memories to the new file ``path`` in the clear, one JSON object a line; how many."""
        with self._lock:
            return write_plain(Path(path), _HEADER, (_as_row(stored) for stored in self._all()))

    def import_(self, path: Path | str, key: RecoveryKey) -> list[int]:
        """Add all memories of a sealed archive, or none; their new ids.

        Raises `WrongKeyError`, `TamperedError`, `ArchiveError` and `BackupError`.
        """
        header, items = read_archive(Path(path), key)
        return self._take_in(header, (_parsed(item) for item in items))

    def import_plain(self, path: Path | str) -> list[int]:
        """Add all memories of a plain export, or none; their new ids. Raises `ArchiveError` and `BackupError`."""
        header, rows = read_plain(Path(path))
        return self._take_in(header, rows)

    def _all(self) -> Iterator[StoredRecord]:
        return self._store.iter(history=True)

    def _take_in(self, header: object, rows: Iterable[dict[str, Any]]) -> list[int]:
        if header != _HEADER:
            raise BackupError("This archive does not hold memories as this version writes them: install a newer Tacit.")
        # Read to its end first: only then is it known to be whole.
        memories = [_as_memory(number, row) for number, row in enumerate(rows, 1)]
        known = {old for old, _ in memories}
        if len(known) < len(memories):
            raise BackupError("Two memories in the archive have the same id: correct the file, or export again.")
        vectors = self._encode([memory.text for _, memory in memories])
        fresh: dict[int, int] = {}
        waiting: list[tuple[int, Record, int]] = []

        def write() -> None:
            if waiting:
                ids = self._store.add_many([record for _, record, _ in waiting], vectors[[at for *_, at in waiting]])
                fresh.update(zip((old for old, *_ in waiting), ids, strict=True))
                waiting.clear()

        with self._lock, self._store.transaction():
            self._check_encoder_is_current()
            for at, (old, memory) in enumerate(memories):
                if memory.supersedes is not None or memory.derived_from:
                    write()  # What it points to must have its new id.
                    if memory.supersedes in known and memory.supersedes not in fresh:
                        raise BackupError(
                            f"Memory {at + 1} of the archive replaces one that does not come before it: check the file."
                        )
                waiting.append((old, _relinked(memory, fresh).record(0.0), at))
            write()
            for old, memory in memories:
                if memory.derived_from:
                    # A change may have linked it to a later one, which had no new id yet.
                    whole = _relinked(memory, fresh).record(0.0)
                    if whole != self._store.get(fresh[old]).record:
                        self._store.update(fresh[old], whole)
        return list(fresh.values())


def _as_row(stored: StoredRecord) -> dict[str, Any]:
    fields = {name: getattr(stored.record, name) for name in _FIELDS}
    return {"id": stored.id, **{name: value for name, value in fields.items() if value not in (None, ())}}


def _parsed(item: bytes) -> dict[str, Any]:
    try:
        row = json.loads(item)
    except (ValueError, RecursionError):
        raise BackupError("A memory in the archive is no JSON object: export it again.") from None
    return row if isinstance(row, dict) else {}


def _as_memory(number: int, row: dict[str, Any]) -> tuple[int, Memory]:
    """Return the old id and the memory in the row of this number; raise `BackupError`, which quotes nothing of it."""
    fields = {name: row[name] for name in _FIELDS if name in row}
    whole = type(row.get("id")) is int and "text" in fields and fields.get("time") is not None
    if not whole or len(row) != len(fields) + 1:
        raise BackupError(
            f"Memory {number} of the archive lacks its id, text or time, or has an unknown field: check the file."
        )
    try:
        memory = Memory(**{**fields, "derived_from": tuple(fields.get("derived_from", ()))})
        memory.record(0.0)
    except (ValueError, TypeError) as error:
        raise BackupError(f"Memory {number} of the archive is malformed. {error}") from None
    return row["id"], memory


def _relinked(memory: Memory, fresh: dict[int, int]) -> Memory:
    """Return the memory with new ids for old ones; links to what was forgotten before the export are dropped."""
    supersedes = fresh.get(memory.supersedes) if memory.supersedes is not None else None
    derived = tuple(fresh[id] for id in memory.derived_from if id in fresh)
    return replace(memory, supersedes=supersedes, derived_from=derived)
