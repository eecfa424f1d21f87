"""What the ranking reads of a memory once: the same as read anew, by this process and beside another one."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.device.device import Device, Memory
from engine.encoders.word_vectors import WordVectors
from engine.recall.dates import DayRange, days_in
from engine.recall.features import _of_dates
from engine.recall.traits import READ_CHARS, ReadBy, Traits
from engine.recall.word_match import match_words
from engine.recall.words import words_in
from store import DeviceKey, Record

NOW = datetime(2024, 5, 15, 12).timestamp()
DAY = 86_400.0
SAID = [
    "Ada: did you walk the dog yesterday?",
    "Bo: no, two days ago, in the park",
    "Ada: the dentist is on 3 May 2024",
    "bread and 12 eggs",
    "Bo: the violin, badly",
    "what about Friday? [image: a calendar]",
    "小提琴 café",
]
ASKED = [
    "when did Ada walk the dog?",
    "how many eggs",
    "the dentist in May",
    "which violin on Friday",
    "café last week",
]


def read(text: str, time: float = NOW) -> Traits:
    (its,) = ReadBy(None)([Record(text=text, time=time)])
    return its


@pytest.mark.parametrize("seed", range(4))
def test_a_search_with_what_is_kept_equals_one_that_reads_all_anew(
    folder: Path, key: DeviceKey, catalogue: Any, toy: Any, seed: int
) -> None:
    drawn = random.Random(seed)

    def memory() -> Memory:
        text = " ".join(drawn.choices(SAID, k=drawn.randint(1, 2)))
        return Memory(text=text, time=NOW - DAY * drawn.randint(0, 20) + 60 * drawn.random(), scope=drawn.choice("ab"))

    def everything(device: Device) -> list[Any]:
        return [device.search(text, k=8, now=NOW, scope=scope) for text in ASKED for scope in (None, "a")]

    with Device.create(folder, key, catalogue=catalogue, encoder=toy) as ours:
        ours.remember_many([memory() for _ in range(25)])
        with Device.open(folder, key, encoder=toy) as theirs:
            for _ in range(6):
                everything(ours)
                ids = [one.id for one in theirs.memories()]
                changes = drawn.choice([ours, theirs])
                match drawn.randrange(4):
                    case 0:
                        changes.remember_many([memory(), memory()])
                    case 1:
                        changes.forget(drawn.sample(ids, 2))
                    case 2:
                        changes.store.update(drawn.choice(ids), memory().record(NOW))
                    case 3:
                        changes.remember("Bo: I mean the cello", time=NOW, supersedes=drawn.choice(ids))
                warm = everything(ours)
                assert ours.store.index_bytes()["records"] > 0
                ours.store._search.opener.clear()
                assert everything(ours) == warm
                assert everything(theirs) == warm


def test_nothing_is_kept_of_what_was_forgotten(device: Device) -> None:
    ids = device.remember_many([Memory(text=text, time=NOW) for text in SAID])
    device.search("the dog", k=9, now=NOW)
    before = device.store.index_bytes()["records"]
    assert before > 0
    device.forget(ids[:6])
    assert 0 < device.store.index_bytes()["records"] < before / 3
    device.forget(ids[6])
    assert device.store.index_bytes()["records"] == 0


# Its parts against plain ones


@given(text=st.text(max_size=60), seconds=st.floats(-1e10, 1e11))
@settings(max_examples=60)
def test_dates_kept_are_those_read_anew_and_seen_from_its_day(text: str, seconds: float) -> None:
    its = read(f"{text} yesterday, x", seconds)
    day = its.day()
    assert day is not None
    for seen in (day, day, day + timedelta(days=40), day):
        assert list(its.told(seen)) == days_in(f"{text} yesterday, x", seen)
    assert its.told(None) == ()


def test_dates_beyond_what_has_room_are_read_each_time() -> None:
    text = "1 May 2024 " * 50
    few, many = read("yesterday"), read(text)
    assert few.told(date(2024, 5, 1)) is few.told(date(2024, 5, 1))
    assert many.told(date(2024, 5, 1)) is not many.told(date(2024, 5, 1))
    assert len(many.told(date(2024, 5, 1))) == 50


def test_no_more_of_a_very_long_memory_is_read_and_it_is_found_by_its_last_word(device: Device) -> None:
    its = read("Ada: " + "long " * 150_000 + "yesterday, 3 violins?")
    assert len(its.words.letters) <= READ_CHARS
    assert its.asks
    assert its.name == "Ada"
    assert (its.tells_number(), its.tells_when()) == (False, False)
    assert its.length == math.log((1 + READ_CHARS / 5) / 21)
    device.remember_many([Memory(text=f"note {n}", time=NOW) for n in range(300)])
    id = device.remember("long " * (READ_CHARS // 5) + "violin", time=NOW)
    assert device.search("violin", k=1, by="words", now=NOW)[0].id == id
    assert id in {one.id for one in device.search("violin", k=40, now=NOW)}


WORDS = st.lists(st.sampled_from(["tea", "cocoa", "coco", "milk", "the", "zzz", "teas"]), max_size=7).map(" ".join)
TABLE = WordVectors(
    {"tea": 0, "co": 1, "##co": 2, "##a": 3, "milk": 4, "teas": 5},
    np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32),
    np.full(5, 0.1, dtype=np.float32),
)


@given(question=WORDS, texts=st.lists(WORDS, max_size=4))
@settings(max_examples=100)
def test_soft_matches_equal_a_plain_loop_over_vectors(question: str, texts: list[str]) -> None:
    match = match_words(question, words_in(texts, TABLE), TABLE)
    for row, (word, term) in enumerate(zip(match.question, match.hashes, strict=True)):
        for at, text in enumerate(texts):
            alike = []
            for its in words_in([other for other in text.split() if other != "the"], None):
                (other,) = its.spelled()
                same = int.from_bytes(its.terms, "little") == term
                # Of words with one stem, the spelling that came first in all texts stands for them.
                first = next(one for one in " ".join(texts).split() if words_in([one], None)[0].terms == its.terms)
                ours, theirs = TABLE.vectors([word, first])
                alike.append((1.0 if same else min(max(float(ours @ theirs), 0.0), 0.99), other.decode()))
            assert match.soft[row, at] == pytest.approx(max([its for its, _ in alike], default=0.0), abs=1e-5)
            if alike:
                assert match.nearest(row, at) in [
                    o for its, o in alike if its == pytest.approx(match.soft[row, at], abs=1e-5)
                ]


DAYS = st.dates(date(2024, 2, 25), date(2024, 3, 4))
RANGES = st.tuples(DAYS, st.integers(0, 3)).map(lambda its: DayRange(first=its[0], last=its[0] + timedelta(its[1])))


@given(ranges=st.lists(RANGES, max_size=3), rows=st.lists(st.tuples(st.none() | DAYS, st.lists(RANGES)), max_size=5))
def test_features_of_dates_equal_a_plain_loop(
    ranges: Sequence[DayRange], rows: list[tuple[date | None, list[DayRange]]]
) -> None:
    found = _of_dates(ranges, [day for day, _ in rows], [its for _, its in rows] if ranges else [()] * len(rows))
    for at, (day, told) in enumerate(rows):
        late = [math.exp(-(day - its.last).days / 7) for its in ranges if day is not None and day > its.last]
        then = [its for its in ranges if day is not None and its.first <= day <= its.last]
        assert found["kept_then"][at] == bool(then)
        assert found["kept_soon_after"][at] == max(late, default=0.0)
        assert found["tells_of_then"][at] == max((a.overlap(b) for a in ranges for b in told), default=0.0)
