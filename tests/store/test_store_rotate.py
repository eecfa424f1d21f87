"""Rotation: new keys throughout, while the store is read and written, and whatever cuts it off."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

from store import DeviceKey, EncryptedStore, FileSecret, Record, RecordMissingError, TamperedError
from store.keys.crypto import Place, open_stamp
from store.keys.keyring import Keyring
from store.keys.root import open_root

KEY = DeviceKey(bytes(range(32)))
COUNT = 2_300  # Two segments and a tail.
BLOBS = {
    "memory": "stamp, vector, record",
    "tail": "stamp, entry",
    "segment": "stamp, codes, columns, postings",
    "named": "lookup, stamp, title, value",
    "ledger": "sealed",
    "node": "sealed",
    "root": "sealed",
    "head": "sealed",
    "manifest": "sealed",
    "registry": "sealed",
    "slot": "wrapped",
}
Spawn = Callable[..., "subprocess.Popen[str]"]


class CutError(Exception):
    """Raised to cut a rotation off."""


@pytest.fixture
def secret(tmp_path: Path) -> FileSecret:
    return FileSecret(tmp_path / "state" / "home.secret")


@pytest.fixture
def full(folder: Path, secret: FileSecret) -> Iterator[EncryptedStore]:
    """A store with segments, a tail, nodes, named values and a ledger."""
    with EncryptedStore.create(folder, KEY, dimension=4, secret=secret) as memory:
        records = [Record(text=f"word{i} common", time=float(i)) for i in range(1, COUNT + 1)]
        memory.add_many(records, matrix())
        memory.forget([10, 2_100])
        memory.put("kind", "name", b"value")
        memory.append("charge", b"0.5")
        yield memory


def matrix() -> np.ndarray:
    return np.random.default_rng(4).integers(-3, 4, (COUNT, 4)).astype(np.float32)


def rows(folder: Path, table: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(folder / "memory.tacit")) as connection:
        return connection.execute(f"SELECT {BLOBS[table]} FROM {table}").fetchall()


def live_blobs(memory: EncryptedStore, folder: Path) -> set[object]:
    """Every sealed part in the file that holds something, noise rows left out."""
    used = memory._core.view.head.next_slot
    with closing(sqlite3.connect(folder / "memory.tacit")) as connection:
        found: set[object] = set()
        for table, columns in BLOBS.items():
            where = f" WHERE slot < {used} AND slot NOT IN (10, 2100)" if table in ("memory", "tail") else ""
            for row in connection.execute(f"SELECT {columns} FROM {table}{where}"):
                found |= set(row)
    return found


def cut_after(steps: int) -> Callable[[int, int], None]:
    seen: list[int] = []

    def progress(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == steps:
            raise CutError

    return progress


def check_whole(memory: EncryptedStore) -> None:
    """All that the store was given is there and is found."""
    assert memory.count() == COUNT - 2
    ids, found = memory.vectors()
    assert ids == [i for i in range(1, COUNT + 1) if i not in (10, 2_100)]
    assert np.array_equal(found, matrix()[np.array(ids) - 1])
    assert memory.get(1_500).record.text == "word1500 common"
    assert [id for id, _ in memory.search_text("word1500", 3)] == [1_500]
    assert memory.search_text("word10", 3) == []
    assert (memory.fetch("kind", "name"), memory.names("kind")) == (b"value", ["name"])
    assert [content for _, _, content in memory.entries("charge")] == [b"0.5"]
    assert memory.verify() > 0


def test_rotation_leaves_no_old_byte_and_all_the_content(full: EncryptedStore, folder: Path) -> None:
    before, told = live_blobs(full, folder), []
    full.rotate(lambda done, total: told.append((done, total)))
    assert before & live_blobs(full, folder) == set()
    raw = (folder / "memory.tacit").read_bytes()
    assert not any(part in raw for part in before if isinstance(part, bytes) and len(part) > 100)
    assert told == [(1_024, COUNT), (2_048, COUNT), (COUNT, COUNT)]
    assert not full.rotating
    check_whole(full)
    assert full.receipts()[-1].what == "rotate"
    with EncryptedStore.open(folder, KEY, secret=full._core.secret) as again:
        check_whole(again)
    full.rotate()  # And once more, from generation 2 to 3.
    check_whole(full)


def test_old_root_opens_nothing_of_the_new_data(full: EncryptedStore, folder: Path, tmp_path: Path) -> None:
    old_root, old_key, old_secrets = full._core.keys.root, full._core.keys.store_key, full._core.secret.read()
    full.rotate()
    core = full._core
    keys = Keyring(core.database, full.store_id, old_key, old_root)
    new = core.view.head
    for slot, (stamp, *_) in enumerate(rows(folder, "memory")[: COUNT - 1], 1):
        with suppress(TamperedError):  # The old tree's nodes are deleted, too.
            key = keys._trees[1][0].key(slot)
            with pytest.raises(TamperedError):
                open_stamp(key, Place(full.store_id, "row", slot), stamp)
    assert open_stamp(core.keys.row(1, new), Place(full.store_id, "row", 1), rows(folder, "memory")[0][0]) is not None
    ((sealed,),) = rows(folder, "root")
    for secret in (*old_secrets.values(), *core.secret.read().values()):
        with pytest.raises(TamperedError):
            open_root(sealed, new.epoch, store_key=old_key, secret=secret, store_id=full.store_id)


@pytest.mark.parametrize(("steps", "reopened"), [(1, True), (2, False), (3, True)])
def test_rotation_that_was_cut_off_reads_whole_and_goes_on(
    full: EncryptedStore, folder: Path, secret: FileSecret, steps: int, reopened: bool
) -> None:
    with pytest.raises(CutError):
        full.rotate(cut_after(steps))
    assert full.rotating
    check_whole(full)
    memory = EncryptedStore.open(folder, KEY, secret=secret) if reopened else full
    check_whole(memory)
    told: list[int] = []
    memory.rotate(lambda done, total: told.append(done))
    assert told == [1_024, 2_048, COUNT][steps:]  # It goes on where it stopped.
    assert not memory.rotating
    check_whole(memory)
    check_whole(full)
    memory.close()


def test_store_changes_between_the_steps_of_a_rotation(full: EncryptedStore, folder: Path, secret: FileSecret) -> None:
    other = EncryptedStore.open(folder, KEY, secret=secret)
    one, added = np.ones(4, dtype=np.float32), []

    def between(done: int, total: int) -> None:
        added.append(other.add(Record(text="meanwhile", time=0.0), one))
        other.forget([done - 3, COUNT - 10 - len(added)])  # One that was rotated, one that may not be.
        other.update(done - 5, Record(text="changed", time=0.0))
        other.update(COUNT - 20 - len(added), Record(text="changed", time=0.0))
        other.put("kind", f"new {done}", b"new")
        other.put("kind", "name", b"%d" % done)
        other.append("charge", b"1")
        assert other.search_text("meanwhile", 5) != []
        assert other.verify() > 0

    full.rotate(between)
    for memory in (full, other, EncryptedStore.open(folder, KEY, secret=secret)):
        assert len(added) == 3
        assert memory.count() == COUNT - 2 + 3 - 6
        assert [s.record.text for s in memory.iter() if s.version == 2] == ["changed"] * 6
        assert memory.fetch("kind", "name") == str(COUNT).encode()
        assert len(memory.names("kind")) == 4
        assert len(memory.entries("charge")) == 4
        for gone in (1_021, 2_045, COUNT - 3, COUNT - 11, COUNT - 12, COUNT - 13):
            with pytest.raises(RecordMissingError):
                memory.get(gone)
        assert memory.verify() > 0
        memory.close()


def test_tail_that_folds_during_a_rotation(full: EncryptedStore) -> None:
    added: list[int] = []

    def between(done: int, total: int) -> None:
        if not added:
            added.extend(full.add_many([Record(text="more", time=0.0)] * 1_000, np.ones((1_000, 4), dtype=np.float32)))

    full.rotate(between)
    assert full.count() == COUNT - 2 + 1_000
    assert [s.id for s in full.iter()][-1_000:] == added
    assert full.verify() > 0
    full.forget(added[:5])
    assert full.verify() > 0


def test_threads_read_and_write_throughout_a_rotation(full: EncryptedStore, folder: Path, secret: FileSecret) -> None:
    stop, errors, done = threading.Event(), [], [0, 0]

    def work(at: int, act: Callable[[EncryptedStore], object]) -> None:
        try:
            with EncryptedStore.open(folder, KEY, secret=secret) as memory:
                while not stop.is_set():
                    act(memory)
                    done[at] += 1
        except BaseException as error:  # noqa: BLE001 - the test shows it
            errors.append(error)

    def read(memory: EncryptedStore) -> None:
        assert memory.get(7).record.text == "word7 common"
        assert memory.get(2_200).record.text == "word2200 common"

    def write(memory: EncryptedStore) -> None:
        memory.add(Record(text="meanwhile", time=0.0), np.ones(4, dtype=np.float32))
        time.sleep(0.001)

    def both_went_on(*_: int) -> None:
        before, end = list(done), time.monotonic() + 20
        while any(now == then for now, then in zip(done, before, strict=True)) and not errors:
            assert time.monotonic() < end
            time.sleep(0.001)

    threads = [threading.Thread(target=work, args=(at, act)) for at, act in enumerate((read, write))]
    for thread in threads:
        thread.start()
    try:
        full.rotate(both_went_on)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert min(done) >= 3
    assert full.count() == COUNT - 2 + done[1]
    assert full.verify() > 0


@pytest.mark.slow
def test_rotation_lets_others_write_without_a_progress_that_waits(folder: Path, key: DeviceKey, spawn: Spawn) -> None:
    with EncryptedStore.create(folder, key, dimension=4) as memory:
        memory.add_many([Record(text="x", time=0.0)] * 20_000, np.ones((20_000, 4), dtype=np.float32))
        child = spawn("""
with EncryptedStore.open(folder, key) as memory:
    print("go", flush=True)
    while memory.rotating or not memory.fetch("a", "b"):
        memory.put("a", "b", b"c") if memory.rotating else time.sleep(0.01)
        if memory.rotating:
            print("wrote", flush=True)
""")
        assert child.stdout is not None
        assert child.stdout.readline() == "go\n"
        memory.rotate()
        memory.put("a", "b", b"c")
        out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (0, "")
    assert out.count("wrote") >= 5


def test_two_rotations_at_once_end_as_one_or_two(full: EncryptedStore, folder: Path, secret: FileSecret) -> None:
    errors: list[BaseException] = []

    def rotate() -> None:
        try:
            with EncryptedStore.open(folder, KEY, secret=secret, busy_timeout_s=60) as memory:
                memory.rotate()
        except BaseException as error:  # noqa: BLE001 - the test shows it
            errors.append(error)

    threads = [threading.Thread(target=rotate) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert not full.rotating
    assert full._core.view.head.generation in (2, 3)
    check_whole(full)


def test_old_copy_from_during_a_rotation_never_opens_after_it(
    full: EncryptedStore, folder: Path, secret: FileSecret, tmp_path: Path
) -> None:
    from store import AcceptRollback, ForgottenEpoch

    def copy(done: int, total: int) -> None:
        shutil.copytree(folder, tmp_path / "old", dirs_exist_ok=True)

    full.rotate(copy)
    with pytest.raises(ForgottenEpoch):
        EncryptedStore.open(tmp_path / "old", KEY, secret=secret, accept=AcceptRollback())


@pytest.mark.slow
@pytest.mark.parametrize("wait_s", [0.0, 0.03, 0.08, 0.15, 0.3])
def test_rotation_killed_at_any_moment_goes_on(folder: Path, key: DeviceKey, spawn: Spawn, wait_s: float) -> None:
    with EncryptedStore.create(folder, key, dimension=4) as memory:
        memory.add_many([Record(text=f"word{i} common", time=0.0) for i in range(1, COUNT + 1)], matrix())
        memory.forget([10, 2_100])
        memory.put("kind", "name", b"value")
        memory.append("charge", b"0.5")
    child = spawn("""
memory = EncryptedStore.open(folder, key)
print("go", flush=True)
while True:
    memory.rotate()
""")
    assert child.stdout is not None
    assert child.stdout.readline() == "go\n"
    time.sleep(wait_s)
    child.kill()
    child.communicate(timeout=60)
    with EncryptedStore.open(folder, key) as memory:
        check_whole(memory)
        memory.rotate()
        check_whole(memory)
        memory.forget(1)
        assert memory.count() == COUNT - 3
