"""The methods beside ours: their names, and one run of them on the devices of an experiment that is done.

Published methods lie in ``benchmarks/baselines`` of the source checkout and are no part of the installed package. They
get the same inputs, splits, labels and number of rounds, with all devices of the rounds in each of them. A label that
one device alone knows is out of reach for a model that all share, and in reach of what a device fits itself.

>>> chosen_baselines(["ours", "ditto,fedavg"])
('fedavg', 'ditto')
"""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.encoders.encoder import Encoder
from engine.model.inputs import encode_inputs, name_vectors
from federation.errors import ConfigError
from federation.simulation.experiment import Experiment, Outcome, Progress
from federation.simulation.fleet import Member, accepted_of

if TYPE_CHECKING:
    from benchmarks.baselines.common import Client

OURS, ALL = "ours", "all"
BASELINES = ("local", "most_frequent", "fedavg", "fedavg_finetuned", "fedrep", "ditto", "knn_per")
_CHECKOUT = Path(__file__).resolve().parents[1]


def chosen_baselines(given: Sequence[str]) -> tuple[str, ...]:
    """Return the baselines that names, or comma lists of them, ask for; raise `ConfigError` for an unknown one."""
    names = [name.strip() for one in given for name in one.split(",")]
    for name in names:
        if name not in (OURS, ALL, *BASELINES):
            raise ConfigError(f"Unknown method {name!r}. Known: {', '.join((OURS, *BASELINES))}, or {ALL}.")
    return tuple(name for name in BASELINES if name in names or ALL in names)


def baselines_module(name: str = "run") -> Any:
    """Return this module of ``benchmarks.baselines``; raise `ConfigError` outside a source checkout."""
    try:
        if (_CHECKOUT / "benchmarks" / "baselines").is_dir() and str(_CHECKOUT) not in sys.path:
            # Last, so that it shadows nothing: an installed command has its own folder first, not the checkout.
            sys.path.append(str(_CHECKOUT))
        return importlib.import_module(f"benchmarks.baselines.{name}")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("benchmarks"):
            raise
        raise ConfigError(
            "The methods beside ours are not in the installed package: run from a source checkout, or leave out "
            "--methods."
        ) from None


def with_baselines(
    outcome: Outcome,
    experiment: Experiment,
    names: Sequence[str],
    *,
    encoder: Encoder,
    rounds: int,
    seed: int,
    progress: Progress,
) -> tuple[Outcome, dict[str, Any]]:
    """Return the outcome with each baseline's ranks of the same rows, and the settings that each chose."""
    module = baselines_module()
    dimension = outcome.model.dimension
    clients = [client_of(member, experiment, encoder, dimension) for member in outcome.people]
    with progress("Other methods", len(names)) as tick:
        found = module.run_baselines(clients, names=names, rounds=rounds, seed=seed, tick=tick)
    places = [place for place, member in enumerate(outcome.people) if member.test]
    measured = [
        replace(
            one,
            by_method=one.by_method | {name: found[name].ranks[place] for name in names},
            accepted=one.accepted | {name: found[name].accepted[place] for name in names},
        )
        for place, one in zip(places, outcome.measured, strict=True)
    ]
    return replace(outcome, measured=measured), {name: found[name].chosen for name in names}


def client_of(member: Member, experiment: Experiment, encoder: Encoder, dimension: int) -> "Client":
    """Return a member's rows as a baseline sees them: the inputs (n, dimension) of the shared model, and labels by
    number, its own after the public ones."""
    from benchmarks.baselines.common import Client

    public = experiment.catalogue.labels
    own = sorted({row.label for row in member.train} - set(experiment.catalogue.names))
    place = {name: number for number, name in enumerate((*experiment.catalogue.names, *own))}
    meanings = [*(label.meaning for label in public), *(name.replace("_", " ") for name in own)]
    return Client(
        x=encode_inputs([row.text for row in member.train], encoder, dimension),
        y=np.array([place[row.label] for row in member.train], dtype=np.int64),
        queries=encode_inputs([row.text for row in member.test], encoder, dimension),
        truth=np.array([place.get(row.label, -1) for row in member.test], dtype=np.int64),
        accepted=tuple(tuple(place.get(label, -1) for label in accepted_of(row)) for row in member.test),
        names=name_vectors(meanings, encoder, dimension),
        public=len(public),
        late=member.late,
    )
