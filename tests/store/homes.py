"""A store with its state in one folder, so that both are copied together: what tests of forgetting share."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from store import DeviceKey, EncryptedStore, FileSecret, Record

KEY = DeviceKey(bytes(range(32)))
DIMENSION = 8


@dataclass(frozen=True)
class Home:
    """A store in ``root/home`` and its state, which a thief with an old copy may have too, in ``root/state``."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "home"

    @property
    def secret(self) -> FileSecret:
        return FileSecret(self.root / "state" / "home.secret")

    def create(self, count: int) -> EncryptedStore:
        memory = EncryptedStore.create(self.folder, KEY, dimension=DIMENSION, secret=self.secret)
        records = [Record(text=f"secret number {i}", label=f"label {i}", time=float(i)) for i in range(1, count + 1)]
        memory.add_many(records, matrix(count))
        return memory

    def open(self, **options: object) -> EncryptedStore:
        return EncryptedStore.open(self.folder, KEY, secret=self.secret, **options)  # type: ignore[arg-type]

    def copy(self, name: str) -> Home:
        return Home(Path(shutil.copytree(self.root, self.root.parent / name)))

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.folder / "memory.tacit")) as connection:
            return connection.execute(sql).fetchall()


def matrix(count: int) -> np.ndarray:
    return np.random.default_rng(2).integers(-3, 4, (count, DIMENSION)).astype(np.float32)
