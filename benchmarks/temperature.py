"""Whether the personalizer gains by a temperature of the shared model: `python -m benchmarks.temperature`.

Prints, for people of the generated population and, with ``--rows``, for the devices of a routing file, what the shared
model and the personalized answers do with the shared logits as they are and divided by a temperature. The temperature
is the one that suits the devices' own judged memories best, all together; with it the population weights are learned
anew. Of a file, only what `tacit evaluate routing` trains on with its first seed is read.

Source: Guo et al. 2017, *On Calibration of Modern Neural Networks*, section 4.2 (temperature scaling).
"""

import argparse
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from engine.device.evaluation import Answers
from engine.encoders.encoder import CachedEncoder, load_encoder
from engine.personal.personalizer import Personalizer
from engine.personal.rescorer import (
    PUBLIC_WEIGHTS,
    STATISTICS_LENGTH,
    Evidence,
    Floats,
    Integers,
    LabelledMemory,
    log_softmax,
    newton_step,
)
from engine.personal.together import Learned, device_answer
from federation.data.dataset import read_rows
from federation.data.splits import Split, has_users, split_as_marked, split_rows
from federation.evaluation.calibration import calibration
from federation.population import generate
from federation.rounds.config import RunSettings
from federation.simulation.experiment import Experiment, run_experiment
from federation.simulation.fleet import Fleet

NEWTON_STEPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One device: its memory, what judges, and its test rows' logits (q, C), vectors (q, d) and labels (q,)."""

    memory: LabelledMemory
    evidence: Evidence
    logits: Floats
    x: np.ndarray
    truth: Integers

    def sharpened(self, by: float) -> "Case":
        """Return the same with all shared logits times ``by``, one over a temperature."""
        logs = log_softmax(by * self.memory.global_log)
        return replace(
            self,
            memory=replace(self.memory, global_log=logs),
            evidence=replace(self.evidence, global_log=log_softmax(by * self.evidence.global_log)),
            logits=by * self.logits,
        )


def train_rows_anew(path: Path) -> Split:
    """Return the train rows of a file's first split, each device's split once more."""
    rows = read_rows(path)
    split = []
    for user, train, _ in split_rows(rows, seed=0, devices=None, alpha=None if has_users(rows) else 0.3):
        own = list(train)
        random.Random(f"temperature:{user}").shuffle(own)
        cut = int(0.8 * len(own)) if len(own) >= 14 else len(own)
        split.append((user, own[:cut], own[cut:]))
    return split


def cases(split: Split, encoder: CachedEncoder) -> list[Case]:
    """Run rounds over these devices and read what the personalizer starts from."""
    experiment = Experiment.of(split, title="to try a temperature on")
    found = []
    with tempfile.TemporaryDirectory(prefix="tacit-") as folder:
        outcome = run_experiment(experiment, RunSettings(cohort=len(split)), Path(folder) / "run", encoder)
        fleet = Fleet(Path(folder) / "run", outcome.people, start=outcome.model, encoder=encoder)
        for member in outcome.people:
            with fleet.open(member.name) as device:
                view, texts = device._viewed(), [row.text for row in member.test]
                if not len(view.y):
                    continue
                x = encoder.encode(texts) if texts else np.zeros((0, encoder.dimension), dtype=np.float32)
                logits = view.logits(texts, x) if texts else np.zeros((0, len(view.labels)))
                place = {name: number for number, name in enumerate(view.labels)}
                truth = np.array([place.get(row.label, -1) for row in member.test], dtype=np.int64)
                found.append(Case(memory=view.memory, evidence=view.evidence, logits=logits, x=x, truth=truth))
    return found


def inverse_temperature(found: Sequence[Case]) -> float:
    """Return what the shared logits are best multiplied by, on all judged memories of public labels: by bisection."""

    def slope(by: float) -> float:
        total = 0.0
        for one in found:
            y, public = one.memory.y[one.evidence.rows], one.memory.public
            logs = log_softmax(one.evidence.global_log[y < public, :public])
            y = y[y < public]
            total += float((logs[np.arange(len(y)), y] - (np.exp(log_softmax(by * logs)) * logs).sum(axis=1)).sum())
        return total

    low, high = 0.01, 100.0
    for _ in range(50):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return low


def line(found: Sequence[Case]) -> str:
    """Return accuracy, NLL and ECE of the shared and of the personal answers."""
    weights = PUBLIC_WEIGHTS
    for _ in range(NEWTON_STEPS):
        each = [device_answer(one.memory, one.evidence, weights)[:STATISTICS_LENGTH] for one in found]
        weights = newton_step(weights, sum(each, start=np.zeros(STATISTICS_LENGTH)))
    shared, personal = [], []
    for one in found:
        if not len(one.truth):
            continue
        logs, public = log_softmax(one.logits), log_softmax(one.logits[:, : one.memory.public])
        personalizer = Personalizer.fit(one.memory, one.evidence, learned=Learned(weights=weights))
        own = personalizer.predict(logs, one.x)
        truth, judged = one.truth.tolist(), ((one.truth >= 0) & (one.truth < one.memory.public)).tolist()
        accepted = [(label,) for label in truth]
        shared.append(Answers.of(public, public, truth=truth, accepted=accepted, judged=judged))
        ranking = personalizer.ranking(logs, own)
        personal.append(Answers.of(ranking, own, truth=truth, accepted=accepted, judged=judged))
    return "  ".join(f"{name}: {_figures(answers)}" for name, answers in (("shared", shared), ("personal", personal)))


def _figures(answers: Sequence[Answers]) -> str:
    ranks, its = [rank for one in answers for rank in one.ranks], calibration(answers)
    return f"accuracy {np.mean(np.array(ranks) == 1):.3f}, NLL {its['nll']:.3f}, ECE {its['ece']:.3f}"


def main() -> None:
    """Print both lines for each population."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, action="append", default=[], help="a routing file, repeatable")
    given = parser.parse_args()
    encoder = CachedEncoder(load_encoder())
    splits = {"generated people": split_as_marked(generate(60, seed=200).rows)}
    splits |= {path.name: train_rows_anew(path) for path in given.rows}
    for name, split in splits.items():
        found = cases(split, encoder)
        by = inverse_temperature(found)
        print(f"{name}, as it is   {line(found)}")
        print(f"{name}, T = {1 / by:.2f}    {line([one.sharpened(by) for one in found])}")


if __name__ == "__main__":
    main()
