"""kNN-Per: the shared model's probabilities mixed with those of the nearest rows of the device's own.

p = λ·p_knn + (1 − λ)·p_global, p_knn(y) ∝ Σ exp(−distance/σ) over the ``neighbours`` nearest train rows with label y.
Each device's λ is the most likely one on rows it holds out of training, and 0 where it has too few to hold any out.
Source: Marfoq et al. 2022, *Personalized Federated Learning through Local Memorization*, equations 7 and 8; the shared
model is FedAvg's and the representation is the encoder's.
"""

import numpy as np

from benchmarks.baselines.common import Array, Client, softmax
from benchmarks.baselines.problem import Config, Problem

GRID: tuple[Config, ...] = tuple(
    {"neighbours": near, "temperature": wide} for near in (10, 50) for wide in (0.03, 0.1, 0.3)
)
MIXES = np.linspace(0, 1, 11)


def fit(problem: Problem, *, neighbours: int, temperature: float) -> list[Array]:
    """Return each device's probabilities (q, K) of its queries."""
    mixes = _mixes(problem.held or problem, neighbours=neighbours, temperature=temperature)
    pairs = _parts(problem, neighbours=neighbours, temperature=temperature)
    return [mix * near + (1 - mix) * shared for mix, (near, shared) in zip(mixes, pairs, strict=True)]


def _mixes(problem: Problem, *, neighbours: int, temperature: float) -> list[float]:
    """Return each device's λ: the likeliest on this problem's queries, the smallest of equals."""
    pairs = _parts(problem, neighbours=neighbours, temperature=temperature)
    return [best_mix(near, shared, one.truth) for (near, shared), one in zip(pairs, problem.clients, strict=True)]


def best_mix(near: Array, shared: Array, truth: Array) -> float:
    """Return λ in 0, 0.1, … 1 by the likelihood of ``truth`` (q,) under the mix of two (q, K); 0 for q = 0."""
    rows = np.arange(len(truth))
    a, b = near[rows, truth], shared[rows, truth]
    logs = [np.log(np.maximum(mix * a + (1 - mix) * b, 1e-12)).sum() for mix in MIXES]
    return float(MIXES[int(np.argmax(logs))])


def _parts(problem: Problem, *, neighbours: int, temperature: float) -> list[tuple[Array, Array]]:
    shared: dict[int, Array] = {}
    for group in problem.groups:
        chances = softmax(group.scores(problem.tables[-1])[:, :, : group.public])
        own = np.zeros((*chances.shape[:2], len(group.offset[0, 0]) - group.public), dtype=chances.dtype)
        shared |= group.answers(np.concatenate([chances, own], axis=2), problem.clients)
    return [
        (nearest(one, neighbours=neighbours, temperature=temperature), shared[place])
        for place, one in enumerate(problem.clients)
    ]


def nearest(one: Client, *, neighbours: int, temperature: float) -> Array:
    """Return p_knn (q, K) of a device's queries; even over all labels where it has no rows."""
    labels = len(one.names)
    if not len(one.y):
        return np.full((len(one.queries), labels), 1 / labels)
    apart = np.sqrt(np.maximum(2 - 2 * one.queries @ one.x.T, 0))  # (q, n), of unit vectors
    order = np.argsort(apart, axis=1, kind="stable")[:, :neighbours]
    near = np.take_along_axis(apart, order, axis=1)
    weights = softmax(-near / temperature)  # (q, k)
    shares = np.zeros((len(one.queries), labels), dtype=weights.dtype)
    np.add.at(shares, (np.arange(len(order))[:, None], one.y[order]), weights)
    return shares
