"""Following the store by difference: what an index that is kept in memory has to drop and to load at another commit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from store.format.head import Head
from store.format.segment_table import NO_SEGMENTS, SegmentRef
from store.tables.core import Core, View

Offsets = npt.NDArray[np.uint16]


class Follower:
    """Which segments and tail rows an index holds, so that it can be brought to another commit by difference."""

    def __init__(self) -> None:
        self.segments = NO_SEGMENTS
        self.offsets: dict[int, Offsets] = {}  # Which slots of each it holds, counted from the segment's first.
        self.tail: dict[int, bytes] = {}
        self._at: tuple[Head | None, object] = (None, None)

    def is_at(self, view: View) -> bool:
        """Whether ``view`` was reached: every change of it puts another head or manifest in place."""
        return self._at[0] is view.head and self._at[1] is view.manifest

    def arrived(self, view: View) -> None:
        """Note that the index holds what ``view`` does."""
        self._at = (view.head, view.manifest)
        self.segments = view.manifest.segments

    def changes(self, core: Core) -> tuple[list[int], list[SegmentRef], list[int], list[int]]:
        """Segments that are gone or changed, segments to load, tail slots that are gone, tail slots to load."""
        view = core.view
        stale, fresh = view.manifest.segments.changes_since(self.segments)
        if self._at[0] is not None and self._at[0].tail_digest == view.head.tail_digest:
            return stale, fresh, [], []
        gone = [slot for slot, its in self.tail.items() if slot not in view.tail or view.tail[slot].mark != its]
        new = [slot for slot, entry in view.tail.items() if self.tail.get(slot) != entry.mark]
        return stale, fresh, gone, new
