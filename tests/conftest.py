"""What all tests share: no hub, no telemetry, the real encoder loaded once, and a toy one for speed."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

import atexit
import hashlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import keyring
import numpy as np
import pytest

# Device secrets and witnesses of the stores that tests make, and the exported encoder, in this process and in those it
# starts.
if "tacit-tests-" not in os.environ.get("TACIT_STATE_DIR", ""):
    for own in ("TACIT_STATE_DIR", "TACIT_CACHE_DIR"):
        os.environ[own] = tempfile.mkdtemp(prefix="tacit-tests-")
        atexit.register(shutil.rmtree, os.environ[own], ignore_errors=True)

# What tests of several folders share. Not this folder itself, whose `store` would stand for the package.
sys.path.append(str(Path(__file__).parent / "shared"))

from keychains import MemoryKeychain

from engine.encoders.encoder import Encoder, Vectors, load_encoder

# A shell starts what runs in the background with Ctrl-C ignored, and processes hand that on: tests send it to theirs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class HashEncoder:
    """A toy: each word has a random vector that its hash seeds, a text is the unit sum of its words' vectors."""

    def __init__(self, dimension: int = 32, *, seed: int = 0) -> None:
        self.dimension = dimension
        self.seed = seed
        self.name = f"toy-{dimension}-{seed}"
        self.fingerprint = hashlib.sha256(self.name.encode()).hexdigest()[:32]

    def _word(self, word: str) -> np.ndarray:
        digest = hashlib.sha256(f"{self.seed} {word}".encode(errors="replace")).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "little")).standard_normal(self.dimension)

    def encode(self, texts: Sequence[str]) -> Vectors:
        rows = np.zeros((len(texts), self.dimension))
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().replace(":", " ").split() or [""]:
                row += self._word(word)
            row /= np.linalg.norm(row)
        return rows.astype(np.float32)


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """The real default encoder."""
    return load_encoder()


@pytest.fixture(scope="session")
def toy() -> HashEncoder:
    """A toy encoder of 32 floats."""
    return HashEncoder()


@pytest.fixture(scope="session")
def toy_class() -> type[HashEncoder]:
    """For tests that need a toy of another size or seed."""
    return HashEncoder


@pytest.fixture
def keychain() -> Iterator[MemoryKeychain]:
    """A keychain in memory, in place of the operating system's."""
    before = keyring.get_keyring()
    keyring.set_keyring(backend := MemoryKeychain())
    yield backend
    keyring.set_keyring(before)


# Files whose tests take longest: two processes that share the work are done soonest if these are begun first.
LONG = (
    "test_supernodes.py",
    "test_audit_command.py",
    "test_notebooks.py",
    "test_store_machine.py",
    "test_audit_wire.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; all else stays in its order."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
