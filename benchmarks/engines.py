"""Tacit's store behind the same few methods as the baselines, and what a fresh process measures of each."""

from __future__ import annotations

import gc
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from unittest.mock import patch

from benchmarks.corpus import DIMENSION, Floats, Query
from benchmarks.plain_engines import Baseline, Hits, sqlcipher

if TYPE_CHECKING:
    from store import Record

CACHE_BYTES = 64 << 20  # The default of the store.
_START_S = 1_700_000_000.0


class Engine(Protocol):
    """What is measured of a store: each write is durable once it returned."""

    def add(self, text: str, vector: Floats) -> int: ...

    def add_many(self, texts: Sequence[str], vectors: Floats) -> list[int]: ...

    def forget(self, number: int) -> None: ...

    def search(self, vector: Floats, k: int) -> Hits: ...

    def search_text(self, text: str, k: int) -> Hits: ...

    def search_hybrid(self, vector: Floats, text: str, k: int) -> Hits: ...

    def load(self) -> None: ...

    def close(self) -> None: ...


class Tacit:
    """Tacit's store in ``folder/store``; its key and its device secret lie in ``folder``, outside the store."""

    def __init__(self, folder: Path, *, cache_bytes: int = CACHE_BYTES) -> None:
        from store import DeviceKey, EncryptedStore, FileSecret

        secret = FileSecret(folder / "secret")
        if (folder / "key").exists():
            key = DeviceKey.from_file(folder / "key")
            self.store = EncryptedStore.open(folder / "store", key, secret=secret, cache_bytes=cache_bytes)
        else:
            folder.mkdir(parents=True)
            key = DeviceKey.generate()
            key.write(folder / "key")
            self.store = EncryptedStore.create(
                folder / "store", key, dimension=DIMENSION, secret=secret, cache_bytes=cache_bytes
            )
        self._added = 0

    def load(self) -> None:
        """Load what the first search needs."""
        self.store.warm()

    def close(self) -> None:
        """Close the file; what the log holds goes into it."""
        self.store.close()

    def add(self, text: str, vector: Floats) -> int:
        """Add one record durably; its id."""
        return self.store.add(self._record(text), vector)

    def add_many(self, texts: Sequence[str], vectors: Floats) -> list[int]:
        """Add records in one call; their ids."""
        return list(self.store.add_many([self._record(text) for text in texts], vectors))

    def forget(self, number: int) -> None:
        """Forget one record, so that no key opens it any more."""
        self.store.forget([number])

    def search(self, vector: Floats, k: int) -> Hits:
        """The ``k`` nearest by inner product."""
        return list(self.store.search(vector, k))

    def search_text(self, text: str, k: int) -> Hits:
        """The ``k`` best by words."""
        return list(self.store.search_text(text, k))

    def search_hybrid(self, vector: Floats, text: str, k: int) -> Hits:
        """The ``k`` best by both."""
        return list(self.store.search_hybrid(vector, text, k))

    def _record(self, text: str) -> Record:
        from store import Record

        self._added += 1
        return Record(text=text, time=_START_S + 60.0 * self._added)


def opened(name: str, folder: Path, key: bytes, *, cache_bytes: int = CACHE_BYTES) -> Engine:
    """The engine ``name`` in ``folder``, made if it is not there: ``tacit``, ``plain`` or ``sqlcipher``."""
    if name == "tacit":
        return Tacit(folder, cache_bytes=cache_bytes)
    if name == "plain":
        return Baseline(folder)
    driver = sqlcipher()
    if isinstance(driver, str):
        raise ModuleNotFoundError(driver)
    return Baseline(folder, driver=driver, key=key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlocked:
    """What a fresh process took, in seconds, from closed files to each answer, and how much memory it then held.

    ``growth_bytes``: resident memory that opening and loading added. The store's own account of its indexes stands in
    ``loaded_bytes`` at that moment, and in ``index_bytes`` after a search of each kind.
    """

    load_s: float
    first_search_s: float
    first_text_search_s: float
    growth_bytes: int
    loaded_bytes: dict[str, int]
    index_bytes: dict[str, int]


def unlock_afresh(name: str, folder: Path, key: bytes, query: Query) -> Unlocked:
    """Open and load ``name`` in a process of its own, which has imported all it needs."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_unlock, name, folder, key, query).result()


def _unlock(name: str, folder: Path, key: bytes, query: Query) -> Unlocked:
    for module in ("faiss", "Stemmer", "numpy", "store"):
        import_module(module)
    gc.collect()
    before = _resident_bytes()
    marks = [time.perf_counter()]
    engine = opened(name, folder, key)
    engine.load()
    marks.append(time.perf_counter())
    growth = _resident_bytes() - before
    loaded = _account(engine)
    marks.append(time.perf_counter())
    engine.search(query.vector, 10)
    marks.append(time.perf_counter())
    engine.search_text(query.text, 10)
    marks.append(time.perf_counter())
    sizes = _account(engine)
    engine.close()
    return Unlocked(
        load_s=marks[1] - marks[0],
        first_search_s=marks[3] - marks[2],
        first_text_search_s=marks[4] - marks[3],
        growth_bytes=growth,
        loaded_bytes=loaded,
        index_bytes=sizes,
    )


def _account(engine: Engine) -> dict[str, int]:
    return dict(engine.store.index_bytes()) if isinstance(engine, Tacit) else {}


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def derivation_s() -> float:
    """Seconds that Argon2id takes for a passphrase at the store's default cost."""
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    from store.keys.unlock import Argon2

    cost = Argon2()
    argon2 = Argon2id(
        salt=os.urandom(16), length=32, iterations=cost.passes, lanes=cost.lanes, memory_cost=cost.memory_kib
    )
    began = time.perf_counter()
    argon2.derive(b"correct horse battery staple")
    return time.perf_counter() - began


@dataclass(slots=True, kw_only=True)
class Counts:
    """Durable steps seen: transactions, checkpoints of SQLite's log, and fsyncs called from Python."""

    commits: int = 0
    checkpoints: int = 0
    syncs: int = 0

    def see(self, statement: str) -> None:
        """Count one SQL statement."""
        words = statement.strip().upper()
        self.commits += words.startswith("COMMIT")
        self.checkpoints += words.startswith("PRAGMA WAL_CHECKPOINT")


def count_durable(folder: Path, ids: Sequence[int]) -> Counts:
    """The durable steps of one forget, counted on Tacit's store in ``folder`` while it forgets ``ids``."""
    counts = Counts()
    with _watched(counts):
        engine = Tacit(folder)
        engine.load()
        counts.commits = counts.checkpoints = counts.syncs = 0
        for number in ids:
            engine.forget(number)
        seen = (counts.commits, counts.checkpoints, counts.syncs)
        engine.close()
    commits, checkpoints, syncs = (round(count / len(ids)) for count in seen)
    return Counts(commits=commits, checkpoints=checkpoints, syncs=syncs)


@dataclass(slots=True)
class Durable:
    """Seconds that Tacit's store spent in commits, checkpoints and fsyncs so far."""

    seconds: float = 0.0


@contextmanager
def timed_durable() -> Iterator[Durable]:
    """Time the durable steps of the stores of this process inside the block."""
    from store.disk.database import Database

    durable, run, fold = Durable(), Database.run, Database.fold_journal

    def timed(step: Callable[..., Any], counts: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
        def timing(*given: Any) -> Any:
            began = time.perf_counter()
            try:
                return step(*given)
            finally:
                durable.seconds += (time.perf_counter() - began) * counts(*given)

        return timing

    with (
        patch.object(Database, "run", timed(run, lambda _, sql, *__: sql == "COMMIT")),
        patch.object(Database, "fold_journal", timed(fold)),
        patch.object(os, "fsync", timed(os.fsync)),
        patch.object(os, "fdatasync", timed(os.fdatasync)),
    ):
        yield durable


@contextmanager
def _watched(counts: Counts) -> Iterator[None]:
    """Count what the connections that are opened inside the block do, and the fsyncs of the process."""
    connect = sqlite3.connect

    def watched_connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(counts.see)
        return connection

    def watched_sync(sync: Callable[[int], None]) -> Callable[[int], None]:
        def run(descriptor: int) -> None:
            counts.syncs += 1
            sync(descriptor)

        return run

    with (
        patch.object(sqlite3, "connect", watched_connect),
        patch.object(os, "fsync", watched_sync(os.fsync)),
        patch.object(os, "fdatasync", watched_sync(os.fdatasync)),
    ):
        yield
