"""What the store promises its callers: ids, versions, all or nothing, named values, clear refusals."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store import DeviceKey, DimensionError, EncryptedStore, Record, RecordMissingError, StoreError, Where

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


def test_add_then_reopen_returns_the_same_record_and_vector(
    memory: EncryptedStore, folder: Path, key: DeviceKey, records: Records, vectors: Vectors
) -> None:
    (record,), matrix = records(1), vectors(1)
    number = memory.add(record, matrix[0])
    memory.close()
    with EncryptedStore.open(folder, key) as again:
        stored = again.get(number)
        assert (stored.id, stored.version, stored.record) == (number, 1, record)
        assert np.array_equal(again.vector(number), matrix[0])
        assert again.vector(number).dtype == np.float32
        assert (again.store_id, again.dimension) == (memory.store_id, 8)


def test_add_many_gives_ascending_ids_and_vectors_in_id_order(
    memory: EncryptedStore, records: Records, vectors: Vectors
) -> None:
    matrix = vectors(600)
    ids = memory.add_many(records(600), matrix)
    assert ids == sorted(set(ids))
    assert [stored.record for stored in memory.iter()] == records(600)
    got_ids, got = memory.vectors()
    assert got_ids == ids
    assert np.array_equal(got, matrix)
    assert memory.count() == 600


def test_empty_store_answers_with_nothing(memory: EncryptedStore) -> None:
    assert memory.count() == 0
    assert list(memory.iter()) == []
    assert memory.vectors()[0] == []
    assert memory.vectors()[1].shape == (0, 8)
    assert memory.search(np.ones(8, dtype=np.float32), 5) == []
    assert memory.add_many([], np.empty((0, 8), dtype=np.float32)) == []
    memory.delete_many([])
    assert memory.verify() == 4  # Root, head, manifest, registry.


def test_iter_filters_by_scope_purpose_and_source(memory: EncryptedStore, vectors: Vectors) -> None:
    kinds = [("work", "personalization", "user"), ("home", "personalization", "app"), ("home", "audit", "user")]
    for scope, purpose, source in kinds:
        memory.add(Record(text="x", time=0.0, scope=scope, purpose=purpose, source=source), vectors(1)[0])
    assert [s.id for s in memory.iter(scope="home")] == [2, 3]
    assert [s.id for s in memory.iter(purpose="personalization", source="user")] == [1]
    assert [s.id for s in memory.iter(scope="none")] == []


def test_iter_lets_the_caller_delete_on_the_way(memory: EncryptedStore, records: Records, vectors: Vectors) -> None:
    memory.add_many(records(300), vectors(300))
    seen = []
    for stored in memory.iter():
        seen.append(stored.id)
        if stored.id < 8 or 250 < stored.id < 262:  # On both sides of a page's end.
            memory.delete(stored.id)
    assert seen == list(range(1, 301))
    assert memory.vectors()[0] == [*range(8, 251), *range(262, 301)]


def test_update_gives_new_version_and_keeps_the_vector_unless_given(
    memory: EncryptedStore, records: Records, vectors: Vectors
) -> None:
    first, second, third = records(3)
    matrix = vectors(2)
    number = memory.add(first, matrix[0])
    assert memory.update(number, second) == 2
    assert memory.get(number).record == second
    assert np.array_equal(memory.vector(number), matrix[0])
    assert memory.update(number, third, matrix[1]) == 3
    assert memory.get(number).version == 3
    assert np.array_equal(memory.vector(number), matrix[1])


def test_ids_are_never_given_twice(memory: EncryptedStore, records: Records, vectors: Vectors) -> None:
    ids = memory.add_many(records(3), vectors(3))
    memory.delete_many(ids)
    assert memory.add(records(1)[0], vectors(1)[0]) > max(ids)


@pytest.mark.parametrize("missing", [0, -1, 99, 2**63, 2**200])
def test_missing_id_raises_and_changes_nothing(
    memory: EncryptedStore, records: Records, vectors: Vectors, missing: int
) -> None:
    number = memory.add(records(1)[0], vectors(1)[0])
    for call in (
        lambda: memory.get(missing),
        lambda: memory.vector(missing),
        lambda: memory.delete(missing),
        lambda: memory.delete_many([number, missing]),
        lambda: memory.update(missing, records(1)[0]),
    ):
        with pytest.raises(RecordMissingError):
            call()
    assert memory.count() == 1


@pytest.mark.parametrize(
    ("vector", "error"),
    [
        (np.full(8, np.nan, dtype=np.float32), ValueError),
        (np.array([0, 0, 0, 0, 0, 0, 0, np.inf], dtype=np.float32), ValueError),
        (np.array([0, 0, 0, 0, 0, 0, 0, -np.inf], dtype=np.float32), ValueError),
        (np.full(8, 1e20, dtype=np.float32), ValueError),
        (np.zeros(8), ValueError),
        ([0.0] * 8, ValueError),
        (np.zeros(7, dtype=np.float32), DimensionError),
        (np.zeros((1, 8), dtype=np.float32), DimensionError),
        (np.zeros(0, dtype=np.float32), DimensionError),
    ],
)
def test_bad_vector_is_refused_by_add_update_and_search(
    memory: EncryptedStore, records: Records, vectors: Vectors, vector: np.ndarray, error: type[Exception]
) -> None:
    number = memory.add(records(1)[0], vectors(1)[0])
    for call in (
        lambda: memory.add(records(1)[0], vector),
        lambda: memory.update(number, records(1)[0], vector),
        lambda: memory.search(vector, 1),
    ):
        with pytest.raises(error, match="Expected"):
            call()
    assert (memory.count(), memory.get(number).version) == (1, 1)


def test_add_many_with_one_bad_row_adds_none(memory: EncryptedStore, records: Records, vectors: Vectors) -> None:
    bad = vectors(3)
    bad[2, 5] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        memory.add_many(records(3), bad)
    with pytest.raises(DimensionError):
        memory.add_many(records(3), vectors(2))
    with pytest.raises(TypeError):
        memory.add_many([*records(2), "text"], vectors(3))  # type: ignore[list-item]
    assert memory.count() == 0


def test_zero_and_extreme_vectors_come_back_bit_for_bit(memory: EncryptedStore, records: Records) -> None:
    matrix = np.array([[0.0] * 8, [-0.0] * 8, [1e15, -1e15, 1e-45, 1, 2, 3, 4, 5]], dtype=np.float32)
    memory.add_many(records(3), matrix)
    assert memory.vectors()[1].tobytes() == matrix.tobytes()


def test_vectors_that_are_views_are_stored_as_seen(memory: EncryptedStore, records: Records, vectors: Vectors) -> None:
    wide = np.repeat(vectors(3), 2, axis=1)
    memory.add_many(records(3), wide[:, ::2])
    assert np.array_equal(memory.vectors()[1], wide[:, ::2])


@pytest.mark.parametrize("k", [0, -1])
def test_search_refuses_k_below_one(memory: EncryptedStore, vectors: Vectors, k: int) -> None:
    with pytest.raises(ValueError, match="k="):
        memory.search(vectors(1)[0], k)


@pytest.mark.parametrize("dimension", [0, -1, 65_537, 1.5, True, "8"])
def test_create_refuses_bad_dimension_and_makes_nothing(tmp_path: Path, key: DeviceKey, dimension: int) -> None:
    with pytest.raises(DimensionError):
        EncryptedStore.create(tmp_path / "new", key, dimension=dimension)
    assert not (tmp_path / "new").exists()


def test_replace_vectors_changes_dimension_for_all_or_none(
    memory: EncryptedStore, folder: Path, key: DeviceKey, records: Records, vectors: Vectors
) -> None:
    ids = memory.add_many(records(4), vectors(4))
    memory.search(vectors(1)[0], 1)
    other = EncryptedStore.open(folder, key)
    wide = np.arange(4 * 12, dtype=np.float32).reshape(4, 12)
    for bad_ids in (ids[:3], [*ids[:3], ids[0]], [*ids[:3], 99]):
        with pytest.raises(ValueError, match="all 4 records"):
            memory.replace_vectors(bad_ids, wide[: len(bad_ids)], 12)
    assert memory.dimension == 8
    memory.replace_vectors(ids[::-1], wide[::-1], 12)
    for opened in (memory, other, EncryptedStore.open(folder, key)):
        assert opened.dimension == 12
        assert np.array_equal(opened.vectors()[1], wide)
        assert [s.version for s in opened.iter()] == [2] * 4
        assert [s.record for s in opened.iter()] == records(4)
        assert opened.search(np.ones(12, dtype=np.float32), 1)[0][0] == ids[3]
        with pytest.raises(DimensionError):
            opened.add(records(1)[0], vectors(1)[0])
        opened.close()


def test_replace_vectors_undone_restores_the_dimension(
    memory: EncryptedStore, records: Records, vectors: Vectors
) -> None:
    ids = memory.add_many(records(2), vectors(2))
    query = vectors(1)[0]
    before = memory.search(query, 2)
    with undone(memory):
        memory.replace_vectors(ids, np.ones((2, 3), dtype=np.float32), 3)
        assert memory.dimension == 3
        assert memory.search(np.ones(3, dtype=np.float32), 1) == [(ids[0], 3.0)]
    assert memory.dimension == 8
    assert memory.search(query, 2) == before
    memory.add(records(1)[0], vectors(1)[0])


def test_named_values_round_trip_list_and_discard(memory: EncryptedStore, folder: Path, key: DeviceKey) -> None:
    memory.put("weights", "personal", b"\x00\x01")
    memory.put("weights", "a", b"")
    memory.put("ledger", "personal", b"other")
    memory.put("weights", "personal", b"newer")
    large = os.urandom(3_000_000)
    memory.put("model", "checkpoint \u4f60", large)
    memory.close()
    with EncryptedStore.open(folder, key) as again:
        assert again.names("weights") == ["a", "personal"]
        assert again.names("nothing") == []
        assert again.fetch("weights", "personal") == b"newer"
        assert again.fetch("weights", "a") == b""
        assert again.fetch("ledger", "personal") == b"other"
        assert again.fetch("ledger", "a") is None
        assert again.fetch("model", "checkpoint \u4f60") == large
        again.discard("weights", "personal")
        again.discard("weights", "personal")
        assert again.names("weights") == ["a"]
        assert again.fetch("weights", "personal") is None
        assert again.verify() == 4 + 2 * 3 + len(again.entries())


def test_named_kind_and_name_do_not_run_together(memory: EncryptedStore) -> None:
    memory.put("ab", "c", b"1")
    assert memory.fetch("a", "bc") is None


def test_named_values_refuse_bad_input(memory: EncryptedStore) -> None:
    for kind, name in (("", "x"), ("x", ""), ("x", "\ud800"), ("x" * 1001, "y")):
        with pytest.raises(ValueError, match="Expected"):
            memory.put(kind, name, b"")
    with pytest.raises(TypeError):
        memory.put("a", "b", "text")  # type: ignore[arg-type]


def test_transaction_groups_changes_and_undoes_them_together(
    memory: EncryptedStore, records: Records, vectors: Vectors
) -> None:
    with memory.transaction():
        memory.add(records(1)[0], vectors(1)[0])
        memory.put("ledger", "1", b"entry")
    with undone(memory):
        memory.add(records(1)[0], vectors(1)[0])
        memory.put("ledger", "2", b"entry")
    assert (memory.count(), memory.names("ledger")) == (1, ["1"])


def test_inner_transaction_is_undone_alone(memory: EncryptedStore, records: Records, vectors: Vectors) -> None:
    with memory.transaction():
        memory.put("a", "outer", b"1")
        with undone(memory):
            memory.add(records(1)[0], vectors(1)[0])
        memory.put("a", "after", b"1")
    assert (memory.count(), memory.names("a")) == (0, ["after", "outer"])


def test_data_version_changes_with_own_and_others_commits_only(
    memory: EncryptedStore, folder: Path, key: DeviceKey, records: Records, vectors: Vectors
) -> None:
    start = memory.data_version()
    list(memory.iter())
    memory.search(vectors(1)[0], 1)
    assert memory.data_version() == start
    memory.add(records(1)[0], vectors(1)[0])
    own = memory.data_version()
    assert own != start
    with EncryptedStore.open(folder, key) as other:
        assert memory.data_version() == own
        other.put("a", "b", b"c")
    assert memory.data_version() not in (own, start)


def test_closed_store_says_so_and_closing_twice_is_fine(
    memory: EncryptedStore, records: Records, vectors: Vectors
) -> None:
    memory.close()
    memory.close()
    for call in (memory.count, memory.vectors, memory.verify, lambda: memory.add(records(1)[0], vectors(1)[0])):
        with pytest.raises(StoreError, match="closed"):
            call()


def test_close_inside_a_transaction_is_refused(memory: EncryptedStore) -> None:
    with memory.transaction():
        with pytest.raises(StoreError, match="transaction"):
            memory.close()
        memory.put("a", "b", b"c")
    assert memory.fetch("a", "b") == b"c"


def test_store_prints_its_folder_only_and_refuses_pickling(memory: EncryptedStore, folder: Path) -> None:
    assert repr(memory) == f"EncryptedStore({str(folder)!r})"
    with pytest.raises(TypeError):
        pickle.dumps(memory)


def test_threads_sharing_a_store_lose_nothing(memory: EncryptedStore, records: Records, vectors: Vectors) -> None:
    acknowledged: list[int] = []
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(20):
                acknowledged.append(memory.add(records(1)[0], vectors(1)[0]))
                memory.put("thread", f"{number}-{i}", b"x")
                memory.search(vectors(1)[0], 3)
                assert memory.get(acknowledged[-1]).version == 1
        except BaseException as error:  # noqa: BLE001 - the test shows it
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert memory.vectors()[0] == sorted(acknowledged)
    assert len(set(acknowledged)) == 80
    assert len(memory.names("thread")) == 80


def test_what_threads_add_at_once_is_there_for_others(
    memory: EncryptedStore, folder: Path, key: DeviceKey, records: Records, vectors: Vectors
) -> None:
    """Seen through a second connection: on the first, a later commit would cover what one of them forgot to tell."""
    acknowledged: list[int] = []
    with EncryptedStore.open(folder, key) as other:
        for _ in range(20):
            start = threading.Barrier(3)

            def work(start: threading.Barrier = start) -> None:
                start.wait(5)
                acknowledged.append(memory.add(records(1)[0], vectors(1)[0]))

            threads = [threading.Thread(target=work) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert other.vectors()[0] == sorted(acknowledged)
    assert len(set(acknowledged)) == 60


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_is_refused_and_leaves_the_store_whole(
    memory: EncryptedStore, records: Records, vectors: Vectors
) -> None:
    memory.add(records(1)[0], vectors(1)[0])
    child = os.fork()
    if child == 0:
        status = 1
        try:
            memory.count()
        except StoreError as error:
            status = 0 if "forked" in str(error) else 2
        memory.close()
        os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    memory.add(records(1)[0], vectors(1)[0])
    assert memory.verify() == 4 + 3 * 2  # Each record: entry, vector, record.


def test_another_threads_block_is_none_to_be_nested_in(memory: EncryptedStore) -> None:
    """What a thread puts while another is in a transaction is durable, and told, when it returns."""
    done = threading.Event()

    def put() -> None:
        memory.put("kind", "by the other thread", b"value")
        done.set()

    thread = threading.Thread(target=put)
    with memory.transaction():
        memory.put("kind", "by this thread", b"value")
        thread.start()
        assert not done.wait(0.3)
    thread.join()
    memory._core.reread()
    assert memory.names("kind") == ["by the other thread", "by this thread"]
    memory.verify()


def test_asking_for_the_dimension_does_not_disturb_another_threads_transaction(
    memory: EncryptedStore, folder: Path, key: DeviceKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    vector = np.ones(memory.dimension, dtype=np.float32)
    with EncryptedStore.open(folder, key) as other:
        other.put("kind", "name", b"so that there is something to follow")
    read, inside, may_end, answers = memory._core._read_tail, threading.Event(), threading.Event(), list[int]()

    def slow(*terms: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            may_end.wait(0.5)
        return read(*terms)

    monkeypatch.setattr(memory._core, "_read_tail", slow)
    thread = threading.Thread(target=lambda: answers.append(memory.dimension))
    thread.start()
    assert inside.wait(5)
    with memory.transaction():
        first = memory.add(Record(text="one", time=0.0), vector)
        may_end.set()
        thread.join(0.5)
        second = memory.add(Record(text="two", time=0.0), vector)
    thread.join()
    assert answers == [memory.dimension]
    assert first != second
    assert [memory.get(id).record.text for id in (first, second)] == ["one", "two"]


def test_of_equal_products_the_lower_ids_are_found_behind_superseded_records(memory: EncryptedStore) -> None:
    direction = np.eye(memory.dimension, dtype=np.float32)[0]
    fillers = memory.add_many([Record(text="filler", time=0.0)] * 30, np.stack([direction * -5] * 30))
    older = [memory.add(Record(text="older", time=0.0), direction * size) for size in (8, 7)]
    best = memory.add(Record(text="best", time=0.0), direction * 9)
    equal = memory.add_many([Record(text="equal", time=0.0)] * 40, np.stack([direction * 5] * 40))
    for id in older:
        memory.add(Record(text="newer", time=0.0, supersedes=id), direction * -1)
    memory.search(direction, 1)
    memory.forget(fillers)  # The last rows take their places in the index, so that the lower ids come last.
    assert [id for id, _ in memory.search(direction, 3)] == [best, *equal[:2]]


def test_segment_that_is_forgotten_whole_leaves_no_columns_in_memory(folder: Path, key: DeviceKey) -> None:
    with EncryptedStore.create(folder, key, dimension=2) as memory, EncryptedStore.open(folder, key) as reader:
        ids = memory.add_many(
            [Record(text=f"text {n}", time=0.0, scope="secret-scope") for n in range(1500)],
            np.random.default_rng(0).standard_normal((1500, 2)).astype(np.float32),
        )
        for store in (memory, reader):
            store.search(np.ones(2, dtype=np.float32), 3, where=Where(scope="secret-scope"))
            assert store._core._columns
        memory.forget(ids[:1024])
        for store in (memory, reader):
            store.search(np.ones(2, dtype=np.float32), 3, where=Where(scope="secret-scope"))
            assert not store._core._columns
            assert not store._core._current[1]
