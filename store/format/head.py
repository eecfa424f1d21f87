"""The head: the one small sealed row that each commit writes, and from which all else is authenticated.

It names the current manifest and registry, counts commits, and binds the newest rows by a chained digest. An older
row, page or directory put back does not fit it; an older head put back with all it names is a rollback of the whole
file, which a witness outside notices.

>>> Head.from_bytes(Head(dimension=2).to_bytes()).dimension
2
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

from store.errors import TamperedError
from store.format.padding import pad_to, unpad
from store.format.vectors import MAX_DIMENSION

HEAD_BYTES = 1024
SEGMENT_ROWS = 1024
BITMAP_BYTES = SEGMENT_ROWS // 8
MAX_RATCHET_BYTES = 192
_LAYOUT = struct.Struct(f">16Q8s8s{BITMAP_BYTES}s{BITMAP_BYTES}s32s32sH")  # The fields of a head, in their order.


class Head(NamedTuple):
    """``dimension``: floats a vector. ``counter``: commits so far. ``next_slot``: the next row version.
    ``allocated``: rows that the table shows. ``live``: rows that hold a record. ``generation``: of the key trees;
    while a rotation runs, ``old_generation`` is not 0 and still holds rows from ``rotated_to`` up to ``rotation_slot``
    and pages below ``rotation_page``. ``witnessed``: 1 once a witness outside holds this store's counter.
    ``dead`` and ``pending`` are bitmaps over the tail: rows that hold nothing, and those of them whose keys are still
    to be punctured. ``ratchet``: opaque bytes of the layers above that a rollback must not take back.
    """

    dimension: int
    counter: int = 0
    epoch: int = 1
    next_slot: int = 1
    allocated: int = 0
    live: int = 0
    next_page: int = 0
    manifest_page: int = 0
    registry_page: int = 0
    ledger_count: int = 0
    generation: int = 1
    old_generation: int = 0
    rotated_to: int = 0
    rotation_slot: int = 0
    rotation_page: int = 0
    witnessed: int = 0
    manifest_mark: bytes = bytes(8)
    registry_mark: bytes = bytes(8)
    dead: bytes = bytes(BITMAP_BYTES)
    pending: bytes = bytes(BITMAP_BYTES)
    tail_digest: bytes = bytes(32)
    ledger_chain: bytes = bytes(32)
    ratchet: bytes = b""

    @property
    def tail_first(self) -> int:
        """The first slot of the tail: the rows that no segment holds yet."""
        return (self.next_slot - 1) // SEGMENT_ROWS * SEGMENT_ROWS + 1

    def tail_slots(self) -> list[int]:
        """The slots of the tail that hold a record, ascending."""
        first = self.tail_first
        return [slot for slot in range(first, self.next_slot) if not _bit(self.dead, slot - first)]

    def pending_slots(self) -> list[int]:
        """The slots of the tail whose keys are still to be punctured."""
        first = self.tail_first
        if not any(self.pending):
            return []
        return [slot for slot in range(first, self.next_slot) if _bit(self.pending, slot - first)]

    def root_hash(self) -> bytes:
        """32 bytes that stand for all that the store holds at this commit."""
        return hashlib.sha256(b"tacit/2/root-hash" + self.to_bytes()).digest()

    def to_bytes(self) -> bytes:
        """1,024 bytes, the plaintext of the table ``head``."""
        return pad_to(_LAYOUT.pack(*self[:-1], len(self.ratchet)) + self.ratchet, HEAD_BYTES)

    @classmethod
    def from_bytes(cls, padded: bytes) -> Head:
        """The head in 1,024 bytes. Raises ``TamperedError``."""
        try:
            content = unpad(padded, HEAD_BYTES)
            *values, size = _LAYOUT.unpack_from(content)
        except (ValueError, struct.error):
            raise malformed() from None
        head = cls._make([*values, content[_LAYOUT.size :]])
        if size != len(head.ratchet) or not 1 <= head.dimension <= MAX_DIMENSION or head.next_slot < 1:
            raise malformed()
        return head


def chained(digest: bytes, slot: int, mark: bytes) -> bytes:
    """The tail's digest once the row in ``slot``, sealed with ``mark``, follows those before."""
    return hashlib.sha256(digest + slot.to_bytes(8, "big") + mark).digest()


def with_bit(bitmap: bytes, index: int) -> bytes:
    """``bitmap`` with one more bit set."""
    changed = bytearray(bitmap)
    changed[index >> 3] |= 1 << (index & 7)
    return bytes(changed)


def _bit(bitmap: bytes, index: int) -> bool:
    return bool(bitmap[index >> 3] >> (index & 7) & 1)


def malformed() -> TamperedError:
    """The error for a head that opened and is none."""
    return TamperedError("The head opened but is not laid out as in format 2: restore the store from a backup.")
