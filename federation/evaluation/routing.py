"""`tacit evaluate routing`: the protocol for routing, over several seeds, pooled into one result a block.

Rows with users give one block; rows without give one for each Dirichlet α. Each seed and block is a whole experiment:
devices with encrypted stores, federated rounds through the apps, personalization on each device.
"""

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.encoders.encoder import CachedEncoder
from engine.owner.modes import OPEN
from federation.data.dataset import Row
from federation.data.splits import Split, has_users, late_users, split_rows
from federation.errors import ConfigError
from federation.evaluation.methods import baselines_module, with_baselines
from federation.evaluation.results import figures, header, privacy, traffic, versus_best
from federation.rounds.config import RunSettings
from federation.simulation.experiment import Experiment, Outcome, Progress, no_progress, run_experiment, titled, warm
from federation.simulation.fleet import Measured
from federation.simulation.out_of_scope import HeldOut, ScopeRead, hold_out, scope_result

ALPHAS = (0.05, 0.3, 1.0, 5.0)
_AT_THE_TOP = ("methods", "gain", "users", "rows", "privacy", "versus_best_baseline", "unseen", "out_of_scope")


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
    out_of_scope: float | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Return the results with ``methods`` and ``gain`` in each block, and at the top where there is one block.

    ``settings`` are those of `RunSettings` that hold for all seeds; ``baselines`` names methods of
    `federation.evaluation.methods` to run beside ours. With ``unseen`` that share of the devices, drawn by the seed,
    joins after the last round, and each block has their figures apart. With ``out_of_scope`` that share of the shared
    labels is held out, and each block says how well requests for them are told from others; its other figures are of
    rows in scope. Raises `ConfigError` for an α where rows name users, and `DataError` for rows that no device could
    be measured on.
    """
    named = has_users(rows)
    if named and alphas:
        raise ConfigError("These rows name users: each user is a device, so --alpha does not apply.")
    if baselines:
        baselines_module()  # Where it is missing, say so before the rounds.
    warm(encoder, list(dict.fromkeys(row.text for row in rows)), progress)
    plan = _Plan(
        settings=settings,
        encoder=encoder,
        baselines=baselines,
        unseen=unseen,
        out_of_scope=out_of_scope,
        progress=progress,
    )
    blocks = [
        plan.block(rows, title=title, seeds=seeds, devices=devices, alpha=alpha)
        for alpha in ([None] if named else list(alphas or ALPHAS))
    ]
    result = header(title, command, mode=settings.get("mode", OPEN)) | {"kind": "evaluation", "blocks": blocks}
    if len(blocks) == 1:
        result |= {name: blocks[0][name] for name in _AT_THE_TOP if name in blocks[0]}
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What holds for all splits."""

    settings: dict[str, Any]
    encoder: CachedEncoder
    baselines: Sequence[str]
    unseen: float | None
    out_of_scope: float | None
    progress: Progress

    def block(
        self, rows: Sequence[Row], *, title: str, seeds: int, devices: int | None, alpha: float | None
    ) -> dict[str, Any]:
        """Return the figures of all splits with one α, or of users, pooled."""
        runs = []
        for seed in range(seeds):
            split = split_rows(rows, seed=seed, devices=devices, alpha=alpha)
            name = f"{'' if alpha is None else f'α={alpha:g}, '}seed {seed}"
            runs.append(self.run(split, title=title, seed=seed, name=name))
        block = _block(alpha, [outcome for outcome, _ in runs], self.baselines)
        return block | ({"chosen": [chosen for _, chosen in runs]} if self.baselines else {})

    def run(self, split: Split, *, title: str, seed: int, name: str) -> tuple[Outcome, dict[str, Any]]:
        """Return the outcome on one split, published methods included, and the settings that these chose."""
        held: HeldOut | None = None
        if self.out_of_scope is not None:
            held = hold_out(split, share=self.out_of_scope, seed=seed)
            split = held.split
        late = frozenset() if self.unseen is None else late_users(split, share=self.unseen, seed=seed)
        experiment = Experiment.of(split, title=title, late=late, outside=None if held is None else held.outside)
        settings = RunSettings(cohort=len(experiment.split), seed=seed, **self.settings)
        shown = titled(self.progress, name)
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
    scopes = [
        one if alpha is None else dataclasses.replace(one, user=f"{one.user}, seed {seed}")
        for seed, outcome in enumerate(outcomes)
        for one in outcome.scopes
    ]
    block: dict[str, Any] = {"alpha": alpha, "bytes": traffic(outcomes), "privacy": privacy(outcomes[0].model)}
    present, late = ([one for one in measured if one.late is is_late] for is_late in (False, True))
    block |= _figures(present, baselines, [one for one in scopes if not one.late])
    if late:
        block["unseen"] = _figures(late, baselines, [one for one in scopes if one.late])
    return block


def _figures(measured: Sequence[Measured], baselines: Sequence[str], scopes: Sequence[ScopeRead]) -> dict[str, Any]:
    found = figures(measured, seed=0)
    if scopes:
        found["out_of_scope"] = scope_result(scopes, rng=np.random.default_rng(0))
    if baselines:
        found["versus_best_baseline"] = versus_best(measured, found["methods"], baselines, seed=0)
    return found
