"""What a memory holds, and its bytes before sealing.

A record becomes canonical JSON (sorted keys, no spaces, UTF-8) and is padded to a size class, so that the
length of what is sealed says little about the length of the text.

>>> record = Record(text="table for two at Luigi's", label="book_restaurant", time=1_700_000_000.0)
>>> decode_record(encode_record(record)) == record
True
>>> len(encode_record(record))
256
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real

from store.errors import TamperedError
from store.format.padding import pad, unpad

MAX_TEXT_CHARS = 1_000_000
MAX_WORD_CHARS = 1_000
_USUAL = ("default", "personalization", "user")  # What most records have as scope, purpose and source.
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_READ = json.JSONDecoder().raw_decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One memory: what was said, what it meant, and under which rules it is kept.

    ``time`` is in Unix seconds. ``label`` is ``None`` where nothing is known yet. ``scope`` groups memories,
    ``purpose`` says what the user allowed them for, ``source`` says who wrote them. From ``expires`` (Unix seconds) on
    it is not read any more. ``supersedes`` is the id of the memory that this one replaces, which stays as history;
    ``derived_from`` are the ids that it was made from, with whom it is forgotten. Raises ``ValueError``.
    """

    text: str
    label: str | None = None
    time: float
    scope: str = "default"
    purpose: str = "personalization"
    source: str = "user"
    expires: float | None = None
    supersedes: int | None = None
    derived_from: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check_text("text", self.text, MAX_TEXT_CHARS)
        if self.label is not None:
            _check_text("label", self.label, MAX_WORD_CHARS)
        for name, value in (("scope", self.scope), ("purpose", self.purpose), ("source", self.source)):
            if value in _USUAL:
                continue
            _check_text(name, value, MAX_WORD_CHARS)
            if "\0" in value:
                raise ValueError(f"Expected {name} without the character NUL.")
        if type(self.time) is not float or not math.isfinite(self.time):
            object.__setattr__(self, "time", _checked_time("time", self.time))
        if self.expires is not None:
            object.__setattr__(self, "expires", _checked_time("expires", self.expires))
        if self.supersedes is not None:
            _check_id("supersedes", self.supersedes)
        if type(self.derived_from) is not tuple:
            object.__setattr__(self, "derived_from", tuple(self.derived_from))
        for id in self.derived_from:
            _check_id("derived_from", id)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRecord:
    """A record with the id it was given and its version (1 when added, one more at each change)."""

    id: int
    version: int
    record: Record


def require_records(records: Iterable[object]) -> None:
    """Raise ``TypeError`` if one of them is no record."""
    for record in records:
        if not isinstance(record, Record):
            raise TypeError(f"Expected a Record, got {type(record).__name__}.")


def _check_text(name: str, value: object, max_chars: int) -> None:
    """Raise ``ValueError`` unless ``value`` is text of 1 to ``max_chars`` characters that UTF-8 can carry."""
    if not isinstance(value, str) or not 1 <= len(value) <= max_chars:
        got = f"{len(value)} characters" if isinstance(value, str) else type(value).__name__
        raise ValueError(f"Expected {name} as text of 1 to {max_chars} characters, got {got}.")
    if value.isascii():
        return
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        # The error of the codec quotes the text, so it is not chained.
        raise ValueError(f"Expected {name} in valid Unicode; character {error.start} is a lone surrogate.") from None


def _check_id(name: str, value: object) -> None:
    if type(value) is not int or not 0 < value < 2**63:
        raise ValueError(f"Expected {name} as the id of a memory, got {type(value).__name__}.")


def _checked_time(name: str, value: object) -> float:
    """``value`` as a float. Raises ``ValueError`` unless it is a finite number; a truth value is none."""
    try:
        seconds = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise ValueError(f"Expected {name} as finite Unix seconds, got {type(value).__name__}: pass time.time().")
    return seconds


def encode_record(record: Record) -> bytes:
    """The padded bytes that are sealed for ``record``."""
    fields: dict[str, object] = {
        "label": record.label,
        "purpose": record.purpose,
        "scope": record.scope,
        "source": record.source,
        "text": record.text,
        "time": record.time,
    }
    if record.expires is not None:
        fields["expires"] = record.expires
    if record.supersedes is not None:
        fields["supersedes"] = record.supersedes
    if record.derived_from:
        fields["derived_from"] = list(record.derived_from)
    return pad(_JSON.encode(fields).encode("utf-8"))


def decode_record(padded: bytes) -> Record:
    """The record in ``padded``, the reverse of :func:`encode_record`. Raises ``TamperedError``."""
    try:
        text = str(unpad(padded), "utf-8")
        fields, end = _READ(text)
        if end != len(text):
            raise ValueError
        return Record(**fields)
    except (ValueError, TypeError):
        raise TamperedError(
            "A sealed record opened but does not hold a record of format 2: restore the store from a backup."
        ) from None
