"""Requests out of scope: what is held out is nowhere to be learned from, and the figures equal naive ones."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from engine.encoders.encoder import CachedEncoder
from engine.personal.scope import FALSE_REFUSALS
from federation.data.dataset import Row
from federation.data.splits import public_labels, split_by_user
from federation.errors import ConfigError, DataError
from federation.evaluation.routing import evaluate_routing
from federation.report.results import check_results
from federation.simulation.out_of_scope import (
    METHODS,
    ScopeRead,
    auroc,
    auroc_interval,
    hold_out,
    read_scopes,
    scope_result,
)

SCORES = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=8)  # Few values, so that ties are common.


def pairwise_auroc(inside: list[float], outside: list[float]) -> float:
    pairs = [(one, other) for one in inside for other in outside]
    return sum(1.0 if one > other else 0.5 if one == other else 0.0 for one, other in pairs) / len(pairs)


@hypothesis_settings(max_examples=80, deadline=None)
@given(inside=SCORES, outside=SCORES)
def test_auroc_is_the_share_of_pairs_in_order(inside: list[float], outside: list[float]) -> None:
    assert auroc(inside, outside) == pytest.approx(pairwise_auroc(inside, outside))
    assert auroc(inside, outside) + auroc(outside, inside) == pytest.approx(1)


@pytest.mark.parametrize(("inside", "outside"), [([], [1.0]), ([1.0], [])])
def test_auroc_of_nothing_is_refused(inside: list[float], outside: list[float]) -> None:
    with pytest.raises(ValueError, match="in scope and out of it"):
        auroc(inside, outside)


@hypothesis_settings(max_examples=20, deadline=None)
@given(
    users=st.lists(st.tuples(SCORES, st.one_of(st.just([]), SCORES)), min_size=1, max_size=5), seed=st.integers(0, 99)
)
def test_interval_of_auroc_is_that_of_resampled_users(users: list[tuple[list[float], list[float]]], seed: int) -> None:
    users = [*users, ([1.0, 2.0], [0.0])]
    mean, low, high = auroc_interval(users, rng=np.random.default_rng(seed), draws=40)
    assert mean == pytest.approx(
        pairwise_auroc([s for one, _ in users for s in one], [s for _, one in users for s in one])
    )
    rng, naive = np.random.default_rng(seed), []
    for _ in range(40):
        drawn = [users[place] for place in rng.integers(len(users), size=len(users))]
        outside = [s for _, one in drawn for s in one]
        if outside:
            naive.append(pairwise_auroc([s for one, _ in drawn for s in one], outside))
    assert (low, high) == pytest.approx(tuple(np.percentile(naive, [2.5, 97.5])))


# --- holding labels out


def test_labels_held_out_are_in_no_row_that_anything_learns_from(rows: Any) -> None:
    split = split_by_user(rows(users=5, each=24), seed=0)
    held = hold_out(split, share=0.3, seed=0)
    assert len(held.labels) == round(0.3 * len(public_labels(split)))
    left = {row.label for _, train, test in held.split for row in [*train, *test]}
    assert not left & set(held.labels)
    assert {row.label for own in held.outside.values() for row in own} <= set(held.labels)
    for user, train, test in split:
        kept = {name: (t, e) for name, t, e in held.split}.get(user)
        if kept is None:
            assert {row.label for row in train} <= set(held.labels)
            continue
        assert kept[0] == [row for row in train if row.label not in held.labels]
        # No test row is lost: each is in scope or out of it, on the device that it was on.
        assert [row for row in test if row in kept[1] or row in held.outside[user]] == test


def test_the_seed_draws_the_labels(rows: Any) -> None:
    split = split_by_user(rows(users=5, each=24), seed=0)
    drawn = [hold_out(split, share=0.25, seed=seed).labels for seed in range(8)]
    assert drawn == [hold_out(split, share=0.25, seed=seed).labels for seed in range(8)]
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("share", [0.0, 1.0, -0.2, float("nan")])
def test_a_share_that_is_none_is_refused(rows: Any, share: float) -> None:
    with pytest.raises(ConfigError, match="out-of-scope="):
        hold_out(split_by_user(rows(), seed=0), share=share, seed=0)


def test_labels_that_are_too_few_are_refused(rows: Any) -> None:
    split = split_by_user(rows(users=5, each=24), seed=0)
    with pytest.raises(DataError, match="two are needed"):
        hold_out(split, share=0.7, seed=0)
    with pytest.raises(DataError, match="No test row"):
        hold_out([(user, train, []) for user, train, _ in split], share=0.25, seed=0)


# --- figures


def read(user: str, inside: list[float], outside: list[float], threshold: float) -> ScopeRead:
    return ScopeRead(
        user=user,
        late=False,
        inside=dict.fromkeys(METHODS, tuple(inside)),
        outside=dict.fromkeys(METHODS, tuple(outside)),
        thresholds=dict.fromkeys(METHODS, threshold),
    )


def test_refusals_are_counted_by_each_devices_own_threshold() -> None:
    reads = [read("a", [1.0, 2.0, 3.0], [0.0, 2.5], 2.0), read("b", [1.0], [0.0], -np.inf), read("a", [5.0], [], 6.0)]
    result = scope_result(reads, rng=np.random.default_rng(0), draws=20)
    assert (result["in_scope"], result["out_of_scope"]) == (5, 3)
    assert (result["devices"], result["devices_without_threshold"]) == (3, 1)
    for its in result["methods"].values():
        assert its["false_refusals"] == 2 / 5
        assert its["refused"] == 1 / 3
        assert its["auroc"] == pytest.approx(pairwise_auroc([1, 2, 3, 1, 5], [0, 2.5, 0]))
        assert its["interval"][0] <= its["auroc"] <= its["interval"][1]


def test_nothing_out_of_scope_gives_no_methods() -> None:
    assert scope_result([read("a", [1.0], [], 0.0)], rng=np.random.default_rng(0))["methods"] == {}


def test_a_label_that_a_device_does_not_know_is_out_of_scope_too(rows: Any, town_of: Any) -> None:
    split = split_by_user(rows(users=3, each=24), seed=0)
    user, _, test = split[0]
    strange = Row(user=user, order=0, text="quantum zebra", label="never heard of", labels=("never heard of",))
    split[0] = (user, split[0][1], [*test, strange])
    town = town_of(split)
    with town.fleet.pool() as pool:
        reads = read_scopes(town.fleet.people, {split[1][0]: (strange,)}, pool)
    by_user = {one.user: one for one in reads}
    assert {name: len(one.outside["energy"]) for name, one in by_user.items()} == {
        split[0][0]: 1, split[1][0]: 1, split[2][0]: 0
    }  # fmt: skip
    assert len(by_user[user].inside["personal"]) == len(test)


def evaluated(made: list[Row], toy: Any, **changed: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "title": "made-up rows",
        "settings": {"rounds": 1, "local_steps": 2, "rescorer_steps": 1},
        "seeds": 1,
        "devices": None,
        "alphas": (),
        "command": "tacit evaluate routing",
        "out_of_scope": 0.25,
    }
    return evaluate_routing(made, encoder=CachedEncoder(toy), **(plain | changed))


def test_an_evaluation_reports_all_scores_on_the_same_rows_the_same_each_time(rows: Any, toy: Any) -> None:
    made = rows(users=5, each=30)
    result = evaluated(made, toy)
    check_results(result)
    json.loads(json.dumps(result, allow_nan=False))
    scope = result["out_of_scope"]
    assert tuple(scope["methods"]) == METHODS
    assert scope["aimed_at"] == FALSE_REFUSALS
    # Every test row of the devices that are left is on one side; the other figures are of rows in scope alone.
    held = hold_out(split_by_user(made, seed=0), share=0.25, seed=0)
    outside = sum(map(len, held.outside.values()))
    assert (scope["in_scope"], scope["out_of_scope"]) == (result["rows"], outside)
    assert result["rows"] == sum(len(test) for _, _, test in held.split)
    assert evaluated(made, toy) == result


def test_late_devices_have_figures_of_their_own(rows: Any, toy: Any) -> None:
    made = rows(users=6, each=30)
    result = evaluated(made, toy, unseen=0.3)
    check_results(result)
    parts = [result["out_of_scope"], result["unseen"]["out_of_scope"]]
    assert sum(part["devices"] for part in parts) == len(
        hold_out(split_by_user(made, seed=0), share=0.25, seed=0).split
    )


@pytest.mark.slow
def test_generated_people_hear_that_a_device_does_not_know(encoder: Any, tmp_path: Any) -> None:
    from federation.data.splits import split_as_marked
    from federation.population import generate
    from federation.rounds.config import RunSettings
    from federation.simulation.experiment import Experiment, run_experiment

    population = generate(24, seed=7, outside_per_device=8)
    outside = {
        person.user: [row for row in population.outside if row.user == person.user] for person in population.people
    }
    experiment = Experiment.of(
        split_as_marked(population.rows),
        title=population.title,
        generated=True,
        outside={u: tuple(r) for u, r in outside.items()},
    )
    outcome = run_experiment(experiment, RunSettings(cohort=24, rounds=30), tmp_path / "run", CachedEncoder(encoder))
    result = scope_result(outcome.scopes, rng=np.random.default_rng(0), draws=50)
    assert result["out_of_scope"] >= 24 * 8
    own, others = result["methods"]["personal"], [result["methods"][name] for name in METHODS[1:]]
    assert own["auroc"] > max(0.9, *(one["auroc"] for one in others)) - 0.02
    assert own["false_refusals"] < 0.09
    assert own["refused"] > 0.3
