"""What each part of personalization gives: ``python -m benchmarks.parts --data FILE… [--alpha A] [--seeds N]``.

For a file with users (each is a device) or one without (rows dealt by Dirichlet α), accuracy and MRR of a shared model
that sees the encoder's vectors alone, with spelling, with words, and with both; and then of the personalized devices,
whole and without one part at a time: a feature of the re-scorer, the weights that devices learn together, a device's
own, its caution; and where each likely change of habit is followed, or none. The shared model is a softmax with a ridge
towards half of the label names on all train rows in one place, which rounds come close to in minutes less; what judges
a device's memories is such a model of the other half of all rows, as in rounds. --inner measures on a fifth of the
train rows, for choices.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.private_fleet import Crowd, Own, crowd_of, inner, log_of, memory_of, public_rows
from engine.encoders.encoder import CachedEncoder, load_encoder
from engine.encoders.spelling import SPELLING
from engine.model.anchor import SHARE
from engine.model.catalogue import Catalogue
from engine.model.scoring import BIAS_GAIN, SCALE
from engine.personal.drift import CHANCES, NEVER
from engine.personal.personalizer import Personalizer
from engine.personal.rescorer import FEATURES, Evidence, LabelledMemory
from engine.personal.together import ANSWER_LENGTH, Learned, device_answer
from federation.data.dataset import read_rows
from federation.data.splits import Split, has_users, public_labels, split_rows, within_labels

STEPS, RIDGE = 3, 20.0
DEALT_ALPHA = 0.3
INPUTS = ("meaning", "meaning and spelling", "meaning and words", "meaning, words and spelling")
Figures = tuple[float, float, float, int]  # Accuracy, MRR, share hurt, rows.


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A device before its shared model: what personalizes it, what it is asked (q) and the true labels (q,)."""

    memory: LabelledMemory
    evidence: Evidence
    asked_log: np.ndarray
    asked: np.ndarray
    truth: np.ndarray


def split_of(path: Path, seed: int, given: argparse.Namespace) -> tuple[Split, Catalogue]:
    """The devices' rows, and the labels that all know."""
    rows = read_rows(path)
    split = split_rows(rows, seed=seed, devices=None, alpha=None if has_users(rows) else given.alpha)
    if given.inner:
        split = inner(split, seed)
    return within_labels(split), Catalogue.from_names(public_labels(split))


def seeing(crowd: Crowd, kind: str) -> Crowd:
    """The same devices where the shared model sees less of a text."""
    keep = np.ones(crowd.start.dimension, dtype=bool)
    keep[crowd.words : -SPELLING] = "words" in kind
    keep[-SPELLING:] = "spelling" in kind
    table = crowd.start.flat.reshape(len(crowd.start.catalogue), -1)
    flat = table[:, np.append(keep, True)].ravel()
    start = replace(crowd.start, flat=flat, dimension=int(keep.sum()), wording=int(keep.sum()) - crowd.words)
    fewer = lambda one: replace(one, x=one.x[:, keep], own=one.own[:, keep], queries=one.queries[:, keep])  # noqa: E731
    return replace(crowd, start=start, devices=[fewer(one) for one in crowd.devices])


def pooled(crowd: Crowd, rows: slice) -> np.ndarray:
    """The table (C, D + 1) of a softmax on these rows of all devices, held to half of the names by a ridge."""
    classes = len(crowd.start.catalogue)
    parts = [public_rows(replace(one, x=one.x[rows], y=one.y[rows]), classes) for one in crowd.devices]
    x = np.concatenate([x for x, _ in parts])
    inputs = torch.from_numpy(SCALE * np.column_stack([x, np.full(len(x), BIAS_GAIN, dtype=np.float32)]))
    labels = torch.from_numpy(np.concatenate([y for _, y in parts]))
    anchor = torch.from_numpy(SHARE * crowd.start.flat.reshape(classes, -1))
    table = anchor.clone().requires_grad_()
    steps = torch.optim.LBFGS([table], max_iter=60, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        steps.zero_grad()
        away = ((table - anchor)[:, :-1] ** 2).sum()
        found = torch.nn.functional.cross_entropy(inputs @ table.T, labels, reduction="sum") + RIDGE / 2 * away
        found.backward()
        return found

    steps.step(loss)
    return table.detach().numpy()


def ready(crowd: Crowd) -> list[Ready]:
    """All devices that remember something, their memories scored as rounds leave them."""
    whole, half = pooled(crowd, slice(None)), pooled(crowd, slice(None, None, 2))
    return [_ready(one, whole, half, crowd) for one in crowd.devices if len(one.y)]


def _ready(one: Own, whole: np.ndarray, half: np.ndarray, crowd: Crowd) -> Ready:
    judges = np.arange(len(one.y))[1::2]
    seen = log_of(one, one.x, whole)
    seen[judges] = log_of(one, one.x[judges], half)
    return Ready(
        memory=memory_of(one, seen, words=crowd.words, classes=len(crowd.start.catalogue)),
        evidence=Evidence(rows=judges, global_log=seen[judges]),
        asked_log=log_of(one, one.queries, whole) if len(one.truth) else np.zeros((0, seen.shape[1])),
        asked=one.queries[:, : crowd.words],
        truth=one.truth,
    )


def learned_by(devices: Sequence[Ready], without: int | None = None) -> Learned:
    """What devices learn together, where one feature has no weight."""
    found = Learned(weights=_without(Learned().weights, without))
    for _ in range(STEPS):
        answers = (device_answer(one.memory, one.evidence, found.weights) for one in devices)
        found = found.after(sum(answers, start=np.zeros(ANSWER_LENGTH)))
        found = replace(found, weights=_without(found.weights, without))
    return found


def _without(weights: np.ndarray, feature: int | None) -> np.ndarray:
    return weights if feature is None else np.where(np.arange(len(weights)) == feature, 0.0, weights)


def scored(devices: Sequence[Ready], answer: Callable[[Ready], np.ndarray]) -> Figures:
    """Accuracy, MRR, the share of measured devices that do worse than by the shared model, and rows."""
    ranks, hurt = [], []
    for one in devices:
        if not len(one.truth):
            continue
        scores, known = answer(one), one.truth >= 0
        true = scores[np.arange(len(scores)), np.maximum(one.truth, 0)]
        rank = np.where(known, (scores >= true[:, None]).sum(axis=1), np.inf)
        shared = one.asked_log[:, : one.memory.public].argmax(axis=1) == one.truth
        ranks.append(rank)
        hurt.append((rank == 1).sum() < shared.sum())
    every = np.concatenate(ranks)
    return float((every == 1).mean()), float((1 / every).mean()), float(np.mean(hurt)), len(every)


def personal(learned: Learned, *, own: bool = True, cautioned: bool = True) -> Callable:
    """How a device answers; without its ``own`` weights or its caution, if so asked."""
    shared = learned if own else replace(learned, kappa=1e12)

    def answer(one: Ready) -> np.ndarray:
        found = Personalizer.fit(one.memory, one.evidence, learned=shared)
        scores = found.predict(one.asked_log, one.asked)
        return found.ranking(one.asked_log, scores) if cautioned else scores

    return answer


def measure(crowd: Crowd) -> Iterator[tuple[str, Figures]]:
    """All lines of one split."""
    for kind in INPUTS:
        devices = ready(seeing(crowd, kind))
        yield f"shared model: {kind}", scored(devices, lambda one: one.asked_log)
        learned = learned_by(devices)
        yield f"personalized: {kind}", scored(devices, personal(learned))
    for number, name in enumerate(FEATURES[1:], start=1):
        yield f"without “{name}”", scored(devices, personal(learned_by(devices, number)))
    yield "without weights learned together", scored(devices, personal(Learned()))
    yield "without weights of its own", scored(devices, personal(learned, own=False))
    yield "without its own caution", scored(devices, personal(learned, cautioned=False))
    yield "following each likely change", scored(devices, personal(replace(learned, least_chance=CHANCES[0])))
    yield "following no change", scored(devices, personal(replace(learned, least_chance=NEVER)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", required=True, type=Path, metavar="FILE")
    parser.add_argument("--alpha", type=float, default=DEALT_ALPHA, help="of a file without users")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--inner", action="store_true", help="measure on train rows")
    given = parser.parse_args()
    encoder = CachedEncoder(load_encoder())
    for path in given.data:
        found: dict[str, list[Figures]] = {}
        for seed in range(given.first_seed, given.first_seed + given.seeds):
            split, catalogue = split_of(path, seed, given)
            for name, its in measure(crowd_of(split, catalogue, encoder)):
                found.setdefault(name, []).append(its)
        rows = sum(its[-1] for its in next(iter(found.values())))
        print(f"{path.stem}: {rows:,} rows of {given.seeds} splits\n{'':46}accuracy    MRR   hurt")
        for name, each in found.items():
            weights = [its[-1] for its in each]
            accuracy, mrr = (float(np.average([its[at] for its in each], weights=weights)) for at in (0, 1))
            print(f"  {name:44}    {accuracy:.3f}  {mrr:.3f}  {np.mean([its[2] for its in each]):.3f}")


if __name__ == "__main__":
    main()
