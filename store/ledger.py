"""The ledger: sealed entries that are only ever added, each chained to all before it.

The head holds the number of entries and the chain, so that a removed, changed or reordered entry is noticed. Receipts
of forgetting, budget charges and what left the device are entries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from store.core import Core
from store.crypto import Place, open_one, seal_one, tampered
from store.padding import pad, unpad
from store.parts import prefixed, split_parts

MAX_ENTRY_BYTES = 1024 * 1024


class Ledger:
    """The table ``ledger`` of one store."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def append(self, kind: str, content: bytes) -> int:
        """Add an entry; its number, from 1. Call inside a transaction."""
        if not isinstance(content, bytes) or len(content) > MAX_ENTRY_BYTES:
            raise ValueError(f"Expected a ledger entry of at most {MAX_ENTRY_BYTES} bytes.")
        core, head = self._core, self._core.view.head
        number = head.ledger_count + 1
        entry = prefixed(kind.encode("utf-8"), content)
        sealed = seal_one(core.keys.root.log_key, self._place(number), pad(entry))
        core.database.run("INSERT INTO ledger VALUES (?, ?)", (number, sealed))
        core.view.head = head._replace(ledger_count=number, ledger_chain=_chained(head.ledger_chain, entry))
        core.work.touched = True
        return number

    def entries(self, kind: str | None = None) -> Iterator[tuple[int, str, bytes]]:
        """(number, kind, content) of all entries in order, of one kind if given. Raises ``TamperedError``."""
        head, chain, count = self._core.view.head, bytes(32), 0
        for number, sealed in self._core.database.rows("SELECT number, sealed FROM ledger ORDER BY number"):
            count += 1
            if number != count:
                raise tampered("ledger")
            entry = self._open(number, sealed)
            chain = _chained(chain, entry)
            its_kind, content = split_parts(entry, 2)
            if kind is None or its_kind == kind.encode("utf-8"):
                yield number, its_kind.decode("utf-8"), content
        if count != head.ledger_count or chain != head.ledger_chain:
            raise tampered("ledger")

    def reseal(self, old_key: bytes, new_key: bytes) -> None:
        """Seal all entries anew under another log key; call inside a transaction."""
        for number, sealed in self._core.database.rows("SELECT number, sealed FROM ledger ORDER BY number"):
            fresh = seal_one(new_key, self._place(number), open_one(old_key, self._place(number), sealed))
            self._core.database.run("UPDATE ledger SET sealed = ? WHERE number = ?", (fresh, number))

    def _open(self, number: int, sealed: object) -> bytes:
        try:
            entry = unpad(open_one(self._core.keys.root.log_key, self._place(number), sealed))
            split_parts(entry, 2)
        except ValueError:
            raise tampered("ledger") from None
        return entry

    def _place(self, number: int) -> Place:
        return Place(self._core.store_id, "ledger", number)


def _chained(chain: bytes, entry: bytes) -> bytes:
    return hashlib.sha256(chain + hashlib.sha256(entry).digest()).digest()
