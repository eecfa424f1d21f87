"""Postings, and BM25 against a plain oracle over dicts."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.errors import TamperedError
from store.index.lexical import K1, B, LexicalIndex
from store.index.postings import build_postings, drop_from_postings
from store.index.terms import encode_terms, terms_of

Docs = dict[int, dict[int, int]]
HASHES = [0, 1, 5, 2**63, 2**64 - 2, 2**64 - 1]
TERMS = st.dictionaries(st.sampled_from(HASHES), st.integers(1, 255), max_size=6)
DOCS = st.dictionaries(st.integers(0, 60), TERMS, max_size=12)
# Slots 3 and 9 with {2: 1, 7: 70} and {7: 2}.
GOLDEN = "020000000200000003000000000000000900000000000000020000000000000007000000000000000100020001003f004200"


def postings(docs: Mapping[int, dict[int, int]]) -> bytes:
    slots = sorted(docs)
    return build_postings(np.array(slots, dtype=np.int64), [encode_terms(docs[slot]) for slot in slots])


def oracle(docs: Docs, terms: Mapping[int, int]) -> dict[int, float]:
    """BM25 written for reading: slot to score, for the documents that have any of ``terms``."""
    docs = {slot: {term: min(count, 63) for term, count in its.items()} for slot, its in docs.items()}
    lengths = {slot: sum(its.values()) for slot, its in docs.items()}
    scores: dict[int, float] = {}
    for term, times in terms.items():
        having = sum(term in its for its in docs.values())
        idf = math.log(1 + (len(docs) - having + 0.5) / (having + 0.5))
        for slot, its in docs.items():
            if term in its:
                norm = K1 * (1 - B + B * lengths[slot] / (sum(lengths.values()) / len(docs)))
                weight = times * idf * its[term] * (K1 + 1) / (its[term] + norm)
                scores[slot] = scores.get(slot, 0.0) + weight
    return scores


def check(index: LexicalIndex, docs: Docs, terms: Mapping[int, int], k: int) -> None:
    expected = oracle(docs, terms)
    slots, scores = index.search(terms, k)
    assert len(index) == len(docs)
    assert (slots.dtype, scores.dtype) == (np.int64, np.float64)
    assert scores.tolist() == pytest.approx(sorted(expected.values(), reverse=True)[:k], rel=1e-9)
    assert scores.tolist() == pytest.approx([expected[slot] for slot in slots.tolist()], rel=1e-9)
    pairs = list(zip(slots.tolist(), scores.tolist(), strict=True))
    assert pairs == sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
    asked = np.array([*docs, 10**9, -1], dtype=np.int64)
    assert index.scored(terms).of(asked).tolist() == pytest.approx(
        [expected.get(slot, 0.0) for slot in asked.tolist()], rel=1e-9
    )


# Postings


def test_build_postings_golden() -> None:
    assert postings({3: {2: 1, 7: 70}, 9: {7: 2}}).hex() == GOLDEN


@given(docs=DOCS, gone=st.sets(st.integers(0, 70)))
def test_drop_from_postings_equals_building_the_rest(docs: Docs, gone: set[int]) -> None:
    rest = {slot: terms for slot, terms in docs.items() if slot not in gone}
    assert drop_from_postings(postings(docs), gone) == postings(rest)


@given(
    docs=st.dictionaries(st.integers(0, 2000), TERMS, min_size=12, max_size=40),
    picks=st.lists(st.integers(0, 39), max_size=30),
)
def test_drop_of_few_and_of_many_documents_equals_building_the_rest(docs: Docs, picks: list[int]) -> None:
    slots = sorted(docs)
    gone = {slots[pick % len(slots)] for pick in picks}
    rest = {slot: terms for slot, terms in docs.items() if slot not in gone}
    data = postings(docs)
    assert drop_from_postings(memoryview(data), gone) == postings(rest)
    one_by_one = data
    for slot in gone:
        one_by_one = drop_from_postings(one_by_one, [slot])
    assert one_by_one == postings(rest)


def test_drop_from_a_full_segment_keeps_the_last_document_apart() -> None:
    docs = {slot: {1: 1, 2 + slot: 200} for slot in range(1024)}
    for gone in ({0}, {1023}, {5, 700}, set(range(0, 1024, 3))):
        rest = {slot: terms for slot, terms in docs.items() if slot not in gone}
        assert drop_from_postings(postings(docs), gone) == postings(rest)


def damaged(data: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    changed = bytearray(data)
    for at, value in changes:
        changed[at % len(changed)] = value
    return bytes(changed[: len(changed) - cut])


@settings(max_examples=200, deadline=None)
@given(
    docs=DOCS,
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=2),
    cut=st.sampled_from([0, 0, 0, 1, 2, 4, 8]),
)
def test_damaged_postings_are_canonical_or_refused(docs: Docs, changes: list[tuple[int, int]], cut: int) -> None:
    data = damaged(postings(docs), changes, cut)
    check_canonical(data)


@settings(max_examples=300)
@given(data=st.binary(max_size=80))
def test_any_bytes_are_canonical_or_refused(data: bytes) -> None:
    check_canonical(data)


def check_canonical(data: bytes) -> None:
    """``data`` is what its own documents give, or it is refused by both readers."""
    index = LexicalIndex()
    try:
        index.put_segment(0, data)
    except TamperedError:
        with pytest.raises(TamperedError):
            drop_from_postings(data, [])
        assert len(index) == 0
        return
    assert postings(read(data)) == data
    assert drop_from_postings(data, []) == data


def read(data: bytes) -> Docs:
    """The documents in ``data``, read by the description of the format and by nothing else."""
    whole = lambda at, size: int.from_bytes(data[at : at + size], "little")  # noqa: E731
    count, terms = whole(0, 4), whole(4, 4)
    slots = [whole(8 + 8 * at, 8) for at in range(count)]
    docs: Docs = {slot: {} for slot in slots}
    at = 8 + 8 * count + 10 * terms
    for number in range(terms):
        for _ in range(whole(8 + 8 * count + 8 * terms + 2 * number, 2)):
            position, tf = divmod(whole(at, 2), 64)
            docs[slots[position]][whole(8 + 8 * count + 8 * number, 8)] = tf
            at += 2
    assert at == len(data)
    return docs


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(7),
        postings({})[:-1],
        postings({1: {5: 1}}) + b"\0\0",
        postings({1: {5: 1}})[:-2] + b"\0\0",  # A count of 0.
        postings({1: {5: 1}})[:-2] + b"\x41\0",  # A document that is not there.
        (0xFFFFFFFF).to_bytes(4, "little") * 2 + bytes(64),
        (1025).to_bytes(4, "little") + bytes(4) + np.arange(1025, dtype="<i8").tobytes(),
        bytes(8) + b"\1\0",
    ],
)
def test_malformed_postings_are_refused(data: bytes) -> None:
    check_canonical(data)
    with pytest.raises(TamperedError, match="postings"):
        LexicalIndex().put_segment(0, data)


@pytest.mark.parametrize(("slots", "count"), [([2, 1], 2), ([1, 1], 2), ([-1], 1), ([1], 2), (list(range(1025)), 1025)])
def test_build_refuses_slots_out_of_order(slots: list[int], count: int) -> None:
    with pytest.raises(ValueError, match="slots"):
        build_postings(np.array(slots, dtype=np.int64), [b""] * count)


@pytest.mark.parametrize("entry", [b"\1", bytes(9), bytes(16) + b"\1\1"])
def test_malformed_entry_is_refused_everywhere(entry: bytes) -> None:
    index = LexicalIndex()
    with pytest.raises(TamperedError):
        index.put_entry(1, entry)
    with pytest.raises(TamperedError):
        build_postings(np.array([1, 2]), [encode_terms({1: 1}), entry])
    assert len(index) == 0


@given(docs=DOCS)
def test_postings_take_two_bytes_each_and_ten_a_term(docs: Docs) -> None:
    terms = {term for its in docs.values() for term in its}
    assert len(postings(docs)) == 8 + 8 * len(docs) + 10 * len(terms) + 2 * sum(map(len, docs.values()))


# The index


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_sequence_equals_the_oracle(seed: int) -> None:
    draw = random.Random(seed)
    index, segments, tail = LexicalIndex(), dict[int, Docs](), Docs()
    for _ in range(25):
        step, number = draw.choice(["segment", "segment", "drop", "entry", "entry", "gone", "hide"]), draw.randrange(4)
        slot = draw.randrange(1000, 1012)
        if step == "segment":
            docs = {at: some_terms(draw) for at in draw.sample(range(20), draw.randrange(8))}
            segments[number] = {4 * at + number: terms for at, terms in docs.items()}  # Segments interleave.
            index.put_segment(number, postings(segments[number]))
        elif step == "drop":
            segments.pop(number, None)
            index.drop_segment(number)
        elif step == "entry":
            tail[slot] = some_terms(draw)
            index.put_entry(slot, encode_terms(tail[slot]))
        elif step == "gone":
            tail.pop(slot, None)
            index.drop_entry(slot)
        else:
            gone = draw.sample(range(80), 5)
            segments = {key: {at: its for at, its in docs.items() if at not in gone} for key, docs in segments.items()}
            index.hide(gone)
        if draw.random() < 0.5:
            check(index, merged(segments, tail), some_terms(draw), draw.choice([0, 1, 3, 100]))
    check(index, merged(segments, tail), some_terms(draw), 100)


def some_terms(draw: random.Random) -> dict[int, int]:
    return {term: draw.choice([1, 1, 2, 5, 63, 64, 255]) for term in draw.sample(HASHES, draw.randrange(len(HASHES)))}


def merged(segments: Mapping[int, Docs], tail: Docs) -> Docs:
    return {**tail, **{slot: terms for docs in segments.values() for slot, terms in docs.items()}}


def test_a_folded_document_scores_as_it_did_in_the_tail() -> None:
    docs = {slot: some_terms(random.Random(slot)) for slot in range(1, 40)}
    single, folded = LexicalIndex(), LexicalIndex()
    for slot, terms in docs.items():
        single.put_entry(slot, encode_terms(terms))
    folded.put_segment(0, postings(docs))
    for terms in ({5: 1}, dict.fromkeys(HASHES, 2)):
        for before, after in zip(single.search(terms, 50), folded.search(terms, 50), strict=True):
            assert before.tolist() == after.tolist()


def test_empty_index_answers_nothing() -> None:
    index = LexicalIndex()
    assert [len(part) for part in index.search({1: 1}, 5)] == [0, 0]
    assert index.scored({1: 1}).of(np.array([1, 2])).tolist() == [0, 0]
    index.put_segment(0, postings({}))
    index.put_entry(4, b"")
    index.hide([])
    index.hide([1])
    index.drop_segment(7)
    index.drop_entry(7)
    assert len(index) == 1
    assert [len(part) for part in index.search({1: 1}, 5)] == [0, 0]
    assert [len(part) for part in index.search({}, 5)] == [0, 0]
    assert index.scored({}).of(np.zeros(0, dtype=np.int64)).tolist() == []


def test_hidden_documents_count_in_no_statistic() -> None:
    docs = {slot: {5: 1, slot + 10: 3} for slot in range(6)}
    index, fewer = LexicalIndex(), LexicalIndex()
    index.put_segment(0, postings(docs))
    index.hide([0, 1, 99])
    fewer.put_segment(0, drop_from_postings(postings(docs), [0, 1]))
    assert len(index) == len(fewer) == 4
    assert index.search({5: 1}, 9)[1].tolist() == fewer.search({5: 1}, 9)[1].tolist()
    index.put_segment(1, postings({100: {5: 1}}))
    assert len(index) == 5, "hidden documents stay hidden when another segment comes"
    index.put_segment(0, postings(docs))
    assert len(index) == 7, "a segment that comes anew has nothing hidden"


def test_search_asks_allowed_and_still_finds_k() -> None:
    index = LexicalIndex()
    for number in range(3):
        index.put_segment(number, postings({1000 * number + at: {5: 1 + at % 7} for at in range(1000)}))
    odd = index.search({5: 1}, 3000, lambda slots: slots % 1000 == 999)
    assert sorted(odd[0].tolist()) == [999, 1999, 2999]
    few = index.search({5: 1}, 2, lambda slots: slots % 1000 == 999)
    assert few[0].tolist() == odd[0].tolist()[:2]
    assert few[1].tolist() == odd[1].tolist()[:2]
    assert len(index.search({5: 1}, 2, lambda slots: slots < 0)[0]) == 0


def test_ties_go_to_the_lower_slot() -> None:
    index = LexicalIndex()
    index.put_segment(1, postings({slot: {5: 1} for slot in range(100, 200)}))
    index.put_segment(0, postings({slot: {5: 1} for slot in range(100)}))
    index.put_entry(50_000, encode_terms({5: 1}))
    assert index.search({5: 1}, 5)[0].tolist() == [0, 1, 2, 3, 4]
    assert index.search({5: 1}, 500)[0].tolist() == [*range(200), 50_000]


def test_a_slot_in_two_segments_is_refused() -> None:
    index = LexicalIndex()
    index.put_segment(0, postings({1: {5: 1}}))
    index.put_segment(1, postings({1: {5: 1}}))
    with pytest.raises(ValueError, match="two segments"):
        index.search({5: 1}, 1)


def test_size_counts_postings_and_entries() -> None:
    index = LexicalIndex()
    assert index.size_bytes == 0
    data = postings({1: {5: 1, 6: 2}})
    index.put_segment(0, data)
    index.put_entry(2, encode_terms({5: 1}))
    assert len(data) <= index.size_bytes <= len(data) + 200


@pytest.mark.parametrize(
    ("text", "query", "unrelated"),
    [
        ("I booked a table for two", "booking tables", "chairs"),
        ("明天下午三点在北京饭店开会", "北京 开会", "上海"),
        ("明日の会議は東京駅で三時からです", "東京駅の会議", "大阪"),
        ("내일 오후 서울역에서 회의가 있습니다", "서울역 회의", "부산"),
        ("Zahnarzttermin in der Hauptstraße", "HAUPTSTRASSE", "Bahnhof"),
    ],
)
def test_queries_find_their_text(text: str, query: str, unrelated: str) -> None:
    index = LexicalIndex()
    for slot, entry in enumerate(["Lunch with Ada", text, "我喜欢猫", "猫が好き", "고양이를 좋아해요"], 1):
        index.put_entry(slot, encode_terms(terms_of(entry)))
    assert index.search(terms_of(query), 1)[0].tolist() == [2]
    assert len(index.search(terms_of(unrelated), 5)[0]) == 0
