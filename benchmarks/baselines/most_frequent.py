"""The user's most frequent label: labels ranked by how often the device's own train rows have them.

Of two that are as frequent, the one that came first is first; labels that the user never had are not ranked.
"""

import numpy as np

from benchmarks.baselines.common import Array
from benchmarks.baselines.problem import Config, Problem

GRID: tuple[Config, ...] = ({},)


def fit(problem: Problem) -> list[Array]:
    """Return each device's scores (q, K) of its queries, the same for all of them; −∞ is "not ranked"."""
    return [np.tile(_by_frequency(one.y, len(one.names)), (len(one.queries), 1)) for one in problem.clients]


def _by_frequency(y: Array, labels: int) -> Array:
    scores = np.full(labels, -np.inf)
    for label in dict.fromkeys(y.tolist()):
        first = int(np.argmax(y == label))
        scores[label] = np.count_nonzero(y == label) - first / len(y)
    return scores
