"""What opens a device: a file, the environment, a key or a prompt, and never an argument. No output shows a secret."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from federation.cli import unlock

Call = Callable[..., Any]
SECRET = "correct horse 🐎 battery"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a device that opens with ``SECRET``, and a file that holds it."""
    from engine.device.device import Device
    from engine.model.catalogue import Catalogue
    from store import Passphrase

    home = tmp_path_factory.mktemp("locked")
    (home / "secret").write_text(SECRET + "\nsecond line\n", encoding="utf-8")
    Device.create(home / "phone", Passphrase(SECRET), catalogue=Catalogue.from_names(["a", "b"])).close()
    return home


def show(home: Path, *args: object) -> list[object]:
    return ["device", "show", home / "phone", "--json", *args]


def test_create_and_open_with_a_passphrase_file(tacit: Call, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(SECRET.encode() + b"\r\n")
    made = tacit(["device", "create", tmp_path / "phone", "--passphrase-file", tmp_path / "secret"])
    assert made.code == 0
    assert "Nobody can open it without the passphrase.\n" in made.out
    assert SECRET not in made.both
    opened = tacit(show(tmp_path), env={unlock.VARIABLE: SECRET})
    assert opened.code == 0


def test_only_the_first_line_of_a_passphrase_file_counts(tacit: Call, locked: Path) -> None:
    assert tacit(show(locked, "--passphrase-file", locked / "secret")).code == 0


def test_an_option_counts_more_than_the_environment(tacit: Call, locked: Path) -> None:
    opened = tacit(show(locked, "--passphrase-file", locked / "secret"), env={unlock.VARIABLE: "something else"})
    assert opened.code == 0


def test_a_wrong_passphrase_is_one_line_and_a_status_of_its_own(tacit: Call, one_line: Call, locked: Path) -> None:
    refused = tacit(show(locked), env={unlock.VARIABLE: SECRET + "!"})
    assert refused.code == 10
    assert one_line(refused) == "Error: This passphrase does not open the store: check it and try again."


def test_a_trace_shows_no_passphrase(tacit: Call, locked: Path) -> None:
    refused = tacit(["--debug", *show(locked)], env={unlock.VARIABLE: SECRET + "!"})
    assert refused.code == 10
    assert "Traceback" in refused.err
    assert SECRET not in refused.both


def test_a_key_for_a_device_with_a_passphrase_is_a_wrong_key(
    tacit: Call, one_line: Call, locked: Path, filled: Path
) -> None:
    refused = tacit(show(locked, "--key-file", filled / "key"))
    assert refused.code == 10
    assert "opens with a passphrase" in one_line(refused)


def test_two_files_at_once_are_a_wrong_call(tacit: Call, one_line: Call, locked: Path, filled: Path) -> None:
    refused = tacit(show(locked, "--key-file", filled / "key", "--passphrase-file", locked / "secret"))
    assert refused.code == 2
    assert "give one of the two files" in one_line(refused)


def test_without_anything_the_error_says_the_three_ways(tacit: Call, one_line: Call, locked: Path) -> None:
    refused = tacit(show(locked), "typed\n")
    assert refused.code == 2
    line = one_line(refused)
    assert all(way in line for way in ("--passphrase-file", "--key-file", unlock.VARIABLE, "terminal"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\r\nsecond\n", "is empty"),
        (b"\xff\xfe\n", "not UTF-8"),
        (b"x" * 5000, "1 to 4096 bytes"),
        (None, "Cannot read the passphrase file"),
    ],
)
def test_a_passphrase_file_that_holds_none_is_refused(
    tacit: Call, one_line: Call, locked: Path, tmp_path: Path, content: bytes | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    refused = tacit(show(locked, "--passphrase-file", tmp_path / "secret"))
    assert refused.code == 2
    assert expected in one_line(refused)
    assert "xxx" not in refused.both


def test_a_folder_as_the_passphrase_file_is_refused(tacit: Call, one_line: Call, locked: Path, tmp_path: Path) -> None:
    refused = tacit(show(locked, "--passphrase-file", tmp_path))
    assert refused.code == 2
    assert "Is a directory" in one_line(refused)


@pytest.mark.parametrize(("value", "expected"), [("", "is empty"), ("bad\udcff", "valid Unicode")])
def test_an_unusable_variable_is_refused(tacit: Call, one_line: Call, locked: Path, value: str, expected: str) -> None:
    refused = tacit(show(locked), env={unlock.VARIABLE: value})
    assert refused.code == 2
    assert unlock.VARIABLE in one_line(refused)
    assert expected in one_line(refused)


@pytest.mark.parametrize(
    ("content", "mode", "expected"),
    [
        (bytes(32), 0o644, "chmod 600"),
        (bytes(31), 0o600, "holds 31 bytes"),
        (bytes(33), 0o600, "holds 33 bytes"),
        (None, 0o600, "cannot be read"),
    ],
)
def test_a_key_file_that_is_open_to_others_missing_or_of_the_wrong_size_is_refused(
    tacit: Call, one_line: Call, locked: Path, tmp_path: Path, content: bytes | None, mode: int, expected: str
) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
        (tmp_path / "key").chmod(mode)
    refused = tacit(show(locked, "--key-file", tmp_path / "key"))
    assert refused.code == 18
    assert expected in one_line(refused)
    assert (tmp_path / "key").exists() == (content is not None)


def test_create_refuses_a_key_file_that_is_open_to_others(tacit: Call, one_line: Call, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(bytes(32))
    (tmp_path / "key").chmod(0o644)
    refused = tacit(["device", "create", tmp_path / "phone", "--key-file", tmp_path / "key"])
    assert refused.code == 18
    one_line(refused)
    assert (tmp_path / "key").exists()
    assert not (tmp_path / "phone").exists()


def test_no_command_takes_a_passphrase_as_an_argument() -> None:
    from federation.cli.device import command

    for below in command.commands.values():
        names = {name for param in below.params for name in param.opts}
        assert {name for name in names if "pass" in name} <= {"--passphrase-file", "--add-passphrase-file"}
        assert ("--passphrase-file" in names) == (below.name != "check-ledger")  # Which opens no device.


def test_the_prompt_is_hidden_and_asks_once(locked: Path) -> None:
    """In a process of its own, on a pseudo-terminal: what is typed must not come back."""
    ours, theirs = pty.openpty()
    root = Path(unlock.__file__).resolve().parents[2]
    child = subprocess.Popen(
        [sys.executable, "-m", "tacit", *map(str, show(locked))],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        cwd=root,
        env={name: value for name, value in os.environ.items() if name != unlock.VARIABLE},
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""
    while b"Passphrase: " not in seen:
        seen += os.read(ours, 1000)
    os.write(ours, SECRET.encode() + b"\n")
    out, _ = child.communicate(timeout=60)
    with contextlib.suppress(OSError):  # What a terminal without a writer answers.
        seen += os.read(ours, 10_000)
    os.close(ours)
    assert child.returncode == 0
    assert json.loads(out)["memories"] == 0
    assert seen.decode().count("Passphrase") == 1
    assert SECRET not in seen.decode(errors="replace")


def test_create_asks_twice_and_again_where_the_two_differ(
    tacit: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([SECRET, "a slip", SECRET, SECRET])
    monkeypatch.setattr("click.termui.hidden_prompt_func", lambda _prompt: next(answers))
    made = tacit(["device", "create", tmp_path / "phone"], terminal=True)
    assert made.code == 0
    assert "do not match" in made.err
    assert SECRET not in made.both
    assert tacit(show(tmp_path), env={unlock.VARIABLE: SECRET}).code == 0
