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
from store.crypto import SealKey, row_id

RECORD = Record(text="window seat", label="book_train", time=5.0)
VECTOR = np.array([1, 2], dtype=np.float32)


@pytest.fixture
def small(folder: Path, key: DeviceKey) -> Iterator[EncryptedStore]:
    """Two memories and two named values, vectors of 2 floats."""
    with EncryptedStore.create(folder, key, dimension=2) as memory:
        memory.add_many([RECORD, RECORD], np.array([VECTOR, -VECTOR]))
        memory.put("kind", "one", b"first")
        memory.put("kind", "two", b"second")
        yield memory


@pytest.fixture
def raw(small: EncryptedStore, folder: Path) -> Iterator[sqlite3.Connection]:
    """The attacker's own connection to the file."""
    connection = sqlite3.connect(folder / "memory.tacit", isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    yield connection
    connection.close()


def flipped(sealed: bytes) -> Iterator[bytes]:
    for place in range(len(sealed)):
        yield sealed[:place] + bytes([sealed[place] ^ (1 << place % 8)]) + sealed[place + 1 :]


@pytest.mark.parametrize(
    ("table", "column", "key_column", "use"),
    [
        ("memory", "record", "id", lambda s: s.get(1)),
        ("memory", "vector", "id", lambda s: s.vector(1)),
        ("named", "value", "id", lambda s: s.fetch("kind", "one")),
        ("named", "title", "id", lambda s: s.names("kind")),
    ],
)
def test_any_flipped_byte_of_a_sealed_value_raises_tampered(
    small: EncryptedStore,
    raw: sqlite3.Connection,
    table: str,
    column: str,
    key_column: str,
    use: Callable[[EncryptedStore], object],
) -> None:
    (sealed,) = raw.execute(f"SELECT {column} FROM {table} WHERE {key_column} = 1").fetchone()
    expected = use(small)
    update = f"UPDATE {table} SET {column} = ? WHERE {key_column} = 1"
    for bad in [*flipped(sealed), b"", sealed[:-1], sealed + b"\0", sealed[:28], sealed[:13], b"\x02" + sealed[1:]]:
        raw.execute(update, (bad,))
        with pytest.raises(TamperedError):
            use(small)
    with pytest.raises(TamperedError):
        small.verify()
    raw.execute(update, (sealed,))
    assert np.array_equal(use(small), expected)  # type: ignore[arg-type]


def test_any_flipped_byte_of_the_state_raises_tampered(small: EncryptedStore, raw: sqlite3.Connection) -> None:
    (sealed,) = raw.execute("SELECT sealed FROM state").fetchone()
    for bad in flipped(sealed):
        raw.execute("UPDATE state SET sealed = ?", (bad,))
        with pytest.raises(TamperedError):
            _ = small.dimension


@pytest.mark.parametrize("column", ["store_id", "salt", "key_check", "wrapped_key", "digest"])
def test_any_flipped_byte_of_the_header_raises_tampered(
    small: EncryptedStore, raw: sqlite3.Connection, folder: Path, key: DeviceKey, column: str
) -> None:
    (value,) = raw.execute(f"SELECT {column} FROM header").fetchone()
    for bad in [*flipped(value), b"", value[:-1], value + b"\0"]:
        raw.execute(f"UPDATE header SET {column} = ?", (bad,))
        with pytest.raises(TamperedError):
            EncryptedStore.open(folder, key)
    raw.execute(f"UPDATE header SET {column} = ?", (value,))
    EncryptedStore.open(folder, key).close()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("format", 2),
        ("memory_kib", 1 << 30),
        ("memory_kib", -1),
        ("passes", 2**62),
        ("lanes", 0),
        ("unlock", "passphrase"),
        ("unlock", "nothing"),
    ],
)
def test_changed_header_parameter_raises_tampered(
    small: EncryptedStore, raw: sqlite3.Connection, folder: Path, key: DeviceKey, column: str, value: object
) -> None:
    raw.execute(f"UPDATE header SET {column} = ?", (value,))
    with pytest.raises(TamperedError):
        EncryptedStore.open(folder, key)


def test_forged_wrapped_key_with_renewed_digest_raises_tampered(
    small: EncryptedStore, raw: sqlite3.Connection, folder: Path, key: DeviceKey
) -> None:
    from dataclasses import replace

    from store.database import Database
    from store.files import read_header

    database = Database(folder / "memory.tacit", busy_timeout_s=1)
    header = read_header(database)
    database.close()
    forged = replace(header, wrapped_key=next(flipped(header.wrapped_key[1:])))
    for wrapped in (b"\x01" + forged.wrapped_key, header.wrapped_key[:-1] + b"\x00", b""):
        forged = replace(header, wrapped_key=wrapped)
        if wrapped != header.wrapped_key:
            raw.execute("UPDATE header SET wrapped_key = ?, digest = ?", (wrapped, forged._digest()))
            with pytest.raises(TamperedError):
                EncryptedStore.open(folder, key)


def test_swapped_rows_and_columns_raise_tampered(small: EncryptedStore, raw: sqlite3.Connection) -> None:
    small.update(2, RECORD)
    raw.execute("UPDATE memory SET id = CASE id WHEN 1 THEN -2 ELSE -1 END")
    raw.execute("UPDATE memory SET id = -id")
    for use in (small.vectors, lambda: list(small.iter()), lambda: small.get(1), lambda: small.update(2, RECORD)):
        with pytest.raises(TamperedError):
            use()
    assert raw.execute("SELECT count(*) FROM memory").fetchone() == (2,)


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE memory SET vector = (SELECT vector FROM memory WHERE id = 2) WHERE id = 1",
        "UPDATE memory SET record = (SELECT record FROM memory WHERE id = 2) WHERE id = 1",
        "UPDATE memory SET vector = record, record = vector WHERE id = 1",
        "UPDATE memory SET version = version + 1 WHERE id = 1",
        "UPDATE memory SET version = -1 WHERE id = 1",
        "UPDATE memory SET id = 77 WHERE id = 1",
        "UPDATE memory SET id = -1 WHERE id = 1",
        "UPDATE named SET value = (SELECT value FROM named WHERE id = 2) WHERE id = 1",
        "UPDATE named SET value = title, title = value WHERE id = 1",
        "UPDATE named SET version = 9 WHERE id = 1",
        "UPDATE named SET lookup = zeroblob(32) WHERE id = 1",
        "UPDATE named SET lookup = x'00' WHERE id = 1",
        "DELETE FROM state",
        "UPDATE state SET version = 2",
        "DROP TABLE named",
        "DROP TABLE memory",
    ],
)
def test_rearranged_rows_raise_tampered(small: EncryptedStore, raw: sqlite3.Connection, attack: str) -> None:
    assert small.verify() == 9
    raw.execute(attack)
    with pytest.raises(TamperedError):
        small.verify()


def test_row_of_another_store_under_the_same_key_raises_tampered(
    small: EncryptedStore, raw: sqlite3.Connection, tmp_path: Path, key: DeviceKey
) -> None:
    with EncryptedStore.create(tmp_path / "other", key, dimension=2) as other:
        other.add(RECORD, VECTOR)
        vector, record = other._database.rows("SELECT vector, record FROM memory")[0]
    raw.execute("UPDATE memory SET vector = ?, record = ? WHERE id = 1", (vector, record))
    with pytest.raises(TamperedError):
        small.get(1)
    with pytest.raises(TamperedError):
        small.vectors()


def test_values_of_another_type_raise_tampered(small: EncryptedStore, raw: sqlite3.Connection) -> None:
    raw.execute("CREATE TABLE loose (id INTEGER PRIMARY KEY, version, vector, record)")
    raw.execute("INSERT INTO loose VALUES (1, 'one', 5, NULL)")
    raw.execute("DROP TABLE memory")
    raw.execute("ALTER TABLE loose RENAME TO memory")
    for use in (small.vectors, lambda: small.get(1), small.verify, lambda: small.update(1, RECORD)):
        with pytest.raises(TamperedError):
            use()


def test_tampered_vector_stops_search_and_leaves_no_half_built_index(
    small: EncryptedStore, raw: sqlite3.Connection
) -> None:
    (sealed,) = raw.execute("SELECT vector FROM memory WHERE id = 2").fetchone()
    raw.execute("UPDATE memory SET vector = ? WHERE id = 2", (next(flipped(sealed)),))
    for _ in range(2):
        with pytest.raises(TamperedError):
            small.search(VECTOR, 1)
    raw.execute("UPDATE memory SET vector = ? WHERE id = 2", (sealed,))
    assert small.search(VECTOR, 2) == [(1, 5.0), (2, -5.0)]


@given(
    plaintext=st.binary(max_size=300),
    number=st.integers(1, 2**63 - 1),
    version=st.integers(1, 2**63 - 1),
    place=st.integers(0, 10**6),
    mask=st.integers(1, 255),
)
def test_sealed_value_opens_unchanged_and_not_with_any_byte_changed(
    plaintext: bytes, number: int, version: int, place: int, mask: int
) -> None:
    key = SealKey(bytes(32), store_id=bytes(16), kind="record")
    sealed = key.seal(plaintext, object_id=row_id(number), version=version)
    assert key.open(sealed, object_id=row_id(number), version=version) == plaintext
    place %= len(sealed)
    bad = sealed[:place] + bytes([sealed[place] ^ mask]) + sealed[place + 1 :]
    with pytest.raises(TamperedError):
        key.open(bad, object_id=row_id(number), version=version)
    for other in (
        {"object_id": row_id(number ^ 1), "version": version},
        {"object_id": row_id(number), "version": version ^ 1 or 2},
        {"object_id": row_id(number)[:-1], "version": version},
    ):
        with pytest.raises(TamperedError):
            key.open(sealed, **other)  # type: ignore[arg-type]
    for stranger in (
        SealKey(bytes(32), store_id=bytes(16), kind="vector"),
        SealKey(bytes(32), store_id=bytes(15) + b"\1", kind="record"),
        SealKey(bytes(31) + b"\1", store_id=bytes(16), kind="record"),
    ):
        with pytest.raises(TamperedError):
            stranger.open(sealed, object_id=row_id(number), version=version)


def test_sealing_kind_and_id_do_not_run_together() -> None:
    one = SealKey(bytes(32), store_id=bytes(16), kind="ab")
    two = SealKey(bytes(32), store_id=bytes(16), kind="a")
    with pytest.raises(TamperedError):
        two.open(one.seal(b"x", object_id=b"c", version=1), object_id=b"bc", version=1)


def _contents(folder: Path, key: DeviceKey) -> object:
    with EncryptedStore.open(folder, key, busy_timeout_s=0.1) as memory:
        memory.verify()
        ids, matrix = memory.vectors()
        return list(memory.iter()), ids, matrix.tolist(), memory.names("kind"), memory.fetch("kind", "one")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), mask=st.integers(1, 255))
def test_any_byte_of_the_file_changed_gives_a_typed_error_or_the_right_data(
    small: EncryptedStore, folder: Path, key: DeviceKey, place: int, mask: int
) -> None:
    small.close()
    path = folder / "memory.tacit"
    whole = path.read_bytes()
    expected = _contents(folder, key)
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
    assert got == expected or got in (TamperedError, UnknownFormatError, StoreError)
