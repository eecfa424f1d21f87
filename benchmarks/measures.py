"""What is measured of Tacit's store and the baselines at one size; ``benchmarks/store.py`` prints it.

Everything that can be is measured in turns, one step each, and who goes first changes, so that what else the machine
does meets all alike; a ratio is the median over the ratios of the turns. The records arrive in large batches, then in
batches of 1,000 and at last one by one, so that the store has exactly the size asked for when it is searched.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from benchmarks.corpus import DIMENSION, Corpus, Floats, Query
from benchmarks.engines import (
    Durable,
    Engine,
    Unlocked,
    count_durable,
    derivation_s,
    opened,
    timed_durable,
    unlock_afresh,
)
from benchmarks.plain_engines import Baseline, Commits, Hits, size_bytes

BUILD_BATCH = 4096
NEIGHBOURS = 10
PAGE_BYTES = 8192
IN_A_ROW = 10
FORGETS = 20
COUNTED_FORGETS = 3
FORGETS_BEFORE_A_SEARCH = 7

T = TypeVar("T")
Times = dict[str, list[float]]
Step = Callable[[str, Engine], object]


class Track(Protocol):
    """Shows how far a loop of ``total`` steps got."""

    def __call__(self, steps: Iterable[T], /, *, total: int, description: str) -> Iterable[T]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure: medians in ``unit`` by engine, and Tacit's figure over the others' (``None``: nothing to compare)."""

    key: str
    title: str
    unit: str
    ours: float
    plain: float | None = None
    sqlcipher: float | None = None
    ratio_plain: float | None = None
    ratio_sqlcipher: float | None = None


def row_of(
    key: str,
    title: str,
    unit: str,
    values: Mapping[str, Sequence[float]],
    *,
    scale: float = 1.0,
    middle: Callable[[Sequence[float]], float] = statistics.median,
) -> Row:
    """The medians of ``values`` times ``scale``, and the medians of the ratios turn by turn; or another ``middle``.

    Means are compared as wholes, since the mean of ratios says nothing about the sum.
    """
    centres = {name: scale * middle(column) for name, column in values.items()}
    if middle is statistics.median:
        ours = values["tacit"]
        ratios = {n: middle([a / b for a, b in zip(ours, column, strict=True)]) for n, column in values.items()}
    else:
        ratios = {name: centres["tacit"] / centre for name, centre in centres.items()}
    return Row(
        key=key,
        title=title,
        unit=unit,
        ours=centres["tacit"],
        plain=centres.get("plain"),
        sqlcipher=centres.get("sqlcipher"),
        ratio_plain=ratios.get("plain"),
        ratio_sqlcipher=ratios.get("sqlcipher"),
    )


class Measurement:
    """One size: the engines by name (``tacit`` first), the ids they gave by row, and the figures so far."""

    def __init__(self, corpus: Corpus, count: int, names: Sequence[str], folder: Path, track: Track) -> None:
        self.corpus = corpus
        self.count = count
        self.folder = folder
        self.track = track
        self.rows: list[Row] = []
        self._key = os.urandom(32)
        self._engines = {name: opened(name, folder / name, self._key) for name in names}
        self._ids: dict[str, list[int]] = {name: [] for name in names}
        self._queries = corpus.queries(200 if count <= 100_000 else 40)

    def run(self, repeats: int) -> list[Row]:
        """All figures; the unlocks are repeated ``repeats`` times."""
        self._adds()
        self._searches()
        self._reopen_ours(cache_bytes=0)
        times, _ = self._search("search without the cache")
        self.rows.append(row_of("search_uncached", "search, no cache of vectors", "ms", times, scale=1e3))
        self._sizes()
        self._forgets()
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()  # The indexes of the baselines would take memory from the processes to come.
        self._unlocks(repeats)
        return self.rows

    def _turns(self, steps: Iterable[Step], total: int, title: str) -> Times:
        """Seconds of each step by engine. What ``steps`` does to make the next step is not counted."""
        names = list(self._engines)
        times: Times = {name: [] for name in names}
        steps = self.track(steps, total=total, description=f"{self.count:,} records: {title}")
        for turn, step in enumerate(steps):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                began = time.perf_counter()
                step(name, self._engines[name])
                times[name].append(time.perf_counter() - began)
        return times

    def _adds(self) -> None:
        batch = min(1000, max(1, self.count // 8))
        batches = min(8, self.count // (2 * batch))
        singles = min(1100, self.count // 5)
        start = self.count - batches * batch - singles
        cuts = [*range(0, start, BUILD_BATCH), start]
        self._turns(self._batches(cuts), len(cuts) - 1, "filling")
        for engine in self._engines.values():
            engine.load()
        self._turns([_asking_both(self._queries[0])], 1, "first search")
        cuts = [start + i * batch for i in range(batches + 1)]
        times = self._turns(self._batches(cuts), batches, "batches")
        rates = {name: [batch / seconds for seconds in column] for name, column in times.items()}
        times = self._turns(self._singles(cuts[-1], singles), singles, "single adds")
        self.rows += [
            row_of("add", "durable add of one, median", "ms", times, scale=1e3),
            row_of("add_mean", "durable add of one, mean", "ms", times, scale=1e3, middle=statistics.fmean),
            row_of("batch", f"add in batches of {batch:,}", "records/s", rates),
        ]

    def _batches(self, cuts: Sequence[int]) -> Iterator[Step]:
        for start, stop in pairwise(cuts):
            texts, vectors = self.corpus.batch(start, stop - start)
            yield _adding(self._ids, texts, vectors)

    def _singles(self, start: int, count: int) -> Iterator[Step]:
        texts, vectors = self.corpus.batch(start, count)
        for text, vector in zip(texts, vectors, strict=True):
            yield _adding_one(self._ids, text, vector)

    def _searches(self) -> None:
        times, answers = self._search("searches by vector")
        new = row_of("search_new", "search, each query for the first time", "ms", times, scale=1e3)
        times, _ = self._search("the same searches again")
        speedups = {"tacit": [flat / ours for flat, ours in zip(times["plain"], times["tacit"], strict=True)]}
        self.rows += [
            row_of("search", "search, vectors in the cache", "ms", times, scale=1e3),
            new,
            row_of("speedup", "times as fast as flat float32", "x", speedups),
            Row(key="recall", title=f"recall@{NEIGHBOURS}", unit="", ours=self._recall(answers), plain=1.0),
        ]
        queries = self._queries
        steps = (_asking_text(query) for query in queries)
        times = self._turns(steps, len(queries), "searches by words")
        self.rows.append(row_of("text", "search by words (FTS5)", "ms", times, scale=1e3))
        steps = (_asking_both(query) for query in queries)
        times = self._turns(steps, len(queries), "hybrid searches")
        self.rows.append(row_of("hybrid", "hybrid search (FTS5 and flat)", "ms", times, scale=1e3))

    def _search(self, title: str) -> tuple[Times, list[Hits]]:
        """Seconds of a search by vector, each the mean of a turn of some in a row, and what Tacit answered.

        One search at a time would find the processor's cache emptied by the other engine's scan of all vectors.
        """
        answers: list[Hits] = []
        turns = [self._queries[at : at + IN_A_ROW] for at in range(0, len(self._queries), IN_A_ROW)]
        times = self._turns((_asking(queries, answers) for queries in turns), len(turns), title)
        return {name: [seconds / IN_A_ROW for seconds in column] for name, column in times.items()}, answers

    def _recall(self, answers: Sequence[Hits]) -> float:
        """The share of the exact nearest neighbours that Tacit found."""
        row_by_id = {number: row for row, number in enumerate(self._ids["tacit"])}
        exact = self._baseline("plain").nearest(np.stack([query.vector for query in self._queries]), NEIGHBOURS)
        row_by_plain = {number: row for row, number in enumerate(self._ids["plain"])}
        found = 0
        for hits, ids in zip(answers, exact, strict=True):
            found += len({row_by_id[number] for number, _ in hits} & {row_by_plain[number] for number in ids})
        return found / sum(len(ids) for ids in exact)

    def _baseline(self, name: str) -> Baseline:
        engine = self._engines[name]
        assert isinstance(engine, Baseline)
        return engine

    def _reopen_ours(self, **options: int) -> None:
        self._engines["tacit"].close()
        self._engines["tacit"] = opened("tacit", self.folder / "tacit", self._key, **options)
        self._engines["tacit"].load()

    def _sizes(self) -> None:
        """Files as they lie there closed; the cost of pages that plain SQLite fills badly is shown apart."""
        self._engines["tacit"].close()
        sizes: dict[str, list[float]] = {"tacit": [size_bytes(self.folder / "tacit") / self.count]}
        for name in list(self._engines)[1:]:
            self._baseline(name).checkpoint()
            sizes[name] = [size_bytes(self.folder / name) / self.count]
        packed = {**sizes, "plain": [self._baseline("plain").packed_bytes(PAGE_BYTES) / self.count]}
        packed.pop("sqlcipher", None)
        self.rows += [
            row_of("size", "size on disk", "B a record", sizes),
            row_of("size_packed", f"the same, plain vacuumed, {PAGE_BYTES} B pages", "B a record", packed),
        ]

    def _forgets(self) -> None:
        """Whole forgets, what of each its own durable steps took, and as many bare ones, all in turns."""
        wanted = FORGETS + COUNTED_FORGETS + FORGETS_BEFORE_A_SEARCH
        chosen = random.Random(self.corpus.seed).sample(range(self.count), wanted)
        counted, chosen = chosen[:COUNTED_FORGETS], chosen[COUNTED_FORGETS:]
        chosen, before_a_search = chosen[:FORGETS], chosen[FORGETS:]
        counts = count_durable(self.folder / "tacit", [self._ids["tacit"][row] for row in counted])
        commits = Commits(
            self.folder / "bare", commits=counts.commits, checkpoints=counts.checkpoints, syncs=counts.syncs
        )
        self._reopen_ours()
        bare: list[float] = []
        own: list[float] = []
        with timed_durable() as durable:
            steps = _forgetting(self._ids, chosen, commits, bare, durable, own)
            times = self._turns(steps, len(chosen), "forgets")
        commits.close()
        net = [whole - part for whole, part in zip(times["tacit"], own, strict=True)]
        over_bare = [whole - part for whole, part in zip(times["tacit"], bare, strict=True)]
        kinds = f"{counts.commits} commit, {counts.checkpoints} checkpoint, {counts.syncs} fsync"
        self.rows += [
            row_of("forget", "forget one", "ms", times, scale=1e3),
            row_of("forget_commits", f"of it: {kinds}", "ms", {"tacit": own}, scale=1e3),
            row_of("forget_net", "forget less its durable steps", "ms", {"tacit": net}, scale=1e3),
            row_of("forget_over_bare", "forget less as many bare ones", "ms", {"tacit": over_bare}, scale=1e3),
            self._search_after_forgets(before_a_search),
        ]

    def _search_after_forgets(self, rows: Sequence[int]) -> Row:
        """What a search takes that finds its vectors in the cache, but comes right after a forget."""
        engine, seconds = self._engines["tacit"], []
        for row, query in zip(rows, self._queries, strict=False):
            engine.search(query.vector, NEIGHBOURS)
            engine.forget(self._ids["tacit"][row])
            began = time.perf_counter()
            engine.search(query.vector, NEIGHBOURS)
            seconds.append(time.perf_counter() - began)
        return row_of("search_after", "the first search after a forget", "ms", {"tacit": seconds}, scale=1e3)

    def _unlocks(self, repeats: int) -> None:
        names = list(self._ids)
        seen: dict[str, list[Unlocked]] = {name: [] for name in names}
        # The first round only brings the files into the page cache.
        rounds = self.track(range(repeats + 1), total=repeats + 1, description=f"{self.count:,} records: unlocks")
        for turn in rounds:
            for name in names:
                unlocked = unlock_afresh(name, self.folder / name, self._key, self._queries[turn % len(self._queries)])
                if turn:
                    seen[name].append(unlocked)
        loads = {name: [one.load_s for one in column] for name, column in seen.items()}
        answers = {name: [one.load_s + one.first_search_s for one in column] for name, column in seen.items()}
        words = {name: [one.first_text_search_s for one in column] for name, column in seen.items()}
        self.rows += [
            row_of("unlock", "unlock with a device key, until loaded", "ms", loads, scale=1e3),
            row_of("unlock_answer", "the same, to the first answer", "ms", answers, scale=1e3),
            row_of("unlock_text", "the first search by words after it", "ms", words, scale=1e3),
        ]
        derivations = [derivation_s() for _ in range(repeats)]
        self.rows.append(row_of("argon2", "Argon2id, for a passphrase only", "ms", {"tacit": derivations}, scale=1e3))
        self._memory(seen)

    def _memory(self, seen: Mapping[str, Sequence[Unlocked]]) -> None:
        flat = [float(self.count * (DIMENSION * 4 + 8))]  # Each vector and its id.
        ours = seen["tacit"]
        parts = {part: [float(one.index_bytes[part]) for one in ours] for part in ("embedding", "lexical", "columns")}
        growth = {name: [float(one.growth_bytes) for one in column] for name, column in seen.items()}
        # What unlocking loads besides the embedding index has rows of its own.
        apart = [one.growth_bytes - sum(one.loaded_bytes[part] for part in ("lexical", "columns")) for one in ours]
        for key, title, values in (
            ("embedding", "memory of the embedding index", {"tacit": parts["embedding"][:1], "plain": flat}),
            ("growth", "growth of resident memory at unlock", growth),
            ("growth_apart", "the same less columns and words", {"tacit": apart}),
            ("lexical", "memory of the index of words", {"tacit": parts["lexical"]}),
            ("columns", "memory of the columns", {"tacit": parts["columns"]}),
        ):
            self.rows.append(row_of(key, title, "MB", values, scale=1e-6))


def _adding(ids: dict[str, list[int]], texts: list[str], vectors: Floats) -> Step:
    def step(name: str, engine: Engine) -> None:
        ids[name] += engine.add_many(texts, vectors)

    return step


def _adding_one(ids: dict[str, list[int]], text: str, vector: Floats) -> Step:
    def step(name: str, engine: Engine) -> None:
        ids[name].append(engine.add(text, vector))

    return step


def _asking(queries: Sequence[Query], answers: list[Hits]) -> Step:
    def step(name: str, engine: Engine) -> None:
        hits = [engine.search(query.vector, NEIGHBOURS) for query in queries]
        if name == "tacit":
            answers.extend(hits)

    return step


def _asking_text(query: Query) -> Step:
    return lambda _, engine: engine.search_text(query.text, NEIGHBOURS)


def _asking_both(query: Query) -> Step:
    return lambda _, engine: engine.search_hybrid(query.vector, query.text, NEIGHBOURS)


def _forgetting(
    ids: dict[str, list[int]],
    rows: Sequence[int],
    commits: Commits,
    bare: list[float],
    durable: Durable,
    own: list[float],
) -> Iterator[Step]:
    for row in rows:
        commits.run()  # Takes what the engines left the file system to do, so that the bare steps are not overstated.
        began = time.perf_counter()
        commits.run()
        bare.append(time.perf_counter() - began)
        yield _forgetting_one(ids, row, durable, own)


def _forgetting_one(ids: dict[str, list[int]], row: int, durable: Durable, own: list[float]) -> Step:
    def step(name: str, engine: Engine) -> None:
        before = durable.seconds
        engine.forget(ids[name][row])
        if name == "tacit":
            own.append(durable.seconds - before)

    return step
