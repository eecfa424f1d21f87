"""The few facts about a store that may change and are nobody's business: its one sealed row ``state``."""

from __future__ import annotations

import json
from dataclasses import dataclass

from store.crypto import StoreKeys, pad, row_id, unpad
from store.database import Database
from store.errors import StoreError, TamperedError
from store.vectors import check_dimension


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """``dimension``: how many floats each vector has."""

    dimension: int

    def __post_init__(self) -> None:
        check_dimension(self.dimension)


def read_state(database: Database, keys: StoreKeys) -> State:
    """The state as stored. Raises ``TamperedError``."""
    rows = database.rows("SELECT version, sealed FROM state")
    if len(rows) != 1:
        raise TamperedError(f"{database.path} lacks its state: restore it from a backup.")
    version, sealed = rows[0]
    content = keys.state.open(sealed, object_id=row_id(1), version=version)
    try:
        return State(**json.loads(unpad(content)))
    except (ValueError, TypeError, StoreError):
        raise TamperedError(f"The state in {database.path} is not of format 1: restore it from a backup.") from None


def write_state(database: Database, keys: StoreKeys, state: State) -> State:
    """Store ``state`` in place of the earlier one; call inside a transaction."""
    rows = database.rows("SELECT version FROM state")
    version = rows[0][0] + 1 if rows else 1
    content = pad(json.dumps({"dimension": state.dimension}, separators=(",", ":")).encode("ascii"))
    sealed = keys.state.seal(content, object_id=row_id(1), version=version)
    database.run("INSERT OR REPLACE INTO state (id, version, sealed) VALUES (1, ?, ?)", (version, sealed))
    return state
