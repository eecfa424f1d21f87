"""FedAvg: each round all devices descend from the shared model on their own rows; their models are averaged by rows.

w ← Σₖ (nₖ/n)·wₖ. Source: McMahan et al. 2017, *Communication-Efficient Learning of Deep Networks from Decentralized
Data*, algorithm 1, with all devices in each round and full local batches. Rows with a label of one device's own take
no part, and such a label is never ranked.
"""

from collections.abc import Sequence

import numpy as np

from benchmarks.baselines.common import Array, Group, descend
from benchmarks.baselines.problem import Config, Problem

GRID: tuple[Config, ...] = tuple(
    {"rate": rate, "steps": steps} for rate, steps in ((0.1, 5), (0.3, 5), (1.0, 5), (3.0, 5), (1.0, 20), (3.0, 20))
)


def train(groups: Sequence[Group], table: Array, *, rounds: int, rate: float, steps: int) -> list[Array]:
    """Return the shared table (C, d + 1) before the first round and after each."""
    tables = [table]
    for _ in range(rounds):
        tables.append(one_round(groups, tables[-1], rate=rate, steps=steps))
    return tables


def one_round(groups: Sequence[Group], table: Array, *, rate: float, steps: int) -> Array:
    """Return the average of the devices' models after ``steps`` local steps each, weighted by their rows."""
    public, moved, total = len(table), np.zeros_like(table), 0.0
    for group in groups:
        if group.late:
            continue
        targets, rows = group.targets[:, :, :public], group.rows
        counts = targets.sum(axis=(1, 2))  # nₖ; 0 where a device has no public rows, which then moves nothing
        start = group.inputs[:, :rows] @ table.T  # (D, n, C)
        _, wrong = descend(start, targets, np.maximum(counts, 1), group.kernel[:, :rows], steps=steps, rate=rate)
        wrong *= counts[:, None, None]  # nₖ · what a device's model moved by
        moved += np.tensordot(wrong, group.inputs[:, :rows], axes=([0, 1], [0, 1]))  # (C, d + 1)
        total += float(counts.sum())
    result: Array = table - rate * moved / max(total, 1)
    return result


def start(problem: Problem) -> Array:
    """Return the table (C, d + 1) of the encoded names of the public labels, without bias."""
    one = problem.clients[0]
    names = one.names[: one.public]
    return np.concatenate([names, np.zeros((len(names), 1), dtype=names.dtype)], axis=1)


def fit(problem: Problem, *, rate: float, steps: int) -> list[Array]:
    """Return each device's scores (q, C) of its queries by the shared model of the last round."""
    problem.tables = train(problem.groups, start(problem), rounds=problem.rounds, rate=rate, steps=steps)
    found: dict[int, Array] = {}
    for group in problem.groups:
        found |= group.answers(group.scores(problem.tables[-1])[:, :, : group.public], problem.clients)
    return [found[place] for place in range(len(problem.clients))]
