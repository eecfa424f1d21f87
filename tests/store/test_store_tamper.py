"""A byte that is not what was written raises the right error, and never gives wrong data."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store import DeviceKey, EncryptedStore, Record, StoreError, TamperedError, UnknownFormatError

RECORD = Record(text="window seat", label="book_train", time=5.0)
VECTOR = np.array([1, 2], dtype=np.float32)
Use = Callable[[EncryptedStore], object]


@pytest.fixture
def small(folder: Path, key: DeviceKey) -> Iterator[EncryptedStore]:
    """Two memories, two named values, a forgotten memory and so a receipt, key nodes, and one more ledger entry."""
    with EncryptedStore.create(folder, key, dimension=2, clock=lambda: 0.0) as memory:
        memory.add_many([RECORD, RECORD, RECORD], np.array([VECTOR, -VECTOR, VECTOR]))
        memory.put("kind", "one", b"first")
        memory.put("kind", "two", b"second")
        memory.forget(3)
        memory.append("charge", b"spent")
        yield memory


@pytest.fixture
def folded(folder: Path, key: DeviceKey) -> Iterator[EncryptedStore]:
    """A segment, forgotten in, with a superseded record, and a tail."""
    rng = np.random.default_rng(5)
    with EncryptedStore.create(folder, key, dimension=2, clock=lambda: 0.0) as memory:
        records = [Record(text=f"memory {i} of many", time=float(i), scope=f"s{i % 4}") for i in range(1100)]
        memory.add_many(records, rng.standard_normal((1100, 2)).astype(np.float32))
        memory.forget([8, 300])
        memory.add(Record(text="newer", time=1.0, supersedes=5), VECTOR)
        yield memory


@pytest.fixture
def raw(folder: Path, request: pytest.FixtureRequest) -> Iterator[sqlite3.Connection]:
    """The attacker's own connection to the file."""
    request.getfixturevalue("folded" if "folded" in request.fixturenames else "small")
    connection = sqlite3.connect(folder / "memory.tacit", isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    yield connection
    connection.close()


def flipped(sealed: bytes, stride: int = 1) -> Iterator[bytes]:
    for place in range(0, len(sealed), stride):
        yield sealed[:place] + bytes([sealed[place] ^ (1 << place % 8)]) + sealed[place + 1 :]


def misshapen(sealed: bytes) -> list[bytes]:
    return [b"", sealed[:-1], sealed + b"\0", sealed[:48], sealed[:49], sealed[:17], sealed[1:], b"\1" + sealed[1:]]


def attacked(raw: sqlite3.Connection, table: str, column: str, where: str, stride: int = 1) -> Iterator[None]:
    """Put each changed value in its place, one after the other; at the end the right one."""
    (sealed,) = raw.execute(f"SELECT {column} FROM {table} WHERE {where}").fetchone()
    for bad in [*flipped(sealed, stride), *misshapen(sealed)]:
        if bad != sealed:
            raw.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (bad,))
            yield
    raw.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (sealed,))


def reopened(folder: Path, key: DeviceKey) -> int:
    with EncryptedStore.open(folder, key, clock=lambda: 0.0) as memory:
        return memory.verify()


@pytest.mark.parametrize(
    ("table", "column", "where", "use"),
    [
        ("memory", "record", "slot = 1", lambda s: s.get(1)),
        ("memory", "vector", "slot = 1", lambda s: s.vector(1)),
        ("memory", "stamp", "slot = 1", lambda s: s.vectors()),
        ("memory", "stamp", "slot = 2", lambda s: list(s.iter())),
        ("named", "value", "rowid", lambda s: (s.fetch("kind", "one"), s.fetch("kind", "two"))),
        ("named", "title", "rowid", lambda s: s.names("kind")),
        ("named", "stamp", "rowid", lambda s: s.names("kind")),
        ("ledger", "sealed", "number = 1", lambda s: s.receipts()),
        ("ledger", "sealed", "number = 2", lambda s: s.entries()),
        ("head", "sealed", "id = 1", lambda s: s.count()),
        ("manifest", "sealed", "id = 1", lambda s: s.get(1)),
        ("registry", "sealed", "id = 1", lambda s: s.fetch("kind", "one")),
    ],
)
def test_any_flipped_byte_raises_tampered_in_the_open_store(
    small: EncryptedStore, raw: sqlite3.Connection, table: str, column: str, where: str, use: Use
) -> None:
    if where == "rowid":
        lookup = next(iter(small._core.view.registry.values))  # Other rows hold nothing.
        where = f"lookup = x'{lookup.hex()}'"
    expected, verified = use(small), small.verify()
    for number, _ in enumerate(attacked(raw, table, column, where)):
        with pytest.raises(TamperedError):
            use(small)
        if number % 50 == 0:
            with pytest.raises(TamperedError):
                small.verify()
            if table in ("head", "manifest", "registry"):
                with pytest.raises(TamperedError):
                    small.put("kind", "one", b"must not be written")
    np.testing.assert_equal(use(small), expected)
    assert small.verify() == verified


@pytest.mark.parametrize(
    ("table", "column", "where", "stride"),
    [
        ("tail", "entry", "slot = 1", 3),
        ("tail", "stamp", "slot = 2", 1),
        ("root", "sealed", "id = 1", 9),
        ("slot", "wrapped", "number = 1", 1),
        ("slot", "key_check", "number = 1", 1),
        ("slot", "salt", "number = 1", 1),
        ("slot", "digest", "number = 1", 1),
        ("header", "store_id", "id = 1", 1),
        ("header", "digest", "id = 1", 1),
    ],
)
def test_any_flipped_byte_raises_tampered_at_opening(
    small: EncryptedStore,
    raw: sqlite3.Connection,
    folder: Path,
    key: DeviceKey,
    table: str,
    column: str,
    where: str,
    stride: int,
) -> None:
    for _ in attacked(raw, table, column, where, stride):
        with pytest.raises(TamperedError):
            EncryptedStore.open(folder, key)
    reopened(folder, key)


@pytest.mark.slow
@pytest.mark.parametrize(("table", "where"), [("root", "id = 1"), ("tail", "slot = 1")])
def test_every_flipped_byte_of_root_and_entry_raises_tampered_at_opening(
    small: EncryptedStore, raw: sqlite3.Connection, folder: Path, key: DeviceKey, table: str, where: str
) -> None:
    for _ in attacked(raw, table, "entry" if table == "tail" else "sealed", where):
        with pytest.raises(TamperedError):
            EncryptedStore.open(folder, key)
    reopened(folder, key)


def test_flipped_entry_of_a_known_row_is_found_by_verify(small: EncryptedStore, raw: sqlite3.Connection) -> None:
    for number, _ in enumerate(attacked(raw, "tail", "entry", "slot = 1", 11)):
        if number == 0:
            assert small.get(1).record == RECORD
        with pytest.raises(TamperedError):
            small.verify()
    small.verify()


def test_a_tampered_store_still_closes_its_file(
    small: EncryptedStore, raw: sqlite3.Connection, folder: Path, key: DeviceKey
) -> None:
    (sealed,) = raw.execute("SELECT sealed FROM head").fetchone()
    raw.execute("UPDATE head SET sealed = ?", (next(flipped(sealed)),))
    with pytest.raises(TamperedError):
        small.close()
    with pytest.raises(StoreError, match="closed"):
        small.count()
    raw.execute("UPDATE head SET sealed = ?", (sealed,))
    reopened(folder, key)


def test_flipped_byte_of_a_key_node_raises_tampered(small: EncryptedStore, raw: sqlite3.Connection) -> None:
    nodes = raw.execute("SELECT tree, level, position FROM node").fetchall()
    assert sorted(nodes) == [(tree, level, 0) for tree in ("page", "row") for level in range(4)]
    for tree, level, position in nodes:
        where = f"tree = '{tree}' AND level = {level} AND position = {position}"
        for _ in attacked(raw, "node", "sealed", where, 997):
            small._core.reread()
            with pytest.raises(TamperedError):
                small.vectors()
    small.verify()


def segment_attacks(memory: EncryptedStore, raw: sqlite3.Connection, stride: int) -> None:
    (ref,) = memory._core.view.manifest.segments.values()
    for name in ("codes", "columns", "postings"):
        for column in (name, "stamp"):
            for _ in attacked(raw, "segment", column, "number = 0", stride if column == name else 1):
                with memory._core.snapshot(), pytest.raises(TamperedError):
                    memory._core.open_segment(ref, name)
        (sealed,) = raw.execute(f"SELECT {name} FROM segment").fetchone()
        raw.execute(f"UPDATE segment SET {name} = ?", (next(flipped(sealed[10:])),))
        with pytest.raises(TamperedError):
            memory.verify()
        raw.execute(f"UPDATE segment SET {name} = ?", (sealed,))


def test_flipped_byte_of_a_segment_raises_tampered(folded: EncryptedStore, raw: sqlite3.Connection) -> None:
    verified = folded.verify()
    segment_attacks(folded, raw, 211)
    assert folded.verify() == verified


@pytest.mark.slow
def test_flipped_bytes_all_over_a_segment_raise_tampered(folded: EncryptedStore, raw: sqlite3.Connection) -> None:
    segment_attacks(folded, raw, 3)


@pytest.mark.parametrize(
    ("part", "use"),
    [
        ("columns", lambda s: s.get(77)),
        ("columns", lambda s: s.search(VECTOR, 3)),
        ("columns", lambda s: s.forget(77)),
        ("postings", lambda s: s.search_text("memory", 3)),
        ("postings", lambda s: s.forget(77)),
        ("codes", lambda s: s.forget(77)),
    ],
)
def test_tampered_segment_stops_what_needs_it_and_changes_nothing(
    folded: EncryptedStore, raw: sqlite3.Connection, folder: Path, key: DeviceKey, part: str, use: Use
) -> None:
    verified = folded.verify()
    (sealed,) = raw.execute(f"SELECT {part} FROM segment").fetchone()
    raw.execute(f"UPDATE segment SET {part} = ?", (sealed[:-1] + bytes([sealed[-1] ^ 1]),))
    with EncryptedStore.open(folder, key, clock=lambda: 0.0) as memory:
        for _ in range(2):
            with pytest.raises(TamperedError):
                use(memory)
        raw.execute(f"UPDATE segment SET {part} = ?", (sealed,))
        assert memory.count() == folded.count()
        assert memory.search_text("memory", 3)
        assert memory.verify() == verified


def test_tampered_vector_stops_search_and_leaves_no_half_built_index(
    small: EncryptedStore, raw: sqlite3.Connection
) -> None:
    (sealed,) = raw.execute("SELECT vector FROM memory WHERE slot = 2").fetchone()
    raw.execute("UPDATE memory SET vector = ? WHERE slot = 2", (next(flipped(sealed)),))
    for _ in range(2):
        with pytest.raises(TamperedError):
            small.search(VECTOR, 1)
    raw.execute("UPDATE memory SET vector = ? WHERE slot = 2", (sealed,))
    assert small.search(VECTOR, 2) == [(1, 5.0), (2, -5.0)]


def _contents(folder: Path, key: DeviceKey) -> object:
    with EncryptedStore.open(folder, key, busy_timeout_s=0.1, clock=lambda: 0.0) as memory:
        memory.verify()
        ids, matrix = memory.vectors()
        values = memory.names("kind"), memory.fetch("kind", "one"), memory.entries()
        return list(memory.iter()), ids, matrix.tolist(), values


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), mask=st.integers(1, 255))
def test_any_byte_of_the_file_changed_gives_a_typed_error_or_the_right_data(
    small: EncryptedStore, folder: Path, state: Path, key: DeviceKey, place: int, mask: int
) -> None:
    small.close()
    path = folder / "memory.tacit"
    whole = path.read_bytes()
    expected = _contents(folder, key)
    outside = {path: path.read_bytes() for path in state.iterdir()}
    damaged = bytearray(whole)
    damaged[place % len(whole)] ^= mask
    path.write_bytes(damaged)
    got: object
    try:
        got = _contents(folder, key)
    except StoreError as error:
        got = type(error)
    for journal in folder.glob("memory.tacit-*"):
        journal.unlink()
    path.write_bytes(whole)
    for path, content in outside.items():
        path.write_bytes(content)
    assert got == expected or got in (TamperedError, UnknownFormatError, StoreError)
