"""The factor model: its sums are those of the pooled data, its basis that of an exact SVD, its weights a ridge's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.choices.factors import (
    BLOCKS,
    CONTEXT_RIDGE,
    RIDGE,
    SPANS,
    context_features,
    examples,
    first_times,
    gram,
    next_profile,
    orthonormal,
    power_block,
    profiles,
    ridges,
    solve,
    target_block,
)
from engine.errors import ModelError

ITEMS, FACTORS = 12, 3
histories = st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=15), min_size=1, max_size=6)


def as_rows(people: list[list[int]]) -> np.ndarray:
    x = np.zeros((len(people), ITEMS))
    for row, own in zip(x, people, strict=True):
        row[own] = 1
    return x


def some_people(count: int = 60, *, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.permutation(ITEMS)[: 2 + int(rng.integers(5))].tolist() for _ in range(count)]


@given(histories)
@settings(max_examples=40, deadline=None)
def test_power_blocks_add_up_to_the_pooled_product(people: list[list[int]]) -> None:
    basis = orthonormal(np.random.default_rng(0).normal(size=(ITEMS, FACTORS)))
    x = as_rows(people)
    total = sum(power_block(np.array(own, dtype=np.int64), basis) for own in people)
    np.testing.assert_allclose(total, x.T @ (x @ basis), atol=1e-5)


def test_power_steps_span_the_first_right_singular_vectors() -> None:
    people = some_people()
    basis = orthonormal(np.random.default_rng(1).normal(size=(ITEMS, FACTORS)))
    for _ in range(150):
        basis = orthonormal(sum(power_block(np.array(own), basis) for own in people))
    _, _, rows = np.linalg.svd(as_rows(people))
    exact = rows[:FACTORS].T
    np.testing.assert_allclose(basis @ basis.T, exact @ exact.T, atol=1e-4)


def test_basis_is_orthonormal_even_of_columns_that_span_less() -> None:
    for columns in (np.zeros((5, 3)), np.ones((5, 3)), np.eye(5)[:, :3] * 1e-30, np.eye(5)[:, :3]):
        q = orthonormal(columns)
        np.testing.assert_allclose(q.T @ q, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(orthonormal(np.eye(5)[:, :3]), np.eye(5)[:, :3])


@pytest.mark.parametrize("columns", [np.full((4, 2), np.nan), np.full((4, 2), np.inf), np.zeros((2, 3))])
def test_columns_that_give_no_basis_are_refused(columns: np.ndarray) -> None:
    with pytest.raises(ModelError):
        orthonormal(columns)


@given(st.lists(st.integers(0, ITEMS - 1), max_size=12))
@settings(max_examples=40, deadline=None)
def test_profiles_are_the_faded_means_that_the_docstring_states(own: list[int]) -> None:
    basis = orthonormal(np.random.default_rng(2).normal(size=(ITEMS, FACTORS)))
    fast = profiles(np.array(own, dtype=np.int64), basis)
    assert fast.shape == (len(own) + 1, len(SPANS) * FACTORS)
    for t in range(len(own) + 1):
        for block, span in enumerate(SPANS):
            fresh = [span < 99 or own.index(own[s]) == s for s in range(t)]
            weights = [math.exp(-(t - 1 - s) / span) * fresh[s] for s in range(t)]
            naive = sum((w * basis[own[s]].astype(float) for s, w in enumerate(weights)), np.zeros(FACTORS))
            naive = naive / math.sqrt(sum(weights)) if t else naive
            np.testing.assert_allclose(fast[t, block * FACTORS : (block + 1) * FACTORS], naive, atol=1e-6)


def test_profile_knows_nothing_of_what_comes_later() -> None:
    basis = orthonormal(np.random.default_rng(2).normal(size=(ITEMS, FACTORS)))
    one, other = profiles(np.array([1, 2, 3, 4]), basis), profiles(np.array([1, 2, 9, 9]), basis)
    np.testing.assert_array_equal(one[:3], other[:3])
    assert not np.allclose(one[3], other[3])


def test_context_has_a_bucket_each_and_a_constant() -> None:
    z = context_features([{}, {"at": "home"}, {"at": "home", "day": "Sunday"}, {"at": "pub"}], 64)
    assert z[:, -1].tolist() == [1, 1, 1, 1]
    assert z[:, :-1].sum(axis=1).tolist() == [0, 1, 2, 1]
    assert ((z[1] == 1) & (z[2] == 1)).sum() == 2  # The bucket that both have, and the constant.
    np.testing.assert_array_equal(
        z, context_features([{}, {"at": "home"}, {"day": "Sunday", "at": "home"}, {"at": "pub"}], 64)
    )


def test_only_the_first_time_of_an_item_is_new() -> None:
    assert first_times(np.array([3, 1, 3, 3, 2, 1])).tolist() == [0, 1, 4]
    assert first_times(np.zeros(0, dtype=np.int64)).tolist() == []


@pytest.mark.parametrize("ordered", [True, False])
def test_sums_of_devices_solve_to_the_ridge_of_the_pooled_rows(ordered: bool) -> None:
    people = some_people(400)
    basis = orthonormal(np.random.default_rng(3).normal(size=(ITEMS, FACTORS)))
    size = BLOCKS * FACTORS
    packed, targets, rows, answers = np.zeros(size * (size + 1) // 2), np.zeros((ITEMS, size)), [], []
    for person, own in enumerate(people):
        contexts = [{"day": str((person + t) % 3)} for t in range(len(own))]
        new, z = examples(np.array(own), contexts, basis, ordered=ordered)
        packed += gram(z)
        for block in range(BLOCKS):
            part = slice(block * FACTORS, (block + 1) * FACTORS)
            targets[:, part] += target_block(new, z[:, part], (ITEMS, FACTORS))
        rows.append(z)
        answers += new.tolist()
    z, y = np.concatenate(rows), np.eye(ITEMS)[answers]
    weights, shares = solve(packed, targets)
    counts = np.bincount(answers, minlength=ITEMS)
    np.testing.assert_allclose(shares, (counts + 0.2) / (len(z) + 0.2 * ITEMS))
    popular = counts / len(z)
    usual = (popular**2).sum()  # How popular a choice is on average.
    for item in range(ITEMS):
        more = np.sqrt(usual / popular[item])
        shrink = np.array([more * RIDGE] * 3 * FACTORS + [more * CONTEXT_RIDGE] * (FACTORS - 1) + [1e-12 * len(z)])
        exact = np.linalg.solve(z.T @ z + np.diag(shrink), z.T @ y[:, item])
        np.testing.assert_allclose(weights[item], exact, atol=1e-4)
    assert np.abs(weights[:, : 3 * FACTORS]).max() > 0.01


def test_rare_items_are_held_closer_to_their_share() -> None:
    found = ridges(np.array([0.4, 0.1, 0.0, -0.1]), 100.0)
    usual = (0.4**2 + 0.1**2 + 2 * 0.005**2) / (0.4 + 0.1 + 2 * 0.005)
    np.testing.assert_allclose(found, RIDGE * np.sqrt(usual / np.array([0.4, 0.1, 0.005, 0.005])))


def test_in_order_an_item_stands_after_what_came_before_and_without_one_against_all_others() -> None:
    basis = orthonormal(np.random.default_rng(3).normal(size=(ITEMS, FACTORS)))
    own, contexts = np.array([5, 2, 5, 7]), [{"at": "a"}, {"at": "b"}, {"at": "c"}, {"at": "a"}]
    where = context_features(contexts, FACTORS)
    new, z = examples(own, contexts, basis, ordered=True)
    assert new.tolist() == [5, 2, 7]
    np.testing.assert_array_equal(z[:, : 3 * FACTORS], profiles(own, basis)[[0, 1, 3]])
    np.testing.assert_array_equal(z[:, 3 * FACTORS :], where[[0, 1, 3]])
    new, z = examples(own, contexts, basis, ordered=False)
    assert new.tolist() == [2, 5, 7]
    for row, others in zip(z, ([5, 7], [2, 7], [2, 5]), strict=True):
        naive = basis[others].astype(float).sum(axis=0) / math.sqrt(2)
        np.testing.assert_allclose(row[: 3 * FACTORS], np.tile(naive, 3), atol=1e-6)
    np.testing.assert_allclose(z[1, 3 * FACTORS :], (where[0] + where[2]) / 2)
    shuffled = examples(own[[3, 1, 2, 0]], [contexts[t] for t in (3, 1, 2, 0)], basis, ordered=False)
    np.testing.assert_allclose(shuffled[1], z, atol=1e-12)


@pytest.mark.parametrize("ordered", [True, False])
def test_history_of_no_choice_and_of_one_have_profiles(ordered: bool) -> None:
    basis = orthonormal(np.random.default_rng(3).normal(size=(ITEMS, FACTORS)))
    none = np.zeros(0, dtype=np.int64)
    new, z = examples(none, [], basis, ordered=ordered)
    assert (new.shape, z.shape) == ((0,), (0, BLOCKS * FACTORS))
    assert not next_profile(none, basis, ordered=ordered).any()
    new, z = examples(np.array([4]), [{}], basis, ordered=ordered)
    assert not z[0, : 3 * FACTORS].any()
    np.testing.assert_allclose(next_profile(np.array([4]), basis, ordered=ordered), np.tile(basis[4], 3), atol=1e-6)


def test_weights_survive_noise_that_leaves_the_matrix_indefinite() -> None:
    rng = np.random.default_rng(4)
    z = np.concatenate([rng.normal(size=(40, 7)), np.ones((40, 1))], axis=1)
    targets = rng.random((7, 8))
    noised = gram(z) + rng.normal(scale=60, size=36)
    for some in (targets, -targets):
        weights, shares = solve(noised, some)
        assert np.isfinite(weights).all()
        assert (shares > 0).all()
        assert shares.sum() == pytest.approx(1)
    weights, shares = solve(np.zeros(36), np.zeros((7, 8)))
    assert not weights.any()
    np.testing.assert_allclose(shares, 1 / 7)


def test_few_people_teach_little_beside_what_is_popular() -> None:
    """The history's share of a score grows with the number of people who say the same."""
    rng = np.random.default_rng(6)
    z = np.concatenate([rng.normal(size=(20, 7)), np.ones((20, 1))], axis=1)
    targets = (rng.random((20, 7)) < 0.3).T.astype(float) @ z
    sizes = [np.abs(solve(gram(z) * many, targets * many)[0][:, :-1]).max() for many in (1, 10, 1000)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] / 2


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_sums_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ModelError):
        solve(np.full(36, bad), np.zeros((7, 8)))
    with pytest.raises(ModelError):
        solve(np.zeros(36), np.full((7, 8), bad))


def test_without_other_evidence_items_stand_by_their_popularity() -> None:
    # Two devices whose first choices have no history: the constant alone tells of them.
    basis = orthonormal(np.random.default_rng(5).normal(size=(ITEMS, FACTORS)))
    _, z = examples(np.array([4]), [{}], basis, ordered=True)
    targets = np.zeros((ITEMS, BLOCKS * FACTORS))
    for item, times in ((4, 3), (7, 1)):
        targets[item] += times * z[0]
    weights, _ = solve(gram(np.repeat(z, 4, axis=0)), targets)
    scores = weights @ z[0]
    np.testing.assert_allclose(scores[[4, 7]], [0.75, 0.25], atol=1e-5)
    assert np.abs(np.delete(scores, [4, 7])).max() < 1e-9


@pytest.mark.parametrize(("n", "rank"), [(3, 0), (3, 1), (8, 2), (500, 20)])
def test_columns_that_span_less_are_filled_up_orthonormally(n: int, rank: int) -> None:
    k = min(n, 32)
    rng = np.random.default_rng(n)
    columns = rng.normal(size=(n, rank)) @ rng.normal(size=(rank, k))
    basis = orthonormal(columns).astype(np.float64)
    np.testing.assert_allclose(basis.T @ basis, np.eye(k), atol=1e-5)
    np.testing.assert_allclose(basis @ (basis.T @ columns), columns, atol=1e-4 * max(1.0, np.abs(columns).max()))
