"""How a device follows its user's changing habits: `python -m benchmarks.drift`.

Invented people's requests come one after the other; each is answered by a personalizer that was fitted to those before
it, and then remembered. Prints accuracy on requests that a changed habit answers, by how many of these came since the
change, and on all other requests before and after it, for several ways to weigh old memories, with the gain of recency
over none and its 95% interval by bootstrap over people. Three kinds of people: no habit changes, one to three change,
half of them change. The shared model and the re-scorer's weights come from rounds over other people. Also prints how
often a change is found where there is none, and what recency costs in CPU-milliseconds on a device with 200 memories.
Options: --people, --rows, --seeds, --first-seed, --json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.drifting_people import CHANGES, Life, people
from engine.encoders.encoder import CachedEncoder, load_encoder
from engine.model.catalogue import Catalogue
from engine.model.checkpoint import Checkpoint, start_checkpoint
from engine.personal.personalizer import Personalizer
from engine.personal.recency import Recency, recency_weights
from engine.personal.rescorer import Evidence, Floats, Integers
from engine.personal.together import Learned
from federation.data.splits import split_as_marked
from federation.population import generate
from federation.rounds.config import RunSettings
from federation.simulation.experiment import Experiment, run_experiment

TEACHERS, ROUNDS = 60, 30
# Requests that are not looked at, since hardly anything is remembered before them.
FIRST = 10
HALF_LIVES, MARGIN_NATS = (160.0, 40.0, 10.0), 2.0
SINCE = ((0, 3), (3, 6), (6, 10), (10, 10_000))
MEMORIES, ASKED = 200, 200


@dataclass(frozen=True, slots=True)
class HalfLife:
    """A weight of 2^(−a/h) for a memory with a others between it and the query: one recency for all that is asked."""

    memories: float

    def __call__(self, alike: Floats, expected: Floats, y: Integers, /) -> Floats | None:
        age = np.arange(len(y))[::-1]
        return np.repeat(2.0 ** (-age[None] / self.memories), len(alike), axis=0)


class Way:
    """How one person's memories are weighed before request ``row``: all of them, by the recency that was learned."""

    def __init__(self, learned: Learned) -> None:
        self.learned = learned
        self.asked = self.found = 0

    def rows(self, life: Life, row: int) -> Integers:
        """The memories that are known."""
        return np.arange(row)

    def recency(self, life: Life, row: int) -> Recency | None:
        """How far they count."""
        return self.watched

    def watched(self, alike: Floats, expected: Floats, y: Integers, /) -> Floats | None:
        learned = self.learned.recency
        weights = None if learned is None else learned(alike, expected, y)
        self.asked, self.found = self.asked + 1, self.found + (weights is not None)
        return weights


class Plain(Way):
    def recency(self, life: Life, row: int) -> Recency | None:
        return None


class Fixed(Way):
    def recency(self, life: Life, row: int) -> Recency | None:
        return HalfLife(20.0)


class Chosen(Way):
    """The half-life that foresaw this person's requests best so far, or none unless one is better by the margin."""

    def __init__(self, learned: Learned) -> None:
        super().__init__(learned)
        self.foresaw: dict[HalfLife | None, float] = {None: 0.0} | {HalfLife(h): -MARGIN_NATS for h in HALF_LIVES}

    def recency(self, life: Life, row: int) -> Recency | None:
        best = max(self.foresaw, key=lambda one: self.foresaw[one])
        whole = life.memory(np.arange(row))
        log_p, label = life.query(row, np.arange(row))
        for one in self.foresaw if label >= 0 else ():
            answers = Personalizer(whole, self.learned.weights, recency=one).predict(log_p, life.x[row : row + 1])
            self.foresaw[one] += float(answers[0, label])
        return best


class Kinds(Way):
    """As if told which requests are of one kind, so that only when a habit changed is left to find."""

    def recency(self, life: Life, row: int) -> Recency | None:
        learned, same = self.learned.recency, (life.kind[:row] == life.kind[row]).astype(np.float64)
        if learned is None:
            return None
        return lambda alike, expected, y: learned(np.broadcast_to(same, alike.shape), expected, y)


class Forgotten(Plain):
    """As if told which habits changed, and when."""

    def rows(self, life: Life, row: int) -> Integers:
        rows = np.arange(row)
        return rows if row < life.change else rows[~life.of_changed[:row] | (rows >= life.change)]


WAYS: dict[str, type[Way]] = {
    "no recency": Plain,
    "half-life of 20 memories": Fixed,
    "half-life, chosen": Chosen,
    "recency": Way,
    "recency, told the kinds": Kinds,
    "told and forgotten": Forgotten,
}


def walk(life: Life, way: Way) -> Floats:
    """1 or 0 for each request (n,) that was answered right or wrong from those before it, NaN where not looked at."""
    right = np.full(len(life.y), np.nan)
    for row in range(FIRST, len(life.y)):
        memory = life.memory(way.rows(life, row))
        log_p, label = life.query(row, np.arange(row))
        if label < 0:
            continue  # A label that nobody could know yet.
        evidence = Evidence(rows=np.arange(len(memory.y)), global_log=memory.global_log)
        personal = Personalizer.fit(memory, evidence, learned=way.learned)
        personal.recency = way.recency(life, row)
        x = life.x[row : row + 1]
        right[row] = personal.ranking(log_p, personal.predict(log_p, x)).argmax() == label
    return right


def parts(life: Life) -> dict[str, np.ndarray]:
    """Which requests (n,) stand in which column of the table."""
    after = np.arange(len(life.y)) >= life.change
    columns = {"other, before": ~after & ~life.changed, "after": after & ~life.changed}
    if not life.changed.any():
        return columns
    columns["changed, before"] = ~after & life.changed
    since = np.cumsum(after & life.changed) - 1
    for low, high in SINCE:
        name = f"{low + 1}–{high}" if high < SINCE[-1][1] else f"{low + 1}…"
        columns[name] = after & life.changed & (since >= low) & (since < high)
    return columns


def mean_of(hits: Sequence[Floats], masks: Sequence[np.ndarray]) -> tuple[float, int]:
    """Accuracy over the masked requests of all people, and on how many it rests."""
    every = np.concatenate([its[mask & ~np.isnan(its)] for its, mask in zip(hits, masks, strict=True)])
    return float(every.mean()) if len(every) else float("nan"), len(every)


def gain(ours: Sequence[Floats], plain: Sequence[Floats], masks: Sequence[np.ndarray]) -> list[float]:
    """Mean difference over the masked requests of all people, and its middle 95% in 2,000 draws of people."""
    each = [(a - b)[mask & ~np.isnan(a)] for a, b, mask in zip(ours, plain, masks, strict=True)]
    sums, counts = np.array([[its.sum(), len(its)] for its in each if len(its)]).T
    drawn = np.random.default_rng(0).integers(len(sums), size=(2000, len(sums)))
    shares = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return [float(sums.sum() / counts.sum()), *np.percentile(shares, [2.5, 97.5]).tolist()]


def measure(lives: Sequence[Life], learned: Learned) -> dict[str, Any]:
    """Accuracy by way and column, the gain of recency over none, and how often it found a change."""
    ways = {name: [kind(learned) for _ in lives] for name, kind in WAYS.items()}
    hits = {name: [walk(life, way) for life, way in zip(lives, its, strict=True)] for name, its in ways.items()}
    of = [parts(life) for life in lives]
    names = list(dict.fromkeys(name for one in of for name in one))

    def masks(*columns: str) -> list[np.ndarray]:
        none = [np.zeros(len(life.y), dtype=bool) for life in lives]
        return [np.any([one.get(name, no) for name in columns], axis=0) for one, no in zip(of, none, strict=True)]

    spans = {"other, after": ["after"], "changed, 4–10": ["4–6", "7–10"], "changed, 11…": ["11…"]}
    asked = {column: mean_of(hits["recency"], masks(column))[1] for column in names}
    return {
        "requests": asked,
        "accuracy": {way: {name: mean_of(its, masks(name))[0] for name in names} for way, its in hits.items()},
        "gain": {
            span: gain(hits["recency"], hits["no recency"], masks(*columns))
            for span, columns in spans.items()
            if sum(asked.get(name, 0) for name in columns)
        },
        "found": sum(way.found for way in ways["recency"]) / sum(way.asked for way in ways["recency"]),
    }


def cost(life: Life, learned: Learned) -> dict[str, float]:
    """Median CPU-milliseconds of an answer from 200 memories, its text encoded, without recency and with it."""
    memory = life.memory(np.arange(MEMORIES))
    log_p, _ = life.query(MEMORIES, np.arange(MEMORIES))
    taken: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(ASKED):
        for name, recency in (("without", None), ("with", recency_weights)):
            personal = Personalizer(memory, learned.weights, recency=recency)
            began = time.process_time()
            personal.predict(log_p, life.x[MEMORIES : MEMORIES + 1])
            taken[name].append(1e3 * (time.process_time() - began))
    return {name: statistics.median(its) for name, its in taken.items()}


def taught(encoder: CachedEncoder) -> Checkpoint:
    """A shared model and the re-scorer's weights from rounds over people who are not measured."""
    rows = generate(TEACHERS, seed=4242).rows
    experiment = Experiment.of(split_as_marked(rows), title="teachers", generated=True)
    with tempfile.TemporaryDirectory() as folder:
        settings = RunSettings(rounds=ROUNDS, cohort=TEACHERS)
        return run_experiment(experiment, settings, Path(folder) / "run", encoder).model


def untrained(encoder: CachedEncoder, count: int, rows: int) -> list[float]:
    """The gain of recency where no habit changes and the shared model knows the labels' names alone."""
    model = start_checkpoint(Catalogue.builtin(), encoder)
    lives = people("no habit changes", count, rows=rows, seed=0, model=model, encoder=encoder)
    ours, plain = ([walk(life, kind(Learned())) for life in lives] for kind in (Way, Plain))
    return gain(ours, plain, [np.ones(len(life.y), dtype=bool) for life in lives])


def show(change: str, found: dict[str, Any]) -> None:
    print(f"\n{change}; a change found for {found['found']:.1%} of requests")
    columns = list(found["requests"])
    print(f"  {'':26}" + "".join(f"{column:>17}" if "," in column else f"{column:>8}" for column in columns))
    rows = {"requests": {column: f"{count:,}" for column, count in found["requests"].items()}}
    rows |= {way: {column: f"{its[column]:.3f}" for column in columns} for way, its in found["accuracy"].items()}
    for name, its in rows.items():
        print(f"  {name:26}" + "".join(f"{its[c]:>17}" if "," in c else f"{its[c]:>8}" for c in columns))
    for span, (mean, low, high) in found["gain"].items():
        print(f"  recency over none, {span}: {100 * mean:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=100, help="of each kind and seed")
    parser.add_argument("--rows", type=int, default=70, help="requests of each")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    encoder = CachedEncoder(load_encoder())
    model = taught(encoder)
    assert model.learned is not None
    figures: dict[str, Any] = {"people": asked.people, "rows": asked.rows, "by_change": {}}
    figures |= {"seeds": asked.seeds, "first_seed": asked.first_seed, "least_chance": model.learned.least_chance}
    if not asked.json:
        print(f"{asked.people} invented people of each kind, {asked.seeds} seeds, {asked.rows} requests each: accuracy")
        print(
            f"Other people's devices learned to follow a change from a probability of {model.learned.least_chance:g} on"
        )
    for change in CHANGES:
        lives = [
            life
            for seed in range(asked.first_seed, asked.first_seed + asked.seeds)
            for life in people(change, asked.people, rows=asked.rows, seed=seed, model=model, encoder=encoder)
        ]
        figures["by_change"][change] = measure(lives, model.learned)
        if not asked.json:
            show(change, figures["by_change"][change])
    figures["untrained"] = untrained(encoder, asked.people, asked.rows)
    long = people("half of the habits change", 1, rows=MEMORIES + 1, seed=0, model=model, encoder=encoder)[0]
    figures["cpu_ms"] = cost(long, model.learned)
    if asked.json:
        print(json.dumps(figures, indent=2))
        return
    mean, low, high = (100 * one for one in figures["untrained"])
    print("\nNo habit changes, the shared model untrained:")
    print(f"  recency over none, all requests: {mean:+.1f} points ({low:+.1f} to {high:+.1f})")
    print(f"\nCPU-milliseconds of an answer from {MEMORIES} memories, its text encoded:")
    print(f"  without recency {figures['cpu_ms']['without']:.2f}, with it {figures['cpu_ms']['with']:.2f}")


if __name__ == "__main__":
    main()
