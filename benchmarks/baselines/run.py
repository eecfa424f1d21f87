"""Runs the methods by name on one split: settings chosen on held-out train rows, then a fit on all of them.

Every method tries as many settings, `BUDGET`, and keeps those with the highest mean reciprocal rank on the rows that
devices held out of training; the methods that build on FedAvg take its model as it was chosen for itself. No test row
is looked at before the last fit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.baselines import ditto, fedavg, fedavg_finetuned, fedrep, knn_per, local, most_frequent
from benchmarks.baselines.common import Array, Client
from benchmarks.baselines.problem import Config, Problem, with_held_out

Fit = Callable[..., list[Array]]
METHODS: dict[str, tuple[Fit, tuple[Config, ...]]] = {
    "local": (local.fit, local.GRID),
    "most_frequent": (most_frequent.fit, most_frequent.GRID),
    "fedavg": (fedavg.fit, fedavg.GRID),
    "fedavg_finetuned": (fedavg_finetuned.fit, fedavg_finetuned.GRID),
    "fedrep": (fedrep.fit, fedrep.GRID),
    "ditto": (ditto.fit, ditto.GRID),
    "knn_per": (knn_per.fit, knn_per.GRID),
}
BUDGET = 6
_ON_FEDAVG = ("fedavg", "fedavg_finetuned", "ditto", "knn_per")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A method's ranks of each device's true labels (from 1; 0 is "not ranked"), and the settings that it chose.

    ``accepted`` are the ranks of all accepted labels of each query.
    """

    ranks: list[tuple[int, ...]]
    accepted: list[tuple[tuple[int, ...], ...]]
    chosen: Config


def run_baselines(
    clients: Sequence[Client], *, names: Sequence[str], rounds: int, seed: int, tick: Callable[[], None] = lambda: None
) -> dict[str, Fitted]:
    """Return what each named method does on these devices, ticking once a method; the same for the same seed."""
    problem = with_held_out(clients, rounds=rounds, seed=seed)
    assert problem.held is not None
    found: dict[str, Fitted] = {}
    wanted = [name for name in METHODS if name in names or (name == "fedavg" and set(names) & set(_ON_FEDAVG))]
    for name in sorted(wanted, key=lambda name: name != "fedavg"):  # FedAvg first: others build on its models.
        fit, grid = METHODS[name]
        chosen = choose(problem.held, fit, grid)
        scores = fit(problem, **chosen)
        found[name] = Fitted(ranks=ranks(clients, scores), accepted=accepted_ranks(clients, scores), chosen=chosen)
        tick()
    return {name: found[name] for name in METHODS if name in names}


def choose(held: Problem, fit: Fit, grid: Sequence[Config]) -> Config:
    """Return the settings with the highest mean reciprocal rank on the rows held out on devices of the rounds.

    The first of equals. FedAvg's models that ``held`` is left with are those of these settings.
    """
    best, chosen, tables = -1.0, grid[0], held.tables
    for config in grid if len(grid) > 1 else ():
        found = ranks(held.clients, fit(held, **config))
        mark = _mean_reciprocal([its for its, one in zip(found, held.clients, strict=True) if not one.late])
        if mark > best:
            best, chosen, tables = mark, config, held.tables
    held.tables = tables
    return chosen


def ranks(clients: Sequence[Client], scores: Sequence[Array]) -> list[tuple[int, ...]]:
    """Return each device's ranks of its true labels, ties counted against them; 0 for a label without a column."""
    return [
        tuple(_rank(row, int(label)) for row, label in zip(s, one.truth, strict=True))
        for one, s in zip(clients, scores, strict=True)
    ]


def accepted_ranks(clients: Sequence[Client], scores: Sequence[Array]) -> list[tuple[tuple[int, ...], ...]]:
    """Return the same for all accepted labels of each query, where a device tells them."""
    return [
        tuple(tuple(_rank(row, label) for label in labels) for row, labels in zip(s, one.accepted, strict=False))
        for one, s in zip(clients, scores, strict=True)
    ]


def _rank(row: Array, label: int) -> int:
    if not 0 <= label < len(row) or row[label] == -np.inf:
        return 0
    return int((row >= row[label]).sum())


def _mean_reciprocal(ranks_of: Sequence[tuple[int, ...]]) -> float:
    found = [1 / rank if rank else 0.0 for ranks in ranks_of for rank in ranks]
    return float(np.mean(found)) if found else 0.0
