"""The centralised methods that choices are compared with, each checked against what its paper states."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.baselines import choice_ease, choice_item_knn, choice_svd32


def some(people: int, items: int, *, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((people, items)) < 0.3).astype(float)


@pytest.mark.parametrize("shape", [(7, 12), (12, 7), (9, 9)])
def test_svd_is_the_best_approximation_of_its_rank(shape: tuple[int, int]) -> None:
    x = some(*shape)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    np.testing.assert_allclose(choice_svd32.projection(x, 3), (u[:, :3] * s[:3]) @ vt[:3], atol=1e-8)
    np.testing.assert_allclose(choice_svd32.projection(x, 99), x, atol=1e-8)


def test_ease_solves_its_problem_with_a_zero_diagonal() -> None:
    """Equation 3 of Steck 2019: each column is a ridge regression on all other items."""
    x, ridge = some(30, 6), 4.0
    b = choice_ease.item_weights(x, ridge)
    for item in range(6):
        others = [place for place in range(6) if place != item]
        exact = np.linalg.solve(x[:, others].T @ x[:, others] + ridge * np.eye(5), x[:, others].T @ x[:, item])
        np.testing.assert_allclose(b[others, item], exact, atol=1e-8)
        assert b[item, item] == 0


def test_ridge_of_ease_is_chosen_without_the_held_out_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, seen = some(20, 8, seed=2), []
    held = [(person, int(np.flatnonzero(counts[person])[0])) for person in range(20) if counts[person].any()]
    real = choice_ease.item_weights
    monkeypatch.setattr(choice_ease, "item_weights", lambda x, ridge: seen.append(x) or real(x, ridge))
    assert choice_ease.best_ridge(counts, held) in choice_ease.LAMBDAS
    assert all(x[person, item] == 0 for x in seen for person, item in held)
    assert choice_ease.best_ridge(counts, []) in choice_ease.LAMBDAS


def test_neighbours_are_by_cosine_and_an_item_is_not_its_own() -> None:
    x = np.array([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]])
    s = choice_item_knn.similarities(x)
    np.testing.assert_allclose(s[0], [0, 1 / np.sqrt(2), 1 / np.sqrt(2), 0])
    assert not s[3].any()


@pytest.mark.parametrize("module", [choice_ease, choice_item_knn, choice_svd32])
def test_each_scores_the_taste_that_a_person_shares(module: object) -> None:
    counts = np.zeros((20, 12))
    rng = np.random.default_rng(0)
    for person in range(20):
        half = slice(0, 6) if person % 2 else slice(6, 12)
        counts[person, half] = rng.random(6) < 0.6
    scores = module.scorer(counts, [])  # type: ignore[attr-defined]
    own = [scores(person, {})[:6].mean() > scores(person, {})[6:].mean() for person in range(20)]
    assert own == [bool(person % 2) for person in range(20)]
