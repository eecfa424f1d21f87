"""What a store keeps in memory of opened records: bounded, never stale, and gone with what it was made of."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import Candidates, DeviceKey, EncryptedStore, FileSecret, MemoryWitness, Record, StoredRecord
from store.search.opened import OpenedRecords

QUERY = np.ones(4, dtype=np.float32) / 2
STEPS = ["get", "drop", "other", "bare"]
TEXTS = st.sampled_from(["a", "b" * 40, "c" * 900])


class Told:
    """What is derived of a record here: its text once more."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.size_bytes = 100 + len(text)


def told(records: Sequence[Record]) -> list[Told]:
    return [Told(record.text) for record in records]


def told_anew(records: Sequence[Record]) -> list[Told]:
    return [Told(record.text + "!") for record in records]


# The cache itself


@given(
    texts=st.lists(TEXTS, min_size=1, max_size=12),
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.sets(st.integers(0, 11))), max_size=20),
    bound=st.sampled_from([0, 30_000, 60_000, 10**6]),
)
@settings(max_examples=80)
def test_kept_records_equal_those_opened_anew_and_stay_within_the_bound(
    texts: list[str], steps: list[tuple[str, set[int]]], bound: int
) -> None:
    kept, last = OpenedRecords(bound), None
    fetched: list[int] = []

    def fetch(slots: Sequence[int]) -> list[StoredRecord]:
        fetched.extend(slots)
        return [StoredRecord(id=slot, version=1, record=Record(text=texts[slot], time=0.0)) for slot in slots]

    for step, numbers in steps:
        slots = [slot for slot in sorted(numbers) if slot < len(texts)]
        if step == "drop":
            kept.drop(slots)
            assert not set(slots) & set(kept.slots.tolist())
            continue
        derive = {"get": told, "other": told_anew, "bare": None}[step]
        before = set(kept.slots.tolist()) if derive in (last, None) or last is None else set()
        fetched.clear()
        found = kept.get(slots, fetch, derive)
        last = derive or last
        assert [one.stored.record.text for one in found] == [texts[slot] for slot in slots]
        if derive is not None:
            assert [one.derived.text for one in found] == [one.text for one in derive([s.stored.record for s in found])]
        assert set(fetched) == set(slots) - before
        assert kept.size_bytes <= bound
    assert kept.size_bytes == sum(kept._kept[slot].size_bytes for slot in kept.slots.tolist())
    kept.drop(kept.slots.tolist())
    assert kept.size_bytes == 0


def test_a_record_too_long_to_keep_pushes_out_no_other() -> None:
    kept = OpenedRecords(64_000)
    texts = {1: "short", 2: "x" * 5_000}

    def fetch(slots: Sequence[int]) -> list[StoredRecord]:
        return [StoredRecord(id=slot, version=1, record=Record(text=texts[slot], time=0.0)) for slot in slots]

    assert [one.stored.id for one in kept.get([1, 2], fetch, None)] == [1, 2]
    assert kept.slots.tolist() == [1]


# In a store


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[], EncryptedStore]:
    """Opens the same store anew each time, as other processes do."""
    secret, witness, key = FileSecret(tmp_path / "secret"), MemoryWitness(), DeviceKey(bytes(32))
    EncryptedStore.create(tmp_path / "home", key, dimension=4, secret=secret, witness=witness).close()
    return lambda: EncryptedStore.open(tmp_path / "home", key, secret=secret, witness=witness)


def add(store: EncryptedStore, *texts: str) -> list[int]:
    return store.add_many([Record(text=text, time=0.0) for text in texts], np.tile(QUERY, (len(texts), 1)))


def found(store: EncryptedStore) -> Candidates:
    return store.candidates(QUERY, "note", derive=told)


def held(store: EncryptedStore) -> dict[str, weakref.ref[Told]]:
    """By text, what the store's memory holds."""
    return {its.text: weakref.ref(its) for its in found(store).derived}


def alive(refs: dict[str, weakref.ref[Told]]) -> set[str]:
    gc.collect()
    return {text for text, ref in refs.items() if ref() is not None}


@pytest.mark.parametrize("size", [3, 1_100])
@pytest.mark.parametrize("end", ["forget", "delete what was made from it", "update", "close"])
def test_what_was_derived_is_gone_from_memory_with_its_record(
    opened: Callable[[], EncryptedStore], size: int, end: str
) -> None:
    with opened() as store:
        first, *_ = add(store, "note one", *(f"other {n}" for n in range(size - 1)))
        made = store.add(Record(text="note made", time=0.0, derived_from=(first,)), QUERY)
        refs = held(store)
        assert {"note one", "note made"} <= alive(refs)
        match end:
            case "forget":
                store.forget(first)
                assert not {"note one", "note made"} & alive(refs)
                assert alive(refs)
            case "delete what was made from it":
                store.delete(made)
                assert "note made" not in alive(refs)
                assert "note one" in alive(refs)
            case "update":
                store.update(first, Record(text="note changed", time=0.0))
                assert "note one" not in alive(refs)
                assert {"note changed", "note made"} <= held(store).keys()
            case "close":
                store.close()
                assert not alive(refs)


@pytest.mark.parametrize("size", [3, 1_100])
def test_another_process_changes_and_forgets_and_nothing_stale_is_read_or_kept(
    opened: Callable[[], EncryptedStore], size: int
) -> None:
    with opened() as ours, opened() as theirs:
        one, two, *_ = add(ours, "note one", "note two", *(f"other {n}" for n in range(size - 2)))
        refs = held(ours)
        theirs.update(one, Record(text="note changed", time=0.0))
        texts = [its.text for its in found(ours).derived]
        assert "note changed" in texts
        assert "note one" not in texts
        assert "note one" not in alive(refs)
        theirs.forget(two)
        assert "note two" not in [its.text for its in found(ours).derived]
        assert "note two" not in alive(refs)
        for stored, its in zip(found(ours).records, found(ours).derived, strict=True):
            assert stored.record.text == its.text


def test_what_was_read_inside_an_undone_transaction_is_not_answered_later(
    opened: Callable[[], EncryptedStore],
) -> None:
    with opened() as store:
        add(store, "note")
        with suppress(ZeroDivisionError), store.transaction():
            add(store, "note undone")
            assert len(found(store)) == 2
            raise ZeroDivisionError
        add(store, "note done")  # In the same slot.
        assert [its.text for its in found(store).derived] == ["note", "note done"]


def test_no_more_is_kept_than_the_store_was_opened_with(tmp_path: Path) -> None:
    with EncryptedStore.create(
        tmp_path / "home",
        DeviceKey(bytes(32)),
        dimension=4,
        secret=FileSecret(tmp_path / "secret"),
        witness=MemoryWitness(),
        cache_bytes=200_000,
    ) as store:
        for part in range(5):
            add(store, *(f"note {part} {n}" for n in range(60)))
            store.candidates(np.eye(4, dtype=np.float32)[part % 4], f"note {part}", derive=told)
            assert 0 < store.index_bytes()["records"] <= 100_000
