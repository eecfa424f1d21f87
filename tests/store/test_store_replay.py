"""What was moved, removed or put back raises the right error: rows, older sealed values, and older files."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store import (
    AcceptRollback,
    DeviceKey,
    DeviceSecretError,
    EncryptedStore,
    FileSecret,
    ForgottenEpoch,
    Record,
    RecoveryKey,
    RolledBackError,
    StoreError,
    TamperedError,
    WrongKeyError,
)

VECTOR = np.array([1, 2], dtype=np.float32)
Step = Callable[[EncryptedStore], object]
SEALED = ("head", "manifest", "registry", "root", "segment", "named", "ledger", "tail", "memory", "node")
TABLES = (*SEALED, "header", "slot")


def record(number: int) -> Record:
    return Record(text=f"memory {number} of many", time=float(number), scope=f"s{number % 4}")


@pytest.fixture
def full(folder: Path, key: DeviceKey) -> Iterator[EncryptedStore]:
    """Two segments and a tail, forgotten in; named values, and a ledger of two entries and a receipt."""
    count = 2 * 1024 + 60
    vectors = np.random.default_rng(5).standard_normal((count, 2)).astype(np.float32)
    with EncryptedStore.create(folder, key, dimension=2, clock=lambda: 0.0) as memory:
        memory.add_many([record(number) for number in range(count)], vectors)
        memory.put("kind", "one", b"first")
        memory.put("kind", "two", b"second")
        memory.append("charge", b"one")
        memory.forget([8, 1300, 2060])
        memory.append("charge", b"two")
        yield memory


@pytest.fixture
def raw(full: EncryptedStore, folder: Path) -> Iterator[sqlite3.Connection]:
    """The attacker's own connection to the file."""
    connection = sqlite3.connect(folder / "memory.tacit", isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    yield connection
    connection.close()


def restore(raw: sqlite3.Connection, table: str, rows: list[tuple[Any, ...]]) -> None:
    """Put back what a table held."""
    raw.execute(f"DELETE FROM {table}")
    raw.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)


def test_a_removed_table_or_all_its_rows_raises(full: EncryptedStore, raw: sqlite3.Connection) -> None:
    verified = full.verify()
    for table in TABLES:
        rows = raw.execute(f"SELECT * FROM {table}").fetchall()
        raw.execute(f"DELETE FROM {table}")
        if table not in ("header", "slot"):  # An open store reads these no more.
            with pytest.raises(TamperedError):
                full.verify()
        restore(raw, table, rows)
        raw.execute(f"ALTER TABLE {table} RENAME TO gone")
        with pytest.raises(TamperedError):
            EncryptedStore.open(full._database.path.parent, DeviceKey(bytes(range(32)))).verify()
        raw.execute(f"ALTER TABLE gone RENAME TO {table}")
    assert full.verify() == verified


def test_removed_header_or_slots_raise_at_opening(
    full: EncryptedStore, raw: sqlite3.Connection, folder: Path, key: DeviceKey
) -> None:
    for table in ("header", "slot"):
        rows = raw.execute(f"SELECT * FROM {table}").fetchall()
        raw.execute(f"DELETE FROM {table}")
        with pytest.raises(TamperedError):
            EncryptedStore.open(folder, key)
        restore(raw, table, rows)
    EncryptedStore.open(folder, key).close()


def swap(table: str, number: str, one: int, other: int, columns: str) -> list[str]:
    """Statements that exchange columns of two rows."""
    names = columns.split(", ")
    taken = ", ".join(f"{name} = (SELECT {name} FROM kept)" for name in names)
    given = ", ".join(f"{name} = (SELECT {name} FROM {table} WHERE {number} = {other})" for name in names)
    return [
        f"CREATE TEMP TABLE kept AS SELECT {columns} FROM {table} WHERE {number} = {one}",
        f"UPDATE {table} SET {given} WHERE {number} = {one}",
        f"UPDATE {table} SET {taken} WHERE {number} = {other}",
        "DROP TABLE kept",
    ]


# In these, rowid 1 and 2 of ``named`` stand for the first two rows in use: the others hold nothing.
ATTACKS = [
    swap("memory", "slot", 1, 2, "stamp, vector, record"),
    swap("memory", "slot", 1, 2, "vector"),
    swap("memory", "slot", 1, 2, "record"),
    swap("memory", "slot", 1, 2, "stamp"),
    swap("memory", "slot", 2050, 2051, "stamp, vector, record"),
    swap("tail", "slot", 2050, 2051, "stamp, entry"),
    swap("tail", "slot", 2050, 2051, "entry"),
    swap("segment", "number", 0, 1, "stamp, codes, columns, postings"),
    swap("segment", "number", 0, 1, "codes"),
    swap("segment", "number", 0, 1, "columns"),
    swap("segment", "number", 0, 1, "postings"),
    swap("ledger", "number", 1, 2, "sealed"),
    swap("named", "rowid", 1, 2, "stamp, title, value"),
    swap("named", "rowid", 1, 2, "value"),
    [*swap("memory", "slot", 2050, 2051, "stamp, vector, record"), *swap("tail", "slot", 2050, 2051, "stamp, entry")],
    ["UPDATE memory SET vector = (SELECT vector FROM memory WHERE slot = 2) WHERE slot = 1"],
    ["UPDATE memory SET record = (SELECT record FROM memory WHERE slot = 2) WHERE slot = 1"],
    ["UPDATE memory SET vector = record, record = vector WHERE slot = 1"],
    ["UPDATE named SET value = title, title = value WHERE rowid = 1"],
    ["UPDATE named SET lookup = zeroblob(32) WHERE rowid = 1"],
    ["UPDATE named SET lookup = x'00' WHERE rowid = 1"],
    ["INSERT INTO named SELECT zeroblob(32), stamp, title, value FROM named WHERE rowid = 1"],
    ["INSERT INTO ledger SELECT 77, sealed FROM ledger WHERE number = 1"],
    ["INSERT INTO ledger SELECT 17, sealed FROM ledger WHERE number = 3"],
    ["INSERT INTO segment SELECT 7, stamp, codes, columns, postings FROM segment WHERE number = 1"],
    ["INSERT INTO memory SELECT 99999, stamp, vector, record FROM memory WHERE slot = 1"],
    ["UPDATE memory SET slot = 99999 WHERE slot = 1"],
    ["UPDATE memory SET slot = -1 WHERE slot = 2050"],
    ["UPDATE tail SET slot = 99999 WHERE slot = 2050"],
    ["UPDATE segment SET number = 7 WHERE number = 0"],
    ["DELETE FROM memory WHERE slot = 1"],
    ["DELETE FROM memory WHERE slot = 2050"],
    ["DELETE FROM tail WHERE slot = 2050"],
    ["DELETE FROM segment WHERE number = 1"],
    ["DELETE FROM named WHERE rowid = 2"],
    ["DELETE FROM ledger WHERE number = 3"],
    ["DELETE FROM ledger WHERE number = 1"],
    ["DELETE FROM node WHERE tree = 'row' AND level = 0"],
    ["UPDATE node SET level = level + 1 WHERE level = 3"],
    ["UPDATE node SET generation = 2"],
    ["UPDATE node SET sealed = (SELECT sealed FROM node WHERE level = 1 AND tree = 'row') WHERE level = 0"],
    ["UPDATE root SET epoch = 0"],
    ["UPDATE head SET sealed = (SELECT sealed FROM manifest)"],
    ["UPDATE manifest SET sealed = (SELECT sealed FROM registry)"],
    ["UPDATE root SET sealed = (SELECT sealed FROM head)"],
]


def in_use(memory: EncryptedStore, raw: sqlite3.Connection, rowid: int) -> bool:
    (lookup,) = raw.execute("SELECT lookup FROM named WHERE rowid = ?", (rowid,)).fetchone()
    return lookup in memory._core.view.registry.values


def test_rows_that_were_moved_doubled_or_removed_raise_tampered(full: EncryptedStore, raw: sqlite3.Connection) -> None:
    verified = full.verify()
    rowids = [rowid for (rowid,) in raw.execute("SELECT rowid FROM named ORDER BY rowid") if in_use(full, raw, rowid)]
    for given in ATTACKS:
        attack = [re.sub(r"\browid = ([12])", lambda at: f"rowid = {rowids[int(at[1]) - 1]}", sql) for sql in given]
        raw.execute("BEGIN")
        changed = sorted({word for word in " ".join(attack).split() if word in TABLES})
        kept = {table: raw.execute(f"SELECT * FROM {table}").fetchall() for table in changed}
        for statement in attack:
            raw.execute(statement)
        raw.execute("COMMIT")
        with pytest.raises(TamperedError):
            full.verify()
        raw.execute("BEGIN")
        for table, rows in kept.items():
            restore(raw, table, rows)
        raw.execute("COMMIT")
    assert full.verify() == verified


def test_row_of_another_store_under_the_same_key_raises_tampered(
    full: EncryptedStore, raw: sqlite3.Connection, tmp_path: Path, key: DeviceKey
) -> None:
    with EncryptedStore.create(tmp_path / "other", key, dimension=2) as other:
        other.add_many([record(0)] * 3, np.array([VECTOR] * 3))
        stamp, vector, sealed = other._database.rows("SELECT stamp, vector, record FROM memory WHERE slot = 1")[0]
    raw.execute("UPDATE memory SET stamp = ?, vector = ?, record = ? WHERE slot = 1", (stamp, vector, sealed))
    with pytest.raises(TamperedError):
        full.get(1)
    with pytest.raises(TamperedError):
        full.vectors()


def test_values_of_another_type_raise_tampered(
    full: EncryptedStore, raw: sqlite3.Connection, folder: Path, key: DeviceKey
) -> None:
    for table in (*SEALED, "slot"):
        columns = {name: kind for _, name, kind, *_ in raw.execute(f"PRAGMA table_info({table})")}
        for value in ("'text'", "5", "NULL"):
            raw.execute(f"ALTER TABLE {table} RENAME TO kept")
            loose = ", ".join(f"{value} AS {name}" if kind == "BLOB" else name for name, kind in columns.items())
            raw.execute(f"CREATE TABLE {table} AS SELECT {loose} FROM kept")
            with pytest.raises(TamperedError):
                EncryptedStore.open(folder, key) if table == "slot" else full.verify()
            raw.execute(f"DROP TABLE {table}")
            raw.execute(f"ALTER TABLE kept RENAME TO {table}")
    full.verify()


# Put back: what the store itself once wrote


# What is done, and the error when a table is put back to what it was before.
REPLAYS: list[tuple[Step, dict[str, type[StoreError]]]] = [
    (lambda s: s.add(record(1), VECTOR), dict.fromkeys(("memory", "tail"), TamperedError) | {"head": RolledBackError}),
    (lambda s: s.charge(b"spent"), {"head": RolledBackError}),
    (lambda s: s.append("charge", b"three"), {"head": RolledBackError, "ledger": TamperedError}),
    (lambda s: s.put("kind", "one", b"newer"), dict.fromkeys(("registry", "named"), TamperedError)),
    (lambda s: s.update(3, record(9)), {"manifest": TamperedError}),
    (
        lambda s: s.forget(5),
        dict.fromkeys(("head", "manifest", "registry", "segment", "node"), TamperedError) | {"root": ForgottenEpoch},
    ),
    (lambda s: s.rotate(), dict.fromkeys(("memory", "tail", "segment", "ledger", "named"), TamperedError)),
    (
        lambda s: s.access.replace(1, DeviceKey(bytes(range(32)))),
        {"root": ForgottenEpoch, "slot": TamperedError, "node": TamperedError},
    ),
]


@pytest.mark.parametrize("where", ["open", "opened anew"])
def test_an_older_table_put_back_raises_the_right_error(
    full: EncryptedStore, raw: sqlite3.Connection, folder: Path, key: DeviceKey, where: str
) -> None:
    for step, tables in REPLAYS:
        before = {table: raw.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
        step(full)
        full._commits.witness()  # Otherwise it may be some commits behind.
        for table, error in tables.items():
            if table == "slot" and where == "open":
                continue  # An open store reads its slots no more.
            after = raw.execute(f"SELECT * FROM {table}").fetchall()
            assert after != before[table]
            restore(raw, table, before[table])
            with pytest.raises(error):
                full.verify() if where == "open" else read_all(folder, key)
            restore(raw, table, after)
    full.verify()


def read_all(folder: Path, key: DeviceKey) -> None:
    with EncryptedStore.open(folder, key, clock=lambda: 0.0) as memory:
        memory.verify()


def test_the_row_of_a_replaced_or_forgotten_version_put_back_is_not_read(
    full: EncryptedStore, raw: sqlite3.Connection
) -> None:
    columns = "stamp, vector, record"
    for id, step in ((2050, lambda: full.update(2050, record(7))), (3, lambda: full.update(3, record(7)))):
        row = raw.execute(f"SELECT {columns} FROM memory WHERE slot = {id}").fetchone()
        step()
        raw.execute(f"UPDATE memory SET stamp = ?, vector = ?, record = ? WHERE slot = {id}", row)
        assert full.get(id).record == record(7)
    row = raw.execute(f"SELECT {columns} FROM memory WHERE slot = 4").fetchone()
    full.forget(4)
    raw.execute("UPDATE memory SET stamp = ?, vector = ?, record = ? WHERE slot = 4", row)
    assert 4 not in {stored.id for stored in full.iter(history=True)}
    assert not full._core.keys._trees_of(1)[0].has(4)
    full.verify()


def test_a_root_of_before_an_added_slot_is_noticed_before_the_slots_change(
    full: EncryptedStore, raw: sqlite3.Connection
) -> None:
    old = raw.execute("SELECT * FROM root").fetchall()
    full.access.add(RecoveryKey(bytes(32)))
    restore(raw, "root", old)
    full._core.reread()
    with pytest.raises(TamperedError):
        full.access.remove(2)
    with pytest.raises(TamperedError):
        full.rotate()


def test_a_replaced_slot_put_back_is_noticed_before_the_slots_change(
    full: EncryptedStore, raw: sqlite3.Connection, folder: Path
) -> None:
    old, new = RecoveryKey(bytes(32)), RecoveryKey(bytes(31) + b"\1")
    full.access.add(old)
    rows = raw.execute("SELECT * FROM slot").fetchall()
    full.access.replace(2, new)
    kept = raw.execute("SELECT * FROM slot").fetchall()
    restore(raw, "slot", [kept[0], rows[1]])
    for change in (lambda: full.access.replace(1, new), lambda: full.access.add(old), full.rotate):
        with pytest.raises(TamperedError):
            change()
    with pytest.raises(TamperedError):
        EncryptedStore.open(folder, old)
    restore(raw, "slot", kept)
    full.rotate()
    EncryptedStore.open(folder, new).close()


def test_a_removed_slot_put_back_opens_nothing(full: EncryptedStore, raw: sqlite3.Connection, folder: Path) -> None:
    recovery = RecoveryKey(bytes(32))
    number = full.access.add(recovery)
    EncryptedStore.open(folder, recovery).close()
    rows = raw.execute("SELECT * FROM slot").fetchall()
    full.access.remove(number)
    with pytest.raises(WrongKeyError):
        EncryptedStore.open(folder, recovery)
    raw.execute(f"INSERT INTO slot VALUES ({', '.join('?' * 9)})", rows[1])
    with pytest.raises(TamperedError):
        EncryptedStore.open(folder, recovery)


# Whole files


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def put_back(copy: Path, folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)


def test_an_older_file_of_the_same_epoch_raises_rolled_back_unless_accepted(
    full: EncryptedStore, folder: Path, key: DeviceKey, tmp_path: Path
) -> None:
    full.close()
    old = copied(folder, tmp_path / "old")
    with EncryptedStore.open(folder, key) as memory:
        memory.put("kind", "three", b"newer")
        memory.charge(b"spent")
    put_back(old, folder)
    for _ in range(2):
        with pytest.raises(RolledBackError, match="older copy"):
            EncryptedStore.open(folder, key)
    with EncryptedStore.open(folder, key, accept=AcceptRollback()) as memory:
        assert memory.fetch("kind", "three") is None
        assert memory.ratchet == b"spent"
        memory.verify()
    EncryptedStore.open(folder, key).close()


def test_an_older_file_of_an_earlier_epoch_never_opens(
    full: EncryptedStore, folder: Path, state: Path, key: DeviceKey, tmp_path: Path
) -> None:
    full.close()
    old = copied(folder, tmp_path / "old")
    secret = {path: path.read_bytes() for path in state.glob("*.secret")}
    with EncryptedStore.open(folder, key) as memory:
        memory.forget(5)
    new = copied(folder, tmp_path / "new")
    put_back(old, folder)
    for accept in (None, AcceptRollback()):
        with pytest.raises(ForgottenEpoch):
            EncryptedStore.open(folder, key, accept=accept)
    put_back(new, folder)
    for path, content in secret.items():  # The secret put back instead: it is older than the store.
        path.write_bytes(content)
    with pytest.raises(DeviceSecretError, match="older than the store"):
        EncryptedStore.open(folder, key)


def test_a_missing_or_foreign_secret_or_witness_raises_its_own_error(
    full: EncryptedStore, folder: Path, state: Path, key: DeviceKey
) -> None:
    full.close()
    (secret,), (anchor,) = state.glob("*.secret"), state.glob("*.anchor")
    kept = secret.read_bytes(), anchor.read_bytes()
    anchor.unlink()
    with pytest.raises(RolledBackError, match="missing"):
        EncryptedStore.open(folder, key)
    for at in range(0, 384, 7):
        anchor.write_bytes(kept[1][:at] + bytes([kept[1][at] ^ 1]) + kept[1][at + 1 :])
        with pytest.raises(TamperedError):
            EncryptedStore.open(folder, key)
    anchor.write_bytes(kept[1])
    secret.unlink()
    with pytest.raises(DeviceSecretError, match="missing"):
        EncryptedStore.open(folder, key)
    FileSecret(secret).create(2, bytes(32))
    with pytest.raises(TamperedError):
        EncryptedStore.open(folder, key)
    secret.write_bytes(kept[0])
    EncryptedStore.open(folder, key).close()
