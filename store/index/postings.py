"""Postings: which of a segment's documents have which terms, as bytes and as arrays over these.

Little-endian: documents n and terms t (4 bytes each); the slots (8 each); the term hashes, ascending (8 each); how many
documents have each term (2 each); the postings, term by term (2 each), ascending, each the document's position times 64
plus the term's count there. A count above 63 weighs as 63, where a term's weight is close to its limit, so that a
posting fits into 16 bits.

>>> from store.index.terms import entry_of
>>> data = build_postings(np.array([3, 9]), [entry_of("two lamps"), entry_of("a lamp")])
>>> drop_from_postings(data, {3}) == build_postings(np.array([9]), [entry_of("a lamp")])
True
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from store.errors import TamperedError
from store.format.ranges import outside
from store.index.terms import TERM_BYTES

MAX_DOCS = 1024
TF_BITS = 6
TF_MAX = (1 << TF_BITS) - 1
_FEW_DROPPED = 8  # Up to so many, looking for each is faster than a table.
_PIECE = 16_384  # Postings: 32 kB.
_HEAD = struct.Struct("<II")  # Documents and terms.
Slots = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]
Packed = npt.NDArray[np.uint16]
Counts = npt.NDArray[np.uint32]


@dataclass(slots=True)
class Postings:
    """Arrays over a segment's n documents, t terms and p postings; ``lengths`` (words) and ``live`` are its own."""

    slots: Slots  # (n,)
    terms: Hashes  # (t,)
    offsets: Counts  # (t + 1,)
    packed: Packed  # (p,)
    lengths: Counts  # (n,)
    live: Bools  # (n,)

    @property
    def size_bytes(self) -> int:
        """Bytes in memory."""
        arrays = (self.slots, self.terms, self.offsets, self.packed, self.lengths)
        return 2 * len(self.terms) + sum(array.nbytes for array in arrays)


def build_postings(slots: Slots, entries: Sequence[bytes]) -> bytes:
    """The postings of at most 1,024 documents; ``entries`` are as from ``encode_terms``, ``slots`` (n,) ascend.

    Raises ``ValueError`` for slots out of order, ``TamperedError`` for a malformed entry.
    """
    if len(slots) != len(entries) or len(slots) > MAX_DOCS or (len(slots) and int(slots[0]) < 0):
        raise ValueError(f"Expected at most {MAX_DOCS} slots from 0 up with an entry each, got {len(slots)} slots.")
    if (slots[1:] <= slots[:-1]).any():
        raise ValueError("Expected ascending slots. Sort the entries by slot.")
    hashes, docs, counts = join_entries(entries)
    order = np.argsort(hashes, kind="stable")  # Equal terms stay in the order of their documents.
    ascending = hashes[order]
    starts = np.ones(len(hashes), dtype=np.bool_)
    starts[1:] = ascending[1:] != ascending[:-1]
    packed = ((docs << TF_BITS) | np.minimum(counts, TF_MAX))[order]
    having = np.diff(np.append(np.flatnonzero(starts), len(hashes)))
    return _to_bytes(slots, ascending[starts], having, packed)


def drop_from_postings(data: bytes | memoryview, slots: Collection[int]) -> bytes:
    """The postings of the other documents, as :func:`build_postings` would make them; unknown slots are passed over.

    Raises ``TamperedError`` unless :func:`build_postings` made exactly these bytes.
    """
    its, terms, offsets, packed = _arrays(data)
    keep = outside(its, slots)
    dropped, rest = _without(packed, keep)
    having = np.diff(offsets)
    having -= np.bincount(np.searchsorted(offsets, dropped, side="right") - 1, minlength=len(terms)).astype(np.uint32)
    if not having.all():
        terms, having = terms[having > 0], having[having > 0]
    return _to_bytes(its[keep], terms, having, rest)


def _without(packed: Packed, keep: Bools) -> tuple[Slots, Packed]:
    """Which postings (p,) belong to documents that are not kept, and the others with their documents counted anew."""
    gone = np.flatnonzero(~keep).tolist()
    if len(gone) > _FEW_DROPPED:
        dropped = np.flatnonzero(~keep[packed >> TF_BITS])
        rest = np.delete(packed, dropped)
        before = np.cumsum(~keep).astype(np.uint16) << np.uint16(TF_BITS)  # What each document's position loses.
        rest -= before[rest >> TF_BITS]
        return dropped, rest
    scratch = np.empty_like(packed)  # Fresh memory costs more than the work: one array serves all steps.
    hit = np.zeros(len(packed), dtype=np.bool_)
    for doc in gone:
        np.bitwise_xor(packed, np.uint16(doc << TF_BITS), out=scratch)
        hit |= scratch <= TF_MAX
    dropped = np.flatnonzero(hit)
    view, ends = packed.data, [*dropped.tolist(), len(packed)]
    rest = np.frombuffer(bytearray().join([view[a + 1 : b] for a, b in pairwise([-1, *ends])]), dtype="<u2")
    step = scratch[: len(rest)]
    for doc in reversed(gone):
        np.multiply(rest > (doc << TF_BITS), np.uint16(1 << TF_BITS), out=step)
        rest -= step
    return dropped, rest


def parse_postings(data: bytes | memoryview) -> Postings:
    """The arrays over ``data``. Raises ``TamperedError`` unless ``build_postings`` made exactly these bytes."""
    slots, terms, offsets, packed = _arrays(data)
    lengths = lengths_of(packed >> np.uint16(TF_BITS), packed & np.uint16(TF_MAX), len(slots))
    return Postings(slots, terms, offsets, packed, lengths, np.ones(len(slots), dtype=np.bool_))


def lengths_of(docs: npt.NDArray[np.integer], tf: Packed, count: int) -> Counts:
    """How many words each of ``count`` documents has, by the document (p,) and the count (p,) of each posting."""
    return np.bincount(docs, weights=tf, minlength=count).astype(np.uint32)


def join_entries(entries: Sequence[bytes]) -> tuple[Hashes, Slots, npt.NDArray[np.uint8]]:
    """All terms of ``entries``: hashes, each one's document by position, and counts. Raises ``TamperedError``."""
    sizes = [len(entry) // TERM_BYTES for entry in entries]
    pairs = list(zip(entries, sizes, strict=True))
    hashes = np.frombuffer(b"".join([entry[: 8 * size] for entry, size in pairs]), dtype="<u8")
    counts = np.frombuffer(b"".join([entry[8 * size :] for entry, size in pairs]), dtype=np.uint8)
    docs = np.repeat(np.arange(len(entries)), sizes)
    falls = (hashes[1:] <= hashes[:-1]) & (docs[1:] == docs[:-1])
    if any(len(entry) % TERM_BYTES for entry in entries) or falls.any() or not counts.all():
        raise TamperedError("A sealed entry's terms are not laid out as in format 2: restore the store from a backup.")
    return hashes, docs, counts


def _to_bytes(slots: Slots, terms: Hashes, having: npt.NDArray[np.integer], packed: npt.NDArray[np.integer]) -> bytes:
    """The postings as bytes: each array in its own width, copied once if it has it."""
    arrays: tuple[npt.NDArray[Any], ...] = (slots, terms, having, packed)
    kinds = ("<i8", "<u8", "<u2", "<u2")
    parts = [np.ascontiguousarray(its, dtype=kind).data for its, kind in zip(arrays, kinds, strict=True)]
    return b"".join([_HEAD.pack(len(slots), len(terms)), *parts])


def _arrays(data: bytes | memoryview) -> tuple[Slots, Hashes, Counts, Packed]:
    """Slots (n,), terms (t,), offsets (t + 1,) and postings (p,), as views of ``data`` where they can be.

    Raises ``TamperedError`` as :func:`parse_postings` does.
    """
    count, terms = _HEAD.unpack_from(data) if len(data) >= _HEAD.size else (MAX_DOCS + 1, 0)
    fixed = _HEAD.size + 8 * count + 10 * terms
    if count > MAX_DOCS or fixed > len(data) or len(data) % 2:
        raise _malformed()
    slots = np.frombuffer(data, "<i8", count, _HEAD.size)
    hashes = np.frombuffer(data, "<u8", terms, _HEAD.size + 8 * count)
    having = np.frombuffer(data, "<u2", terms, fixed - 2 * terms)
    packed = np.frombuffer(data, "<u2", offset=fixed)
    ascend = (slots[1:] > slots[:-1]).all() and (hashes[1:] > hashes[:-1]).all() and (count == 0 or slots[0] >= 0)
    if not ascend or not having.all() or int(having.sum(dtype=np.int64)) != len(packed):
        raise _malformed()
    offsets = np.zeros(terms + 1, dtype=np.uint32)
    np.cumsum(having, out=offsets[1:])
    if len(packed) and not (int(packed.max()) < count << TF_BITS and _in_order(packed, offsets)):
        raise _malformed()
    return slots, hashes, offsets, packed


def _in_order(packed: Packed, offsets: Counts) -> bool:
    """Whether each term's documents ascend and no count is zero, looked at in pieces that need no fresh memory."""
    rises = np.empty(len(packed) - 1, dtype=np.bool_)
    for start in range(0, len(packed), _PIECE):
        piece = packed[start : start + _PIECE]
        if not (piece & np.uint16(TF_MAX)).all():
            return False
        after = packed[start + 1 : start + 1 + _PIECE]
        np.greater(after, piece[: len(after)] | np.uint16(TF_MAX), out=rises[start : start + len(after)])
    rises[offsets[1:-1].astype(np.int64) - 1] = True  # From one term's last document to the next term's first.
    return bool(rises.all())


def _malformed() -> TamperedError:
    return TamperedError(
        "A sealed segment's postings are not laid out as in format 2: restore the store from a backup."
    )
