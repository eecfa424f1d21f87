"""What the ranking reads of a memory whatever is asked, derived once and kept as long as the store keeps the record.

Of a memory longer than ``READ_CHARS`` only so much is read here, twenty times what its vector tells of; the store's
search by words counts all of it.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from engine.encoders.word_vectors import WordVectors
from engine.recall.dates import DayRange, day_of, days_in, may_have_dates
from engine.recall.words import Words, words_in
from store import Record

READ_CHARS = 20_000
_END_CHARS = 200  # In which a question mark ends a text: looking for one takes their square.
_ASKS = re.compile(r"\?[^\w.!?]*(?:\[[^\]]*\]\s*)?$")
_SPEAKER = re.compile(r"\s*([^\W\d_][^:\n]{0,40}?)\s*:\s")
_NUMBER = re.compile(r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|dozen|hundred|once|twice)\b", re.I)
_BYTES = 350  # Of one of these without its words and the days that it tells of.
_RANGE_BYTES = 200
_CHARS_A_RANGE = 64


class Traits:
    """One memory as the ranking sees it.

    Its ``words``; whether it ``asks``, that is ends as a question does; its ``length``, the logarithm of its number of
    words, less that of 20; the ``name`` before its first colon, "" where there is none. Numbers and dates, which few
    questions ask for, are read when the first one does.
    """

    __slots__ = ("_number", "_read", "_record", "_tells_when", "_told", "asks", "length", "name", "words")

    def __init__(self, record: Record, read: str, words: Words) -> None:
        self._record, self._read, self.words = record, read, words
        end = record.text[-_END_CHARS:]
        self.asks = "?" in end and bool(_ASKS.search(end))
        self.length = math.log((1 + len(read.split())) / 21)
        self.name = match[1] if ":" in read and (match := _SPEAKER.match(read)) else ""
        self._number: bool | None = None
        self._tells_when: bool | None = None
        self._told: tuple[date, tuple[DayRange, ...]] | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes in memory at most, what is read later included."""
        cut = 0 if self._read is self._record.text else 4 * len(self._read)
        return _BYTES + cut + self.words.size_bytes + _RANGE_BYTES * self._most_kept()

    def tells_number(self) -> bool:
        """Whether it has a number."""
        if self._number is None:
            self._number = bool(_NUMBER.search(self._read))
        return self._number

    def tells_when(self) -> bool:
        """Whether it has what looks like a date."""
        if self._tells_when is None:
            self._tells_when = may_have_dates(self._read)
        return self._tells_when

    def told(self, day: date | None) -> tuple[DayRange, ...]:
        """The days that it tells of, seen from its own ``day``."""
        if day is None:
            return ()
        if self._told is not None and self._told[0] == day:
            return self._told[1]
        told = tuple(days_in(self._read, day))
        if len(told) <= self._most_kept():
            self._told = day, told
        return told

    def day(self) -> date | None:
        """The local day on which it was kept."""
        return day_of(self._record.time)

    def _most_kept(self) -> int:
        return 2 + len(self._read) // _CHARS_A_RANGE


@dataclass(frozen=True, slots=True)
class ReadBy:
    """Reads the traits of records, with the pieces of words that ``vectors`` has; two with the same are equal."""

    vectors: WordVectors | None

    def __call__(self, records: Sequence[Record]) -> list[Traits]:
        """The traits of each of ``records``."""
        read = [its.text if len(its.text) <= READ_CHARS else its.text[:READ_CHARS] for its in records]
        return list(map(Traits, records, read, words_in(read, self.vectors)))
