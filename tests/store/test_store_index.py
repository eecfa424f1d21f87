"""The index, and the store as a whole, against an oracle of one dict and numpy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from store import DeviceKey, EncryptedStore, Record, RecordMissingError

Records = Callable[[int], list[Record]]
Vectors = Callable[[int], np.ndarray]


class UndoError(Exception):
    """Raised to undo a transaction."""


@contextmanager
def undone(memory: EncryptedStore) -> Iterator[None]:
    """A transaction whose block runs to its end and is then undone by an error."""
    with suppress(UndoError), memory.transaction():
        yield
        raise UndoError


def oracle_search(vectors: dict[int, np.ndarray], query: np.ndarray, k: int) -> list[tuple[int, float]]:
    """The naive way: all products, sorted. Exact for whole numbers."""
    scores = [(number, float(vector @ query)) for number, vector in vectors.items()]
    return sorted(scores, key=lambda pair: (-pair[1], pair[0]))[:k]


def stored(memory: EncryptedStore) -> dict[int, np.ndarray]:
    ids, matrix = memory.vectors()
    return dict(zip(ids, matrix, strict=True))


@pytest.mark.parametrize("k", [1, 2, 7, 100, 399, 400, 1000])
def test_search_equals_oracle_with_many_equal_scores(
    memory: EncryptedStore, records: Records, vectors: Vectors, k: int
) -> None:
    memory.add_many(records(400), np.clip(vectors(400), -1, 1))
    for query in vectors(5):
        assert memory.search(query, k) == oracle_search(stored(memory), query, k)


def test_search_all_equal_vectors_returns_lowest_ids(memory: EncryptedStore, records: Records) -> None:
    memory.add_many(records(50), np.ones((50, 8), dtype=np.float32))
    assert memory.search(np.ones(8, dtype=np.float32), 3) == [(1, 8.0), (2, 8.0), (3, 8.0)]
    assert memory.search(np.zeros(8, dtype=np.float32), 2) == [(1, 0.0), (2, 0.0)]


def test_search_on_real_valued_vectors_ranks_as_float64_does(tmp_path: Path, key: DeviceKey) -> None:
    rng = np.random.default_rng(3)
    matrix = rng.standard_normal((500, 384)).astype(np.float32)
    with EncryptedStore.create(tmp_path / "wide", key, dimension=384) as memory:
        memory.add_many([Record(text="x", time=0.0)] * 500, matrix)
        query = rng.standard_normal(384).astype(np.float32)
        got = memory.search(query, 500)
        products = matrix.astype(np.float64) @ query.astype(np.float64)
        np.testing.assert_allclose([score for _, score in got], -np.sort(-products), atol=1e-4)
        assert {number for number, _ in got[:10]} == set((np.argsort(-products)[:10] + 1).tolist())


def test_index_is_not_stale_after_rollback(memory: EncryptedStore, records: Records, vectors: Vectors) -> None:
    ids = memory.add_many(records(5), vectors(5))
    query = np.ones(8, dtype=np.float32)
    before = memory.search(query, 10)
    with undone(memory):
        memory.add_many(records(3), vectors(3))
        memory.update(ids[0], records(1)[0], 100 * query)
        memory.delete(ids[1])
        inside = memory.search(query, 10)
        assert inside == oracle_search(stored(memory), query, 10)
        assert inside[0] == (ids[0], 800.0)
    assert memory.search(query, 10) == before
    # The same id and version come again with another vector: the index must not take them for the old ones.
    assert memory.update(ids[0], records(1)[0], -query) == 2
    memory.add_many(records(3), np.zeros((3, 8), dtype=np.float32))
    assert memory.search(query, 10) == oracle_search(stored(memory), query, 10)


def test_index_is_not_stale_after_inner_rollback(memory: EncryptedStore, records: Records, vectors: Vectors) -> None:
    memory.add_many(records(5), vectors(5))
    query = np.ones(8, dtype=np.float32)
    memory.search(query, 10)
    with memory.transaction():
        memory.add(records(1)[0], 9 * query)
        with undone(memory):
            memory.add(records(1)[0], 50 * query)
        assert memory.search(query, 10) == oracle_search(stored(memory), query, 10)
    assert memory.search(query, 10) == oracle_search(stored(memory), query, 10)


def test_failed_delete_does_not_cost_a_rebuild(memory: EncryptedStore, records: Records, vectors: Vectors) -> None:
    memory.add_many(records(5), vectors(5))
    memory.search(vectors(1)[0], 1)
    index = memory._index
    assert index is not None
    with pytest.raises(RecordMissingError):
        memory.delete(99)
    memory.add(records(1)[0], vectors(1)[0])
    assert memory._index is index


def test_index_follows_another_process(memory: EncryptedStore, records: Records, vectors: Vectors, spawn) -> None:
    memory.add_many(records(5), vectors(5))
    query = np.ones(8, dtype=np.float32)
    memory.search(query, 10)
    child = spawn("""
with EncryptedStore.open(folder, key) as other:
    other.add(Record(text="theirs", time=0.0), np.full(8, 30, dtype=np.float32))
    other.update(2, Record(text="theirs", time=0.0), np.full(8, 20, dtype=np.float32))
    other.delete(3)
""")
    assert child.communicate(timeout=60)[1] == ""
    memory.add(records(1)[0], np.full(8, 25, dtype=np.float32))
    found = memory.search(query, 10)
    assert found == oracle_search(stored(memory), query, 10)
    assert [number for number, _ in found[:3]] == [6, 7, 2]
    assert 3 not in [number for number, _ in found]


class StoreAgainstDict(RuleBasedStateMachine):
    """Any order of operations, on two connections, with rollbacks and reopening, equals a dict."""

    root: Path
    counter = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.folder = self.root / str(next(self.counter))
        self.key = DeviceKey(bytes(32))
        self.stores = [EncryptedStore.create(self.folder, self.key, dimension=3)]
        self.stores.append(EncryptedStore.open(self.folder, self.key))
        self.model: dict[int, tuple[int, Record, np.ndarray]] = {}

    texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
    triples = st.tuples(*[st.integers(-3, 3)] * 3)
    which = st.integers(0, 1)

    @rule(which=which, rows=st.lists(st.tuples(texts, triples), max_size=4), fails=st.booleans())
    def add_many(self, which: int, rows: list[tuple[str, tuple[int, ...]]], fails: bool) -> None:
        memory = self.stores[which]
        records = [Record(text=text, time=1.0) for text, _ in rows]
        matrix = np.array([triple for _, triple in rows], dtype=np.float32).reshape(-1, 3)
        if fails:
            with undone(memory):
                memory.add_many(records, matrix)
                memory.search(np.ones(3, dtype=np.float32), 2)
        else:
            for number, record, vector in zip(memory.add_many(records, matrix), records, matrix, strict=True):
                assert number not in self.model
                self.model[number] = (1, record, vector)

    @precondition(lambda self: self.model)
    @rule(which=which, data=st.data(), text=texts, triple=st.none() | triples)
    def update(self, which: int, data: st.DataObject, text: str, triple: tuple[int, ...] | None) -> None:
        number = data.draw(st.sampled_from(sorted(self.model)))
        version, _, vector = self.model[number]
        record = Record(text=text, time=2.0)
        new = None if triple is None else np.array(triple, dtype=np.float32)
        assert self.stores[which].update(number, record, new) == version + 1
        self.model[number] = (version + 1, record, vector if new is None else new)

    @precondition(lambda self: self.model)
    @rule(which=which, data=st.data())
    def delete(self, which: int, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.model)))
        self.stores[which].delete(number)
        del self.model[number]
        with pytest.raises(RecordMissingError):
            self.stores[1 - which].get(number)

    @rule(which=which)
    def reopen(self, which: int) -> None:
        self.stores[which].close()
        self.stores[which] = EncryptedStore.open(self.folder, self.key)

    @rule(which=which, query=triples, k=st.integers(1, 6))
    def search(self, which: int, query: tuple[int, ...], k: int) -> None:
        vector = np.array(query, dtype=np.float32)
        vectors = {number: row for number, (_, _, row) in self.model.items()}
        assert self.stores[which].search(vector, k) == oracle_search(vectors, vector, k)

    @invariant()
    def both_connections_show_the_model(self) -> None:
        for memory in self.stores:
            assert {s.id: (s.version, s.record) for s in memory.iter()} == {
                number: row[:2] for number, row in self.model.items()
            }
            vectors = stored(memory)
            assert vectors.keys() == self.model.keys()
            assert all(np.array_equal(vectors[number], row[2]) for number, row in self.model.items())

    def teardown(self) -> None:
        for memory in self.stores:
            memory.close()


def test_any_sequence_of_operations_equals_the_oracle(tmp_path: Path) -> None:
    machine = type("Machine", (StoreAgainstDict,), {"root": tmp_path})
    run_state_machine_as_test(machine, settings=settings(max_examples=30, stateful_step_count=25, deadline=None))
