"""What a search of a large memory costs beyond encoding the question: `python -m benchmarks.recall`.

Keeps generated requests, three to a memory so that one is as long as a turn of a conversation, with random vectors in
a sealed store, and asks it for one request each. Prints CPU-milliseconds, median and ninetieth percentile: of the
store's fused search alone (for comparison: what else the machine does moves all rows alike), of the candidates (both
searches, neighbours, opening the records), of ranking them and explaining the five best, and of these two together.
Random vectors are the dear case: no two candidates are neighbours.

A store keeps what it opened and read of memories, within a bound. So the two together are measured three times: each
question asked once of a store just unlocked, which comes to know its memories by and by (the figure that is bounded);
the same questions again; and of a store that keeps nothing, as if each question were the first of all. Each is also
told of the questions alone that name days. The indexes are in memory throughout. On one thread, unless the variable
OMP_NUM_THREADS says otherwise.
Options: --memories, --questions, --json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.encoders.encoder import default_encoder_path
from engine.encoders.onnx_encoder import OnnxEncoder
from engine.encoders.word_vectors import WordVectors, word_vectors
from engine.recall.query import Query
from engine.recall.ranking import find, recall
from federation.population import generate
from store import DeviceKey, EncryptedStore, FileSecret, MemoryWitness, Record
from store.search.searcher import DEFAULT_CACHE_BYTES

BOUND_MS = 10.0
DIMENSION = 384
TOGETHER = 3
PARTS = ("fused", "candidates", "ranking")
Figures = dict[str, dict[str, float]]


def unit(rng: np.random.Generator, count: int) -> np.ndarray:
    """Random unit vectors, float32 (count, d)."""
    rows = rng.normal(size=(count, DIMENSION)).astype(np.float32)
    result: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return result


def measure(memories: int, questions: int) -> tuple[Figures, int]:
    """CPU-milliseconds a question, by part, and the bytes of what was kept of opened records."""
    requests = list({row.text for row in generate(60, seed=0).rows})
    requests.sort()
    drawn, rng = random.Random(0), np.random.default_rng(0)
    encoder = OnnxEncoder(default_encoder_path())
    words = word_vectors(encoder)
    kept = [
        Record(text=". ".join(drawn.sample(requests, TOGETHER)), time=60.0 * number + 3600.0 * (number // 20))
        for number in range(memories)
    ]
    with tempfile.TemporaryDirectory() as folder:
        home, key = Path(folder) / "memory", DeviceKey.generate()
        secret, witness = FileSecret(Path(folder) / "secret"), MemoryWitness()
        with EncryptedStore.create(home, key, dimension=DIMENSION, secret=secret, witness=witness) as store:
            store.add_many(kept, unit(rng, memories))
        texts = [drawn.choice(requests) for _ in range(questions + 1)]
        asked = [
            Query.of(text, replace(encoder.read(text), vector=vector), now=0.0)
            for text, vector in zip(texts, unit(rng, len(texts)), strict=True)
        ]
        with EncryptedStore.open(home, key, secret=secret, witness=witness) as store:
            once, again = taken(store, asked, words), taken(store, asked, words)
            size_bytes = store.index_bytes()["records"]
        with EncryptedStore.open(home, key, secret=secret, witness=witness, cache_bytes=0) as store:
            first = taken(store, asked, words)
    dated = np.array([bool(query.ranges) for query in asked[1:]])
    figures = {name: summary(once[:, at]) for at, name in enumerate(PARTS)}
    for name, its in (("once", once), ("again", again), ("keeping nothing", first)):
        figures[name], figures[f"{name}, naming days"] = summary(its[:, -1]), summary(its[dated, -1])
    return figures, size_bytes


def taken(store: EncryptedStore, asked: Sequence[Query], words: WordVectors | None) -> np.ndarray:
    """CPU-milliseconds (questions, parts) of all but the first question, which opens the indexes."""
    rows = []
    for query in asked:
        before = time.process_time()
        store.search_hybrid(query.vector, query.text, 5)
        began = time.process_time()
        candidates = find(store, query, words=words)
        middle = time.process_time()
        recall(query, candidates, 5, words=words)
        ended = time.process_time()
        rows.append([began - before, middle - began, ended - middle, ended - began])
    result: np.ndarray = 1e3 * np.array(rows[1:])
    return result


def summary(its: np.ndarray) -> dict[str, float]:
    """Median and ninetieth percentile of ``its`` (n,); NaN of none."""
    median, high = np.percentile(its, [50, 90]) if len(its) else (np.nan, np.nan)
    return {"median_ms": float(median), "p90_ms": float(high)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memories", type=int, default=10_000)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if "OMP_NUM_THREADS" not in os.environ:  # As `tacit device` has it: threads that wait for each other count as CPU.
        os.environ["OMP_NUM_THREADS"] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.recall", *sys.argv[1:]])
    figures, size_bytes = measure(asked.memories, asked.questions)
    if asked.json:
        print(json.dumps({"memories": asked.memories, "bound_ms": BOUND_MS, "kept_bytes": size_bytes, **figures}))
        return
    print(f"{asked.memories} memories, {asked.questions} questions, CPU-milliseconds a question beyond encoding")
    for name, its in figures.items():
        bound = f"   (median at most {BOUND_MS:g})" if name == "once" else ""
        print(f"  {name:<30} median {its['median_ms']:5.2f}   90% {its['p90_ms']:5.2f}{bound}")
    print(f"kept in memory of opened records: {size_bytes / 1e6:.1f} MB of at most {DEFAULT_CACHE_BYTES / 2e6:.1f}")


if __name__ == "__main__":
    main()
