"""Dates in words, as ranges of days: "last Friday", "in May 2023", "two weeks ago", "on the 5th of June".

An expression is resolved relative to a day that is passed in: a question relative to today, a memory relative to the
day it was kept. What names no year means the nearest one. English only; a text in another language has no ranges, or
those of its ISO dates. The expressions are those of TIMEX3's kinds DATE and relative DURATION (Pustejovsky et al. 2003,
"TimeML", section 3) that people use for days; times of day are left out.

>>> today = date(2024, 5, 15)  # A Wednesday.
>>> [(str(r.first), str(r.last), r.words) for r in days_in("We met last Friday.", today)]
[('2024-05-10', '2024-05-10', 'last Friday')]
>>> [(str(r.first), str(r.last)) for r in days_in("What did I buy in March?", today)]
[('2024-03-01', '2024-03-31')]
"""

import re
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

_MONTHS = ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november"]
_MONTHS += ["december"]
_DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_COUNTS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_COUNTS |= {"a": 1, "an": 1, "eleven": 11, "twelve": 12, "a couple of": 2, "couple of": 2, "a few": 3, "few": 3}
_COUNTS |= {"several": 4, "the other": 2}
_MONTH_OF = {name: number for number, name in enumerate(_MONTHS, 1)}
_MONTH_OF |= {name[:3]: number for name, number in _MONTH_OF.items()} | {"sept": 9}
_MONTH = "(?P<month>" + "|".join(sorted(_MONTH_OF, key=len, reverse=True)) + r")\b\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>(?:19|20)\d\d)"
_COUNT = "(?P<count>" + "|".join([r"\d{1,3}", *sorted(_COUNTS, key=len, reverse=True)]) + ")"
_UNIT = "(?P<unit>day|week|month|year)s?"
_WEEKDAY = "(?P<weekday>" + "|".join(_DAYS) + ")s?"
_WHICH = "(?P<which>last|past|previous|this|next|coming)"


@dataclass(frozen=True, slots=True, kw_only=True)
class DayRange:
    """The days from ``first`` to ``last``, both included, that ``words`` of a text mean."""

    first: date
    last: date
    words: str = ""

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise ValueError(f"Expected last={self.last} not before first={self.first}.")

    def overlap(self, other: "DayRange") -> float:
        """How well two ranges fit, 0 (no day in common) to 1 (equal): common days over the root of both lengths.

        >>> may, day = DayRange(first=date(2024, 5, 1), last=date(2024, 5, 25)), date(2024, 5, 3)
        >>> may.overlap(DayRange(first=day, last=day))
        0.2
        """
        common = (min(self.last, other.last) - max(self.first, other.first)).days + 1
        return float(max(common, 0) / (self._length() * other._length()) ** 0.5)

    def _length(self) -> int:
        return (self.last - self.first).days + 1


def day_of(time: float) -> date | None:
    """The local day of a time in Unix seconds; ``None`` for one that no calendar has."""
    try:
        return datetime.fromtimestamp(time).date()
    except (OverflowError, ValueError, OSError):
        return None


def days_in(text: str, today: date, *, asked: bool = False) -> list[DayRange]:
    """The ranges of days that ``text`` names, as seen from ``today``, in the order of :data:`_RULES`.

    What is ``asked`` about is mostly past: a day or month without a year that would lie ahead means the one before as
    well. Ranges outside the years 1 to 9999 are left out.
    """
    found: list[DayRange] = []
    rules = _rules_for(_words_of(text))
    small = text.translate(_SMALL) if rules else text  # Patterns that look for either case take twice as long.
    for rule in rules:
        matches = list(rule.pattern.finditer(text if rule.case else small))
        for match in matches:
            words = text[match.start() : match.end()].strip()
            try:
                first, last = rule.resolve(match, today)
                found.append(DayRange(first=first, last=last, words=words))
                if asked and rule.resolve in (_day_of_month, _nearest_month) and first > today:
                    found += _year_before(match, first, last, words)
            except (ValueError, OverflowError):
                continue
        if matches:  # What one rule has read, no later rule reads again.
            text, small = _blanked(text, matches), _blanked(small, matches)
    return found


def _blanked(text: str, matches: Sequence[re.Match[str]]) -> str:
    """``text`` with spaces in place of what matched."""
    parts, end = [], 0
    for match in matches:
        parts += [text[end : match.start()], " " * len(match.group())]
        end = match.end()
    return "".join([*parts, text[end:]])


def _rules_for(words: set[bytes]) -> list["_Rule"]:
    """The rules that may fit a text with these words, in the order of :data:`_RULES`."""
    numbers = sorted({number for word in words & _KEYS for number in _RULES_OF[word]})
    return [_RULES[number] for number in numbers if not any(map(words.isdisjoint, _RULES[number].needs[1:]))]


def _year_before(match: re.Match[str], first: date, last: date, words: str) -> list[DayRange]:
    """A day or a month a year earlier; none for the 29th of February, and where the text says "next"."""
    if (match.groupdict().get("which") or "").lower() in ("next", "coming"):
        return []
    if first != last:
        first, last = _whole_month(first.year * 12 + first.month - 13)
        return [DayRange(first=first, last=last, words=words)]
    if first.day > _length(first.year - 1, first.month):
        return []
    day = first.replace(year=first.year - 1)
    return [DayRange(first=day, last=day, words=words)]


def may_have_dates(text: str) -> bool:
    """Whether ``text`` has a word or a number that dates are told by: quick, and never wrong where it says no."""
    return not _KEYS.isdisjoint(_words_of(text))


def _words_of(text: str) -> set[bytes]:
    """The words of ``text`` in small letters, "0" if it has a number that may be a year, "1" if it has a digit."""
    words = set(text.lower().encode("utf-8", "replace").translate(_LETTERS).split())
    if _DIGIT.search(text):
        words.add(b"1")
        if _YEAR_INSIDE.search(text):
            words.add(b"0")
    return words


def _exact(match: re.Match[str], today: date) -> tuple[date, date]:
    day = date(int(match["year"]), _month(match), int(match["day"]))
    return day, day


def _iso(match: re.Match[str], today: date) -> tuple[date, date]:
    day = date.fromisoformat(match.group())
    return day, day


def _day_of_month(match: re.Match[str], today: date) -> tuple[date, date]:
    month, number = _month(match), int(match["day"])
    years = range(today.year - 1, today.year + 2)
    days = [date(year, month, number) for year in years if number <= _length(year, month)]
    nearest = min(days, key=lambda day: abs((day - today).days))
    return nearest, nearest


def _month_of_year(match: re.Match[str], today: date) -> tuple[date, date]:
    return _whole_month(int(match["year"]) * 12 + _month(match) - 1)


def _nearest_month(match: re.Match[str], today: date) -> tuple[date, date]:
    month, now = _month(match) - 1, today.year * 12 + today.month - 1
    which = match.groupdict().get("which")
    ahead = (month - now) % 12  # Months until the next one of this name.
    if which and which.lower() in ("last", "past", "previous"):
        return _whole_month(now + ahead - 12)
    if which and which.lower() in ("next", "coming"):
        return _whole_month(now + (ahead or 12))
    return _whole_month(now + (ahead if ahead <= 5 else ahead - 12))


def _whole_year(match: re.Match[str], today: date) -> tuple[date, date]:
    return _year(int(match["year"]))


def _near_day(match: re.Match[str], today: date) -> tuple[date, date]:
    words = re.sub(r"\s+", " ", match.group().lower())
    shift = {"the day before yesterday": -2, "day before yesterday": -2, "yesterday": -1, "last night": -1}
    shift |= {"tomorrow": 1, "the day after tomorrow": 2, "day after tomorrow": 2}
    day = today + timedelta(days=shift.get(words, 0))
    return day, day


def _ago(match: re.Match[str], today: date) -> tuple[date, date]:
    return _away(match, today, -1)


def _ahead(match: re.Match[str], today: date) -> tuple[date, date]:
    return _away(match, today, 1)


def _away(match: re.Match[str], today: date, sign: int) -> tuple[date, date]:
    """So many units away; "three weeks ago" is as vague as its unit."""
    word, unit = re.sub(r"\s+", " ", match["count"].lower()), match["unit"].lower()
    count = sign * (int(word) if word.isdigit() else _COUNTS[word])
    if unit == "year":
        return _year(today.year + count)
    if unit == "month":
        return _whole_month(today.year * 12 + today.month - 1 + count)
    middle, slack = today + timedelta(days=count * (7 if unit == "week" else 1)), timedelta(days=3 * (unit == "week"))
    return middle - slack, middle + slack


def _which_unit(match: re.Match[str], today: date) -> tuple[date, date]:
    """Last, this or next week, weekend, month or year."""
    shift = _shift(match["which"])
    unit, monday = match["period"].lower(), today - timedelta(days=today.weekday()) + timedelta(days=7 * shift)
    if unit == "week":
        return monday, monday + timedelta(days=6)
    if unit == "weekend":
        return monday + timedelta(days=5), monday + timedelta(days=6)
    if unit == "month":
        return _whole_month(today.year * 12 + today.month - 1 + shift)
    return _year(today.year + shift)


def _weekday(match: re.Match[str], today: date) -> tuple[date, date]:
    """Alone, the latest day of this name, today included; with "last" one before today, with "next" one after it."""
    back = (today.weekday() - _DAYS.index(match["weekday"].lower())) % 7
    which = match.groupdict().get("which")
    if which and _shift(which) > 0:
        day = today + timedelta(days=7 - back)
    elif which and _shift(which) < 0:
        day = today - timedelta(days=back or 7)
    elif which:
        day = today - timedelta(days=today.weekday() - _DAYS.index(match["weekday"].lower()))
    else:
        day = today - timedelta(days=back)
    return day, day


def _shift(which: str) -> int:
    return {"last": -1, "past": -1, "previous": -1, "next": 1, "coming": 1}.get(which.lower(), 0)


def _month(match: re.Match[str]) -> int:
    return _MONTH_OF[match["month"].lower()]


def _length(year: int, month: int) -> int:
    return (_whole_month(year * 12 + month - 1)[1]).day


def _whole_month(number: int) -> tuple[date, date]:
    """The month ``number`` months after January of the year 0."""
    first, after = date(number // 12, number % 12 + 1, 1), number + 1
    if after == 12 * 10_000:
        return first, date.max
    return first, date(after // 12, after % 12 + 1, 1) - timedelta(days=1)


def _year(number: int) -> tuple[date, date]:
    return date(number, 1, 1), date(number, 12, 31)


Resolve = Callable[[re.Match[str], date], tuple[date, date]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """A pattern, what it means, and sets of words, of each of which a text that it fits has one: see `_words_of`.

    The pattern is for a text in small letters but where its ``case`` matters.
    """

    pattern: re.Pattern[str]
    resolve: Resolve
    needs: tuple[frozenset[bytes], ...]
    case: bool


def _rule(pattern: str, resolve: Resolve, *needs: Iterable[str], case: bool = False) -> _Rule:
    # ASCII, or "ı" and "ſ" would match "i" and "s" and be in no table.
    words = tuple(frozenset(word.encode() for word in its) for its in needs)
    return _Rule(pattern=re.compile(pattern, re.ASCII), resolve=resolve, needs=words, case=case)


_SMALL = {ord(letter): letter.lower() for letter in string.ascii_uppercase}
_LETTERS = bytes(ord(chr(code).lower()) if code < 128 and chr(code).isalpha() else 32 for code in range(256))
_DIGIT = re.compile("[0-9]")
_YEAR_INSIDE = re.compile("(?:19|20)[0-9][0-9]")
_A_YEAR, _A_DIGIT = ("0",), ("1",)
_PLACED = ("in", "during", "since", "by", "until", "of", "early", "late", "mid")
_WHICH_WORDS = ("last", "past", "previous", "this", "next", "coming")
_UNITS = ("day", "days", "week", "weeks", "month", "months", "year", "years")
_PERIODS = ("week", "weekend", "month", "year")
_NAMES = (*_DAYS, *(day + "s" for day in _DAYS))
_NEAR = ("yesterday", "night", "tomorrow", "today", "tonight", "morning", "afternoon", "evening")
_RULES: tuple[_Rule, ...] = (
    _rule(rf"\b{_DAY}\s+(?:of\s+)?{_MONTH},?\s+{_YEAR}\b", _exact, _MONTH_OF, _A_YEAR),
    _rule(rf"\b{_MONTH}\s+(?:the\s+)?{_DAY},?\s+{_YEAR}\b", _exact, _MONTH_OF, _A_YEAR),
    _rule(r"\b(?:19|20)\d\d-\d\d-\d\d\b", _iso, _A_YEAR),
    _rule(rf"\b{_MONTH},?\s+(?:of\s+)?{_YEAR}\b", _month_of_year, _MONTH_OF, _A_YEAR),
    _rule(rf"\b{_DAY}\s+(?:of\s+)?{_MONTH}", _day_of_month, _MONTH_OF, _A_DIGIT),
    _rule(rf"\b{_MONTH}\s+(?:the\s+)?{_DAY}\b", _day_of_month, _MONTH_OF, _A_DIGIT),
    _rule(rf"\b{_WHICH}\s+{_MONTH}", _nearest_month, _MONTH_OF, _WHICH_WORDS),
    _rule(rf"\b(?:{'|'.join(_PLACED)})[\s-]+{_MONTH}", _nearest_month, _MONTH_OF, _PLACED),
    # "may" and "march" alone are mostly verbs.
    _rule(rf"\b(?!may\b|march\b|mar\b|sun\b|sat\b)(?i:{_MONTH})(?<=\w{{4}})", _nearest_month, _MONTH_OF, case=True),
    _rule(rf"\b(?:in|of|since|year|during|back in|summer|winter|spring|fall|autumn)\s+{_YEAR}\b", _whole_year, _A_YEAR),
    _rule(rf"\b{_YEAR}\b", _whole_year, _A_YEAR),
    _rule(
        r"\b(?:the\s+)?day\s+(?:before\s+yesterday|after\s+tomorrow)\b", _near_day, ["yesterday", "tomorrow"], ["day"]
    ),
    _rule(
        r"\b(?:yesterday|last\s+night|tomorrow|today|tonight|this\s+(?:morning|afternoon|evening))\b", _near_day, _NEAR
    ),
    _rule(rf"\b{_COUNT}\s+{_UNIT}\s+(?:ago|back|earlier)\b", _ago, _UNITS, ["ago", "back", "earlier"]),
    _rule(r"\b(?P<count>the\s+other)\s+(?P<unit>day)\b", _ago, ["day"], ["other"]),
    _rule(rf"\bin\s+{_COUNT}\s+{_UNIT}\b", _ahead, _UNITS, ["in"]),
    _rule(rf"\b{_WHICH}\s+(?P<period>weekend|week|month|year)\b", _which_unit, _PERIODS, _WHICH_WORDS),
    _rule(rf"\b{_WHICH}\s+{_WEEKDAY}\b", _weekday, _NAMES, _WHICH_WORDS),
    _rule(rf"\b{_WEEKDAY}\b", _weekday, _NAMES),
)
_KEYS = frozenset().union(*(rule.needs[0] for rule in _RULES))
_RULES_OF = {word: [number for number, rule in enumerate(_RULES) if word in rule.needs[0]] for word in _KEYS}
