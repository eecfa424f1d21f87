"""A copy of the store after any write, and what a power loss leaves, opens with every acknowledged change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import faultlib
import pytest
import workload

from store import EncryptedStore, ForgottenEpoch, StoreError

HERE = Path(__file__).parent

root = faultlib.root  # A fixture.
Script = list["workload.Step"]
State: TypeAlias = "workload.State"


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return faultlib.build_shim(tmp_path_factory.mktemp("shim"))


class Recording:
    """A script run under the shim: its trace, and what lay there when it started."""

    def __init__(self, shim: Path, root: Path, script: Script, started: State | None = None) -> None:
        self._root, self._started = root, started or workload.State()
        workload.place(root)
        self.start = faultlib.read_tree(root)
        trace = root.parent / "trace"
        trace.unlink(missing_ok=True)
        _run(root, script, faultlib.shim_environment(shim, root, trace))
        self.operations = faultlib.read_trace(trace, root)
        *_, (_, disk, told) = self.replay()
        disk.require_same(root)
        assert told.under_way is None

    def replay(self) -> Iterator[tuple[int, faultlib.Disk, workload.Progress]]:
        """The disk after each operation, and what was acknowledged by then; first before all of them."""
        disk, log = faultlib.Disk(self.start), b""
        told = workload.progress(log, self._started)
        yield 0, disk, told
        for number, operation in enumerate(self.operations, 1):
            disk.play(operation)
            if disk.read("ack") != log:
                log = disk.read("ack")
                told = workload.progress(log, self._started)
            yield number, disk, told

    def check(self, content: faultlib.Content, told: workload.Progress, where: str) -> None:
        """Put ``content`` where the store was and fail unless it opens and goes on as ``told``."""
        faultlib.write_tree(self._root, content)
        try:
            workload.check(self._root, told, "more")
        except (AssertionError, StoreError) as error:
            raise AssertionError(f"{where}, {told.under_way}: {type(error).__name__}: {error}") from error

    def points(self, limit: int | None) -> set[int]:
        """The numbers of all operations, or of about ``limit``: those that acknowledged something, and of the others
        as many inside forgets as outside, evenly spread.
        """
        inside: list[int] = []
        outside: list[int] = []
        acknowledged = {len(self.operations)}
        before = self._started
        for number, _, told in self.replay():
            (inside if told.forgetting else outside).append(number)
            if told.state != before:
                acknowledged.add(number)
                before = told.state
        if limit is None:
            return {*inside, *outside}
        return acknowledged.union(*(part[:: max(1, 2 * len(part) // limit)] for part in (inside, outside)))


def _run(root: Path, script: Script, environment: dict[str, str]) -> None:
    command = [sys.executable, str(HERE / "victims.py"), "run", str(root), json.dumps(script)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def check_crashes(recording: Recording, limit: int | None = None) -> None:
    """Check what a crash leaves after all, or about ``limit``, of the operations."""
    points = recording.points(limit)
    for number, disk, told in recording.replay():
        if number in points:
            recording.check(disk.crash(), told, f"after operation {number}")


def check_power_losses(recording: Recording, limit: int | None = None, variants: int = 1) -> None:
    """Check what a power loss leaves after all, or about ``limit``, of the operations."""
    points, seen = recording.points(limit), set()
    for number, disk, told in recording.replay():
        if number not in points:
            continue
        for name, content in disk.power_losses(seed=number, variants=variants):
            mark = faultlib.digest(content, without="ack"), str(told)
            if mark not in seen:
                seen.add(mark)
                recording.check(content, told, f"{name}, after operation {number}")


def check_recoveries(shim: Path, root: Path, points: int, limit: int | None = None) -> None:
    """Crash at about ``points`` places while a store forgets; then crash while the copy recovers."""
    recording = Recording(shim, root, workload.SHORT)
    inside = [
        ({path: entry for path, entry in disk.crash().items() if path != "ack"}, told)
        for _, disk, told in recording.replay()
        if told.forgetting
    ]
    for content, told in inside[len(inside) // 2 % points :: max(1, len(inside) // points)]:
        faultlib.write_tree(root, content)
        started = workload.check(root, told)
        faultlib.write_tree(root, content)
        script = [workload.step("open"), workload.step("add", "z"), workload.step("close")]
        again = Recording(shim, root, script, started)
        check_crashes(again, limit)
        check_power_losses(again, limit and limit // 2)


def test_a_copy_taken_after_any_write_holds_every_acknowledged_change(shim: Path, root: Path) -> None:
    check_crashes(Recording(shim, root, workload.SHORT), limit=100)


def test_a_power_loss_takes_no_acknowledged_change(shim: Path, root: Path) -> None:
    check_power_losses(Recording(shim, root, workload.SHORT), limit=20)


def test_a_crash_while_a_store_recovers_from_a_crash_loses_nothing(shim: Path, root: Path) -> None:
    check_recoveries(shim, root, points=2, limit=24)


@pytest.mark.slow
def test_every_copy_of_a_long_session_holds_every_acknowledged_change(shim: Path, root: Path) -> None:
    check_crashes(Recording(shim, root, workload.FULL))


@pytest.mark.slow
def test_no_power_loss_takes_an_acknowledged_change(shim: Path, root: Path) -> None:
    check_power_losses(Recording(shim, root, workload.SHORT), variants=3)


@pytest.mark.slow
def test_no_power_loss_in_a_long_session_takes_an_acknowledged_change(shim: Path, root: Path) -> None:
    check_power_losses(Recording(shim, root, workload.FULL), limit=300)


@pytest.mark.slow
def test_a_crash_at_any_place_of_a_recovery_loses_nothing(shim: Path, root: Path) -> None:
    check_recoveries(shim, root, points=10, limit=80)


@pytest.mark.slow
def test_no_crash_or_power_loss_while_records_are_folded_loses_anything(shim: Path, root: Path) -> None:
    _run(root, workload.FILLED, dict(os.environ))
    started = workload.progress((root / "ack").read_bytes()).state
    (root / "ack").unlink()
    recording = Recording(shim, root, workload.FOLD, started)
    check_crashes(recording, limit=40)
    check_power_losses(recording, limit=8)


def test_no_copy_from_before_a_forget_opens_with_the_secret_of_after(shim: Path, root: Path) -> None:
    recording = Recording(shim, root, workload.SHORT)
    states = [(disk.crash(), told) for _, disk, told in recording.replay()]
    end = [number for number, (_, told) in enumerate(states) if told.forgetting][-1]
    before = [content for content, told in states[:end] if told.under_way != states[end][1].under_way]
    copies = [content for content in before if "home/store/memory.tacit" in content]
    secrets = {path: entry for path, entry in states[end + 1][0].items() if path.endswith(".secret")}
    assert secrets
    for content in copies[:: max(1, len(copies) // 15)]:
        # The thief has an older witness too, and today's device secret.
        faultlib.write_tree(root, {**content, **secrets})
        with pytest.raises(ForgottenEpoch):
            EncryptedStore.open(workload.place(root), workload.KEY)


@pytest.mark.parametrize("folders_only", [False, True])
def test_the_harness_notices_a_store_that_does_not_sync(shim: Path, root: Path, folders_only: bool) -> None:
    recording = Recording(shim, root, workload.SHORT)
    open_files: dict[int, bool] = {}
    kept = []
    for operation in recording.operations:
        if operation.kind == "open":
            open_files[operation.fd] = operation.is_folder
        if operation.kind != "sync" or (folders_only and not open_files[operation.fd]):
            kept.append(operation)
    recording.operations = kept
    with pytest.raises(AssertionError, match="the store is gone"):
        check_power_losses(recording, limit=2, variants=0)


def test_the_harness_notices_a_write_that_it_did_not_see(shim: Path, root: Path) -> None:
    recording = Recording(shim, root, workload.SHORT)
    *_, (_, disk, told) = recording.replay()
    assert told.state.records
    path = workload.place(root) / "memory.tacit"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(AssertionError):
        disk.require_same(root)
