"""Flower's processes on this machine, for an audit: started side by side, ended together, each with its own log."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import engine
import federation
import store
from federation.errors import FederationError
from federation.rounds.config import RunSettings

CONNECTION = "audit"  # What the home of Flower's commands calls the SuperLink.
_BIN = Path(sys.executable).parent
_PATIENCE_S = 10.0  # To end, once asked to.
_PORTS = range(20_000, 32_000)


class Processes:
    """Those that a ``with`` block starts. Each has a session of its own, and what it starts ends with it."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is where they run and log."""
        self._folder = folder
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, program: str, *arguments: str, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start one of the programs installed beside this Python; it logs as ``name``."""
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(_BIN / program), *arguments], env=env, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True,
            )  # fmt: skip
        self._started[name] = process
        return process

    def require_all(self) -> None:
        """Raise `FederationError` where one of them has ended."""
        for name, process in self._started.items():
            if process.poll() is not None:
                raise FederationError(f"Flower's process {name} ended with status {process.returncode}: see its log.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._started.values():
            end(process, signal.SIGTERM)
        give_up = time.monotonic() + _PATIENCE_S
        for process in self._started.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.0, give_up - time.monotonic()))
            end(process, signal.SIGKILL)
            process.wait()


def end(process: "subprocess.Popen[bytes]", how: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process and to all that it started; nothing happens where they have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, how)


def flower_environment(home: Path, link: int) -> dict[str, str]:
    """What Flower's processes see: a home of their own, and nothing of ours on the path but what the bundle holds."""
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "{CONNECTION}"\n\n'
        f'[superlink.{CONNECTION}]\naddress = "127.0.0.1:{link}"\ninsecure = true\n',
        encoding="utf-8",
    )
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return own | {
        "PATH": f"{_BIN}{os.pathsep}{own.get('PATH', '')}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def agent_environment(state: Path) -> dict[str, str]:
    """What a device's agent sees: the packages that run here, and ``state`` as its user's place for secrets."""
    return os.environ | {
        "PYTHONPATH": str(Path(str(federation.__file__)).parent.parent),
        "TACIT_STATE_DIR": str(state),
        "OMP_NUM_THREADS": "1",
    }


def write_app(folder: Path) -> Path:
    """Write a Flower app of the packages that run here into ``folder``, named as one may be; its folder."""
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


def flwr(*arguments: str, env: Mapping[str, str]) -> str | None:
    """What a command of Flower prints; ``None`` where it fails."""
    done = subprocess.run([_BIN / "flwr", *arguments], env=env, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout if done.returncode == 0 else None


def wait(what: Callable[[], bool | str], seconds: float, to: str, *, every_s: float = 0.5) -> str:
    """Return what ``what`` gives as soon as it gives anything. Raises `FederationError` where it does not in time."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if found := what():
            return str(found)
        time.sleep(every_s)
    raise FederationError(f"Flower's processes did not {to} within {seconds:.0f} s.")


def listens(port: int) -> bool:
    """Whether anything listens at ``port`` of this machine."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


def free_port() -> int:
    """A port of this machine that nothing listened at a moment ago.

    Below those that connections get: one of these could be taken again before whom it is for comes to listen.
    """
    while True:
        port = _PORTS[secrets.randbelow(len(_PORTS))]
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", port))
            return port
