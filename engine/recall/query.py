"""A question as it is searched for: its words in context, and the days that it names.

>>> from engine.encoders.reading import unread
>>> asked = Query.of("what did I eat on 3 May 2024", unread(np.ones(1, dtype=np.float32)), now=1_715_000_000.0)
>>> [range.words for range in asked.ranges], [before - after for after, before in asked.spans()]
(['3 May 2024'], [86400.0])
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Self

import numpy as np

from engine.encoders.encoder import Encoder, Vectors, check_vectors, innermost
from engine.encoders.onnx_encoder import OnnxEncoder
from engine.encoders.reading import Reading, unread
from engine.recall.dates import DayRange, day_of, days_in
from store import Span
from store.index.terms import words_of

_FUNCTION_WORD = 2.0  # Weighs as a word whose rarity is 4. "When did" and "how much" say what is asked for.


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Query:
    """A question's ``text``, its ``reading``, and the ``ranges`` of days that it names."""

    text: str
    reading: Reading
    ranges: tuple[DayRange, ...]

    @classmethod
    def of(cls, text: str, reading: Reading, *, now: float) -> Self:
        """The question as asked at ``now`` (Unix seconds)."""
        today = day_of(now)
        ranges = days_in(text, today, asked=True) if today is not None else []
        return cls(text=text, reading=reading, ranges=tuple(ranges))

    @classmethod
    def read(cls, text: str, encoder: Encoder, *, now: float) -> Self:
        """The same, read by ``encoder``, of which only the default one tells of single words. Raises `EncoderError`."""
        inner = innermost(encoder)
        if isinstance(inner, OnnxEncoder):
            return cls.of(text, inner.read(text), now=now)
        return cls.of(text, unread(check_vectors(encoder.encode([text]), count=1, encoder=encoder)[0]), now=now)

    @property
    def vector(self) -> Vectors:
        """The unit vector (d,) of the whole."""
        return self.reading.vector

    def spans(self) -> list[Span]:
        """From when to when the days named last, in Unix seconds; days that no clock knows are left out."""
        found = []
        for its in self.ranges:
            try:
                found.append((_midnight(its.first), _midnight(its.last + timedelta(days=1))))
            except (OverflowError, ValueError, OSError):
                continue
        return found

    def sense(self, rarity: Mapping[int, float], names: Collection[int]) -> Vectors:
        """The direction (d,) of what is asked, ``names`` (terms) left out: its words' states, the rarer the heavier.

        Whom it is about stands in nearly every memory's speaker, and would hide the rest. 0 where nothing is left, and
        by an encoder that tells of no words: then ``vector`` alone counts.
        """
        _, hashes, sizes = words_of(self.reading.words)
        weights = np.zeros(len(self.reading.words))
        term_of = np.repeat(np.arange(len(sizes)), sizes)
        for word, term in zip(term_of.tolist(), hashes.tolist(), strict=True):
            its = 0.0 if term in names else rarity.get(term, 0.0) ** 0.5 if term else _FUNCTION_WORD
            weights[word] = max(weights[word], its)
        total: Vectors = (weights @ self.reading.states).astype(np.float32)
        length = float(np.linalg.norm(total))
        return total / length if length else total


def _midnight(day: date) -> float:
    """When ``day`` begins here."""
    return datetime(day.year, day.month, day.day).timestamp()
