"""`tacit evaluate routing`: the protocol for routing, over several seeds, pooled into one result a block.

Rows with users give one block; rows without give one for each Dirichlet α. Each seed and block is a whole experiment:
devices with encrypted stores, federated rounds through the apps, personalization on each device.
"""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.encoder import CachedEncoder
from federation.config import RunSettings
from federation.dataset import Row
from federation.errors import ConfigError
from federation.experiment import Experiment, Outcome, Progress, no_progress, run_experiment, warm
from federation.fleet import Measured
from federation.methods import baselines_module, with_baselines
from federation.results import figures, header, traffic, versus_best
from federation.splits import has_users, late_users, split_rows

ALPHAS = (0.05, 0.3, 1.0, 5.0)
_AT_THE_TOP = ("methods", "gain", "users", "rows", "versus_best_baseline", "unseen")


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
    baselines: Sequence[str] = (),
    unseen: float | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Return the results with ``methods`` and ``gain`` in each block, and at the top where there is one block.

    ``settings`` are those of `RunSettings` that hold for all seeds; ``baselines`` names methods of
    `federation.methods` to run beside ours. With ``unseen`` that share of the devices, drawn by the seed, joins after
    the last round, and each block has their figures apart. Raises `ConfigError` for an α where rows name users,
    and `DataError` for rows that no device could be measured on.
    """
    named = has_users(rows)
    if named and alphas:
        raise ConfigError("These rows name users: each user is a device, so --alpha does not apply.")
    if baselines:
        baselines_module()  # Where it is missing, say so before the rounds.
    warm(encoder, list(dict.fromkeys(row.text for row in rows)), progress)
    plan = _Plan(settings=settings, encoder=encoder, baselines=baselines, progress=progress)
    blocks = []
    for alpha in [None] if named else list(alphas or ALPHAS):
        runs = []
        for seed in range(seeds):
            split = split_rows(rows, seed=seed, devices=devices, alpha=alpha)
            late = frozenset() if unseen is None else late_users(split, share=unseen, seed=seed)
            name = f"{'' if alpha is None else f'α={alpha:g}, '}seed {seed}"
            runs.append(plan.run(Experiment.of(split, title=title, late=late), seed=seed, name=name))
        blocks.append(_block(alpha, [outcome for outcome, _ in runs], baselines))
        if baselines:
            blocks[-1]["chosen"] = [chosen for _, chosen in runs]
    result = header(title, command) | {"kind": "evaluation", "blocks": blocks}
    if len(blocks) == 1:
        result |= {name: blocks[0][name] for name in _AT_THE_TOP if name in blocks[0]}
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What holds for all splits."""

    settings: dict[str, Any]
    encoder: CachedEncoder
    baselines: Sequence[str]
    progress: Progress

    def run(self, experiment: Experiment, *, seed: int, name: str) -> tuple[Outcome, dict[str, Any]]:
        """Return the outcome on one split, published methods included, and the settings that these chose."""
        settings = RunSettings(cohort=len(experiment.split), seed=seed, **self.settings)
        shown = _titled(self.progress, name)
        with tempfile.TemporaryDirectory(prefix="tacit-") as folder:
            outcome = run_experiment(experiment, settings, Path(folder) / "run", self.encoder, shown)
        if not self.baselines:
            return outcome, {}
        return with_baselines(
            outcome,
            experiment,
            self.baselines,
            encoder=self.encoder,
            rounds=settings.rounds,
            seed=seed,
            progress=shown,
        )


def _block(alpha: float | None, outcomes: Sequence[Outcome], baselines: Sequence[str]) -> dict[str, Any]:
    measured = [
        # A dealt device of one seed is not the same device in another: only real users pool.
        one if alpha is None else dataclasses.replace(one, user=f"{one.user}, seed {seed}")
        for seed, outcome in enumerate(outcomes)
        for one in outcome.measured
    ]
    present, late = [one for one in measured if not one.late], [one for one in measured if one.late]
    block = {"alpha": alpha, "bytes": traffic(outcomes)} | _figures(present, baselines)
    return block | ({"unseen": _figures(late, baselines)} if late else {})


def _figures(measured: Sequence[Measured], baselines: Sequence[str]) -> dict[str, Any]:
    found = figures(measured, seed=0)
    if baselines:
        found["versus_best_baseline"] = versus_best(measured, found["methods"], baselines, seed=0)
    return found


def _titled(progress: Progress, name: str) -> Progress:
    @contextlib.contextmanager
    def shown(title: str, total: int) -> Iterator[Any]:
        with progress(f"{name}: {title}", total) as tick:
            yield tick

    return shown
