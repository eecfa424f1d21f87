"""The re-scorer and the personalizer, against an oracle of plain loops that follows the formulas in the docstrings."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ModelError
from engine.personal import rescorer
from engine.personal.caution import CAUTION_MARKS, CAUTIONS, PUBLIC_GAINS, caution_marks, cautious_of, gains_of
from engine.personal.drift import NEVER
from engine.personal.personalizer import AGAINST_NATS, Personalizer
from engine.personal.rescorer import (
    KAPPA,
    MOST_EVIDENCE,
    MOST_WEIGHT,
    PUBLIC_WEIGHTS,
    SHARED_RIDGE,
    STATISTICS_LENGTH,
    Evidence,
    K,
    LabelledMemory,
    Statistics,
    check_weights,
    evidence_features,
    local_weights,
    log_softmax,
    newton_step,
    query_features,
    statistics,
)
from engine.personal.together import Learned, device_answer

Row = tuple[np.ndarray, int]  # A memory's vector and label.


def oracle_features(
    g: list[float],
    x: np.ndarray,
    memory: list[Row],
    answers: list[list[float]],
    prior: list[float],
    weights: list[float] | None = None,
) -> list[list[float]]:
    """φ for each label, K numbers each.

    ``g`` are global log probabilities, ``answers`` the global probabilities for each memory, ``prior`` sums to one.
    ``weights`` say how much each memory counts.
    """
    weights = weights or [1.0] * len(memory)
    sharpness = rescorer.NEAR_SHARPNESS
    cosines = [sum(float(a) * float(b) for a, b in zip(x, vector, strict=True)) for vector, _ in memory]
    kernels = [weight * math.exp(sharpness * (cosine - 1)) for weight, cosine in zip(weights, cosines, strict=True)]
    anchor = math.exp(sharpness * (rescorer.ANCHOR_COSINE - 1))
    p = [math.exp(one) for one in g]
    alike = [
        weight * sum(math.sqrt(a * b) for a, b in zip(p, answer, strict=True)) ** rescorer.ALIKE_POWER
        for weight, answer in zip(weights, answers, strict=True)
    ]
    found = []
    for y in range(len(g)):
        own = [weight * (label == y) for weight, (_, label) in zip(weights, memory, strict=True)]
        often = [
            math.log((sum(own) + smoothing * prior[y]) / ((sum(weights) + smoothing) * prior[y]))
            for smoothing in (rescorer.LITTLE, rescorer.MUCH)
        ]
        its = [label == y for _, label in memory]
        near = sum(kernel for kernel, one in zip(kernels, its, strict=True) if one) + anchor * prior[y]
        usual = rescorer.ALIKE_SELF * p[y] + rescorer.ALIKE_FLOOR
        chosen = sum(each for each, one in zip(alike, its, strict=True) if one) + usual
        expected = sum(one * answer[y] for one, answer in zip(alike, answers, strict=True)) + usual
        found.append(
            [
                max(g[y], rescorer.LEAST_LOG),
                *often,
                math.log(near / ((sum(kernels) + anchor) * prior[y])),
                math.log(chosen / expected),
                math.log(prior[y]),
            ]
        )
    return found


def oracle_prior(expected: np.ndarray, rows: int) -> list[float]:
    blended = [rows * float(share) + rescorer.EVEN_ROWS / len(expected) for share in expected]
    return [share / sum(blended) for share in blended]


@dataclass
class Case:
    """A device drawn at random: m memories of 6 floats, C labels, some of the rows as evidence."""

    memory: LabelledMemory
    evidence: Evidence
    queries: np.ndarray
    query_logs: np.ndarray

    @property
    def rows(self) -> list[Row]:
        return [(vector, int(label)) for vector, label in zip(self.memory.x, self.memory.y, strict=True)]

    @property
    def judged(self) -> rescorer.Judged:
        return evidence_features(self.memory, self.evidence.rows, self.evidence.global_log)

    def fit(self) -> Personalizer:
        return Personalizer.fit(self.memory, self.evidence)


def case(seed: int, *, rows: int, classes: int = 4, judged: int | None = None, skill: float = 1.0) -> Case:
    rng = np.random.default_rng(seed)

    def unit(count: int) -> np.ndarray:
        vectors = rng.standard_normal((count, 6))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    y = rng.choice(classes, size=rows, p=rng.dirichlet(np.ones(classes)))
    logits = rng.standard_normal((rows, classes))
    logits[np.arange(rows), y] += skill * rng.random(rows)
    judges = np.sort(rng.choice(rows, size=rows if judged is None else judged, replace=False)).astype(np.int64)
    logs = log_softmax(logits)
    return Case(
        memory=LabelledMemory(x=unit(rows), y=y.astype(np.int64), global_log=logs, public=classes),
        evidence=Evidence(rows=judges, global_log=logs[judges]),
        queries=unit(3),
        query_logs=log_softmax(rng.standard_normal((3, classes))),
    )


SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.integers(1, 12)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, rows=st.integers(0, 12))
def test_features_of_queries_equal_the_oracle(seed: int, rows: int) -> None:
    drawn = case(seed, rows=rows)
    memory = drawn.memory
    prior, answers = oracle_prior(memory.expected, rows), np.exp(memory.global_log).tolist()
    got = query_features(memory, drawn.queries, drawn.query_logs)
    assert got.shape == (3, 4, K)
    for x, g, features in zip(drawn.queries, drawn.query_logs.tolist(), got, strict=True):
        np.testing.assert_allclose(features, oracle_features(g, x, drawn.rows, answers, prior), rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, rows=SIZES)
def test_features_of_queries_count_each_memory_by_its_weight(seed: int, rows: int) -> None:
    drawn, weights = case(seed, rows=rows), np.random.default_rng(seed).random((3, rows)).round(1)
    memory = drawn.memory
    prior, answers = oracle_prior(memory.expected, rows), np.exp(memory.global_log).tolist()
    got = query_features(memory, drawn.queries, drawn.query_logs, lambda alike, expected, y: weights)
    for x, g, features, its in zip(drawn.queries, drawn.query_logs.tolist(), got, weights.tolist(), strict=True):
        oracle = oracle_features(g, x, drawn.rows, answers, prior, its)
        np.testing.assert_allclose(features, oracle, rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, rows=SIZES)
def test_features_of_evidence_are_those_of_the_memory_without_the_row(seed: int, rows: int) -> None:
    drawn = case(seed, rows=rows, judged=max(1, rows - 1))
    prior, judged = oracle_prior(drawn.memory.expected, rows), drawn.judged
    answers = np.exp(drawn.memory.global_log).tolist()
    assert judged.y.tolist() == drawn.memory.y[drawn.evidence.rows].tolist()
    for row, g, features in zip(drawn.evidence.rows, drawn.evidence.global_log.tolist(), judged.phi, strict=True):
        others = drawn.rows[:row] + drawn.rows[row + 1 :]
        oracle = oracle_features(g, drawn.memory.x[row], others, answers[:row] + answers[row + 1 :], prior)
        np.testing.assert_allclose(features, oracle, rtol=1e-4, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, rows=SIZES)
def test_gradient_and_curvature_are_the_derivatives_of_the_likelihood(seed: int, rows: int) -> None:
    judged = case(seed, rows=rows).judged
    w, step = PUBLIC_WEIGHTS + np.random.default_rng(seed).normal(0, 0.3, K), 1e-5
    here = statistics(judged, w)
    for at in range(K):
        move = step * np.eye(K)[at]
        ahead, behind = statistics(judged, w + move), statistics(judged, w - move)
        assert (ahead.value - behind.value) / (2 * step) == pytest.approx(here.gradient[at], rel=1e-4, abs=1e-4)
        slope = (behind.gradient - ahead.gradient) / (2 * step)
        np.testing.assert_allclose(slope, here.curvature[at], rtol=1e-4, atol=1e-4)
    assert np.linalg.eigvalsh(here.curvature).min() > -1e-8  # The likelihood is concave.


@settings(max_examples=30, deadline=None)
@given(seeds=st.lists(SEEDS, min_size=1, max_size=4))
def test_packed_statistics_add_up_as_the_statistics_do(seeds: list[int]) -> None:
    all_of_them = [statistics(case(seed, rows=6).judged, PUBLIC_WEIGHTS) for seed in seeds]
    packed = sum((one.packed() for one in all_of_them), start=np.zeros(STATISTICS_LENGTH))
    assert packed.shape == (STATISTICS_LENGTH,) == (K + K * (K + 1) // 2,)
    unpacked = Statistics.unpacked(packed)
    np.testing.assert_allclose(unpacked.gradient, np.sum([one.gradient for one in all_of_them], axis=0), atol=1e-9)
    np.testing.assert_allclose(unpacked.curvature, np.sum([one.curvature for one in all_of_them], axis=0), atol=1e-9)


def test_newton_steps_reach_the_optimum_of_all_devices_together() -> None:
    devices = [case(seed, rows=40, skill=2.0).judged for seed in range(20)]
    w = PUBLIC_WEIGHTS
    for _ in range(3):
        w = newton_step(w, sum((statistics(one, w).packed() for one in devices), start=np.zeros(STATISTICS_LENGTH)))
    gradient = sum((statistics(one, w).gradient for one in devices), start=np.zeros(K))
    slope = gradient - SHARED_RIDGE * (w - PUBLIC_WEIGHTS)
    assert np.abs(slope).max() < 0.02 * np.abs(sum(statistics(one, PUBLIC_WEIGHTS).gradient for one in devices)).max()


def test_newton_steps_of_devices_whose_shared_model_is_far_too_sure_still_climb() -> None:
    devices = []
    for seed in range(20):
        drawn = case(seed, rows=40, skill=2.0)
        sure = log_softmax(8 * drawn.memory.global_log)  # Eight times the logits: often wrong, and certain.
        memory = replace(drawn.memory, global_log=sure)
        devices.append(evidence_features(memory, drawn.evidence.rows, sure[drawn.evidence.rows]))
    w, values = PUBLIC_WEIGHTS, []
    for _ in range(3):
        summed = [statistics(one, w) for one in devices]
        values.append(sum(one.value for one in summed))
        w = newton_step(w, sum((one.packed() for one in summed), start=np.zeros(STATISTICS_LENGTH)))
    values.append(sum(statistics(one, w).value for one in devices))
    assert values == sorted(values)
    assert 0 < w[0] < 0.5


def test_newton_step_on_sums_that_noise_made_indefinite_stays_bounded() -> None:
    noise = np.random.default_rng(0).normal(0, 50, STATISTICS_LENGTH)
    assert np.linalg.eigvalsh(Statistics.unpacked(noise).curvature).min() < 0
    check_weights(newton_step(PUBLIC_WEIGHTS, noise))
    check_weights(newton_step(PUBLIC_WEIGHTS, 1e12 * noise))
    np.testing.assert_array_equal(newton_step(PUBLIC_WEIGHTS, np.zeros(STATISTICS_LENGTH)), PUBLIC_WEIGHTS)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_newton_step_on_what_is_not_finite_is_refused(bad: float) -> None:
    total = np.zeros(STATISTICS_LENGTH)
    total[3] = bad
    with pytest.raises(ModelError, match="NaN or infinity"):
        newton_step(PUBLIC_WEIGHTS, total)


@pytest.mark.parametrize(
    "weights",
    [
        np.zeros(K - 1),
        np.zeros((K, 1)),
        np.zeros(K, dtype=np.float32),
        np.full(K, np.nan),
        np.full(K, np.inf),
        np.full(K, MOST_WEIGHT * 1.01),
    ],
)
def test_weights_that_are_none_are_refused(weights: np.ndarray) -> None:
    with pytest.raises(ModelError, match=f"Expected {K} weights"):
        check_weights(weights)
    with pytest.raises(ModelError, match=f"Expected {K} weights"):
        device_answer(case(0, rows=3).memory, case(0, rows=3).evidence, weights)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, rows=st.integers(1, 40), skill=st.sampled_from([0.0, 1.0, 4.0]))
def test_own_weights_are_the_optimum_held_to_those_of_the_population(seed: int, rows: int, skill: float) -> None:
    judged = case(seed, rows=rows, skill=skill).judged
    w = local_weights(judged, PUBLIC_WEIGHTS)
    slope = statistics(judged, w).gradient - KAPPA * (w - PUBLIC_WEIGHTS)
    assert np.abs(slope).max() < 0.05
    far = local_weights(judged, PUBLIC_WEIGHTS, kappa=1e9)
    np.testing.assert_allclose(far, PUBLIC_WEIGHTS, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 5])
def test_without_evidence_the_weights_of_the_population_hold(rows: int) -> None:
    drawn = case(3, rows=rows, judged=0)
    population = PUBLIC_WEIGHTS + 0.5
    personal = Personalizer.fit(drawn.memory, drawn.evidence, learned=Learned(weights=population))
    np.testing.assert_array_equal(personal.weights, population)


def test_without_memories_the_global_model_answers_to_the_bit() -> None:
    drawn = case(3, rows=0)
    assert drawn.fit().is_global
    np.testing.assert_array_equal(drawn.fit().predict(drawn.query_logs, drawn.queries), drawn.query_logs)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, rows=st.integers(1, 30), skill=st.sampled_from([-4.0, 0.0, 1.0, 4.0]))
def test_evidence_never_speaks_against_the_personal_answers_by_more_than_the_bound(
    seed: int, rows: int, skill: float
) -> None:
    drawn = case(seed, rows=rows, skill=skill)
    personal = drawn.fit()
    difference = 0.0
    for row, g in zip(drawn.evidence.rows, drawn.evidence.global_log, strict=True):
        keep = np.arange(rows) != row
        memory = drawn.memory
        terms = {"x": memory.x[keep], "y": memory.y[keep], "global_log": memory.global_log[keep]}
        without = dataclasses.replace(memory, **terms)
        object.__setattr__(without, "prior", memory.prior)  # A row leaves counts and neighbours, not the prior.
        answer = Personalizer(without, personal.weights).predict(g[None], memory.x[row : row + 1])[0]
        difference += float(answer[memory.y[row]] - g[memory.y[row]])
    assert difference >= -AGAINST_NATS - 1e-3 * rows


def test_a_global_model_that_is_right_is_left_alone_where_personalizing_costs_likelihood() -> None:
    # The memory says label 1 for this very text forty times, twelve rows of evidence say 0 and the model knew it.
    x = np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (52, 1))
    y = np.array([1] * 40 + [0] * 12)
    sure = log_softmax(np.array([[3.0, 0.0]]))
    logs = np.repeat(sure, 52, axis=0)
    memory = LabelledMemory(x=x, y=y, global_log=logs, public=2)
    personal = Personalizer.fit(memory, Evidence(rows=np.arange(40, 52), global_log=logs[:12]))
    kept = personal.predict(sure, x[:1])
    assert personal.is_global or kept.argmax() == 0


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, rows=st.integers(2, 30))
def test_the_order_of_memories_has_no_effect_but_by_recency(seed: int, rows: int) -> None:
    drawn = case(seed, rows=rows, judged=rows // 2 + 1)
    order = np.random.default_rng(seed).permutation(rows)
    where, its, learned = np.argsort(order), drawn.memory, Learned(least_chance=NEVER)
    shuffled = Personalizer.fit(
        dataclasses.replace(its, x=its.x[order], y=its.y[order], global_log=its.global_log[order]),
        Evidence(rows=where[drawn.evidence.rows], global_log=drawn.evidence.global_log),
        learned=learned,
    )
    np.testing.assert_allclose(
        shuffled.predict(drawn.query_logs, drawn.queries),
        Personalizer.fit(its, drawn.evidence, learned=learned).predict(drawn.query_logs, drawn.queries),
        rtol=1e-5,
        atol=1e-7,
    )


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, rows=st.integers(2, 30))
def test_the_order_of_labels_has_no_effect(seed: int, rows: int) -> None:
    drawn = case(seed, rows=rows)
    order, its = np.random.default_rng(seed).permutation(4), drawn.memory
    renamed = Personalizer.fit(
        LabelledMemory(
            x=its.x,
            y=np.argsort(order)[its.y],
            global_log=its.global_log[:, order],
            public=4,
        ),
        Evidence(rows=drawn.evidence.rows, global_log=drawn.evidence.global_log[:, order]),
    )
    np.testing.assert_allclose(
        renamed.predict(drawn.query_logs[:, order], drawn.queries),
        drawn.fit().predict(drawn.query_logs, drawn.queries)[:, order],
        rtol=1e-7,
        atol=1e-7,
    )


def test_probabilities_sum_to_one_and_the_memory_moves_them_its_way() -> None:
    drawn = case(11, rows=40)
    answers = np.exp(drawn.fit().predict(drawn.query_logs, drawn.queries))
    np.testing.assert_allclose(answers.sum(axis=1), 1, rtol=1e-9)
    always = dataclasses.replace(drawn.memory, y=np.full(40, 2))
    moved = np.exp(Personalizer(always, PUBLIC_WEIGHTS).predict(drawn.query_logs, drawn.queries))
    assert (moved[:, 2] > np.exp(drawn.query_logs)[:, 2]).all()


def test_cautious_rankings_leave_the_global_first_one_only_for_one_several_times_as_likely() -> None:
    left = set()
    for seed in range(60):
        drawn, place = case(seed, rows=1 + seed // 2, skill=3.0), 3 + seed % 2
        caution, gains = CAUTIONS[place], np.where(np.arange(len(CAUTIONS)) < place, 0.5, 0.1)
        gains[place] = 0.25  # Half of the most.
        personal = Personalizer.fit(drawn.memory, drawn.evidence, learned=Learned(gains=gains))
        log_p = personal.predict(drawn.query_logs, drawn.queries)
        cautious = personal.ranking(drawn.query_logs, log_p, cautious=True).argmax(axis=1)
        for p, g, answer in zip(np.exp(log_p), drawn.query_logs, cautious, strict=True):
            best, first = int(p.argmax()), int(g.argmax())
            assert answer == (best if p[best] > caution * p[first] else first)
            left.add(answer != first)
    assert left == {True, False}


def test_cautious_rankings_are_no_less_careful_than_others() -> None:
    drawn = case(3, rows=20)
    personal = Personalizer(drawn.memory, PUBLIC_WEIGHTS, caution=10.0, when_cautious=2.0)
    log_p = personal.predict(drawn.query_logs, drawn.queries)
    cautious = personal.ranking(drawn.query_logs, log_p, cautious=True)
    np.testing.assert_array_equal(cautious, personal.ranking(drawn.query_logs, log_p))
    assert (cautious != log_p).any()


def test_cautious_rankings_keep_the_public_answer_before_a_private_label_where_the_global_model_answers_alone() -> None:
    empty = LabelledMemory(
        x=np.zeros((0, 2), dtype=np.float32),
        y=np.zeros(0, dtype=np.int64),
        global_log=np.zeros((0, 3)),
        public=2,
    )
    alone, shares = Personalizer(empty, None), np.log(np.array([[0.34, 0.30, 0.36]]))
    assert alone.ranking(shares, shares).argmax() == 2
    assert alone.ranking(shares, shares, cautious=True).argmax() == 0


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, rows=st.integers(0, 12), private=st.integers(0, 9), labels=st.integers(0, 3))
def test_statistics_say_nothing_of_private_labels_and_their_memories(
    seed: int, rows: int, private: int, labels: int
) -> None:
    plain, rng = case(seed, rows=rows), np.random.default_rng(seed)
    bare = device_answer(plain.memory, plain.evidence, PUBLIC_WEIGHTS)
    count = private if labels else 0
    x = np.concatenate([plain.memory.x, rng.standard_normal((count, 6)).astype(np.float32)])
    y = np.concatenate([plain.memory.y, 4 + rng.integers(0, max(labels, 1), size=count)]).astype(np.int64)
    # The same logits of public labels, and some of private ones.
    logits = np.concatenate([plain.memory.global_log, rng.standard_normal((count, 4))])
    logs = log_softmax(np.concatenate([logits, rng.standard_normal((len(y), labels))], axis=1))
    keys = rng.random(len(y))
    keys[: len(plain.memory.y)].sort()  # Public memories stay in their order, by which they are dealt to folds.
    mixed = np.argsort(keys)
    memory = LabelledMemory(x=x[mixed], y=y[mixed], global_log=logs[mixed], public=4)
    rows_of = np.arange(len(y))
    evidence = Evidence(rows=rows_of, global_log=logs[mixed])
    got = device_answer(memory, evidence, PUBLIC_WEIGHTS)
    np.testing.assert_allclose(got, bare, rtol=1e-6, atol=1e-8)


def test_device_has_the_highest_of_the_cautions_that_gain_most_where_all_count_as_200_of_its_memories() -> None:
    falls = np.arange(len(CAUTIONS), 0, -1) / 500
    populations = {"gains": falls, "loses": -falls}
    seen: dict[str, list[float]] = {name: [] for name in populations}
    for seed in range(40):
        one = case(seed, rows=12, skill=3.0)
        gained = []
        for caution in CAUTIONS:
            right = 0
            for features, y, g in zip(one.judged.phi, one.judged.y, one.evidence.global_log, strict=True):
                scores = features @ PUBLIC_WEIGHTS
                scores[g.argmax()] += math.log(caution)
                right += int(scores.argmax() == y) - int(g.argmax() == y)
            gained.append(right)
        for name, gains in populations.items():
            personal = Personalizer.fit(one.memory, one.evidence, learned=Learned(gains=gains))
            if not personal.is_global:
                shrunk = [own + 200 * of_all for own, of_all in zip(gained, gains, strict=True)]
                assert personal.caution == max(
                    c for c, gain in zip(CAUTIONS, shrunk, strict=True) if gain == max(shrunk)
                )
                seen[name].append(personal.caution)
    assert {1.0} < set(seen["gains"])
    assert np.mean(seen["loses"]) > np.mean(seen["gains"])


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, rows=st.integers(0, 12), skill=st.sampled_from([0.0, 1.0, 4.0]), private=st.integers(0, 2))
def test_marks_of_caution_count_right_answers_as_rankings_give_them(
    seed: int, rows: int, skill: float, private: int
) -> None:
    drawn = case(seed, rows=rows, skill=skill)
    memory = dataclasses.replace(drawn.memory, public=4 - private)
    judged = evidence_features(memory, drawn.evidence.rows, drawn.evidence.global_log)
    got = caution_marks(judged, PUBLIC_WEIGHTS, public=4 - private)
    gained, changed = [0.0] * len(CAUTIONS), [0.0] * len(CAUTIONS)
    for features, y in zip(judged.phi.tolist(), judged.y, strict=True):
        first = max(range(4 - private), key=lambda label: (features[label][0], -label))
        for place, caution in enumerate(CAUTIONS):
            scores = [sum(w * f for w, f in zip(PUBLIC_WEIGHTS, one, strict=True)) for one in features]
            scores[first] += math.log(caution)
            best = max(range(4), key=lambda label: (scores[label], -label))
            gained[place] += int(best == y) - int(first == y)
            changed[place] += (best == y) != (first == y)
    assert got.tolist() == [len(judged.y), *gained, *changed]


@pytest.mark.parametrize(
    ("gained", "caution"),
    [
        ([20, 19, 17, 15, 12, 10, 9, 8, 2], 6.0),
        ([20, 9, 8, 3, 2, 0, 0, 0, 0], 3.0),  # Never less.
        ([10, 20, 15, 9, 10, 0, 0, 0, 0], 4.0),  # The most is gained with a little caution.
        ([-2, -1, 0, 0, 0, 0, 0, 0, 0], 40.0),
        ([-9, -8, -7, -6, -5, -4, -3, -2, -1], 40.0),
        ([-1, -2, -3, -4, -5, -6, -7, -8, -9], 3.0),
    ],
)
def test_cautious_mode_is_as_careful_as_half_of_what_all_gain_allows(gained: list[int], caution: float) -> None:
    assert cautious_of(np.array(gained) / 100) == caution


def test_between_cautions_gains_fall_as_lines_over_the_logarithm() -> None:
    half_way, a_fifth = [20, 19, 17, 15, 12, 8, 8, 8, 2], [20, 19, 17, 15, 12, 11, 11, 11, 6]
    assert cautious_of(np.array(half_way) / 100) == pytest.approx(4.0 * math.sqrt(1.5))
    assert cautious_of(np.array(a_fifth) / 100) == pytest.approx(20.0 * 2.0**0.2)


def test_what_all_gain_is_told_less_one_standard_error() -> None:
    # Right answers to come and to go by chance alone: that many more come in the sixth part of cases and no more.
    rng, rows, share = np.random.default_rng(0), 4000, 0.05
    above = []
    for _ in range(2000):
        turns = rng.choice([-1, 0, 1], size=rows, p=[share / 2, 1 - share, share / 2])
        summed = np.concatenate([[rows], np.repeat(turns.sum(), 9), np.repeat(np.abs(turns).sum(), 9)])
        above.append(gains_of(summed.astype(np.float64))[0] > 0)
    assert np.mean(above) == pytest.approx(0.16, abs=0.03)
    assert gains_of(np.array([100.0, *[20.0] * 9, *[36.0] * 9])).tolist() == [0.14] * 9


def test_sums_of_cautions_that_are_none_are_refused_and_none_at_all_tell_nothing() -> None:
    assert gains_of(np.zeros(CAUTION_MARKS)).tolist() == list(PUBLIC_GAINS)
    for wrong in (np.full(CAUTION_MARKS, np.nan), np.zeros(CAUTION_MARKS + 1)):
        with pytest.raises(ModelError, match="finite sums"):
            gains_of(wrong)
    assert np.abs(gains_of(np.array([1e-3, *[5.0] * len(CAUTIONS), *[-1.0] * len(CAUTIONS)]))).max() == 1


def test_only_the_newest_evidence_is_judged() -> None:
    drawn = case(5, rows=MOST_EVIDENCE + 5)
    assert drawn.judged.y.tolist() == drawn.memory.y[5:].tolist()


def test_the_only_memory_of_a_private_label_judges_nothing() -> None:
    x = np.eye(4, dtype=np.float32)
    logs = log_softmax(np.zeros((4, 4)))
    memory = LabelledMemory(x=x, y=np.array([0, 2, 3, 3]), global_log=logs, public=2)
    judged = evidence_features(memory, np.arange(4), logs)
    assert judged.y.tolist() == [0, 3, 3]


# Edge cases: identical, impossible, certain.


def test_identical_memories_with_different_labels_stay_finite() -> None:
    x = np.tile(np.array([[0.0, 1.0]], dtype=np.float32), (6, 1))
    logs = log_softmax(np.zeros((6, 2)))
    memory = LabelledMemory(x=x, y=np.array([0, 1] * 3), global_log=logs, public=2)
    personal = Personalizer.fit(memory, Evidence(rows=np.arange(6), global_log=logs))
    assert np.isfinite(personal.predict(logs[:1], x[:1])).all()


@pytest.mark.parametrize("least", [-600.0, -1e30])
def test_a_label_that_the_global_model_never_expects_stays_finite(least: float) -> None:
    x = np.eye(2, dtype=np.float32)
    logs = log_softmax(np.array([[0.0, least], [0.0, least]]))
    memory = LabelledMemory(x=x, y=np.array([1, 1]), global_log=logs, public=2)
    with np.errstate(divide="raise", invalid="raise"):
        personal = Personalizer.fit(memory, Evidence(rows=np.arange(2), global_log=logs))
        answer = personal.predict(logs[:1], x[:1])
    assert np.isfinite(answer).all()
    assert np.exp(answer).sum() == pytest.approx(1)


@pytest.mark.parametrize(
    "terms",
    [{"y": np.array([0])}, {"public": 3}, {"public": -1}, {"x": np.zeros(2)}, {"global_log": np.zeros((3, 2))}],
    ids=str,
)
def test_memory_that_does_not_fit_together_is_refused(terms: dict[str, object]) -> None:
    whole = {"x": np.eye(2, dtype=np.float32), "y": np.array([0, 1]), "public": 2}
    whole["global_log"] = log_softmax(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="Expected"):
        LabelledMemory(**{**whole, **terms})  # type: ignore[arg-type]
