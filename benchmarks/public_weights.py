"""Fits the weights from which every device's re-scorer starts: `python -m benchmarks.public_weights [--data FILE]…`.

A device with few memories has no evidence to choose its weights by, and until devices have learned some together it
starts from `PUBLIC_WEIGHTS` of `engine.personal.rescorer`. These are fitted here as devices fit theirs, by Newton steps
on the mean gradient and curvature of the leave-one-out likelihood, but over memories of several sizes of many people,
before a shared model that knows the label names alone and one that has trained. The weight of the shared model's own
log probability stays 1, since how sure that should be differs from model to model. From the weights before, half the
way is gone to the optimum: what suits some people best costs others, and at half the way hardly any of that is left.

People are generated ones and, for each FILE without users, devices to which its train rows are dealt by Dirichlet(α),
the same number for each α. Each kind of people, model and size of memory counts the same. A third of the people train
the shared model, a third are fitted on, and what is printed was measured on the last third: for memories of 1, 3, 10
and 30, the mean log probability of a person's other requests, and the accuracy with which the device ranks them, by
the shared model alone, by the weights before and by the new ones; and the gain, with twice its standard error over
people. Then what these weights gain on the memories themselves, each left out, at each caution of
`engine.personal.caution`, over all people: the source of its public gains. And what following changed habits gains in
nats, less its standard error, at each least chance of `engine.personal.drift`, over all memories of those people whose
requests came in order, the generated ones. Options: --check FILE (people to measure on
only, by their users where it names any; may be repeated), --people, --seed, --before W,W,… (in place of the weights
that ship), --json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.device.memory_view import encode_names
from engine.encoders.encoder import CachedEncoder, load_encoder
from engine.model.catalogue import Catalogue
from engine.model.checkpoint import start_checkpoint
from engine.model.inputs import encode_inputs
from engine.model.scoring import logits
from engine.model.training import TrainingPlan, train
from engine.personal.caution import CAUTION_MARKS, CAUTIONS, caution_marks
from engine.personal.drift import CHANCES, DRIFT_MARKS, drift_marks, nats_of
from engine.personal.personalizer import Personalizer
from engine.personal.rescorer import (
    FEATURES,
    PUBLIC_WEIGHTS,
    Evidence,
    Floats,
    Judged,
    K,
    LabelledMemory,
    Statistics,
    ascend,
    check_weights,
    evidence_features,
    log_softmax,
    statistics,
)
from engine.personal.together import Learned
from federation.data.dataset import Row, read_rows
from federation.data.splits import has_users, public_labels, split_by_dirichlet, split_by_user
from federation.population import generate

ALPHAS = (0.05, 0.3, 1.0, 5.0)
DEVICES, DRAWS, MOST_ROWS = 150, 3, 12_000
# Of memories. Leave-one-out leaves one less, so that both lists speak of the same devices.
FIT_SIZES, SIZES = (2, 4, 11, 31), (1, 3, 10, 30)
MODELS = ("names", "trained")
GENERATED = "generated"
# In nats a request, for a distance of √2, around the shared model alone. This and how far to go were chosen on the
# people that are fitted on, one half fitted and the other measured.
RIDGE = 0.01
SHARE_OF_THE_WAY = 0.5
STEPS = 15
ALONE: Floats = np.eye(1, K)[0]  # The first feature is the shared model's log probability.
PLAN = TrainingPlan(steps=150, learning_rate=0.5, batch_rows=2048, reference_rows=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A person's requests: vectors x (n, d), labels (n,), and the shared model's logits (n, len(names))."""

    x: np.ndarray
    labels: tuple[str, ...]
    names: tuple[str, ...]  # Public labels first, then all of this person's own.
    public: int
    scores: np.ndarray

    def device(self, rows: np.ndarray) -> tuple[LabelledMemory, Floats, tuple[str, ...]]:
        """A device that remembers these rows: its memory, log probabilities (n, C) of all requests, its C labels."""
        held = {self.labels[row] for row in rows}
        columns = [at for at, name in enumerate(self.names) if at < self.public or name in held]
        names = tuple(self.names[at] for at in columns)
        logs = log_softmax(self.scores[:, columns])
        y = np.array([names.index(self.labels[row]) for row in rows], dtype=np.int64)
        memory = LabelledMemory(x=self.x[rows], y=y, global_log=logs[rows], public=self.public)
        return memory, logs, names


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """People of one kind before one kind of shared model: those to fit on, and those to measure on."""

    kind: str
    model: str
    fit: list[Person]
    held_out: list[Person]


def person(rows: Sequence[Row], encoder: CachedEncoder, catalogue: Catalogue, table: np.ndarray) -> Person:
    """One person's rows before a shared model with the table (C, D + 1)."""
    own = tuple(sorted({row.label for row in rows} - set(catalogue.names)))
    dimension = table.shape[1] - 1
    inputs = encode_inputs([row.text for row in rows], encoder, dimension)
    vectors = np.concatenate([table[:, :-1], encode_names(own, encoder, dimension)]) if own else table[:, :-1]
    bias = np.concatenate([table[:, -1], np.zeros(len(own), dtype=np.float32)])
    return Person(
        x=inputs[:, : encoder.dimension],
        labels=tuple(row.label for row in rows),
        names=catalogue.names + own,
        public=len(catalogue),
        scores=logits(inputs, vectors, bias),
    )


def settings_of(
    kind: str, crowds: Sequence[Sequence[Sequence[Row]]], encoder: CachedEncoder, catalogue: Catalogue, *, fit: bool
) -> list[Setting]:
    """The settings of a kind of people; each crowd (a list of people's rows) has a shared model of its own."""
    found = {name: Setting(kind=kind, model=name, fit=[], held_out=[]) for name in MODELS}
    start = start_checkpoint(catalogue, encoder)
    for crowd in crowds:
        own = [row for rows in crowd[0::3] for row in rows if row.label in catalogue]
        x = encode_inputs([row.text for row in own], encoder, start.dimension)
        y = np.array([catalogue.index(row.label) for row in own], dtype=np.int64)
        trained = train(start.flat, x, y, plan=PLAN, rng=np.random.default_rng(0))
        for name, flat in (("names", start.flat), ("trained", trained)):
            table = flat.reshape(len(catalogue), start.dimension + 1)
            to_fit = found[name].fit if fit else found[name].held_out
            to_fit.extend(person(rows, encoder, catalogue, table) for rows in crowd[1::3])
            found[name].held_out.extend(person(rows, encoder, catalogue, table) for rows in crowd[2::3])
    return list(found.values())


def made_up(encoder: CachedEncoder, *, people: int, seed: int) -> list[Setting]:
    """The settings of generated people."""
    made = generate(people, seed=seed).rows
    users = list(dict.fromkeys(row.user for row in made))
    crowd = [[row for row in made if row.user == user] for user in users]
    return settings_of(GENERATED, [crowd], encoder, Catalogue.builtin(), fit=True)


def of_file(path: Path, encoder: CachedEncoder, *, seed: int, fit: bool) -> list[Setting]:
    """The settings of a file's users, or of the devices that its train rows are dealt to; train rows only."""
    rows = read_rows(path)
    if has_users(rows):
        split = split_by_user(rows, seed=seed)
        labels, splits = public_labels(split), [split]
    else:
        rows = [row for row in rows if row.split == "train"]
        # As many as the devices of an α can share: what is more is not dealt.
        rows = [rows[at] for at in np.random.default_rng(seed).permutation(len(rows))[:MOST_ROWS]]
        labels = sorted({row.label for row in rows})
        splits = [split_by_dirichlet(rows, devices=DEVICES, alpha=alpha, seed=seed) for alpha in ALPHAS]
    # Of users only what trains; dealt rows are all of the train part.
    crowds = [[own if has_users(rows) else own + rest for _, own, rest in split] for split in splits]
    return settings_of(path.stem, crowds, encoder, Catalogue.from_names(labels), fit=fit)


def drawn(one: Person, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """What devices of this person may remember, in the order in which it came; nothing where there is too little."""
    for _ in range(DRAWS if len(one.labels) > size else 0):
        yield np.sort(rng.choice(len(one.labels), size=size, replace=False))


def cell(people: Sequence[Person], size: int, rng: np.random.Generator) -> list[Judged]:
    """Leave-one-out features of these people's memories of one size."""
    judged = []
    for one in people:
        for rows in drawn(one, size, rng):
            memory, logs, _ = one.device(rows)
            judged.append(evidence_features(memory, np.arange(size), logs[rows]))
    return judged


def gains_by(settings: Sequence[Setting], weights: Floats, seed: int) -> Floats:
    """What people's memories of all sizes gain at each caution; each setting and size counts the same."""
    found = []
    for setting in settings:
        for size in FIT_SIZES:
            marks = np.zeros(CAUTION_MARKS)
            for judged in cell(setting.held_out, size, np.random.default_rng([seed, size])):
                marks += caution_marks(judged, weights, public=setting.held_out[0].public)
            if marks[0]:  # Nobody has as many memories otherwise.
                found.append(marks[1 : 1 + len(CAUTIONS)] / marks[0])
    mean: Floats = np.mean(found, axis=0)
    return mean


def drift_by(setting: Setting, weights: Floats) -> Floats:
    """The nats that following changed habits gains at each least chance, less one standard error."""
    marks = np.zeros(DRIFT_MARKS)
    for one in setting.held_out:
        rows = np.arange(len(one.labels))
        memory, logs, _ = one.device(rows)
        marks += drift_marks(memory, Evidence(rows=rows, global_log=logs), weights)
    return nats_of(marks)


def optimum(cells: Sequence[Sequence[Judged]]) -> Floats:
    """The weights (K,), the first of them 1, under which what people chose is most probable; cells count the same."""
    w = ALONE
    for _ in range(STEPS):
        gradient, curvature = np.zeros(K), np.zeros((K, K))
        for judged in cells:
            requests = sum(len(one.y) for one in judged) * len(cells)
            for one in judged:
                own = statistics(one, w)
                gradient += own.gradient / requests
                curvature += own.curvature / requests
        # As if the first weight made no difference: then its ridge holds it where it is.
        gradient[0] = curvature[0] = curvature[:, 0] = 0.0
        w = ascend(w, Statistics(value=0.0, gradient=gradient, curvature=curvature), towards=ALONE, ridge=RIDGE)
    return w


def measured(people: Sequence[Person], size: int, weights: Floats, rng: np.random.Generator) -> np.ndarray:
    """Mean log probability and accuracy (people, 2) of people's other requests, by a device with a memory of that size.

    A request whose label the device cannot know counts as wrong, and in no probability.
    """
    found = []
    for one in people:
        log, hits = [], []
        for rows in drawn(one, size, rng):
            memory, logs, names = one.device(rows)
            others = np.setdiff1d(np.arange(len(one.labels)), rows)
            truth = np.array([names.index(one.labels[row]) if one.labels[row] in names else -1 for row in others])
            known = np.flatnonzero(truth >= 0)
            evidence = Evidence(rows=np.arange(size), global_log=logs[rows])
            device = Personalizer.fit(memory, evidence, learned=Learned(weights=weights))
            personal = device.predict(logs[others], one.x[others])
            log.extend(personal[known, truth[known]])
            hits.extend(device.ranking(logs[others], personal).argmax(axis=1) == truth)
        if hits:
            found.append((np.mean(log), np.mean(hits)))
    return np.array(found)


def compared(setting: Setting, size: int, by: Sequence[Floats], seed: int) -> dict[str, object]:
    """Log probability and accuracy by each of three weights, and the gain of the last over the one before."""
    tables = [measured(setting.held_out, size, w, np.random.default_rng([seed, size])) for w in by]
    gain = tables[2] - tables[1]
    return {
        "people": setting.kind,
        "model": setting.model,
        "memories": size,
        **dict(zip(("alone", "before", "new"), (table.mean(axis=0).tolist() for table in tables), strict=True)),
        "gain": gain.mean(axis=0).tolist(),
        "gain_error": (2 * gain.std(axis=0) / np.sqrt(len(gain))).tolist(),
    }


def line(row: dict[str, object]) -> str:
    """One row of the printed table."""
    pairs = [f"{log:7.3f} {hit:.3f}" for log, hit in (row[name] for name in ("alone", "before", "new"))]  # type: ignore[misc]
    (log, hit), (log_error, hit_error) = row["gain"], row["gain_error"]  # type: ignore[misc]
    return (
        f"{row['people']:<10} {row['model']:<8} {row['memories']:>3}  {'  '.join(pairs)}  "
        f"{log:+.3f} ± {log_error:.3f}  {100 * hit:+.1f} ± {100 * hit_error:.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", default=[], metavar="FILE")
    parser.add_argument("--check", type=Path, action="append", default=[], metavar="FILE")
    parser.add_argument("--people", type=int, default=150)
    parser.add_argument("--seed", type=int, default=2000)
    parser.add_argument("--before", metavar="W,W,…")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    before = np.array([float(part) for part in given.before.split(",")]) if given.before else PUBLIC_WEIGHTS
    check_weights(before)
    encoder, seed = CachedEncoder(load_encoder()), given.seed
    found = made_up(encoder, people=given.people, seed=seed)
    for path, fit in [*((path, True) for path in given.data), *((path, False) for path in given.check)]:
        found += of_file(path, encoder, seed=seed, fit=fit)
    rng = np.random.default_rng(seed)
    best = optimum([cell(one.fit, size, rng) for one in found if one.fit for size in FIT_SIZES])
    weights = np.round(before + SHARE_OF_THE_WAY * (best - before), 2)
    rows = [compared(one, size, (ALONE, before, weights), seed) for one in found for size in SIZES]
    gains = dict(zip(CAUTIONS, gains_by(found, weights, seed).tolist(), strict=True))
    drift = {
        one.model: dict(zip(CHANCES, drift_by(one, weights).tolist(), strict=True))
        for one in found
        if one.kind == GENERATED
    }
    if given.json:
        told = {"weights": dict(zip(FEATURES, weights.tolist(), strict=True)), "rows": rows, "gains": gains}
        told |= {"drift_nats": drift}
        print(json.dumps(told, indent=2))
        return
    for name, each in (("optimum", best), ("before", before), ("new", weights)):
        print(f"{name:<8}" + ", ".join(f"{of}: {weight:.2f}" for of, weight in zip(FEATURES, each, strict=True)))
    print("\npeople     model   memories  alone          before         new            gain in nats    in points")
    for row in rows:
        print(line(row))
    print("\ngain at caution " + ", ".join(f"{caution:g}: {gain:.3f}" for caution, gain in gains.items()))
    for model, nats in drift.items():
        its = ", ".join(f"{chance:g}: {nat:.1f}" for chance, nat in nats.items())
        print(f"drift, model {model}, nats at least chance {its}")


if __name__ == "__main__":
    main()
