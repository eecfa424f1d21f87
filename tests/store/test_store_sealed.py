"""What a thief with the disk finds: no planted text, no run of a vector, no key, in any file at any time."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from store import DeviceKey, EncryptedStore, Passphrase, Record

RUN_BYTES = 16


def windows(data: bytes) -> set[bytes]:
    return {data[i : i + RUN_BYTES] for i in range(len(data) - RUN_BYTES + 1)}


class Scan:
    """Remembers what was planted and looks for it in every file under a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.texts: list[bytes] = []
        self.runs: set[bytes] = set()
        self.seen: set[str] = set()

    def plant_text(self, *texts: str) -> None:
        for text in texts:
            self.texts += [text.encode("utf-8"), text.encode("utf-16-le"), text.encode("utf-8").hex().encode()]

    def plant_bytes(self, *values: bytes) -> None:
        for value in values:
            self.runs |= windows(value)

    def plant_vectors(self, vectors: Iterable[np.ndarray]) -> None:
        for vector in vectors:
            for dtype in ("<f4", ">f4", "<f2", "<f8"):
                self.plant_bytes(vector.astype(dtype).tobytes())

    def assert_nothing_found(self) -> None:
        assert self.texts
        assert self.runs
        for path in self.root.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                self.seen.add(path.name)
                assert not [text for text in self.texts if text in data], path.name
                assert not windows(data) & self.runs, path.name


@pytest.fixture
def scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scan:
    (tmp_path / "temporary").mkdir()
    for name in ("TMPDIR", "SQLITE_TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path / "temporary"))
    return Scan(tmp_path)


def record(number: int) -> Record:
    return Record(
        text=f"planted text of memory {number} zanzibar",
        label=f"planted-label-{number}",
        time=1_723_456_789.0 + number,
        scope=f"planted-scope-{number}",
        purpose=f"planted-purpose-{number}",
        source=f"planted-source-{number}",
    )


def plant(scan: Scan, number: int) -> Record:
    planted = record(number)
    scan.plant_text(planted.text, str(planted.label), planted.scope, planted.purpose, planted.source)
    scan.plant_text("zanzibar", str(int(planted.time)))
    return planted


def test_nothing_planted_is_found_at_any_stage(folder: Path, scan: Scan) -> None:
    rng = np.random.default_rng(0)
    key = DeviceKey.generate()
    matrix = rng.standard_normal((40, 64)).astype(np.float32)
    scan.plant_vectors(matrix)
    scan.plant_bytes(key._key)
    planted = [plant(scan, number) for number in range(40)]
    value = rng.bytes(50_000)
    scan.plant_text("planted-kind", "planted-name")
    scan.plant_bytes(value)

    memory = EncryptedStore.create(folder, key, dimension=64)
    memory.add(planted[0], matrix[0])
    ids = memory.add_many(planted[1:20], matrix[1:20])
    memory.put("planted-kind", "planted-name", value)
    scan.assert_nothing_found()
    memory.search(matrix[0], 5)
    memory.update(ids[0], planted[30], matrix[30])
    memory.update(ids[1], planted[31])
    memory.replace_vectors(*memory.vectors(), 64)
    scan.assert_nothing_found()
    memory.delete_many(ids[5:10])
    memory.put("planted-kind", "planted-name", value[::-1])
    memory.discard("planted-kind", "planted-name")
    scan.assert_nothing_found()
    memory.close()
    scan.assert_nothing_found()
    with EncryptedStore.open(folder, key) as again:
        again.add_many(planted[20:], matrix[20:])
        again.verify()
        scan.assert_nothing_found()
    scan.assert_nothing_found()
    assert {"memory.tacit", "memory.tacit-wal", "memory.tacit-shm"} <= scan.seen


def test_the_scan_would_find_what_is_there(folder: Path, scan: Scan) -> None:
    folder.mkdir()
    plant(scan, 1)
    scan.plant_vectors([np.arange(8, dtype=np.float32)])
    (folder / "leak").write_bytes(b"xx" + np.arange(3, 8, dtype=np.float32).tobytes()[1:-1])
    with pytest.raises(AssertionError):
        scan.assert_nothing_found()
    (folder / "leak").write_text("... zanzibar ...")
    with pytest.raises(AssertionError):
        scan.assert_nothing_found()


def test_data_key_and_passphrase_are_found_nowhere(folder: Path, scan: Scan) -> None:
    from store.database import Database
    from store.files import read_header

    unlock = Passphrase("a long passphrase, planted")
    scan.plant_text("a long passphrase, planted")
    memory = EncryptedStore.create(folder, unlock, dimension=2)
    database = Database(folder / "memory.tacit", busy_timeout_s=1)
    scan.plant_bytes(read_header(database).data_key(unlock))
    memory.put("a", "b", b"c")
    scan.assert_nothing_found()
    database.close()
    memory.close()
    scan.assert_nothing_found()


def test_same_value_is_never_sealed_to_the_same_bytes(folder: Path, key: DeviceKey) -> None:
    with EncryptedStore.create(folder, key, dimension=2) as memory:
        memory.add_many([record(1)] * 50, np.ones((50, 2), dtype=np.float32))
        rows = memory._database.rows("SELECT vector, record FROM memory")
        sealed = [value for row in rows for value in row]
        assert len({value[1:13] for value in sealed}) == 100
        assert len({value[13:29] for value in sealed}) == 100


def test_time_of_creation_is_not_in_the_file(folder: Path, key: DeviceKey) -> None:
    EncryptedStore.create(folder, key, dimension=2).close()
    data = (folder / "memory.tacit").read_bytes()
    assert b"+00:00" not in data
    with EncryptedStore.open(folder, key) as memory:
        assert memory._database.rows("SELECT applied_at FROM _sqlite_migrations") == [("",)]


def test_folder_and_files_are_for_their_owner_only(folder: Path, key: DeviceKey) -> None:
    before = os.umask(0)
    try:
        with EncryptedStore.create(folder, key, dimension=2) as memory:
            memory.put("a", "b", b"c")
            assert folder.stat().st_mode & 0o777 == 0o700
            assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
            assert len(list(folder.iterdir())) == 3
    finally:
        os.umask(before)


def test_settings_hold_on_a_reopened_store(folder: Path, key: DeviceKey) -> None:
    EncryptedStore.create(folder, key, dimension=2).close()
    with EncryptedStore.open(folder, key) as memory:
        values = {
            name: memory._database.rows(f"PRAGMA {name}")[0][0]
            for name in ("journal_mode", "synchronous", "secure_delete", "temp_store", "trusted_schema")
        }
    assert values == {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "temp_store": 2, "trusted_schema": 0}
