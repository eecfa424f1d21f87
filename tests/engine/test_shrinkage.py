"""Shrinkage: κ by cross-validation over devices, held against a reading by loops and against what devices are like."""

import numpy as np
import pytest

from engine.errors import ModelError
from engine.personal.rescorer import KAPPA, PUBLIC_WEIGHTS, Judged, K, local_weights, log_softmax
from engine.personal.shrinkage import FOLDS, KAPPAS, chosen, marks

LABELS = 5


def device(rng: np.random.Generator, *, rows: int, own: float) -> Judged:
    """Evidence of a device whose labels follow its own weights: the public ones, and ``own`` times a random shift."""
    phi = rng.normal(size=(rows, LABELS, K))
    w = PUBLIC_WEIGHTS + own * rng.normal(size=K)
    gumbel = rng.gumbel(size=(rows, LABELS))
    return Judged(phi=phi, y=(phi @ w + gumbel).argmax(axis=1))


def naive_marks(judged: Judged, shared: np.ndarray) -> list[float]:
    def total(kappa: float) -> float:
        found = 0.0
        for row in range(len(judged.y)):
            kept = [other for other in range(len(judged.y)) if other % FOLDS != row % FOLDS]
            w = local_weights(Judged(phi=judged.phi[kept], y=judged.y[kept]), shared, kappa=kappa)
            scores = [float(judged.phi[row, label] @ w) for label in range(LABELS)]
            found += 1 / sum(score >= scores[judged.y[row]] for score in scores)
        return found

    return [total(kappa) - total(KAPPA) for kappa in KAPPAS]


@pytest.mark.parametrize("rows", [0, 1, 2, 4, 5, 23])
def test_marks_are_those_of_the_definition(rows: int) -> None:
    judged = device(np.random.default_rng(rows), rows=rows, own=1.0)
    np.testing.assert_allclose(marks(judged, PUBLIC_WEIGHTS), naive_marks(judged, PUBLIC_WEIGHTS), atol=1e-9)


def test_devices_that_differ_are_held_loosely_and_devices_that_are_alike_tightly() -> None:
    rng = np.random.default_rng(1)
    differ = sum(marks(device(rng, rows=40, own=1.0), PUBLIC_WEIGHTS) for _ in range(60))
    alike = sum(marks(device(rng, rows=40, own=0.0), PUBLIC_WEIGHTS) for _ in range(60))
    assert chosen(np.asarray(differ)) < KAPPA <= chosen(np.asarray(alike))


def test_the_chosen_kappa_predicts_new_rows_better_than_the_default_where_devices_differ() -> None:
    rng = np.random.default_rng(2)
    devices = [device(rng, rows=80, own=1.0) for _ in range(60)]
    seen = [Judged(phi=one.phi[:40], y=one.y[:40]) for one in devices]
    kappa = chosen(np.sum([marks(one, PUBLIC_WEIGHTS) for one in seen], axis=0))

    def likelihood(kappa: float) -> float:
        total = 0.0
        for one, old in zip(devices, seen, strict=True):
            log_p = log_softmax(one.phi[40:] @ local_weights(old, PUBLIC_WEIGHTS, kappa=kappa))
            total += float(log_p[range(40), one.y[40:]].sum())
        return total

    assert likelihood(kappa) > likelihood(KAPPA)


def test_where_no_kappa_gains_the_default_holds() -> None:
    assert chosen(np.zeros(len(KAPPAS))) == KAPPA
    assert chosen(np.full(len(KAPPAS), -1.0)) == KAPPA


@pytest.mark.parametrize("total", [np.zeros(len(KAPPAS) + 1), np.full(len(KAPPAS), np.nan)])
def test_sums_that_are_none_are_refused(total: np.ndarray) -> None:
    with pytest.raises(ModelError, match="marks"):
        chosen(total)
