"""Kinds of embedding index beside exact search over float32: ``python -m benchmarks.codes``.

Embeds the texts of ``--data`` (routing/*.jsonl and memory/*.jsonl: the fields ``text``, and ``q`` of queries) with the
default encoder and searches with held-out ones among the rest. Where ``--sizes`` asks for more rows than there are
texts, the remaining are made up: a mixture of two random embeddings and some noise, which is harder than real rows are.
Prints bytes a vector, recall@10 after the first K rows are ranked again by their vectors, the median time of a search
for each K on one thread, and that time over the one of exact search, which takes turns with the others. "As the store
searches" stops ranking again where no other row is likely to be better; its K is the mean of the rows that it opened.
``--vectors`` names a .npy file that keeps the embeddings from one run to the next; making them takes minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.index.codes import DEVIATIONS, CodeIndex, candidates_for, rerank
from store.index.quantizer import Quantizer

Floats = NDArray[np.float32]
Places = NDArray[np.int64]
Search = Callable[[Floats, int], Places]

DEPTHS = (50, 100, 200, 400)
NEIGHBOURS = 10
AS_THE_STORE = "Tacit, as the store searches"
NOISE = 0.3
PART = 50_000
LEAST_TEXTS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """An index that was filled: how many bytes a vector it takes, and its search, query (d,) to places (k,)."""

    name: str
    size_bytes: float
    search: Search


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What was measured of one kind at one depth: recall@10, milliseconds, and these over exact search's."""

    rows: int
    kind: str
    size_bytes: float
    depth: float
    recall: float
    ms: float
    ratio_flat: float


def texts_of(data: Path) -> list[str]:
    """The distinct texts under ``data``, in a fixed order. Raises ``FileNotFoundError`` where none are."""
    files = [*sorted(data.glob("routing/*.jsonl")), *sorted(data.glob("memory/*.jsonl"))]
    lines = (line for file in files for line in file.read_text(encoding="utf-8").splitlines())
    texts = list(dict.fromkeys(text for line in lines for text in _texts_in(json.loads(line))))
    if len(texts) < LEAST_TEXTS:
        raise FileNotFoundError(
            f"Expected {LEAST_TEXTS:,} texts or more in {data}/routing/*.jsonl and memory/*.jsonl, found {len(texts)}: "
            "name another folder with --data."
        )
    return texts


def _texts_in(line: dict[str, Any]) -> Iterator[str]:
    if "text" in line:
        yield line["text"]
    yield from (turn["text"] for turn in line.get("memory", ()))
    yield from (query["q"] for query in line.get("queries", ()))


def vectors_of(texts: Sequence[str], kept: Path | None) -> Floats:
    """The embeddings (n, d) of ``texts``, from the file ``kept`` if it has as many."""
    from engine.encoders.encoder import load_encoder

    if kept is not None and kept.is_file():
        vectors: Floats = np.load(kept)
        if len(vectors) == len(texts):
            return vectors
    order = np.argsort([len(text) for text in texts], kind="stable")  # Like lengths together are encoded faster.
    encoded = load_encoder().encode([texts[at] for at in order])
    vectors = np.empty_like(encoded)
    vectors[order] = encoded
    if kept is not None:
        np.save(kept, vectors)
    return vectors


def resampled(real: Floats, count: int, rng: np.random.Generator) -> Floats:
    """``count`` unit vectors (count, d): those of ``real`` first, then noisy mixtures of two of them."""
    vectors = np.empty((count, real.shape[1]), dtype=np.float32)
    vectors[: len(real)] = real[:count]
    for start in range(len(real), count, PART):
        part = vectors[start : start + PART]
        weights = rng.uniform(0.5, 1, (len(part), 1)).astype(np.float32)
        first, second = real[rng.integers(len(real), size=(2, len(part)))]
        part[:] = weights * first + (1 - weights) * second
        part += rng.standard_normal(part.shape, dtype=np.float32) * np.float32(NOISE * part.shape[1] ** -0.5)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def kinds(vectors: Floats) -> Iterable[Kind]:
    """The kinds of index over ``vectors`` (n, d), made one at a time."""
    import faiss

    dimension = vectors.shape[1]
    quantizer = Quantizer(dimension)
    rotated = np.concatenate([quantizer.rotate(vectors[at : at + PART]) for at in range(0, len(vectors), PART)])
    codes = np.concatenate([quantizer.encode(vectors[at : at + PART]) for at in range(0, len(vectors), PART)])
    ours = CodeIndex(quantizer)
    ours.extend(np.arange(len(vectors)), codes)
    yield Kind(name=AS_THE_STORE, size_bytes=ours.size_bytes / len(vectors), search=_in_steps(ours, vectors))
    yield Kind(name="Tacit", size_bytes=ours.size_bytes / len(vectors), search=lambda q, k: ours.search(q, k)[0])
    product = faiss.METRIC_INNER_PRODUCT
    plain = faiss.IndexRaBitQ(dimension, product)
    plain.qb = 4
    turned: dict[str, Any] = {
        "RaBitQ, 4-bit queries": plain,
        "8-bit scalar": faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_8bit, product),
        "product, 4-bit, trained": faiss.IndexPQFastScan(dimension, dimension // 4, 4, product),
    }
    for name, index in turned.items():
        index.train(rotated[:PART]) if index is not plain else setattr(index, "is_trained", True)
        index.add(rotated)
        yield Kind(name=name, size_bytes=index.sa_code_size(), search=_rotating(quantizer, index))
    signs = faiss.IndexBinaryFlat(8 * quantizer.sign_bytes)
    signs.add(np.ascontiguousarray(codes[:, : quantizer.sign_bytes]))
    yield Kind(name="signs alone", size_bytes=quantizer.sign_bytes, search=_signs_of(quantizer, signs))


def _in_steps(index: CodeIndex, vectors: Floats) -> Search:
    def search(query: Floats, k: int) -> Places:
        slots, estimates, deviations = index.search(query, candidates_for(k))
        scores = rerank(query, k, slots, estimates + DEVIATIONS * deviations, vectors.__getitem__)
        return slots[: len(scores)]

    return search


def _rotating(quantizer: Quantizer, index: Any) -> Search:
    return lambda query, k: index.search(quantizer.rotate(query[None]), k)[1][0]


def _signs_of(quantizer: Quantizer, index: Any) -> Search:
    return lambda q, k: index.search(quantizer.encode(q[None])[:, : quantizer.sign_bytes].copy(), k)[1][0]


def measured(vectors: Floats, queries: Floats) -> Iterator[Row]:
    """One row for each kind and depth; exact search last, with a recall of one."""
    import faiss

    faiss.omp_set_num_threads(1)
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    best = [flat.search(query[None], NEIGHBOURS)[1][0] for query in queries]
    for kind in kinds(vectors):
        for depth in DEPTHS if kind.name != AS_THE_STORE else (NEIGHBOURS,):
            found, opened, times, exact = 0, 0, [], []
            for query, expected in zip(queries, best, strict=True):
                places, seconds = _timed(kind.search, query, depth)
                times.append(seconds)
                exact.append(_timed(flat.search, query[None], NEIGHBOURS)[1])
                found += int(np.isin(expected, places).sum())
                opened += len(places)
            yield Row(
                rows=len(vectors),
                kind=kind.name,
                size_bytes=kind.size_bytes,
                depth=opened / len(queries),
                recall=found / sum(len(expected) for expected in best),
                ms=1e3 * statistics.median(times),
                ratio_flat=statistics.median(ours / theirs for ours, theirs in zip(times, exact, strict=True)),
            )
    yield Row(
        rows=len(vectors),
        kind="float32, exact",
        size_bytes=4 * vectors.shape[1],
        depth=NEIGHBOURS,
        recall=1.0,
        ms=1e3 * statistics.median(exact),
        ratio_flat=1.0,
    )


def _timed(step: Callable[..., Any], *given: object) -> tuple[Any, float]:
    start = time.perf_counter()
    value = step(*given)
    return value, time.perf_counter() - start


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codes", description="Compare kinds of embedding index.")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with routing/ and memory/")
    parser.add_argument("--sizes", default="20000,100000", help="rows, as in 20000,100000")
    parser.add_argument("--queries", type=int, default=200, help="texts that are held out to search with")
    parser.add_argument("--vectors", type=Path, help=".npy file that keeps the embeddings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _print_table(rows: Sequence[Row], real: int) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"{rows[0].rows:,} vectors, {min(real, rows[0].rows):,} of them of real texts"
    table = Table("kind", "bytes", "K", "recall@10", "ms", "/ exact", title=title, title_justify="left")
    for row in rows:
        cells = (
            f"{row.size_bytes:.1f}",
            f"{row.depth:.0f}",
            f"{row.recall:.4f}",
            f"{row.ms:.3f}",
            f"{row.ratio_flat:.3f}",
        )
        table.add_row(row.kind, *cells)
    Console(width=100).print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as asked; 1 where there are no texts."""
    asked = _parser().parse_args(arguments)
    try:
        texts = texts_of(asked.data)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    rng = np.random.default_rng(asked.seed)
    vectors = vectors_of(texts, asked.vectors)[rng.permutation(len(texts))]
    queries, real = vectors[: asked.queries], vectors[asked.queries :]
    results: list[Row] = []
    for size in map(int, asked.sizes.split(",")):
        rows = list(measured(resampled(real, size, rng), queries))
        results += rows
        if not asked.json:
            _print_table(rows, len(real))
    if asked.json:
        print(json.dumps({"real": len(real), "rows": [asdict(row) for row in results]}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
