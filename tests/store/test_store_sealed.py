"""What a thief with the disk finds: no planted text, no run of a vector, no key, in any file at any time."""

from __future__ import annotations

import logging
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store import DeviceKey, EncryptedStore, Passphrase, Record, RecoveryKey, StoreError
from store.index.quantizer import Quantizer
from store.index.terms import terms_of

RUN_BYTES = 16
LEAST_BYTES = 6
"""In 10 MB of ciphertext, six given bytes are found once in 28 million scans."""


def windows(data: bytes) -> set[bytes]:
    return {data[i : i + RUN_BYTES] for i in range(len(data) - RUN_BYTES + 1)}


class Scan:
    """Remembers what was planted and looks for it in every file under some folders, and in what was printed."""

    def __init__(self, *roots: Path) -> None:
        self.roots = roots
        self.texts: list[bytes] = []
        self.runs: set[bytes] = set()
        self.words: set[bytes] = set()
        self.seen: set[str] = set()

    def plant_text(self, *texts: str) -> None:
        """Each text in the forms that it could lie in; one of four bytes lies in megabytes of ciphertext by chance."""
        for text in texts:
            forms = [text.encode("utf-8"), text.encode("utf-16-le"), text.encode("utf-8").hex().encode()]
            assert all(len(form) >= LEAST_BYTES for form in forms), text
            self.texts += forms

    def plant_bytes(self, *values: bytes) -> None:
        for value in values:
            self.runs |= windows(value)

    def plant_vectors(self, vectors: np.ndarray) -> None:
        """The vectors (n, d) in every type that they could lie in, and their codes."""
        for vector in vectors:
            for dtype in ("<f4", ">f4", "<f2", "<f8"):
                self.plant_bytes(vector.astype(dtype).tobytes())
        quantizer = Quantizer(vectors.shape[1])
        self.plant_bytes(*(code.tobytes() for code in quantizer.encode(vectors)))
        self.plant_bytes(*(turned.tobytes() for turned in quantizer.rotate(vectors)))

    def plant_terms(self, text: str) -> None:
        """The hashes of a text's terms as they lie in entries and postings; two in a row make a run."""
        hashes = sorted(terms_of(text))
        assert len(hashes) > 2
        for order in ("<", ">"):
            self.plant_bytes(struct.pack(f"{order}{len(hashes)}Q", *hashes))
            self.words |= {struct.pack(f"{order}Q", term) for term in hashes}

    def assert_nothing_found(self, *printed: bytes) -> None:
        assert self.texts
        assert self.runs
        found = [(path.name, path.read_bytes()) for root in self.roots for path in root.rglob("*") if path.is_file()]
        texts = set(self.texts)
        # What holds another text that is looked for need not be looked for itself.
        shortest = [text for text in texts if not any(other in text for other in texts if other != text)]
        planted = np.array([int.from_bytes(run[:8], "little") for run in self.runs | self.words], dtype="<u8")
        for name, data in [*found, *(("printed", text) for text in printed)]:
            self.seen.add(name)
            assert not [text for text in shortest if text in data], name
            for at in places_of(planted, data):
                assert data[at : at + 8] not in self.words, name
                assert data[at : at + RUN_BYTES] not in self.runs, name


def places_of(planted: np.ndarray, data: bytes) -> Iterator[int]:
    """Where 8 bytes of ``data`` may be one of the ``planted`` words: all places where they are, and some others."""
    mask = np.uint64((1 << 24) - 1)
    table = np.zeros(1 << 24, dtype=np.bool_)
    table[(planted ^ planted >> np.uint64(40)) & mask] = True
    for start in range(min(8, max(len(data) - 7, 0))):
        words = np.frombuffer(data, "<u8", count=(len(data) - start) // 8, offset=start)
        yield from (start + 8 * np.flatnonzero(table[(words ^ words >> np.uint64(40)) & mask])).tolist()


@pytest.fixture
def scan(tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> Scan:
    (tmp_path / "temporary").mkdir()
    for name in ("TMPDIR", "SQLITE_TMPDIR", "TEMP", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "temporary")
    return Scan(tmp_path, state)


def record(number: int, **more: Any) -> Record:
    return Record(
        text=f"planted text of memory {number} zanzibar quokka{number} \u4f60\u597d\u4e16",
        label=f"planted-label-{number}",
        time=1_723_456_789.0 + number,
        scope=f"planted-scope-{number}",
        purpose=f"planted-purpose-{number}",
        source=f"planted-source-{number}",
        **more,
    )


def plant(scan: Scan, number: int, **more: Any) -> Record:
    planted = record(number, **more)
    scan.plant_text(planted.text, str(planted.label), planted.scope, planted.purpose, planted.source)
    scan.plant_text("planted", "zanzibar", "quokka", "\u4f60\u597d\u4e16", str(int(planted.time)))
    scan.texts += ["\u4f60\u597d".encode(), "\u597d\u4e16".encode()]
    scan.plant_terms(planted.text)
    for order in ("<", ">"):
        scan.words.add(struct.pack(f"{order}d", planted.time))
    return planted


def keys_of(memory: EncryptedStore) -> list[bytes]:
    """Every key that is in memory."""
    root = memory._core.keys.root
    keys = [memory._core.keys.store_key, root.key, root.anchor_key, root.log_key, root.lookup_key]
    for generation in root.generations:
        keys += [generation.rows.secret, generation.pages.secret]
    keys += [kek for _, kek in root.slot_keys]
    keys += [memory._core.keys.row(slot, memory._core.view.head) for slot in memory._core.view.tail]
    return keys


def test_nothing_planted_is_found_at_any_stage(
    folder: Path, scan: Scan, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger().setLevel(logging.DEBUG)
    rng = np.random.default_rng(0)
    key = DeviceKey.generate()
    matrix = rng.standard_normal((45, 160)).astype(np.float32)
    scan.plant_vectors(matrix)
    scan.plant_bytes(key._key)
    planted = [plant(scan, number) for number in range(40)]
    planted += [plant(scan, 40, supersedes=3, expires=1_999_888_777.0), plant(scan, 41, derived_from=(1, 2))]
    value, ratchet = rng.bytes(20_000), rng.bytes(100)
    scan.plant_text("planted-kind", "planted-name", "planted-ledger", "1999888777", "root_before")
    scan.plant_bytes(value, ratchet)

    def look(memory: EncryptedStore | None = None) -> None:
        if memory is not None:
            scan.plant_bytes(*keys_of(memory))
        printed = capfd.readouterr()
        scan.assert_nothing_found(printed.out.encode(), printed.err.encode(), caplog.text.encode())

    memory = EncryptedStore.create(folder, key, dimension=160)
    memory.add(planted[0], matrix[0])
    ids = memory.add_many(planted[1:20], matrix[1:20])
    memory.put("planted-kind", "planted-name", value)
    memory.append("planted-ledger", value[:999])
    memory.charge(ratchet)
    look(memory)
    memory.search(matrix[0], 5)
    memory.search_text(planted[3].text, 5)
    memory.search_hybrid(matrix[0], planted[3].text, 5)
    memory.add(planted[40], matrix[40])
    memory.add(planted[41], matrix[41])
    memory.update(ids[0], planted[30], matrix[30])
    memory.update(ids[7], planted[31])
    look(memory)
    stored = memory.iter(history=True)
    memory.replace_vectors([each.id for each in stored], matrix[: memory.count() + 1], 160)
    look(memory)
    memory.forget(ids[10:12])
    memory.put("planted-kind", "planted-name", value[::-1])
    memory.discard("planted-kind", "planted-name")
    look(memory)
    memory.rotate()
    memory.access.add(RecoveryKey(rng.bytes(32)))
    look(memory)
    with pytest.raises(StoreError) as caught:
        memory.get(10**6)
    memory.close()
    look()
    assert not windows(str(caught.value).encode()) & scan.runs
    with EncryptedStore.open(folder, key) as again:
        again.add_many(planted[20:40], matrix[20:40])
        again.expire()
        again.verify()
        look(again)
    look()
    assert {"memory.tacit", "memory.tacit-wal", "memory.tacit-shm"} <= scan.seen
    assert {Path(name).suffix for name in scan.seen} >= {".secret", ".anchor"}


def test_nothing_planted_is_found_once_the_tail_is_folded(folder: Path, scan: Scan, key: DeviceKey) -> None:
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((1100, 160)).astype(np.float32)
    planted = [plant(scan, number) for number in range(12)]
    scan.plant_vectors(matrix[::100])
    filler = [record(number % 12) for number in range(1100)]
    with EncryptedStore.create(folder, key, dimension=160) as memory:
        memory.add_many(filler, matrix)
        scan.assert_nothing_found()
        scan.plant_bytes(*keys_of(memory))
        memory.search_text(planted[1].text, 3)
        memory.forget([5, 1050])
        memory.update(9, planted[2], matrix[0])
        scan.assert_nothing_found()
    scan.assert_nothing_found()


def test_a_crash_leaves_nothing_in_the_clear(
    folder: Path, scan: Scan, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    """Killed in a transaction: journal, temporary files and what it printed."""
    scan.plant_text("zanzibar", "quokka")
    scan.plant_bytes(np.linspace(1, 2, 160, dtype=np.float32).tobytes())
    child = spawn("""
vector = np.linspace(1, 2, 160, dtype=np.float32)
memory = EncryptedStore.create(folder, key, dimension=160)
memory.add_many([Record(text=f"zanzibar {i}", time=0.0) for i in range(50)], np.array([vector] * 50))
memory.forget([1, 2])
memory._database.run("PRAGMA cache_size = 2")
with memory.transaction():
    memory.add_many([Record(text=f"quokka {i}", time=0.0) for i in range(900)], np.array([vector] * 900))
    os.kill(os.getpid(), 9)
""")
    out, err = child.communicate(timeout=60)
    assert child.returncode == -9, err
    scan.assert_nothing_found(out.encode(), err.encode())
    assert "memory.tacit-wal" in scan.seen


def test_the_scan_would_find_what_is_there(folder: Path, scan: Scan) -> None:
    folder.mkdir()
    plant(scan, 1)
    scan.plant_vectors(np.arange(8, dtype=np.float32)[None])
    (folder / "leak").write_bytes(b"xx" + np.arange(3, 8, dtype=np.float32).tobytes()[1:-1])
    with pytest.raises(AssertionError):
        scan.assert_nothing_found()
    for leak in (b"... zanzibar ...", struct.pack("<Q", max(terms_of("zanzibar"))), struct.pack("<d", 1_723_456_790.0)):
        (folder / "leak").write_bytes(leak)
        with pytest.raises(AssertionError):
            scan.assert_nothing_found()
        (folder / "leak").unlink()
        with pytest.raises(AssertionError):
            scan.assert_nothing_found(leak)


def test_keys_and_passphrase_are_found_nowhere(folder: Path, scan: Scan, capfd: pytest.CaptureFixture[str]) -> None:
    scan.plant_text("a long passphrase, planted")
    with EncryptedStore.create(folder, Passphrase("a long passphrase, planted"), dimension=2) as memory:
        memory.put("a", "b", b"c")
        memory.add(record(1), np.ones(2, dtype=np.float32))
        scan.plant_bytes(*keys_of(memory))
        memory.delete(1)
        scan.plant_bytes(*keys_of(memory))
        scan.assert_nothing_found()
    with pytest.raises(StoreError):
        EncryptedStore.open(folder, Passphrase("a wrong passphrase"))
    printed = capfd.readouterr()
    scan.assert_nothing_found(printed.out.encode(), printed.err.encode())


def test_the_old_secret_is_found_nowhere_after_a_forget(folder: Path, state: Path, key: DeviceKey, scan: Scan) -> None:
    scan.plant_text("nothing of this sort")
    with EncryptedStore.create(folder, key, dimension=2) as memory:
        secret = memory._core.secret.read()[1]
        assert any(secret in path.read_bytes() for path in state.iterdir())
        memory.add(record(1), np.ones(2, dtype=np.float32))
        memory.delete(1)
        scan.plant_bytes(secret)
        scan.assert_nothing_found()


def test_same_value_is_never_sealed_to_the_same_bytes(folder: Path, key: DeviceKey) -> None:
    with EncryptedStore.create(folder, key, dimension=2) as memory:
        memory.add_many([record(1)] * 50, np.ones((50, 2), dtype=np.float32))
        rows = memory._database.rows("SELECT stamp, vector, record FROM memory")
        assert len(rows) == 64
        for column in range(3):
            assert len({row[column][1:17] for row in rows}) == 64
            assert len({row[column][-16:] for row in rows}) == 64


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
