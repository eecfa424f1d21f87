"""The server's part of one private release: against a textbook posterior, and never worse than the label names."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from engine.encoders.spelling import SPELLING
from engine.errors import ModelError
from engine.model.catalogue import Catalogue
from engine.model.checkpoint import Checkpoint
from engine.model.scoring import logits
from engine.model.summary import SUMMARY_NORM, WEIGHT_GAIN, SummaryPlan, summary, unpacked
from federation.privacy.mechanism import central_mean
from federation.privacy.parameters import NoiseParameters
from federation.privacy.stream import SecureStream
from federation.rounds.summary_model import (
    IN_COMMON,
    LIKENESS,
    NAME_SHARE,
    SCATTER_NOISE,
    SCATTER_RIDGE,
    SCATTER_SHARPNESS,
    SHARPNESS,
    _posterior,
    _shrunk,
    _within,
    directions_for,
    plan_summary,
    summary_model,
)

CLASSES, INPUTS, DEVICES = 6, 24, 200


@dataclasses.dataclass(frozen=True)
class World:
    """Label names that say a little of where a label's texts lie, public texts, and devices."""

    start: Checkpoint
    public: np.ndarray
    devices: list[tuple[np.ndarray, np.ndarray]]
    queries: np.ndarray
    truth: np.ndarray


def world(seed: int = 0) -> World:
    rng = np.random.default_rng(seed)
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    places = unit(rng.standard_normal((CLASSES, INPUTS)))
    names = unit(0.6 * places + unit(rng.standard_normal((CLASSES, INPUTS)))).astype(np.float32)

    def texts(y: np.ndarray) -> np.ndarray:
        return unit(places[y] + 0.25 * rng.standard_normal((len(y), INPUTS))).astype(np.float32)

    held = [rng.choice(CLASSES, size=2, replace=False)[rng.integers(0, 2, size=12)] for _ in range(DEVICES)]
    truth = rng.integers(0, CLASSES, size=600)
    flat = np.column_stack([names, np.zeros(CLASSES, dtype=np.float32)]).reshape(-1)
    start = Checkpoint(
        flat=flat,
        dimension=INPUTS,
        encoder="toy",
        catalogue=Catalogue.from_names([f"label {n}" for n in range(CLASSES)]),
    )
    public = texts(rng.integers(0, CLASSES, size=300))
    return World(start=start, public=public, devices=[(texts(y), y) for y in held], queries=texts(truth), truth=truth)


def planned(one: World, *, noise_std: float = 0.02) -> SummaryPlan:
    return plan_summary(one.start, one.public, noise_std=noise_std)


def mean_of(one: World, plan: SummaryPlan) -> np.ndarray:
    return np.mean([summary(plan, x, y).astype(np.float64) for x, y in one.devices], axis=0)


def accuracy(one: World, model: Checkpoint) -> float:
    table = model.flat.reshape(CLASSES, INPUTS + 1)
    return float((logits(one.queries, table[:, :-1], table[:, -1]).argmax(axis=1) == one.truth).mean())


def scores(one: World, model: Checkpoint) -> np.ndarray:
    table = model.flat.reshape(CLASSES, INPUTS + 1).astype(np.float64)
    return logits(one.queries.astype(np.float64), table[:, :-1], table[:, -1])


def centred(one: World) -> np.ndarray:
    names = one.start.flat.reshape(CLASSES, INPUTS + 1)[:, :-1].astype(np.float64)
    return names - names.mean(axis=0)


def spread_of(table: np.ndarray) -> np.ndarray:
    """Scores by which answers are told apart: what is the same for all labels of a text says nothing."""
    return table - table.mean(axis=1, keepdims=True)


def test_without_noise_labels_lie_where_devices_texts_do() -> None:
    """The oracle: minus half the squared distance to each label's weighted mean, times the sharpness."""
    one = world()
    plan = dataclasses.replace(planned(one, noise_std=0.0), scatter=0)
    mean = mean_of(one, plan)
    model = summary_model(one.start, plan, mean.astype(np.float32), noise_std=0.0)
    residuals, weights, _ = unpacked(plan, mean)
    places = plan.centres + residuals / weights[:, None]  # All directions are asked for, so this is all there is.
    asked = one.queries @ plan.basis.T
    expected = -0.5 * SHARPNESS * math.sqrt(INPUTS) * ((asked[:, None] - places[None]) ** 2).sum(axis=2)
    assert plan.directions == INPUTS
    assert np.allclose(spread_of(scores(one, model)), spread_of(expected), atol=2e-3)
    assert accuracy(one, model) > accuracy(one, one.start) + 0.1


def uneven(one: World, *, seed: int = 3) -> World:
    """The same devices, whose texts differ much along a few inputs that say nothing of the label."""
    rng = np.random.default_rng(seed)
    stretch = np.where(np.arange(INPUTS) % 6 == 0, 0.5, 0.0)

    def shaken(x: np.ndarray) -> np.ndarray:
        # Half the size, so that no device's scatter is clipped.
        return (0.5 * x + 0.5 * stretch * rng.standard_normal(x.shape)).astype(np.float32)

    start = dataclasses.replace(one.start, flat=0.5 * one.start.flat)
    devices = [(shaken(x), y) for x, y in one.devices]
    return dataclasses.replace(
        one, start=start, devices=devices, public=shaken(one.public), queries=shaken(one.queries)
    )


def test_without_noise_the_scatter_says_in_which_metric() -> None:
    """The oracle: the discriminant, its scatter blended with even scatter, written out."""
    one = uneven(world())
    plan = planned(one, noise_std=0.0)
    mean = mean_of(one, plan)
    model = summary_model(one.start, plan, mean.astype(np.float32), noise_std=0.0)
    residuals, weights, scatter = unpacked(plan, mean)
    off, size = residuals / weights[:, None], plan.scatter
    assert size == round(INPUTS * 2 / 3)
    within = scatter - sum(
        weight / weights.sum() * np.outer(row[:size], row[:size]) for weight, row in zip(weights, off, strict=True)
    )
    even = np.trace(within) / size
    blended = within + SCATTER_RIDGE * even * np.eye(size)
    metric, spread = np.eye(INPUTS), (np.trace(blended) / size) * np.eye(INPUTS)
    metric[:size, :size] = np.linalg.inv(blended) * np.trace(blended) / size
    spread[:size, :size] = blended
    places = plan.centres + off
    apart = (places - plan.centres.mean(axis=0)) @ metric
    along = places - plan.centres.mean(axis=0)
    sharpness = SCATTER_SHARPNESS * (apart * along).sum() / np.einsum("cd,de,ce->", apart, spread, apart)
    away = (one.queries @ plan.basis.T)[:, None] - places[None]
    expected = -0.5 * sharpness * np.einsum("qcd,de,qce->qc", away, metric, away)
    assert np.allclose(spread_of(scores(one, model)), spread_of(expected), atol=5e-3 * np.abs(expected).max())
    even_handed = dataclasses.replace(plan, scatter=0)
    plain = summary_model(one.start, even_handed, mean_of(one, even_handed).astype(np.float32), noise_std=0.0)
    assert accuracy(one, model) > accuracy(one, plain) + 0.02


def test_a_scatter_that_devices_clipped_away_is_not_used() -> None:
    scatter, weights = np.diag([0.1, 0.1]), np.ones(2)
    assert _within(scatter, np.array([[0.4, 0.0], [0.0, 0.4]]), weights, 0.0) is None
    assert _within(np.zeros((2, 2)), np.zeros((2, 2)), weights, 0.0) is None
    assert _within(scatter, np.array([[0.2, 0.0], [0.0, 0.2]]), weights, 0.0) is not None


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_not_taken_for_scatter(seed: int) -> None:
    size, noise = 30, 0.002
    rng = np.random.default_rng(seed)
    each = noise * 0.2 / 0.5 / math.sqrt(2)  # What noise on the packed scatter is on an entry off the diagonal.
    wobble = np.triu(each * rng.standard_normal((size, size)), 1)
    noised = 0.01 * np.eye(size) + wobble + wobble.T + np.diag(each * math.sqrt(2) * rng.standard_normal(size))
    true = np.zeros((size, size))
    true[0, 0] = 0.05
    none, weights = np.zeros((3, size)), np.ones(3)
    assert np.linalg.norm(_within(noised, none, weights, noise) - 0.015 * np.eye(size), 2) < 0.004
    found = _within(noised + true, none, weights, noise)
    assert found[0, 0] == pytest.approx(0.065, rel=0.1)
    others = found[1:, 1:] - np.diag(np.diag(found[1:, 1:]))
    assert np.linalg.norm(others) < 0.6 * np.linalg.norm(wobble + wobble.T)


def test_with_noise_labels_lie_at_the_posterior_mean() -> None:
    """The oracle: each direction's Gaussian process by a solve of its own."""
    one, noise = world(), 0.02
    plan = planned(one, noise_std=noise)
    mean = (mean_of(one, plan) + noise * np.random.default_rng(0).standard_normal(plan.length)).astype(np.float32)
    model = summary_model(one.start, plan, mean, noise_std=noise)
    residuals, weights, _ = unpacked(plan, mean)
    names = centred(one)
    # Weights are drawn to their mean, by how much they differ beyond the noise.
    own = (noise / WEIGHT_GAIN) ** 2
    beyond = max(weights.var() - own, 0.0)
    weights = np.maximum(weights.mean() + (weights - weights.mean()) * beyond / (beyond + own), 0.1 * weights.mean())
    variance = ((residuals**2).sum() - noise**2 * residuals.size) / ((weights**2).sum() * plan.directions)
    unit = names / np.linalg.norm(names, axis=1, keepdims=True)
    kernel = IN_COMMON * np.exp((unit @ unit.T - 1) / LIKENESS) + (1 - IN_COMMON) * np.eye(CLASSES)
    gain = np.diag(weights)
    off = np.stack(
        [
            variance
            * kernel
            @ gain
            @ np.linalg.solve(variance * gain @ kernel @ gain + noise**2 * np.eye(CLASSES), one_)
            for one_ in residuals.T
        ],
        axis=1,
    )
    expected = SHARPNESS * math.sqrt(plan.directions) / 10.0 * (NAME_SHARE * names + off @ plan.basis)
    found = model.flat.reshape(CLASSES, INPUTS + 1)[:, :-1]
    assert plan.scatter == 0
    assert np.allclose(found - found.mean(axis=0), expected - expected.mean(axis=0), atol=1e-3 * np.abs(found).max())


@pytest.mark.parametrize("noise", [1.0, 50.0])
def test_a_drowned_release_is_the_start_model(noise: float) -> None:
    """So its devices answer as those that no round reached, number for number."""
    one = world()
    plan = planned(one, noise_std=noise)
    nothing = summary_model(one.start, plan, np.zeros(plan.length, dtype=np.float32), noise_std=noise)
    assert nothing == dataclasses.replace(one.start, flat=nothing.flat, round=1)
    assert nothing.flat.tobytes() == one.start.flat.tobytes()
    rng, mean, same = np.random.default_rng(0), mean_of(one, plan), 0
    for _ in range(100):
        noised = (mean + noise * rng.standard_normal(plan.length)).astype(np.float32)
        same += summary_model(one.start, plan, noised, noise_std=noise).flat.tobytes() == one.start.flat.tobytes()
    assert same >= 95


@pytest.mark.parametrize("noise", [0.0, 0.0005, 0.005, 0.02])
def test_labels_of_a_devices_own_stand_beside_a_release_as_beside_the_start(noise: float) -> None:
    """Names of labels lie in one corner, as an encoder's do, and devices score their own labels by names alone."""
    one = world()
    corner = 2.0 * np.random.default_rng(5).standard_normal(INPUTS) / math.sqrt(INPUTS)
    flat = one.start.flat.reshape(CLASSES, INPUTS + 1).copy()
    flat[:, :-1] += corner
    one = dataclasses.replace(
        one,
        start=dataclasses.replace(one.start, flat=flat.reshape(-1)),
        public=(one.public + corner).astype(np.float32),
        queries=(one.queries + corner).astype(np.float32),
        devices=[((x + corner).astype(np.float32), y) for x, y in one.devices],
    )
    plan, rng = planned(one, noise_std=noise), np.random.default_rng(0)
    mean = (mean_of(one, plan) + noise * rng.standard_normal(plan.length)).astype(np.float32)
    model = summary_model(one.start, plan, mean, noise_std=noise)
    table = model.flat.reshape(CLASSES, INPUTS + 1)
    assert model.flat.tobytes() != one.start.flat.tobytes()
    assert np.allclose(table.mean(axis=0), flat.mean(axis=0), atol=1e-4 * np.abs(table).max())

    def hits(flat: np.ndarray, own: np.ndarray) -> float:
        table = np.concatenate([flat.reshape(CLASSES, INPUTS + 1), [np.append(own + corner, 0.0)]])
        return float((logits(one.queries, table[:, :-1], table[:, -1]).argmax(axis=1) == one.truth).mean())

    for _ in range(5):
        own = rng.standard_normal(INPUTS) / math.sqrt(INPUTS)
        assert hits(model.flat, own) > hits(one.start.flat, own)


def test_the_more_shows_above_the_noise_the_farther_from_the_start() -> None:
    """The oracle of what shows: a sum of n squared normal numbers has mean n and a deviation of the root of 2n."""
    one, noise = world(), 0.005
    plan = planned(one, noise_std=noise)
    mean, many = mean_of(one, plan), CLASSES * plan.directions
    first = unpacked(plan, mean)[0]
    moved = []
    for deviations in (1.9, 2.0, 2.01, 2.5, 3.0, 3.5, 3.99, 4.2):
        factor = math.sqrt(noise**2 * (many + deviations * math.sqrt(2 * many)) / float((first**2).sum()))
        told = np.concatenate([factor * mean[:many], mean[many:]]).astype(np.float32)
        moved.append(summary_model(one.start, plan, told, noise_std=noise).flat - one.start.flat)
    far = [float(np.linalg.norm(its)) / float(np.linalg.norm(moved[-1])) for its in moved]
    assert far[0] == 0
    assert far == sorted(far)
    assert far[2] < 0.02
    assert far[4] == pytest.approx(0.5, abs=0.05)
    assert far[6] == pytest.approx(1.0, abs=0.03)


def test_each_guard_alone_holds_back_what_noise_made() -> None:
    rng = np.random.default_rng(0)
    noise = [rng.standard_normal((CLASSES, 20)) for _ in range(100)]
    believed = [bool(_posterior(one, np.ones(CLASSES), np.eye(CLASSES), 1.0).any()) for one in noise]
    assert sum(believed) <= 8
    assert _posterior(noise[0] + 3.0, np.ones(CLASSES), np.eye(CLASSES), 1.0).any()
    weights = [_shrunk(one[:, 0], 1.0) for one in noise]
    assert sum(bool(one.any()) for one in weights) <= 8
    assert (_shrunk(np.full(CLASSES, 3.0), 1.0) == 3.0).all()


@pytest.mark.parametrize("noise", [0.0, 0.0005, 0.002, 0.005, 0.02, 0.05, 0.2, 1.0, 20.0])
def test_no_noise_makes_it_worse_than_the_names(noise: float) -> None:
    """On average over the noise; there is no step size that could be set wrongly."""
    one = world()
    plan = planned(one, noise_std=noise)
    names = accuracy(one, summary_model(one.start, plan, np.zeros(plan.length, dtype=np.float32), noise_std=1.0))
    mean, rng = mean_of(one, plan), np.random.default_rng(7)
    found = [
        accuracy(
            one,
            summary_model(
                one.start,
                plan,
                (mean + noise * rng.standard_normal(plan.length)).astype(np.float32),
                noise_std=noise,
            ),
        )
        for _ in range(12)
    ]
    assert float(np.mean(found)) >= names - 0.01
    if noise <= 0.005:
        assert float(np.mean(found)) >= names + 0.08


def test_the_mechanism_of_central_rounds_carries_it(tmp_path: Path) -> None:
    one, z = world(), 1.0
    plan = planned(one, noise_std=z / DEVICES)
    settings = NoiseParameters(
        dimension=plan.length, clip_norm=SUMMARY_NORM, noise_multiplier=z, cohort=DEVICES, honest_share=1.0
    )
    answers = [summary(plan, x, y) for x, y in one.devices]
    mean = central_mean(answers, settings, SecureStream(), denominator=DEVICES)
    model = summary_model(one.start, plan, mean, noise_std=z * SUMMARY_NORM / DEVICES)
    model.save(tmp_path / "model.safetensors")
    loaded = Checkpoint.load(tmp_path / "model.safetensors")
    assert loaded.round == 1
    assert accuracy(one, loaded) > accuracy(one, one.start) + 0.05


def test_labels_that_no_device_has_stay_near_their_names() -> None:
    one = world()
    plan = dataclasses.replace(planned(one, noise_std=0.0), scatter=0)
    few = [(x[y != 0], y[y != 0]) for x, y in one.devices]
    mean = np.mean([summary(plan, x, y).astype(np.float64) for x, y in few], axis=0)
    model = summary_model(one.start, plan, mean.astype(np.float32), noise_std=0.0)
    assert np.isfinite(model.flat).all()
    assert accuracy(one, model) > 0.5


def test_less_noise_asks_for_more() -> None:
    found = [directions_for(noise) for noise in (1e6, 1.0, 0.02, 0.002, 0.0002, 0.0)]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (1, 384)
    one = world()
    assert planned(one, noise_std=SCATTER_NOISE).scatter > 0 == planned(one, noise_std=1.01 * SCATTER_NOISE).scatter


def test_the_same_texts_and_names_give_the_same_plan() -> None:
    assert planned(world()).digest() == planned(world()).digest() != planned(world(1)).digest()


def test_wording_counts_less_than_meaning() -> None:
    rng = np.random.default_rng(0)
    size = 8 + SPELLING
    names = rng.standard_normal((2, size)).astype(np.float32)
    start = Checkpoint(
        flat=np.column_stack([names, np.zeros(2)]).astype(np.float32).reshape(-1),
        dimension=size,
        wording=SPELLING,
        encoder="toy",
        catalogue=Catalogue.from_names(["a", "b"]),
    )
    public = rng.standard_normal((20, size)).astype(np.float32)
    plan = plan_summary(start, public, noise_std=0.05)
    own = plan.basis.astype(np.float64)
    own[:, 8:] *= 2.0
    assert np.allclose(own @ own.T, np.eye(plan.directions), atol=1e-5)
    plain = plan_summary(dataclasses.replace(start, wording=0), public, noise_std=0.05)
    np.testing.assert_allclose(plain.basis @ plain.basis.T, np.eye(plain.directions), atol=1e-5)


def test_bad_input_is_refused() -> None:
    one = world()
    plan = planned(one)
    good = np.zeros(plan.length, dtype=np.float32)
    bad = good.copy()
    bad[3] = np.nan
    for mean, noise in ((bad, 0.1), (good[:-1], 0.1), (good, -1.0), (good, math.inf), (good, math.nan)):
        with pytest.raises(ModelError):
            summary_model(one.start, plan, mean, noise_std=noise)
    with pytest.raises(ModelError, match="after round 3"):
        summary_model(dataclasses.replace(one.start, round=3), plan, good, noise_std=0.1)
    other = SummaryPlan(basis=plan.basis, centres=plan.centres[:-1])
    with pytest.raises(ModelError, match="another model"):
        summary_model(one.start, other, np.zeros(other.length, dtype=np.float32), noise_std=0.1)
    for public in (one.public[:, :-1], one.public[:1], np.full_like(one.public, np.nan)):
        with pytest.raises(ModelError, match="public inputs"):
            plan_summary(one.start, public, noise_std=0.1)
    for noise in (-0.1, math.nan, math.inf):
        with pytest.raises(ModelError, match="noise_std"):
            planned(one, noise_std=noise)
