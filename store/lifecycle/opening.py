"""Opening a store: unlock a slot, open the root with the device secret, compare with the witness, finish a forget."""

from __future__ import annotations

import contextlib
from pathlib import Path

from store.disk.database import Database
from store.errors import ForgetPending, RolledBackError, TamperedError
from store.keys.keyring import Keyring
from store.keys.root import Root
from store.keys.slots import find_slot, read_slots
from store.lifecycle.files import Opening, connect, refuse_inside
from store.lifecycle.header import read_header
from store.lifecycle.upgrade import upgrade
from store.tables.commit import Commits
from store.tables.core import Core, read_root
from store.tables.rows import Rows


def open_core(folder: Path, opening: Opening) -> tuple[Core, Rows, Commits]:
    """The parts of the store in ``folder``. Raises as ``EncryptedStore.open`` does."""
    database, schema = connect(folder, opening.busy_timeout_s)
    try:
        if schema == 1:
            database.close()
            upgrade(folder, opening)
            database, _ = connect(folder, opening.busy_timeout_s)
        return _opened(database, folder, opening)
    except BaseException:
        database.close()
        raise


def _opened(database: Database, folder: Path, opening: Opening) -> tuple[Core, Rows, Commits]:
    store_id = read_header(database).store_id
    secret = opening.secret_for(store_id)
    refuse_inside(secret, folder)
    number, kek = find_slot(read_slots(database), opening.unlock, store_id)
    with database.snapshot():
        slot = next((slot for slot in read_slots(database) if slot.number == number), None)
        if slot is None:
            raise TamperedError("The key slot vanished while it was opened: open the store again.")
        store_key = slot.unwrap(kek, store_id)
        rows = database.rows("SELECT epoch, sealed FROM root")
        if len(rows) != 1:
            raise TamperedError(f"{database.path} lacks its root: restore it from a backup.")
        root: Root = read_root(rows[0][0], rows[0][1], store_key, secret, store_id)
        keys = Keyring(database, store_id, store_key, root, (number, kek))
        witness = opening.witness_for(store_id)
        refuse_inside(witness, folder)
        core = Core(database, keys, secret=secret, witness=witness, clock=opening.clock)
    record_rows = Rows(core)
    commits = Commits(core, record_rows)
    _compare(core, commits, accept=opening.accept_rollback)
    # Where another process still reads, whoever opens, purges or forgets next completes it.
    with contextlib.suppress(ForgetPending):
        commits.finish_forget()
    return core, record_rows, commits


def _compare(core: Core, commits: Commits, *, accept: bool) -> None:
    """Raise ``RolledBackError`` if the witness has seen more than the store holds, unless that is accepted."""
    if core.witness is None:
        return
    # The witness first: what another process writes between the two readings only puts the store ahead of it.
    data = core.witness.read()
    with core.snapshot() as view:
        head = view.head
    if data is None:
        if head.witnessed and not accept:
            raise RolledBackError(
                "The witness that this store was last seen by is missing, so an older copy cannot be told. Put it "
                "back, or accept it: EncryptedStore.open(…, accept=AcceptRollback())."
            )
        commits.witness()
        return
    sighting = commits.sighted(data)
    core.witnessed_at = min(sighting.counter, head.counter)
    same = sighting.counter == head.counter and sighting.root == head.root_hash()
    if sighting.counter < head.counter or same:
        return
    if not accept:
        raise RolledBackError(
            f"The store is an older copy: it is at commit {head.counter}, and its witness has seen {sighting.counter}. "
            "Use the latest one, or accept this one: EncryptedStore.open(…, accept=AcceptRollback())."
        )
    with commits.transaction() as work:
        # What the later state had spent stays spent, and the counter goes on from there.
        work.touched = work.witnesses = True
        later = max(sighting.counter, head.counter) + 1
        core.view.head = core.view.head._replace(counter=later, ratchet=sighting.ratchet)
