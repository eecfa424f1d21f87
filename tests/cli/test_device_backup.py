"""Transcripts of `tacit device export` and `import`: all memories out and in again."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.device.device import Device
from engine.encoders.encoder import Encoder
from store import DeviceKey, RecoveryKey

Call = Callable[..., Any]
TERMS = ("text", "label", "time", "scope", "purpose", "source")
DEAR = "the spare key lies under the blue pot"


def as_json(outcome: Any) -> Any:
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def listed(call: Call) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = as_json(call("show", "--memories", "--json"))["listed"]
    return found


def ids(call: Call) -> list[int]:
    return [memory["id"] for memory in listed(call)]


def said(call: Call) -> list[tuple[object, ...]]:
    return [tuple(memory[term] for term in TERMS) for memory in listed(call)]


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty device, its key and its state; copied, never changed."""
    home = tmp_path_factory.mktemp("blank")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TACIT_STATE_DIR", str(home / "state"))
        key = DeviceKey.generate()
        key.write(home / "tablet key")
        Device.create(home / "tablet", key).close()
    return home


@pytest.fixture
def tablet(blank: Path, home: Path, tacit: Call) -> Call:
    """Call a device command on a second device, which is empty and has a key of its own."""
    shutil.copytree(blank, home, dirs_exist_ok=True)

    def call(name: str, *args: object, **given: Any) -> Any:
        return tacit(["device", name, home / "tablet", *args, "--key-file", home / "tablet key"], **given)

    return call


@pytest.fixture
def archive(device: Call, home: Path) -> tuple[Path, Path]:
    """A sealed archive of the filled device, and the file with its recovery key."""
    assert device("export", home / "all.archive", "--recovery-file", home / "paper").code == 0
    return home / "all.archive", home / "paper"


# export and import


def test_export_says_what_it_wrote_and_shows_its_key_once(device: Call, tablet: Call, home: Path) -> None:
    made = device("export", home / "all.archive")
    lines = made.out.splitlines()
    assert (made.code, made.err) == (0, "")
    assert lines[0] == f"Exported 3 memories to {home / 'all.archive'}, sealed."
    assert lines[2] == "Forgetting does not reach this file."
    (home / "paper").write_text(lines[1].removeprefix("Its recovery key, shown this once: "), encoding="ascii")
    assert stat.S_IMODE((home / "all.archive").stat().st_mode) == 0o600
    assert DEAR.encode() not in (home / "all.archive").read_bytes()
    taken = tablet("import", home / "all.archive", "--recovery-file", home / "paper")
    assert (taken.code, taken.out, taken.err) == (0, "Imported 3 memories.\n", "")
    assert said(tablet) == said(device)


def test_export_makes_the_file_of_its_key_and_does_not_print_it(device: Call, home: Path) -> None:
    first = device("export", home / "one", "--recovery-file", home / "paper", "--json")
    text = (home / "paper").read_text("ascii").strip()
    RecoveryKey.from_text(text)
    assert stat.S_IMODE((home / "paper").stat().st_mode) == 0o600
    assert text not in first.both
    assert as_json(first) == {"exported": 3, "file": str(home / "one"), "sealed": True, "recovery_key": None}
    # A key that is there is used again.
    assert device("export", home / "two", "--recovery-file", home / "paper").code == 0
    assert (home / "paper").read_text("ascii").strip() == text
    assert (home / "one").read_bytes()[:44] != (home / "two").read_bytes()[:44]
    shown = as_json(device("export", home / "three", "--json"))["recovery_key"]
    assert RecoveryKey.from_text(shown).text() == shown != text


def test_an_archive_keeps_texts_labels_terms_and_history(
    device: Call, tablet: Call, home: Path, encoder: Encoder
) -> None:
    key = DeviceKey.from_file(home / "key")
    with Device.open(home / "phone", key, encoder=encoder) as phone:
        phone.remember("the spare key is with Tom", label="Tom 🐎", time=5.0, purpose="notes", supersedes=3)
        history = [found.text for found in phone.history(4)]
    exported = as_json(device("export", home / "all", "--recovery-file", home / "paper", "--json"))
    assert exported["exported"] == 4
    assert as_json(tablet("import", home / "all", "--recovery-file", home / "paper", "--json")) == {
        "imported": 4,
        "ids": [1, 2, 3, 4],
    }
    assert said(tablet) == said(device)
    assert said(tablet)[-1] == ("the spare key is with Tom", "Tom 🐎", 5.0, "default", "notes", "user")
    with Device.open(home / "tablet", DeviceKey.from_file(home / "tablet key"), encoder=encoder) as other:
        assert [found.text for found in other.history(4)] == history == ["the spare key is with Tom", DEAR]
    assert tablet("verify").code == 0


def test_import_adds_to_what_is_there(device: Call, archive: tuple[Path, Path]) -> None:
    before = listed(device)
    taken = as_json(device("import", archive[0], "--recovery-file", archive[1], "--json"))
    assert taken == {"imported": 3, "ids": [4, 5, 6]}
    assert listed(device)[:3] == before
    assert said(device)[3:] == said(device)[:3]


def test_a_recovery_key_can_be_typed_where_somebody_can_be_asked(
    tablet: Call, one_line: Call, archive: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = archive[1].read_text("ascii").strip().lower()
    monkeypatch.setattr("click.termui.hidden_prompt_func", lambda _prompt: text)
    taken = tablet("import", archive[0], terminal=True)
    assert (taken.code, taken.out) == (0, "Imported 3 memories.\n")
    assert text not in taken.both
    unasked = tablet("import", archive[0])
    assert unasked.code == 2
    assert "--recovery-file" in one_line(unasked)


def test_an_export_from_before_a_forget_still_holds_the_memory(device: Call, archive: tuple[Path, Path]) -> None:
    assert device("forget", "3", "--yes").code == 0
    assert DEAR not in str(listed(device))
    assert device("import", archive[0], "--recovery-file", archive[1]).code == 0
    assert DEAR in str(listed(device))


def test_a_plain_export_is_json_lines_behind_its_own_option(device: Call, tablet: Call, home: Path) -> None:
    made = device("export", home / "all.jsonl", "--plain-text")
    assert made.out == (
        f"Exported 3 memories to {home / 'all.jsonl'} in the clear.\nForgetting does not reach this file.\n"
    )
    header, *rows = [json.loads(line) for line in (home / "all.jsonl").read_text("utf-8").splitlines()]
    assert header == {"kind": "tacit memories", "version": 1}
    assert [row["text"] for row in rows] == [text for text, *_ in said(device)]
    assert as_json(tablet("import", home / "all.jsonl", "--plain-text", "--json")) == {"imported": 3, "ids": [1, 2, 3]}
    assert said(tablet) == said(device)
    told = as_json(device("export", home / "again.jsonl", "--plain-text", "--json"))
    assert (told["sealed"], told["recovery_key"]) == (False, None)


# What export and import refuse


def test_export_never_replaces_a_file_and_leaves_no_key(device: Call, one_line: Call, home: Path) -> None:
    (home / "mine").write_bytes(b"mine")
    for file, more in (
        (home / "mine", []),
        (home / "mine", ["--plain-text"]),
        (home / "mine", ["--recovery-file", home / "paper"]),
        (home / "no folder" / "x", ["--recovery-file", home / "paper"]),
        (home / "paper", ["--recovery-file", home / "paper"]),
    ):
        refused = device("export", file, *more)
        assert refused.code == 35
        one_line(refused)
    assert (home / "mine").read_bytes() == b"mine"
    assert sorted(each.name for each in home.iterdir()) == ["key", "lines.jsonl", "mine", "phone", "state"]


def test_export_with_a_key_file_that_is_none_writes_nothing(
    device: Call, one_line: Call, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "paper").write_text("T0000-slip\n", encoding="ascii")
    for file in (home / "paper", home / "no folder" / "paper"):
        refused = device("export", home / "all", "--recovery-file", file)
        assert refused.code == 2
        assert "slip" not in one_line(refused)
    assert (home / "paper").read_text("ascii") == "T0000-slip\n"

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused = device("export", home / "all", "--recovery-file", home / "fresh paper")
    assert refused.code == 2
    assert "No space left on device" in one_line(refused)
    assert not {"all", "fresh paper"} & {each.name for each in home.iterdir()}


def test_import_with_a_wrong_recovery_key_takes_nothing(
    tablet: Call, one_line: Call, home: Path, archive: tuple[Path, Path]
) -> None:
    (home / "wrong").write_text(RecoveryKey.generate().text(), encoding="ascii")
    refused = tablet("import", archive[0], "--recovery-file", home / "wrong")
    assert refused.code == 10
    assert "This recovery key does not open" in one_line(refused)
    assert ids(tablet) == []


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (lambda data: data[:-1], 11),
        (lambda data: data[:200], 11),
        (lambda data: data[:30_000] + b"\0" + data[30_001:], 11),
        (lambda data: data + b"\0", 11),
        (lambda data: b"", 11),
        (lambda data: b"something else altogether, and long enough to hold a head" * 9, 13),
    ],
)
def test_import_of_a_malformed_archive_takes_nothing(
    tablet: Call, one_line: Call, archive: tuple[Path, Path], harm: Callable[[bytes], bytes], code: int
) -> None:
    archive[0].write_bytes(harm(archive[0].read_bytes()))
    refused = tablet("import", archive[0], "--recovery-file", archive[1])
    assert refused.code == code
    one_line(refused)
    assert ids(tablet) == []


HEADER = b'{"kind":"tacit memories","version":1}\n'
GOOD = b'{"id":1,"text":"fine","time":1}\n'


@pytest.mark.parametrize(
    ("content", "code", "expected"),
    [
        (HEADER + GOOD + b'{"id":2,"text":"SECRET\n' + GOOD, 35, "Line 3 of"),
        (HEADER + GOOD + b"[2]\n", 35, "Line 3 of"),
        (HEADER + GOOD + b'{"id":2,"text":"\xff","time":1}\n', 35, "Line 3 of"),
        (HEADER + GOOD + b'{"id":2,"text":"SECRET","time":NaN}\n', 35, "Line 3 of"),
        (b"{not json\n", 35, "Line 1 of"),
        (b"\n\n", 35, "is empty"),
        (HEADER + GOOD + b'{"id":2,"text":"SECRET"}\n', 25, "Memory 2 of the archive"),
        (HEADER + GOOD + b'{"id":2,"text":"","time":1}\n', 25, "Memory 2 of the archive"),
        (HEADER + GOOD + GOOD, 25, "same id"),
        (GOOD, 25, "newer Tacit"),
    ],
)
def test_import_of_malformed_lines_names_the_line_and_takes_nothing(
    tablet: Call, one_line: Call, home: Path, content: bytes, code: int, expected: str
) -> None:
    (home / "all.jsonl").write_bytes(content)
    refused = tablet("import", home / "all.jsonl", "--plain-text")
    assert refused.code == code
    assert expected in one_line(refused)
    assert "SECRET" not in refused.both
    assert ids(tablet) == []


def test_a_sealed_archive_is_not_read_as_plain_and_a_missing_one_is_named(
    device: Call, one_line: Call, home: Path, archive: tuple[Path, Path]
) -> None:
    for args in ([archive[0], "--plain-text"], [home / "none", "--recovery-file", archive[1]]):
        refused = device("import", *args)
        assert refused.code == 35
        one_line(refused)


@pytest.mark.parametrize("name", ["export", "import"])
def test_export_and_import_called_wrongly_are_status_2(
    device: Call, one_line: Call, home: Path, archive: tuple[Path, Path], name: str
) -> None:
    file = home / "new" if name == "export" else archive[0]
    for args in ([], [file, "--plain-text", "--recovery-file", archive[1]], [file, "--no-such-option"]):
        wrong = device(name, *args)
        assert wrong.code == 2
        one_line(wrong)
    assert not (home / "new").exists()
    assert ids(device) == [1, 2, 3]


# What holds for each command


@pytest.mark.parametrize("name", ["export", "import"])
def test_each_command_says_first_that_there_is_no_device_or_no_secret(
    device: Call, tacit: Call, one_line: Call, home: Path, name: str
) -> None:
    nowhere = tacit(["device", name, home / "nothing", home / "x", "--key-file", home / "key"])
    assert nowhere.code == 15
    assert "There is no device at" in one_line(nowhere)
    shutil.rmtree(home / "state")
    closed = device(name, home / "x", "--plain-text")
    assert closed.code == 30
    assert "put it back there" in one_line(closed)
    assert sorted(each.name for each in home.iterdir()) == ["key", "lines.jsonl", "phone"]
