"""Each way an opening or a creation can fail has its own error, says the next step, and loses nothing."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import store
from store import (
    AcceptRollback,
    AnchorFile,
    BusyError,
    DeviceKey,
    DeviceSecretError,
    EncryptedStore,
    FileSecret,
    KeyFileError,
    MemoryWitness,
    Passphrase,
    Record,
    RolledBackError,
    StoreError,
    StoreExistsError,
    StoreMissingError,
    TamperedError,
    UnknownFormatError,
    WrongKeyError,
    errors,
)
from store.lifecycle import files
from store.lifecycle.header import digest_of

Records = Callable[[int], list[Record]]
Vectors = Callable[[int], np.ndarray]


def test_each_error_has_its_own_exit_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, StoreError)]
    assert StoreError.exit_code == 1
    assert sorted(kind.exit_code for kind in kinds) == [1, *range(10, 20), *range(30, 36)]


def test_no_exit_code_of_the_store_is_one_of_the_layers_above() -> None:
    own = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, StoreError)}
    for layer in ("engine", "federation"):
        source = (Path(errors.__file__).parents[1] / layer / "errors.py").read_text()
        codes = {int(code) for code in re.findall(r"exit_code = (\d+)", source)}
        assert codes
        assert own & codes <= {1}


def test_every_error_is_public() -> None:
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, StoreError):
            assert getattr(store, name) is kind


def test_wrong_device_key_and_wrong_kind_raise_wrong_key(memory: EncryptedStore, folder: Path) -> None:
    with pytest.raises(WrongKeyError, match="device key"):
        EncryptedStore.open(folder, DeviceKey.generate())
    with pytest.raises(WrongKeyError, match="opens with a device key, not with a passphrase"):
        EncryptedStore.open(folder, Passphrase("x"))
    with pytest.raises(TypeError):
        EncryptedStore.open(folder, "x")  # type: ignore[arg-type]


def test_passphrase_opens_and_a_wrong_one_raises_wrong_key(tmp_path: Path, records: Records, vectors: Vectors) -> None:
    with EncryptedStore.create(tmp_path, Passphrase("right"), dimension=8) as memory:
        memory.add(records(1)[0], vectors(1)[0])
        assert memory._database.rows("SELECT number, kind, memory_kib, passes, lanes FROM slot") == [
            (1, "passphrase", 65536, 3, 1)
        ]
    with pytest.raises(WrongKeyError, match="passphrase") as caught:
        EncryptedStore.open(tmp_path, Passphrase("wrong"))
    assert "\n" not in str(caught.value)
    with EncryptedStore.open(tmp_path, Passphrase("right")) as memory:
        assert memory.count() == 1


def test_create_never_overwrites(memory: EncryptedStore, folder: Path, key: DeviceKey) -> None:
    memory.put("a", "b", b"c")
    with pytest.raises(StoreExistsError):
        EncryptedStore.create(folder, DeviceKey.generate(), dimension=8)
    memory.close()
    with pytest.raises(StoreExistsError):
        EncryptedStore.create(folder, key, dimension=8)
    with EncryptedStore.open(folder, key) as again:
        assert again.fetch("a", "b") == b"c"


def test_create_refuses_a_journal_of_an_earlier_store(tmp_path: Path, key: DeviceKey) -> None:
    (tmp_path / "memory.tacit-wal").write_bytes(b"old")
    with pytest.raises(StoreExistsError, match="wal"):
        EncryptedStore.create(tmp_path, key, dimension=8)
    assert [path.name for path in tmp_path.iterdir()] == ["memory.tacit-wal"]


@pytest.mark.parametrize("step", ["build", "publish", "migrate", "write_slots", "first_directories"])
def test_create_that_fails_midway_leaves_no_store_and_can_be_repeated(
    folder: Path, state: Path, key: DeviceKey, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    real = getattr(files, step)

    def fail(*arguments: object) -> None:
        assert len(list(state.iterdir())) == 1
        if step in ("migrate", "build"):
            real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(files, step, fail)
        with pytest.raises(KeyboardInterrupt):
            EncryptedStore.create(folder, key, dimension=8)
    assert list(folder.iterdir()) == list(state.iterdir()) == []
    with pytest.raises(StoreMissingError):
        EncryptedStore.open(folder, key)
    EncryptedStore.create(folder, key, dimension=8).close()


def test_create_on_a_disk_without_hard_links_works(
    folder: Path, key: DeviceKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    EncryptedStore.create(folder, key, dimension=8).close()
    EncryptedStore.open(folder, key).close()
    assert [path.name for path in folder.iterdir()] == ["memory.tacit"]


def test_missing_store_or_folder_raises_missing(tmp_path: Path, key: DeviceKey) -> None:
    for folder in (tmp_path, tmp_path / "none", str(tmp_path / "none" / "deeper")):
        with pytest.raises(StoreMissingError, match="no store"):
            EncryptedStore.open(folder, key)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_a_file_raises_missing(tmp_path: Path, key: DeviceKey) -> None:
    (tmp_path / "file").write_text("x")
    for act in (
        lambda: EncryptedStore.open(tmp_path / "file", key),
        lambda: EncryptedStore.create(tmp_path / "file", key, dimension=8),
        lambda: EncryptedStore.create(tmp_path / "file" / "below", key, dimension=8),
    ):
        with pytest.raises(StoreMissingError):
            act()


@pytest.mark.skipif(os.geteuid() == 0, reason="root passes every permission check")
def test_unreadable_store_raises_missing(memory: EncryptedStore, folder: Path, key: DeviceKey) -> None:
    memory.close()
    (folder / "memory.tacit").chmod(0)
    with pytest.raises(StoreMissingError, match="mode"):
        EncryptedStore.open(folder, key)


@pytest.mark.parametrize("content", [b"hello\n", b"x" * 5000, b"PK\x03\x04" + bytes(9000)])
def test_file_that_is_no_database_raises_unknown_format(folder: Path, key: DeviceKey, content: bytes) -> None:
    folder.mkdir()
    (folder / "memory.tacit").write_bytes(content)
    with pytest.raises(UnknownFormatError):
        EncryptedStore.open(folder, key)
    assert (folder / "memory.tacit").read_bytes() == content


def test_folder_in_the_files_place_raises_unknown_format(folder: Path, key: DeviceKey) -> None:
    (folder / "memory.tacit").mkdir(parents=True)
    with pytest.raises(UnknownFormatError):
        EncryptedStore.open(folder, key)


def test_database_of_another_program_raises_unknown_format(folder: Path, key: DeviceKey) -> None:
    folder.mkdir()
    with sqlite3.connect(folder / "memory.tacit") as other:
        other.execute("CREATE TABLE header (id)")
    other.close()
    before = (folder / "memory.tacit").read_bytes()
    with pytest.raises(UnknownFormatError, match="no Tacit store"):
        EncryptedStore.open(folder, key)
    assert (folder / "memory.tacit").read_bytes() == before


@pytest.mark.parametrize(
    ("number", "error"), [(3, UnknownFormatError), (99, UnknownFormatError), (1, BusyError), (0, TamperedError)]
)
def test_other_format_number_raises(
    memory: EncryptedStore, folder: Path, key: DeviceKey, number: int, error: type[StoreError]
) -> None:
    memory._database.run(f"PRAGMA user_version = {number}")
    with pytest.raises(error):
        EncryptedStore.open(folder, key, busy_timeout_s=0.1)
    memory._database.run("PRAGMA user_version = 2")


def test_a_store_that_only_says_it_is_of_format_1_raises_tampered(
    memory: EncryptedStore, folder: Path, state: Path, key: DeviceKey
) -> None:
    memory._database.run("PRAGMA user_version = 1")
    memory.close()
    before = (folder / "memory.tacit").read_bytes()
    with pytest.raises(TamperedError):
        EncryptedStore.open(folder, key)
    with sqlite3.connect(folder / "memory.tacit") as raw:
        raw.execute("PRAGMA user_version = 2")
    raw.close()
    assert len(before) == (folder / "memory.tacit").stat().st_size
    EncryptedStore.open(folder, key).close()
    assert len(list(state.glob("*.secret"))) == 1


def test_newer_header_format_raises_unknown_format(memory: EncryptedStore, folder: Path, key: DeviceKey) -> None:
    memory._database.run("UPDATE header SET format = 3, digest = ?", (digest_of(3, memory.store_id),))
    with pytest.raises(UnknownFormatError, match="newer"):
        EncryptedStore.open(folder, key)


def test_empty_file_raises_tampered(folder: Path, key: DeviceKey) -> None:
    folder.mkdir()
    (folder / "memory.tacit").touch()
    with pytest.raises(TamperedError, match="empty"):
        EncryptedStore.open(folder, key)


def read_all(folder: Path, key: DeviceKey) -> None:
    """Open and read: damage may show at either."""
    with EncryptedStore.open(folder, key) as memory:
        memory.vectors()
        list(memory.iter())


def test_truncated_file_raises_tampered_and_never_less_data(
    memory: EncryptedStore, folder: Path, key: DeviceKey, records: Records, vectors: Vectors
) -> None:
    memory.add_many(records(100), vectors(100))
    verified = memory.verify()
    assert verified == 4 + 100 + 200
    memory.close()
    path = folder / "memory.tacit"
    whole = path.read_bytes()
    for size in [8192, 8193, 16384, 16385, 32768, len(whole) // 2, len(whole) - 16384, len(whole) - 8192]:
        path.write_bytes(whole[:size])
        with pytest.raises(TamperedError):
            read_all(folder, key)
    for size in [len(whole) - 4096, len(whole) - 100, len(whole) - 1]:
        path.write_bytes(whole[:size])  # The end of the last page may hold nothing but noise: then nothing is missing.
        try:
            with EncryptedStore.open(folder, key) as again:
                assert again.verify() == verified
                assert len(list(again.iter())) == 100
        except TamperedError:
            continue
    path.write_bytes(whole[:100])
    with pytest.raises((TamperedError, UnknownFormatError)):
        EncryptedStore.open(folder, key)
    path.write_bytes(whole)
    with EncryptedStore.open(folder, key) as again:
        assert again.verify() == verified


def test_path_with_characters_that_mean_something_in_an_address_works(tmp_path: Path, key: DeviceKey) -> None:
    folder = tmp_path / "50% off? #1 & caf\u00e9"
    EncryptedStore.create(folder, key, dimension=2).close()
    EncryptedStore.open(str(folder), key).close()
    assert (folder / "memory.tacit").is_file()


def test_relative_path_survives_a_change_of_folder(
    tmp_path: Path, key: DeviceKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with EncryptedStore.create("home", key, dimension=2) as memory:
        monkeypatch.chdir("/")
        memory.put("a", "b", b"c")
    assert (tmp_path / "home" / "memory.tacit").is_file()


def test_secret_and_witness_of_the_callers_choice_are_used(
    folder: Path, state: Path, key: DeviceKey, tmp_path: Path
) -> None:
    secret, witness = FileSecret(tmp_path / "own" / "home.secret"), MemoryWitness()
    with EncryptedStore.create(folder, key, dimension=2, secret=secret, witness=witness) as memory:
        memory.put("a", "b", b"c")
    assert list(state.iterdir()) == []
    assert [path.name for path in secret.path.parent.iterdir()] == ["home.secret"]
    assert witness.value is not None
    EncryptedStore.open(folder, key, secret=secret, witness=MemoryWitness(witness.value)).close()
    with pytest.raises(DeviceSecretError):
        EncryptedStore.open(folder, key)
    with pytest.raises(RolledBackError, match="missing"):
        EncryptedStore.open(folder, key, secret=secret)
    with EncryptedStore.open(folder, key, secret=secret, accept=AcceptRollback()) as memory:
        memory.put("d", "e", b"f")
    assert sorted(path.name for path in secret.path.parent.iterdir()) == ["home.anchor", "home.secret"]


def test_secret_inside_the_folder_is_refused_and_leaves_nothing(folder: Path, key: DeviceKey) -> None:
    with pytest.raises(KeyFileError, match="inside"):
        EncryptedStore.create(folder, key, dimension=2, secret=FileSecret(folder / "home.secret"))
    assert list(folder.iterdir()) == []


def test_witness_inside_the_folder_is_refused(folder: Path, state: Path, key: DeviceKey) -> None:
    with pytest.raises(KeyFileError, match="inside"):
        EncryptedStore.create(folder, key, dimension=2, witness=AnchorFile(folder / "home.anchor"))
    assert list(folder.iterdir()) == list(state.iterdir()) == []


def test_a_secret_that_exists_is_never_overwritten(folder: Path, key: DeviceKey, tmp_path: Path) -> None:
    secret = FileSecret(tmp_path / "home.secret")
    secret.create(1, bytes(32))
    with pytest.raises(DeviceSecretError):
        EncryptedStore.create(folder, key, dimension=2, secret=secret)
    assert secret.read() == {1: bytes(32)}
    assert list(folder.iterdir()) == []


def test_a_copied_folder_without_its_secret_stays_closed(
    memory: EncryptedStore, folder: Path, key: DeviceKey, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    memory.close()
    monkeypatch.setenv("TACIT_STATE_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(DeviceSecretError, match="missing") as caught:
        EncryptedStore.open(folder, key)
    assert "\n" not in str(caught.value)
