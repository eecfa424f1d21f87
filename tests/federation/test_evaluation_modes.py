"""What privacy costs: the accuracy lost between two runs over the same people."""

from __future__ import annotations

import pytest

from federation.evaluation.modes import accuracy_lost
from federation.simulation.fleet import Measured


def measured(*ranks: tuple[str, tuple[int, ...], tuple[int, ...]]) -> list[Measured]:
    """People with their ranks by the global and by the personal model."""
    return [Measured(user=user, memories=9, by_method={"global": g, "personal": p}) for user, g, p in ranks]


PRIVATE = measured(("a", (2, 2), (1, 3)), ("b", (1, 2, 2, 0), (1, 1, 2, 0)))
OPENED = measured(("a", (1, 2), (1, 1)), ("b", (1, 1, 1, 1), (1, 1, 1, 0)))


def test_accuracy_lost_is_that_of_the_open_run_less_that_of_the_private_one_over_all_rows() -> None:
    assert accuracy_lost(PRIVATE, OPENED, "personal", seed=0)[0] == pytest.approx(5 / 6 - 3 / 6)
    assert accuracy_lost(PRIVATE, OPENED, "global", seed=0)[0] == pytest.approx(5 / 6 - 1 / 6)
    assert accuracy_lost(OPENED, PRIVATE, "personal", seed=0)[0] == pytest.approx(3 / 6 - 5 / 6)


def test_interval_of_the_loss_holds_it_and_closes_where_people_lose_alike() -> None:
    mean, low, high = accuracy_lost(PRIVATE, OPENED, "personal", seed=0)
    assert low < mean < high
    alike = [measured(*((name, ranks, ranks) for name in "abc")) for ranks in ((1, 2), (1, 1))]
    assert accuracy_lost(*alike, "personal", seed=0) == pytest.approx((0.5, 0.5, 0.5))


def test_runs_over_other_people_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        accuracy_lost(PRIVATE[:1], OPENED, "personal", seed=0)
