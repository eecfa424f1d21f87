"""What recency does for a file's own users: `python -m benchmarks.drift_users FILE`.

Only rows that train by the protocol for routing (`docs/data.md`, the first seed) are read: of each user the rows of
training, in their own order and in a random one, in which nothing can have changed. Half of the users teach the shared
model and the re-scorer's weights, the others are measured as in `benchmarks.drift`, and the other way round. Prints
accuracy without recency and with it, and how many answers it set right or wrong. Options: --rounds, --fewest, --json.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.drift import Plain, Way, gain, walk
from benchmarks.drifting_people import life_of
from engine.encoders.encoder import CachedEncoder, load_encoder
from engine.model.checkpoint import Checkpoint
from engine.personal.rescorer import Floats
from federation.data.dataset import Row, read_rows
from federation.data.splits import split_by_user
from federation.rounds.config import RunSettings
from federation.simulation.experiment import Experiment, run_experiment

TAUGHT_SHARE = 0.85
User = tuple[str, list[Row]]


def users_of(path: Path) -> list[User]:
    """Each user's rows that train, in their own order."""
    rows = read_rows(path)
    return [(user, sorted(train, key=lambda row: row.order)) for user, train, _ in split_by_user(rows, seed=0)]


def taught_by(users: Sequence[User], encoder: CachedEncoder, rounds: int) -> Checkpoint:
    """A shared model and the re-scorer's weights from rounds over these users."""
    split = [(user, rows[: (cut := max(1, int(TAUGHT_SHARE * len(rows))))], rows[cut:]) for user, rows in users]
    with tempfile.TemporaryDirectory() as folder:
        settings = RunSettings(rounds=rounds, cohort=len(users))
        return run_experiment(Experiment.of(split, title="users"), settings, Path(folder) / "run", encoder).model


def measure(path: Path, *, rounds: int, fewest: int) -> dict[str, Any]:
    """By order of rows: accuracy without and with recency, its gain with an interval, answers set right and wrong."""
    encoder, everybody = CachedEncoder(load_encoder()), users_of(path)
    random.Random(0).shuffle(everybody)
    halves = everybody[::2], everybody[1::2]
    hits: dict[str, list[tuple[Floats, Floats]]] = {"their own order": [], "a random order": []}
    for teachers, others in (halves, halves[::-1]):
        model = taught_by(teachers, encoder, rounds)
        assert model.learned is not None
        for user, rows in others:
            mixed = random.Random(f"drift:{user}").sample(rows, len(rows))
            for name, its in zip(hits, (rows, mixed), strict=True) if len(rows) >= fewest else ():
                life = life_of(its, model, encoder)
                hits[name].append((walk(life, Plain(model.learned)), walk(life, Way(model.learned))))
    return {name: _figures(its) for name, its in hits.items()}


def _figures(hits: Sequence[tuple[Floats, Floats]]) -> dict[str, Any]:
    plain, ours = [one for one, _ in hits], [one for _, one in hits]
    differences = np.concatenate(ours) - np.concatenate(plain)
    return {
        "users": len(hits),
        "requests": int(np.isfinite(differences).sum()),
        "without": float(np.nanmean(np.concatenate(plain))),
        "with": float(np.nanmean(np.concatenate(ours))),
        "gain": gain(ours, plain, [np.ones(len(one), dtype=bool) for one in ours]),
        "set_right": int((differences > 0).sum()),
        "set_wrong": int((differences < 0).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--rounds", type=int, default=45)
    parser.add_argument("--fewest", type=int, default=12, help="rows that a user must have to be measured")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    figures = measure(asked.file, rounds=asked.rounds, fewest=asked.fewest)
    if asked.json:
        print(json.dumps(figures, indent=2))
        return
    for name, its in figures.items():
        mean, low, high = (100 * one for one in its["gain"])
        print(f"Rows in {name}: {its['users']} users, {its['requests']:,} requests")
        print(f"  accuracy without recency {its['without']:.3f}, with it {its['with']:.3f}")
        print(f"  {mean:+.1f} points ({low:+.1f} to {high:+.1f}): {its['set_right']} right, {its['set_wrong']} wrong")


if __name__ == "__main__":
    main()
