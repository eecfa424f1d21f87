"""How the drift benchmark counts requests, and what its ways to weigh memories know."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks import drift
from benchmarks.drifting_people import CHANGES, Life, people
from engine.model.catalogue import Catalogue
from engine.model.checkpoint import start_checkpoint
from engine.personal.drift import NEVER
from engine.personal.rescorer import log_softmax
from engine.personal.together import Learned

PIZZA, SUSHI, OPERA = range(3)


def life(y: list[int], kind: list[int], *, change: int) -> Life:
    """Requests of given kinds, all alike in meaning; the first kind's habit changes after ``change`` requests."""
    x = np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (len(y), 1))
    logits = np.where(np.array(kind)[:, None] == 0, [[1.0, 1.0, -9.0]], [[-9.0, -9.0, 1.0]])
    return Life(
        x=x,
        y=np.array(y),
        logits=logits,
        public=3,
        kind=np.array(kind),
        of_changed=np.array(kind) == 0,
        by_habit=np.ones(len(y), dtype=bool),
        change=change,
    )


@pytest.fixture
def dinners() -> Life:
    """Six times pizza, then sushi, with the opera in between."""
    return life([PIZZA, OPERA] * 6 + [SUSHI, OPERA] * 4, [0, 1] * 10, change=12)


def test_requests_stand_in_one_column_each(dinners: Life) -> None:
    columns = drift.parts(dinners)
    assert {name: int(rows.sum()) for name, rows in columns.items() if rows.any()} == {
        "other, before": 6,
        "after": 4,
        "changed, before": 6,
        "1–3": 3,
        "4–6": 1,
    }
    assert (np.sum(list(columns.values()), axis=0) == 1).all()


def test_where_kinds_are_told_memories_of_the_changed_one_alone_lose_their_say(dinners: Life) -> None:
    def weights(asked: int) -> np.ndarray | None:
        recency = drift.Kinds(Learned()).recency(dinners, asked)
        assert recency is not None
        expected = np.exp(log_softmax(dinners.logits[asked : asked + 1]))
        return recency(np.ones((1, asked)), expected, dinners.y[:asked])

    dinner, opera = weights(18), weights(19)
    assert opera is None  # It stays what it was, whatever becomes of dinner.
    assert dinner is not None
    old, new = dinners.y[:18] == PIZZA, dinners.y[:18] == SUSHI
    assert dinner[0, old].max() < 0.5 < dinner[0, new].min()
    assert drift.Kinds(Learned(least_chance=NEVER)).recency(dinners, 18) is None


def test_who_is_told_and_forgets_keeps_all_before_the_change_and_all_of_other_kinds(dinners: Life) -> None:
    way = drift.Forgotten(Learned())
    assert way.rows(dinners, 10).tolist() == list(range(10))
    kept = way.rows(dinners, 16)
    assert kept.tolist() == [1, 3, 5, 7, 9, 11, 12, 13, 14, 15]


def test_people_are_the_same_up_to_their_change_and_their_needs_are_told(toy: Any) -> None:
    model = start_checkpoint(Catalogue.builtin(), toy)
    stays, half = (people(change, 1, rows=40, seed=5, model=model, encoder=toy)[0] for change in list(CHANGES)[::2])
    assert not stays.of_changed.any()
    assert half.of_changed.any()
    np.testing.assert_array_equal(stays.kind, half.kind)
    np.testing.assert_array_equal(stays.y[: half.change], half.y[: half.change])
    assert (stays.y != half.y)[half.change :].any()
    for kind in np.unique(half.kind):
        assert len(np.unique(half.of_changed[half.kind == kind])) == 1
