"""What a search of a large memory costs beyond encoding the question: `python -m benchmarks.recall`.

Keeps generated requests, three to a memory so that one is as long as a turn of a conversation, with random vectors in
a sealed store, and asks it for one request each. Prints CPU-milliseconds, median and ninetieth percentile: of the
store's fused search alone (for comparison: what else the machine does moves all rows alike), of the candidates (both
searches, neighbours, opening the records), of ranking them and explaining the five best, and of these two together.
Random vectors are the dear case: no two candidates are neighbours. Options: --memories, --questions, --json.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.encoders.encoder import default_encoder_path
from engine.encoders.onnx_encoder import OnnxEncoder
from engine.encoders.word_vectors import word_vectors
from engine.recall.query import Query
from engine.recall.ranking import find, recall
from federation.population import generate
from store import DeviceKey, EncryptedStore, FileSecret, MemoryWitness, Record

BOUND_MS = 10.0
DIMENSION = 384
TOGETHER = 3
Figures = dict[str, dict[str, float]]


def unit(rng: np.random.Generator, count: int) -> np.ndarray:
    """Random unit vectors, float32 (count, d)."""
    rows = rng.normal(size=(count, DIMENSION)).astype(np.float32)
    result: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return result


def measure(memories: int, questions: int) -> Figures:
    """CPU-milliseconds a question, by part."""
    requests = list({row.text for row in generate(60, seed=0).rows})
    requests.sort()
    drawn, rng = random.Random(0), np.random.default_rng(0)
    encoder = OnnxEncoder(default_encoder_path())
    words = word_vectors(encoder)
    kept = [
        Record(text=". ".join(drawn.sample(requests, TOGETHER)), time=60.0 * number + 3600.0 * (number // 20))
        for number in range(memories)
    ]
    taken: dict[str, list[float]] = {"fused": [], "candidates": [], "ranking": [], "both": []}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with EncryptedStore.create(
            home / "memory",
            DeviceKey.generate(),
            dimension=DIMENSION,
            secret=FileSecret(home / "secret"),
            witness=MemoryWitness(),
        ) as store:
            store.add_many(kept, unit(rng, memories))
            texts = [drawn.choice(requests) for _ in range(questions + 1)]
            asked = zip(texts, map(encoder.read, texts), unit(rng, len(texts)), strict=True)
            for number, (text, reading, vector) in enumerate(asked):
                before = time.process_time()
                store.search_hybrid(vector, text, 5)
                began = time.process_time()
                query = Query.of(text, replace(reading, vector=vector), now=0.0)
                candidates = find(store, query)
                middle = time.process_time()
                recall(query, candidates, 5, words=words)
                ended = time.process_time()
                if number:  # The first opens the indexes.
                    taken["fused"].append(1e3 * (began - before))
                    taken["candidates"].append(1e3 * (middle - began))
                    taken["ranking"].append(1e3 * (ended - middle))
                    taken["both"].append(1e3 * (ended - began))
    return {
        name: {"median_ms": float(np.median(its)), "p90_ms": float(np.percentile(its, 90))}
        for name, its in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memories", type=int, default=10_000)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    figures = measure(asked.memories, asked.questions)
    if asked.json:
        print(json.dumps({"memories": asked.memories, "bound_ms": BOUND_MS, **figures}))
        return
    print(f"{asked.memories} memories, {asked.questions} questions, CPU-milliseconds a question beyond encoding")
    for name, its in figures.items():
        bound = f"   (at most {BOUND_MS:g})" if name == "both" else ""
        print(f"  {name:<12} median {its['median_ms']:5.2f}   90% {its['p90_ms']:5.2f}{bound}")


if __name__ == "__main__":
    main()
