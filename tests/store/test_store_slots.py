"""Key slots: several ways to open one store, added, replaced and removed without touching data."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from store import (
    AcceptRollback,
    DeviceKey,
    EncryptedStore,
    FileSecret,
    ForgottenEpoch,
    KeychainKey,
    KeyFileError,
    Passphrase,
    Record,
    RecoveryKey,
    SlotError,
    StoreError,
    Unlock,
    WrongKeyError,
)
from store.keys import slots as slots_module
from store.keys.slots import MAX_SLOTS
from store.keys.unlock import Argon2

KEY = DeviceKey(bytes(range(32)))
Open = Callable[..., EncryptedStore]


@pytest.fixture(autouse=True)
def cheap_argon2(monkeypatch: pytest.MonkeyPatch) -> None:
    """New slots cost 8 MiB and one pass: the cost lies in the slot, so opening costs as little."""
    monkeypatch.setattr(
        slots_module, "Argon2", lambda **cost: Argon2(**(cost or {"memory_kib": 8 * 1024, "passes": 1}))
    )


@pytest.fixture
def secret(tmp_path: Path) -> FileSecret:
    return FileSecret(tmp_path / "state" / "home.secret")


@pytest.fixture
def opened(tmp_path: Path, secret: FileSecret) -> Open:
    """Open the store with an unlock, the usual key by default."""
    with EncryptedStore.create(tmp_path / "home", KEY, dimension=4, secret=secret) as memory:
        memory.add_many([Record(text=f"t {i}", time=0.0) for i in range(1_100)], np.ones((1_100, 4), dtype=np.float32))

    def open(unlock: Unlock = KEY, **options: object) -> EncryptedStore:
        return EncryptedStore.open(tmp_path / "home", unlock, secret=secret, **options)  # type: ignore[arg-type]

    return open


class MemoryKeychain:
    """Stands in for the package ``keyring``."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, name: str) -> str | None:
        return self.entries.get((service, name))

    def set_password(self, service: str, name: str, value: str) -> None:
        self.entries[service, name] = value

    def delete_password(self, service: str, name: str) -> None:
        del self.entries[service, name]


@pytest.fixture
def keychain(monkeypatch: pytest.MonkeyPatch) -> MemoryKeychain:
    import keyring

    fake = MemoryKeychain()
    for name in ("get_password", "set_password", "delete_password"):
        monkeypatch.setattr(keyring, name, getattr(fake, name))
    return fake


def unlocks() -> dict[str, tuple[Unlock, Unlock]]:
    """For each kind of slot a right and a wrong unlock."""
    return {
        "passphrase": (Passphrase("over the hills"), Passphrase("over the hill")),
        "device-key": (DeviceKey(bytes(32)), DeviceKey.generate()),
        "recovery-key": (RecoveryKey.generate(), RecoveryKey.generate()),
    }


def data_bytes(folder: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every byte of the tables that hold data."""
    with closing(sqlite3.connect(folder / "memory.tacit")) as connection:
        tables = ("memory", "tail", "segment", "named", "node")
        return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in tables}


@pytest.mark.parametrize("kind", ["passphrase", "device-key", "recovery-key"])
def test_added_slot_opens_and_removed_slot_does_not(opened: Open, kind: str) -> None:
    right, wrong = unlocks()[kind]
    with opened() as memory:
        number = memory.access.add(right)
        assert [(s.number, s.kind, s.used) for s in memory.access.slots()] == [
            (1, "device-key", True),
            (number, kind, False),
        ]
    with opened(right) as memory:
        assert memory.count() == 1_100
        assert [s.used for s in memory.access.slots()] == [False, True]
    with pytest.raises(WrongKeyError):
        opened(wrong)
    with opened() as memory:
        receipt = memory.access.remove(number)
        assert (receipt.what, receipt.ids) == ("slots", ())
        assert memory.verify() > 0
    with pytest.raises(WrongKeyError):
        opened(right)
    opened().close()


def test_slot_in_the_keychain_opens_the_store(opened: Open, keychain: MemoryKeychain) -> None:
    key = KeychainKey.create("phone")
    with pytest.raises(KeyFileError, match="already"):
        KeychainKey.create("phone")
    with opened() as memory:
        number = memory.access.add(key)
        assert memory.access.slots()[-1].kind == "keychain"
    with opened(KeychainKey.load("phone")) as memory:
        memory.access.remove(1)  # The one that it was made with.
    with pytest.raises(WrongKeyError):
        opened()
    with opened(KeychainKey.load("phone")) as memory:
        assert [s.number for s in memory.access.slots()] == [number]
    KeychainKey.discard("phone")
    assert keychain.entries == {}
    with pytest.raises(KeyFileError, match="phone"):
        KeychainKey.load("phone")


def test_missing_keychain_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(KeyFileError, match="pip install"):
        KeychainKey.load("phone")


def test_last_slot_and_unknown_slots_are_not_removed(opened: Open) -> None:
    with opened() as memory:
        with pytest.raises(SlotError, match="only"):
            memory.access.remove(1)
        for number in (0, 2, -1):
            with pytest.raises(SlotError, match="slots"):
                memory.access.remove(number)
            with pytest.raises(SlotError, match="slots"):
                memory.access.replace(number, DeviceKey.generate())
        assert len(memory.receipts()) == 0
    opened().close()


def test_more_than_eight_slots_are_refused_and_all_eight_open(opened: Open) -> None:
    keys = [DeviceKey.generate() for _ in range(MAX_SLOTS - 1)]
    with opened() as memory:
        numbers = [memory.access.add(key) for key in keys]
        assert numbers == list(range(2, 9))
        with pytest.raises(SlotError, match="8"):
            memory.access.add(DeviceKey.generate())
        memory.rotate()
    for key in (KEY, *keys):
        with opened(key) as memory:
            assert memory.count() == 1_100


def test_changed_passphrase_touches_no_data(tmp_path: Path, opened: Open) -> None:
    with opened() as memory:
        number = memory.access.add(Passphrase("first"))
        memory.forget(1)  # So that there are nodes.
    before = data_bytes(tmp_path / "home")
    with opened(Passphrase("first")) as memory:
        memory.access.replace(number, Passphrase("second"))
        after = data_bytes(tmp_path / "home")
        for table in ("memory", "tail", "segment", "named"):
            assert after[table] == before[table]
        assert len(set(after["node"]) - set(before["node"])) <= 4  # The pages of manifest and registry.
        assert memory.get(2).record.text == "t 1"
        memory.add(Record(text="later", time=0.0), np.ones(4, dtype=np.float32))
        assert [s.used for s in memory.access.slots()] == [False, True]
    with pytest.raises(WrongKeyError):
        opened(Passphrase("first"))
    with opened(Passphrase("second")) as memory:
        assert memory.verify() > 0


def test_removed_slot_with_an_old_copy_and_todays_secret_stays_closed(
    tmp_path: Path, opened: Open, secret: FileSecret
) -> None:
    stolen = Passphrase("stolen")
    with opened() as memory:
        number = memory.access.add(stolen)
        shutil.copytree(tmp_path / "home", tmp_path / "old")
        memory.access.remove(number)
    for accept in (None, AcceptRollback()):
        with pytest.raises(ForgottenEpoch):
            EncryptedStore.open(tmp_path / "old", stolen, secret=secret, accept=accept)


def test_old_slot_row_put_into_todays_file_does_not_open(tmp_path: Path, opened: Open) -> None:
    stolen = DeviceKey.generate()
    with opened() as memory:
        number = memory.access.add(stolen)
    with closing(sqlite3.connect(tmp_path / "home" / "memory.tacit")) as connection:
        (row,) = connection.execute("SELECT * FROM slot WHERE number = ?", (number,)).fetchall()
    with opened() as memory:
        memory.access.remove(number)
    with closing(sqlite3.connect(tmp_path / "home" / "memory.tacit")) as connection, connection:
        connection.execute(f"INSERT INTO slot VALUES ({', '.join('?' * len(row))})", row)
    with pytest.raises(StoreError):  # It unwraps an earlier store key, under which no root is sealed.
        opened(stolen)
    with opened() as memory:
        assert memory.count() == 1_100


def test_other_connections_read_on_after_a_slot_change_unless_theirs_is_gone(opened: Open) -> None:
    theirs = DeviceKey.generate()
    with opened() as memory:
        number = memory.access.add(theirs)
        third = memory.access.add(DeviceKey.generate())
        other = opened(theirs)
        memory.access.remove(third)
        assert other.count() == 1_100
        other.add(Record(text="theirs", time=0.0), np.ones(4, dtype=np.float32))
        other.forget(1)
        assert memory.count() == 1_100
        memory.access.replace(1, DeviceKey(bytes(32)))  # The slot that this connection uses itself.
        assert (memory.count(), other.count()) == (1_100, 1_100)
        memory.access.remove(number)
        with pytest.raises(WrongKeyError, match="removed"):
            other.count()
        with pytest.raises(WrongKeyError, match="removed"):
            other.put("a", "b", b"c")
        assert memory.verify() > 0
        other.close()  # It can settle nothing any more, and leaves that to the others.
    with opened(DeviceKey(bytes(32))) as memory:
        assert memory.fetch("a", "b") is None


def test_slots_change_in_no_transaction_of_the_caller(opened: Open) -> None:
    with opened() as memory:
        number = memory.access.add(DeviceKey.generate())
        for change in (
            lambda: memory.access.add(DeviceKey.generate()),
            lambda: memory.access.remove(number),
            lambda: memory.access.replace(number, DeviceKey.generate()),
            memory.rotate,
        ):
            with memory.transaction():
                memory.put("a", "b", b"c")
                with pytest.raises(StoreError, match="transaction"):
                    change()
        assert len(memory.access.slots()) == 2
        assert memory.fetch("a", "b") == b"c"
        memory.access.remove(number)


@pytest.mark.parametrize("step", ["prepare", "commit"])
def test_slot_change_cut_off_leaves_the_owner_a_way_in(opened: Open, secret: FileSecret, step: str) -> None:
    def torn(*_: object) -> None:
        raise KeyboardInterrupt

    memory = opened()
    setattr(memory._core.secret, step, torn)
    with pytest.raises(KeyboardInterrupt):
        memory.access.replace(1, DeviceKey(bytes(32)))
    delattr(memory._core.secret, step)
    assert memory.count() == 1_100
    memory.close()
    right, wrong = (DeviceKey(bytes(32)), KEY) if step == "commit" else (KEY, DeviceKey(bytes(32)))
    with pytest.raises(WrongKeyError):
        opened(wrong)
    with opened(right) as memory:
        assert memory.verify() > 0
        memory.forget(1)
    assert len(secret.read()) == 1
