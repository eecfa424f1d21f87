"""The command as a process: what it imports, Ctrl-C, a full disk, a second process on the store."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from store import EncryptedStore

Call = Callable[..., Any]

HEAVY = """
import sys
from federation.cli import main
try:
    main(sys.argv[1:])
except SystemExit as leave:
    assert not leave.code, leave.code
heavy = {"torch", "numpy", "flwr", "faiss", "cryptography", "rich", "engine.device", "store"} & set(sys.modules)
assert not heavy, heavy
"""

NO_FLWR = """
import sys
sys.modules["flwr"] = None  # Importing it now raises ImportError.
from federation.cli import main
home = sys.argv[1]
key = ["--key-file", home + "/key"]
main(["device", "create", home + "/phone", *key])
main(["device", "remember", home + "/phone", "two salads please", "--label", "Greenbowl healthy meals", *key])
main(["device", "suggest", home + "/phone", "a salad", "-k", "1", *key])
"""

# The limit holds for each file, so it stands for a disk that fills up while the store grows.
FULL = """
import resource, sys
from pathlib import Path
from engine.encoders.encoder import load_encoder
from federation.cli import main
home, name, room = sys.argv[1], sys.argv[2], int(sys.argv[3])
load_encoder().encode(["whatever a library writes when it is first used is written now"])
resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
main(["device", name, home + "/phone", *sys.argv[4:], "--key-file", home + "/key"])
"""

HOLD_THE_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("args", [["--help"], ["device", "--help"], ["device", "remember", "--help"]])
def test_help_imports_nothing_heavy(python: Call, args: list[str]) -> None:
    helped = python(HEAVY, *args)
    assert helped.code == 0, helped.err
    assert helped.out.startswith("Usage: tacit")


def test_help_lists_the_commands_in_the_order_in_which_they_are_met(tacit: Call) -> None:
    helped = tacit(["device", "--help"])
    assert helped.code == 0
    listed = [line.split()[0] for line in helped.out.split("Commands:\n")[1].splitlines() if line[2:3].strip()]
    assert listed == [
        "create",
        "remember",
        "suggest",
        "search",
        "forget",
        "erase",
        "export",
        "import",
        "slots",
        "rotate",
        "verify",
        "show",
        "model",
        "evaluate",
        "reencode",
        "agent",
        "allow-rounds",
        "budget",
        "consent",
        "ledger",
        "check-ledger",
        "publisher",
        "identity",
    ]


def test_device_works_without_flwr(python: Call, tmp_path: Path) -> None:
    done = python(NO_FLWR, tmp_path)
    assert done.code == 0, done.err
    assert "Remembered 1 memory: id 1." in done.out
    assert "Greenbowl healthy meals" in done.out
    assert done.err == ""


def test_an_error_of_a_real_process_is_one_line_and_a_status(spawn: Call, tmp_path: Path) -> None:
    child = spawn(["device", "show", tmp_path / "nothing", "--key-file", tmp_path / "key"])
    out, err = child.communicate(timeout=60)
    assert child.returncode == 15
    assert out == ""
    where = tmp_path / "nothing"
    assert err == f"Error: There is no device at {where}: make one with `tacit device create`, or check the path.\n"


def test_a_store_that_another_process_writes_to_is_busy(
    device: Call, one_line: Call, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The command waits 5 s; the test need not.
    monkeypatch.setitem(EncryptedStore.open.__func__.__kwdefaults__, "busy_timeout_s", 0.2)  # type: ignore[attr-defined]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_LOCK, str(home / "phone" / "memory.tacit")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    for name, args in (("remember", ["a text"]), ("forget", ["1", "--yes"]), ("allow-rounds", ["open"])):
        refused = device(name, *args)
        assert refused.code == 12
        assert "has been writing for" in one_line(refused)
    assert json.loads(device("show", "--json").out)["memories"] == 3  # Reading goes on.
    holder.communicate("", timeout=60)
    assert device("remember", "a text").code == 0


def test_ctrl_c_while_a_file_is_remembered_keeps_none_of_it_and_the_store_whole(
    spawn: Call, device: Call, home: Path
) -> None:
    lines = home / "long.jsonl"
    text = "a long note about nothing much, number "
    lines.write_text("".join(f'{{"text": "{text * 5}{i}"}}\n' for i in range(5000)), encoding="utf-8")
    child = spawn(["device", "remember", home / "phone", "--file", lines, "--key-file", home / "key"])
    assert child.stderr is not None
    assert child.stderr.readline() == "Encoding 5000 texts …\n"
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    # Where the interrupt passed through a C library, Python ends by the signal itself: a shell shows 130 for both.
    assert child.returncode in (130, -signal.SIGINT), err
    assert out == ""
    assert err.lstrip("\n") == "Interrupted. What was acknowledged is kept.\n"
    assert json.loads(device("show", "--json").out)["memories"] == 3
    assert device("remember", "a text").out == "Remembered 1 memory: id 4.\n"


def test_a_full_disk_is_one_line_and_what_was_acknowledged_is_there(
    python: Call, one_line: Call, device: Call, home: Path
) -> None:
    lines = home / "large.jsonl"
    lines.write_text("".join(f'{{"text": "{i} {"x" * 8000}"}}\n' for i in range(60)), encoding="utf-8")
    room = (home / "phone" / "memory.tacit").stat().st_size + 50_000
    full = python(FULL, home, "remember", room, "--file", lines)
    assert full.code == 16
    assert "disk" in one_line(full)
    assert "free some space" in one_line(full)
    assert json.loads(device("show", "--json").out)["memories"] == 3
    assert device("remember", "a text").out == "Remembered 1 memory: id 4.\n"


@pytest.mark.parametrize("room", [20_000, 50_000])
def test_a_disk_too_full_for_a_new_device_leaves_none_and_no_key(
    python: Call, one_line: Call, tacit: Call, tmp_path: Path, room: int
) -> None:
    full = python(FULL, tmp_path, "create", room)
    assert full.code == 16
    one_line(full)
    assert not (tmp_path / "key").exists()
    assert tacit(["device", "create", tmp_path / "phone", "--key-file", tmp_path / "key"]).code == 0
