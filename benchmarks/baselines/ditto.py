"""Ditto: beside the shared model each device keeps one of its own, pulled towards the shared one of each round.

v ← v − η·(∇F(v) + λ·(v − w)), ``steps`` times a round, w being the shared model that the round began with; w itself is
FedAvg's. Source: Li et al. 2021, *Ditto: Fair and Robust Federated Learning Through Personalization*, algorithm 1. A
device that joins late takes as many steps towards the last shared model.
"""

from benchmarks.baselines.common import Array, Group, errors
from benchmarks.baselines.problem import Config, Problem

GRID: tuple[Config, ...] = tuple(
    {"rate": rate, "pull": pull, "steps": 5}
    for rate, pull in ((0.03, 0.1), (0.03, 2.0), (0.1, 0.1), (0.1, 1.0), (0.3, 0.02), (0.3, 0.3))
)


def fit(problem: Problem, *, rate: float, pull: float, steps: int) -> list[Array]:
    """Return each device's scores (q, K) of its queries by its own model after the last round; ``pull`` is λ."""
    found: dict[int, Array] = {}
    for group in problem.groups:
        tables = [problem.tables[-1]] * problem.rounds if group.late else problem.tables[:-1]
        scores = group.scores(tables[0])
        for table in tables:
            scores = towards(group, scores, group.scores(table), rate=rate, pull=pull, steps=steps)
        found |= group.answers(scores, problem.clients)
    return [found[place] for place in range(len(problem.clients))]


def towards(group: Group, scores: Array, shared: Array, *, rate: float, pull: float, steps: int) -> Array:
    """Return the scores of the devices' own models after ``steps`` steps; all are (D, n + q, K)."""
    for _ in range(steps):
        wrong = errors(scores[:, : group.rows], group.targets, group.counts)
        scores = scores - rate * (group.kernel @ wrong + pull * (scores - shared))
    return scores
