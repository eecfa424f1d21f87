"""Two processes on one store: nothing lost, nothing corrupted, and a busy store says so."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from store import BusyError, DeviceKey, EncryptedStore, Record

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
        assert opened.verify() == 1 + 240 + 40
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
