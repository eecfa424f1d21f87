"""Dates in words: what each expression means, as seen from a Wednesday, and what is no date."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.recall import dates
from engine.recall.dates import DayRange, day_of, days_in, may_have_dates

TODAY = date(2024, 5, 15)  # A Wednesday.


def days(first: str, last: str | None = None) -> list[tuple[str, str]]:
    return [(first, last or first)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yesterday", days("2024-05-14")),
        ("the day before yesterday", days("2024-05-13")),
        ("tomorrow morning", days("2024-05-16")),
        ("Last night was loud", days("2024-05-14")),
        ("last Friday", days("2024-05-10")),
        ("last Wednesday", days("2024-05-08")),
        ("this Friday", days("2024-05-17")),
        ("next Wednesday", days("2024-05-22")),
        ("on Wednesday", days("2024-05-15")),
        ("last week", days("2024-05-06", "2024-05-12")),
        ("last weekend", days("2024-05-11", "2024-05-12")),
        ("next month", days("2024-06-01", "2024-06-30")),
        ("last year", days("2023-01-01", "2023-12-31")),
        ("two weeks ago", days("2024-04-28", "2024-05-04")),
        ("3 days ago", days("2024-05-12")),
        ("a couple of months ago", days("2024-03-01", "2024-03-31")),
        ("in ten years", days("2034-01-01", "2034-12-31")),
        ("in May 2023", days("2023-05-01", "2023-05-31")),
        ("in December", days("2023-12-01", "2023-12-31")),
        ("next December", days("2024-12-01", "2024-12-31")),
        ("last May", days("2023-05-01", "2023-05-31")),
        ("on the 5th of June", days("2024-06-05")),
        ("May 3, 2023", days("2023-05-03")),
        ("3 May 2023", days("2023-05-03")),
        ("1:56 pm on 8 May, 2023", days("2023-05-08")),
        ("since 2019", days("2019-01-01", "2019-12-31")),
        ("2023-12-31", days("2023-12-31")),
        ("the 29th of February", days("2024-02-29")),
        ("in September and on Friday", [("2024-09-01", "2024-09-30"), ("2024-05-10", "2024-05-10")]),
    ],
)
def test_an_expression_is_resolved_from_today(text: str, expected: list[tuple[str, str]]) -> None:
    assert [(str(found.first), str(found.last)) for found in days_in(text, TODAY)] == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I may go",
        "they march on",
        "🍞",
        "你好",
        "2023-02-30",
        "40 July",
        "back then",
        "in 30000 years",
        "room 1999a",
    ],
)
def test_what_is_no_date_has_no_range(text: str) -> None:
    found = days_in(text, TODAY)
    # "40 July" still names the month, "2023-02-30" the year.
    assert all(one.last > one.first for one in found)
    assert not found or text in ("40 July", "2023-02-30")


def test_a_day_is_read_once() -> None:
    (found,) = days_in("on 8 May 2023", TODAY)
    assert found.words == "8 May 2023"


@pytest.mark.parametrize("today", [date.min, date.max])
def test_dates_at_the_ends_of_the_calendar_are_left_out_or_whole(today: date) -> None:
    for text in ("yesterday", "tomorrow", "last week", "next year", "12 months ago", "in December", "May 3", "Friday"):
        for found in days_in(text, today):
            assert found.first <= found.last


def test_overlap_is_one_for_equal_ranges_and_zero_for_apart() -> None:
    may = DayRange(first=date(2023, 5, 1), last=date(2023, 5, 31))
    june = DayRange(first=date(2023, 6, 1), last=date(2023, 6, 30))
    assert may.overlap(may) == 1
    assert may.overlap(june) == 0
    with pytest.raises(ValueError, match="not before"):
        DayRange(first=june.first, last=may.last)


@given(start=st.dates(date(2000, 1, 1), date(2030, 1, 1)), sizes=st.tuples(*[st.integers(0, 50)] * 3))
def test_overlap_is_symmetric_and_between_zero_and_one(start: date, sizes: tuple[int, int, int]) -> None:
    one = DayRange(first=start, last=start + timedelta(days=sizes[0]))
    other = DayRange(first=start + timedelta(days=sizes[1]), last=start + timedelta(days=sizes[1] + sizes[2]))
    common = {one.first + timedelta(days=n) for n in range(sizes[0] + 1)} & {
        other.first + timedelta(days=n) for n in range(sizes[2] + 1)
    }
    assert one.overlap(other) == other.overlap(one)
    assert 0 <= one.overlap(other) <= 1
    assert (one.overlap(other) > 0) == bool(common)


@given(text=st.text(), today=st.dates())
def test_any_text_gives_ranges_and_the_quick_look_misses_none(text: str, today: date) -> None:
    if days_in(text, today):
        assert may_have_dates(text)


DATED = (
    "last next this coming may March sept. june 5 5th 12 2023 2024-05-06 in during since of early day days other the"
)
DATED += (
    " a few weeks month year years ago yesterday before after tomorrow tonight night MONDAY fridays weekend \u0130 x -"
)


@given(
    words=st.lists(st.sampled_from(DATED.split()), max_size=8),
    between=st.sampled_from([" ", "  ", "-", "\n"]),
    today=st.dates(date(2000, 1, 1), date(2030, 1, 1)),
    asked=st.booleans(),
)
@settings(max_examples=300)
def test_rules_that_are_passed_over_would_have_found_nothing(
    words: list[str], between: str, today: date, asked: bool
) -> None:
    quick = days_in(between.join(words), today, asked=asked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dates, "_rules_for", lambda words: list(dates._RULES))
        assert quick == days_in(between.join(words), today, asked=asked)


@pytest.mark.parametrize("time", [1e300, -1e300, float("nan"), float("inf")])
def test_a_time_that_no_calendar_has_has_no_day(time: float) -> None:
    assert day_of(time) is None


@pytest.mark.parametrize(
    "text", ["s\u0131x days ago", "in apr\u0131l and may", "5 Augu\u017ft, I may go", "la\u017ft week", "\u0130n May"]
)
def test_letters_that_look_like_others_name_no_day_and_break_nothing(text: str) -> None:
    for asked in (False, True):
        for one in days_in(text, date(2024, 5, 15), asked=asked):
            assert one.words.isascii()


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("what did I buy in September?", {("2024-09-01", "2024-09-30"), ("2023-09-01", "2023-09-30")}),
        ("where was I on September 10", {("2024-09-10", "2024-09-10"), ("2023-09-10", "2023-09-10")}),
        ("what is on next September", {("2024-09-01", "2024-09-30")}),
        ("where was I on May 10", {("2024-05-10", "2024-05-10")}),
        ("what was in May", {("2024-05-01", "2024-05-31")}),
    ],
)
def test_what_is_asked_about_may_be_past(question: str, expected: set[tuple[str, str]]) -> None:
    found = days_in(question, date(2024, 5, 15), asked=True)
    assert {(str(one.first), str(one.last)) for one in found} == expected
