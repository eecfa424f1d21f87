"""Rounds over a real SuperLink and real SuperNodes on this machine, their traffic tapped: for the wire's full audit.

Each SuperNode reaches the SuperLink through a `Tap` of its own; devices' agents answer at sockets, as `tacit device
agent` does. The app is bundled from the packages that run this audit.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import engine
import federation
import store
from engine.device.device import Device
from federation.agent.agent import Agent
from federation.agent.relay import serve
from federation.audit.tap import Tap
from federation.audit.world import World
from federation.errors import FederationError
from federation.rounds.config import RunSettings

_START_S, _RUN_S, _POLL_S = 60.0, 180.0, 0.5
_BIN = Path(sys.executable).parent


@dataclass(kw_only=True)
class Deployment:
    """What was seen of a run: each connection's bytes by direction, and the processes' log files."""

    sent: list[bytes] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)
    logs: dict[str, bytes] = field(default_factory=dict)
    failed: str = ""


def run_deployed(world: World, folder: Path) -> Deployment:
    """Run an open round and a Newton step over the healthy devices of ``world``, and one node without an agent."""
    link, home = _free_port(), folder / "home"
    environment = _environment(home, link)
    seen = Deployment()
    with contextlib.ExitStack() as stack:
        taps = [stack.enter_context(Tap(link)) for _ in world.names]

        def start(name: str, *arguments: str, env: Mapping[str, str] = environment) -> None:
            stack.enter_context(_process([str(_BIN / arguments[0]), *arguments[1:]], env, folder / f"{name}.log"))

        start(
            "link", "flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(link),
            "--database", str(folder / "link.db"), "--disable-runtime-dependency-installation",
        )  # fmt: skip
        for number, (name, tap) in enumerate(zip(world.names, taps, strict=True)):
            path = folder / (f"{number}" if name in world.healthy else world.secret("socket"))
            if name in world.healthy:
                stack.enter_context(_agent(world.open(name), path))
            start(
                f"node-{number}", "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{tap.port}",
                "--host", "127.0.0.1", "--port", str(_free_port()), "--node-config", f'agent="{path}"',
                env=environment | {"FLWR_HOME": str(folder / f"home-{number}")},
            )  # fmt: skip
        try:
            _run(world, _app(folder), folder, environment)
        except FederationError as error:
            seen.failed = str(error)
        seen.sent = [bytes(one) for tap in taps for one in tap.sent]
        seen.received = [bytes(one) for tap in taps for one in tap.received]
    seen.logs = {log.name: log.read_bytes() for log in sorted(folder.glob("*.log"))}
    return seen


def _run(world: World, app: Path, folder: Path, environment: dict[str, str]) -> None:
    """Submit the run and wait for its end. Raises `FederationError` where it does not complete."""
    out = folder / "out"
    out.mkdir()
    # Those without an agent abstain, so not all answer.
    settings = {
        "rounds": 1, "cohort": len(world.names), "min-replies": len(world.healthy), "strategy": "fedavg",
        "rescorer-steps": 1, "model": str(world.folder / "start.safetensors"), "out": str(out),
    }  # fmt: skip
    given = " ".join(f"{name}={json.dumps(value)}" for name, value in settings.items())
    _wait(lambda: _flwr("run", str(app), "audit", "-c", given, env=environment)[0], _START_S, "take the run")

    def ended() -> str:
        _, listed = _flwr("list", "audit", "--format", "json", env=environment)
        status = str(json.loads(listed)["runs"][0]["status"]) if listed.startswith("{") else ""
        return status if status.startswith("finished") else ""

    status = _wait(ended, _RUN_S, "finish the run")
    if status != "finished:completed":
        raise FederationError(f"The run on SuperNodes ended as {status}.")


def _environment(home: Path, link: int) -> dict[str, str]:
    """Of the processes: nothing of ours on the path but what the bundle holds."""
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "audit"\n\n[superlink.audit]\naddress = "127.0.0.1:{link}"\ninsecure = true\n',
        encoding="utf-8",
    )
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return own | {
        "PATH": f"{_BIN}{os.pathsep}{own.get('PATH', '')}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def _app(folder: Path) -> Path:
    """A Flower app of the packages that run here, in a folder named as one may be."""
    app = folder / "tacit-audit"
    for package in (store, engine, federation):
        source = Path(str(package.__file__)).parent
        shutil.copytree(source, app / source.name, ignore=lambda _, names: [n for n in names if n == "__pycache__"])
    config = "\n".join(f"{name} = {json.dumps(value)}" for name, value in RunSettings().to_config().items())
    (app / "pyproject.toml").write_text(
        f"""[project]
name = "tacit-audit"
version = "0.0.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "tacit"
fab-include = ["store/**/*.py", "engine/**/*.py", "federation/**/*.py"]

[tool.flwr.app.components]
serverapp = "federation.rounds.server_app:app"
clientapp = "federation.rounds.client_app:app"

[tool.flwr.app.config]
{config}
""",
        encoding="utf-8",
    )
    return app


@contextlib.contextmanager
def _process(arguments: list[str], env: Mapping[str, str], log: Path) -> Iterator[None]:
    """Run a process and what it starts, in a session of their own that ends with the block."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            arguments, env=env, cwd=log.parent, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip
        try:
            yield
        finally:
            for number, patience_s in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=patience_s)


@contextlib.contextmanager
def _agent(device: Device, path: Path) -> Iterator[None]:
    """Answer for a device at a socket while the block runs."""
    stopped = threading.Event()
    thread = threading.Thread(
        target=serve, args=(Agent(device), path), kwargs={"stop": stopped.is_set, "told": lambda _: None}
    )
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        device.close()


def _flwr(*arguments: str, env: Mapping[str, str]) -> tuple[bool, str]:
    """Whether a command of Flower succeeds, and what it prints."""
    done = subprocess.run([_BIN / "flwr", *arguments], env=env, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode == 0, done.stdout


def _wait(what: "Callable[[], bool | str]", seconds: float, to: str) -> str:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if found := what():
            return str(found)
        time.sleep(_POLL_S)
    raise FederationError(f"Flower's processes did not {to} within {seconds:.0f} s.")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
