"""Rounds over a real SuperLink and real SuperNodes on this machine, their traffic tapped: for the wire's full audit.

Each SuperNode reaches the SuperLink through a `Tap` of its own. A device's agent answers at a socket: a process of its
own, `tacit device agent`, or by the function that this command calls, in this process, where the audit has a device
fail, end its node, or keep no ledger. The app is bundled from the packages that run this audit.
"""

import contextlib
import json
import subprocess
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np

from engine.device.device import Device
from engine.errors import EngineError
from engine.model.checkpoint import Checkpoint
from engine.owner.modes import OPEN
from federation.agent.agent import Agent
from federation.agent.relay import serve
from federation.agent.terms import SUMMARY
from federation.audit.frames import Frames
from federation.audit.heard import messages_of
from federation.audit.processes import (
    CONNECTION,
    Processes,
    agent_environment,
    end,
    flower_environment,
    flwr,
    free_port,
    listens,
    wait,
    write_app,
)
from federation.audit.tap import Tap, contents
from federation.audit.world import Leaving, World
from federation.errors import FederationError
from federation.rounds.config import default
from federation.rounds.noisy_rounds import privacy_of
from federation.rounds.server_app import CHECKPOINT_FILE

_START_S, _RUN_S = 600.0, 900.0  # With much else to do on the machine.
_LOOK_S = 4.0  # Each look costs a second of a core.
Nodes = dict[str, "subprocess.Popen[bytes]"]
Settings = dict[str, bool | int | float | str]


def run_deployed(world: World, folder: Path, *, apart: Collection[str]) -> Frames:
    """Run a round over all devices of ``world`` in its mode; those that are lost have a node without an agent.

    An open round comes with a Newton step, one with noise is of summaries, at the world's ε. The agents of the devices
    ``apart`` are processes of their own, the others answer in this one.
    """
    link = free_port()
    environment, seen, nodes = flower_environment(folder / "home", link), Frames(world=world), Nodes()
    with contextlib.ExitStack() as stack:
        taps = {name: stack.enter_context(Tap(link)) for name in world.names}
        processes = stack.enter_context(Processes(folder))
        processes.start(
            "link", "flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(link),
            "--database", str(folder / "link.db"), "--disable-runtime-dependency-installation", env=environment,
        )  # fmt: skip
        sockets = _sockets(world, folder)
        settings = _settings(world, folder)
        for name, path in sockets.items():
            if name in apart:
                _start_agent(world, name, path, processes)
            elif name not in world.lost:
                stack.enter_context(_agent(_opened(world, name, nodes), path))
        try:
            wait(lambda: listens(link), _START_S, "listen")
            for number, (name, path) in enumerate(sockets.items()):
                nodes[name] = processes.start(
                    f"node-{number}", "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{taps[name].port}",
                    "--host", "127.0.0.1", "--port", str(free_port()), "--node-config", f'agent="{path}"',
                    env=environment | {"FLWR_HOME": str(folder / f"home-{number}")},
                )  # fmt: skip
            wait(lambda: _all_listen(world, sockets), _START_S, "wait for all agents")
            wait(lambda: _all_heard(taps.values(), processes), _START_S, "start")  # Before looking, which costs.
            wait(lambda: _online(environment) >= len(nodes), _START_S, "see all nodes", every_s=_LOOK_S)
            _run(settings, write_app(folder), environment)
            _check_released(Checkpoint.load(folder / "out" / CHECKPOINT_FILE), world.start, settings)
        except (FederationError, EngineError) as error:
            seen.failed = str(error)
        raw = {name: [bytes(one) for one in tap.sent] for name, tap in taps.items()}
        received = [bytes(one) for tap in taps.values() for one in tap.received]
    for one in [*(one for connections in raw.values() for one in connections), *received]:
        # Where a connection frames what it carries, what is inside is looked through too.
        seen.frames += [one, *(content for content in contents(one) if content != one)]
    sent = {name: [content for one in connections for content in contents(one)] for name, connections in raw.items()}
    heard = messages_of(sent, [content for one in received for content in contents(one)])
    seen.messages, seen.devices, seen.odd = heard.messages, heard.devices, heard.problems
    # An agent's own lines are its owner's.
    logs = [path for path in sorted(folder.glob("*.log")) if not path.name.startswith("agent-")]
    seen.log = [f"{path.name}: {path.read_text(encoding='utf-8', errors='replace')}" for path in logs]
    seen.note_ledgers(world.open)
    return seen


def _sockets(world: World, folder: Path) -> dict[str, Path]:
    """Where each device's agent listens, or would."""
    return {
        name: folder / (world.secret("socket") if name in world.lost else f"{number}")
        for number, name in enumerate(world.names)
    }


def _all_listen(world: World, sockets: dict[str, Path]) -> bool:
    return all(path.exists() for name, path in sockets.items() if name not in world.lost)


def _all_heard(taps: Collection[Tap], processes: Processes) -> bool:
    """Whether every node has heard from the link. Raises `FederationError` where a process has ended instead."""
    processes.require_all()
    return all(tap.received for tap in taps)


def _settings(world: World, folder: Path) -> Settings:
    """Of the run, beside the defaults; a roster is signed where it needs one."""
    out = folder / "out"
    out.mkdir()
    settings: Settings = {
        "rounds": 1, "mode": world.mode, "model": str(world.folder / "start.safetensors"), "out": str(out),
    }  # fmt: skip
    if world.mode == OPEN:
        # Those without an agent abstain, so not all answer.
        return settings | {
            "cohort": len(world.names), "min-replies": len(world.healthy), "strategy": "fedavg", "rescorer-steps": 1,
        }  # fmt: skip
    there = [name for name in world.names if name not in world.lost]
    with contextlib.ExitStack() as stack:
        roster = world.sign_roster(stack.enter_context(world.open(name)) for name in there)
    return settings | {
        "cohort": len(there), "strategy": SUMMARY, "rescorer-steps": 0, "roster": str(roster),
        "epsilon": world.epsilon or default("epsilon", world.mode), "public": str(world.folder / "public.npy"),
    }  # fmt: skip


def _start_agent(world: World, name: str, path: Path, processes: Processes) -> None:
    """Start the process that answers for a device."""
    state = world.folder / "state"
    world.settle(name, state)
    processes.start(
        f"agent-{path.name}", "tacit", "device", "agent", str(world.folder / name), "--socket", str(path),
        "--key-file", str(world.key_file(name)), env=agent_environment(state),
    )  # fmt: skip


def _opened(world: World, name: str, nodes: Nodes) -> Device:
    """The device, for an agent in this process; one that leaves takes its node with it, in the middle of its answer."""
    device = world.open(name)
    if isinstance(device, Leaving):
        device.leave = lambda: end(nodes[name])
    return device


def _run(settings: Settings, app: Path, environment: dict[str, str]) -> None:
    """Submit the run and wait for its end. Raises `FederationError` where it does not complete."""
    given = " ".join(f"{name}={json.dumps(value)}" for name, value in settings.items())
    wait(lambda: flwr("run", str(app), CONNECTION, "-c", given, env=environment) is not None, _START_S, "take the run")

    def ended() -> str:
        listed = flwr("list", CONNECTION, "--format", "json", env=environment)
        status = str(json.loads(listed)["runs"][0]["status"]) if listed else ""
        return status if status.startswith("finished") else ""

    status = wait(ended, _RUN_S, "finish the run", every_s=_LOOK_S)
    if status != "finished:completed":
        raise FederationError(f"The run on SuperNodes ended as {status}.")


def _online(environment: dict[str, str]) -> int:
    """How many nodes the SuperLink sees."""
    listed = flwr("supernode", "list", CONNECTION, "--format", "json", env=environment)
    return listed.count('"online"') if listed else 0


def _check_released(model: Checkpoint, start: Checkpoint, settings: Settings) -> None:
    """Raise `FederationError` unless this is what the whole run learned, with what holds for it if it has noise."""
    wanted = int(settings["rounds"]) + int(settings["rescorer-steps"])
    if model.round != wanted or (settings["mode"] != OPEN and privacy_of(model) is None):
        raise FederationError(f"The run left a model of round {model.round} of {wanted}.")
    if np.array_equal(model.flat, start.flat):
        raise FederationError("The run left the model that it began with.")


@contextlib.contextmanager
def _agent(device: Device, path: Path) -> Iterator[None]:
    """Answer for a device at a socket while the block runs."""
    stopped = threading.Event()
    answering: Callable[[], None] = lambda: serve(Agent(device), path, stop=stopped.is_set, told=lambda _: None)  # noqa: E731
    thread = threading.Thread(target=answering)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        device.close()
