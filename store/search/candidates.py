"""What a question might be answered by: the best of both searches, and what was kept just before and after each.

A question that names days may be answered by what was kept then in quite other words, so the best of that are here too.

Only records that the reading may answer are here, as candidates and as neighbours alike: what ``Where`` leaves out,
what is superseded, forgotten or past its time is neither, and lends no score to another. How rare a word is, BM25 takes
from the whole store. Neighbours are of the same scope and stand at most ``REACH`` places apart in the order in which
records were kept or last changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from store.format.columns import Where
from store.format.head import SEGMENT_ROWS
from store.format.ranges import outside
from store.format.records import StoredRecord
from store.format.vectors import Vectors
from store.tables.core import Core

REACH = 8
NONE = -1
Slots = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """The candidates of one search, in the order in which they were kept.

    ``records`` (n); ``derived`` (n), what the caller's function made of each, empty without one; ``vectors`` (n, d);
    ``products`` (n,), the inner product of each vector with the query; ``words`` (n,), BM25; ``found`` (n,), whether a
    search found it or it is a neighbour only; ``before`` (n,), the index of the record that was kept just before it in
    the same scope, or ``NONE``; ``rarity``, of each of the query's terms the inverse document frequency.
    """

    records: tuple[StoredRecord, ...]
    derived: tuple[Any, ...] = ()
    vectors: Vectors
    products: Floats
    words: Floats
    found: Bools
    before: Slots
    rarity: Mapping[int, float]

    def __len__(self) -> int:
        return len(self.records)


NOBODY = Candidates(
    records=(),
    vectors=np.zeros((0, 0), dtype=np.float32),
    products=np.zeros(0),
    words=np.zeros(0),
    found=np.zeros(0, dtype=np.bool_),
    before=np.zeros(0, dtype=np.int64),
    rarity={},
)


def with_neighbours(core: Core, where: Where, now: float, found: Slots, around: int) -> tuple[Slots, Slots]:
    """``found`` (n,) and up to ``around`` neighbours of each a side: slots (m,), ascending, and ``before`` (m,)."""
    window = REACH * (around + 1)  # One more than is reached, so that nothing between two of them is missed.
    near = np.unique(found[:, None] + np.arange(-window, window + 1))
    slots, scopes = _readable(core, where, now, near[near > 0])
    order = np.lexsort((slots, scopes))
    slots, scopes = slots[order], scopes[order]
    # Whether a row and the one after it, of the same scope, were kept close to each other.
    linked = (scopes[1:] == scopes[:-1]) & (np.diff(slots) <= REACH)
    wanted = np.isin(slots, found)
    reached = wanted.copy()
    for _ in range(around):
        forward, back = reached[:-1] & linked, reached[1:] & linked
        reached[1:] |= forward
        reached[:-1] |= back
    before = np.full(len(slots), NONE)
    before[1:][linked & reached[:-1]] = np.flatnonzero(linked & reached[:-1])
    slots, before = slots[reached], before[reached]
    # From positions by scope to positions by slot.
    ascending = np.argsort(slots)
    place = np.full(len(reached) + 1, NONE)
    place[np.flatnonzero(reached)[ascending]] = np.arange(len(slots))
    return slots[ascending], place[before[ascending]]


def _readable(core: Core, where: Where, now: float, slots: Slots) -> tuple[Slots, Slots]:
    """Those of ``slots`` (n,), ascending, that ``where`` is about, and a number for the scope of each."""
    view, everything = core.view, where.is_all()
    scopes: dict[str, int] = {}
    found, kinds = [], []
    folded, single = np.split(slots, [slots.searchsorted(view.head.tail_first)])
    numbers, starts = np.unique((folded - 1) // SEGMENT_ROWS, return_index=True)
    for number, part in zip(numbers.tolist(), np.split(folded, starts)[1:], strict=True):
        ref = view.manifest.segments.get(number)
        if ref is None:
            continue
        columns = core.columns(ref)
        at = np.minimum(columns.slots.searchsorted(part), len(columns) - 1)
        keep = (columns.slots[at] == part) & (columns.expires[at] > now)
        if not everything:
            keep &= columns.mask(where)[at]
        named = np.array([scopes.setdefault(scope, len(scopes)) for scope in columns.words["scope"]], dtype=np.int64)
        found.append(part[keep])
        kinds.append(named[columns.codes("scope")[at[keep]]])
    tail = [entry for slot in single.tolist() if (entry := view.tail.get(slot)) is not None]
    tail = [entry for entry in tail if where.fits(entry) and entry.expires > now]
    found.append(np.array([entry.slot for entry in tail], dtype=np.int64))
    kinds.append(np.array([scopes.setdefault(entry.scope, len(scopes)) for entry in tail], dtype=np.int64))
    known, scope = np.concatenate(found), np.concatenate(kinds)
    keep = outside(known, view.manifest.superseded) & outside(known, view.manifest.pending)
    return known[keep], scope[keep]
