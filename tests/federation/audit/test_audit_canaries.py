"""What canary clients see of drop-outs' noise, and the transform by which they are told apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest

from federation.audit import canaries
from federation.audit.finding import Finding, Ground
from federation.privacy import excess, mechanism
from federation.privacy.excess import rung_of, rungs
from federation.privacy.parameters import NoiseParameters
from federation.privacy.stream import SecureStream

Find = Callable[[Sequence[Finding], str], Finding]


def test_drop_outs_whose_noise_is_not_made_up_for_are_a_breach(
    monkeypatch: pytest.MonkeyPatch, ground: Ground, one: Find
) -> None:
    monkeypatch.setattr(mechanism, "top_up", lambda total, *_: total)
    found = canaries.audit(ground)
    assert one(found, "share of noise missing").verdict == "breach"
    assert one(found, "estimate").verdict == "pass"  # Against the server nothing is counted on it.


def test_more_noise_given_back_than_stays_accounted_is_a_breach(monkeypatch: pytest.MonkeyPatch) -> None:
    assert canaries.missing_after().verdict == "pass"
    monkeypatch.setattr(canaries, "rung_of", lambda one, honest: min(len(rungs(one)), 1 + rung_of(one, honest)))
    assert canaries.missing_after().verdict == "breach"


def test_pieces_that_are_larger_than_their_rung_says_are_a_breach(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = excess._piece_variance
    monkeypatch.setattr(excess, "_piece_variance", lambda *given: 1.3 * plain(*given))
    monkeypatch.setattr(canaries.mechanism, "noise_with_excess", excess_within_a_share)
    assert canaries.missing_after().verdict == "breach"


def excess_within_a_share(one: NoiseParameters, secret: bytes, stream: SecureStream) -> np.ndarray:
    """Noise of one share's variance in all, whatever its pieces take of it."""
    pieces = sum(excess._piece_variance(one, *pair) for pair in pairwise((one.honest_share, *excess.rungs(one))))
    core = excess.share(one.noise, one.dimension, one.share_variance - pieces, stream)
    return core + excess.excess_of(excess.piece_keys(secret, one), one)


@pytest.mark.parametrize("size", [1, 2, 16, 128])
def test_the_transform_is_orthogonal_and_its_own_inverse(size: int) -> None:
    rows = np.stack([canaries.hadamard(row) for row in np.eye(size)])
    assert (rows == rows.T).all()
    assert (rows @ rows == size * np.eye(size)).all()
    assert (abs(rows) == 1).all()
