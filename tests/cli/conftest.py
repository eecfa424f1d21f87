"""A way to call the command in this process, where the encoder is loaded once, and a device to call it on."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

import federation
from federation.cli import main

ROOT = Path(federation.__file__).resolve().parents[1]
LINES = (
    '{"text": "two salads to the office please", "label": "Greenbowl healthy meals"}\n'
    '{"text": "the usual corner table on friday", "label": "Luigi\'s [bold]table[/bold]"}\n'
    '{"text": "the spare key lies under the blue pot", "scope": "home", "time": 1700000000}\n'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def both(self) -> str:
        return self.out + self.err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def environment(env: Mapping[str, str] | None) -> dict[str, str]:
    """The environment of a call: this process's, without a passphrase of the person who runs the tests."""
    inherited = {name: value for name, value in os.environ.items() if name != "TACIT_PASSPHRASE"}
    return {**inherited, "PYTHONPATH": str(ROOT), "COLUMNS": "140", **(env or {})}


def run_tacit(
    args: Sequence[object], input: str | None = None, env: Mapping[str, str] | None = None, *, terminal: bool = False
) -> Outcome:
    """Call the command in this process; ``terminal`` makes standard input look like one."""
    out, err = io.StringIO(), io.StringIO()
    stdin = (Terminal if terminal else io.StringIO)(input or "")
    code = 0
    with (
        mock.patch.dict(os.environ, environment(env), clear=True),
        mock.patch.object(sys, "stdin", stdin),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main([str(arg) for arg in args])
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else 1
    return Outcome(code=code, out=out.getvalue(), err=err.getvalue())


def spawn_tacit(args: Sequence[object], *, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start the command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tacit", *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(env),
    )


def run_python(code: str, *args: object) -> Outcome:
    """Run Python code in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
        env=environment(None),
    )
    return Outcome(code=done.returncode, out=done.stdout, err=done.stderr)


@pytest.fixture(scope="session")
def tacit() -> Callable[..., Outcome]:
    return run_tacit


@pytest.fixture
def spawn() -> Callable[..., subprocess.Popen[str]]:
    return spawn_tacit


@pytest.fixture
def python() -> Callable[..., Outcome]:
    return run_python


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a device of three memories, its key and the lines it remembers; copied, never changed."""
    home = tmp_path_factory.mktemp("filled")
    (home / "lines.jsonl").write_text(LINES, encoding="utf-8")
    state = {"TACIT_STATE_DIR": str(home / "state")}
    made = run_tacit(["device", "create", home / "phone", "--key-file", home / "key"], env=state)
    assert made.code == 0, made.err
    remember = ["device", "remember", home / "phone", "--file", home / "lines.jsonl", "--key-file", home / "key"]
    kept = run_tacit(remember, env=state)
    assert kept.code == 0, kept.err
    return home


@pytest.fixture
def home(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This test's own copy of the filled device's folder, with its device secret and witness."""
    shutil.copytree(filled, tmp_path / "home")
    monkeypatch.setenv("TACIT_STATE_DIR", str(tmp_path / "home" / "state"))
    return tmp_path / "home"


@pytest.fixture
def device(home: Path) -> Callable[..., Outcome]:
    """Call a device command on the filled device with its key."""

    def call(
        name: str, *args: object, input: str | None = None, env: Mapping[str, str] | None = None, terminal: bool = False
    ) -> Outcome:
        given = ["device", name, home / "phone", *args, "--key-file", home / "key"]
        return run_tacit(given, input, env, terminal=terminal)

    return call


@pytest.fixture
def one_line() -> Callable[[Outcome], str]:
    """The one line of an error: asserts that there is nothing else, and no trace."""

    def check(outcome: Outcome) -> str:
        lines = outcome.err.strip("\n").split("\n")
        assert outcome.code != 0, outcome.both
        assert "Traceback" not in outcome.both
        assert outcome.out == ""
        # A wrong call gets click's two lines of usage first.
        if lines[0].startswith("Usage:"):
            lines = lines[3:]
        assert len(lines) == 1, outcome.err
        assert lines[0].startswith("Error: ")
        return lines[0]

    return check
