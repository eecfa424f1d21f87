"""A disk that fails gives a StoreError and takes nothing; kill -9 at a random moment takes nothing acknowledged."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import faultlib
import pytest
import workload

HERE = Path(__file__).parent

root = faultlib.root  # A fixture.

# Kind of operation, how it fails, and whether all later ones fail too.
FAULTS = [
    ("write", "full", True),
    ("write", "full", False),
    ("write", "io", False),
    ("write", "half", False),
    ("sync", "io", False),
    ("sync", "full", True),
    ("open", "io", False),
    ("open", "full", True),
    ("read", "io", False),
    ("read", "io", True),
    ("read", "half", False),
    ("name", "io", False),
    ("name", "full", True),
]


def inject(tmp_path: Path, root: Path, script: list[workload.Step], limit: int | None) -> None:
    """Let each kind of fault strike at every place, or at about ``limit``; fail with what went wrong."""
    environment = faultlib.shim_environment(faultlib.build_shim(tmp_path), root)
    arguments = json.dumps({"script": script, "kinds": FAULTS, "limit": limit})
    command = [sys.executable, str(HERE / "victims.py"), "faults", str(root), arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    problems = [problem for line in lines for problem in line["problems"]]
    shown = "\n".join(f"{problem['fault']} {problem['raised']}\n{problem['problem']}" for problem in problems[:5])
    assert not problems, f"{len(problems)} problems, the first:\n{shown}"
    assert [(line["kind"], line["error"], line["sticky"]) for line in lines] == FAULTS
    unnoticed = [line for line in lines if not line["raised"] and line["error"] != "half"]
    assert not unnoticed, "a kind of fault that no step noticed was not injected"


def test_a_failing_disk_raises_store_errors_and_takes_nothing(tmp_path: Path, root: Path) -> None:
    inject(tmp_path, root, workload.SHORT, limit=4)


@pytest.mark.slow
def test_a_disk_failing_at_every_place_raises_store_errors_and_takes_nothing(tmp_path: Path, root: Path) -> None:
    inject(tmp_path, root, workload.SHORT, limit=None)


@pytest.mark.slow
def test_a_disk_failing_in_a_long_session_raises_store_errors_and_takes_nothing(tmp_path: Path, root: Path) -> None:
    inject(tmp_path, root, workload.FULL, limit=20)


def kill(root: Path, runs: int) -> None:
    """Kill a process at a random moment ``runs`` times, each time with a check; a new store every 25 times."""
    rng, state = random.Random(11), workload.State()
    command = [sys.executable, str(HERE / "victims.py"), "serve", str(root), ""]
    # The victims are forked from one process: starting Python a thousand times would take most of the time.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        for number in range(runs):
            if number % 25 == 0:
                faultlib.write_tree(root, {})
                state = workload.State()
            (root / "ack").write_bytes(b"")
            server.stdin.write(
                f"{number} {rng.randrange(2, 30) * (rng.random() < 0.75):d} {rng.uniform(0, 0.02):.4f}\n"
            )
            server.stdin.flush()
            ended = server.stdout.readline()
            # The log is a file that is read after the end, so it is read to its last line.
            told = workload.progress((root / "ack").read_bytes(), state)
            assert ended == "-9\n"
            state = workload.check(root, told, f"m{number}")


def test_kill_9_at_a_random_moment_takes_no_acknowledged_change(root: Path) -> None:
    kill(root, runs=20)


@pytest.mark.slow
def test_kill_9_a_thousand_times_takes_no_acknowledged_change(root: Path) -> None:
    kill(root, runs=1000)
