"""Receipts of forgetting: what was forgotten, when, and the roots before and after. No content, no hash of content.

>>> receipt = Receipt(what="forget", ids=(3,), time=0.0, epoch=2, root_before=bytes(32), root_after=bytes(32))
>>> Receipt.from_bytes(receipt.to_bytes()) == receipt
True
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from store.errors import TamperedError

KIND = "receipt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """``what``: forget, expire, purge, slots or rotate. ``ids``: the memories that are gone. ``time``: Unix seconds.
    ``epoch``: the one that began. ``root_before``, ``root_after``: 32-byte commitments to the roots' keys.
    """

    what: str
    ids: tuple[int, ...]
    time: float
    epoch: int
    root_before: bytes
    root_after: bytes

    def as_json(self) -> dict[str, object]:
        """The receipt as plain values, hashes in hexadecimal."""
        return {**asdict(self), "ids": list(self.ids), **{n: getattr(self, n).hex() for n in _ROOTS}}

    def to_bytes(self) -> bytes:
        """The content of its ledger entry."""
        return json.dumps(self.as_json(), separators=(",", ":")).encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes) -> Receipt:
        """The receipt in a ledger entry. Raises ``TamperedError``."""
        try:
            fields = json.loads(data)
            roots = {name: bytes.fromhex(fields[name]) for name in _ROOTS}
            return cls(**{**fields, "ids": tuple(fields["ids"]), **roots})
        except (ValueError, TypeError, KeyError):
            raise TamperedError("A receipt is not laid out as in format 2: restore the store from a backup.") from None


_ROOTS = ("root_before", "root_after")
