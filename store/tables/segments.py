"""Segments: up to 1,024 rows in three sealed parts, codes, columns and postings, which are written and replaced whole.

A row arrives in the tail; a full tail is folded into a segment, and a forget seals the segments that it reaches anew
without the rows that are gone. The three parts share one page, so one key and one commitment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from store.format.columns import Columns, Entry
from store.format.head import SEGMENT_ROWS
from store.format.padding import pad
from store.format.parts import prefixed, views_of_parts
from store.format.ranges import outside
from store.format.segment_table import SegmentRef
from store.format.vectors import STORED, Vectors
from store.index.blocks import LANES, packed_signs, packed_without, unpacked_signs
from store.index.postings import build_postings, drop_from_postings
from store.index.quantizer import Codes, Quantizer, quantizer_for
from store.keys.crypto import Place, mark, seal, tampered
from store.tables.core import Core

Slots = npt.NDArray[np.int64]
Offsets = npt.NDArray[np.uint16]
_KEPT_BYTES = 4 * 1024 * 1024


class Parts(NamedTuple):
    """What a segment holds of n records: columns, signs in blocks (⌈n/32⌉, width, 2, 16), factors (n,), postings."""

    columns: Columns
    packed: Codes
    factors: Vectors
    postings: bytes


class Segments:
    """The segments of one store. What writes is to be called inside a transaction."""

    def __init__(self, core: Core) -> None:
        self._core = core
        _keep_freed_blocks()

    def quantizer(self) -> Quantizer:
        """The quantizer for the store's dimension."""
        return quantizer_for(self._core.view.head.dimension)

    def write(self, number: int, entries: Sequence[Entry]) -> None:
        """Seal ``entries``, which ascend by slot and carry codes and terms, as a segment."""
        slots = np.array([entry.slot for entry in entries], dtype=np.int64)
        codes = np.frombuffer(b"".join([entry.code for entry in entries]), dtype=np.uint8).reshape(len(entries), -1)
        signs, factors = self.quantizer().split(codes)
        postings = build_postings(slots, [entry.terms for entry in entries])
        self.seal(number, Parts(Columns.of(entries), packed_signs(signs), factors, postings))

    def seal(self, number: int, content: Parts) -> None:
        """Seal a segment under a fresh page, in place of an earlier segment of this number."""
        core, columns = self._core, content.columns
        page = core.next_page()
        offsets = (columns.slots - number * SEGMENT_ROWS - 1).astype("<u2").tobytes()
        codes = prefixed(offsets, content.packed.tobytes(), content.factors.astype(STORED).tobytes())
        parts = {"codes": pad(codes), "columns": columns.to_bytes(), "postings": pad(content.postings)}
        key = core.keys.page(page, core.view.head)
        stamp, sealed = seal(key, Place(core.store_id, "segment", page), parts)
        core.database.run(
            "INSERT OR REPLACE INTO segment (number, stamp, codes, columns, postings) VALUES (?, ?, ?, ?, ?)",
            (number, stamp, *sealed),
        )
        ref = SegmentRef(
            number=number,
            page=page,
            mark=mark(stamp),
            live=len(columns),
            soonest=float(columns.expires.min()),
            linked=columns.linked,
        )
        core.view.manifest = core.view.manifest.with_segment(ref)
        core.keep_columns(ref, columns)

    def drop(self, number: int) -> None:
        """Delete a segment; its page is punctured at the next forget."""
        view = self._core.view
        self._core.database.run("DELETE FROM segment WHERE number = ?", (number,))
        view.manifest = view.manifest.without_segment(number)
        self._core.forget_columns(number)

    def drop_all(self) -> None:
        """Delete all segments, whose rows are about to be replaced; their keys are punctured at the next forget."""
        view = self._core.view
        pending = set(view.manifest.pending)
        for number, ref in list(view.manifest.segments.items()):
            pending |= set(self._core.columns(ref).slots.tolist())
            self.drop(number)
        view.manifest = replace(view.manifest, pending=frozenset(pending))

    # Reading

    def without(self, ref: SegmentRef, gone: set[int]) -> Parts | None:
        """What a segment holds besides the slots that are gone; ``None`` if nothing. Raises ``TamperedError``."""
        columns = self._core.columns(ref).without(gone)
        if columns is None:
            return None
        codes, postings = self._core.open_segment(ref, "codes", "postings")
        offsets, packed, factors = self._codes_in(codes, ref)
        slots = ref.slots(offsets)
        kept = outside(slots, gone)
        if not np.array_equal(slots[kept], columns.slots):
            raise tampered("segment")
        words = self._core.open_padded(postings, "segment")
        left = drop_from_postings(words, gone) if gone else bytes(words)
        return Parts(columns, packed_without(packed, kept), factors[kept], left)

    def packed_codes(self, refs: Sequence[SegmentRef]) -> list[tuple[Offsets, Codes, Vectors]]:
        """Of each segment offsets (n,), signs in blocks (⌈n/32⌉, width, 2, 16), factors (n,). Numbers ascend.

        Offsets count slots from the segment's first. Raises ``TamperedError``.
        """
        opened = self._core.open_segments(refs, "codes")
        return [self._codes_in(part, ref) for ref, (part,) in zip(refs, opened, strict=True)]

    def codes(self, ref: SegmentRef) -> tuple[Slots, Codes]:
        """The slots (n,) int64 and codes (n, code_bytes) of a segment. Raises ``TamperedError``."""
        ((offsets, packed, factors),) = self.packed_codes([ref])
        numbers = factors.view(np.uint8).reshape(len(offsets), -1)
        return ref.slots(offsets), np.concatenate([unpacked_signs(packed)[: len(offsets)], numbers], axis=1)

    def postings(self, ref: SegmentRef) -> memoryview:
        """The postings of a segment, as ``index/postings.py`` lays them out. Raises ``TamperedError``."""
        return self._core.open_padded(self._core.open_segment(ref, "postings")[0], "segment")

    def _codes_in(self, opened: bytes, ref: SegmentRef) -> tuple[Offsets, Codes, Vectors]:
        """As :meth:`packed_codes`, of one part as it was opened."""
        content = self._core.open_padded(opened, "segment")
        live = ref.live
        try:
            offsets, packed, factors = views_of_parts(content, 3)
            counted = np.frombuffer(offsets, dtype="<u2")
            signs = np.frombuffer(packed, dtype=np.uint8).reshape(-(-live // LANES), -1, 2, 16)
            numbers = np.frombuffer(factors, dtype=STORED)
        except ValueError:
            raise tampered("segment") from None
        if len(counted) != live or len(numbers) != live or signs.shape[1] != self.quantizer().sign_bytes:
            raise tampered("segment")
        return counted, signs, numbers


def _keep_freed_blocks() -> None:
    """Let the C library keep blocks of a segment's size that are freed, a few megabytes in all, for their next use.

    The GNU library gives blocks of more than 128 kB back to the system at once, until one that was larger has been
    freed. Each page taken again is a fault: 500 for one forget, a third of its time. Other libraries are not affected.
    """
    np.empty(_KEPT_BYTES, dtype=np.uint8)  # Never written, so it takes no memory, and freed at once.
