"""The fits of the scope score and of a temperature: each finds what made-up rows were made with."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.scope import Rows, fit, held_out_split, tried
from benchmarks.temperature import Case, inverse_temperature
from engine.personal.rescorer import Evidence, LabelledMemory, log_softmax
from engine.personal.scope import SIGNS


def made_up(seed: int, shift: float, rows: int = 4000) -> Rows:
    """In scope with the odds that 2·energy + 1·near give, the other sign being noise; all signs shifted."""
    rng = np.random.default_rng(seed)
    signs = rng.normal(size=(rows, len(SIGNS)))
    known = rng.random(rows) < 1 / (1 + np.exp(-signs @ np.array([2.0, 0.0, 1.0])))
    return Rows(signs=signs + shift, known=known, own=signs[known][:50] + shift)


def test_fit_finds_the_weights_whatever_the_level_of_each_population() -> None:
    weights = fit([[made_up(0, 0.0)], [made_up(1, 30.0)], [made_up(2, -7.0)]], (0, 1, 2))
    np.testing.assert_allclose(weights, [2.0, 0.0, 1.0], atol=0.12)
    shown = tried(weights, (0, 1, 2), [made_up(3, 0.0)])
    assert float(shown.split()[0]) > 0.85


def test_what_is_held_out_is_in_no_train_row() -> None:
    split, outside = held_out_split(3, 100)
    learned = {row.label for _, train, test in split for row in [*train, *test]}
    asked = {row.label for rows in outside.values() for row in rows}
    assert asked
    assert not asked & learned


@pytest.mark.parametrize("by", [0.5, 1.0, 2.0])
def test_the_temperature_is_the_one_that_labels_were_drawn_with(by: float) -> None:
    rng = np.random.default_rng(0)
    logs = log_softmax(rng.normal(0, 2, (4000, 5)))
    y = (by * logs + rng.gumbel(size=logs.shape)).argmax(axis=1)  # Drawn from softmax(by · logs).
    x = np.zeros((len(y), 2), dtype=np.float32)
    memory = LabelledMemory(x=x, y=y, global_log=logs, public=5)
    evidence = Evidence(rows=np.arange(len(y)), global_log=logs)
    case = Case(memory=memory, evidence=evidence, logits=np.zeros((0, 5)), x=x[:0], truth=y[:0])
    assert inverse_temperature([case]) == pytest.approx(by, rel=0.08)
    assert inverse_temperature([case.sharpened(by)]) == pytest.approx(1, rel=0.08)
