"""The same people in several modes, side by side: what `tacit demo` shows, and what privacy costs them.

The cost is the accuracy of the open run less that of the private one on the same test rows, with its 95% interval by
bootstrap over users. It says nothing of how much one run's noise differs from another's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.owner.modes import OPEN, PRIVATE
from federation.evaluation.metrics import UserRanks, gain_interval
from federation.evaluation.results import header, run_results
from federation.rounds.config import RunSettings
from federation.simulation.experiment import Experiment, Outcome
from federation.simulation.fleet import Measured


def comparison_results(
    experiment: Experiment,
    runs: Mapping[str, tuple[RunSettings, Outcome]],
    *,
    command: str,
    ledger: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the results of runs over ``experiment``, by mode; what privacy costs where two of them tell.

    ``ledger`` is what one device of the private run noted: its entries, each with what it says in words.
    """
    made = {mode: run_results(experiment, *run, command=command) for mode, run in runs.items()}
    results = header(experiment.title, command, generated=experiment.generated, mode=None)
    results |= {"kind": "modes", "mode": " and ".join(made), "runs": made}
    if {OPEN, PRIVATE} <= set(runs):
        opened, private = runs[OPEN][1].measured, runs[PRIVATE][1].measured
        results["cost"] = {
            name: list(accuracy_lost(private, opened, name, seed=seed)) for name in ("personal", "global")
        }
    return results if ledger is None else results | {"ledger": dict(ledger)}


def accuracy_lost(
    private: Sequence[Measured], opened: Sequence[Measured], method: str, *, seed: int
) -> tuple[float, float, float]:
    """Return the accuracy of ``opened`` less that of ``private`` by one method, with its 95% interval over users.

    Both are the same people in the same order, as the runs of one experiment measure them.
    """
    pairs = [
        UserRanks(user=one.user, baseline=one.by_method[method], personal=other.by_method[method])
        for one, other in zip(private, opened, strict=True)
    ]
    return gain_interval(pairs, rng=np.random.default_rng(seed))
