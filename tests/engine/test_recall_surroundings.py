"""What lies around a candidate, and phrases, against plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.recall.surroundings import SESSION_GAP_S, Surroundings
from engine.recall.word_match import match_words
from engine.recall.words import words_in
from store import Candidates, Record, StoredRecord
from store.index.terms import words_of
from store.search.candidates import NONE


def candidates(times: list[float], before: list[int]) -> Candidates:
    n = len(times)
    records = [StoredRecord(id=at, version=1, record=Record(text="x", time=time)) for at, time in enumerate(times)]
    return Candidates(
        records=tuple(records),
        vectors=np.zeros((n, 2), dtype=np.float32),
        products=np.zeros(n),
        words=np.zeros(n),
        found=np.ones(n, dtype=np.bool_),
        before=np.array(before, dtype=np.int64),
        rarity={},
    )


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[float], list[int]]:
    """Times in hours, and who was kept before whom: the one before in the list, or nobody."""
    linked = draw(st.lists(st.booleans(), min_size=1, max_size=9))
    times = [3600.0 * draw(st.sampled_from([0, 1, 1.5, 4])) for _ in linked]
    return times, [at - 1 if at and its else NONE for at, its in enumerate(linked)]


@given(chains(), st.integers(0, 99))
@settings(max_examples=60)
def test_neighbours_lend_what_they_have_and_others_nothing(chain: tuple[list[float], list[int]], seed: int) -> None:
    times, before = chain
    around = Surroundings.of(candidates(times, before))
    n = len(times)
    near = [b if b != NONE and abs(times[b] - times[at]) <= SESSION_GAP_S else None for at, b in enumerate(before)]
    values = np.random.default_rng(seed).uniform(0, 1, size=(3, n))
    vectors = np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)
    for at in range(n):
        last = near[at]
        second = near[last] if last is not None else None
        after = near.index(at) if at in near else None
        assert around.before[at] == (NONE if last is None else last)
        assert around.earlier(values[0])[at] == (0 if last is None else values[0, last])
        assert around.later(values[0])[at] == (0 if after is None else values[0, after])
        its = [at, *(one for one in (last, second, after) if one is not None)]
        np.testing.assert_array_equal(around.window(values)[:, at], values[:, its].max(axis=1))
        blend = vectors[at] + 0.5 * vectors[its[1:]].sum(axis=0)
        np.testing.assert_allclose(around.blended(vectors)[at], blend / np.linalg.norm(blend), rtol=1e-4, atol=1e-6)
        session = [one for one in range(n) if around.sessions[one] == around.sessions[at]]
        np.testing.assert_array_equal(around.session_best(values)[:, at], values[:, session].max(axis=1))


def test_a_blend_of_nothing_is_nothing_and_no_rows_stay_none() -> None:
    around = Surroundings.of(candidates([0.0, 1.0], [NONE, 0]))
    assert not around.blended(np.zeros((2, 3), dtype=np.float32)).any()
    assert around.window(np.zeros((0, 2))).shape == around.session_best(np.zeros((0, 2))).shape == (0, 2)


def test_times_too_large_to_subtract_are_not_near() -> None:
    around = Surroundings.of(candidates([-1.7e308, 1.7e308], [NONE, 0]))
    assert around.before.tolist() == [NONE, NONE]


# Phrases

WORDS = st.lists(st.sampled_from(["red", "canoe", "the", "lake", "of", "tent"]), max_size=6).map(" ".join)


@given(question=WORDS, texts=st.lists(WORDS, max_size=4))
@settings(max_examples=100)
def test_phrases_equal_a_plain_loop(question: str, texts: list[str]) -> None:
    match = match_words(question, words_in(texts, None), None)
    weights = np.arange(1.0, 1 + len(match.question))
    found = match.side_by_side(weights)
    for at, text in enumerate(texts):
        _, hashes, _ = words_of([text])
        has = set(itertools.pairwise([its for its in hashes.tolist() if its]))
        pairs = itertools.pairwise(enumerate(match.hashes))
        wanted = sum(min(weights[a], weights[b]) for (a, one), (b, other) in pairs if (one, other) in has)
        assert found[at] == pytest.approx(wanted)
