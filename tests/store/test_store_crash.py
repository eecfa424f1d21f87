"""kill -9 loses nothing acknowledged; a full disk changes nothing and says so."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from store import DeviceKey, EncryptedStore, Record, StoreError, StoreFullError

Records = Callable[[int], list[Record]]
Vectors = Callable[[int], np.ndarray]
Spawn = Callable[..., "subprocess.Popen[str]"]

VICTIM = """
with EncryptedStore.open(folder, key, busy_timeout_s=60) as memory:
    for i in range(10**9):
        text = f"{os.getpid()} {i}"
        number = memory.add(Record(text=text, time=0.0), np.full(8, i % 50, dtype=np.float32))
        os.write(1, f"add\\t{number}\\t{text}\\n".encode())
        if i % 3 == 1:
            memory.update(number, Record(text=text + " changed", time=0.0))
            os.write(1, f"add\\t{number}\\t{text} changed\\n".encode())
        if i % 5 == 2:
            memory.delete(number)
            os.write(1, f"del\\t{number}\\t\\n".encode())
        if i % 7 == 3:
            with memory.transaction():
                memory.put("pair", "left", text.encode())
                memory.put("pair", "right", text.encode())
            os.write(1, f"pair\\t0\\t{text}\\n".encode())
"""


def replay(lines: list[str], expected: dict[int, str]) -> str | None:
    """Apply what one victim acknowledged to ``expected``; the last pair that it acknowledged."""
    pair = None
    for line in lines:
        what, number, text = line.split("\t")
        if what == "add":
            expected[int(number)] = text
        elif what == "del":
            del expected[int(number)]
        else:
            pair = text
    return pair


def first_line(child: subprocess.Popen[str]) -> str:
    """The first line, and not a byte more.

    ``readline`` reads ahead into a buffer of its own that ``communicate`` then passes over: what the victim
    acknowledged in its first moments would be lost here, not in the store.
    """
    assert child.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(child.stdout.fileno(), 1)
        assert byte, "the victim ended before it acknowledged anything"
        line += byte
    return line.decode()


def kill_and_check(folder: Path, key: DeviceKey, spawn: Spawn, runs: int) -> None:
    rng = random.Random(5)
    expected: dict[int, str] = {}
    for _ in range(runs):
        child = spawn(VICTIM)
        first = first_line(child)
        time.sleep(rng.uniform(0, 0.05))
        child.kill()
        out, err = child.communicate(timeout=60)
        assert err == ""
        lines = [line for line in (first + out).split("\n")[:-1] if line]
        pair = replay(lines, expected)
        with EncryptedStore.open(folder, key) as memory:
            memory.verify()
            found = {stored.id: stored.record.text for stored in memory.iter()}
            # One operation may be durable and not yet acknowledged: the one the victim died in.
            changed = {number for number in found.keys() | expected.keys() if found.get(number) != expected.get(number)}
            assert len(changed) <= 1
            assert all(number >= max(expected, default=0) - 1 for number in changed)
            left, right = memory.fetch("pair", "left"), memory.fetch("pair", "right")
            assert left == right
            if pair is not None:
                assert left is not None
                assert int(left.split()[1]) >= int(pair.split()[1])
            expected = found


def test_kill_9_loses_no_acknowledged_change(
    memory: EncryptedStore, folder: Path, key: DeviceKey, spawn: Spawn
) -> None:
    memory.close()
    kill_and_check(folder, key, spawn, runs=5)


@pytest.mark.slow
def test_kill_9_a_hundred_times_loses_no_acknowledged_change(
    memory: EncryptedStore, folder: Path, key: DeviceKey, spawn: Spawn
) -> None:
    memory.close()
    kill_and_check(folder, key, spawn, runs=100)


def test_kill_9_during_creation_leaves_a_whole_store_or_none(folder: Path, key: DeviceKey, spawn: Spawn) -> None:
    for attempt in range(3):
        home = folder / str(attempt)
        child = spawn(f"""
print("ready", flush=True)
for i in range(10**9):
    EncryptedStore.create(f"{home}/{{i}}", key, dimension=8)
""")
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.02 + 0.013 * attempt)
        child.kill()
        child.communicate(timeout=60)
        for made in home.glob("*"):
            if (made / "memory.tacit").exists():
                with EncryptedStore.open(made, key) as memory:
                    assert memory.verify() == 4  # Root, head, manifest, registry.
            else:
                EncryptedStore.create(made, key, dimension=8).close()


def test_full_disk_raises_store_full_and_changes_nothing(
    memory: EncryptedStore, folder: Path, key: DeviceKey, records: Records, vectors: Vectors
) -> None:
    ids = memory.add_many(records(5), vectors(5))
    before = memory.search(vectors(1)[0], 5)
    pages = memory._database.number("PRAGMA page_count")
    memory._database.rows(f"PRAGMA max_page_count = {pages + 2}")
    for act in (
        lambda: memory.add_many(records(100), vectors(100)),
        lambda: memory.put("big", "value", bytes(100_000)),
        lambda: memory.update(ids[0], Record(text="x" * 100_000, time=0.0)),
    ):
        with pytest.raises(StoreFullError, match="free some space"):
            act()
        assert memory.count() == 5
    memory._database.rows("PRAGMA max_page_count = 1000000")
    assert len(before) == len(memory.search(vectors(1)[0], 5))
    memory.add_many(records(100), vectors(100))
    memory.close()
    with EncryptedStore.open(folder, key) as again:
        assert again.verify() == 4 + 3 * 105  # And of each record its vector, text and entry.


def test_transaction_that_hid_a_full_disk_cannot_commit_its_rest(
    memory: EncryptedStore, records: Records, vectors: Vectors
) -> None:
    memory.add_many(records(5), vectors(5))
    pages = memory._database.number("PRAGMA page_count")
    memory._database.rows(f"PRAGMA max_page_count = {pages + 2}")
    try:
        with memory.transaction():
            memory.put("a", "before", b"1")
            with pytest.raises(StoreFullError):
                memory.put("a", "big", bytes(200_000))
            memory._database.rows("PRAGMA max_page_count = 1000000")
            memory.put("a", "after", b"1")
    except StoreError:
        assert memory.names("a") == []
    else:
        assert memory.names("a") == ["after", "before"]


def test_refused_write_of_the_operating_system_raises_store_full_and_keeps_the_old_data(
    memory: EncryptedStore, folder: Path, key: DeviceKey, spawn: Spawn, records: Records, vectors: Vectors
) -> None:
    memory.add_many(records(20), vectors(20))
    memory.close()
    child = spawn("""
import resource
with EncryptedStore.open(folder, key) as memory:
    memory.count()
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    done = 0
    try:
        for i in range(1000):
            memory.add(Record(text="more", time=0.0), np.ones(8, dtype=np.float32))
            done += 1
    except StoreFullError as error:
        print(done, memory.count(), str(error).count("free some space"))
    # Without the limit the same store goes on.
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    memory.add(Record(text="last", time=0.0), np.ones(8, dtype=np.float32))
    print(memory.count())
""")
    out, err = child.communicate(timeout=120)
    assert err == ""
    done, count, hints, last = map(int, out.split())
    assert (count, hints, last) == (20 + done, 1, 21 + done)
    with EncryptedStore.open(folder, key) as again:
        assert again.count() == last
        again.verify()


def test_creation_on_a_full_disk_raises_store_full_and_leaves_nothing(
    folder: Path, key: DeviceKey, spawn: Spawn
) -> None:
    child = spawn("""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (8_192, resource.RLIM_INFINITY))
try:
    EncryptedStore.create(folder, key, dimension=8)
except StoreFullError as error:
    print("full", os.listdir(folder))
""")
    out, err = child.communicate(timeout=60)
    assert (out, err) == ("full []\n", "")
    EncryptedStore.create(folder, key, dimension=8).close()
