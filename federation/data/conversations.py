"""Conversations to search in, with questions whose evidence is known: the memory data sets.

A file holds one JSON object a line, UTF-8: ``conv, memory: [{id, speaker, time, text}], queries: [{q, evidence: [id…],
category}]``. ``time`` is Unix seconds or milliseconds, an ISO date, "2023/05/08 (Mon) 13:56", "8.5.2023", what C's
asctime writes, or words that name a day with its year ("1:56 pm on 8 May, 2023"), or null. Reading is
strict: the first bad line is named by its number. A time in words that cannot be read so counts as null, and an id in
``evidence`` that no memory has counts as evidence that is never found.

>>> line = '{"conv": "a", "memory": [{"id": "1", "speaker": "Ada", "time": null, "text": "tea"}], "queries": []}'
>>> parse_conversation(line, line=1).memory[0].as_text
'Ada: tea'
"""

import contextlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from engine.recall.dates import days_in
from engine.text import is_unicode
from federation.data.dataset import parsed_lines
from federation.errors import DataError

_UNANSWERABLE = 5
_FORMATS = ("%a %b %d %H:%M:%S %Y", "%Y/%m/%d (%a) %H:%M", "%Y/%m/%d %H:%M", "%Y/%m/%d", "%d.%m.%Y %H:%M", "%d.%m.%Y")
_YEAR = re.compile(r"\d{4}")
_CLOCK = re.compile(r"\b(\d{1,2})(?::(\d\d))(?::\d\d)?\s*([ap]m)?\b|\b(\d{1,2})\s*([ap]m)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Something that was said; ``time`` in Unix seconds, ``None`` where it is not known."""

    id: str
    speaker: str
    time: float | None
    text: str

    @property
    def as_text(self) -> str:
        """What is remembered of it."""
        return f"{self.speaker}: {self.text}" if self.speaker else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question and the ids of the turns that answer it, each once."""

    text: str
    evidence: tuple[str, ...]
    answerable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What was said, in order, and what is asked about it."""

    name: str
    memory: tuple[Turn, ...]
    questions: tuple[Question, ...]

    @property
    def scored(self) -> tuple[Question, ...]:
        """The questions that the protocol counts: those that have evidence, not of category 5."""
        return tuple(one for one in self.questions if one.evidence and one.answerable)

    def times(self) -> list[float]:
        """The time (n,) of each turn; where it is not known, that of the turn before, or of the first known."""
        last = next((turn.time for turn in self.memory if turn.time is not None), 0.0)
        known = []
        for turn in self.memory:
            last = last if turn.time is None else turn.time
            known.append(last)
        return known


def read_conversations(path: Path) -> list[Conversation]:
    """Read a whole file; raise `DataError` for a missing, empty or malformed one, the line named."""
    found = parsed_lines(path, parse_conversation)
    if not found:
        raise DataError(f"{path} holds no conversations. Give a file with one JSON object a line.")
    return found


def parse_conversation(text: str, *, line: int) -> Conversation:
    """Read one line; ``line`` (from 1) names it in the `DataError` that a malformed one raises."""
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"Line {line} is not JSON: {error.msg} at column {error.colno}.") from None
    except (ValueError, RecursionError):
        raise DataError(f"Line {line} is not JSON that can be read: a number too long or brackets too deep.") from None
    try:
        its = _object(fields, "the line")
        memory = [_turn(_object(turn, f"memory {at}"), at) for at, turn in enumerate(_list(its, "memory", "the line"))]
        questions = [_question(_object(q, f"query {at}"), at) for at, q in enumerate(_list(its, "queries", "the line"))]
        if len({turn.id for turn in memory}) < len(memory):
            raise ValueError("expected each memory's 'id' once")
        return Conversation(name=_name(its.get("conv", ""), "'conv'"), memory=tuple(memory), questions=tuple(questions))
    except ValueError as error:
        raise DataError(f"Line {line}: {error}.") from None


def _turn(fields: Mapping[str, Any], at: int) -> Turn:
    where = f"memory {at}"
    if "id" not in fields:
        raise ValueError(f"expected 'id' in {where}")
    text, speaker = _text(fields.get("text"), f"'text' of {where}"), fields.get("speaker")
    turn = Turn(
        id=_name(fields["id"], f"'id' of {where}"),
        speaker="" if speaker is None else _text(speaker, f"'speaker' of {where}").strip(),
        time=time_of(fields.get("time"), where),
        text=text,
    )
    if not turn.as_text.strip():
        raise ValueError(f"expected 'text' of {where} not to be empty")
    return turn


def _question(fields: Mapping[str, Any], at: int) -> Question:
    where = f"query {at}"
    text = _text(fields.get("q"), f"'q' of {where}")
    given = fields.get("evidence")
    if given is not None and not isinstance(given, list):
        raise ValueError(f"expected a list of ids in 'evidence' of {where}")
    evidence = dict.fromkeys(_name(id, f"'evidence' of {where}") for id in given or [])
    category = fields.get("category")
    return Question(text=text, evidence=tuple(evidence), answerable=category not in (_UNANSWERABLE, str(_UNANSWERABLE)))


def time_of(value: object, where: str = "it") -> float | None:
    """A time in Unix seconds; ``None`` for null and for words that name no day. Raises ``ValueError``."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"expected a number, a string or null in 'time' of {where}")
    if isinstance(value, str):
        return _time_in_words(value)
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise ValueError(f"expected 'time' of {where} to be finite")
    return _in_seconds(seconds)


def _in_seconds(number: float) -> float:
    """Numbers that would lie after the year 5138 are milliseconds."""
    return number / 1000 if abs(number) > 1e11 else number


def _time_in_words(words: str) -> float | None:
    plain = words.strip()
    if re.fullmatch(r"-?\d{9,14}(?:\.\d+)?", plain):
        return _in_seconds(float(plain))
    with contextlib.suppress(ValueError, OverflowError, OSError):
        return datetime.fromisoformat(plain.replace(" UTC", "+00:00")).timestamp()
    for form in _FORMATS:
        with contextlib.suppress(ValueError, OverflowError, OSError):
            return datetime.strptime(plain, form).timestamp()
    # Without a year it could be any.
    days = [one.first for one in days_in(words, date(2000, 1, 1)) if one.first == one.last and _YEAR.search(one.words)]
    if not days:
        return None
    clock, hour, minute = _CLOCK.search(words), 0, 0
    if clock:
        hour, minute, half = int(clock[1] or clock[4]), int(clock[2] or 0), (clock[3] or clock[5] or "").lower()
        hour = hour % 12 + 12 * (half == "pm") if half else hour
    try:
        return datetime(days[0].year, days[0].month, days[0].day, hour, minute).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _object(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"expected {where} as a JSON object, got {type(value).__name__}")
    return value


def _list(fields: Mapping[str, Any], name: str, where: str) -> list[Any]:
    value = fields.get(name)
    if not isinstance(value, list):
        raise ValueError(f"expected a list in {name!r} of {where}")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a string in {where}")
    if not is_unicode(value):
        raise ValueError(f"expected valid Unicode in {where}, got a lone surrogate")
    return value


def _name(value: object, where: str) -> str:
    """An id; whole numbers are taken as their digits."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value, where)
