"""A device's summary: against loops written for reading, and what it must not tell."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.device.device import Device, Memory
from engine.encoders.encoder import Encoder
from engine.errors import ModelError
from engine.model.catalogue import Catalogue
from engine.model.summary import SCATTER_GAIN, SCATTER_NORM, SUMMARY_NORM, WEIGHT_GAIN, SummaryPlan, summary, unpacked
from engine.owner.consent import PERSONALIZATION
from store import DeviceKey

SEEDS = st.integers(0, 2**32 - 1)


def drawn_plan(
    seed: int = 0, *, classes: int = 4, directions: int = 5, inputs: int = 6, scatter: int = 3
) -> SummaryPlan:
    rng = np.random.default_rng(seed)
    return SummaryPlan(
        basis=rng.standard_normal((directions, inputs)).astype(np.float32),
        centres=rng.standard_normal((classes, directions)).astype(np.float32),
        scatter=scatter,
    )


def drawn_rows(seed: int, rows: int, *, classes: int = 4, inputs: int = 6, size: float = 1.0) -> tuple[Any, Any]:
    rng = np.random.default_rng([seed, rows])
    return (size * rng.standard_normal((rows, inputs))).astype(np.float32), rng.integers(0, classes, size=rows)


def oracle(plan: SummaryPlan, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """By loops over labels and rows."""
    held = sorted(set(y.tolist()))
    residuals, weights = np.zeros(plan.centres.shape), np.zeros(plan.classes)
    products, total = np.zeros((plan.scatter, plan.scatter)), 0.0
    for label in held:
        away = [plan.basis.astype(float) @ row - plan.centres[label] for row in x[y == label].astype(float)]
        root = math.sqrt(len(away))
        residuals[label], weights[label] = root * sum(away) / len(away), root * WEIGHT_GAIN
        products += root * sum(np.outer(one[: plan.scatter], one[: plan.scatter]) for one in away) / len(away)
        total += root
    length = math.sqrt(float((residuals**2).sum() + (weights**2).sum()))
    told = [*(residuals / length).reshape(-1), *(weights / length)]
    if plan.scatter:
        products /= total * SCATTER_NORM
        products *= SCATTER_GAIN / max(1.0, float(np.linalg.norm(products)))
        for row in range(plan.scatter):
            told += [products[row, row], *(math.sqrt(2) * products[row, row + 1 :])]
    norm = math.sqrt(1 + SCATTER_GAIN**2) if plan.scatter else 1.0
    return np.array(told) * SUMMARY_NORM / norm


@pytest.mark.parametrize("scatter", [0, 1, 3, 5])
@pytest.mark.parametrize("size", [0.05, 1.0])
def test_a_summary_is_what_loops_make_of_the_rows(scatter: int, size: float) -> None:
    plan = dataclasses.replace(drawn_plan(), scatter=scatter, centres=0.05 * drawn_plan().centres)
    x, y = drawn_rows(1, 9, size=size)
    assert np.allclose(summary(plan, x, y), oracle(plan, x, y), atol=1e-6)


@given(seed=SEEDS, rows=st.integers(1, 40), size=st.sampled_from([1e-6, 1.0, 1e6]), scatter=st.sampled_from([0, 3, 5]))
@settings(max_examples=60, deadline=None)
def test_no_device_weighs_more_than_another(seed: int, rows: int, size: float, scatter: int) -> None:
    plan = drawn_plan(seed, scatter=scatter)
    norm = float(np.linalg.norm(summary(plan, *drawn_rows(seed, rows, size=size)).astype(float)))
    assert norm <= SUMMARY_NORM * (1 + 1e-6)
    # Residuals and weights fill what is theirs, so that no device gives less than it may.
    assert norm >= plan.share * (1 - 1e-6)


@pytest.mark.parametrize("rows", [0, 1, 2, 300])
def test_the_length_says_nothing_of_what_a_device_holds(rows: int) -> None:
    plan = drawn_plan()
    answer = summary(plan, *drawn_rows(0, rows))
    assert answer.shape == (plan.length,) == (4 * 6 + 6,)
    assert answer.dtype == np.float32


def test_a_device_without_rows_gives_zeros() -> None:
    assert not summary(drawn_plan(), np.zeros((0, 6), dtype=np.float32), np.zeros(0, dtype=np.int64)).any()


@given(seed=SEEDS, rows=st.integers(2, 30))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_rows_does_not_count(seed: int, rows: int) -> None:
    plan, (x, y) = drawn_plan(seed), drawn_rows(seed, rows)
    order = np.random.default_rng(seed).permutation(rows)
    assert np.allclose(summary(plan, x, y), summary(plan, x[order], y[order]), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "x", "y"),
    [
        ("NaN", np.full((1, 6), np.nan), [0]),
        ("infinity", np.full((1, 6), np.inf), [0]),
        ("a label too high", np.zeros((1, 6)), [4]),
        ("a label too low", np.zeros((1, 6)), [-1]),
        ("inputs too short", np.zeros((1, 5)), [0]),
        ("labels missing", np.zeros((2, 6)), [0]),
    ],
)
def test_rows_that_do_not_fit_are_refused(name: str, x: np.ndarray, y: list[int]) -> None:
    with pytest.raises(ModelError):
        summary(drawn_plan(), x.astype(np.float32), np.array(y, dtype=np.int64))


@pytest.mark.parametrize(
    "change",
    [
        {"basis": np.zeros((4, 6), dtype=np.float32)},
        {"basis": np.zeros((5, 6))},
        {"centres": np.zeros((4, 5))},
        {"centres": np.full((4, 5), np.nan, dtype=np.float32)},
        {"basis": np.full((5, 6), np.inf, dtype=np.float32)},
        {"scatter": 6},
        {"scatter": -1},
        {"basis": np.zeros((0, 6), dtype=np.float32), "centres": np.zeros((4, 0), dtype=np.float32), "scatter": 0},
    ],
)
def test_a_plan_that_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        dataclasses.replace(drawn_plan(), **change)


def test_the_digest_tells_all_plans_apart() -> None:
    plan, other = drawn_plan(), drawn_plan(1)
    plans = [
        plan,
        dataclasses.replace(plan, basis=other.basis),
        dataclasses.replace(plan, centres=other.centres),
        dataclasses.replace(plan, scatter=2),
    ]
    assert len({one.digest() for one in plans}) == len(plans)
    assert drawn_plan().digest() == plan.digest()


def test_what_a_summary_holds_can_be_read_back() -> None:
    plan, (x, y) = dataclasses.replace(drawn_plan(), centres=0.02 * drawn_plan().centres), drawn_rows(3, 12, size=0.02)
    residuals, weights, scatter = unpacked(plan, summary(plan, x, y))
    away = x.astype(float) @ plan.basis.T - plan.centres[y]
    for label in set(y.tolist()):
        assert np.allclose(residuals[label] / weights[label], away[y == label].mean(axis=0), atol=1e-6)
    assert np.allclose(scatter, scatter.T)
    shares = 1 / np.sqrt(np.bincount(y)[y])
    assert np.allclose(scatter, (away[:, :3].T * shares) @ away[:, :3] / shares.sum(), atol=1e-7)
    with pytest.raises(ModelError, match="numbers"):
        unpacked(plan, np.zeros(plan.length - 1))


# On a device


def plan_for(device: Device, *, scatter: int = 3) -> SummaryPlan:
    return drawn_plan(classes=len(device.model.catalogue), inputs=device.model.dimension, scatter=scatter)


RIDES = [("a cab home please", "taxi"), ("last bus home", "night_bus"), ("a large margherita", "pizza")]


def test_a_device_tells_of_public_labels_alone(device: Device) -> None:
    device.remember_many([Memory(text=text, label=label) for text, label in RIDES])
    plan = plan_for(device)
    before = device.summarise(plan)
    device.remember("the blue folder", label="my own archive")
    device.remember("something said without a label")
    assert before.any()
    assert device.summarise(plan).tobytes() == before.tobytes()


def test_a_forgotten_memory_leaves_no_trace(
    device: Device, tmp_path: Path, key: DeviceKey, catalogue: Catalogue, toy: Encoder
) -> None:
    ids = device.remember_many([Memory(text=text, label=label) for text, label in RIDES])
    extra = device.remember("two seats for tosca", label="opera")
    plan = plan_for(device)
    with_it = device.summarise(plan)
    device.forget(extra)
    with Device.create(tmp_path / "other", key, catalogue=catalogue, encoder=toy) as other:
        other.remember_many([Memory(text=text, label=label) for text, label in RIDES])
        assert device.summarise(plan).tobytes() == other.summarise(plan).tobytes() != with_it.tobytes()
    assert len(ids) == len(RIDES)


def test_a_device_without_consent_gives_zeros(device: Device) -> None:
    device.remember_many([Memory(text=text, label=label) for text, label in RIDES])
    device.withdraw_purpose(PERSONALIZATION)
    assert not device.summarise(plan_for(device)).any()


def test_a_plan_of_another_model_is_refused(device: Device) -> None:
    for plan in (
        drawn_plan(classes=len(device.model.catalogue) + 1, inputs=device.model.dimension),
        drawn_plan(classes=len(device.model.catalogue), inputs=device.model.dimension - 1),
    ):
        with pytest.raises(ModelError, match="Expected a plan for"):
            device.summarise(plan)


def test_memories_that_were_summarised_still_judge(device: Device) -> None:
    device.remember_many([Memory(text=text, label=label) for text, label in RIDES])
    before = len(device._viewed().evidence.rows)
    device.summarise(plan_for(device))
    assert len(device._viewed().evidence.rows) == before == len(RIDES)
