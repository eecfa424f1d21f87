"""What the ranking of found memories looks at: one number a feature and candidate.

Scores of meaning and of words are standardised over the candidates; a memory's neighbours and its session (memories of
one scope without a gap of more than an hour) lend it theirs. Words are compared softly: a question's word is as much in
a memory as the memory's most similar word is like it (the maximum similarity of Khattab and Zaharia 2020, "ColBERT",
section 3, over word vectors instead of contextual ones), weighted by how rare the word is in this user's memory. Dates
are ranges of days: the question's as seen from now, the memory's as seen from its own time.

A memory's speaker is what stands before its first colon ("Ada: I baked bread") if that is one capitalised word or
stands before several, or else its source, unless that is "user" or "feedback"; it counts where the question names it.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt

from engine.encoders.word_vectors import WordVectors
from engine.recall.dates import DayRange, day_of
from engine.recall.query import Query
from engine.recall.surroundings import Surroundings
from engine.recall.traits import ReadBy, Traits
from engine.recall.word_match import Match, match_words
from store import Candidates
from store.index.terms import words_of
from store.search.candidates import NONE

FEATURES = (
    "meaning",  # Cosine, standardised.
    "words",  # BM25, standardised.
    "sense",  # What its words mean together, names of speakers left out, against its vector; standardised.
    "soft",  # Share of the question's words that it has, softly, names of speakers left out; standardised.
    "soft_window",  # The same of itself, two memories before and one after together; standardised.
    "sense_window",  # The question's sense against the same four's vectors blended; standardised.
    "phrase_window",  # The largest share of the question's neighbouring words that one of these has side by side.
    "has_word_window",  # The share of the question's words that these have exactly, 0 to 1.
    "soft_session",  # The share of the question's words that its session has softly, 0 to 1.
    "meaning_before",  # Meaning of the memory before and after, 0 where there is none.
    "meaning_after",
    "answers",  # Where the memory before is a question: that one's soft share, standardised.
    "session_best",  # The highest mean of meaning, words and soft in its session.
    "speaker",  # Whether the one speaker named in the question said it.
    "asks",  # Whether it is a question itself.
    "length",  # Logarithm of its number of words, less that of 20.
    "tells_when",  # The question asks when, and it has what looks like a date.
    "tells_number",  # The question asks how many or how long, and it has a number.
    "kept_then",  # It was kept on a day that the question names.
    "kept_soon_after",  # Falls from 1 to 1/e in a week after those days.
    "tells_of_then",  # How well a date in it fits one in the question, 0 to 1.
)
_SOON_DAYS = 7.0
_ROUNDING = 1e-5
_NOBODY = frozenset({"user", "feedback"})  # Sources that say nothing of who spoke.
_SIMILAR = 0.5  # From here on a similar word is shown as a reason.
_WHEN = re.compile(
    r"\b(?:when|what (?:day|date|month|year|time)|(?:which|what) \w+ (?:day|month|year)|how long)\b", re.I
)
_HOW_MANY = re.compile(r"\bhow (?:many|much|long|old|often|far)\b", re.I)

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Slots = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Features:
    """The features of n candidates, ``matrix`` (n, len(FEATURES)), and what they were made from.

    ``weights`` (q,) says how much each of the question's q words counts.
    """

    candidates: Candidates
    matrix: Floats
    match: Match
    weights: Floats
    ranges: tuple[DayRange, ...]
    told: tuple[tuple[DayRange, ...], ...]
    speakers: tuple[str, ...]
    named: Bools
    before: Slots

    def exact_words(self, at: int) -> Iterator[str]:
        """The question's words that candidate ``at`` has."""
        return (word for word, exact in zip(self.match.question, self.match.exact[:, at], strict=True) if exact)

    def similar_words(self, at: int) -> Iterator[str]:
        """Words that candidate ``at`` has in place of the question's, "this for that"."""
        for row, word in enumerate(self.match.question):
            if self.weights[row] > 0 and not self.match.exact[row, at] and self.match.soft[row, at] >= _SIMILAR:
                yield f"{self.match.nearest(row, at)} for {word}"

    def dates(self, at: int) -> Iterator[str]:
        """What in the question names the day of candidate ``at``, or a day that it tells of."""
        day = day_of(self.candidates.records[at].record.time)
        for range in self.ranges:
            told = next((its.words for its in self.told[at] if range.overlap(its) > 0), None)
            if day is not None and range.first <= day <= range.last:
                yield f"kept in {range.words!r}"
            elif told is not None:
                yield f"{told!r} is in {range.words!r}"

    def neighbour(self, at: int) -> int | None:
        """The id of the memory before or after ``at`` that has most of the question's words that ``at`` lacks."""
        soft = self.match.soft
        around = [int(self.before[at]), *np.flatnonzero(self.before == at).tolist()]
        gains = {}
        for other in around:
            if other != NONE:
                more = soft[:, other] * ((soft[:, other] >= _SIMILAR) & (soft[:, at] < _SIMILAR))
                gains[other] = float(self.weights @ more)
        best = max(gains, key=gains.__getitem__, default=NONE)
        return self.candidates.records[best].id if best != NONE and gains[best] > 0 else None


def features_of(query: Query, candidates: Candidates, *, words: WordVectors | None) -> Features:
    """The features of at least one candidate for ``query``."""
    records = [stored.record for stored in candidates.records]
    traits = _traits(candidates, words)
    around = Surroundings.of(candidates)
    speakers = _speakers([its.name for its in traits], [record.source for record in records])
    match = match_words(query.text, [its.words for its in traits], words)
    named, names = _named(match.hashes, speakers)
    rarity = np.array([0.0 if term in names else candidates.rarity.get(term, 0.0) for term in match.hashes])
    days, told = _days(traits) if query.ranges else ([None] * len(traits), [()] * len(traits))
    columns = _of_words(query, candidates, match, rarity, around)
    columns |= _of_sense(query.sense(candidates.rarity, names), candidates.vectors, around)
    asks = np.array([its.asks for its in traits])
    columns |= _of_texts(query.text, traits, asks)
    columns["answers"] = around.earlier(columns["soft"] * asks)
    columns["speaker"] = named.astype(np.float64)
    columns |= _of_dates(query.ranges, days, told)
    return Features(
        candidates=candidates,
        matrix=np.stack([columns[name] for name in FEATURES], axis=1),
        match=match,
        weights=rarity,
        ranges=query.ranges,
        told=tuple(told),
        speakers=speakers,
        named=named,
        before=around.before,
    )


def _traits(candidates: Candidates, words: WordVectors | None) -> Sequence[Traits]:
    """What the store kept with the candidates, where it was read with the same word vectors; else read now."""
    kept: Sequence[Traits] = candidates.derived
    if kept and kept[0].words.vectors is words:
        return kept
    return ReadBy(words)([stored.record for stored in candidates.records])


def standard(values: Floats) -> Floats:
    """``values`` (n,) less their mean, over their standard deviation; 0 where they differ by rounding only."""
    spread, least = float(values.std()), _ROUNDING * max(1.0, float(np.abs(values).max(initial=0.0)))
    result: Floats = (values - values.mean()) / spread if spread > least else np.zeros_like(values)
    return result


def _of_words(
    query: Query, candidates: Candidates, match: Match, rarity: Floats, around: Surroundings
) -> dict[str, Floats]:
    """The features of meaning and words, of the candidates themselves, of their neighbours and their sessions."""
    total = float(rarity.sum())
    share = rarity / total if total else rarity  # (q,)
    meaning, words = standard(candidates.products), standard(candidates.words)
    soft = standard(share @ match.soft)
    return {
        "meaning": meaning,
        "words": words,
        "soft": soft,
        "soft_window": standard(share @ around.window(match.soft)),
        "phrase_window": around.window(match.side_by_side(share)[None])[0],
        "has_word_window": share @ around.window(match.exact.astype(np.float64)),
        "soft_session": share @ around.session_best(match.soft),
        "meaning_before": around.earlier(meaning),
        "meaning_after": around.later(meaning),
        "session_best": around.session_best((meaning + words + soft)[None] / 3)[0],
    }


def _of_sense(
    sense: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32], around: Surroundings
) -> dict[str, Floats]:
    """The question's sense (d,) against the vectors (n, d), alone and with those around them; 0 without a sense."""
    return {
        "sense": standard((vectors @ sense).astype(np.float64)),
        "sense_window": standard((around.blended(vectors) @ sense).astype(np.float64)),
    }


def _of_texts(question: str, traits: Sequence[Traits], asks: Bools) -> dict[str, Floats]:
    none = np.zeros(len(traits))
    when, number = _WHEN.search(question), _HOW_MANY.search(question)
    return {
        "asks": asks.astype(np.float64),
        "length": np.array([its.length for its in traits]),
        "tells_when": np.array([float(its.tells_when()) for its in traits]) if when else none,
        "tells_number": np.array([float(its.tells_number()) for its in traits]) if number else none,
    }


def _days(traits: Sequence[Traits]) -> tuple[list[date | None], list[tuple[DayRange, ...]]]:
    """The day of each, and the days that it tells of."""
    days = [its.day() for its in traits]
    return days, [its.told(day) for its, day in zip(traits, days, strict=True)]


def _of_dates(
    ranges: Sequence[DayRange], days: Sequence[date | None], told: Sequence[Sequence[DayRange]]
) -> dict[str, Floats]:
    then, soon, tells = np.zeros((3, len(days)))
    numbers = np.array([0 if day is None else day.toordinal() for day in days])  # The first day of all is 1.
    for asked in ranges:
        after = numbers - asked.last.toordinal()
        then[(numbers >= asked.first.toordinal()) & (after <= 0)] = 1.0
        which = np.flatnonzero(after > 0)
        soon[which] = np.maximum(soon[which], [math.exp(-days / _SOON_DAYS) for days in after[which].tolist()])
    for at, its in enumerate(told):
        if its:
            tells[at] = max(asked.overlap(one) for asked in ranges for one in its)
    return {"kept_then": then, "kept_soon_after": soon, "tells_of_then": tells}


def _speakers(names: Sequence[str], sources: Sequence[str]) -> tuple[str, ...]:
    """Who said each: what stands before its first colon, else its source; "" where neither names anybody.

    A single capitalised word names somebody, and so does what stands before the colons of several.
    """
    told = {name for name, number in Counter(names).items() if name and (number > 1 or _is_word(name))}
    return tuple(
        name if name in told else "" if source in _NOBODY else source
        for name, source in zip(names, sources, strict=True)
    )


def _is_word(name: str) -> bool:
    return name.isalpha() and name.istitle()


def _named(question: Sequence[int], speakers: Sequence[str]) -> tuple[Bools, set[int]]:
    """Who of the speakers (n,) is the only one that the question names, and the terms of all names in it."""
    known = sorted(set(speakers) - {""})
    _, hashes, sizes = words_of(known)
    ends = np.cumsum(sizes)
    terms = [set(hashes[end - size : end].tolist()) - {0} for end, size in zip(ends, sizes, strict=True)]
    asked = set(question)
    named = {name: its for name, its in zip(known, terms, strict=True) if its and its <= asked}
    names = set().union(*named.values())
    if len(named) != 1:
        return np.zeros(len(speakers), dtype=np.bool_), names
    return np.array([speaker in named for speaker in speakers]), names
