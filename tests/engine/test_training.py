"""Model and local training, against a softmax gradient written by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.encoders.wording import wording_size
from engine.errors import ModelError
from engine.model.catalogue import Catalogue
from engine.model.inputs import encode_inputs
from engine.model.model import BIAS_GAIN, SCALE, Model, class_count, flat_size
from engine.model.training import TrainingPlan, train

SEEDS = st.integers(0, 2**32 - 1)


def drawn(seed: int, *, rows: int, classes: int = 3, dimension: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A flat model, unit vectors and labels."""
    rng = np.random.default_rng(seed)
    flat = (0.3 * rng.standard_normal(classes * (dimension + 1))).astype(np.float32)
    x = rng.standard_normal((rows, dimension))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return flat, x.astype(np.float32), rng.integers(0, classes, size=rows)


# The oracle, in float64 and with loops.


def oracle_scores(flat: np.ndarray, x: np.ndarray) -> list[float]:
    """Logits of one text: SCALE · (x · v_y + gain · b_y)."""
    table = np.asarray(flat, dtype=np.float64).reshape(-1, len(x) + 1)
    return [SCALE * (sum(a * b for a, b in zip(row[:-1], x, strict=True)) + BIAS_GAIN * row[-1]) for row in table]


def oracle_loss(flat: np.ndarray, x: np.ndarray, y: np.ndarray, plan: TrainingPlan, start: np.ndarray) -> float:
    loss = 0.0
    for vector, label in zip(x.astype(np.float64), y, strict=True):
        scores = oracle_scores(flat, vector)
        highest = max(scores)
        loss += highest + math.log(sum(math.exp(score - highest) for score in scores)) - scores[label]
    loss /= max(len(y), plan.reference_rows)
    return loss + plan.proximal_mu / 2 * float(((flat - start) ** 2).sum())


def oracle_gradient(
    flat: np.ndarray, x: np.ndarray, y: np.ndarray, plan: TrainingPlan, start: np.ndarray
) -> np.ndarray:
    """The softmax gradient by hand: Σ (p − 1[y]) · input, and the pull back to the start."""
    table = np.zeros((len(flat) // (x.shape[1] + 1), x.shape[1] + 1))
    for vector, label in zip(x.astype(np.float64), y, strict=True):
        scores = np.array(oracle_scores(flat, vector))
        p = np.exp(scores - scores.max())
        p /= p.sum()
        p[label] -= 1
        table += SCALE * np.outer(p, np.append(vector, BIAS_GAIN))
    return table.reshape(-1) / max(len(y), plan.reference_rows) + plan.proximal_mu * (flat - start)


def oracle_train(flat: np.ndarray, x: np.ndarray, y: np.ndarray, plan: TrainingPlan) -> np.ndarray:
    start = flat.astype(np.float64)
    now = start.copy()
    for _ in range(plan.steps):
        now -= plan.learning_rate * oracle_gradient(now, x, y, plan, start)
    return now


def test_the_oracle_gradient_is_the_slope_of_the_loss() -> None:
    flat, x, y = drawn(1, rows=5)
    plan = TrainingPlan(reference_rows=2, proximal_mu=0.7)
    start, step = flat.astype(np.float64) + 0.1, 1e-6
    slopes = []
    for place in range(len(flat)):
        shift = np.zeros(len(flat))
        shift[place] = step
        above = oracle_loss(flat + shift, x, y, plan, start)
        below = oracle_loss(flat - shift, x, y, plan, start)
        slopes.append((above - below) / (2 * step))
    np.testing.assert_allclose(oracle_gradient(flat.astype(np.float64), x, y, plan, start), slopes, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    rows=st.integers(1, 12),
    steps=st.integers(1, 4),
    mu=st.sampled_from([0.0, 0.1, 1.0]),
    reference=st.sampled_from([1, 6, 300]),
)
def test_training_equals_the_oracle(seed: int, rows: int, steps: int, mu: float, reference: int) -> None:
    flat, x, y = drawn(seed, rows=rows)
    plan = TrainingPlan(steps=steps, learning_rate=0.05, proximal_mu=mu, reference_rows=reference)
    trained = train(flat, x, y, plan=plan, rng=np.random.default_rng(0))
    assert trained.dtype == np.float32
    np.testing.assert_allclose(trained, oracle_train(flat, x, y, plan), atol=2e-4)


def test_proximal_term_keeps_the_model_near_its_start() -> None:
    flat, x, y = drawn(2, rows=20)

    def moved(mu: float) -> float:
        plan = TrainingPlan(steps=30, learning_rate=0.05, proximal_mu=mu, reference_rows=20)
        return float(np.linalg.norm(train(flat, x, y, plan=plan, rng=np.random.default_rng(0)) - flat))

    assert moved(0.0) > moved(1.0) > moved(10.0) > 0


def test_proximal_term_has_no_effect_on_the_first_step() -> None:
    flat, x, y = drawn(3, rows=4)
    one = [
        train(flat, x, y, plan=TrainingPlan(steps=1, proximal_mu=mu), rng=np.random.default_rng(0)) for mu in (0.0, 5.0)
    ]
    np.testing.assert_array_equal(*one)


def test_training_lowers_the_loss() -> None:
    flat, x, y = drawn(4, rows=30)
    plan = TrainingPlan(steps=20, learning_rate=0.05, reference_rows=30)
    after = train(flat, x, y, plan=plan, rng=np.random.default_rng(0))
    assert oracle_loss(after, x, y, plan, flat) < oracle_loss(flat, x, y, plan, flat)


def test_fewer_rows_than_the_reference_move_the_model_less() -> None:
    flat, x, y = drawn(5, rows=1)
    one = [
        np.linalg.norm(
            train(flat, x, y, plan=TrainingPlan(steps=1, reference_rows=rows), rng=np.random.default_rng(0)) - flat
        )
        for rows in (1, 10, 100)
    ]
    assert one[0] == pytest.approx(10 * one[1], rel=1e-3)
    assert one[0] == pytest.approx(100 * one[2], rel=1e-2)


def test_no_rows_leave_the_model_unchanged_and_uncopied_memory_untouched() -> None:
    flat, x, y = drawn(6, rows=0)
    after = train(flat, x, y, plan=TrainingPlan(), rng=np.random.default_rng(0))
    np.testing.assert_array_equal(after, flat)
    assert not np.shares_memory(after, flat)


def test_the_incoming_model_and_rows_are_not_changed() -> None:
    flat, x, y = drawn(7, rows=5)
    copies = flat.copy(), x.copy(), y.copy()
    train(flat, x, y, plan=TrainingPlan(), rng=np.random.default_rng(0))
    for before, after in zip(copies, (flat, x, y), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("label", [-1, 3, 2**40])
def test_label_out_of_range_is_refused(label: int) -> None:
    flat, x, y = drawn(8, rows=4)
    y[2] = label
    with pytest.raises(ModelError, match=r"labels in 0\.\.2"):
        train(flat, x, y, plan=TrainingPlan(), rng=np.random.default_rng(0))


def test_same_seed_gives_the_same_bits_and_another_seed_other_batches() -> None:
    flat, x, y = drawn(9, rows=40)
    plan = TrainingPlan(steps=3, batch_rows=8, reference_rows=40)
    first, again, other = (
        train(flat, x, y, plan=plan, rng=np.random.default_rng(seed)).tobytes() for seed in (1, 1, 2)
    )
    assert first == again != other


def test_batches_are_rows_drawn_without_repeats_and_scaled_to_all_rows() -> None:
    # Over many seeds the step of a batch is, on average, the step of all rows.
    flat, x, y = drawn(10, rows=12)
    plan = TrainingPlan(steps=1, learning_rate=0.01, batch_rows=4, reference_rows=12)
    whole = train(flat, x, y, plan=TrainingPlan(steps=1, learning_rate=0.01, reference_rows=12), rng=None) - flat  # type: ignore[arg-type]
    steps = [train(flat, x, y, plan=plan, rng=np.random.default_rng(seed)) - flat for seed in range(100)]
    np.testing.assert_allclose(np.mean(steps, axis=0), whole, atol=4 * np.std(steps, axis=0).max() / 10)


# Edge cases: what, and what comes of it.


@pytest.mark.parametrize(
    ("flat", "x"),
    [
        pytest.param(np.array([np.nan] * 15, dtype=np.float32), np.ones((1, 4), np.float32) / 2, id="NaN"),
        pytest.param(np.array([np.inf] + [0] * 14, dtype=np.float32), np.ones((1, 4), np.float32) / 2, id="inf"),
        pytest.param(np.zeros(14, dtype=np.float32), np.ones((1, 4), np.float32) / 2, id="length"),
        pytest.param(np.zeros(0, dtype=np.float32), np.ones((1, 4), np.float32) / 2, id="empty"),
        pytest.param(np.zeros((3, 5), dtype=np.float32), np.ones((1, 4), np.float32) / 2, id="shape"),
    ],
)
def test_unusable_model_is_refused(flat: np.ndarray, x: np.ndarray) -> None:
    with pytest.raises(ModelError):
        train(flat, x, np.array([0]), plan=TrainingPlan(), rng=np.random.default_rng(0))


def test_zero_model_and_zero_vectors_stay_finite() -> None:
    after = train(
        np.zeros(15, np.float32),
        np.zeros((2, 4), np.float32),
        np.array([0, 1]),
        plan=TrainingPlan(),
        rng=None,  # type: ignore[arg-type]
    )
    assert np.isfinite(after).all()


def test_extreme_logits_stay_finite() -> None:
    flat, x, y = drawn(11, rows=4)
    assert np.isfinite(train(flat * 1e6, x, y, plan=TrainingPlan(), rng=None)).all()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "terms",
    [
        {"steps": 0},
        {"batch_rows": 0},
        {"reference_rows": 0},
        {"learning_rate": 0.0},
        {"learning_rate": -1.0},
        {"learning_rate": math.nan},
        {"learning_rate": math.inf},
        {"proximal_mu": -1.0},
        {"proximal_mu": math.nan},
        {"proximal_mu": math.inf},
    ],
)
def test_plan_out_of_range_is_refused_and_named(terms: dict[str, Any]) -> None:
    (name,) = terms
    with pytest.raises(ValueError, match=name):
        TrainingPlan(**terms)


# The model.


@given(st.integers(1, 5), st.integers(1, 6), SEEDS)
def test_flat_form_survives_the_model(classes: int, dimension: int, seed: int) -> None:
    flat, x, _ = drawn(seed, rows=2, classes=classes, dimension=dimension)
    model = Model.from_flat(flat, classes=classes, dimension=dimension)
    np.testing.assert_array_equal(model.flat(), flat)
    assert len(flat) == flat_size(classes, dimension)
    assert class_count(flat, dimension) == classes == model.classes
    np.testing.assert_allclose(model.scores(x), [oracle_scores(flat, row) for row in x], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("flat", [np.zeros(5), np.zeros(0), np.full(6, np.nan), np.array([0, 0, 0, 0, 0, -np.inf])])
def test_flat_form_of_another_size_or_not_finite_is_refused(flat: np.ndarray) -> None:
    with pytest.raises(ModelError):
        Model.from_flat(flat.astype(np.float32), classes=2, dimension=2)


def test_label_names_alone_classify_texts_that_use_their_words(catalogue: Catalogue, toy: Any) -> None:
    model = Model.from_catalogue(catalogue, toy, toy.dimension)
    texts = ["taxi in the city", "a pizza for dinner", "opera tickets", "night bus"]
    best = [catalogue.names[row.argmax()] for row in model.scores(toy.encode(texts))]
    assert best == ["taxi", "pizza", "opera", "night_bus"]


def test_label_names_alone_classify_real_sentences(encoder: Any) -> None:
    catalogue = Catalogue.builtin()
    model = Model.from_catalogue(catalogue, encoder, encoder.dimension + wording_size(encoder))
    texts = {
        "get me on the underground to the harbour": "Metro Mate public transport",
        "two seats for the ballet": "Curtain theatre tickets",
        "someone has to fix the dripping tap": "Hearth and Hammer home services",
        "remind me of my appointments tomorrow": "Dayplan calendar",
    }
    best = [
        catalogue.names[row.argmax()]
        for row in model.scores(encode_inputs(list(texts), encoder, encoder.dimension + wording_size(encoder)))
    ]
    assert best == list(texts.values())
