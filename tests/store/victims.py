"""The processes that the crash and fault tests watch, break or kill; ``workload`` says what they do.

``python victims.py run|faults|serve ROOT JSON``, with FSSHIM_* set where the process runs under the shim.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import workload
from workload import Driver, Log, Progress, State, Step, step

from store import StoreError

KINDS = {"write": 1, "sync": 2, "open": 3, "read": 4, "name": 5}
ERRORS = {"full": errno.ENOSPC, "io": errno.EIO, "half": 0}


@dataclass(frozen=True)
class Fault:
    """The ``at``-th operation of ``kind`` fails with ``error``, and all after it too if ``sticky``."""

    kind: str
    error: str
    sticky: bool
    at: int


class Shim:
    """The faults of the shim that this process runs under."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.fsshim_fault.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_int, ctypes.c_int]
        self._library.fsshim_fired.restype = self._library.fsshim_seen.restype = ctypes.c_long

    def arm(self, fault: Fault) -> None:
        """Let ``fault`` happen."""
        self._library.fsshim_fault(KINDS[fault.kind], fault.at, ERRORS[fault.error], fault.sticky)

    def lift(self) -> tuple[int, int]:
        """No fault from now on; how many operations failed, and how many of the kind there were."""
        fired, seen = int(self._library.fsshim_fired()), int(self._library.fsshim_seen())
        self._library.fsshim_fault(0, 0, 0, 0)
        return fired, seen


class FaultRun:
    """A script in which one fault strikes. A step that raised is looked at, then repeated without the fault."""

    def __init__(self, shim: Shim, root: Path, fault: Fault) -> None:
        self._shim, self._root, self._fault = shim, root, fault
        root.mkdir()
        os.environ["TACIT_STATE_DIR"] = str(root / "device" / "state")
        self._driver = Driver(root)
        self.state = State()
        self.raised: list[str] = []
        self.fired = self.seen = 0
        self.problem: dict[str, object] | None = None

    def run(self, script: list[Step]) -> None:
        """Raises ``AssertionError``, or what the store raised that is no ``StoreError``."""
        self._shim.arm(self._fault)
        try:
            for task in script:
                try:
                    self._driver.perform(task)
                except StoreError as error:
                    self._lift()
                    self.raised.append(f"{task['do']}: {type(error).__name__}: {error}")
                    assert self.fired, "raised although nothing failed"
                    self._recover(task)
                self.state = self.state.after(task)
        finally:
            self._lift()
        workload.check(self._root, Progress(self.state, None, self._driver.ids), "more")

    def _lift(self) -> None:
        fired, seen = self._shim.lift()
        self.fired, self.seen = self.fired + fired, self.seen + seen

    def _recover(self, task: Step) -> None:
        before, after = self.state, self.state.after(task)
        shown = self._shown()
        assert shown in (before, after, None), f"after the error: {shown}, not {before}"
        if task["do"] in ("add", "add_many", "put", "pair", "discard") and shown is not None:
            assert shown == before, f"{task['do']} raised and yet it is done"
        reopened = workload.check(self._root, Progress(before, task, self._driver.ids))
        if task["do"] == "create" and not reopened.exists:
            self._driver.perform(task)
            return
        if shown is not None and reopened.exists:
            assert reopened == shown, f"shows {reopened} after reopening, {shown} before"
        self._driver.open()
        if task["do"] == "close" or reopened == before != after:
            self._driver.perform(task)

    def _shown(self) -> State | None:
        """What the store that raised shows now; ``None`` if it is closed or refuses. Closes it."""
        memory, self._driver.memory = self._driver.memory, None
        if memory is None:
            return None
        try:
            return workload.observe(memory)
        except StoreError:
            return None
        finally:
            memory.close()


def faults(root: Path, script: list[Step], kinds: list[tuple[str, str, bool]], limit: int | None) -> None:
    """Run ``script`` with each kind of fault at every place, or at about ``limit``; print what went wrong, by kind."""
    shim = Shim()
    for kind, error, sticky in kinds:
        reached = _attempt(shim, root, script, Fault(kind, error, sticky, 10**9)).seen
        spread = range(1, reached + 1, 1 if limit is None else max(1, -(-reached // limit)))
        places = {1, 2, 3, *spread}  # The first of them strike the creation, which has few.
        runs = [_attempt(shim, root, script, Fault(kind, error, sticky, at)) for at in sorted(places)]
        line = {"kind": kind, "error": error, "sticky": sticky, "raised": sum(bool(run.raised) for run in runs)}
        print(json.dumps({**line, "problems": [run.problem for run in runs if run.problem]}), flush=True)


def _attempt(shim: Shim, root: Path, script: list[Step], fault: Fault) -> FaultRun:
    attempt = FaultRun(shim, root / "attempt", fault)
    try:
        attempt.run(script)
    except BaseException as problem:  # noqa: BLE001 - whatever it is, it is what this test looks for.
        trail = "".join(traceback.format_exception(problem))
        attempt.problem = {"fault": asdict(fault), "raised": attempt.raised, "problem": trail}
    shutil.rmtree(root / "attempt")
    return attempt


def endless(root: Path, seed: int) -> None:
    """Random steps on the store below ``root``, which is made if it is missing, until someone kills this."""
    rng, log, driver = random.Random(seed), Log(root / "ack"), Driver(root)

    def perform(task: Step) -> None:
        log.write(start=task)
        log.write(done=task, ids=driver.perform(task))

    perform(step("open" if (driver.folder / "memory.tacit").exists() else "create"))
    for number in range(10**9):
        perform(_random_step(rng, driver.state, f"s{seed}n{number}x"))


def _random_step(rng: random.Random, state: State, fresh: str) -> Step:
    records, named = sorted(state.records), sorted(state.named)
    choices: list[Callable[[], Step]] = [
        lambda: step("add", fresh),
        lambda: step("add_many", *[f"{fresh}{number}" for number in range(rng.randint(1, 6))]),
        lambda: step("put", f"k{rng.randrange(4)}"),
        lambda: step("pair", "k0", "k1"),
        lambda: step("append", fresh),
        lambda: step("charge"),
        lambda: step("rotate"),
        lambda: step("slot_remove" if state.slots else "slot_add"),
    ]
    if records:
        choices += [
            lambda: step("update", rng.choice(records)),
            lambda: step("delete", rng.choice(records)),
            lambda: step("forget", *rng.sample(records, min(len(records), rng.randint(1, 4)))),
            lambda: step("look"),
        ]
    if named:
        choices.append(lambda: step("discard", rng.choice(named)))
    if len(records) > 40:
        return step("delete", *rng.sample(records, 30))
    return rng.choice(choices)()


def serve(root: Path) -> None:
    """For each line ``seed lines seconds``: fork a victim, wait for so many lines in its log and then so long, kill it,
    print how it ended (-9 if by us).
    """
    for command in sys.stdin:
        seed, lines, seconds = command.split()
        child = os.fork()
        if not child:
            _victim(root, int(seed))
        ended = 0
        # On a busy machine time alone would find most victims while they open the store.
        while not ended and (root / "ack").read_bytes().count(b"\n") < int(lines):
            time.sleep(0.001)
            ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            time.sleep(float(seconds))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _victim(root: Path, seed: int) -> None:
    try:
        endless(root, seed)
    except BaseException:  # noqa: BLE001 - this process has nobody above it; the parent reads the log.
        Log(root / "ack").write(error=traceback.format_exc())
    finally:
        os._exit(1)


def main(what: str, root: Path, arguments: str) -> None:
    """The command line."""
    if what == "run":
        workload.run(root, json.loads(arguments))
    elif what == "faults":
        faults(root, **json.loads(arguments))
    else:
        serve(root)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
