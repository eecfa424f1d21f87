"""What a method is given: devices, rounds, what FedAvg made of them, and the same devices with rows held out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.baselines.common import Array, Client, Group, groups_of

Config = dict[str, Any]
HELD_OUT, FEWEST = 0.3, 10  # The share of a device's train rows that judges, from this many train rows on.


@dataclass(slots=True, kw_only=True)
class Problem:
    """Devices, the number of rounds, and a seed. ``tables`` are FedAvg's models, from the start to the last round.

    ``held`` is the same with a part of each device's train rows held out as its queries, to choose settings by.
    """

    clients: Sequence[Client]
    rounds: int
    seed: int
    held: "Problem | None" = None
    tables: list[Array] = field(default_factory=list)
    groups: list[Group] = field(init=False)

    def __post_init__(self) -> None:
        self.groups = groups_of(self.clients)

    def rng(self) -> np.random.Generator:
        """Return a fresh generator, the same at each call."""
        return np.random.default_rng(self.seed)


def with_held_out(clients: Sequence[Client], *, rounds: int, seed: int) -> Problem:
    """Return the problem, and within it the one that settings are chosen on: no test row is in the latter."""
    rng = np.random.default_rng([seed, 1])
    # Those that join late come last, so that they change nothing for the others.
    order = sorted(range(len(clients)), key=lambda place: clients[place].late)
    parts = {place: _held_out(clients[place], rng) for place in order}
    held = Problem(clients=[parts[place] for place in range(len(clients))], rounds=rounds, seed=seed)
    return Problem(clients=clients, rounds=rounds, seed=seed, held=held)


def _held_out(one: Client, rng: np.random.Generator) -> Client:
    order = rng.permutation(len(one.y))
    cut = int(HELD_OUT * len(order)) if len(order) >= FEWEST else 0
    asked, kept = order[:cut], np.sort(order[cut:])
    return Client(
        x=one.x[kept],
        y=one.y[kept],
        queries=one.x[asked],
        truth=one.y[asked],
        names=one.names,
        public=one.public,
        late=one.late,
    )
