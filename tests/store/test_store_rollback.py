"""An older copy of a store is told from the latest one, and what was spent is not won back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from store import (
    AcceptRollback,
    DeviceKey,
    EncryptedStore,
    FileSecret,
    MemoryWitness,
    Record,
    RolledBackError,
    StoreError,
)
from store.tables.commit import WITNESS_EVERY

KEY = DeviceKey(bytes(range(32)))
ONE = np.ones(4, dtype=np.float32)
Open = Callable[..., EncryptedStore]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Open a store in the folder of this name, with the same secret and witness whatever the folder."""
    secret = FileSecret(tmp_path / "state" / "home.secret")

    def open(name: str = "home", **options: object) -> EncryptedStore:
        return EncryptedStore.open(tmp_path / name, KEY, secret=secret, **options)  # type: ignore[arg-type]

    EncryptedStore.create(tmp_path / "home", KEY, dimension=4, secret=secret).close()
    return open


@pytest.fixture
def anchor(tmp_path: Path) -> Path:
    return tmp_path / "state" / "home.anchor"


def record(text: str = "x") -> Record:
    return Record(text=text, time=0.0)


def test_older_copy_of_the_same_epoch_opens_only_if_accepted(tmp_path: Path, opened: Open) -> None:
    with opened() as memory:
        memory.add(record("first"), ONE)
    shutil.copytree(tmp_path / "home", tmp_path / "old")
    with opened() as memory:
        memory.add(record("second"), ONE)
    with pytest.raises(RolledBackError, match="AcceptRollback"):
        opened("old")
    with opened() as memory:
        assert memory.count() == 2  # The refusal changed nothing.
    with opened("old", accept=AcceptRollback()) as old:
        assert [s.record.text for s in old.iter()] == ["first"]
        old.add(record("another"), ONE)
    with opened("old") as old:  # From now on it is the store, and the other one the older copy.
        assert old.count() == 2
        assert old.verify() > 0
    with pytest.raises(RolledBackError):
        opened("home")


def test_copies_after_an_accepted_rollback_are_judged_by_the_new_witness(tmp_path: Path, opened: Open) -> None:
    for _ in range(2):
        with opened() as memory:
            memory.add(record(), ONE)
            if not (tmp_path / "old").exists():
                shutil.copytree(tmp_path / "home", tmp_path / "old")
    with opened("old", accept=AcceptRollback()) as old:
        shutil.copytree(tmp_path / "old", tmp_path / "older")
        old.add(record(), ONE)
    with pytest.raises(RolledBackError):
        opened("older")


def test_ratchet_is_not_won_back_by_a_rollback(tmp_path: Path, opened: Open) -> None:
    with opened() as memory:
        memory.charge(b"spent 1")
        shutil.copytree(tmp_path / "home", tmp_path / "old")
        memory.charge(b"spent 2")
        # Durable at the witness when charge returns: even a crash right here does not lose it.
        with opened("old", accept=AcceptRollback()) as old:
            assert old.ratchet == b"spent 2"
    with opened("old") as old:
        assert old.ratchet == b"spent 2"


@pytest.mark.parametrize("size", [0, 192])
def test_ratchet_of_any_allowed_size_comes_back(opened: Open, size: int) -> None:
    with opened() as memory:
        memory.charge(b"r" * size)
    with opened() as memory:
        assert memory.ratchet == b"r" * size
        with pytest.raises(ValueError, match="192"):
            memory.charge(bytes(193))
        assert memory.ratchet == b"r" * size


def test_fork_with_the_same_counter_is_told(tmp_path: Path, opened: Open, anchor: Path) -> None:
    with opened() as memory:
        memory.add(record(), ONE)
    shutil.copytree(tmp_path / "home", tmp_path / "fork")
    before = anchor.read_bytes()
    with opened() as memory:
        memory.add(record("mine"), ONE)
    mine = anchor.read_bytes()
    anchor.write_bytes(before)
    with opened("fork") as fork:
        fork.add(record("theirs"), ONE)
        assert fork._core.view.head.counter == opened_counter(tmp_path)
    anchor.write_bytes(mine)
    with pytest.raises(RolledBackError):
        opened("fork")
    with opened() as memory:
        assert [s.record.text for s in memory.iter()] == ["x", "mine"]


def opened_counter(tmp_path: Path) -> int:
    secret, nowhere = FileSecret(tmp_path / "state" / "home.secret"), MemoryWitness()
    with EncryptedStore.open(tmp_path / "home", KEY, secret=secret, witness=nowhere, accept=AcceptRollback()) as memory:
        return memory._core.view.head.counter


def test_missing_witness_is_no_silent_start(opened: Open, anchor: Path) -> None:
    with opened() as memory:
        memory.add(record(), ONE)
    anchor.unlink()
    with pytest.raises(RolledBackError, match="missing"):
        opened()
    with opened(accept=AcceptRollback()) as memory:
        assert memory.count() == 1
    assert anchor.exists()
    opened().close()


def test_witness_behind_the_store_is_normal_for_up_to_64_writes(opened: Open, anchor: Path) -> None:
    with opened() as memory:
        memory.add(record(), ONE)
    seen, changes = anchor.read_bytes(), []
    with opened() as memory:
        for write in range(1, 140):
            memory.put("a", "b", b"c")
            if anchor.read_bytes() != seen:
                seen = anchor.read_bytes()
                changes.append(write)
    assert len(changes) == 2
    assert all(b - a <= 64 for a, b in zip([0, *changes], [*changes, 140], strict=True))


class Failing(MemoryWitness):
    """A witness whose disk is full as long as ``fails``."""

    fails = False

    def write(self, data: bytes) -> None:
        if self.fails:
            raise StoreError("The witness cannot be written (No space left on device): check the folder and the disk.")
        super().write(data)


def test_add_is_acknowledged_though_the_witness_due_with_it_fails_and_the_next_commit_moves_it(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    witness = Failing()
    with opened(accept=AcceptRollback(), witness=witness) as memory:
        seen, witness.fails = witness.value, True
        ids = [memory.add(record(), ONE) for _ in range(WITNESS_EVERY + 2)]
        assert memory.count() == len(ids)
        assert witness.value == seen
        assert "witness cannot be written" in caplog.text  # Said, not swallowed.
        with pytest.raises(StoreError, match="witness"):
            memory.charge(b"1")  # Nothing may leave the device before the witness knows.
        witness.fails = False
        memory.add(record(), ONE)
        assert witness.value != seen


def test_rollback_within_the_window_is_not_told_and_a_crash_locks_nobody_out(tmp_path: Path, opened: Open) -> None:
    memory = opened()
    memory.add(record(), ONE)
    shutil.copytree(tmp_path / "home", tmp_path / "old")  # As if the process had died here.
    with opened("old") as old:
        assert old.count() == 1
    memory.close()


@pytest.mark.parametrize("how", ["close", "forget", "charge", "witness", "rotate"])
def test_witness_moves_at_once_when(opened: Open, anchor: Path, how: str) -> None:
    memory = opened()
    memory.add(record(), ONE)
    before = anchor.read_bytes()
    if how == "close":
        memory.close()
    elif how == "forget":
        memory.forget(1)
    elif how == "charge":
        memory.charge(b"1")
    elif how == "rotate":
        memory.rotate()
    else:
        with memory.transaction(witness=True):
            memory.put("a", "b", b"c")
    assert anchor.read_bytes() != before
    memory.close()


def test_sighting_is_opaque_and_tells_an_older_copy(tmp_path: Path, opened: Open) -> None:
    with opened() as memory:
        memory.add(record(), ONE)
        early = memory.sighting()
        assert len(early) == len(memory.sighting()) == 384
        assert early != memory.sighting()  # Fresh each time, though nothing changed.
        shutil.copytree(tmp_path / "home", tmp_path / "old")
        memory.put("a", "b", b"c" * 100_000)
        late = memory.sighting()
        assert len(late) == 384
        memory.check_sighting(early)
        memory.check_sighting(late)
    with opened("old", accept=AcceptRollback(), witness=MemoryWitness()) as old:
        old.check_sighting(early)
        with pytest.raises(RolledBackError):
            old.check_sighting(late)


def test_witness_of_the_callers_own_is_used_alone(tmp_path: Path, opened: Open, anchor: Path) -> None:
    with opened() as memory:
        memory.add(record(), ONE)
    mine, was = MemoryWitness(), anchor.read_bytes()
    with opened(witness=mine, accept=AcceptRollback()) as memory:
        shutil.copytree(tmp_path / "home", tmp_path / "old")
        memory.add(record(), ONE)
    assert mine.value is not None
    assert anchor.read_bytes() == was
    with pytest.raises(RolledBackError):
        opened("old", witness=mine)


def test_opening_while_another_connection_writes_is_no_rollback(
    tmp_path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = opened()
    memory.add(record(), ONE)
    from store.lifecycle import opening

    inner = opening._compare

    def compare(*arguments: object, **options: object) -> None:
        memory.add(record(), ONE)
        memory.charge(b"2")  # The new connection has read its view already, and the witness moves past it.
        inner(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(opening, "_compare", compare)
    with opened() as other:
        assert other.count() == 2
    memory.close()
