"""What canary clients see of drop-outs' noise, and the transform by which they are told apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from federation.audit import canaries
from federation.audit.finding import Finding, Ground
from federation.privacy import mechanism

Find = Callable[[Sequence[Finding], str], Finding]


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
