"""Transcripts of `tacit device slots`, `rotate` and `verify`: who opens a device, and whether all of it is whole."""

from __future__ import annotations

import json
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from keychains import MemoryKeychain

from federation.cli.unlock import VARIABLE
from store import DeviceKey, EncryptedStore, RecoveryKey

Call = Callable[..., Any]
PHRASES = ("open sesame 🐎", "a newer one")
COMMANDS = ["slots", "rotate", "verify"]


def as_json(outcome: Any) -> Any:
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def kinds(outcome: Any) -> list[str]:
    return [slot["kind"] for slot in as_json(outcome)["slots"]]


def sealed_rows(home: Path) -> list[bytes]:
    with closing(sqlite3.connect(home / "phone" / "memory.tacit")) as connection:
        rows = connection.execute("SELECT stamp, vector, record FROM memory WHERE slot <= 3")
        return [blob for row in rows for blob in row]


def texts(device: Call) -> list[str]:
    return [memory["text"] for memory in as_json(device("show", "--memories", "--json"))["listed"]]


@pytest.fixture
def unlocked(home: Path, tacit: Call) -> Call:
    """Call a device command on the filled device, opened in another way than with its key."""
    return lambda name, *args, **given: tacit(["device", name, home / "phone", *args], **given)


@pytest.fixture
def with_recovery(device: Call, home: Path) -> Path:
    """A file with the recovery key in slot 2 of the filled device."""
    made = as_json(device("slots", "--add-recovery", "--json"))
    (home / "paper").write_text(made["recovery_key"] + "\n", encoding="ascii")
    return home / "paper"


@pytest.fixture(scope="module")
def locked(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The filled device with a passphrase, in the file "phrase 0", in slot 2; copied, never changed."""
    from federation.cli import main

    home = tmp_path_factory.mktemp("locked") / "home"
    shutil.copytree(filled, home)
    for number, phrase in enumerate(PHRASES):
        (home / f"phrase {number}").write_text(phrase + "\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TACIT_STATE_DIR", str(home / "state"))
        args = ["--add-passphrase-file", home / "phrase 0", "--key-file", home / "key"]
        main([str(arg) for arg in ["device", "slots", home / "phone", *args]])
    return home


@pytest.fixture
def two_ways(locked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This test's own copy of the device that opens with a key or a passphrase."""
    shutil.copytree(locked, tmp_path / "locked")
    monkeypatch.setenv("TACIT_STATE_DIR", str(tmp_path / "locked" / "state"))
    return tmp_path / "locked"


# slots


def test_slots_lists_what_opens_the_device_and_what_opened_it_now(
    device: Call, unlocked: Call, with_recovery: Path
) -> None:
    shown = device("slots")
    assert (shown.code, shown.err) == (0, "")
    rows = [line.split() for line in shown.out.splitlines() if line.strip(" ─")]
    assert rows == [["slot", "kind"], ["1", "device-key", "opened", "this", "call"], ["2", "recovery-key"]]
    assert as_json(unlocked("slots", "--unlock-recovery", with_recovery, "--json")) == {
        "slots": [
            {"number": 1, "kind": "device-key", "used": False},
            {"number": 2, "kind": "recovery-key", "used": True},
        ]
    }


def test_a_recovery_key_is_shown_once_and_opens_every_command(device: Call, unlocked: Call, home: Path) -> None:
    made = device("slots", "--add-recovery")
    first, second, *_ = made.out.splitlines()
    assert second == "Added slot 2."
    text = first.removeprefix("Recovery key, shown this once: ")
    RecoveryKey.from_text(text)
    assert text not in device("slots").both
    # As someone types it in from paper.
    (home / "paper").write_text(text.lower().replace("-", " "), encoding="ascii")
    assert as_json(unlocked("verify", "--unlock-recovery", home / "paper", "--json"))["values"] > 0
    found = as_json(unlocked("search", "where is the key?", "-k", "1", "--unlock-recovery", home / "paper", "--json"))
    assert found["memories"][0]["id"] == 3


def test_a_file_without_a_recovery_key_is_a_wrong_call(unlocked: Call, one_line: Call, home: Path) -> None:
    missing = unlocked("verify", "--unlock-recovery", home / "none")
    assert missing.code == 2
    assert one_line(missing) == f"Error: Cannot read the recovery key file {home / 'none'}: No such file or directory."
    (home / "paper").write_text("T0000-slip\n", encoding="ascii")
    mistyped = unlocked("verify", "--unlock-recovery", home / "paper")
    assert mistyped.code == 2
    assert "This is no recovery key." in one_line(mistyped)
    assert "slip" not in mistyped.err


def test_a_removed_slot_opens_neither_the_device_nor_an_older_copy(
    device: Call, unlocked: Call, tacit: Call, one_line: Call, home: Path, with_recovery: Path
) -> None:
    shutil.copytree(home / "phone", home / "older")
    removed = as_json(device("slots", "--remove", "2", "--json"))
    assert removed["slots"] == [{"number": 1, "kind": "device-key", "used": True}]
    assert (removed["epoch"], removed["receipt"]["what"], removed["receipt"]["ids"]) == (2, "slots", [])
    refused = unlocked("verify", "--unlock-recovery", with_recovery)
    assert refused.code == 10
    assert "not with a recovery key" in one_line(refused)
    older = tacit(["device", "verify", home / "older", "--unlock-recovery", with_recovery])
    assert older.code == 32
    one_line(older)
    assert len(texts(device)) == 3


def test_the_key_in_use_can_be_removed_and_then_opens_nothing(
    device: Call, unlocked: Call, one_line: Call, with_recovery: Path
) -> None:
    assert kinds(device("slots", "--remove", "1", "--json")) == ["recovery-key"]
    refused = device("verify")
    assert refused.code == 10
    one_line(refused)
    assert unlocked("verify", "--unlock-recovery", with_recovery).code == 0


def test_the_last_slot_and_a_missing_one_are_not_removed(device: Call, one_line: Call) -> None:
    for number, expected in (("1", "only key slot"), ("9", "no key slot 9")):
        refused = device("slots", "--remove", number)
        assert refused.code == 34
        assert expected in one_line(refused)
    assert kinds(device("slots", "--json")) == ["device-key"]


def test_a_changed_passphrase_opens_and_the_old_one_is_refused(tacit: Call, one_line: Call, two_ways: Path) -> None:
    home = two_ways
    old, new = home / "phrase 0", home / "phrase 1"
    changed = tacit(["device", "slots", home / "phone", "--change", "2", "--to", new, "--passphrase-file", old])
    assert changed.code == 0
    assert changed.out.startswith("Changed; epoch 2 began, and older copies of the files stay closed.\n")
    assert not any(phrase in changed.both for phrase in PHRASES)
    refused = tacit(["device", "verify", home / "phone", "--passphrase-file", old])
    assert refused.code == 10
    assert one_line(refused) == "Error: This passphrase does not open the store: check it and try again."
    opened = tacit(["device", "slots", home / "phone", "--json"], env={VARIABLE: PHRASES[1]})
    assert as_json(opened)["slots"] == [
        {"number": 1, "kind": "device-key", "used": False},
        {"number": 2, "kind": "passphrase", "used": True},
    ]


def test_a_device_key_is_made_if_missing_and_opens_the_device_too(device: Call, tacit: Call, home: Path) -> None:
    made = as_json(device("slots", "--add-key", home / "spare", "--json"))
    assert (made["added"], made["key_file"]) == (2, str(home / "spare"))
    assert stat.S_IMODE((home / "spare").stat().st_mode) == 0o600
    opened = tacit(["device", "slots", home / "phone", "--key-file", home / "spare", "--json"])
    assert [slot["used"] for slot in as_json(opened)["slots"]] == [False, True]


def test_a_key_that_cannot_be_added_is_not_left_behind(device: Call, one_line: Call, home: Path) -> None:
    key = DeviceKey.from_file(home / "key")
    with EncryptedStore.open(home / "phone", key) as store:
        for _ in range(7):
            store.access.add(key)
    full = device("slots", "--add-key", home / "spare")
    assert full.code == 34
    assert "at most 8 key slots" in one_line(full)
    inside = device("slots", "--add-key", home / "phone" / "spare")
    assert inside.code == 18
    one_line(inside)
    assert not (home / "spare").exists()
    assert not (home / "phone" / "spare").exists()
    # One that was there before stays.
    assert device("slots", "--add-key", home / "key").code == 34
    assert DeviceKey.from_file(home / "key")._key == key._key


def test_a_key_in_the_keychain_opens_the_device_too(
    device: Call, unlocked: Call, one_line: Call, keychain: MemoryKeychain
) -> None:
    made = as_json(device("slots", "--add-keychain", "laptop", "--json"))
    assert (made["added"], made["keychain"], made["slots"][1]["kind"]) == (2, "laptop", "keychain")
    (secret,) = keychain.entries.values()
    assert secret not in str(made)
    assert as_json(unlocked("slots", "--unlock-keychain", "laptop", "--json"))["slots"][1]["used"]
    unknown = unlocked("verify", "--unlock-keychain", "desktop")
    again = device("slots", "--add-keychain", "laptop")
    for refused, expected in ((unknown, "no key named 'desktop'"), (again, "named 'laptop' already")):
        assert refused.code == 18
        assert expected in one_line(refused)
    assert list(keychain.entries.values()) == [secret]


def test_a_keychain_key_that_cannot_be_added_is_taken_back(
    device: Call, one_line: Call, home: Path, keychain: MemoryKeychain
) -> None:
    key = DeviceKey.from_file(home / "key")
    with EncryptedStore.open(home / "phone", key) as store:
        for _ in range(7):
            store.access.add(key)
    full = device("slots", "--add-keychain", "laptop")
    assert full.code == 34
    one_line(full)
    assert keychain.entries == {}


@pytest.mark.parametrize(
    "args",
    [
        ["--remove", "1", "--add-recovery"],
        ["--change", "1", "--to", "x", "--remove", "1"],
        ["--change", "1"],
        ["--to", "x"],
        ["--remove", "0"],
        ["--change", "one", "--to", "x"],
        ["--change", "1", "--to", "no such file"],
        ["--add-passphrase-file", "no such file"],
        ["--no-such-option"],
        ["--unlock-recovery", "x"],
    ],
)
def test_slots_called_wrongly_is_status_2_and_changes_nothing(device: Call, one_line: Call, args: list[str]) -> None:
    before = as_json(device("verify", "--json"))
    wrong = device("slots", *args)
    assert wrong.code == 2
    one_line(wrong)
    assert as_json(device("verify", "--json")) == before
    assert kinds(device("slots", "--json")) == ["device-key"]


# rotate


def test_rotate_seals_all_anew_and_loses_nothing(device: Call, unlocked: Call, home: Path, with_recovery: Path) -> None:
    before, remembered = sealed_rows(home), texts(device)
    rotated = device("rotate")
    assert (rotated.code, rotated.out, rotated.err) == (0, "Rotated: epoch 2 began.\n", "Sealing anew …\n")
    assert len(before) == 9
    assert not set(before) & set(sealed_rows(home))
    assert texts(device) == remembered
    assert kinds(unlocked("slots", "--unlock-recovery", with_recovery, "--json")) == ["device-key", "recovery-key"]
    assert device("verify").out.endswith("1 receipt in order.\n")


def test_rotate_prints_its_receipt_as_json(device: Call) -> None:
    first, second = (as_json(device("rotate", "--json")) for _ in range(2))
    assert (first["rotated"], first["resumed"]) == (True, False)
    receipt = first["receipt"]
    assert (receipt["what"], receipt["ids"], receipt["epoch"]) == ("rotate", [], 2)
    assert receipt["root_before"] != receipt["root_after"] == second["receipt"]["root_before"]
    assert as_json(device("verify", "--json"))["receipts"] == [receipt, second["receipt"]]


def test_a_rotation_that_was_cut_off_is_told_and_finished(device: Call, home: Path) -> None:
    class CutError(Exception):
        pass

    def cut(_done: int, _total: int) -> None:
        raise CutError

    with EncryptedStore.open(home / "phone", DeviceKey.from_file(home / "key")) as store, pytest.raises(CutError):
        store.rotate(cut)
    assert device("verify").out.endswith("A rotation was cut off: `tacit device rotate` finishes it.\n")
    assert as_json(device("verify", "--json"))["rotation_unfinished"] is True
    assert len(texts(device)) == 3
    assert device("rotate").out == "Finished a rotation that was cut off: epoch 2 began.\n"
    assert as_json(device("verify", "--json"))["rotation_unfinished"] is False


# verify


def test_verify_counts_what_it_opened(device: Call) -> None:
    device("forget", "1", "--yes")
    told = as_json(device("verify", "--json"))
    assert [(receipt["what"], receipt["ids"]) for receipt in told["receipts"]] == [("forget", [1])]
    assert told["rotation_unfinished"] is False
    shown = device("verify")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out == f"Whole: {told['values']} sealed values opened, 1 receipt in order.\n"


@pytest.mark.parametrize(
    ("table", "column", "where"),
    [("memory", "record", "slot = 2"), ("memory", "vector", "slot = 3"), ("ledger", "sealed", "number = 1")],
)
def test_verify_finds_a_changed_row_that_others_do_not_read(
    device: Call, one_line: Call, home: Path, table: str, column: str, where: str
) -> None:
    device("forget", "1", "--yes")
    with closing(sqlite3.connect(home / "phone" / "memory.tacit")) as connection:
        (sealed,) = connection.execute(f"SELECT {column} FROM {table} WHERE {where}").fetchone()
        changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (changed,))
        connection.commit()
    assert device("slots").code == 0
    for args in ([], ["--json"]):
        found = device("verify", *args)
        assert found.code == 11
        assert "restore" in one_line(found)


# What holds for each command


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_refuses_a_wrong_passphrase_a_wrong_key_and_an_unknown_option(
    tacit: Call, one_line: Call, two_ways: Path, tmp_path: Path, name: str
) -> None:
    DeviceKey.generate().write(tmp_path / "stray")
    call = ["device", name, two_ways / "phone"]
    for more, env in (([], {VARIABLE: "hunter2"}), (["--key-file", tmp_path / "stray"], None)):
        refused = tacit([*call, *more], env=env)
        assert refused.code == 10
        assert "hunter2" not in one_line(refused)
    unknown = tacit([*call, "--no-such-option"])
    assert unknown.code == 2
    assert "--no-such-option" in one_line(unknown)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_says_that_the_device_or_its_secret_is_missing(
    device: Call, tacit: Call, one_line: Call, home: Path, name: str
) -> None:
    nowhere = tacit(["device", name, home / "nothing", "--key-file", home / "key"])
    assert nowhere.code == 15
    assert "There is no device at" in one_line(nowhere)
    assert not (home / "nothing").exists()
    (secret,) = (home / "state").glob("*.secret")
    secret.rename(home / "secret")
    closed = device(name)
    assert closed.code == 30
    assert str(secret) in one_line(closed)
    assert not secret.exists()
    (home / "secret").rename(secret)
    assert device(name).code == 0
