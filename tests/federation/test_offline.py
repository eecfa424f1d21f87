"""After the installation nothing needs a network, and nothing so much as looks up a name."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

# Notes every attempt to leave the machine, also one whose error somebody swallows, and refuses it.
GUARD = """
import os, socket, sys

NOTES = sys.argv.pop(1)
LOCAL = {None, "", b"", "localhost", b"localhost", "127.0.0.1", b"127.0.0.1", "::1", b"::1", "0.0.0.0", "::"}


def note(what):
    with open(NOTES, "a") as file:
        file.write(what + "\\n")
    raise OSError(101, "the network is blocked by a test", what)


def guard_address(connect):
    def guarded(self, address, *rest):
        if isinstance(address, tuple) and address[0] not in LOCAL:
            note(f"connect {address}")
        return connect(self, address, *rest)
    return guarded


def guard_name(look_up):
    def guarded(host=None, *rest, **more):
        if host not in LOCAL:
            note(f"look up {host}")
        return look_up(host, *rest, **more)
    return guarded


class Guarded(socket.socket):
    connect = guard_address(socket.socket.connect)
    connect_ex = guard_address(socket.socket.connect_ex)


def audit(event, arguments):
    # Below Python's own functions: what C code asks the system for through the socket module is seen here too.
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] not in LOCAL:
        note(f"connect {arguments[1]}")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        if arguments[0] not in LOCAL:
            note(f"look up {arguments[0]}")


socket.socket = Guarded
for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getfqdn"):
    setattr(socket, name, guard_name(getattr(socket, name)))
sys.addaudithook(audit)
"""

DEMO = GUARD + "\nfrom tacit import main\nmain(sys.argv[1:])\n"

TRY = (
    GUARD
    + """
for attempt in (
    lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
    lambda: socket.socket().connect(("192.0.2.2", 80)),
    lambda: socket.getaddrinfo("host.invalid", 80),
    lambda: __import__("urllib.request").request.urlopen("http://other.invalid/", timeout=1),
):
    try:
        attempt()
    except OSError:
        pass
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).close()
socket.getaddrinfo("localhost", 80)
"""
)


def run(program: str, code: str, notes: Path, *arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, "-c", code, str(notes), *arguments],
        env=env,
        cwd=notes.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_guard_notes_what_leaves_and_lets_the_loopback_through(
    tmp_path: Path, program: str, clean_env: dict[str, str]
) -> None:
    done = run(program, TRY, tmp_path / "notes", env=clean_env)
    assert done.returncode == 0, done.stderr
    noted = (tmp_path / "notes").read_text(encoding="utf-8").splitlines()
    assert [line.split()[-1 if "look" in line else 1].strip("(',") for line in noted] == [
        "192.0.2.1", "192.0.2.2", "host.invalid", "other.invalid",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "modes", [pytest.param(("private", "open"), marks=pytest.mark.slow), ("open",)], ids=["both modes", "open"]
)
def test_demo_runs_with_the_network_blocked_and_looks_nothing_up(
    tmp_path: Path, program: str, clean_env: dict[str, str], modes: tuple[str, ...]
) -> None:
    # The variables that tests set to be quiet are taken away: the program has to be quiet by itself.
    quiet = ("FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    env = {name: value for name, value in clean_env.items() if name not in quiet}
    out = tmp_path / "report"
    people = ["--devices", "10"] if "private" in modes else ["--devices", "2", "--mode", "open"]
    done = run(program, DEMO, tmp_path / "notes", "demo", *people, "--rounds", "2", "--out", str(out), env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "notes").exists(), (tmp_path / "notes").read_text(encoding="utf-8")
    assert "generated population" in done.stdout
    runs = json.loads((out / "results.json").read_text(encoding="utf-8"))["runs"]
    assert tuple(runs) == modes
    assert [one["round"] for one in runs["open"]["rounds"]] == [0, 1, 2, 3, 4, 5]
    if "private" in modes:
        assert runs["private"]["privacy"]["eps_server"] <= 4
    page = (out / "report.html").read_text(encoding="utf-8")
    # The page asks nobody for anything either.
    for asks in ('src="http', "src='http", 'href="http', "url(http", "@import", "<script src"):
        assert asks not in page
