"""Candidates: what both searches find, with what was kept beside it, against a plain loop."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import EncryptedStore, Record, Where
from store.index.lexical import LexicalIndex
from store.index.terms import entry_of, terms_of
from store.search.candidates import NONE, REACH

DIMENSION = 4


def vectors(count: int) -> np.ndarray:
    rows = np.random.default_rng(count).normal(size=(count, DIMENSION)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def neighbours(scopes: list[str], found: set[int], around: int) -> tuple[list[int], list[int]]:
    """Positions reached and, for each, the one reached just before it; a scope's rows in the order they were kept."""
    reached = set(found)
    links: dict[int, int] = {}
    for scope in set(scopes):
        rows = [at for at, its in enumerate(scopes) if its == scope]
        links |= {b: a for a, b in itertools.pairwise(rows) if b - a <= REACH}
    for _ in range(around):
        reached |= {links[at] for at in reached if at in links} | {b for b, a in links.items() if a in reached}
    order = sorted(reached)
    return order, [order.index(links[at]) if links.get(at) in reached else NONE for at in order]


@given(
    scopes=st.lists(st.sampled_from("ab"), min_size=1, max_size=40), around=st.integers(0, 3), most=st.integers(1, 6)
)
@settings(max_examples=25, deadline=None)
def test_candidates_equal_a_plain_loop(
    tmp_path_factory: pytest.TempPathFactory, scopes: list[str], around: int, most: int
) -> None:
    with _store(tmp_path_factory) as store:
        rows = vectors(len(scopes))
        texts = [f"word{at % 5} thing" for at in range(len(scopes))]
        ids = store.add_many([Record(text=t, time=0.0, scope=s) for t, s in zip(texts, scopes, strict=True)], rows)
        query = rows[0]
        found = store.candidates(query, "word1", most=most, around=around)
        best = {id for id, _ in store.search_hybrid(query, "word1", most)}
        order, before = neighbours(scopes, {ids.index(id) for id in best}, around)
        assert [stored.id for stored in found.records] == [ids[at] for at in order]
        assert found.before.tolist() == before
        assert {stored.id for stored, its in zip(found.records, found.found, strict=True) if its} == best
        np.testing.assert_allclose(found.products, rows[order] @ query, atol=1e-2)
        words = dict(store.search_text("word1", 99))
        assert found.words.tolist() == [words.get(ids[at], 0.0) for at in order]


def _store(factory: pytest.TempPathFactory) -> EncryptedStore:
    from store import DeviceKey, FileSecret, MemoryWitness

    home = factory.mktemp("home")
    secret = FileSecret(home / "secret")
    return EncryptedStore.create(
        home / "store", DeviceKey.generate(), dimension=DIMENSION, secret=secret, witness=MemoryWitness()
    )


def test_segments_and_tail_give_one_order(tmp_path_factory: pytest.TempPathFactory) -> None:
    count = 1030  # A segment is full, the rest is the tail.
    with _store(tmp_path_factory) as store:
        rows = vectors(count)
        store.add_many([Record(text=f"note {n}", time=float(n)) for n in range(count)], rows)
        found = store.candidates(rows[1023], "nothing", most=1, around=2)
        assert [stored.id for stored in found.records] == [1022, 1023, 1024, 1025, 1026]
        assert found.before.tolist() == [NONE, 0, 1, 2, 3]
        store.forget(1025)
        after = store.candidates(rows[1023], "nothing", most=1, around=2)
        assert [stored.id for stored in after.records] == [1022, 1023, 1024, 1026, 1027]


@given(spans=st.lists(st.tuples(st.integers(-5, 45), st.integers(-5, 45)), max_size=3), most=st.integers(1, 8))
@settings(max_examples=25, deadline=None)
def test_the_best_of_each_time_asked_for_are_there_too(
    tmp_path_factory: pytest.TempPathFactory, spans: list[tuple[int, int]], most: int
) -> None:
    with _store(tmp_path_factory) as store:
        rows, where = vectors(40), Where(scope="a", after=3.0, before=37.0)
        kept = [Record(text=f"word{n % 5}", time=float(n), scope="ab"[n % 7 == 0]) for n in range(40)]
        ids = store.add_many(kept, rows)
        old = store.add(Record(text="word1", time=20.0, scope="a"), rows[0])
        store.add(Record(text="word1", time=90.0, scope="a", supersedes=old), rows[0])
        then = [(float(after), float(before)) for after, before in spans]
        found = store.candidates(rows[0], "word1", most=most, around=0, where=where, then=then)
        plain = store.candidates(rows[0], "word1", most=most, around=0, where=where)
        inside = [id for id, one in zip(ids, kept, strict=True) if any(a <= one.time < b for a, b in then)]
        readable = {id for id, one in zip(ids, kept, strict=True) if one.scope == "a" and 3 <= one.time < 37}
        its, others = ({stored.id for stored in one.records} for one in (found, plain))
        assert others <= its
        assert its - others <= readable & set(inside)
        assert len(its & set(inside)) >= min(most // 2, len(readable & set(inside)))
        assert len(its - others) <= most // 2
        np.testing.assert_allclose(found.vectors @ rows[0], found.products, atol=1e-6)


def test_an_empty_store_has_no_candidates(tmp_path_factory: pytest.TempPathFactory) -> None:
    with _store(tmp_path_factory) as store:
        assert len(store.candidates(vectors(1)[0], "x")) == 0
        store.add(Record(text="x", time=0.0), vectors(1)[0])
        assert len(store.candidates(vectors(1)[0], "x", where=Where(scope="nowhere"))) == 0


@pytest.mark.parametrize("terms", [{"most": 0}, {"around": -1}, {"around": 5}])
def test_numbers_out_of_range_are_refused(tmp_path_factory: pytest.TempPathFactory, terms: dict[str, int]) -> None:
    with _store(tmp_path_factory) as store, pytest.raises(ValueError, match="Expected"):
        store.candidates(vectors(1)[0], "x", **terms)


def test_rarity_is_highest_for_what_no_document_has() -> None:
    index = LexicalIndex()
    for slot, text in enumerate(["tea and milk", "tea", "tea, sugar"], start=1):
        index.put_entry(slot, entry_of(text))
    rarity = index.scored(terms_of("tea milk coffee")).rarity
    tea, milk, coffee = (rarity[next(iter(terms_of(word)))] for word in ("tea", "milk", "coffee"))
    assert 0 < tea < milk < coffee
