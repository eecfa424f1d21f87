"""Recency against an oracle of plain loops, and what it does for people whose habits change, and for those who stay."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.device.device import Device, Memory
from engine.model.catalogue import Catalogue
from engine.personal import drift, recency
from engine.personal.drift import DRIFT_MARKS, NEVER
from engine.personal.personalizer import Personalizer
from engine.personal.recency import LEAST_CHANCE, MOST_MOMENTS, Recency, recency_weights
from engine.personal.rescorer import PUBLIC_WEIGHTS, Evidence, LabelledMemory, log_softmax
from engine.personal.together import Learned, device_answer
from store import DeviceKey, FileSecret

SEEDS = st.integers(0, 2**32 - 1)
FOOD = np.array([[0.5, 0.5, 0.0]])  # The model knows the kind and not the habit.
OLD, NEW, ELSE = 0, 1, 2


def weights_of(labels: Sequence[int], *, alike: Sequence[float] | None = None) -> np.ndarray:
    """The weights of memories with these labels before a query for food; all 1 where no change is found."""
    k = np.ones((1, len(labels))) if alike is None else np.array([alike])
    found = recency_weights(k, FOOD, np.array(labels, dtype=np.int64))
    return np.ones(len(labels)) if found is None else found[0]


def oracle(alike: list[float], p: list[float], y: list[int]) -> list[float]:
    """The formula in the module's docstring, for one query."""
    even = sum(math.sqrt(one / len(p)) for one in p) ** recency.EVEN_POWER
    k = [min(1.0, recency.ALIKE_GAIN * max(0.0, 1 - even) * one) for one in alike]
    start = [recency.URN_START * ((1 - recency.EVEN_SHARE) * one + recency.EVEN_SHARE / len(p)) for one in p]

    def told(label: int, those: list[int]) -> float:
        same = sum(k[j] for j in those if y[j] == label)
        return (start[label] + same) / (recency.URN_START + sum(k[j] for j in those))

    weights = [1.0] * len(y)
    for _ in range(recency.MOST_CHANGES):
        odds = []
        for s in range(len(y)):
            ratio = 1.0
            for i in range(s, len(y)):
                ratio *= (told(y[i], list(range(i + 1, len(y)))) / told(y[i], list(range(i)))) ** k[i]
            odds.append(recency.RATE * k[s] * min(1.0, sum(k[:s])) / (1 + recency.RATE * sum(k)) * ratio)
        chance = [one / (1 + sum(odds)) for one in odds]
        if sum(chance) <= LEAST_CHANCE:
            break
        past = [sum(chance[: i + 1]) / sum(chance) for i in range(len(y))]
        weights = [weight * one for weight, one in zip(weights, past, strict=True)]
        k = [one * its for one, its in zip(k, past, strict=True)]
    return weights


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, rows=st.integers(1, 14), classes=st.integers(1, 4), change=st.booleans())
def test_weights_equal_the_oracle(seed: int, rows: int, classes: int, change: bool) -> None:
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=rows)
    if change:
        y = np.where(np.arange(rows) < rows // 2, 0, classes - 1)
    alike, p = rng.random((3, rows)) ** (0.2 if change else 1.0), rng.dirichlet(np.full(classes, 0.5), size=3)
    got = recency_weights(alike, p, y)
    expected = [oracle(a, q, y.tolist()) for a, q in zip(alike.tolist(), p.tolist(), strict=True)]
    np.testing.assert_allclose(np.ones((3, rows)) if got is None else got, expected, rtol=1e-6, atol=1e-9)


def test_the_oracle_is_asked_about_changes_as_well() -> None:
    assert min(oracle([1.0] * 9, FOOD[0].tolist(), [OLD] * 6 + [NEW] * 3)) < 0.1


@pytest.mark.parametrize("before", [3, 6, 20, 100])
def test_a_new_habit_takes_over_within_a_few_memories(before: int) -> None:
    needed = next(n for n in range(1, 10) if weights_of([OLD] * before + [NEW] * n)[0] < 0.5)
    assert needed <= 3
    late = weights_of([OLD] * before + [NEW] * 6)
    assert late[:before].sum() < 1.0 < 5.5 < late[before:].sum()


@pytest.mark.parametrize("before", [1, 2, 6, 20, 100, 1000])
@pytest.mark.parametrize("label", [NEW, ELSE])
def test_one_exception_never_outweighs_the_habit(before: int, label: int) -> None:
    weights = weights_of([OLD] * before + [label])
    assert weights[:before].sum() >= weights[before]
    assert weights_of([OLD] * before + [label] + [OLD] * 2).min() == 1.0  # And soon it counts as one.


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 60), label=st.sampled_from([OLD, NEW, ELSE]))
def test_a_habit_that_never_changed_keeps_every_memory(rows: int, label: int) -> None:
    assert weights_of([label] * rows).min() == 1.0


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_memories_keep_their_weight(rows: int) -> None:
    assert recency_weights(np.ones((2, rows)), np.repeat(FOOD, 2, axis=0), np.arange(rows)) is None


def test_a_change_among_memories_that_are_not_alike_leaves_all_as_they_are() -> None:
    assert weights_of([OLD] * 8 + [NEW] * 8, alike=[0.0] * 16).min() == 1.0
    mixed = [OLD, ELSE] * 6 + [OLD, NEW] * 4
    assert weights_of(mixed, alike=[1.0, 0.0] * 10).min() == 1.0  # The kind that is asked for has stayed.
    assert weights_of(mixed, alike=[0.0, 1.0] * 10).min() < 0.1  # The other one has not.


def test_a_model_that_answers_alike_to_everything_tells_of_no_change() -> None:
    even = np.full((1, 3), 1 / 3)
    assert recency_weights(np.ones((1, 16)), even, np.array([OLD] * 8 + [NEW] * 8)) is None


def test_a_change_is_followed_again_and_back() -> None:
    weights = weights_of([OLD] * 8 + [NEW] * 8 + [OLD] * 5)
    assert weights[:8].sum() < 0.5
    assert weights[8:16].sum() < 2.5 < weights[16:].sum()


def test_older_memories_than_the_moments_looked_at_lose_their_say_with_the_oldest_of_these() -> None:
    labels = [OLD] * (MOST_MOMENTS + 50) + [NEW] * 60
    weights = weights_of(labels)
    assert weights.shape == (len(labels),)
    assert weights[:100].max() < 1e-6 < 0.99 < weights[-50:].min()
    assert weights_of([OLD] * (MOST_MOMENTS + 50)).min() == 1.0


@pytest.mark.parametrize(
    ("alike", "p"),
    [
        (np.zeros((1, 6)), FOOD),
        (np.full((1, 6), 1e-300), FOOD),
        (np.ones((1, 6)) + 1e-12, FOOD),
        (np.ones((1, 6)), np.array([[0.0, 0.0, 1.0]])),
        (np.ones((1, 6)), np.array([[1e-300, 0.0, 1.0]])),
        (np.ones((0, 6)), np.zeros((0, 3))),
    ],
    ids=["unlike", "hardly alike", "a little above 1", "never expected", "hardly expected", "no query"],
)
def test_odd_inputs_give_finite_weights_or_none(alike: np.ndarray, p: np.ndarray) -> None:
    with np.errstate(invalid="raise", over="raise"):
        weights = recency_weights(alike, p, np.array([OLD] * 3 + [NEW] * 3))
    assert weights is None or (np.isfinite(weights).all() and 0 <= weights.min() <= weights.max() <= 1)


# In the personalizer: people of four kinds of request, three services each, whose favourites the model cannot know.


@dataclass
class Person:
    """Requests in order of time: vectors, labels, global logs, and which of them a habit that changes answers."""

    x: np.ndarray
    y: np.ndarray
    logs: np.ndarray
    changed: np.ndarray
    change: int

    def memory(self, rows: np.ndarray) -> LabelledMemory:
        logs = self.logs[rows]
        return LabelledMemory(x=self.x[rows], y=self.y[rows], global_log=logs, public=12)


def person(seed: int, *, changes: bool, rows: int = 120) -> Person:
    rng = np.random.default_rng(seed)
    kinds = rng.choice(4, size=rows, p=rng.permutation([0.4, 0.3, 0.2, 0.1]))
    favourite = rng.integers(3, size=4)
    after = (favourite + np.where(np.arange(4) % 2 == seed % 2, 1, 0)) % 3 if changes else favourite
    change = rows // 2
    loyal = np.where(np.arange(rows) < change, favourite[kinds], after[kinds])
    y = 3 * kinds + np.where(rng.random(rows) < 0.85, loyal, rng.integers(3, size=rows))
    logits = rng.normal(0, 0.7, size=(rows, 12)) + 5.0 * (np.arange(12) // 3 == kinds[:, None])
    centres = rng.standard_normal((4, 16))
    x = centres[kinds] + rng.standard_normal((rows, 16))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return Person(x=x, y=y, logs=log_softmax(logits), changed=(favourite != after)[kinds], change=change)


def fitted(memory: LabelledMemory, recency: Recency | None = recency_weights) -> Personalizer:
    personal = Personalizer.fit(memory, Evidence(rows=np.arange(len(memory.y)), global_log=memory.global_log))
    personal.recency = recency
    return personal


def right(one: Person, *, first: int, told: bool = False, recency: Recency | None = recency_weights) -> np.ndarray:
    """Whether each request (rows − first,) is answered right from those before it; ``told`` forgets changed habits."""
    hits = []
    for row in range(first, len(one.y)):
        rows = np.arange(row)
        if told and row >= one.change:
            rows = rows[~one.changed[:row] | (rows >= one.change)]
        personal = fitted(one.memory(rows), recency)
        hits.append(personal.predict(one.logs[row : row + 1], one.x[row : row + 1]).argmax() == one.y[row])
    return np.array(hits)


def test_where_no_change_is_found_answers_are_those_without_recency_to_the_bit() -> None:
    same = differ = 0
    for seed in range(20):
        one = person(seed, changes=seed % 2 == 0)
        rows, queries = np.arange(90), np.arange(90, 120)
        with_, without = (
            Personalizer.fit(
                one.memory(rows),
                Evidence(rows=rows, global_log=one.logs[rows]),
                learned=Learned(least_chance=least_chance),
            )
            for least_chance in (LEAST_CHANCE, NEVER)
        )
        np.testing.assert_array_equal(with_.weights, without.weights)  # What is judged is judged as ever.
        for at in queries:
            answers = [each.predict(one.logs[at : at + 1], one.x[at : at + 1]) for each in (with_, without)]
            alike = np.minimum((np.exp(one.logs[at] / 2) @ np.exp(one.logs[rows] / 2).T) ** 4, 1.0)
            alike *= np.sqrt(np.maximum(one.x[rows] @ one.x[at], 0.0))
            if recency_weights(alike[None], np.exp(one.logs[at : at + 1]), one.y[rows]) is None:
                np.testing.assert_array_equal(answers[0], answers[1])
                same += 1
            else:
                differ += not np.array_equal(answers[0], answers[1])
    assert same > 300
    assert differ > 30


def test_the_likelihood_and_the_other_marks_that_a_device_gives_know_no_recency(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, packed = person(0, changes=True), []
    evidence = Evidence(rows=np.arange(120), global_log=one.logs)
    for follows in (recency_weights, lambda *given, **terms: None):
        monkeypatch.setattr(drift, "recency_weights", follows)
        packed.append(device_answer(one.memory(np.arange(120)), evidence, PUBLIC_WEIGHTS))
    np.testing.assert_array_equal(packed[0][:-DRIFT_MARKS], packed[1][:-DRIFT_MARKS])
    assert (packed[0][-DRIFT_MARKS:] != packed[1][-DRIFT_MARKS:]).any()


def test_people_whose_habits_stay_lose_nothing_and_seldom_seem_to_change() -> None:
    found, gained = [], []
    for seed in range(16):
        one, asked = person(seed, changes=False, rows=90), []

        def watched(*given: Any, asked: list[bool] = asked) -> np.ndarray | None:
            weights = recency_weights(*given)
            asked.append(weights is not None)
            return weights

        gained.append(right(one, first=50, recency=watched).mean() - right(one, first=50, recency=None).mean())
        found += asked
    assert np.mean(found) < 0.1
    assert np.mean(gained) > -0.005


def test_changed_habits_are_back_after_ten_events_and_those_that_stay_lose_nothing() -> None:
    hits: dict[str, list[np.ndarray]] = {"recency": [], "none": [], "told": []}
    early, later, stable = [], [], []
    for seed in range(14):
        one = person(seed, changes=True, rows=100)
        after = np.arange(len(one.y)) >= one.change
        since = np.cumsum(after & one.changed)
        early.append((after & one.changed & (since > 5) & (since <= 10))[one.change :])
        later.append((after & one.changed & (since > 10))[one.change :])
        stable.append((after & ~one.changed)[one.change :])
        hits["recency"].append(right(one, first=one.change))
        hits["none"].append(right(one, first=one.change, recency=None))
        hits["told"].append(right(one, first=one.change, told=True, recency=None))

    def accuracy(name: str, of: list[np.ndarray]) -> float:
        return float(np.concatenate(hits[name])[np.concatenate(of)].mean())

    for of, least in ((early, 0.5), (later, 0.8)):
        lost = accuracy("told", of) - accuracy("none", of)
        assert lost > 0.15
        assert accuracy("recency", of) > accuracy("none", of) + least * lost
    assert accuracy("recency", stable) > accuracy("none", stable) - 0.005


# On a device.

LIFE = [("pizza or opera tonight", label, float(n)) for n, label in enumerate(["pizza"] * 6 + ["opera"] * 4)]
SURE = {"taxi": -4.0, "night_bus": -4.0, "pizza": 0.0, "opera": 0.0}


def opened(folder: Path, catalogue: Catalogue, encoder: Any) -> Device:
    folder.mkdir()
    secret = FileSecret(folder / "secret")
    return Device.create(folder / "phone", DeviceKey.generate(), catalogue=catalogue, encoder=encoder, secret=secret)


def knowing(device: Device, encoder: Any) -> Device:
    """The device with a shared model that knows which services these requests are for, and not which one."""
    table = np.zeros((len(device.model.catalogue), device.model.dimension + 1), dtype=np.float32)
    for name, bias in SURE.items():
        table[device.model.catalogue.index(name), -1] = bias
    device.load_model(dataclasses.replace(device.model, flat=table.reshape(-1)))
    return device


def answers(device: Device) -> list[tuple[str, float]]:
    return [(one.label, one.score) for one in device.suggest("pizza or opera tonight", k=4)]


def test_a_device_follows_its_user_and_goes_by_the_time_of_memories(
    tmp_path: Path, catalogue: Catalogue, toy: Any
) -> None:
    told = [Memory(text=text, label=label, time=time) for text, label, time in LIFE]
    with (
        knowing(opened(tmp_path / "one", catalogue, toy), toy) as device,
        knowing(opened(tmp_path / "two", catalogue, toy), toy) as mixed,
        knowing(opened(tmp_path / "three", catalogue, toy), toy) as reversed_,
    ):
        device.remember_many(told)
        assert answers(device)[0][0] == "opera"
        mixed.remember_many(told[::2])
        mixed.remember_many(told[1::2])
        assert answers(mixed) == answers(device)  # To the last bit.
        reversed_.remember_many([dataclasses.replace(one, time=-(one.time or 0.0)) for one in told])
        assert answers(reversed_)[0][0] == "pizza"


def test_memories_of_one_moment_go_by_the_order_in_which_they_were_kept(
    tmp_path: Path, catalogue: Catalogue, toy: Any
) -> None:
    with (
        knowing(opened(tmp_path / "one", catalogue, toy), toy) as timed,
        knowing(opened(tmp_path / "two", catalogue, toy), toy) as timeless,
    ):
        timed.remember_many([Memory(text=text, label=label, time=time) for text, label, time in LIFE])
        timeless.remember_many([Memory(text=text, label=label, time=7.0) for text, label, _ in LIFE])
        assert answers(timeless) == answers(timed)


def test_a_forgotten_change_leaves_no_trace(tmp_path: Path, catalogue: Catalogue, toy: Any) -> None:
    told = [Memory(text=text, label=label, time=time) for text, label, time in LIFE]
    with (
        knowing(opened(tmp_path / "one", catalogue, toy), toy) as device,
        knowing(opened(tmp_path / "two", catalogue, toy), toy) as innocent,
    ):
        device.remember_many(told[:6])
        innocent.remember_many(told[:6])
        changed = device.remember_many(told[6:])
        assert answers(device)[0][0] == "opera"
        device.forget(changed)
        assert answers(device) == answers(innocent)  # To the last bit.
        assert answers(device)[0][0] == "pizza"
