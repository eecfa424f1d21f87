"""What Tacit's store is measured against: plain SQLite, or SQLCipher, with FTS5 and a flat FAISS index in memory.

Each keeps a row a record (JSON text, float32 vector), a full-text table with the porter tokenizer that keeps no
second copy of the text, and the vectors once more in memory for exact search on one thread. The settings give what
Tacit gives: write-ahead log, ``synchronous=FULL``, so what returned is on the disk. What it deletes stays readable in
free pages, because ``secure_delete`` is off.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.corpus import DIMENSION, STOP_WORDS, Floats

Hits = list[tuple[int, float]]

_POOL = 100  # Candidates of each side of a hybrid search.
_TABLES = (
    "CREATE TABLE memory (id INTEGER PRIMARY KEY, record TEXT NOT NULL, vector BLOB NOT NULL)",
    "CREATE VIRTUAL TABLE lexical USING fts5(text, content='', tokenize='porter unicode61')",
)


def sqlcipher() -> ModuleType | str:
    """The driver of SQLCipher with FTS5, or why there is none."""
    try:
        from sqlcipher3 import dbapi2
    except ImportError:
        return "SQLCipher is left out: run pip install sqlcipher3-wheels."
    connection = dbapi2.connect(":memory:")
    try:
        connection.execute("CREATE VIRTUAL TABLE lexical USING fts5(text)")
    except dbapi2.Error:
        return "SQLCipher is left out: this build of sqlcipher3 has no FTS5."
    finally:
        connection.close()
    driver: ModuleType = dbapi2
    return driver


class Baseline:
    """Records in one SQLite file ``folder/memory.db`` and their vectors in a flat index. ``key``: 32 bytes or none."""

    def __init__(self, folder: Path, *, driver: ModuleType = sqlite3, key: bytes = b"") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        fresh = not (folder / "memory.db").exists()
        self._connection: Any = driver.connect(str(folder / "memory.db"), isolation_level=None)
        if key:
            # A raw key, so that no time goes into deriving it.
            self._connection.execute(f"PRAGMA key = \"x'{key.hex()}'\"")
        for setting in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = OFF", "cache_size = -2000"):
            self._connection.execute(f"PRAGMA {setting}")
        if fresh:
            for table in _TABLES:
                self._connection.execute(table)
        self._index = _flat_index()

    def load(self) -> None:
        """Fill the index from the table, if it is empty: what must happen before the first search."""
        if self._index.ntotal:
            return
        cursor = self._connection.execute("SELECT id, vector FROM memory ORDER BY id")
        while rows := cursor.fetchmany(8192):
            vectors = np.frombuffer(b"".join(row[1] for row in rows), dtype=np.float32).reshape(len(rows), DIMENSION)
            self._index.add_with_ids(vectors, np.array([row[0] for row in rows], dtype=np.int64))

    def checkpoint(self) -> None:
        """Bring what the log holds into the file, as closing does."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def packed_bytes(self, page_bytes: int) -> int:
        """The size of a compact copy with pages of ``page_bytes``."""
        copy = self.folder / "copy.db"
        self._connection.execute(f"PRAGMA page_size = {page_bytes}")
        self._connection.execute("VACUUM INTO ?", (str(copy),))
        try:
            return copy.stat().st_size
        finally:
            copy.unlink()

    def close(self) -> None:
        """Close the file; what the log holds goes into it."""
        self._connection.close()

    def add(self, text: str, vector: Floats) -> int:
        """Add one record durably; its id."""
        return self.add_many([text], vector[None, :])[0]

    def add_many(self, texts: Sequence[str], vectors: Floats) -> list[int]:
        """Add records in one durable transaction; their ids."""
        with self._transaction():
            first = self._connection.execute("SELECT ifnull(max(id), 0) + 1 FROM memory").fetchone()[0]
            ids = list(range(first, first + len(texts)))
            records = zip(ids, map(_json, texts), map(bytes, np.ascontiguousarray(vectors)), strict=True)
            self._connection.executemany("INSERT INTO memory (id, record, vector) VALUES (?, ?, ?)", records)
            entries = zip(ids, texts, strict=True)
            self._connection.executemany("INSERT INTO lexical (rowid, text) VALUES (?, ?)", entries)
        self._index.add_with_ids(vectors, np.array(ids, dtype=np.int64))
        return ids

    def forget(self, number: int) -> None:
        """Delete one record from the table, the full text and the index."""
        import faiss

        with self._transaction():
            record = self._connection.execute("SELECT record FROM memory WHERE id = ?", (number,)).fetchone()[0]
            entry = ("delete", number, json.loads(record)["text"])
            self._connection.execute("INSERT INTO lexical (lexical, rowid, text) VALUES (?, ?, ?)", entry)
            self._connection.execute("DELETE FROM memory WHERE id = ?", (number,))
        self._index.remove_ids(faiss.IDSelectorBatch(np.array([number], dtype=np.int64)))

    def search(self, vector: Floats, k: int) -> Hits:
        """The ``k`` nearest by inner product, exactly."""
        scores, ids = self._index.search(vector[None, :], k)  # (1, k) each
        return list(zip(ids[0].tolist(), scores[0].tolist(), strict=True))

    def search_text(self, text: str, k: int) -> Hits:
        """The ``k`` best by BM25 among the records with any word of ``text`` that is not on the stop list."""
        words = [f'"{word}"' for word in text.split() if word not in STOP_WORDS]
        sql = "SELECT rowid, -rank FROM lexical WHERE lexical MATCH ? ORDER BY rank LIMIT ?"
        hits: Hits = self._connection.execute(sql, (" OR ".join(words), k)).fetchall()
        return hits

    def search_hybrid(self, vector: Floats, text: str, k: int) -> Hits:
        """The ``k`` best by the sum of both z-scores among the first hundred of either search."""
        totals: dict[int, float] = {}
        for hits in (self.search(vector, _POOL), self.search_text(text, _POOL)):
            scores = np.array([score for _, score in hits])
            scores = (scores - scores.mean()) / (scores.std() + 1e-9) if len(hits) else scores
            for (number, _), score in zip(hits, scores.tolist(), strict=True):
                totals[number] = totals.get(number, 0.0) + score
        return sorted(totals.items(), key=lambda hit: -hit[1])[:k]

    def nearest(self, vectors: Floats, k: int) -> list[list[int]]:
        """The ids of the ``k`` nearest for each row of ``vectors`` (n, 384), many at a time."""
        ids: list[list[int]] = self._index.search(vectors, k)[1].tolist()
        return ids

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        yield
        self._connection.execute("COMMIT")


def size_bytes(folder: Path) -> int:
    """The sum of the sizes of all files under ``folder``."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class Commits:
    """Bare durable writes in the folder of the store: ``commits`` transactions of one page, ``checkpoints`` of the log
    into the file, and ``syncs`` writes of 64 bytes with fsync, so what the file system takes for as many of a store."""

    def __init__(self, folder: Path, *, commits: int, checkpoints: int, syncs: int) -> None:
        folder.mkdir()
        self.commits, self.checkpoints, self.syncs = commits, checkpoints, syncs
        self._connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("CREATE TABLE bare (id INTEGER PRIMARY KEY, value BLOB NOT NULL)")
        self._connection.execute("INSERT INTO bare VALUES (1, randomblob(512))")
        self._file = (folder / "bare.secret").open("wb", buffering=0)

    def run(self) -> None:
        """All of them once."""
        for _ in range(self.commits):
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute("UPDATE bare SET value = randomblob(512)")
            self._connection.execute("COMMIT")
        for _ in range(self.checkpoints):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        for _ in range(self.syncs):
            self._file.seek(0)
            self._file.write(os.urandom(64))
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close both files."""
        self._connection.close()
        self._file.close()


def _json(text: str) -> str:
    fields = {"text": text, "time": 0.0, "label": None, "scope": "default", "purpose": "personalization"}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _flat_index() -> Any:
    import faiss

    faiss.omp_set_num_threads(1)
    return faiss.IndexIDMap2(faiss.IndexFlatIP(DIMENSION))
