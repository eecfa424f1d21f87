"""Which rows a reading may answer, and the ids of the records in them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from store.format.columns import Where
from store.format.head import SEGMENT_ROWS
from store.format.ranges import outside
from store.tables.core import Core

Slots = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def ids_of(core: Core, slots: Slots) -> Slots:
    """The ids (n,) of the records in ``slots`` (n,), each of which holds one."""
    view, order = core.view, np.argsort(slots, kind="stable")
    ascending = slots[order]
    numbers, starts = np.unique((ascending - 1) // SEGMENT_ROWS, return_index=True)
    ids = np.zeros(len(slots), dtype=np.int64)
    for number, start, end in zip(numbers.tolist(), starts, np.append(starts, len(slots))[1:], strict=True):
        part, ref = ascending[start:end], view.manifest.segments.get(number)
        if ref is None:
            ids[order[start:end]] = [view.tail[slot].id for slot in part.tolist()]
        else:
            columns = core.columns(ref)
            ids[order[start:end]] = columns.ids[np.searchsorted(columns.slots, part)]
    return ids


def where_slots(core: Core, where: Where, now: float) -> tuple[Callable[[Slots], Bools] | None, Slots | None]:
    """Which slots a reading may answer: a test for arrays of slots, and their list if it had to be made.

    Superseded and expired records are never answered. ``None`` twice means that all are.
    """
    view = core.view
    hidden = view.manifest.superseded
    if where.is_all() and now < view.soonest:
        if not hidden:
            return None, None
        gone = np.array(sorted(hidden), dtype=np.int64)
        return (lambda slots: ~np.isin(slots, gone)), None
    table = current(core, where, now)
    return (lambda slots: np.isin(slots, table)), table


def current(core: Core, where: Where, now: float, *, history: bool = False) -> Slots:
    """The slots (n,), ascending, of the records that ``where`` is about; past ones for ``history`` only."""
    view = core.view
    found = []
    for ref in view.manifest.segments.values():
        columns = core.columns(ref)
        found.append(columns.slots[columns.mask(where) & (history | (columns.expires > now))])
    tail = [entry.slot for entry in view.tail.values() if where.fits(entry) and (history or entry.expires > now)]
    slots = np.concatenate([*found, np.array(sorted(tail), dtype=np.int64)])
    gone = view.manifest.pending if history else view.manifest.superseded | view.manifest.pending
    return slots[outside(slots, gone)]
