"""The life of a memory: scopes and purposes, time limits, history, what was made from what."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from store import DeviceKey, EncryptedStore, Record, RecordMissingError, Where

KEY = DeviceKey(bytes(range(32)))
ONE = np.ones(4, dtype=np.float32)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory(tmp_path: Path, clock: Clock) -> Iterator[EncryptedStore]:
    with EncryptedStore.create(tmp_path / "home", KEY, dimension=4, clock=clock) as opened:
        yield opened


ROWS = [
    dict(zip(("scope", "purpose", "source", "time"), row, strict=True))
    for row in itertools.product(("work", "home"), ("personalization", "audit"), ("user", "app"), (0.0, 1.0, 2.0))
]
WHERES = [
    Where(),
    Where(scope="work"),
    Where(scope="none"),
    Where(purpose="audit"),
    Where(source="app"),
    Where(scope="home", purpose="audit", source="user"),
    Where(after=1.0),
    Where(before=1.0),
    Where(after=1.0, before=2.0),
    Where(after=2.0, before=1.0),
    Where(scope="work", after=0.5),
]


def fits(row: dict[str, object], where: Where) -> bool:
    words = all(getattr(where, name) in (None, row[name]) for name in ("scope", "purpose", "source"))
    time = float(str(row["time"]))
    return words and (where.after is None or time >= where.after) and (where.before is None or time < where.before)


@pytest.mark.parametrize("where", WHERES, ids=str)
@pytest.mark.parametrize("padding", [0, 1_010])
def test_where_means_the_same_in_every_reading(memory: EncryptedStore, where: Where, padding: int) -> None:
    # With padding the rows lie on both sides of a segment's end.
    records = [Record(text="filler", time=-5.0, scope="filler") for _ in range(padding)]
    records += [Record(text="apple", **row) for row in ROWS]  # type: ignore[arg-type]
    memory.add_many(records, np.ones((len(records), 4), dtype=np.float32))
    wanted = [padding + at + 1 for at, row in enumerate(ROWS) if fits(row, where)]
    if padding and where.scope is None and where.purpose is None and where.source is None:
        where = Where(after=max(where.after or 0.0, 0.0), before=where.before)
    elif padding and where in (Where(source="app"), Where(purpose="audit")):
        where = Where(source=where.source, purpose=where.purpose, after=0.0)
    kept = {name: getattr(where, name) for name in ("scope", "purpose", "source", "after", "before")}
    assert [s.id for s in memory.iter(**kept)] == wanted
    assert [s.id for s in memory.iter(history=True, **kept)] == wanted
    assert memory.vectors(where)[0] == wanted
    assert memory.count(where) == len(wanted)
    assert [id for id, _ in memory.search(ONE, 2_000, where=where)] == wanted
    assert [id for id, _ in memory.search_text("apple", 2_000, where=where)] == wanted
    assert [id for id, _ in memory.search_hybrid(ONE, "apple", 2_000, where=where)] == wanted
    assert [id for id, _ in memory.search(ONE, 2, where=where)] == wanted[:2]
    receipt = memory.erase(where)
    assert (receipt.ids if receipt else ()) == tuple(wanted)
    assert memory.count() == padding + len(ROWS) - len(wanted)


@pytest.mark.parametrize("name", ["after", "before"])
def test_where_refuses_a_time_that_is_no_number(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Where(**{name: float("nan")})


@pytest.mark.parametrize("padding", [0, 1_023])
def test_expired_is_hidden_by_the_clock_and_forgotten_by_expire(
    memory: EncryptedStore, clock: Clock, padding: int
) -> None:
    fill = [Record(text="filler", time=0.0) for _ in range(padding)]
    memory.add_many(fill, np.zeros((padding, 4), dtype=np.float32))
    id = memory.add(Record(text="apple", time=0.0, expires=200.0), ONE)
    memory.add(Record(text="apple", time=0.0, expires=300.0), ONE)
    memory.search(ONE, 1), memory.search_text("apple", 1)
    clock.now = 199.9
    assert memory.expire() is None
    assert memory.count() == padding + 2
    clock.now = 200.0
    rest = [id + 1]
    assert memory.count() == padding + 1
    assert [found for found, _ in memory.search(ONE, 1)] == rest
    assert [found for found, _ in memory.search_text("apple", 5)] == rest
    assert id not in [found for found, _ in memory.search_hybrid(ONE, "apple", 5)]
    assert id not in [s.id for s in memory.iter()]
    assert id not in memory.vectors()[0]
    assert memory.get(id).record.text == "apple"  # By its id it can be read until it is forgotten.
    assert id in [s.id for s in memory.iter(history=True)]
    receipt = memory.expire()
    assert receipt is not None
    assert (receipt.what, receipt.ids) == ("expire", (id,))
    with pytest.raises(RecordMissingError):
        memory.get(id)
    assert memory.verify() > 0


def test_update_may_lift_or_set_the_time_limit(memory: EncryptedStore, clock: Clock) -> None:
    memory.add_many([Record(text="x", time=0.0, expires=150.0), Record(text="y", time=0.0)], np.ones((2, 4), "f4"))
    memory.update(1, Record(text="x", time=0.0))
    memory.update(2, Record(text="y", time=0.0, expires=150.0))
    clock.now = 150.0
    assert [s.id for s in memory.iter()] == [1]


def test_history_runs_from_the_newest_to_the_first(memory: EncryptedStore) -> None:
    first = memory.add(Record(text="first", time=0.0), ONE)
    second = memory.add(Record(text="second", time=0.0, supersedes=first), ONE)
    third = memory.add(Record(text="third", time=0.0, supersedes=second), ONE)
    assert [s.id for s in memory.history(third)] == [third, second, first]
    assert [s.id for s in memory.history(first)] == [first]
    assert [s.id for s in memory.iter()] == [third]
    assert [id for id, _ in memory.search(ONE, 5)] == [third]
    assert memory.search_text("first", 5) == []
    assert memory.count() == 1
    assert memory.get(first).record.text == "first"
    assert [s.id for s in memory.iter(history=True)] == [first, second, third]


def test_history_survives_updates_folding_and_reopening(tmp_path: Path, memory: EncryptedStore, clock: Clock) -> None:
    first = memory.add(Record(text="first", time=0.0), ONE)
    second = memory.add(Record(text="second", time=0.0, supersedes=first), ONE)
    memory.add_many([Record(text="filler", time=0.0)] * 1_100, np.zeros((1_100, 4), "f4"))
    memory.update(first, Record(text="first, corrected", time=0.0))
    memory.update(second, Record(text="second, corrected", time=0.0, supersedes=first))
    memory.close()
    with EncryptedStore.open(tmp_path / "home", KEY, clock=clock) as again:
        assert [s.record.text for s in again.history(second)] == ["second, corrected", "first, corrected"]
        assert again.search(ONE, 2)[0] == (second, 4.0)
        assert first not in again.vectors()[0]
        assert again.count() == 1_101
        assert again.verify() > 0


@pytest.mark.parametrize("field", ["supersedes", "derived_from"])
def test_link_to_a_missing_record_is_refused_and_changes_nothing(memory: EncryptedStore, field: str) -> None:
    memory.add(Record(text="x", time=0.0), ONE)
    link = {"supersedes": 9} if field == "supersedes" else {"derived_from": (1, 9)}
    with pytest.raises(RecordMissingError):
        memory.add(Record(text="y", time=0.0, **link), ONE)
    if field == "derived_from":
        with pytest.raises(RecordMissingError):
            memory.update(1, Record(text="y", time=0.0, **link))
    assert [(s.id, s.version) for s in memory.iter()] == [(1, 1)]


def test_update_cannot_change_what_a_record_supersedes(memory: EncryptedStore) -> None:
    first, other = memory.add_many([Record(text="x", time=0.0)] * 2, np.ones((2, 4), "f4"))
    second = memory.add(Record(text="y", time=0.0, supersedes=first), ONE)
    for wrong in (None, other):
        with pytest.raises(ValueError, match="supersede"):
            memory.update(second, Record(text="z", time=0.0, supersedes=wrong))
    assert memory.update(second, Record(text="z", time=0.0, supersedes=first)) == 2
    assert [s.id for s in memory.iter()] == [other, second]


def test_erase_reaches_history_and_what_was_derived_in_other_scopes(memory: EncryptedStore) -> None:
    old = memory.add(Record(text="old", time=0.0, scope="work"), ONE)
    new = memory.add(Record(text="new", time=0.0, scope="work", supersedes=old), ONE)
    made = memory.add(Record(text="made", time=0.0, scope="home", derived_from=(old,)), ONE)
    kept = memory.add(Record(text="kept", time=0.0, scope="home"), ONE)
    receipt = memory.erase(Where(scope="work"))
    assert receipt is not None
    assert receipt.ids == (old, new, made)
    assert [s.id for s in memory.iter(history=True)] == [kept]


def test_derived_records_in_a_ring_are_all_forgotten(memory: EncryptedStore) -> None:
    a = memory.add(Record(text="a", time=0.0), ONE)
    b = memory.add(Record(text="b", time=0.0, derived_from=(a,)), ONE)
    memory.update(a, Record(text="a", time=0.0, derived_from=(b, a)))
    receipt = memory.forget(b)
    assert receipt is not None
    assert receipt.ids == (a, b)
    assert memory.count() == 0


@pytest.mark.parametrize("padding", [0, 1_010])
def test_readings_without_a_purpose_leave_out_what_has_it(memory: EncryptedStore, padding: int) -> None:
    records = [Record(text="apple", time=-5.0, scope="filler", purpose="audit") for _ in range(padding)]
    records += [Record(text="apple", **row) for row in ROWS]  # type: ignore[arg-type]
    memory.add_many(records, np.ones((len(records), 4), dtype=np.float32))
    for without, scope in (("audit", None), ("audit", "work"), ("none", "work")):
        where = Where(without=without, scope=scope)
        wanted = {
            padding + at + 1
            for at, row in enumerate(ROWS)
            if row["purpose"] != without and scope in (None, row["scope"])
        }
        assert set(memory.vectors(where)[0]) == wanted
        assert {id for id, _ in memory.search(np.ones(4, dtype=np.float32), 2_000, where=where)} == wanted
        assert {id for id, _ in memory.search_text("apples", 2_000, where=where)} == wanted
        assert memory.count(where) == len(wanted)
    memory.erase(Where(without="audit"))
    assert {stored.record.purpose for stored in memory.iter()} == {"audit"}
