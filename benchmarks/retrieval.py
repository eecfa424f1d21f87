"""Memory search by words, by embedding and by both, on conversations: `python -m benchmarks.retrieval`.

For each question, search the turns of its conversation. Prints the mean fraction of the evidence turns found among the
first 5 and 10 (R@5, R@10), questions of categories 1 to 4 that have evidence, pooled over conversations. Rows: BM25 (as
the store has it), the default encoder's cosine, and the fusion of the 100 best of each as ``EncryptedStore`` does it.
A memory is a turn as ``speaker: text``; with --text-only, its text alone. All settings are the store's defaults.
Options: --data FILE (JSON lines: conv, memory, queries), --text-only, --json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.encoders.encoder import Encoder, encode_in_parts, load_encoder
from store.index.lexical import LexicalIndex
from store.index.postings import build_postings
from store.index.terms import entry_of, terms_of
from store.search.fusion import fuse

DATA = Path("../shared/data/memory/locomo.jsonl")
DEPTHS = (5, 10)
FUSED = 100
Scores = dict[str, dict[str, float]]
Found = dict[str, list[list[float]]]


def index_of(texts: Sequence[str]) -> LexicalIndex:
    """The lexical index of ``texts``, in slots from 1 up."""
    index = LexicalIndex()
    for start in range(0, len(texts), 1024):
        part = [entry_of(text) for text in texts[start : start + 1024]]
        index.put_segment(start // 1024, build_postings(np.arange(start + 1, start + 1 + len(part)), part))
    return index


def answers(
    index: LexicalIndex, question: str, vectors: npt.NDArray[np.float32], query: npt.NDArray[np.float32]
) -> dict[str, list[int]]:
    """The slots that each way of searching puts first, (10,) at most."""
    terms, products = terms_of(question), vectors @ query
    words = index.search(terms, FUSED)[0]
    near = np.argsort(-products, kind="stable")[:FUSED] + 1
    slots = np.union1d(words, near)
    both = fuse((slots, products[slots - 1]), (slots, index.scored(terms).of(slots)), max(DEPTHS))
    return {"BM25": words.tolist(), "embedding": near.tolist(), "fusion": [slot for slot, _ in both]}


def measure(
    conversations: Sequence[dict[str, Any]], encode: Callable[[Sequence[str]], Any], *, speakers: bool
) -> Found:
    """For each way the fractions of evidence found, one list (len(DEPTHS),) a question."""
    found: Found = {}
    for conversation in conversations:
        turns = conversation["memory"]
        texts = [f"{turn['speaker']}: {turn['text']}" if speakers else turn["text"] for turn in turns]
        slots = {turn["id"]: at + 1 for at, turn in enumerate(turns)}
        questions = [asked for asked in conversation["queries"] if asked["evidence"] and asked["category"] != 5]
        index, vectors = index_of(texts), encode(texts)
        queries = encode([asked["q"] for asked in questions])
        for asked, query in zip(questions, queries, strict=True):
            wanted = {slots[id] for id in asked["evidence"]}
            for way, best in answers(index, asked["q"], vectors, query).items():
                rates = [len(wanted.intersection(best[:depth])) / len(wanted) for depth in DEPTHS]
                found.setdefault(way, []).append(rates)
    return found


def with_progress(encoder: Encoder, total: int) -> Callable[[Sequence[str]], Any]:
    """An encoding that says on stderr how far it is."""
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if done % 64 == 0 or done == total:
            print(f"\rencoded {done} of {total} texts", end="" if done < total else "\n", file=sys.stderr, flush=True)

    return lambda texts: encode_in_parts(encoder, texts, part=64, tick=tick)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--text-only", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if not asked.data.is_file():
        sys.exit(f"There is no file {asked.data}. Name one with --data FILE.")
    with asked.data.open(encoding="utf-8") as lines:
        conversations = [json.loads(line) for line in lines]
    total = sum(
        len(its["memory"]) + sum(bool(q["evidence"]) and q["category"] != 5 for q in its["queries"])
        for its in conversations
    )
    found = measure(conversations, with_progress(load_encoder(), total), speakers=not asked.text_only)
    scores = {
        way: {f"R@{depth}": float(mean) for depth, mean in zip(DEPTHS, np.mean(rates, axis=0), strict=True)}
        for way, rates in found.items()
    }
    if asked.json:
        print(json.dumps({"questions": len(found["BM25"]), "scores": scores}))
        return
    print(f"{len(conversations)} conversations, {len(found['BM25'])} questions, mean fraction of evidence turns found")
    for way, rates in scores.items():
        print(f"{way:<10}" + "".join(f"  {name} {rate:.3f}" for name, rate in rates.items()))


if __name__ == "__main__":
    main()
