"""The ledger: sealed entries that are only ever added, each chained to all before it.

The head holds the number of entries and the chain, so that a removed, changed or reordered entry is noticed. Receipts
of forgetting, the owner's consents and what left the device are entries. They are padded to whole kilobytes, and random
rows of one kilobyte follow them up to a class of counts, so that the file does not show how many there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from store.disk.database import Row
from store.format.padding import count_class, pad_to, unpad
from store.format.parts import prefixed, split_parts
from store.keys.crypto import STAMP_BYTES, TAG_BYTES, Place, open_one, seal_one, tampered
from store.tables.core import Core
from store.tables.noise import noise

MAX_ENTRY_BYTES = 1024 * 1024
_STEP_BYTES = 1024
_NOISE_BYTES = STAMP_BYTES + _STEP_BYTES + TAG_BYTES


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
        sealed = seal_one(core.keys.root.log_key, self._place(number), _padded(entry))
        core.database.run("INSERT OR REPLACE INTO ledger VALUES (?, ?)", (number, sealed))
        if count_class(number) != count_class(head.ledger_count):
            self.allocate(number)
        core.view.head = head._replace(ledger_count=number, ledger_chain=_chained(head.ledger_chain, entry))
        core.work.touched = True
        return number

    def allocate(self, count: int) -> None:
        """Fill the table with noise behind ``count`` entries, up to their class. Call inside a transaction."""
        rows = [(number, noise(_NOISE_BYTES)) for number in range(count + 1, count_class(count) + 1)]
        self._core.database.run_many("INSERT OR REPLACE INTO ledger VALUES (?, ?)", rows)

    def check_rows(self) -> None:
        """Raise ``TamperedError`` unless the table has as many rows as the class of its entries' count."""
        count = self._core.view.head.ledger_count
        if self._core.database.number("SELECT count(*) FROM ledger") != count_class(count):
            raise tampered("ledger")

    def entries(self, kind: str | None = None) -> Iterator[tuple[int, str, bytes]]:
        """(number, kind, content) of all entries in order, of one kind if given. Raises ``TamperedError``."""
        head, chain, count = self._core.view.head, bytes(32), 0
        for number, sealed in self._rows():
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
        for number, sealed in self._rows():
            fresh = seal_one(new_key, self._place(number), open_one(old_key, self._place(number), sealed))
            self._core.database.run("UPDATE ledger SET sealed = ? WHERE number = ?", (fresh, number))
        self.allocate(self._core.view.head.ledger_count)

    def _rows(self) -> list[Row]:
        """Numbers and sealed entries, as the head counts them."""
        count = self._core.view.head.ledger_count
        return self._core.database.rows("SELECT number, sealed FROM ledger WHERE number <= ? ORDER BY number", (count,))

    def _open(self, number: int, sealed: object) -> bytes:
        try:
            padded = open_one(self._core.keys.root.log_key, self._place(number), sealed)
            entry = unpad(padded, len(padded))
            split_parts(entry, 2)
            if len(padded) != len(_padded(entry)):
                raise ValueError
        except ValueError:
            raise tampered("ledger") from None
        return entry

    def _place(self, number: int) -> Place:
        return Place(self._core.store_id, "ledger", number)


def chain_after(chain: bytes, kind: str, content: bytes) -> bytes:
    """The chain (32 bytes) after one more entry: of the first, ``chain`` is 32 zero bytes.

    SHA-256(chain ‖ SHA-256(u32(length of kind) ‖ kind ‖ u32(length of content) ‖ content)), lengths big-endian.
    """
    return _chained(chain, prefixed(kind.encode("utf-8"), content))


def _padded(entry: bytes) -> bytes:
    return pad_to(entry, -(-(4 + len(entry)) // _STEP_BYTES) * _STEP_BYTES)


def _chained(chain: bytes, entry: bytes) -> bytes:
    return hashlib.sha256(chain + hashlib.sha256(entry).digest()).digest()
