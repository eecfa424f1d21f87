"""What a device's part in a round costs, beside a plain loop that only trains: `python -m benchmarks.rounds`.

Prints CPU-milliseconds per device and round, and their ratio, from one process: the in-process simulation (sealed
stores, agent, clipping, apps, messages encoded and decoded, Flower's aggregation) against gradient steps on the same
rows in a bare numpy loop with the same mean. Options: --devices, --rounds, --json.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from engine.encoders.encoder import CachedEncoder, load_encoder
from engine.model.model import BIAS_GAIN, SCALE
from federation.data.splits import split_as_marked
from federation.population import generate
from federation.privacy.update import clip
from federation.rounds.config import RunSettings
from federation.simulation.experiment import Experiment, run_experiment, warm
from federation.simulation.fleet import members


def plain_rounds(experiment: Experiment, encoder: CachedEncoder, settings: RunSettings) -> float:
    """Train and average without stores, messages or apps; return CPU-seconds."""
    names = experiment.catalogue.names
    table = encoder.encode([label.meaning for label in experiment.catalogue.labels])
    flat = np.concatenate([table, np.zeros((len(names), 1), dtype=np.float32)], axis=1)  # (C, d + 1)
    data = []
    for member in members(experiment.split):
        rows = [row for row in member.train if row.label in experiment.catalogue]
        x = encoder.encode([row.text for row in rows])
        x = np.concatenate([x, np.full((len(x), 1), BIAS_GAIN, dtype=np.float32)], axis=1)
        data.append((x, np.eye(len(names), dtype=np.float32)[[experiment.catalogue.index(row.label) for row in rows]]))
    began = time.process_time()
    for _ in range(settings.rounds):
        total = np.zeros_like(flat)
        for x, y in data:
            local = flat.copy()
            for _ in range(settings.local_steps):
                scores = SCALE * (x @ local.T)
                scores = np.exp(scores - scores.max(axis=1, keepdims=True))
                errors = scores / scores.sum(axis=1, keepdims=True) - y
                local -= settings.learning_rate * SCALE / max(len(x), 300) * (errors.T @ x)
            total += clip((local - flat).reshape(-1), settings.clip_norm).reshape(flat.shape)
        flat = flat + total / len(data)
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    population = generate(asked.devices, seed=0)
    experiment = Experiment.of(split_as_marked(population.rows), title=population.title, generated=True)
    encoder = CachedEncoder(load_encoder())
    settings = RunSettings(rounds=asked.rounds, cohort=asked.devices, strategy="fedavg")
    # The embeddings are of the data, not of the rounds.
    warm(encoder, experiment.texts, _quiet)
    marks: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        run_experiment(experiment, settings, Path(folder) / "run", encoder, _timed(marks))
    plain = plain_rounds(experiment, encoder, settings)
    each = 1000 / (asked.devices * asked.rounds)
    figures = {
        "devices": asked.devices,
        "rounds": asked.rounds,
        "tacit_cpu_ms": marks["Federated rounds (devices)"] * each,
        "plain_cpu_ms": plain * each,
        "ratio": marks["Federated rounds (devices)"] / plain,
    }
    if asked.json:
        print(json.dumps(figures, indent=2))
        return
    print(f"CPU-milliseconds a device and round ({population.title}, {asked.devices} devices, {asked.rounds} rounds)")
    print(f"  plain loop         {figures['plain_cpu_ms']:8.3f}")
    print(f"  Tacit's simulation {figures['tacit_cpu_ms']:8.3f}   {figures['ratio']:.1f} times the plain loop")


def _timed(marks: dict[str, float]):  # type: ignore[no-untyped-def]
    import contextlib

    @contextlib.contextmanager
    def progress(title: str, total: int):  # type: ignore[no-untyped-def]
        began = time.process_time()
        yield lambda: None
        marks[title] = time.process_time() - began

    return progress


_quiet = _timed({})

if __name__ == "__main__":
    main()
