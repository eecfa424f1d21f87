"""FedRep: a shared representation and a head of each device's own, trained in turns.

On frozen features both are linear: the representation is an adapter A from d + 1 inputs to ``rank`` numbers, a head V
maps these to the device's K labels, scores = V·A·x. In each round every device takes ``steps`` steps on its head for
the round's A, then one step on A for its new head; the devices' A are averaged, all alike. Heads never leave. A starts
as an orthonormal basis whose first directions are those of the label names, and heads from the names in it. A device
that joins late trains its head alone, as many steps as the others; all take ``steps`` more for the last A. Source:
Collins et al. 2021, *Exploiting Shared Representations for Personalized Federated Learning*, algorithm 1.
"""

from collections.abc import Sequence

import numpy as np

from benchmarks.baselines.common import Array, Group, descend, errors
from benchmarks.baselines.fedavg import start
from benchmarks.baselines.problem import Config, Problem

GRID: tuple[Config, ...] = tuple(
    {"rank": 64, "rate": rate, "shared_rate": shared, "steps": 5}
    for rate in (0.0001, 0.0005, 0.003)
    for shared in (3.0, 10.0)
)


def fit(problem: Problem, *, rank: int, rate: float, shared_rate: float, steps: int) -> list[Array]:
    """Return each device's scores (q, K) of its queries by its own head on the last representation."""
    adapter = start_adapter(start(problem), rank=rank, rng=problem.rng())
    heads = [group.names @ adapter.T for group in problem.groups]  # (D, K, r)
    for _ in range(problem.rounds):
        adapter, heads = one_round(problem.groups, adapter, heads, rate=rate, shared_rate=shared_rate, steps=steps)
    found: dict[int, Array] = {}
    for group, head in zip(problem.groups, heads, strict=True):
        more = steps * (problem.rounds + 1) if group.late else steps
        _, scores = fit_heads(group, adapter, group.names @ adapter.T if group.late else head, rate=rate, steps=more)
        found |= group.answers(scores, problem.clients)
    return [found[place] for place in range(len(problem.clients))]


def start_adapter(names: Array, *, rank: int, rng: np.random.Generator) -> Array:
    """Return orthonormal rows (r, d + 1): the main directions of the names (C, d + 1), then random ones."""
    width = names.shape[1]
    _, _, main = np.linalg.svd(names, full_matrices=False)
    known = main[: min(len(names), rank)]
    both = np.concatenate([known, rng.standard_normal((width, width))])[:width]
    basis, _ = np.linalg.qr(both.T)
    return np.ascontiguousarray(basis.T[:rank]).astype(names.dtype)


def one_round(
    groups: Sequence[Group], adapter: Array, heads: Sequence[Array], *, rate: float, shared_rate: float, steps: int
) -> tuple[Array, list[Array]]:
    """Return the averaged adapter (r, d + 1) and the devices' new heads (D, K, r), group by group."""
    after, moved, devices = [], np.zeros_like(adapter), 0
    for group, head in zip(groups, heads, strict=True):
        if group.late:
            after.append(head)
            continue
        head, scores = fit_heads(group, adapter, head, rate=rate, steps=steps)
        wrong = errors(scores[:, : group.rows], group.targets, group.counts)  # (D, n, K)
        moved += np.tensordot(wrong @ head, group.inputs[:, : group.rows], axes=([0, 1], [0, 1]))  # (r, d + 1)
        devices += len(group.places)
        after.append(head)
    result: Array = adapter - shared_rate * moved / max(devices, 1)
    return result, after


def fit_heads(group: Group, adapter: Array, head: Array, *, rate: float, steps: int) -> tuple[Array, Array]:
    """Return the heads (D, K, r) after ``steps`` steps on the representation ``adapter``, and their scores."""
    z = group.inputs @ adapter.T  # (D, n + q, r)
    own = z[:, : group.rows]
    scores = z @ head.transpose(0, 2, 1) + group.offset
    scores, wrong = descend(scores, group.targets, group.counts, z @ own.transpose(0, 2, 1), steps=steps, rate=rate)
    result: Array = head - rate * (wrong.transpose(0, 2, 1) @ own)
    return result, scores
