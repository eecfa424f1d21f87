"""What a forget reaches: the records named, what was derived from them, and the history that they replaced."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from store.format.columns import Columns, Entry
from store.keys.crypto import tampered
from store.tables.core import Core


def reached(core: Core, entries: Iterable[Entry]) -> list[Entry]:
    """``entries``, all records derived from them, and all that they or these supersede, each once."""
    found: dict[int, Entry] = {}
    waiting = list(entries)
    children: dict[int, list[Entry]] | None = None
    while waiting:
        entry = waiting.pop()
        if entry.id in found:
            continue
        found[entry.id] = entry
        if entry.supersedes:
            earlier = core.locate(entry.supersedes)
            if earlier is not None:
                waiting.append(earlier)
        if children is None:
            children = _derived(core)
        waiting += children.get(entry.id, [])
    return sorted(found.values(), key=lambda entry: entry.slot)


def _derived(core: Core) -> dict[int, list[Entry]]:
    """By id: the entries derived from it. Opens only segments that hold any."""
    view = core.view
    children: dict[int, list[Entry]] = {}
    for entry in view.tail.values():
        for id in entry.derived_from:
            children.setdefault(id, []).append(entry)
    for ref in view.manifest.segments.linked():
        columns = core.columns(ref)
        for slot, ids in columns.derived.items():
            at = columns.position(slot)
            if at is None or slot in view.manifest.pending:
                continue
            for id in ids:
                children.setdefault(id, []).append(columns.entry(at))
    return children


def expired(core: Core, now: float) -> list[Entry]:
    """The entries whose time is over."""
    view = core.view
    found = [entry for entry in view.tail.values() if entry.expires <= now]
    for ref in view.manifest.segments.expiring(now):
        entries = _of(core.columns(ref))
        found += [entry for entry in entries if entry.expires <= now and entry.slot not in view.manifest.pending]
    return found


def entries_of(core: Core, slots: npt.NDArray[np.int64]) -> list[Entry]:
    """The entries in these slots, by id."""
    view = core.view
    found = []
    for slot in slots.tolist():
        entry = view.tail.get(slot)
        if entry is None:
            columns = core.columns_of(slot)
            at = columns.position(slot)
            if at is None:
                raise tampered("segment")
            entry = columns.entry(at)
        found.append(entry)
    return sorted(found, key=lambda entry: entry.id)


def all_entries(core: Core) -> list[Entry]:
    """Every record's entry, history included, by id."""
    view = core.view
    found = list(view.tail.values())
    for ref in view.manifest.segments.values():
        found += [entry for entry in _of(core.columns(ref)) if entry.slot not in view.manifest.pending]
    return sorted(found, key=lambda entry: entry.id)


def _of(columns: Columns) -> list[Entry]:
    return [columns.entry(at) for at in range(len(columns))]
