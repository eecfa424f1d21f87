"""`tacit evaluate routing`: the protocol for routing, over several seeds, pooled into one result a block.

Rows with users give one block; rows without give one for each Dirichlet α. Each seed and block is a whole experiment:
devices with encrypted stores, federated rounds through the apps, personalization on each device.
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from engine.encoder import CachedEncoder
from federation.config import RunSettings
from federation.dataset import Row
from federation.errors import ConfigError
from federation.experiment import Experiment, Outcome, Progress, no_progress, run_experiment, warm
from federation.results import figures, header, traffic
from federation.splits import has_users, split_rows

ALPHAS = (0.05, 0.3, 1.0, 5.0)


def evaluate_routing(
    rows: Sequence[Row],
    *,
    title: str,
    settings: dict[str, Any],
    seeds: int,
    devices: int | None,
    alphas: Sequence[float],
    encoder: CachedEncoder,
    command: str,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Return the results with ``methods`` and ``gain`` in each block, and at the top where there is one block.

    ``settings`` are those of `RunSettings` that hold for all seeds. Raises `ConfigError` for an α where rows name
    users, and `DataError` for rows that no device could be measured on.
    """
    named = has_users(rows)
    if named and alphas:
        raise ConfigError("These rows name users: each user is a device, so --alpha does not apply.")
    warm(encoder, list(dict.fromkeys(row.text for row in rows)), progress)
    blocks = []
    for alpha in [None] if named else list(alphas or ALPHAS):
        outcomes = []
        for seed in range(seeds):
            split = split_rows(rows, seed=seed, devices=devices, alpha=alpha)
            experiment = Experiment.of(split, title=title)
            shown = _titled(progress, f"{'' if alpha is None else f'α={alpha:g}, '}seed {seed}")
            outcomes.append(_run(experiment, settings | {"seed": seed}, encoder, shown))
        blocks.append(_block(alpha, outcomes))
    result = header(title, command) | {"kind": "evaluation", "blocks": blocks}
    if len(blocks) == 1:
        result |= {name: blocks[0][name] for name in ("methods", "gain", "users", "rows")}
    return result


def _run(experiment: Experiment, settings: dict[str, Any], encoder: CachedEncoder, progress: Progress) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="tacit-") as folder:
        whole = RunSettings(cohort=len(experiment.split), **settings)
        return run_experiment(experiment, whole, Path(folder) / "run", encoder, progress)


def _block(alpha: float | None, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    measured = [
        # A dealt device of one seed is not the same device in another: only real users pool.
        one if alpha is None else dataclasses.replace(one, user=f"{one.user}, seed {seed}")
        for seed, outcome in enumerate(outcomes)
        for one in outcome.measured
    ]
    return {"alpha": alpha, "bytes": traffic(outcomes)} | figures(measured, seed=0)


def _titled(progress: Progress, name: str) -> Progress:
    @contextlib.contextmanager
    def shown(title: str, total: int) -> Iterator[Any]:
        with progress(f"{name}: {title}", total) as tick:
            yield tick

    return shown
