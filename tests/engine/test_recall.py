"""Recall: dates, speakers, neighbours and sessions lift the memory that answers, and nothing else lends it a score."""

from __future__ import annotations

import itertools
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.device.device import Device, Memory
from engine.encoders.word_vectors import word_vectors
from engine.errors import ConsentError
from engine.recall.because import Because
from engine.recall.features import FEATURES, Features, features_of
from engine.recall.fit import RankedList, fit_weights
from engine.recall.query import Query
from engine.recall.ranking import rank
from engine.recall.surroundings import sessions_of
from engine.recall.weights import WEIGHTS
from engine.recall.word_match import match_words
from engine.recall.words import words_in
from store import DeviceKey, Record

DAY = 86_400.0
NOW = datetime(2024, 5, 15, 12).timestamp()


def keep(device: Device, *texts: str, start: float = NOW - 10 * DAY, step: float = 60.0, **terms: Any) -> list[int]:
    """Keep texts one after the other, a minute apart."""
    return device.remember_many([Memory(text=t, time=start + step * n, **terms) for n, t in enumerate(texts)])


def features(device: Device, text: str, **where: Any) -> Features:
    query = Query.read(text, device.encoder, now=NOW)
    return features_of(query, device.store.candidates(query.vector, text, **where), words=None)


def column(its: Features, name: str) -> dict[int, float]:
    ids = [stored.id for stored in its.candidates.records]
    return dict(zip(ids, its.matrix[:, FEATURES.index(name)].tolist(), strict=True))


def test_every_weight_is_of_a_feature() -> None:
    assert set(WEIGHTS) == set(FEATURES)


# What lifts a memory


def test_a_date_in_the_question_finds_what_was_kept_then(device: Device) -> None:
    old = keep(device, "walked the dog", start=datetime(2023, 5, 3, 9).timestamp())
    new = keep(device, "walked the dog", start=datetime(2024, 3, 3, 9).timestamp())
    then = device.search("where did I walk the dog on May 3, 2023?", k=1, now=NOW)[0]
    assert then.id == old[0]
    assert then.because is not None
    assert then.because.dates == ("kept in 'May 3, 2023'",)
    assert device.search("where did I walk the dog in March?", k=1, now=NOW)[0].id == new[0]


def test_a_date_in_a_memory_is_seen_from_its_own_time(device: Device) -> None:
    told = keep(device, "I ran a race yesterday", start=datetime(2023, 5, 8, 9).timestamp())
    keep(device, "I ran a race yesterday", start=datetime(2023, 9, 8, 9).timestamp())
    best = device.search("did I run a race on 7 May 2023", k=2, now=NOW)[0]
    assert best.id == told[0]
    assert best.because is not None
    assert best.because.dates == ("'yesterday' is in '7 May 2023'",)


def test_who_is_named_as_the_speaker_said_it(device: Device) -> None:
    ids = keep(device, "Ada: I play the violin", "Bo: I play the violin", step=10 * DAY / 4)
    for name, id in zip(("Ada", "Bo"), ids, strict=True):
        best = device.search(f"what does {name} play?", k=2, now=NOW)[0]
        assert best.id == id
        assert best.because is not None
        assert best.because.speaker == name


def test_a_source_is_a_speaker_too(device: Device) -> None:
    device.remember("I play the violin", source="Ada", time=1.0)
    other = device.remember("I play the violin", source="Bo", time=DAY)
    assert device.search("which instrument does Bo play", k=1, now=NOW)[0].id == other


def test_an_answer_is_found_by_the_question_before_it(device: Device) -> None:
    keep(device, *(f"note {n} on paint and walls" for n in range(12)), start=NOW - 90 * DAY, step=DAY)
    _, answer = keep(device, "Bo: which instrument does your brother play?", "Ada: the cello, badly")
    found = {one.id: one for one in device.search("instrument brother plays", k=3, now=NOW)}
    assert answer in found
    assert found[answer].because == Because(neighbour=answer - 1)


def test_words_that_matched_are_the_questions(device: Device) -> None:
    keep(device, "we camped near the lake")
    because = device.search("camping by a lake?", k=1, now=NOW)[0].because
    assert because is not None
    assert set(because.words) == {"camping", "lake"}
    assert str(because) == ", ".join(because.words)


@pytest.mark.parametrize("by", ["meaning", "words"])
def test_a_search_by_one_says_which_words_it_shares(device: Device, by: str) -> None:
    keep(device, "we camped near the lake")
    assert device.search("lake", k=1, by=by)[0].because == Because(words=("lake",))


# What may not be read lends nothing


def pair(device: Device, **terms: Any) -> tuple[int, int]:
    """A memory that matches the question, kept under ``terms``, and one after it that has no word of it."""
    (first,) = device.remember_many([Memory(text="which instrument: the violin", time=NOW - 60, **terms)])
    return first, device.remember("badly, as they say", time=NOW - 30)


@pytest.mark.parametrize(
    ("terms", "search"),
    [
        ({"scope": "other"}, {"scope": "default"}),
        ({"purpose": "audit"}, {"purpose": "personalization"}),
        ({"source": "mail"}, {"source": "user"}),
        ({}, {"since": NOW - 45}),
    ],
)
def test_what_a_filter_leaves_out_is_no_neighbour(
    device: Device, terms: dict[str, Any], search: dict[str, Any]
) -> None:
    hidden, shown = pair(device, **terms)
    found = device.search("instrument violin", k=9, now=NOW, **search)
    assert [one.id for one in found] == [shown]
    assert found[0].because is not None
    assert found[0].because.neighbour is None
    assert hidden not in {one.id for one in found}


def test_an_expired_memory_is_no_neighbour(folder: Path, key: DeviceKey, catalogue: Any, toy: Any) -> None:
    with Device.create(folder, key, catalogue=catalogue, encoder=toy) as device:
        _, shown = pair(device, expires=NOW - 10)
        (found,) = device.search("instrument violin", k=9, now=NOW)
    assert found.id == shown
    assert found.because is not None
    assert found.because.neighbour is None


def test_forgotten_and_superseded_memories_are_no_neighbours(device: Device) -> None:
    gone, shown = pair(device)
    device.forget(gone)
    old = device.remember("which instrument: a violin", time=NOW - 20)
    new = device.remember("nothing of the kind", time=NOW - 10, supersedes=old)
    found = device.search("instrument violin", k=9, now=NOW)
    assert {one.id for one in found} == {shown, new}
    assert all(one.because is not None and one.because.neighbour is None for one in found)


def test_features_with_hidden_memories_equal_those_without_them(device: Device, tmp_path: Path, key: DeviceKey) -> None:
    texts = ["Ada: which instrument?", "Bo: the violin", "Ada: since when?", "Bo: last year"]
    plain = keep(device, *texts)
    alone = features(device, "violin instrument")
    hidden = keep(device, "the violin is an instrument", "violin, violin", scope="other")
    beside = features(device, "violin instrument", where=_scope("default"))
    assert [stored.id for stored in beside.candidates.records] == plain
    assert not {stored.id for stored in beside.candidates.records} & set(hidden)
    # All but BM25 and what rarity weighs is equal to the bit.
    same = [FEATURES.index(n) for n in FEATURES if n.startswith(("meaning", "kept", "tells", "asks", "length", "spea"))]
    np.testing.assert_array_equal(alone.matrix[:, same], beside.matrix[:, same])


def _scope(name: str) -> Any:
    from store import Where

    return Where(scope=name)


def test_a_withdrawn_purpose_is_not_searched(device: Device) -> None:
    pair(device)
    device.withdraw_purpose("personalization")
    with pytest.raises(ConsentError):
        device.search("violin", purpose="personalization", now=NOW)


def test_memories_of_another_scope_or_hour_are_no_neighbours(device: Device) -> None:
    keep(device, "the violin", scope="a")
    keep(device, "badly", scope="b")
    late = keep(device, "not at all", scope="a", start=NOW)
    its = features(device, "violin")
    before = column(its, "meaning_before")
    assert before[2] == 0
    assert before[late[0]] == 0


# Odd input


def test_an_empty_memory_finds_nothing(device: Device) -> None:
    assert device.search("anything, last Friday?", now=NOW) == []


@pytest.mark.parametrize("question", ["?", "🎻", "the of and", "小提琴在哪里", "där, förra året", "x" * 5000, "\u202e"])
def test_one_memory_is_found_whatever_is_asked(device: Device, question: str) -> None:
    id = device.remember("Zürich: 小提琴 🎻 ñandú", time=1e12)
    (found,) = device.search(question, now=NOW)
    assert found.id == id
    assert found.because is not None
    assert str(found.because)


def test_identical_memories_come_in_the_order_they_were_kept(device: Device) -> None:
    ids = keep(device, *["the same"] * 6, step=10 * DAY)
    found = [one.id for one in device.search("the same", k=6, now=NOW)]
    assert sorted(found) == ids
    assert found == [one.id for one in device.search("the same", k=6, now=NOW)]


@pytest.mark.parametrize("now", [float("nan"), float("inf")])
def test_a_now_that_is_no_time_is_refused(device: Device, now: float) -> None:
    with pytest.raises(ValueError, match="now="):
        device.search("x", now=now)


def test_now_beyond_the_calendar_only_leaves_dates_out(device: Device) -> None:
    (id,) = keep(device, "walked yesterday")
    (found,) = device.search("what did I walk yesterday", now=1e300)
    assert found.id == id
    assert found.because is not None
    assert sorted(found.because.words) == ["walk", "yesterday"]
    assert found.because.dates == ()


# The parts


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 20)), min_size=1, max_size=12))
def test_sessions_are_runs_without_a_gap_of_more_than_an_hour(rows: list[tuple[str, int]]) -> None:
    records = [Record(text="x", scope=scope, time=hours * 1800.0) for scope, hours in rows]
    numbers = sessions_of(records)
    for one, other in itertools.combinations(range(len(rows)), 2):
        low, high = sorted((rows[one][1], rows[other][1]))
        between = sorted({t for scope, t in rows if scope == rows[one][0] and low <= t <= high})
        near = all(b - a <= 2 for a, b in itertools.pairwise(between))
        assert (numbers[one] == numbers[other]) == (rows[one][0] == rows[other][0] and near)


@given(question=st.text(max_size=40), texts=st.lists(st.text(max_size=40), max_size=5))
@settings(max_examples=60)
def test_match_equals_a_plain_loop(question: str, texts: list[str]) -> None:
    from store.index.terms import terms_of

    match = match_words(question, words_in(texts, None), None)
    assert set(match.hashes) == set(terms_of(question))
    for at, text in enumerate(texts):
        assert match.exact[:, at].tolist() == [term in terms_of(text) for term in match.hashes]
    np.testing.assert_array_equal(match.soft, match.exact.astype(float))


def test_rank_is_a_weighted_sum(device: Device) -> None:
    keep(device, "the violin", "a cello", "violin and cello")
    its = features(device, "violin and cello")
    scores = {at: sum(WEIGHTS[n] * its.matrix[at, p] for p, n in enumerate(FEATURES)) for at in range(3)}
    assert rank(its).tolist() == sorted(scores, key=lambda at: -scores[at])


# Fitting


def lists(rng: np.random.Generator, truth: np.ndarray, count: int) -> list[RankedList]:
    made = []
    for _ in range(count):
        x = rng.normal(size=(8, len(truth)))
        scores = x @ truth + rng.gumbel(size=8)
        made.append(RankedList(features=x, evidence=(int(scores.argmax()),)))
    return made


def test_fit_recovers_the_weights_that_made_the_choices() -> None:
    truth = np.array([1.5, -0.5, 0.0])
    fitted = fit_weights(lists(np.random.default_rng(0), truth, 800), prior=np.zeros(3))
    np.testing.assert_allclose(fitted, truth, atol=0.25)


def test_fit_is_where_the_gradient_vanishes() -> None:
    some, prior, penalty = lists(np.random.default_rng(1), np.array([1.0, 2.0]), 30), np.array([0.3, 0.1]), 2.0
    fitted = fit_weights(some, prior=prior, penalty=penalty)
    gradient = -penalty * (fitted - prior)
    for one in some:
        weights = np.exp(one.features @ fitted)
        gradient += one.features[list(one.evidence)].mean(axis=0) - weights @ one.features / weights.sum()
    np.testing.assert_allclose(gradient, 0, atol=1e-5)


def test_fit_without_lists_is_the_prior() -> None:
    np.testing.assert_array_equal(fit_weights([], prior=np.array([1.0, 2.0])), [1.0, 2.0])


def test_fit_of_one_candidate_a_list_moves_nothing() -> None:
    one = RankedList(features=np.array([[5.0, -3.0]]), evidence=(0,))
    np.testing.assert_allclose(fit_weights([one], prior=np.array([1.0, 2.0])), [1.0, 2.0])


@pytest.mark.parametrize("evidence", [(), (3,), (-1,)])
def test_evidence_that_is_not_among_the_candidates_is_refused(evidence: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="evidence="):
        RankedList(features=np.zeros((2, 1)), evidence=evidence)


def test_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        RankedList(features=np.array([[np.nan]]), evidence=(0,))
    with pytest.raises(ValueError, match="penalty=0"):
        fit_weights([], prior=np.zeros(1), penalty=0)


def test_of_equal_memories_the_one_of_the_day_asked_for_is_first(device: Device) -> None:
    for count in (5, 12, 37):
        ids = keep(device, *["took my pill"] * count, start=NOW - 60 * DAY, step=DAY)
        day = time.strftime("%B %-d, %Y", time.localtime(NOW - 60 * DAY + 3 * DAY))
        assert device.search(f"did I take my pill on {day}?", k=1, now=NOW)[0].id == ids[3], count
        device.forget(ids)


def test_a_list_is_nobody_who_speaks_and_the_user_is_not_named(device: Device) -> None:
    keep(device, "Shopping list: eggs", "the weather is nice")
    for question in ("what is on the shopping list", "what must a user do about the weather"):
        assert all(one.because is not None and one.because.speaker is None for one in device.search(question, now=NOW))


def test_one_character_is_matched_inside_a_longer_run(device: Device) -> None:
    keep(device, "\u559d\u8336\u4e86", "something else")
    best = device.search("\u8336", k=1, now=NOW)[0]
    assert best.text == "\u559d\u8336\u4e86"
    assert best.because is not None
    assert best.because.words == ("\u8336",)


def test_words_of_like_meaning_are_near_by_the_default_encoder_and_others_have_no_vectors(
    encoder: Any, toy: Any
) -> None:
    words = word_vectors(encoder)
    assert words is not None
    tent, camping, invoice, nothing = words.vectors(["tent", "camping", "invoice", "\u0000"])
    assert tent @ camping > tent @ invoice
    assert not nothing.any()
    assert word_vectors(toy) is None
