"""Forget means gone: from today's files, and from older copies with the owner's key and today's device secret."""

from __future__ import annotations

import hashlib
import itertools
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import faiss
import numpy as np
import pytest
from homes import DIMENSION, KEY, Home, matrix

from store import (
    AcceptRollback,
    DeviceKey,
    EncryptedStore,
    ForgetPending,
    ForgottenEpoch,
    Record,
    RecordMissingError,
    TamperedError,
    Where,
)
from store.keys.crypto import Place
from store.keys.keytree import LEVELS, Branch, KeyTree
from store.keys.root import open_root
from store.keys.slots import find_slot, read_slots

PAGES = 24  # More than the tests here write.


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "now").mkdir()
    return Home(tmp_path / "now")


# Older copies


def secrets_in(
    tree: KeyTree, level: int = LEVELS - 1, position: int = 0, branch: Branch | None = None
) -> Iterator[bytes]:
    """Every secret that the tree still holds, sealed nodes opened."""
    branch = tree.top if branch is None else branch
    yield branch.secret
    if branch.kind == 2:
        content = tree._open(level, position, branch)
        for index in range(256):
            child = Branch.from_bytes(content[33 * index : 33 * (index + 1)])
            if child.kind:
                yield from secrets_in(tree, level - 1, position * 256 + index, child)


def all_that_today_knows(memory: EncryptedStore, slots: int) -> set[bytes]:
    """Device secrets, store key, slot keys, all of the root, all secrets and derived keys of all key trees."""
    keys = memory._core.keys
    root = keys.root
    known = {*memory._core.secret.read().values(), keys.store_key, *(key for _, key in root.slot_keys)}
    known |= {root.key, root.anchor_key, root.log_key, root.lookup_key, root.head_key(memory.store_id)}
    for trees in keys._trees.values():
        for tree in trees:
            known |= set(secrets_in(tree))
            known |= {tree.key(number) for number in range(slots + 1) if tree.has(number)}
    return known


def _derived(key: bytes, message: bytes) -> bytes:
    return hashlib.blake2b(message, key=key, person=b"tacit/2/seal").digest()


def any_fits(known: set[bytes], place: Place, stamp: object) -> bool:
    """Whether one of the keys commits to the stamp at this place: the naive way, from the format's own formula."""
    assert isinstance(stamp, bytes)
    message, commitment = struct.pack(">I", 16) + stamp[1:17] + place.context(), stamp[17:49]
    return any(_derived(key, message)[32:] == commitment for key in known)


def opened_by_hand(old: Home, store_id: bytes, known: set[bytes], slots: set[int]) -> set[tuple[str, object]]:
    """What of an old copy any known secret opens: rows and entries of ``slots``, segments, tree nodes."""
    found: set[tuple[str, object]] = set()
    for table in ("memory", "tail"):
        for slot, stamp in old.rows(f"SELECT slot, stamp FROM {table}"):
            if slot in slots and any_fits(known, Place(store_id, "row", slot), stamp):
                found.add((table, slot))
    for number, stamp in old.rows("SELECT number, stamp FROM segment"):
        if any(any_fits(known, Place(store_id, "segment", page), stamp) for page in range(PAGES)):
            found.add(("segment", number))
    for tree, generation, level, position, sealed in old.rows("SELECT * FROM node"):
        place = Place(store_id, f"{tree} tree {generation} node", level << 32 | position)
        if any_fits(known, place, sealed):
            found.add(("node", (tree, level, position)))
    return found


def root_opens(old: Home, memory: EncryptedStore, secrets: dict[int, bytes]) -> bool:
    """Whether the old copy's root opens, with the owner's key, for any of the device secrets and any epoch."""
    with memory._core.database.snapshot():
        slots = read_slots(memory._core.database)
    keys = [memory._core.keys.store_key, find_slot(slots, KEY, memory.store_id)[1]]
    ((epoch, sealed),) = old.rows("SELECT epoch, sealed FROM root")
    for key, secret, number in itertools.product(keys, secrets.values(), range(epoch + 8)):
        with suppress(TamperedError):
            open_root(sealed, number, store_key=key, secret=secret, store_id=memory.store_id)
            return True
    return False


def test_hundred_forgotten_records_stay_closed_in_older_copies(home: Home) -> None:
    memory = home.create(1_300)  # One segment, and 276 in the tail.
    gone = [*range(5, 1_000, 20), *range(1_030, 1_280, 5)]
    assert len(gone) == 100
    copies = []
    for part in range(5):
        copies.append(home.copy(f"before {part}"))
        memory.forget(gone[part::5])
    known = all_that_today_knows(memory, 1_300)
    assert memory._core.view.head.next_page < PAGES
    for part, old in enumerate(copies):
        mine = set(gone[part::5])
        for accept in (None, AcceptRollback()):
            with pytest.raises(ForgottenEpoch):
                EncryptedStore.open(old.folder, KEY, secret=home.secret, accept=accept)
        assert opened_by_hand(old, memory.store_id, known, mine) == set()
        assert not root_opens(old, memory, home.secret.read())
        # The same means do open what was not forgotten, and with the secret of then the root.
        assert part or opened_by_hand(old, memory.store_id, known, {3, 1_299}) == {
            ("memory", 3), ("memory", 1_299), ("tail", 1_299)
        }  # fmt: skip
        assert root_opens(old, memory, old.secret.read())
    memory.close()


def test_forgotten_key_is_gone_and_its_rows_are_noise(home: Home) -> None:
    with home.create(1_100) as memory:
        before = {row[0]: row[1:] for row in home.rows("SELECT * FROM memory")}
        marked = {name: home.rows(f"SELECT {name} FROM segment") for name in ("stamp", "codes", "columns", "postings")}
        memory.forget([7, 1_090])
        rows, _ = memory._core.keys._trees[1]
        assert [rows.has(slot) for slot in (6, 7, 1_089, 1_090)] == [True, False, True, False]
        after = {row[0]: row[1:] for row in home.rows("SELECT * FROM memory")}
        for slot in (7, 1_090):
            assert all(a != b and len(a) == len(b) for a, b in zip(after[slot], before[slot], strict=True))
        assert after[6] == before[6]
        assert all(home.rows(f"SELECT {name} FROM segment") != was for name, was in marked.items())
        raw = (home.folder / "memory.tacit").read_bytes()
        assert not any(part in raw for slot in (7, 1_090) for part in before[slot])
        assert before[6][1] in raw


def test_forget_empties_the_journal_and_destroys_the_old_secret(home: Home) -> None:
    with home.create(3) as memory:
        assert sorted(home.secret.read()) == [1]
        memory.forget(2)
        journal = home.folder / "memory.tacit-wal"
        assert not journal.exists() or journal.stat().st_size == 0
        assert sorted(home.secret.read()) == [2]


# What a forget reaches


def test_forget_reaches_derived_records_and_superseded_history(home: Home) -> None:
    with home.create(4) as memory:
        vector = matrix(1)[0]
        newer = memory.add(Record(text="newer one", time=0.0, supersedes=1), vector)
        newest = memory.add(Record(text="newest one", time=0.0, supersedes=newer), vector)
        made = memory.add(Record(text="made from it", time=0.0, derived_from=(newest, 2)), vector)
        again = memory.add(Record(text="made from that", time=0.0, derived_from=(made,)), vector)
        receipt = memory.forget(newest)
        assert receipt is not None
        assert receipt.ids == (1, newer, newest, made, again)
        assert [s.id for s in memory.iter(history=True)] == [2, 3, 4]
        memory.verify()


def test_forget_of_history_alone_keeps_what_replaced_it(home: Home) -> None:
    with home.create(2) as memory:
        newer = memory.add(Record(text="newer one", time=0.0, supersedes=1), matrix(1)[0])
        memory.forget(1)
        assert [s.id for s in memory.history(newer)] == [newer]
        assert memory.count() == 2
        assert memory.update(newer, Record(text="changed", time=0.0, supersedes=1)) == 2


def fill_caches(memory: EncryptedStore, query: np.ndarray) -> None:
    """Open every vector and the records of the best, as searches do that find too many for the index in memory."""
    with memory._core.snapshot():
        memory._search.opener.vectors(np.arange(1, 1_101))
    memory.candidates(query, "", most=5)


@pytest.mark.parametrize("number", [7, 1_090])
def test_forget_reaches_words_codes_index_and_caches(home: Home, number: int) -> None:
    with home.create(1_100) as memory, home.open() as other:
        query = matrix(1_100)[number - 1]
        for opened in (memory, other):
            assert [id for id, _ in opened.search_text(f"{number}", 3)] == [number]
            assert number in {id for id, _ in opened.search(query, 1_100)}
            fill_caches(opened, query)
            assert number in opened._search.opener.kept_vectors._places  # type: ignore[union-attr]
            assert number in opened._search.opener.kept_records.slots
        memory.forget(number)
        assert number not in memory._search.opener.kept_vectors._places  # type: ignore[union-attr]
        assert number not in memory._search.opener.kept_records.slots
        assert number not in memory._search._index._places  # type: ignore[union-attr]
        for opened in (memory, other):
            assert opened.search_text(f"{number}", 3) == []
            assert len(opened.search(query, 1_100)) == 1_099
            assert number not in {id for id, _ in opened.search_hybrid(query, f"{number}", 1_100)}
            assert number not in opened._search._index._places  # type: ignore[union-attr]
            assert number not in opened._search.opener.kept_vectors._places  # type: ignore[union-attr]
            assert number not in opened._search.opener.kept_records.slots
            with pytest.raises(RecordMissingError):
                opened.vector(number)


@pytest.mark.parametrize("ends", ["forget it", "forget another", "purge", "new passphrase", "close to full"])
def test_earlier_version_is_in_no_memory_once_it_is_forgotten_for_good(home: Home, ends: str) -> None:
    with home.create(1_100) as memory:
        query, old = matrix(1_100)[6], []
        memory.search(query, 1_100)
        fill_caches(memory, query)
        for id in (7, 1_099):  # One in a segment, one in the tail.
            old.append(memory.vector(id))
            memory.update(id, Record(text="other words", time=0.0), -memory.vector(id) - 3)
        match ends:
            case "forget it":
                memory.forget([7, 1_099])
            case "forget another":
                memory.forget(500)
            case "purge":
                memory.purge()
            case "new passphrase":
                memory.access.replace(memory.access.slots()[0].number, DeviceKey(bytes(32)))
            case "close to full":
                for _ in range(300):
                    memory.update(3, Record(text="again", time=0.0))
        index, opened = memory._search._index, memory._search.opener.kept_vectors
        assert index is not None
        assert opened is not None
        table = faiss.rev_swig_ptr(index._faiss.get_xb(), len(index) * old[0].size).reshape(len(index), -1)  # type: ignore[union-attr]
        kept = np.concatenate([table, opened._table])
        for vector in old:
            assert not (kept == vector).all(axis=1).any()


def test_value_discarded_with_a_forget_is_closed_in_older_copies(home: Home) -> None:
    with home.create(2) as memory:
        memory.put("queue", "update", b"made from record 1")
        memory.put("queue", "other", b"kept")
        old = home.copy("before")
        with memory.transaction():
            memory.forget(1)
            memory.discard("queue", "update")
        assert memory.names("queue") == ["other"]
        known = all_that_today_knows(memory, 64)
        values = old.rows("SELECT stamp FROM named")
        places = [Place(memory.store_id, "value", page) for page in range(PAGES)]
        found = [stamp for (stamp,) in values if any(any_fits(known, place, stamp) for place in places)]
        assert (len(values), len(found)) == (16, 1)


# Receipts


def test_receipts_name_what_is_gone_chain_and_hold_no_content(home: Home) -> None:
    now = [10.0]
    memory = EncryptedStore.create(home.folder, KEY, dimension=DIMENSION, secret=home.secret, clock=lambda: now[0])
    for expires in (None, None, 20.0, None):
        memory.add(Record(text="marzipan", label="almond", time=5.0, expires=expires), matrix(1)[0])
    given = memory.forget([2])
    assert given is not None
    assert (given.what, given.ids, given.time, given.epoch) == ("forget", (2,), 10.0, 2)
    now[0] = 20.0
    memory.delete(1)
    assert memory.expire() is not None
    assert memory.expire() is None
    memory.update(4, Record(text="marzipan again", time=5.0))
    assert memory.purge() is not None
    memory.update(4, Record(text="marzipan thrice", time=5.0))
    memory.close()
    with home.open() as again:
        receipts = again.receipts()
        assert [(r.what, r.ids) for r in receipts] == [
            ("forget", (2,)), ("forget", (1,)), ("expire", (3,)), ("purge", ()), ("purge", ())
        ]  # fmt: skip
        assert receipts[0] == given
        assert [r.epoch for r in receipts] == [2, 3, 4, 5, 6]
        assert all(a.root_after == b.root_before for a, b in itertools.pairwise(receipts))
        assert len({r.root_after for r in receipts}) == 5
        content = b"".join(content for _, _, content in again.entries("receipt"))
        assert not any(word in content for word in (b"marzipan", b"almond"))
        with again.transaction():
            again._ledger.append("receipt", receipts[0].to_bytes())  # A false one, chained as well as any.
        with pytest.raises(TamperedError):
            again.verify()


def test_forget_of_nothing_gives_no_receipt_and_starts_no_epoch(home: Home) -> None:
    with home.create(1) as memory:
        assert memory.forget([]) is None
        assert memory.erase(Where(scope="none")) is None
        assert memory.purge() is None
        assert (memory.receipts(), sorted(home.secret.read())) == ([], [1])


def test_replaced_value_is_purged_once(home: Home) -> None:
    with home.create(0) as memory:
        memory.put("a", "b", b"1")
        assert memory.purge() is None
        memory.put("a", "b", b"2")
        assert memory.purge() is not None
        assert memory.purge() is None


# Readers and crashes


HELD_UP = """
with EncryptedStore.open(folder, key) as memory, memory._core.snapshot():
    memory.get(2)
    print("reading", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("how", ["purge", "close"])
def test_a_pending_forget_is_completed_by(
    folder: Path, key: DeviceKey, spawn: Callable[..., subprocess.Popen[str]], how: str
) -> None:
    memory = EncryptedStore.create(folder, key, dimension=DIMENSION, busy_timeout_s=0.2)
    memory.add_many([Record(text=f"t {i}", time=0.0) for i in range(3)], matrix(3))
    reader = spawn(HELD_UP)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "reading\n"
    with pytest.raises(ForgetPending, match="purge"):
        memory.forget(2)
    with pytest.raises(ForgetPending):
        memory.purge()
    secret = memory._core.secret
    assert sorted(secret.read()) == [1, 2]
    reader.kill()
    reader.communicate(timeout=60)
    assert memory.purge() is None if how == "purge" else memory.close() is None  # type: ignore[func-returns-value]
    assert sorted(secret.read()) == [2]
    memory.close()


def test_reader_in_another_process_makes_the_forget_pending_until_the_next_open(
    folder: Path, key: DeviceKey, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    memory = EncryptedStore.create(folder, key, dimension=DIMENSION, busy_timeout_s=0.2)
    memory.add_many([Record(text=f"t {i}", time=0.0) for i in range(3)], matrix(3))
    reader = spawn(HELD_UP)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "reading\n"
    with pytest.raises(ForgetPending):
        memory.forget(2)
    assert memory.count() == 2
    assert [r.ids for r in memory.receipts()] == [(2,)]
    with EncryptedStore.open(folder, key, busy_timeout_s=0.2) as other:
        with pytest.raises(RecordMissingError):
            other.get(2)
        assert sorted(other._core.secret.read()) == [1, 2]
    reader.kill()
    reader.communicate(timeout=60)
    with EncryptedStore.open(folder, key) as other:
        assert sorted(other._core.secret.read()) == [2]
        other.forget(1)
    assert memory.count() == 1
    memory.close()
