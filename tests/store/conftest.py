"""A store, its key, and data for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import store
from store import DeviceKey, EncryptedStore, Record

DIMENSION = 8
sys.path.append(str(Path(__file__).parent))  # For the modules beside this one that tests share, such as `outside`.


@pytest.fixture(autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of device secrets and witnesses: this test's own, and that of the processes that it starts."""
    path = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("TACIT_STATE_DIR", str(path))
    return path


@pytest.fixture
def key() -> DeviceKey:
    return DeviceKey(bytes(range(32)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def memory(folder: Path, key: DeviceKey) -> Iterator[EncryptedStore]:
    """An empty open store for vectors of 8 floats."""
    with EncryptedStore.create(folder, key, dimension=DIMENSION) as opened:
        yield opened


@pytest.fixture
def records() -> Callable[[int], list[Record]]:
    return lambda count: [
        Record(text=f"memory number {i}", label=f"label {i % 3}", time=1_700_000_000.0 + i) for i in range(count)
    ]


@pytest.fixture
def vectors() -> Callable[[int], np.ndarray]:
    """(n, 8) float32 with whole numbers, so that inner products are exact and equal ones abound."""
    rng = np.random.default_rng(7)
    return lambda count: rng.integers(-3, 4, size=(count, DIMENSION)).astype(np.float32)


@pytest.fixture
def spawn(folder: Path, key: DeviceKey) -> Callable[..., subprocess.Popen[str]]:
    """Start Python code in another process; it finds ``folder``, ``key`` and the usual names defined."""
    prelude = f"""
import os, sys, time
import numpy as np
from store import *
folder, key = {str(folder)!r}, DeviceKey(bytes.fromhex({key._key.hex()!r}))
"""
    root = str(Path(store.__file__).resolve().parents[1])

    def start(code: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", prelude + code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": root},
        )

    return start
