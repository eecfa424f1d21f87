"""A round with noise begins once enough nodes are connected, and not before."""

from __future__ import annotations

from typing import Any

import pytest

from federation.rounds import nodes


class Grid:
    """Nodes that connect one after the other, whenever somebody looks."""

    def __init__(self, there: list[list[int]]) -> None:
        self.there, self.looked = there, 0

    def get_node_ids(self) -> list[int]:
        self.looked += 1
        return self.there[min(self.looked, len(self.there)) - 1]


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only sleeping moves."""
    times = [0.0]

    def sleep(seconds: float) -> None:
        times.append(times[-1] + seconds)

    monkeypatch.setattr(nodes.time, "sleep", sleep)
    monkeypatch.setattr(nodes.time, "monotonic", lambda: times[-1])
    return times


@pytest.mark.parametrize(
    ("least", "found", "looks"), [(0, [4], 1), (1, [4], 1), (2, [2, 4], 2), (2.5, [2, 4, 9], 3), (3, [2, 4, 9], 3)]
)
def test_it_waits_for_enough_nodes_and_no_longer(
    slept: list[float], least: float, found: list[int], looks: int
) -> None:
    grid: Any = Grid([[4], [4, 2], [9, 4, 2], [9, 4, 2, 7]])
    assert nodes.connected(grid, least=least, within_s=60.0) == found
    assert grid.looked == looks
    assert len(slept) == looks


def test_after_its_time_it_takes_those_that_are_there(slept: list[float]) -> None:
    grid: Any = Grid([[4], [4, 2]])
    assert nodes.connected(grid, least=10, within_s=1.25) == [2, 4]
    assert slept[-1] == pytest.approx(1.25)
    assert nodes.connected(grid, least=10, within_s=0.0) == [2, 4]
