"""Two processes on one store: nothing lost, nothing corrupted, and a busy store says so."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from store import BusyError, DeviceKey, EncryptedStore, Record
from store.disk.lockholder import holder_of

Spawn = Callable[..., "subprocess.Popen[str]"]

WRITER = """
name, count = {name!r}, {count}
with EncryptedStore.open(folder, key, busy_timeout_s=60) as memory:
    for i in range(count):
        text = f"{{name}} {{i}}"
        if i % 4 == 3:
            with memory.transaction():
                number = memory.add(Record(text=text, time=float(i)), np.full(8, i, dtype=np.float32))
                memory.put("note", text, text.encode())
        else:
            number = memory.add(Record(text=text, time=float(i)), np.full(8, i, dtype=np.float32))
        if i % 5 == 0:
            memory.search(np.ones(8, dtype=np.float32), 3)
        print(number, text, sep="\\t", flush=True)
"""


def test_processes_writing_at_once_lose_no_acknowledged_record(
    memory: EncryptedStore, folder: Path, key: DeviceKey, spawn: Spawn
) -> None:
    children = [spawn(WRITER.format(name=name, count=40)) for name in ("first", "second")]
    own = [memory.add(Record(text=f"own {i}", time=0.0), np.zeros(8, dtype=np.float32)) for i in range(40)]
    acknowledged = {number: f"own {i}" for i, number in enumerate(own)}
    for child in children:
        out, err = child.communicate(timeout=120)
        assert (child.returncode, err) == (0, "")
        acknowledged.update({int(line.split("\t")[0]): line.split("\t")[1] for line in out.splitlines()})
    assert len(acknowledged) == 120
    for opened in (memory, EncryptedStore.open(folder, key)):
        assert {stored.id: stored.record.text for stored in opened.iter()} == acknowledged
        assert len(opened.names("note")) == 20
        assert opened.verify() == 4 + 3 * 120 + 40
        assert len(opened.search(np.ones(8, dtype=np.float32), 200)) == 120
        opened.close()


def test_two_creators_at_once_make_one_store(folder: Path, key: DeviceKey, spawn: Spawn) -> None:
    code = """
try:
    with EncryptedStore.create(folder, key, dimension=8) as memory:
        print("made", memory.store_id.hex())
except StoreExistsError:
    print("exists")
"""
    answers = [child.communicate(timeout=60)[0].split() for child in [spawn(code) for _ in range(3)]]
    made = [answer for answer in answers if answer[0] == "made"]
    assert len(made) == 1
    with EncryptedStore.open(folder, key) as memory:
        assert memory.store_id.hex() == made[0][1]


def test_busy_store_waits_up_to_the_limit_then_says_what_to_do(
    memory: EncryptedStore, folder: Path, key: DeviceKey
) -> None:
    with EncryptedStore.open(folder, key, busy_timeout_s=0.2) as other:
        with memory.transaction():
            memory.put("a", "b", b"c")
            start = time.perf_counter()
            with pytest.raises(BusyError, match=r"busy_timeout_s") as caught:
                other.put("a", "b", b"d")
            assert 0.15 < time.perf_counter() - start < 3
            assert "\n" not in str(caught.value)
            # Reading never waits, and does not see what is not committed.
            assert other.fetch("a", "b") is None
        other.put("a", "b", b"d")
    assert memory.fetch("a", "b") == b"d"


def test_store_opens_while_another_process_writes(
    memory: EncryptedStore, folder: Path, key: DeviceKey, spawn: Spawn
) -> None:
    child = spawn("""
with EncryptedStore.open(folder, key) as memory, memory.transaction():
    memory.put("a", "b", b"c")
    print("in", flush=True)
    time.sleep(60)
""")
    assert child.stdout is not None
    assert child.stdout.readline() == "in\n"
    with EncryptedStore.open(folder, key, busy_timeout_s=0.2) as other:
        assert other.count() == 0
        with pytest.raises(BusyError):
            other.put("x", "y", b"z")
    child.kill()
    child.communicate(timeout=60)
    memory.put("x", "y", b"z")
    assert memory.fetch("a", "b") is None


def test_busy_store_names_the_process_that_writes(
    memory: EncryptedStore, folder: Path, key: DeviceKey, spawn: Spawn
) -> None:
    child = spawn("""
with EncryptedStore.open(folder, key) as memory, memory.transaction():
    memory.put("a", "b", b"c")
    print("in", flush=True)
    time.sleep(60)
""")
    assert child.stdout is not None
    assert child.stdout.readline() == "in\n"
    with EncryptedStore.open(folder, key, busy_timeout_s=0.2) as other, pytest.raises(BusyError) as caught:
        other.put("x", "y", b"z")
    if Path("/proc/locks").exists():
        name = Path(f"/proc/{child.pid}/comm").read_text().strip()
        assert f"busy: process {child.pid} ({name}) has been writing for 0.2 s" in str(caught.value)
    else:
        assert "another process" in str(caught.value)
    assert "\n" not in str(caught.value)
    child.kill()
    child.communicate(timeout=60)


def test_busy_store_names_a_connection_of_this_process(memory: EncryptedStore, folder: Path, key: DeviceKey) -> None:
    with EncryptedStore.open(folder, key, busy_timeout_s=0.05) as other, memory.transaction():
        memory.put("a", "b", b"c")
        with pytest.raises(BusyError, match=r"another connection of this process|another process"):
            other.put("x", "y", b"z")


@pytest.mark.parametrize(
    ("locks", "holder"),
    [
        ("1: POSIX  ADVISORY  WRITE {other} {device}:{inode} 120 120", "process {other} (made up)"),
        ("1: POSIX  ADVISORY  WRITE {me} {device}:{inode} 120 121", "another connection of this process"),
        ("1: POSIX  ADVISORY  WRITE {other} {device}:{inode} 0 EOF", "process {other} (made up)"),
        ("1: POSIX  ADVISORY  READ {other} {device}:{inode} 120 120", "another process"),
        ("1: POSIX  ADVISORY  WRITE {other} {device}:{inode} 121 127", "another process"),
        ("1: POSIX  ADVISORY  WRITE {other} {device}:1{inode} 120 120", "another process"),
        ("1: POSIX  ADVISORY  WRITE -1 {device}:{inode} 120 120", "another process"),
        ("1: -> POSIX  ADVISORY  WRITE {other} {device}:{inode} 120 120", "another process"),
        ("", "another process"),
    ],
)
def test_holder_of_the_lock_is_read_from_the_list_of_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: str, holder: str
) -> None:
    shared = tmp_path / "memory.tacit-shm"
    shared.write_bytes(b"")
    status, other = shared.stat(), 4242
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    (tmp_path / str(other)).mkdir()
    (tmp_path / str(other) / "comm").write_text("made\x07 up\n")
    text = locks.format(other=other, me=os.getpid(), device=device, inode=status.st_ino)
    (tmp_path / "locks").write_text(text + "\n")
    monkeypatch.setattr("store.disk.lockholder._PROC", tmp_path)
    assert holder_of(tmp_path / "memory.tacit") == holder.format(other=other)


def test_holder_is_unknown_where_the_system_lists_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.disk.lockholder._PROC", tmp_path / "none")
    assert holder_of(tmp_path / "memory.tacit") == "another process"


def test_one_writer_and_readers_in_threads_see_whole_commits(
    memory: EncryptedStore, folder: Path, key: DeviceKey
) -> None:
    """Each commit adds a pair and a value that counts pairs, so a reader that saw half of one would tell."""
    stop, errors, reads = threading.Event(), [], [0, 0, 0]

    def read(at: int, opened: EncryptedStore) -> None:
        try:
            while not stop.is_set():
                with opened._core.snapshot():
                    count, pairs = opened.count(), int(opened.fetch("a", "pairs") or b"0")
                    assert count == 2 * pairs
                    assert len(opened.search(np.ones(8, dtype=np.float32), 1_000)) == count
                    assert len(opened.search_text("pair", 1_000)) == count
                reads[at] += 1
        except BaseException as error:  # noqa: BLE001 - the test shows it
            errors.append(error)

    with EncryptedStore.open(folder, key) as second, EncryptedStore.open(folder, key) as third:
        threads = [threading.Thread(target=read, args=row) for row in enumerate((memory, second, third))]
        for thread in threads:
            thread.start()
        for pair in range(1, 41):
            with memory.transaction():
                ids = memory.add_many([Record(text="pair", time=0.0)] * 2, np.ones((2, 8), dtype=np.float32))
                memory.put("a", "pairs", b"%d" % pair)
            if pair % 8 == 0:
                with memory.transaction():
                    memory.update(ids[0], Record(text="pair", time=1.0))
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert min(reads) > 0


def test_readers_in_another_process_follow_forgets_and_folds(
    memory: EncryptedStore, folder: Path, key: DeviceKey, spawn: Spawn
) -> None:
    memory.add_many([Record(text=f"word{i}", time=0.0) for i in range(1, 1_021)], np.ones((1_020, 8), dtype=np.float32))
    reader = spawn("""
with EncryptedStore.open(folder, key) as memory:
    memory.search(np.ones(8, dtype=np.float32), 1)
    memory.search_text("word5", 1)
    print("warm", flush=True)
    while memory.fetch("a", "done") is None:
        time.sleep(0.01)
    print(memory.count(), memory.search(np.ones(8, dtype=np.float32), 1)[0][0], memory.search_text("word5", 1),
          memory.search_text("fresh", 2), memory.verify() > 0, flush=True)
""")
    assert reader.stdout is not None
    assert reader.stdout.readline() == "warm\n"
    memory.forget([1, 5])
    memory.add_many([Record(text="fresh", time=0.0)] * 10, np.zeros((10, 8), dtype=np.float32))
    memory.update(2, Record(text="changed", time=0.0))
    memory.put("a", "done", b"")
    out, err = reader.communicate(timeout=60)
    assert err == ""
    count, best, word5, *rest = out.split(maxsplit=3)
    assert (count, best, word5) == ("1028", "2", "[]")
    assert rest[0].startswith("[(1021, ")
    assert rest[0].endswith("True\n")
