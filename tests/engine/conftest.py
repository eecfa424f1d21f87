"""A small catalogue, a key, a device with the toy encoder, and a way to run Python elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.device.device import Device
from engine.model.catalogue import Catalogue, Label
from store import DeviceKey


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue(
        labels=(
            Label(name="taxi", description="rides in the city", domain="travel"),
            Label(name="night_bus", description="rides at night", domain="travel"),
            Label(name="pizza", description="dinner to the door", domain="food"),
            Label(name="opera", description="seats and tickets", domain="events"),
        ),
        title="four services",
    )


@pytest.fixture
def key() -> DeviceKey:
    return DeviceKey(bytes(range(32)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "phone"


@pytest.fixture
def device(folder: Path, key: DeviceKey, catalogue: Catalogue, toy: Any) -> Iterator[Device]:
    """An empty open device with the toy encoder and four labels."""
    with Device.create(folder, key, catalogue=catalogue, encoder=toy) as opened:
        yield opened


@pytest.fixture
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python code in a new process whose import path begins with ``first`` and then the project."""
    root = Path(engine.__file__).resolve().parents[1]

    def run(code: str, *, first: Path | None = None) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(str(folder) for folder in (first, root) if folder is not None)
        return subprocess.run(
            [sys.executable, "-P", "-c", code],  # -P: not the folder that the tests run in.
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
            check=False,
            env={**os.environ, "PYTHONPATH": path},
        )

    return run
