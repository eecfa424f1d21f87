"""What devices learn together of changed habits: marks against an oracle, and what follows from sums over people."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ModelError
from engine.personal.drift import (
    CHANCES,
    DRIFT_MARKS,
    NEVER,
    PUBLIC_CHANCE,
    drift_marks,
    least_chance_of,
    recency_from,
)
from engine.personal.recency import Recency
from engine.personal.rescorer import (
    MOST_EVIDENCE,
    PUBLIC_WEIGHTS,
    Evidence,
    LabelledMemory,
    earlier_features,
    log_softmax,
    query_features,
)
from engine.personal.together import Learned

SEEDS = st.integers(0, 2**32 - 1)
KINDS, LABELS = 3, 6


@dataclasses.dataclass(frozen=True)
class Life:
    """Requests of three kinds, two services each, in the order of time; the model knows the kind alone."""

    x: np.ndarray
    y: np.ndarray
    logs: np.ndarray

    def memory(self, rows: np.ndarray) -> LabelledMemory:
        logs = self.logs[rows]
        return LabelledMemory(x=self.x[rows], y=self.y[rows], global_log=logs, public=LABELS)

    def marks(self) -> np.ndarray:
        rows = np.arange(len(self.y))
        return drift_marks(self.memory(rows), Evidence(rows=rows, global_log=self.logs), PUBLIC_WEIGHTS)


def life(seed: int, *, rows: int, changes: bool, shuffled: bool = False, loyal: float = 0.85) -> Life:
    """Someone whose favourite services all change half-way, or never; in a random order there is no change to find."""
    rng = np.random.default_rng(seed)
    kinds, favourite = rng.integers(KINDS, size=rows), rng.integers(2, size=KINDS)
    turned = favourite ^ 1 if changes else favourite
    usual = np.where(np.arange(rows) < rows // 2, favourite[kinds], turned[kinds])
    y = 2 * kinds + np.where(rng.random(rows) < loyal, usual, rng.integers(2, size=rows))
    logits = rng.normal(0, 0.5, size=(rows, LABELS)) + 5.0 * (np.arange(LABELS) // 2 == kinds[:, None])
    x = np.eye(8)[kinds] + 0.3 * rng.standard_normal((rows, 8))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    order = rng.permutation(rows) if shuffled else np.arange(rows)
    return Life(x=x[order], y=y[order], logs=log_softmax(logits)[order])


def foreseen(one: Life, row: int, recency: Recency | None) -> float:
    """The log probability of a request's label on a device that holds the memories before it and no others."""
    before = one.memory(np.arange(row))
    # How likely labels are beforehand is told by all texts, also later ones.
    object.__setattr__(before, "prior", one.memory(np.arange(len(one.y))).prior)
    phi = query_features(before, one.x[row : row + 1], one.logs[row : row + 1], recency)
    return float(log_softmax(phi @ PUBLIC_WEIGHTS)[0, one.y[row]])


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, rows=st.integers(1, 30), changes=st.booleans())
def test_marks_equal_those_of_devices_that_hold_the_memories_before_each(seed: int, rows: int, changes: bool) -> None:
    one = life(seed, rows=rows, changes=changes)
    plain = sum(foreseen(one, row, None) for row in range(rows))
    nats = [sum(foreseen(one, row, recency_from(chance)) for row in range(rows)) - plain for chance in CHANCES]
    np.testing.assert_allclose(one.marks(), [*nats, *np.square(nats)], rtol=1e-5, atol=1e-6)


def test_the_oracle_is_asked_about_changes_as_well() -> None:
    assert np.abs(life(0, rows=30, changes=True).marks()[: len(CHANCES) - 1]).min() > 0.1


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, rows=st.integers(2, 20), judged=st.integers(0, 20))
def test_a_row_is_seen_before_what_is_older_and_not_before_itself(seed: int, rows: int, judged: int) -> None:
    one = life(seed, rows=rows, changes=True)
    own = np.sort(np.random.default_rng(seed).permutation(rows)[:judged])
    found = earlier_features(one.memory(np.arange(rows)), own, one.logs[own])
    other = dataclasses.replace(one, y=one.y.copy())
    for place, row in enumerate(own):  # Whatever it and the later ones are.
        other.y[row:] = (one.y[row:] + 1) % LABELS
        again = earlier_features(
            other.memory(np.arange(rows)), own[place : place + 1], one.logs[own[place : place + 1]]
        )
        np.testing.assert_allclose(again.phi[0], found.phi[place], rtol=1e-3, atol=1e-4)
        other.y[row:] = one.y[row:]


def test_only_the_newest_evidence_is_marked_and_none_gives_no_marks() -> None:
    one = life(1, rows=MOST_EVIDENCE + 20, changes=True)
    rows = np.arange(len(one.y))
    newest = Evidence(rows=rows[-MOST_EVIDENCE:], global_log=one.logs[-MOST_EVIDENCE:])
    np.testing.assert_array_equal(one.marks(), drift_marks(one.memory(rows), newest, PUBLIC_WEIGHTS))
    nothing = Evidence(rows=rows[:0], global_log=one.logs[:0])
    assert drift_marks(one.memory(rows), nothing, PUBLIC_WEIGHTS).tolist() == [0.0] * DRIFT_MARKS
    empty = one.memory(rows[:0])
    assert drift_marks(empty, nothing, PUBLIC_WEIGHTS).tolist() == [0.0] * DRIFT_MARKS


def test_where_habits_change_devices_learn_to_follow_them() -> None:
    summed = sum((life(seed, rows=40, changes=True).marks() for seed in range(12)), start=np.zeros(DRIFT_MARKS))
    assert least_chance_of(summed) == CHANCES[0]
    assert Learned(least_chance=CHANCES[0]).recency is not None


@pytest.mark.parametrize("loyal", [0.3, 0.7])
def test_where_memories_came_in_no_order_devices_learn_to_follow_no_change_that_costs(loyal: float) -> None:
    lives = [life(seed, rows=60, changes=True, shuffled=True, loyal=loyal) for seed in range(40)]
    summed = sum((one.marks() for one in lives), start=np.zeros(DRIFT_MARKS))
    nats = dict(zip((*CHANCES, NEVER), (*summed[: len(CHANCES)], 0.0), strict=True))
    assert nats[CHANCES[0]] < -1.0  # To believe each change that there seems to be would cost.
    assert least_chance_of(summed) > CHANCES[0]
    assert nats[least_chance_of(summed)] >= 0


@pytest.mark.parametrize(
    ("nats", "squares", "chance"),
    [
        ([9.0, 8.0, 7.0, 6.0], [1.0, 1.0, 1.0, 1.0], 0.5),
        ([9.0, 8.0, 7.0, 6.0], [64.0, 4.0, 1.0, 1.0], 0.65),  # Less one standard error.
        ([9.0, 8.0, 7.0, 6.5], [81.0, 64.0, 16.0, 1.0], 0.9),
        ([2.0, 1.0, 0.5, 0.1], [4.0, 1.0, 0.25, 0.01], NEVER),  # No more than chance.
        ([-2.0, -1.0, 0.0, 0.0], [4.0, 1.0, 0.0, 0.0], NEVER),
        ([0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], PUBLIC_CHANCE),
        ([3.0, 0.0, 0.0, 0.0], [-5.0, 0.0, 0.0, 0.0], 0.5),  # A liar's, or noise.
    ],
)
def test_the_chance_that_gains_most_beyond_its_error_holds(
    nats: list[float], squares: list[float], chance: float
) -> None:
    assert least_chance_of(np.array([*nats, *squares])) == chance


@pytest.mark.parametrize("wrong", [np.zeros(DRIFT_MARKS - 1), np.full(DRIFT_MARKS, np.nan)])
def test_sums_that_are_none_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ModelError, match="finite sums"):
        least_chance_of(wrong)


def test_a_device_follows_no_change_that_is_less_likely_than_it_learned() -> None:
    assert recency_from(NEVER) is None
    assert Learned(least_chance=NEVER).recency is None
    y = np.array([0] * 6 + [1] * 2)
    alike, food = np.ones((1, len(y))), np.array([[0.5, 0.5, 0.0]])
    followed = [chance for chance in CHANCES if (its := recency_from(chance)) and its(alike, food, y) is not None]
    assert followed == list(CHANCES[: len(followed)])
    assert 0 < len(followed) < len(CHANCES)
