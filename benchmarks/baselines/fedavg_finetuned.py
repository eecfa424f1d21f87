"""FedAvg with fine-tuning: each device takes gradient steps from the last shared model on its own rows.

The baseline that Collins et al. 2021 (section 5, "FedAvg-FT") and others ask for. Labels of the device's own start from
their encoded names.
"""

from benchmarks.baselines.common import Array, descend
from benchmarks.baselines.problem import Config, Problem

GRID: tuple[Config, ...] = tuple({"rate": rate, "steps": steps} for rate in (0.03, 0.1, 0.3) for steps in (20, 80))


def fit(problem: Problem, *, rate: float, steps: int) -> list[Array]:
    """Return each device's scores (q, K) of its queries after fine-tuning."""
    found: dict[int, Array] = {}
    for group in problem.groups:
        scores = group.scores(problem.tables[-1])
        scores, _ = descend(scores, group.targets, group.counts, group.kernel, steps=steps, rate=rate)
        found |= group.answers(scores, problem.clients)
    return [found[place] for place in range(len(problem.clients))]
