"""A question as it is searched for: its words in context, its sense, and the days that it names."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from engine.device.device import Device, Memory
from engine.encoders.encoder import CachedEncoder
from engine.encoders.reading import Reading, unread
from engine.encoders.word_vectors import word_vectors
from engine.recall.features import FEATURES, features_of
from engine.recall.query import Query
from engine.recall.ranking import find, rank
from engine.recall.weights import WEIGHTS
from store.index.terms import terms_of

NOW = datetime(2024, 5, 15, 12).timestamp()
DAY = 86_400.0


def made(words: tuple[str, ...], states: list[list[float]]) -> Query:
    array = np.array(states, dtype=np.float32)
    reading = Reading(vector=np.ones(array.shape[1], dtype=np.float32), words=words, states=array)
    return Query.of(" ".join(words), reading, now=NOW)


def hash_of(word: str) -> int:
    return next(iter(terms_of(word)))


# Reading


def test_the_reading_has_the_vector_of_the_text_and_a_state_for_each_word(encoder: Any) -> None:
    text = "Where did Søren's unbelievablest canoe go, tomorrow?"
    reading = encoder.read(text)
    np.testing.assert_allclose(reading.vector, encoder.encode([text])[0], atol=1e-6)
    assert reading.words == (
        "Where", "did", "Søren", "'", "s", "unbelievablest", "canoe", "go", ",", "tomorrow", "?",
    )  # fmt: skip
    together = reading.states.sum(axis=0)
    assert together @ reading.vector > 0.9 * np.linalg.norm(together)


def test_a_text_without_words_has_no_states(encoder: Any) -> None:
    reading = encoder.read("")
    assert reading.words == ()
    assert reading.states.shape == (0, encoder.dimension)
    assert not Query.of("", reading, now=NOW).sense({}, ()).any()


def test_a_wrapped_encoder_reads_as_the_one_behind_it_and_another_tells_of_no_words(encoder: Any, toy: Any) -> None:
    plain, wrapped = (Query.read("my canoe", one, now=NOW) for one in (encoder, CachedEncoder(encoder)))
    np.testing.assert_array_equal(plain.reading.states, wrapped.reading.states)
    other = Query.read("my canoe", toy, now=NOW)
    np.testing.assert_array_equal(other.vector, toy.encode(["my canoe"])[0])
    assert other.reading.words == ()
    assert not other.sense({}, ()).any()


def test_states_that_are_not_one_a_word_are_refused() -> None:
    with pytest.raises(ValueError, match="states of 1 words"):
        Reading(vector=np.ones(2, dtype=np.float32), words=("a",), states=np.ones((2, 2), dtype=np.float32))


# Sense


def test_the_sense_weighs_each_word_by_the_root_of_its_rarity_and_leaves_names_out() -> None:
    query = made(("What", "canoe", "Ada", "?"), [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    sense = query.sense({hash_of("canoe"): 9.0, hash_of("Ada"): 16.0}, {hash_of("Ada")})
    np.testing.assert_allclose(sense, np.array([2, 3, 0, 0]) / 13**0.5, rtol=1e-6)


def test_the_sense_of_names_alone_is_none() -> None:
    query = made(("Ada",), [[1.0, 2.0]])
    assert not query.sense({hash_of("Ada"): 3.0}, {hash_of("Ada")}).any()


def test_the_sense_of_a_question_is_nearer_to_its_answer_than_the_whole_is(encoder: Any) -> None:
    query = Query.read("What kind of pottery did Melanie make?", encoder, now=NOW)
    answer, of_her = encoder.encode(["Ben: I glazed a clay bowl last week", "Melanie: see you soon, Ben"])
    sense = query.sense({hash_of("kind"): 3.0, hash_of("pottery"): 6.0, hash_of("make"): 3.0}, {hash_of("melanie")})
    assert sense @ answer - sense @ of_her > query.vector @ answer - query.vector @ of_her


def test_an_encoder_that_tells_of_no_words_finds_by_meaning(device: Device) -> None:
    texts = ["dog walks a lot", *(f"tea {n}" for n in range(6))]
    ids = device.remember_many([Memory(text=text, time=NOW - 9 * DAY * n) for n, text in enumerate(texts)])
    query = Query.read("walks of a dog", device.encoder, now=NOW)
    its = features_of(query, find(device.store, query, words=None), words=None)
    assert not its.matrix[:, [FEATURES.index("sense"), FEATURES.index("sense_window")]].any()
    plain = rank(its, {"meaning": WEIGHTS["meaning"]})
    assert its.candidates.records[plain[0]].id == ids[0]


# Days


def test_spans_are_from_midnight_to_midnight() -> None:
    query = Query.of("what did I do from 3 May 2023 on, and in June 2023?", unread(np.ones(1, np.float32)), now=NOW)
    wanted = {((2023, 5, 3), (2023, 5, 4)), ((2023, 6, 1), (2023, 7, 1))}
    assert set(query.spans()) == {tuple(datetime(*day).timestamp() for day in pair) for pair in wanted}


def test_a_day_after_which_there_is_none_is_no_span_and_does_no_harm(device: Device) -> None:
    last = datetime(9999, 12, 31, 12).timestamp()
    (id,) = device.remember_many([Memory(text="walked", time=NOW)])
    query = Query.of("where did I walk today?", unread(np.ones(1, np.float32)), now=last)
    assert query.ranges
    assert query.spans() == []
    assert device.search("where did I walk today?", now=last)[0].id == id


def test_what_was_kept_on_the_day_asked_for_is_a_candidate_though_many_have_more_of_the_words(device: Device) -> None:
    day = datetime(2023, 5, 3, 9).timestamp()
    (then,) = device.remember_many([Memory(text="oats", time=day, scope="diary")])
    device.remember_many([Memory(text=f"which food did I have {n}", time=NOW - n * DAY) for n in range(100)])
    asked = time.strftime("which food did I have on %B %-d, %Y?", time.localtime(day))
    for text, there in ((asked, True), ("which food did I have?", False)):
        found = find(device.store, Query.read(text, device.encoder, now=NOW), words=None)
        assert (then in {stored.id for stored in found.records}) == there


# Words


def test_cosines_are_those_of_the_vectors(encoder: Any) -> None:
    words = word_vectors(encoder)
    assert words is not None
    some = ["canoe", "unbelievableness", "\u0000", "é", "tent", ""]
    ours, theirs = some[:3], some + ["camping"] * 2
    np.testing.assert_allclose(
        words.cosines(ours, words.pieces(theirs)), words.vectors(ours) @ words.vectors(theirs).T, atol=1e-5
    )
