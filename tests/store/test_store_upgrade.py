"""A store of format 1 is written anew in place, whole or not at all; and format 1 is read as it was written."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import subprocess
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store import (
    BusyError,
    DeviceKey,
    DeviceSecretError,
    EncryptedStore,
    FileSecret,
    KeyFileError,
    Passphrase,
    Record,
    StoreError,
    TamperedError,
    WrongKeyError,
)
from store.disk.database import Database
from store.keys.crypto import hkdf
from store.lifecycle.format1 import Format1

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
GOLDEN = json.loads((VECTORS / "store_format1.json").read_text())
AEAD = json.loads((VECTORS / "store_aead.json").read_text())
OLD = zlib.decompress(base64.b64decode(GOLDEN["file"]))
OLD_KEY = DeviceKey(bytes.fromhex(GOLDEN["device_key"]))


@pytest.fixture
def old(folder: Path) -> Path:
    """The file of the golden store of format 1."""
    folder.mkdir(mode=0o700)
    path = folder / "memory.tacit"
    path.write_bytes(OLD)
    path.chmod(0o600)
    return path


def check_upgraded(folder: Path) -> None:
    """Everything of the golden store is there, and the store goes on."""
    with EncryptedStore.open(folder, OLD_KEY) as memory:
        got = [[s.id, s.version, s.record.text, s.record.label, s.record.time] for s in memory.iter()]
        assert got == GOLDEN["records"]
        assert memory.vectors()[1].tolist() == GOLDEN["vectors"]
        assert memory.fetch("kind", "name") == bytes.fromhex(GOLDEN["named"])
        assert memory.names("kind") == ["name"]
        assert memory.dimension == 4
        memory.verify()
        # Format 1 had given the id 3 and deleted its memory: it is not given again.
        assert memory.add(Record(text="more", time=0.0), np.ones(4, dtype=np.float32)) == 4
        memory.delete(4)
        assert memory.verify() > 0
    assert [path.name for path in folder.iterdir()] == ["memory.tacit"]


def is_old(path: Path) -> bool:
    with sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True) as connection:
        (number,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    return bool(number == 1)


def test_golden_store_of_format_1_is_upgraded_and_goes_on(old: Path, folder: Path, state: Path) -> None:
    check_upgraded(folder)
    assert not is_old(old)
    assert old.stat().st_mode & 0o777 == 0o600
    assert sorted(path.suffix for path in state.iterdir()) == [".anchor", ".secret"]
    with EncryptedStore.open(folder, OLD_KEY) as memory:
        assert memory.store_id.hex() != GOLDEN["store_id"]
        assert [slot.kind for slot in memory.access.slots()] == ["device-key"]


def test_old_bytes_are_overwritten_where_they_lie(old: Path, folder: Path, tmp_path: Path) -> None:
    os.link(old, tmp_path / "same bytes")  # Another name for the old file: what a forensic reader would see.
    EncryptedStore.open(folder, OLD_KEY).close()
    left = (tmp_path / "same bytes").read_bytes()
    assert len(left) >= len(OLD)
    assert not any(left)


def test_a_device_secret_of_the_callers_choice_is_used(old: Path, folder: Path, tmp_path: Path, state: Path) -> None:
    secret = FileSecret(tmp_path / "own" / "home.secret")
    with EncryptedStore.open(folder, OLD_KEY, secret=secret) as memory:
        assert memory.count() == 2
    assert sorted(secret.read()) == [1]
    assert list(state.iterdir()) == []


def test_a_secret_that_is_taken_or_lies_inside_leaves_the_old_store(old: Path, folder: Path, tmp_path: Path) -> None:
    taken = FileSecret(tmp_path / "taken.secret")
    taken.create(1, bytes(32))
    with pytest.raises(DeviceSecretError):
        EncryptedStore.open(folder, OLD_KEY, secret=taken)
    with pytest.raises(KeyFileError):
        EncryptedStore.open(folder, OLD_KEY, secret=FileSecret(folder / "inside.secret"))
    assert taken.read() == {1: bytes(32)}
    assert is_old(old)
    check_upgraded(folder)


@pytest.mark.parametrize("unlock", [DeviceKey(bytes(32)), Passphrase("x")], ids=["key", "kind"])
def test_wrong_key_leaves_the_old_store_as_it_was(
    old: Path, folder: Path, state: Path, unlock: DeviceKey | Passphrase
) -> None:
    with pytest.raises(WrongKeyError):
        EncryptedStore.open(folder, unlock)
    assert is_old(old)
    assert list(state.iterdir()) == []
    check_upgraded(folder)


@pytest.mark.parametrize("step", ["os.rename", "_fill", "build", "sync_folder"])
def test_upgrade_that_is_cut_off_leaves_either_store_and_can_be_repeated(
    old: Path, folder: Path, state: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    from store.lifecycle import upgrade

    def fail(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os if step == "os.rename" else upgrade, step.removeprefix("os."), fail)
        with pytest.raises(KeyboardInterrupt):
            EncryptedStore.open(folder, OLD_KEY)
    assert [path.name for path in folder.iterdir()] == ["memory.tacit"]
    assert is_old(old) == (step != "sync_folder")
    if is_old(old):
        assert list(state.iterdir()) == []
    check_upgraded(folder)


def test_a_disk_that_fails_midway_raises_a_store_error(
    old: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", fail)
        with pytest.raises(StoreError):
            EncryptedStore.open(folder, OLD_KEY)
    assert is_old(old)
    check_upgraded(folder)


def test_a_journal_of_the_old_store_is_read_and_does_not_reach_the_new_one(
    old: Path, folder: Path, tmp_path: Path
) -> None:
    """A crash of format 1 left its last commit in the journal alone: here the deletion of memory 1."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "memory.tacit").write_bytes(OLD)
    connection = sqlite3.connect(work / "memory.tacit", isolation_level=None)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("DELETE FROM memory WHERE id = 1")
    for suffix in ("", "-wal", "-shm"):
        (folder / f"memory.tacit{suffix}").write_bytes((work / f"memory.tacit{suffix}").read_bytes())
    connection.close()
    with EncryptedStore.open(folder, OLD_KEY) as memory:
        assert [stored.id for stored in memory.iter()] == [2]
        assert memory.add(Record(text="more", time=0.0), np.ones(4, dtype=np.float32)) == 4
        memory.verify()
    assert [path.name for path in folder.iterdir()] == ["memory.tacit"]


def test_two_processes_that_upgrade_at_once_end_with_one_store(
    old: Path, folder: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While this one waits for the lock, another one upgrades, and goes on with its own journal."""
    from store.lifecycle import upgrade

    others: list[EncryptedStore] = []

    class Waiting(Database):
        def write(self) -> AbstractContextManager[None]:
            monkeypatch.setattr(upgrade, "Database", Database)
            others.append(EncryptedStore.open(folder, OLD_KEY))
            others[0].put("kind", "of the other", b"1")
            return super().write()

    monkeypatch.setattr(upgrade, "Database", Waiting)
    with EncryptedStore.open(folder, OLD_KEY) as memory:
        assert memory.fetch("kind", "of the other") == b"1"
        others[0].put("kind", "of the other", b"2")
        assert memory.fetch("kind", "of the other") == b"2"
        assert memory.verify() == others[0].verify()
    others[0].close()
    assert len(list(state.glob("*.secret"))) == 1


def test_a_store_that_is_open_elsewhere_raises_busy(
    old: Path, folder: Path, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    child = spawn("""
import sqlite3
connection = sqlite3.connect(folder + "/memory.tacit", isolation_level=None)
connection.execute("PRAGMA journal_mode = WAL")
connection.execute("SELECT count(*) FROM memory").fetchall()
connection.execute("BEGIN IMMEDIATE")
print("open", flush=True)
sys.stdin.read() if sys.stdin else time.sleep(30)
time.sleep(30)
""")
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        with pytest.raises(BusyError):
            EncryptedStore.open(folder, OLD_KEY, busy_timeout_s=0.1)
        assert is_old(old)
    finally:
        child.kill()
        child.communicate()
    check_upgraded(folder)


def test_any_changed_byte_of_the_old_store_raises_and_changes_nothing(state: Path, tmp_path: Path) -> None:
    with sqlite3.connect(":memory:") as connection:
        connection.deserialize(OLD[:18] + b"\1\1" + OLD[20:])  # Not in WAL mode, which memory cannot have.
        cells = [
            (table, column, place, value)
            for table, column, place in [
                ("header", "wrapped_key", 1),
                ("header", "key_check", 1),
                ("header", "salt", 1),
                ("state", "sealed", 1),
                ("memory", "vector", 1),
                ("memory", "record", 2),
                ("named", "title", 1),
                ("named", "value", 1),
            ]
            for (value,) in [connection.execute(f"SELECT {column} FROM {table} WHERE id = {place}").fetchone()]
        ]
    connection.close()
    for number, (table, column, place, value) in enumerate(cells):
        for at in sorted({0, 5, len(value) // 2, len(value) - 1}):
            home = tmp_path / f"{number}-{at}"
            home.mkdir()
            (home / "memory.tacit").write_bytes(OLD)
            changed = value[:at] + bytes([value[at] ^ 4]) + value[at + 1 :]
            raw = sqlite3.connect(home / "memory.tacit", isolation_level=None)
            raw.execute(f"UPDATE {table} SET {column} = ? WHERE id = {place}", (changed,))
            raw.close()
            with pytest.raises(TamperedError):
                EncryptedStore.open(home, OLD_KEY)
            assert is_old(home / "memory.tacit")
    assert list(state.iterdir()) == []


# Format 1's sealing, by its golden vectors


def reader(store_id: str) -> Format1:
    """A reader of a store with this id that was not opened."""
    empty = object.__new__(Format1)
    empty._store_id = bytes.fromhex(store_id)
    return empty


@pytest.mark.parametrize("case", AEAD["seal"], ids=lambda case: case["kind"])
def test_golden_values_of_format_1_open_and_no_changed_one_does(case: dict[str, Any]) -> None:
    key, sealed, object_id = (bytes.fromhex(case[name]) for name in ("key", "sealed", "object_id"))
    one = reader(case["store_id"])
    assert one._open_under(key, case["kind"], sealed, object_id, case["version"]).hex() == case["plaintext"]
    bad = [sealed[:at] + bytes([sealed[at] ^ (1 << at % 8)]) + sealed[at + 1 :] for at in range(len(sealed))]
    for changed in [*bad, b"", sealed[:-1], sealed + b"\0", sealed[:28], None, "text"]:
        with pytest.raises(TamperedError):
            one._open_under(key, case["kind"], changed, object_id, case["version"])
    for other in (
        (key, "else", object_id, case["version"]),
        (key, case["kind"], object_id + b"\0", case["version"]),
        (key, case["kind"], object_id, case["version"] ^ 1 or 2),
        (key, case["kind"], object_id, -1),
        (key, case["kind"], object_id, "1"),
        (bytes(31) + b"\1", case["kind"], object_id, case["version"]),
    ):
        with pytest.raises(TamperedError):
            one._open_under(other[0], other[1], sealed, other[2], other[3])


def test_golden_derivations_of_format_1() -> None:
    derived = AEAD["derive"]
    for info, expected in derived["keys"].items():
        assert hkdf(bytes.fromhex(derived["data_key"]), info, salt=bytes.fromhex(derived["store_id"])).hex() == expected


def test_the_old_reader_reads_the_golden_store(old: Path) -> None:
    database = Database(old, busy_timeout_s=1)
    source = Format1(database, OLD_KEY)
    assert source.dimension() == 4
    assert source.last_id() == 3
    assert [[row.id, row.version, row.record.text] for row in source.rows()] == [r[:3] for r in GOLDEN["records"]]
    assert list(source.values()) == [("kind", "name", bytes.fromhex(GOLDEN["named"]))]
    database.close()
