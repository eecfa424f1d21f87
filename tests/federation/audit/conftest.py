"""The ground that audits run on in tests, and a way to find one finding."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from engine.encoders.encoder import CachedEncoder
from federation.audit.finding import Finding, Ground


@contextlib.contextmanager
def silent(_: str, __: int) -> Iterator[Callable[[], None]]:
    yield lambda: None


@pytest.fixture(scope="session")
def held(encoder: Any) -> CachedEncoder:
    """The real encoder, which remembers what it encoded."""
    return CachedEncoder(encoder)


@pytest.fixture
def ground(held: CachedEncoder) -> Ground:
    """A quick run."""
    return Ground(encoder=held, rng=np.random.default_rng(0), quick=True, progress=silent)


@pytest.fixture
def one() -> Callable[[Sequence[Finding], str], Finding]:
    """The one finding whose name begins so."""

    def find(found: Sequence[Finding], name: str) -> Finding:
        [finding] = [finding for finding in found if finding.name.startswith(name)]
        return finding

    return find
