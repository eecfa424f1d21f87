"""Seeded defects of the noise and of the clip are breaches; the sound mechanism passes in `test_audit_command`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from federation.audit import canaries
from federation.audit.finding import Finding, Ground
from federation.privacy import mechanism

Find = Callable[[Sequence[Finding], str], Finding]
quantise, share = mechanism.quantise, mechanism.share


def without_noise(noise: str, count: int, variance: float, stream: Any) -> np.ndarray:
    return np.zeros(count, dtype=np.int64)


def a_third_of_the_noise(noise: str, count: int, variance: float, stream: Any) -> np.ndarray:
    return share(noise, count, variance / 9, stream)


def weighted_by_memories(delta: np.ndarray, parameters: Any, stream: Any) -> np.ndarray:
    """Devices with long updates have many memories. The weights average to 1, so the sum is as long as ever."""
    weight = 1.6 if np.linalg.norm(delta) > 2 * parameters.clip_norm else 0.4
    return np.rint(weight * quantise(delta, parameters, stream)).astype(np.int64)


def clipped_by_a_factor(delta: np.ndarray, parameters: Any, stream: Any) -> np.ndarray:
    """As Flower clips: NaN and infinity make the factor 1 or NaN, and all else passes."""
    factor = parameters.clip_norm / np.linalg.norm(delta.astype(np.float64))
    scaled = delta.astype(np.float64) * (factor if factor < 1 else 1.0) * parameters.scale
    with np.errstate(invalid="ignore"):
        return np.rint(scaled).astype(np.int64)


@pytest.mark.parametrize(
    ("name", "defect", "findings"),
    [
        ("share", without_noise, ("lower bound", "estimate", "share of noise missing")),
        ("share", a_third_of_the_noise, ("lower bound", "estimate", "share of noise missing")),
        ("quantise", weighted_by_memories, ("estimate",)),
        ("quantise", clipped_by_a_factor, ("malformed updates",)),
    ],
)
def test_a_defect_of_the_mechanism_is_a_breach(
    monkeypatch: pytest.MonkeyPatch,
    ground: Ground,
    one: Find,
    name: str,
    defect: Callable[..., np.ndarray],
    findings: Sequence[str],
) -> None:
    monkeypatch.setattr(mechanism, name, defect)
    found = canaries.audit(ground)
    for finding in findings:
        assert one(found, finding).verdict == "breach"


def test_drop_outs_whose_noise_is_not_made_up_for_are_a_breach(
    monkeypatch: pytest.MonkeyPatch, ground: Ground, one: Find
) -> None:
    monkeypatch.setattr(mechanism, "top_up", lambda total, *_: total)
    found = canaries.audit(ground)
    assert one(found, "share of noise missing").verdict == "breach"
    assert one(found, "estimate").verdict == "pass"  # Against the server nothing is counted on it.


@pytest.mark.parametrize("size", [1, 2, 16, 128])
def test_the_transform_is_orthogonal_and_its_own_inverse(size: int) -> None:
    rows = np.stack([canaries.hadamard(row) for row in np.eye(size)])
    assert (rows == rows.T).all()
    assert (rows @ rows == size * np.eye(size)).all()
    assert (abs(rows) == 1).all()
