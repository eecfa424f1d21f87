"""The tables of a store, as sqlite-utils migrations, and the numbers that mark the file as ours.

A store whose ``user_version`` is :data:`SCHEMA` is current, so that opening it runs no migration at all.
"""

from __future__ import annotations

from sqlite_utils import Database, Migrations

APPLICATION_ID = 0x54414349  # "TACI"
SCHEMA = 1

migrations = Migrations("tacit-store")


def _create_tables(db: Database) -> None:
    """The tables of format 1. The vector comes first in its row: a bulk read then skips the record's pages."""
    db.execute(
        "CREATE TABLE header (id INTEGER PRIMARY KEY CHECK (id = 1), format INTEGER NOT NULL,"
        " store_id BLOB NOT NULL, unlock TEXT NOT NULL, salt BLOB NOT NULL, memory_kib INTEGER NOT NULL,"
        " passes INTEGER NOT NULL, lanes INTEGER NOT NULL, key_check BLOB NOT NULL, wrapped_key BLOB NOT NULL,"
        " digest BLOB NOT NULL) STRICT"
    )
    db.execute(
        "CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL,"
        " sealed BLOB NOT NULL) STRICT"
    )
    # AUTOINCREMENT: an id is never used again, so a sealed row of a deleted memory fits no later one.
    db.execute(
        "CREATE TABLE memory (id INTEGER PRIMARY KEY AUTOINCREMENT, version INTEGER NOT NULL,"
        " vector BLOB NOT NULL, record BLOB NOT NULL) STRICT"
    )
    db.execute(
        "CREATE TABLE named (id INTEGER PRIMARY KEY, lookup BLOB NOT NULL UNIQUE, version INTEGER NOT NULL,"
        " title BLOB NOT NULL, value BLOB NOT NULL) STRICT"
    )


migrations(name="1-header-state-memory-named")(_create_tables)


def migrate(db: Database) -> None:
    """Bring the tables to :data:`SCHEMA`. Call inside a transaction, so that all of it happens or nothing."""
    migrations.apply(db)
    # sqlite-utils notes when each migration ran. When a store was made says something about its user.
    db.execute(f"UPDATE {migrations.migrations_table} SET applied_at = ''")
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {SCHEMA}")
