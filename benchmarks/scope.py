"""Fits and tries the weights of the scope score (`engine/personal/scope.py`).

`python -m benchmarks.scope --rows hwu64.jsonl` prints them.

Generated people make requests of three kinds that their devices cannot know: for needs that were held out whole, for
single services whose rivals are known (hard: "order me some dinner" is in scope for these), and for what no service
takes. Of a file of rows without users, only what `tacit evaluate routing` trains on with its first seed is read, dealt
anew, and a quarter of its labels is held out.

The weights are those of a logistic regression on the requests of half of these populations, every population and either
side counted alike; printed beside them is what they do on the other half, whose people and held-out labels are others.
"""

import argparse
import itertools
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.encoders.encoder import CachedEncoder, load_encoder
from engine.personal.rescorer import Floats
from engine.personal.scope import FALSE_REFUSALS, SIGNS, threshold
from federation.data.dataset import Row, read_rows
from federation.data.splits import Split, split_as_marked, split_rows
from federation.population import generate
from federation.population.needs import NEEDS
from federation.rounds.config import RunSettings
from federation.simulation.experiment import Experiment, run_experiment
from federation.simulation.fleet import Fleet
from federation.simulation.out_of_scope import auroc, hold_out

NEEDS_HELD_OUT, SERVICES_HELD_OUT, OUTSIDE_EACH = 3, 3, 5
LABELS_HELD_OUT = 0.25
RIDGE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """One device's requests: signs (n, 3), which are in scope (n,), and the signs (m, 3) of its own memories."""

    signs: Floats
    known: npt.NDArray[np.bool_]
    own: Floats


def held_out_split(people: int, seed: int) -> tuple[Split, dict[str, tuple[Row, ...]]]:
    """Return generated people's rows without what is held out, and their requests out of scope by user."""
    population = generate(people, seed=seed, outside_per_device=OUTSIDE_EACH)
    rng = random.Random(f"scope:{seed}")
    whole = rng.sample(NEEDS, NEEDS_HELD_OUT)
    held = {service for need in whole for service in need.services}
    others = [need for need in NEEDS if need not in whole]
    held |= {rng.choice(need.services) for need in rng.sample(others, SERVICES_HELD_OUT)}
    split, outside = [], {}
    for user, train, test in split_as_marked(population.rows):
        split.append(
            (user, [row for row in train if row.label not in held], [row for row in test if row.label not in held])
        )
        beyond = [row for row in population.outside if row.user == user]
        outside[user] = tuple([row for row in test if row.label in held] + beyond)
    return split, outside


def dealt_split(path: Path, draw: int, alpha: float) -> tuple[Split, dict[str, tuple[Row, ...]]]:
    """Return the same for the train rows of a file: each device's split anew, and some labels held out."""
    split = []
    for user, train, _ in split_rows(read_rows(path), seed=0, devices=None, alpha=alpha):
        own = list(train)
        random.Random(f"scope:{draw}:{user}").shuffle(own)
        cut = int(0.8 * len(own))
        split.append((user, own[:cut], own[cut:]))
    # Other labels than any seed of an evaluation holds out.
    held = hold_out(split, share=LABELS_HELD_OUT, seed=1000 + draw)
    return held.split, held.outside


def read_signs(
    split: Split, outside: dict[str, tuple[Row, ...]], encoder: CachedEncoder, *, rounds: int, seed: int
) -> list[Rows]:
    """Run rounds over these devices and read the signs of their requests."""
    experiment = Experiment.of(split, title="to fit the scope score on")
    settings = RunSettings(cohort=len(split), seed=seed, rounds=rounds)
    found = []
    with tempfile.TemporaryDirectory(prefix="tacit-") as folder:
        outcome = run_experiment(experiment, settings, Path(folder) / "run", encoder)
        fleet = Fleet(Path(folder) / "run", outcome.people, start=outcome.model, encoder=encoder)
        for member in outcome.people:
            rows = [*member.test, *outside[member.user]]
            if rows:
                with fleet.open(member.name) as device:
                    asked, own = device.scope_signs([row.text for row in rows])
                    known = np.array([row.label in device.labels for row in rows])
                found.append(Rows(signs=asked.values, known=known, own=own.values))
    return found


def fit(populations: Sequence[Sequence[Rows]], chosen: Sequence[int]) -> Floats:
    """Return the weights (k,) of the ``chosen`` signs by logistic regression; each population has an offset of its
    own, since thresholds are set by each device."""
    inputs, knowns, shares = [], [], []
    for place, rows in enumerate(populations):
        signs, known = _joined(rows)
        inputs.append(
            np.concatenate([signs[:, chosen], np.tile(np.eye(len(populations))[place], (len(signs), 1))], axis=1)
        )
        knowns.append(known)
        shares.append(np.where(known, 0.5 / known.sum(), 0.5 / (~known).sum()) / len(populations))
    x, y, share = np.concatenate(inputs), np.concatenate(knowns), np.concatenate(shares)
    ridge = np.diag([RIDGE] * len(chosen) + [0.0] * len(populations))
    w = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ w))
        gradient = x.T @ (share * (y - p)) - ridge @ w
        curvature = (x * (share * p * (1 - p))[:, None]).T @ x + ridge
        w = w + np.linalg.solve(curvature, gradient)
    weights: Floats = w[: len(chosen)]
    return weights


def _joined(rows: Sequence[Rows]) -> tuple[Floats, npt.NDArray[np.bool_]]:
    return np.concatenate([one.signs for one in rows]), np.concatenate([one.known for one in rows])


def tried(weights: Floats, chosen: Sequence[int], rows: Sequence[Rows]) -> str:
    """Return AUROC, false refusals and refusals of these weights on devices that they were not fitted on."""
    signs, known = _joined(rows)
    scores = signs[:, chosen] @ weights
    lowest = [threshold(one.own[:, chosen] @ weights, share=FALSE_REFUSALS) for one in rows]
    refused = scores < np.repeat(lowest, [len(one.known) for one in rows])
    return (
        f"{auroc(scores[known].tolist(), scores[~known].tolist()):.3f} "
        f"({refused[known].mean():.3f}, {refused[~known].mean():.3f})"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the weights of all choices of signs, and AUROC (false refusals, refused) of each on other populations."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rows", type=Path, help="a routing file without users, beside the generated people")
    parser.add_argument("--people", type=int, default=40, help="of each generated population")
    parser.add_argument("--populations", type=int, default=2, help="generated to fit on, and as many to try on")
    parser.add_argument("--rounds", type=int, default=90)
    given = parser.parse_args(arguments)
    encoder = CachedEncoder(load_encoder())
    splits = [held_out_split(given.people, 100 + draw) for draw in range(2 * given.populations)]
    if given.rows is not None:
        splits += [dealt_split(given.rows, draw, 0.3) for draw in range(2)]
    found = [read_signs(*split, encoder, rounds=given.rounds, seed=seed) for seed, split in enumerate(splits)]
    fitted, others = found[::2], found[1::2]
    for size in range(1, len(SIGNS) + 1):
        for chosen in itertools.combinations(range(len(SIGNS)), size):
            weights = fit(fitted, chosen)
            names = ", ".join(f"{SIGNS[place]} {weight:.2f}" for place, weight in zip(chosen, weights, strict=True))
            print(f"{names:38}", "  ".join(tried(weights, chosen, rows) for rows in others))


if __name__ == "__main__":
    main()
