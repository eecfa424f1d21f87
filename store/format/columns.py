"""Columns: what the store knows of each record besides its text and vector, for reading and filtering many at once.

A record's *entry* carries its columns, its code and its terms; 1,024 entries are folded into a segment, whose columns
are arrays. Both are sealed; nothing of them is in the clear.

>>> entry = Entry(slot=1, mark=bytes(8), id=1, version=1, time=0.0, scope="work")
>>> decode_entry(encode_entry(entry), slot=1, mark=bytes(8)) == entry
True
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from store.errors import TamperedError
from store.format.head import SEGMENT_ROWS
from store.format.padding import pad, unpad
from store.format.parts import prefixed, split_parts
from store.format.ranges import outside

NEVER = math.inf
MARK_BYTES = 8
_FIXED = struct.Struct(">QIddQ3H2I")
_WORDS = ("scope", "purpose", "source")
_ARRAYS = (
    ("offsets", "<u2"),
    ("ids", "<u8"),
    ("versions", "<u4"),
    ("times", "<f8"),
    ("expires", "<f8"),
    ("supersedes", "<u8"),
    ("scope", "<u2"),
    ("purpose", "<u2"),
    ("source", "<u2"),
)
Bools = npt.NDArray[np.bool_]
Slots = npt.NDArray[np.int64]
Span = tuple[float, float]
"""From one time to another, in Unix seconds, the latter excluded."""


class Entry(NamedTuple):
    """The columns of the record in ``slot``, whose row was sealed with ``mark``, and its code and terms.

    Times are in Unix seconds; ``expires`` is infinity for never. ``supersedes`` is an id or 0.
    """

    slot: int
    mark: bytes
    id: int
    version: int
    time: float
    expires: float = NEVER
    supersedes: int = 0
    scope: str = "default"
    purpose: str = "personalization"
    source: str = "user"
    derived_from: tuple[int, ...] = ()
    code: bytes = b""
    terms: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Which memories a reading is about. Times are in Unix seconds, ``before`` excluded; ``None`` is any.

    ``without`` leaves out those of one purpose.

    Raises ``ValueError`` for a time that is no number.
    """

    scope: str | None = None
    purpose: str | None = None
    source: str | None = None
    after: float | None = None
    before: float | None = None
    without: str | None = None

    def __post_init__(self) -> None:
        for name in ("after", "before"):
            if getattr(self, name) is not None and math.isnan(getattr(self, name)):
                raise ValueError(f"Expected {name} as Unix seconds, got NaN.")

    def is_all(self) -> bool:
        """Whether nothing is left out."""
        return self == Where()

    def during(self, after: float, before: float) -> Where:
        """Those of these whose time is in a span, in Unix seconds, ``before`` excluded."""
        return replace(
            self,
            after=after if self.after is None else max(after, self.after),
            before=before if self.before is None else min(before, self.before),
        )

    def fits(self, entry: Entry) -> bool:
        """Whether the record is one of these."""
        return (
            (self.after is None or entry.time >= self.after)
            and (self.before is None or entry.time < self.before)
            and self.scope in (None, entry.scope)
            and self.purpose in (None, entry.purpose)
            and self.source in (None, entry.source)
            and (self.without is None or entry.purpose != self.without)
        )


def encode_entry(entry: Entry) -> bytes:
    """The padded bytes that are sealed for ``entry``; slot and mark are known from the row."""
    scope, purpose, source = entry.scope.encode("utf-8"), entry.purpose.encode("utf-8"), entry.source.encode("utf-8")
    derived = struct.pack(f">{len(entry.derived_from)}Q", *entry.derived_from) if entry.derived_from else b""
    fixed = _FIXED.pack(
        entry.id,
        entry.version,
        entry.time,
        entry.expires,
        entry.supersedes,
        len(scope),
        len(purpose),
        len(source),
        len(derived),
        len(entry.code),
    )
    return pad(b"".join((fixed, scope, purpose, source, derived, entry.code, entry.terms)))


def decode_entry(padded: bytes, *, slot: int, mark: bytes) -> Entry:
    """The entry in ``padded``. Raises ``TamperedError``. Unlocking does this for the whole tail."""
    try:
        content = unpad(padded)
        id, version, time, expires, supersedes, scope, purpose, source, derived, code = _FIXED.unpack_from(content)
        # From here on, the places in ``content`` at which they end.
        scope += _FIXED.size
        purpose += scope
        source += purpose
        derived += source
        code += derived
        if code > len(content):
            raise ValueError
        return Entry(
            slot,
            mark,
            id,
            version,
            time,
            expires,
            supersedes,
            content[_FIXED.size : scope].decode("utf-8"),
            content[scope:purpose].decode("utf-8"),
            content[purpose:source].decode("utf-8"),
            struct.unpack(f">{(derived - source) >> 3}Q", content[source:derived]) if derived > source else (),
            content[derived:code],
            content[code:],
        )
    except (ValueError, struct.error):
        raise _malformed("entry") from None


class Columns:
    """The columns of n records by ascending slot; arrays of shape (n,)."""

    def __init__(
        self,
        slots: Slots,
        marks: bytes,
        arrays: dict[str, npt.NDArray[np.generic]],
        words: dict[str, list[str]],
        derived: dict[int, tuple[int, ...]],
    ) -> None:
        self.slots, self.marks, self.words, self.derived = slots, marks, words, derived
        self.ids: Slots = arrays["ids"].astype(np.int64)
        self.versions: Slots = arrays["versions"].astype(np.int64)
        self.times: npt.NDArray[np.float64] = arrays["times"].astype(np.float64)
        self.expires: npt.NDArray[np.float64] = arrays["expires"].astype(np.float64)
        self.supersedes: Slots = arrays["supersedes"].astype(np.int64)
        self._codes = {name: arrays[name].astype(np.uint16) for name in _WORDS}

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Columns:
        """The columns of ``entries``, which ascend by slot."""
        words = {name: sorted({getattr(entry, name) for entry in entries}) for name in _WORDS}
        places = {name: {word: at for at, word in enumerate(words[name])} for name in _WORDS}
        arrays: dict[str, npt.NDArray[np.generic]] = {
            "ids": np.array([entry.id for entry in entries], dtype=np.int64),
            "versions": np.array([entry.version for entry in entries], dtype=np.int64),
            "times": np.array([entry.time for entry in entries], dtype=np.float64),
            "expires": np.array([entry.expires for entry in entries], dtype=np.float64),
            "supersedes": np.array([entry.supersedes for entry in entries], dtype=np.int64),
        }
        for name in _WORDS:
            arrays[name] = np.array([places[name][getattr(entry, name)] for entry in entries], dtype=np.uint16)
        slots = np.array([entry.slot for entry in entries], dtype=np.int64)
        derived = {entry.slot: entry.derived_from for entry in entries if entry.derived_from}
        return cls(slots, b"".join([entry.mark for entry in entries]), arrays, words, derived)

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def size_bytes(self) -> int:
        """Bytes in memory, the short word lists not counted."""
        arrays = (self.slots, self.ids, self.versions, self.times, self.expires, self.supersedes)
        return sum(array.nbytes for array in arrays) + (3 * 2 + MARK_BYTES) * len(self)

    @property
    def linked(self) -> bool:
        """Whether a record here supersedes another or was derived from others."""
        return bool(self.derived) or bool(self.supersedes.any())

    @cached_property
    def moved(self) -> dict[int, int]:
        """Id to position of the records that were changed since they were added: their slot is not their id."""
        return {int(self.ids[at]): int(at) for at in np.flatnonzero(self.ids != self.slots)}

    def position(self, slot: int) -> int | None:
        """Where ``slot`` stands, if it does."""
        count = len(self.slots)
        at = (slot - 1) % SEGMENT_ROWS  # Its place in a segment from which nothing was forgotten.
        if at < count and self.slots.item(at) == slot:
            return at
        at = int(self.slots.searchsorted(slot))
        return at if at < count and self.slots.item(at) == slot else None

    def mark(self, at: int) -> bytes:
        """The mark of the row at a position."""
        return self.marks[MARK_BYTES * at : MARK_BYTES * (at + 1)]

    def word(self, name: str, at: int) -> str:
        """The scope, purpose or source at a position."""
        return str(self.words[name][int(self._codes[name][at])])

    def codes(self, name: str) -> npt.NDArray[np.int64]:
        """Where the scope, purpose or source of each record stands in ``words``, (n,)."""
        return self._codes[name].astype(np.int64)

    def mask(self, where: Where) -> Bools:
        """Which records ``where`` is about, (n,)."""
        wanted = np.ones(len(self), dtype=np.bool_)
        for name in _WORDS:
            word = getattr(where, name)
            if word is not None:
                known = self.words[name]
                wanted &= (self._codes[name] == known.index(word)) if word in known else False
        if where.without is not None and where.without in self.words["purpose"]:
            wanted &= self._codes["purpose"] != self.words["purpose"].index(where.without)
        if where.after is not None:
            wanted &= self.times >= where.after
        if where.before is not None:
            wanted &= self.times < where.before
        return wanted

    def entry(self, at: int) -> Entry:
        """The entry at a position, without code and terms."""
        return Entry(
            slot=int(self.slots[at]),
            mark=self.mark(at),
            id=int(self.ids[at]),
            version=int(self.versions[at]),
            time=float(self.times[at]),
            expires=float(self.expires[at]),
            supersedes=int(self.supersedes[at]),
            scope=self.word("scope", at),
            purpose=self.word("purpose", at),
            source=self.word("source", at),
            derived_from=self.derived.get(int(self.slots[at]), ()),
        )

    def to_bytes(self) -> bytes:
        """The plaintext of a segment's columns."""
        first = (int(self.slots[0]) - 1) // SEGMENT_ROWS * SEGMENT_ROWS + 1
        values: dict[str, npt.NDArray[Any]] = {
            "offsets": self.slots - first,
            "ids": self.ids,
            "versions": self.versions,
            "times": self.times,
            "expires": self.expires,
            "supersedes": self.supersedes,
            **self._codes,
        }
        arrays = [values[name].astype(kind).tobytes() for name, kind in _ARRAYS]
        derived = json.dumps(
            [[slot - first, *ids] for slot, ids in sorted(self.derived.items())], separators=(",", ":")
        )
        words = json.dumps(self.words, ensure_ascii=False, separators=(",", ":"))
        return pad(prefixed(*arrays, self.marks, words.encode("utf-8"), derived.encode("ascii")))

    @classmethod
    def from_bytes(cls, padded: bytes, number: int) -> Columns:
        """The columns of segment ``number``. Raises ``TamperedError``."""
        try:
            *arrays, marks, words, derived = split_parts(unpad(padded), len(_ARRAYS) + 3)
            values = {name: np.frombuffer(data, kind) for data, (name, kind) in zip(arrays, _ARRAYS, strict=True)}
            count = len(values["offsets"])
            table: dict[str, list[str]] = json.loads(words)
            first = number * SEGMENT_ROWS + 1
            origins = {first + int(row[0]): tuple(map(int, row[1:])) for row in json.loads(derived)}
            slots = values["offsets"].astype(np.int64) + first
            fits = {len(array) for array in values.values()} == {count} and len(marks) == MARK_BYTES * count
            if not fits or not 1 <= count <= SEGMENT_ROWS or (np.diff(slots) <= 0).any() or list(table) != list(_WORDS):
                raise ValueError
            if any(values[name].max() >= len(table[name]) for name in _WORDS) or int(slots[-1]) >= first + SEGMENT_ROWS:
                raise ValueError
        except (ValueError, TypeError, KeyError, IndexError):
            raise _malformed("segment") from None
        return cls(slots, marks, values, table, origins)

    def without(self, slots: Collection[int]) -> Columns | None:
        """The columns of all other slots, or ``None`` if none is left."""
        kept = np.flatnonzero(outside(self.slots, slots))
        if not len(kept):
            return None
        numbers = (self.ids, self.versions, self.times, self.expires, self.supersedes)
        names = ("ids", "versions", "times", "expires", "supersedes")
        arrays: dict[str, npt.NDArray[np.generic]] = {n: a[kept] for n, a in zip(names, numbers, strict=True)}
        words = {}
        for name in _WORDS:
            # A word that no record has any more must not stay in the list.
            codes, listed = self._codes[name][kept], self.words[name]
            used = np.bincount(codes, minlength=len(listed)) > 0
            arrays[name] = (np.cumsum(used) - 1)[codes]
            words[name] = list(compress(listed, used.tolist()))
        marks = np.frombuffer(self.marks, dtype=f"V{MARK_BYTES}")[kept].tobytes()
        rest = self.slots[kept]
        left = set(rest.tolist()) if self.derived else set()
        derived = {slot: ids for slot, ids in self.derived.items() if slot in left}
        return Columns(rest, marks, arrays, words, derived)


def _malformed(what: str) -> TamperedError:
    return TamperedError(f"A sealed {what} opened but is not laid out as in format 2: restore the store from a backup.")
