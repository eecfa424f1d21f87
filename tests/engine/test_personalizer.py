"""The mixture, against an oracle of plain loops that follows the formula in the module's docstring."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.personalizer import (
    AGAINST_NATS,
    ANCHOR_COSINE,
    EXPECTED_FLOOR,
    GRID,
    LEAST_WEIGHT,
    MOST_EVIDENCE,
    SHRINKAGE,
    SMOOTHING,
    USUAL,
    Evidence,
    Mixture,
    Personalizer,
    log_softmax,
)

# The oracle. A memory is a list of (vector, label).

Row = tuple[np.ndarray, int]


def oracle_softmax(scores: list[float]) -> list[float]:
    highest = max(scores)
    parts = [math.exp(score - highest) for score in scores]
    return [part / sum(parts) for part in parts]


def oracle_mix(
    g: list[float], x: np.ndarray, memory: list[Row], expected: list[float], mixture: Mixture
) -> list[float]:
    """p(y|x) under one mixture, from global log probabilities ``g`` and a memory."""
    classes = range(len(g))
    floored = [share + EXPECTED_FLOOR for share in expected]
    usual = [share / sum(floored) for share in floored]
    tilted_logs = []
    for y in classes:
        count = sum(1 for _, label in memory if label == y)
        frequency = (count + SMOOTHING * usual[y]) / (len(memory) + SMOOTHING)
        tilted_logs.append(g[y] + mixture.prior * math.log(frequency / usual[y]))
    tilted = oracle_softmax(tilted_logs)
    anchor = math.exp(mixture.sharpness * (ANCHOR_COSINE - 1))
    votes = [anchor * tilted[y] for y in classes]
    for vector, label in memory:
        cosine = sum(float(a) * float(b) for a, b in zip(x, vector, strict=True))
        votes[label] += math.exp(mixture.sharpness * (cosine - 1))
    nearby = [vote / sum(votes) for vote in votes]
    return [(1 - mixture.neighbours) * tilted[y] + mixture.neighbours * nearby[y] for y in classes]


def oracle_average(
    weights: list[tuple[Mixture, float]], g: list[float], x: np.ndarray, memory: list[Row], expected: list[float]
) -> list[float]:
    total = sum(weight for _, weight in weights)
    answers = [(weight / total, oracle_mix(g, x, memory, expected, mixture)) for mixture, weight in weights]
    return [sum(weight * answer[y] for weight, answer in answers) for y in range(len(g))]


def oracle_weights(memory: list[Row], evidence: dict[int, list[float]], expected: list[float]) -> dict[Mixture, float]:
    """Each mixture's weight by leave-one-out: every row of the evidence is asked of the memory without it."""
    values = []
    for mixture in GRID:
        value = -SHRINKAGE * ((mixture.prior - USUAL.prior) ** 2 + (mixture.neighbours - USUAL.neighbours) ** 2)
        for row, g in evidence.items():
            x, label = memory[row]
            others = memory[:row] + memory[row + 1 :]
            value += math.log(oracle_mix(g, x, others, expected, mixture)[label])
        values.append(value)
    return dict(zip(GRID, oracle_softmax(values), strict=True))


def first(answer: list[float]) -> int:
    return max(range(len(answer)), key=answer.__getitem__)


@dataclass
class Case:
    """A device drawn at random: m memories of d floats, C labels, some of the rows as evidence."""

    x: np.ndarray
    y: np.ndarray
    expected: np.ndarray
    evidence: Evidence
    queries: np.ndarray
    query_logs: np.ndarray

    @property
    def memory(self) -> list[Row]:
        return [(vector, int(label)) for vector, label in zip(self.x, self.y, strict=True)]

    @property
    def evidence_by_row(self) -> dict[int, list[float]]:
        return dict(zip(self.evidence.rows.tolist(), self.evidence.global_log.tolist(), strict=True))

    def fit(self) -> Personalizer:
        return Personalizer.fit(self.x, self.y, expected=self.expected, evidence=self.evidence)


def case(seed: int, *, rows: int, classes: int = 4, judged: int | None = None, skill: float = 1.0) -> Case:
    rng = np.random.default_rng(seed)

    def unit(count: int) -> np.ndarray:
        vectors = rng.standard_normal((count, 6))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    # Labels are uneven and the global model is right about some of them, so that every branch has its turn.
    y = rng.choice(classes, size=rows, p=rng.dirichlet(np.ones(classes)))
    logits = rng.standard_normal((rows, classes))
    logits[np.arange(rows), y] += skill * rng.random(rows)
    judges = np.sort(rng.choice(rows, size=rows if judged is None else judged, replace=False)).astype(np.int64)
    logs = log_softmax(logits)
    expected = np.exp(logs[judges]).mean(axis=0) if len(judges) else np.full(classes, 1 / classes)
    return Case(
        x=unit(rows),
        y=y.astype(np.int64),
        expected=expected,
        evidence=Evidence(rows=judges, global_log=logs[judges]),
        queries=unit(3),
        query_logs=log_softmax(rng.standard_normal((3, classes))),
    )


SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, rows=st.integers(1, 7), skill=st.sampled_from([-3.0, 0.0, 1.0, 5.0]))
def test_weights_and_answers_equal_the_oracle(seed: int, rows: int, skill: float) -> None:
    drawn = case(seed, rows=rows, judged=max(1, rows - 1), skill=skill)
    personalizer = drawn.fit()
    expected = drawn.expected.tolist()
    weights = oracle_weights(drawn.memory, drawn.evidence_by_row, expected)

    truth = [drawn.y[row] for row in drawn.evidence_by_row]
    left_out = [
        oracle_average(list(weights.items()), g, drawn.x[row], drawn.memory[:row] + drawn.memory[row + 1 :], expected)
        for row, g in drawn.evidence_by_row.items()
    ]
    personal_log = sum(math.log(answer[label]) for answer, label in zip(left_out, truth, strict=True))
    global_log = sum(g[label] for g, label in zip(drawn.evidence_by_row.values(), truth, strict=True))
    # Within the last digits of the bound either answer is right, and rounding decides.
    assume(abs(personal_log - global_log + AGAINST_NATS) > 1e-5)
    if personal_log < global_log - AGAINST_NATS:
        assert personalizer.is_global
    else:
        kept = {mixture: weight for mixture, weight in weights.items() if weight >= LEAST_WEIGHT}
        assert dict(personalizer.weights) == pytest.approx(kept, rel=1e-5)
        for g, x, answer in zip(
            drawn.query_logs.tolist(),
            drawn.queries,
            personalizer.predict(drawn.query_logs, drawn.queries),
            strict=True,
        ):
            oracle = oracle_average(list(kept.items()), g, x, drawn.memory, expected)
            np.testing.assert_allclose(np.exp(answer), oracle, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, rows=st.integers(1, 30), skill=st.sampled_from([0.0, 1.0, 4.0]))
def test_evidence_never_speaks_against_the_mixture_by_more_than_the_bound(seed: int, rows: int, skill: float) -> None:
    drawn = case(seed, rows=rows, skill=skill)
    weights = drawn.fit().weights
    difference = 0.0
    for row, g in zip(drawn.evidence.rows, drawn.evidence.global_log, strict=True):
        keep = np.arange(rows) != row
        without = Personalizer(drawn.x[keep], drawn.y[keep], expected=drawn.expected, weights=weights)
        personal = without.predict(g[None], drawn.x[row : row + 1])[0]
        difference += float(personal[drawn.y[row]] - g[drawn.y[row]])
    assert difference >= -AGAINST_NATS - 1e-3 * rows  # light mixtures are left out


def test_a_global_model_that_is_right_is_left_alone_where_personalizing_costs_likelihood() -> None:
    # The memory says label 1 for this very text forty times, twelve rows of evidence say 0 and the model knew it.
    x = np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (52, 1))
    y = np.array([1] * 40 + [0] * 12)
    sure = log_softmax(np.array([[3.0, 0.0]]))
    evidence = Evidence(rows=np.arange(40, 52), global_log=np.repeat(sure, 12, axis=0))
    personalizer = Personalizer.fit(x, y, expected=np.array([0.5, 0.5]), evidence=evidence)
    assert personalizer.is_global
    np.testing.assert_array_equal(personalizer.predict(sure, x[:1]), sure)


@pytest.mark.parametrize("rows", [0, 5])
def test_without_evidence_the_global_model_answers(rows: int) -> None:
    drawn = case(3, rows=rows, judged=0)
    personalizer = drawn.fit()
    assert personalizer.is_global
    # To the bit: a label that rounding raised would be called personal.
    np.testing.assert_array_equal(personalizer.predict(drawn.query_logs, drawn.queries), drawn.query_logs)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, rows=st.integers(2, 30))
def test_the_order_of_memories_has_no_effect(seed: int, rows: int) -> None:
    drawn = case(seed, rows=rows, judged=rows // 2 + 1)
    order = np.random.default_rng(seed).permutation(rows)
    where = np.argsort(order)
    shuffled = Personalizer.fit(
        drawn.x[order],
        drawn.y[order],
        expected=drawn.expected,
        evidence=Evidence(rows=where[drawn.evidence.rows], global_log=drawn.evidence.global_log),
    )
    np.testing.assert_allclose(
        shuffled.predict(drawn.query_logs, drawn.queries),
        drawn.fit().predict(drawn.query_logs, drawn.queries),
        rtol=1e-5,
        atol=1e-7,
    )


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, rows=st.integers(2, 30))
def test_the_order_of_labels_has_no_effect(seed: int, rows: int) -> None:
    drawn = case(seed, rows=rows)
    order = np.random.default_rng(seed).permutation(4)
    renamed = Personalizer.fit(
        drawn.x,
        np.argsort(order)[drawn.y],
        expected=drawn.expected[order],
        evidence=Evidence(rows=drawn.evidence.rows, global_log=drawn.evidence.global_log[:, order]),
    )
    np.testing.assert_allclose(
        renamed.predict(drawn.query_logs[:, order], drawn.queries),
        drawn.fit().predict(drawn.query_logs, drawn.queries)[:, order],
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_row_never_votes_for_itself(label: int) -> None:
    # Alone in its memory a row is judged by the global model under each mixture, so nothing moves the weights.
    x = np.array([[1.0, 0.0]], dtype=np.float32)
    evidence = Evidence(rows=np.array([0]), global_log=log_softmax(np.array([[0.3, 0.2, 0.1]])))
    personalizer = Personalizer.fit(x, np.array([label]), expected=np.full(3, 1 / 3), evidence=evidence)
    distances = [(m.prior - USUAL.prior) ** 2 + (m.neighbours - USUAL.neighbours) ** 2 for m in GRID]
    by_shrinkage = dict(zip(GRID, oracle_softmax([-SHRINKAGE * distance for distance in distances]), strict=True))
    assert dict(personalizer.weights) == pytest.approx(
        {mixture: weight for mixture, weight in by_shrinkage.items() if weight >= LEAST_WEIGHT}
    )


def test_probabilities_sum_to_one_and_the_memory_moves_them_its_way() -> None:
    drawn = case(11, rows=40)
    personalizer = drawn.fit()
    answers = np.exp(personalizer.predict(drawn.query_logs, drawn.queries))
    np.testing.assert_allclose(answers.sum(axis=1), 1, rtol=1e-9)
    many = Personalizer(drawn.x, np.full(40, 2), expected=np.full(4, 0.25), weights=((USUAL, 1.0),))
    moved = np.exp(many.predict(drawn.query_logs, drawn.queries))
    assert (moved[:, 2] > np.exp(drawn.query_logs)[:, 2]).all()


def test_only_the_newest_evidence_is_judged() -> None:
    rows = np.arange(MOST_EVIDENCE + 5)
    newest = Evidence(rows=rows, global_log=np.zeros((len(rows), 2))).newest(MOST_EVIDENCE)
    assert newest.rows.tolist() == rows[5:].tolist()
    assert newest.global_log.shape == (MOST_EVIDENCE, 2)


# Edge cases: zero, one, extreme.


def test_identical_memories_with_different_labels_stay_finite() -> None:
    x = np.tile(np.array([[0.0, 1.0]], dtype=np.float32), (6, 1))
    y = np.array([0, 1, 0, 1, 0, 1])
    logs = log_softmax(np.zeros((6, 2)))
    personalizer = Personalizer.fit(
        x, y, expected=np.array([0.5, 0.5]), evidence=Evidence(rows=np.arange(6), global_log=logs)
    )
    assert np.isfinite(personalizer.predict(logs[:1], x[:1])).all()


def test_a_label_that_the_global_model_never_expects_stays_finite() -> None:
    x = np.eye(2, dtype=np.float32)
    logs = log_softmax(np.array([[0.0, -600.0], [0.0, -600.0]]))
    personalizer = Personalizer.fit(
        x, np.array([1, 1]), expected=np.array([1.0, 0.0]), evidence=Evidence(rows=np.arange(2), global_log=logs)
    )
    answer = personalizer.predict(logs[:1], x[:1])
    assert np.isfinite(answer).all()
    assert np.exp(answer).sum() == pytest.approx(1)


def test_a_global_model_that_is_wrong_beyond_all_doubt_leaves_finite_weights() -> None:
    x = np.tile(np.array([[0.0, 1.0]], dtype=np.float32), (4, 1))
    logs = log_softmax(np.tile([0.0, -1e30], (4, 1)))
    with np.errstate(divide="raise", invalid="raise"):
        personalizer = Personalizer.fit(
            x,
            np.ones(4, dtype=np.int64),
            expected=np.array([1.0, 0.0]),
            evidence=Evidence(rows=np.arange(4), global_log=logs),
        )
        assert np.isfinite(personalizer.predict(logs[:1], x[:1])).all()
    assert all(np.isfinite(weight) for _, weight in personalizer.weights)


@pytest.mark.parametrize(
    "terms",
    [
        {"prior": -0.1},
        {"neighbours": 1.0},
        {"neighbours": -0.1},
        {"sharpness": 0.0},
        {"sharpness": math.inf},
        {"prior": math.nan},
        {"neighbours": math.nan},
        {"sharpness": math.nan},
    ],
)
def test_mixture_out_of_range_is_refused(terms: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="prior >= 0"):
        Mixture(**terms)
