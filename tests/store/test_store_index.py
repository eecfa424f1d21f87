"""The index against an oracle of one dict and numpy. Whole sequences of operations: ``test_store_machine.py``."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from store import DeviceKey, EncryptedStore, Record, RecordMissingError, StoredRecord, Where
from store.format.columns import Entry
from store.search.readable import current

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
    index = memory._search._index
    assert index is not None
    with pytest.raises(RecordMissingError):
        memory.delete(99)
    memory.add(records(1)[0], vectors(1)[0])
    memory.search(vectors(1)[0], 1)
    assert memory._search._index is index


def test_index_follows_another_process(
    memory: EncryptedStore, records: Records, vectors: Vectors, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
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
    assert [number for number, _ in found[:3]] == [6, 8, 2]  # Slot 7 is the new version of 2.
    assert 3 not in [number for number, _ in found]


WORK = Where(scope="work")


def test_equal_products_at_the_cut_go_to_the_lowest_ids_not_slots(memory: EncryptedStore) -> None:
    same = np.ones((5, 8), dtype=np.float32)
    memory.add_many([Record(text="x", time=0.0, scope="work")] * 5, same)
    memory.update(1, Record(text="y", time=0.0, scope="work"))  # Now in slot 6.
    for where in (Where(), WORK):
        assert memory.search(same[0], 2, where=where) == [(1, 8.0), (2, 8.0)]


def test_opened_vectors_are_not_stale_after_rollback(memory: EncryptedStore) -> None:
    query, record = np.ones(8, dtype=np.float32), Record(text="x", time=0.0, scope="work")
    with undone(memory):
        memory.add(record, 9 * query)
        assert memory.search(query, 1, where=WORK) == [(1, 72.0)]
    memory.add(record, 5 * query)  # In the same slot.
    assert memory.search(query, 1, where=WORK) == [(1, 40.0)]


@pytest.fixture(scope="module")
def large() -> tuple[list[Record], np.ndarray]:
    rng = np.random.default_rng(11)
    records = [Record(text=f"note {i}", time=float(i), scope="work" if i % 3 else "home") for i in range(2_500)]
    return records, rng.integers(-3, 4, (2_500, 8)).astype(np.float32)


@pytest.mark.parametrize("seed", range(6))
def test_opened_vectors_of_what_another_connection_forgot_are_dropped(
    memory: EncryptedStore, folder: Path, key: DeviceKey, large: tuple[list[Record], np.ndarray], seed: int
) -> None:
    records, matrix = large
    rng = np.random.default_rng(seed)
    memory.add_many(records[:1_010], matrix[:1_010])  # Some more fill the tail, which is then folded.
    with EncryptedStore.open(folder, key) as other:
        for _ in range(6):
            other.search(matrix[0], 5, where=WORK)
            kept = set(other._search.opener.kept_vectors.slots.tolist())  # type: ignore[union-attr]
            for _ in range(int(rng.integers(1, 4))):
                ids = [stored.id for stored in memory.iter(history=True)]
                match int(rng.integers(4)):
                    case 0:
                        memory.add_many(records[:9], matrix[:9])
                    case 1:
                        memory.update(int(rng.choice(ids)), records[0], matrix[1])
                    case 2:
                        memory.add(replace(records[0], supersedes=max(ids)), matrix[2])
                    case 3:
                        other.search_text("note", 2)
            memory.forget([int(id) for id in rng.choice([stored.id for stored in memory.iter()], 3)])
            assert other.search(matrix[0], 5, where=WORK) == memory.search(matrix[0], 5, where=WORK)
            live = set(current(other._core, Where(), -np.inf, history=True).tolist())
            held = set(other._search.opener.kept_vectors.slots.tolist())  # type: ignore[union-attr]
            assert kept & live <= held <= live
            assert held == other._search.opener.kept_vectors._places.keys()  # type: ignore[union-attr]


def test_search_after_a_forget_opens_no_columns_but_those_of_its_hits(
    memory: EncryptedStore, large: tuple[list[Record], np.ndarray]
) -> None:
    records, _ = large
    query = np.ones(8, dtype=np.float32)
    far = np.maximum(np.arange(2_500) - 999, 0) + np.arange(2_500) / 2_500  # The second segment is far away.
    memory.add_many(records, (1 - far)[:, None].astype(np.float32) * query)
    memory.search_hybrid(query, "7", 3)
    memory.candidates(query, "7", most=3)
    with memory._core.snapshot():
        memory._search.opener.vectors(np.arange(1, 9))
    memory._core.drop_columns()
    memory.forget(3)
    assert set(memory._search.opener.kept_records.slots.tolist()) >= {7, 8}
    assert memory.search_hybrid(query, "7", 3)[0][0] == 8
    assert memory._core._columns.keys() == {0}
    assert set(memory._search.opener.kept_vectors.slots.tolist()) == {1, 2, 4, 5, 6, 7, 8}  # type: ignore[union-attr]


def test_filtered_search_follows_another_connections_change_of_dimension(
    memory: EncryptedStore, folder: Path, key: DeviceKey
) -> None:
    ids = memory.add_many([Record(text="x", time=0.0, scope="work")] * 2, np.ones((2, 8), dtype=np.float32))
    with EncryptedStore.open(folder, key) as other:
        assert len(other.search(np.ones(8, dtype=np.float32), 2, where=WORK)) == 2
        memory.replace_vectors(ids, np.ones((2, 12), dtype=np.float32), 12)
        assert other.search(np.ones(12, dtype=np.float32), 2, where=WORK) == [(1, 12.0), (2, 12.0)]


def test_folding_keeps_search_and_reading_exact(
    memory: EncryptedStore, folder: Path, key: DeviceKey, large: tuple[list[Record], np.ndarray]
) -> None:
    records, matrix = large
    memory.add_many(records[:1_000], matrix[:1_000])
    query = np.array([1, -2, 3, 0, 1, 2, -1, 1], dtype=np.float32)
    memory.search(query, 1)
    memory.search_text("note", 1)
    memory.add_many(records[1_000:], matrix[1_000:])  # Two segments fold while the indexes are warm.
    assert len(memory._core.view.manifest.segments) == 2
    memory.forget([1, 1_024, 1_025, 2_049])
    memory.update(5, records[5], 50 * query)
    with EncryptedStore.open(folder, key) as cold:
        for opened in (memory, cold):
            assert opened.search(query, 30) == oracle_search(stored(opened), query, 30)
            assert opened.search(query, 1)[0][0] == 5
            ids, _ = opened.vectors(WORK)
            assert ids == [i + 1 for i, record in enumerate(opened_scopes(opened, records)) if record == "work"]
            assert opened.search(query, 30, where=WORK) == oracle_search(
                {id: vector for id, vector in stored(opened).items() if id in set(ids)}, query, 30
            )
            assert [id for id, _ in opened.search_text("1499", 5)] == [1_500]
            assert opened.count() == 2_496
        assert memory.verify() == cold.verify()


def opened_scopes(memory: EncryptedStore, records: list[Record]) -> list[str]:
    """The scope of each record by place, as the test added them; empty where it was forgotten or given another."""
    scopes = [record.scope for record in records]
    for gone in (1, 1_024, 1_025, 2_049):
        scopes[gone - 1] = ""
    scopes[4] = records[5].scope
    return scopes


def test_iterating_many_records_reads_each_page_once(
    memory: EncryptedStore, large: tuple[list[Record], np.ndarray]
) -> None:
    records, matrix = large
    memory.add_many(records, matrix)
    calls: list[int] = []
    inner = memory._rows.records

    def counting(entries: Sequence[Entry]) -> list[StoredRecord]:
        calls.append(len(entries))
        return inner(entries)

    memory._rows.records = counting  # type: ignore[method-assign]
    assert [s.record for s in memory.iter(scope="home", history=True)] == [r for r in records if r.scope == "home"]
    assert sum(calls) == sum(record.scope == "home" for record in records)


def test_search_above_the_exact_limit_ranks_candidates_exactly(
    tmp_path: Path, key: DeviceKey, monkeypatch: pytest.MonkeyPatch, large: tuple[list[Record], np.ndarray]
) -> None:
    monkeypatch.setattr("store.search.searcher.EXACT_BELOW", 500)
    rng = np.random.default_rng(5)
    matrix = rng.standard_normal((2_500, 64)).astype(np.float32)
    with EncryptedStore.create(tmp_path / "codes", key, dimension=64) as memory:
        memory.add_many(large[0], matrix)
        memory.forget(range(100, 200))
        rest = stored(memory)
        found = memory.search(matrix[300], 10)
        assert found[0][0] == 301
        assert not {id for id, _ in found} & set(range(100, 200))
        for id, score in found:
            assert score == pytest.approx(float(rest[id] @ matrix[300]), rel=1e-3)
        best = {id for id, _ in oracle_search(rest, matrix[300], 10)}
        assert len(best & {id for id, _ in found}) >= 8
