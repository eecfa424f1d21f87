"""The tables of a store, and the numbers that mark the file as ours.

All tables of format 2 are made at once in a new file; a store of format 1 is written anew by ``lifecycle/upgrade.py``.
"""

from __future__ import annotations

from sqlite_utils import Database, Migrations

APPLICATION_ID = 0x54414349  # "TACI"
SCHEMA = 2
PAGE_BYTES = 8_192  # An add writes three. Two rows of a 384-d vector and a text of 1 kB fit one, and 4 kB hold one.

migrations = Migrations("tacit-store")


def _create_tables(db: Database) -> None:
    """The tables of format 2. The vector comes before the record: reading it alone then skips the record."""
    for statement in (
        "CREATE TABLE header (id INTEGER PRIMARY KEY CHECK (id = 1), format INTEGER NOT NULL,"
        " store_id BLOB NOT NULL, digest BLOB NOT NULL) STRICT",
        "CREATE TABLE slot (number INTEGER PRIMARY KEY, kind TEXT NOT NULL, salt BLOB NOT NULL,"
        " memory_kib INTEGER NOT NULL, passes INTEGER NOT NULL, lanes INTEGER NOT NULL, key_check BLOB NOT NULL,"
        " wrapped BLOB NOT NULL, digest BLOB NOT NULL) STRICT",
        "CREATE TABLE root (id INTEGER PRIMARY KEY CHECK (id = 1), epoch INTEGER NOT NULL, sealed BLOB NOT NULL)"
        " STRICT",
        "CREATE TABLE node (tree TEXT NOT NULL, generation INTEGER NOT NULL, level INTEGER NOT NULL,"
        " position INTEGER NOT NULL, sealed BLOB NOT NULL,"
        " PRIMARY KEY (tree, generation, level, position)) STRICT, WITHOUT ROWID",
        "CREATE TABLE head (id INTEGER PRIMARY KEY CHECK (id = 1), sealed BLOB NOT NULL) STRICT",
        "CREATE TABLE manifest (id INTEGER PRIMARY KEY CHECK (id = 1), sealed BLOB NOT NULL) STRICT",
        "CREATE TABLE registry (id INTEGER PRIMARY KEY CHECK (id = 1), sealed BLOB NOT NULL) STRICT",
        "CREATE TABLE memory (slot INTEGER PRIMARY KEY, stamp BLOB NOT NULL, vector BLOB NOT NULL,"
        " record BLOB NOT NULL) STRICT",
        "CREATE TABLE tail (slot INTEGER PRIMARY KEY, stamp BLOB NOT NULL, entry BLOB NOT NULL) STRICT",
        "CREATE TABLE segment (number INTEGER PRIMARY KEY, stamp BLOB NOT NULL, codes BLOB NOT NULL,"
        " columns BLOB NOT NULL, postings BLOB NOT NULL) STRICT",
        "CREATE TABLE named (lookup BLOB PRIMARY KEY, stamp BLOB NOT NULL, title BLOB NOT NULL,"
        " value BLOB NOT NULL) STRICT",
        "CREATE TABLE ledger (number INTEGER PRIMARY KEY, sealed BLOB NOT NULL) STRICT",
    ):
        db.execute(statement)


migrations(name="2-tables")(_create_tables)


def migrate(db: Database) -> None:
    """Bring the tables to :data:`SCHEMA`. Call inside a transaction, so that all of it happens or nothing."""
    migrations.apply(db)
    # sqlite-utils notes when each migration ran. When a store was made says something about its user.
    db.execute(f"UPDATE {migrations.migrations_table} SET applied_at = ''")
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {SCHEMA}")
