"""What a thief counts: tables have as many rows as the class of what they hold, and rows that hold nothing fit in."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from store import DeviceKey, EncryptedStore, Record, TamperedError

KEY = DeviceKey(bytes(range(32)))


@pytest.fixture
def memory(tmp_path: Path) -> EncryptedStore:
    return EncryptedStore.create(tmp_path / "home", KEY, dimension=2)


def seen(memory: EncryptedStore, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(memory._database.path)) as raw:
        return raw.execute(sql).fetchall()


LEDGER = "SELECT number, length(sealed), hex(substr(sealed, 1, 1)) FROM ledger ORDER BY number"
NAMED = "SELECT rowid, length(lookup), length(stamp), length(title), length(value) FROM named ORDER BY rowid"


def test_ledger_shows_a_class_of_counts_and_no_more(memory: EncryptedStore) -> None:
    before = seen(memory, LEDGER)
    assert before == [(number, 49 + 1024 + 16, "02") for number in range(1, 17)]
    for number in range(1, 17):
        assert memory.append("deed", b"x" * 30 * number) == number
        assert seen(memory, LEDGER) == before
    memory.append("deed", b"")
    assert [number for number, *_ in seen(memory, LEDGER)] == list(range(1, 33))
    memory.append("deed", bytes(1024 - 4 - 4 - 4 - 4 + 1))
    assert {size for _, size, _ in seen(memory, LEDGER)} == {49 + 1024 + 16, 49 + 2048 + 16}
    assert [content for _, _, content in memory.entries()][:2] == [b"x" * 30, b"x" * 60]
    memory.verify()


def test_named_values_show_a_class_of_counts_and_no_order(memory: EncryptedStore) -> None:
    before = seen(memory, NAMED)
    assert [row[1:] for row in before] == [(32, 49, 256 + 16, 256 + 16)] * 16
    for number in range(15):
        memory.put("kind", f"name {number}", b"small")
        assert seen(memory, NAMED) == before
    for number in range(15):
        memory.put("kind", f"name {number}", b"again")
        assert seen(memory, NAMED) == before
    for number in range(10):
        memory.discard("kind", f"name {number}")
        assert seen(memory, NAMED) == before
    assert memory.names("kind") == sorted(f"name {number}" for number in range(10, 15))
    memory.verify()
    for number in range(30):
        memory.put("more", str(number), b"small")
    assert [rowid for rowid, *_ in seen(memory, NAMED)] == list(range(1, 65))
    memory.verify()


def test_values_take_any_row(tmp_path: Path) -> None:
    taken = set()
    for number in range(12):
        with EncryptedStore.create(tmp_path / str(number), KEY, dimension=2, values={("k", "n"): b"v"}) as memory:
            (lookup,) = memory._core.view.registry.values
            taken.add(seen(memory, f"SELECT rowid FROM named WHERE lookup = x'{lookup.hex()}'")[0][0])
    assert len(taken) > 3  # By chance three or fewer of sixteen: about 1 in 10^6.


def test_large_value_leaves_no_large_row_behind(memory: EncryptedStore) -> None:
    before = seen(memory, NAMED)
    memory.put("kind", "large", bytes(100_000))
    assert seen(memory, NAMED) != before
    memory.discard("kind", "large")
    assert seen(memory, NAMED) == before


def test_rotation_replaces_the_noise_too(memory: EncryptedStore) -> None:
    memory.add(Record(text="one", time=0.0), np.ones(2, dtype=np.float32))
    memory.put("kind", "name", b"value")
    memory.append("deed", b"done")
    before = {table: set(seen(memory, f"SELECT * FROM {table}")) for table in ("named", "ledger")}
    memory.rotate()
    for table, rows in before.items():
        assert not rows & set(seen(memory, f"SELECT * FROM {table}"))
    assert memory.fetch("kind", "name") == b"value"
    memory.verify()


@pytest.mark.parametrize(
    "attack",
    [
        "DELETE FROM ledger WHERE number = 16",
        "INSERT INTO ledger SELECT 17, sealed FROM ledger WHERE number = 1",
        "DELETE FROM named WHERE rowid = (SELECT max(rowid) FROM named)",
        "INSERT INTO named SELECT randomblob(32), stamp, title, value FROM named WHERE rowid = 1",
    ],
)
def test_verify_notices_another_number_of_rows(memory: EncryptedStore, attack: str) -> None:
    memory.verify()
    with closing(sqlite3.connect(memory._database.path)) as raw, raw:
        raw.execute(attack)
    with pytest.raises(TamperedError):
        memory.verify()


def test_row_that_moved_away_is_noticed_when_it_is_replaced(memory: EncryptedStore) -> None:
    memory.put("kind", "name", b"value")
    (lookup,) = memory._core.view.registry.values
    with closing(sqlite3.connect(memory._database.path)) as raw, raw:
        raw.execute("UPDATE named SET lookup = randomblob(32) WHERE lookup = ?", (lookup,))
    with pytest.raises(TamperedError):
        memory.put("kind", "name", b"newer")
