"""Habits: features as the docstring says, weights that find the keys that matter, and how often a choice repeats."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.choices.habits import (
    BACK_OFF,
    PUBLIC_HABITS,
    STATISTICS_LENGTH,
    Counts,
    Habits,
    K,
    device_statistics,
    newton_step,
    walk,
)
from engine.choices.history import ChoiceHistory, check_context, context_text
from engine.errors import ModelError
from engine.model.catalogue import Catalogue

PLACES, DAYS = ("home", "work", "pub"), ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
choices = st.lists(
    st.tuples(st.sampled_from("abcd"), st.fixed_dictionaries({"at": st.sampled_from(PLACES)}), st.integers(0, 9)),
    max_size=14,
)


def person(
    seed: int, *, events: int = 120, by: str = "at", timed: bool = True
) -> list[tuple[str, dict[str, str], float]]:
    """Someone whose choice follows one key of three; the other two say nothing."""
    rng = random.Random(seed)
    favourite: dict[str, str] = {}
    made = []
    for number in range(events):
        context = {"at": rng.choice(PLACES), "day": rng.choice(DAYS), "weather": rng.choice(("sun", "rain"))}
        value = context[by]
        favourite.setdefault(value, rng.choice("abcdef"))
        item = favourite[value] if rng.random() < 0.8 else rng.choice("abcdef")
        made.append((item, context, float(number) if timed else 0.0))
    return made


def naive_features(
    past: list[tuple[str, dict[str, str]]], names: tuple[str, ...], context: dict[str, str]
) -> np.ndarray:
    keys = sorted({key for _, its in past for key in its} | set(context))
    rows = []
    for name in names:
        share = (sum(item == name for item, _ in past) + 0.01) / (len(past) + 0.01 * len(names))
        late = sum(math.exp(-age / 10) for age, (item, _) in enumerate(reversed(past)) if item == name)
        all_late = sum(math.exp(-age / 10) for age in range(len(past)))
        row = [math.log(share), math.log((late + share) / (all_late + 1) / share)]
        row.append(float(bool(past) and past[-1][0] == name))
        for group in [[key] for key in keys] + ([keys] if len(keys) > 1 else []):
            here = [item for item, its in past if all(its.get(key, "") == context.get(key, "") for key in group)]
            row.append(math.log((here.count(name) + BACK_OFF * share) / (len(here) + BACK_OFF) / share))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("keys", [(), ("at",), ("at", "day")])
def test_features_equal_naive_ones(keys: tuple[str, ...]) -> None:
    past = [(item, {key: context[key] for key in keys}) for item, context, _ in person(1, events=30)]
    names = tuple(sorted({item for item, _ in past}))
    counts = Counts(len(names), keys)
    for item, context in past:
        counts.add(names.index(item), context)
        counts.follow(names.index(item))
    for place in (*PLACES, "the moon"):
        context = {key: value for key, value in (("at", place), ("day", "sun")) if key in keys}
        np.testing.assert_allclose(counts.features(context), naive_features(past, names, context), atol=1e-9)


@given(choices)
@settings(max_examples=40, deadline=None)
def test_each_repeat_is_judged_by_what_came_before_it_alone(made: list[Any]) -> None:
    history = ChoiceHistory.of([(item, context, float(time)) for item, context, time in made])
    seen = walk(history)
    past: list[tuple[str, dict[str, str]]] = []
    expected = []
    for place, context in zip(history.y, history.contexts, strict=True):
        name = history.names[place]
        if any(name == item for item, _ in past):
            expected.append(naive_features(past, history.names, context))
        past.append((name, context))
    if history.ordered:
        assert int(seen.repeats.sum()) == len(seen.judged.y) == len(expected)
        if expected:
            np.testing.assert_allclose(seen.judged.phi, expected, atol=1e-9)


def test_without_an_order_a_choice_is_judged_by_all_others() -> None:
    made = person(2, events=25, timed=False)
    history = ChoiceHistory.of(made)
    assert not history.ordered
    seen = walk(history)
    others = [(item, context) for item, context, _ in made]
    position = 0
    for t, (item, context) in enumerate(others):
        rest = others[:t] + others[t + 1 :]
        if not any(item == its for its, _ in rest):
            continue
        naive = naive_features(rest, history.names, context)
        naive[:, 1:3] = 0.0  # Nothing is of late, and nothing came last.
        np.testing.assert_allclose(seen.judged.phi[position], naive, atol=1e-9)
        position += 1
    assert position == len(seen.judged.y) > 10
    np.testing.assert_allclose(walk(history).counts.all, np.bincount(history.y))


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize(("by", "column"), [("at", 3), ("day", 4)])
def test_key_that_decides_gets_weight_and_keys_that_say_nothing_lose_theirs(by: str, column: int, timed: bool) -> None:
    found = [Habits.fit(ChoiceHistory.of(person(seed, by=by, timed=timed))).weights for seed in range(6)]
    weights = np.mean(found, axis=0)
    others = [key for key in (3, 4, 5) if key != column]
    assert weights[column] > PUBLIC_HABITS[3]
    assert weights[column] > 2 * max(weights[others])


@pytest.mark.parametrize("timed", [True, False])
def test_habits_beat_the_naive_product_where_most_keys_say_nothing(timed: bool) -> None:
    """Frequency × the counts in context as they stand, over people with three keys of which one matters."""
    likelihood = {"habits": 0.0, "product": 0.0, "frequency": 0.0}
    for seed in range(12):
        made = person(seed, by="day", timed=timed)
        history = ChoiceHistory.of(made[:80])
        habits = Habits.fit(history)
        for item, context, _ in made[80:]:
            if item not in history.names:
                continue
            place = history.names.index(item)
            phi = habits.counts.features(context)
            for name, w in (("product", [1, 0, 0, 1, 1, 1, 0]), ("frequency", [1, 0, 0, 0, 0, 0, 0])):
                scores = phi @ np.array(w, dtype=float)
                likelihood[name] += float(scores[place] - np.log(np.exp(scores).sum()))
            likelihood["habits"] += float(np.log(habits.shares(context)[place]))
    assert likelihood["habits"] > max(likelihood["product"], likelihood["frequency"]) + 20


def test_people_who_never_repeat_and_people_who_always_do_need_no_option() -> None:
    never = ChoiceHistory.of([(f"film {n}", {}, float(n)) for n in range(60)])
    always = ChoiceHistory.of([("abc"[n % 3], {}, float(n)) for n in range(60)])
    assert Habits.fit(never).repeat < 0.05
    assert Habits.fit(always).repeat > 0.9
    assert Habits.fit(never, repeat_rate=0.0).repeat == 0.0
    assert Habits.fit(ChoiceHistory.of([]), repeat_rate=0.7).repeat == pytest.approx(0.7)


def test_shares_are_probabilities_for_any_history() -> None:
    for made in ([], [("a", {}, 0.0)], [("a", {"at": "home"}, 1.0)] * 5, person(3)):
        habits = Habits.fit(ChoiceHistory.of(made))
        for context in ({}, {"at": "home"}, {"at": "the moon", "unknown": "x"}):
            shares = habits.shares(context)
            assert len(shares) == len({item for item, _, _ in made})
            assert not len(shares) or shares.sum() == pytest.approx(1)


def test_newton_steps_on_summed_statistics_climb_the_pooled_likelihood() -> None:
    people = [ChoiceHistory.of(person(seed, by="at" if seed % 2 else "day")) for seed in range(10)]

    def pooled(w: np.ndarray) -> float:
        total = -5.0 * float((w - PUBLIC_HABITS) @ (w - PUBLIC_HABITS))
        for history in people:
            judged = walk(history).judged
            folded = np.concatenate(
                [judged.phi[:, :, :3], judged.phi[:, :, 3:6].sum(axis=2, keepdims=True), judged.phi[:, :, 6:]], axis=2
            )
            scores = folded @ w
            each = scores[np.arange(len(judged.y)), judged.y] - np.log(np.exp(scores).sum(axis=1))
            total += float(each.sum()) * min(1.0, 100 / len(judged.y))
        return total

    weights, reached = PUBLIC_HABITS, [pooled(PUBLIC_HABITS)]
    for _ in range(8):
        weights = newton_step(weights, sum(device_statistics(history, weights)[0] for history in people))
        reached.append(pooled(weights))
    assert all(after >= before - 1e-6 for before, after in itertools.pairwise(reached))
    nudges = [pooled(weights + 0.02 * sign * axis) for axis in np.eye(K) for sign in (-1, 1)]
    assert max(nudges) <= reached[-1] + 1e-6


def test_device_without_choices_gives_nothing_and_its_statistics_have_one_length() -> None:
    for made in ([], [("a", {}, 0.0)], person(4)):
        habits, repeats = device_statistics(ChoiceHistory.of(made), PUBLIC_HABITS)
        assert habits.shape == (STATISTICS_LENGTH,)
        assert repeats.shape == (2,)
        assert bool(repeats.any()) == bool(made)
    assert not device_statistics(ChoiceHistory.of([]), PUBLIC_HABITS)[0].any()


@pytest.mark.parametrize(
    "weights", [np.zeros(K + 1), np.full(K, np.nan), np.full(K, 1e9), np.zeros(K, dtype=np.float32)], ids=str
)
def test_weights_that_are_none_are_refused(weights: np.ndarray) -> None:
    with pytest.raises(ModelError):
        device_statistics(ChoiceHistory.of([]), weights)
    with pytest.raises(ModelError):
        newton_step(weights, np.zeros(STATISTICS_LENGTH))


@pytest.mark.parametrize("total", [np.zeros(3), np.full(STATISTICS_LENGTH, np.nan)])
def test_sums_that_are_none_are_refused(total: np.ndarray) -> None:
    with pytest.raises(ModelError):
        newton_step(PUBLIC_HABITS, total)


# The history itself.


def test_history_is_in_order_of_time_and_then_of_keeping() -> None:
    history = ChoiceHistory.of([("c", {}, 2.0), ("a", {}, 1.0), ("b", {}, 1.0), ("a", {}, 3.0)])
    assert [history.names[place] for place in history.y] == ["a", "b", "c", "a"]
    assert history.ordered
    assert not ChoiceHistory.of([("c", {}, 2.0), ("a", {}, 2.0)]).ordered


def test_history_of_known_items_is_as_if_the_others_had_never_been() -> None:
    made = [("a", {"at": "home"}, 0.0), ("mine", {"at": "den"}, 1.0), ("b", {}, 2.0), ("mine", {}, 3.0), ("a", {}, 4.0)]
    known = ChoiceHistory.of(made).known_to(Catalogue.from_names(["b", "a", "z"]))
    assert known.names == ("a", "b")
    assert known.contexts == ({"at": "home"}, {}, {})
    assert known.items_in(Catalogue.from_names(["b", "a", "z"])).tolist() == [1, 0, 1]


def test_equal_contexts_have_one_text() -> None:
    assert context_text({"b": "2", "a": "1"}) == context_text({"a": "1", "b": "2"}) == '{"a":"1","b":"2"}'
    assert check_context({"b": "2", "a": "1"}) == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    "context", [None, [], "home", {"a": 1}, {"a": None}, {1: "a"}, {"a": {"b": "c"}}, {str(n): "" for n in range(65)}]
)
def test_context_that_is_no_flat_object_of_strings_is_refused(context: Any) -> None:
    with pytest.raises(ValueError, match="Expected"):
        check_context(context)
