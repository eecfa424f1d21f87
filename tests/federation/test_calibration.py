"""Calibration: the error equals a naive one, and no method is better off for being sure of what is wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.device.evaluation import Answers
from federation.evaluation.calibration import BINS, calibration, expected_calibration_error

ANSWERS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def naive_error(answers: list[tuple[float, bool]], bins: int) -> float:
    """Sort, cut into bins of n/bins answers, the first ones one larger where that does not come out even."""
    ordered = sorted(answers, key=lambda one: one[0])
    size, larger = divmod(len(ordered), bins)
    total, start = 0.0, 0
    for place in range(bins):
        part = ordered[start : start + size + (place < larger)]
        start += len(part)
        if part:
            gap = sum(sure for sure, _ in part) / len(part) - sum(hit for _, hit in part) / len(part)
            total += abs(gap) * len(part) / len(ordered)
    return total


@settings(max_examples=60, deadline=None)
@given(answers=ANSWERS, bins=st.integers(1, 20))
def test_error_equals_the_naive_one(answers: list[tuple[float, bool]], bins: int) -> None:
    confidence, hits = zip(*answers, strict=True)
    found = expected_calibration_error(confidence, hits, bins=bins)
    assert found == pytest.approx(naive_error(answers, bins))
    assert 0 <= found <= 1


def test_who_is_as_sure_as_right_has_nearly_no_error_and_who_boasts_has_one() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.2, 1.0, 20_000)
    hits = rng.random(20_000) < sure
    assert expected_calibration_error(sure.tolist(), hits.tolist()) < 0.02
    assert expected_calibration_error((sure**0.2).tolist(), hits.tolist()) > 0.2


def test_no_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="as many hits as confidences"):
        expected_calibration_error([], [])
    with pytest.raises(ValueError, match="as many hits as confidences"):
        expected_calibration_error([0.5], [])


def answers_of(*rows: tuple[int, float, float | None]) -> Answers:
    return Answers(
        ranks=tuple(rank for rank, _, _ in rows),
        accepted_ranks=tuple((rank,) for rank, _, _ in rows),
        confidence=tuple(sure for _, sure, _ in rows),
        log_likelihood=tuple(log for _, _, log in rows),
    )


def test_likelihood_leaves_out_labels_that_are_not_public_and_pools_devices() -> None:
    devices = [answers_of((1, 0.9, math.log(0.9)), (0, 0.4, None)), answers_of((2, 0.6, math.log(0.3)))]
    found = calibration(devices)
    assert found["nll"] == pytest.approx(-(math.log(0.9) + math.log(0.3)) / 2)
    assert found["ece"] == pytest.approx(naive_error([(0.9, True), (0.4, False), (0.6, False)], BINS))
    assert set(calibration([answers_of((0, 0.4, None))])) == {"ece"}
