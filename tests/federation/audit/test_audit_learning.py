"""Without noise an attack on gradients finds labels and who took part; of one text alone it always finds the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from federation.audit import inversion, membership
from federation.audit.finding import Finding, Ground
from federation.privacy import mechanism

Find = Callable[[Sequence[Finding], str], Finding]
share = mechanism.share


def without_noise(noise: str, count: int, variance: float, stream: Any) -> np.ndarray:
    return np.zeros(count, dtype=np.int64)


def a_third_of_the_noise(noise: str, count: int, variance: float, stream: Any) -> np.ndarray:
    return share(noise, count, variance / 9, stream)


@pytest.mark.parametrize("others", [0, 3, 19])
def test_a_text_whose_label_nobody_else_has_is_recovered_from_a_sum_without_noise(others: int) -> None:
    """By a model of zeros the row of label c is Σ over its texts, less 1/C of all texts."""
    rng, classes = np.random.default_rng(0), 40
    x = rng.standard_normal((1 + others, 32))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    errors = np.eye(classes)[np.arange(1 + others)] - 1 / classes
    seen = np.concatenate([errors.T @ x, errors.sum(axis=0)[:, None]], axis=1)
    assert (inversion.recovered_rows(seen) @ x[0]).max() > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("defect", [without_noise, a_third_of_the_noise])
def test_too_little_noise_gives_labels_away(
    monkeypatch: pytest.MonkeyPatch, ground: Ground, one: Find, defect: Any
) -> None:
    monkeypatch.setattr(mechanism, "share", defect)
    found = inversion.audit(ground)
    [rate] = [its for its in found if its.name == "label rate, private sums"]
    assert rate.verdict == "breach"
    if defect is without_noise:
        assert one(found, "texts recovered, private sums").verdict == "breach"


@pytest.mark.slow
def test_without_noise_members_are_found(monkeypatch: pytest.MonkeyPatch, ground: Ground, one: Find) -> None:
    monkeypatch.setattr(mechanism, "share", without_noise)
    found = membership.audit(ground)
    assert {finding.verdict for finding in found} == {"breach"}
    assert one(found, "true positives, canaries").figure > 0.9
