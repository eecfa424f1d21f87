"""A scripted user of a store, what the store must hold after each step, and the processes that run the script.

A step is a dict, ``{"do": "add", "tags": ["a"]}``. Everything stored follows from a tag and its revision, so that
``observe`` can tell from a store alone which steps it holds.

The store lies in ROOT/home/store, its device secret and witness in ROOT/device/state (not under one folder, so that no
sync of one covers the other), and ROOT/ack gets a line before and after each step.
``victims.py`` runs this in processes that are watched, broken or killed.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from store import DeviceKey, EncryptedStore, Record, StoreMissingError

DIMENSION = 16
KEY, OTHER_KEY = DeviceKey(bytes(range(32))), DeviceKey(bytes(range(1, 33)))
KIND = "note"
FORGETTING = ("delete", "forget")
Step = dict[str, Any]


def step(do: str, *tags: str) -> Step:
    """One step of a script."""
    return {"do": do, "tags": list(tags)}


def many(prefix: str, count: int) -> list[str]:
    """``count`` tags."""
    return [f"{prefix}{number}" for number in range(count)]


SHORT = [
    step("create"),
    step("add", "a"),
    step("add_many", *many("b", 4)),
    step("put", "p"),
    step("look"),
    step("update", "a"),
    step("put", "p"),
    step("delete", "b1"),
    step("close"),
    step("open"),
    step("append", "l"),
    step("forget", "b2", "a"),
    step("look"),
    step("charge"),
    step("add", "c"),
    step("close"),
]
FULL = [
    *SHORT,
    step("open"),
    step("pair", "q", "r"),
    step("discard", "p"),
    step("update", "b0"),
    step("add_many", *many("d", 10)),
    step("forget", "c"),
    step("slot_add"),
    step("append", "l"),
    step("rotate"),
    step("add", "e"),
    step("look"),
    step("delete", "d9"),
    step("close"),
    step("open"),
    step("forget", *many("d", 5)),
    step("slot_remove"),
    step("charge"),
    step("put", "q"),
    step("discard", "r"),
    step("update", "d5"),
    step("close"),
]
# One record short of a full tail at the start; the adds fold it, the rest changes what was folded.
FILLED = [step("create"), step("add_many", *many("f", 1020)), step("close")]
FOLD = [
    step("open"),
    *[step("add", tag) for tag in many("g", 6)],
    step("forget", "f7", "f800"),
    step("update", "f9"),
    step("add", "h"),
    step("delete", "f10"),
    step("close"),
]


@cache
def record(tag: str, revision: int) -> Record:
    """The record of a tag at a revision."""
    words = " ".join(f"{tag}{number}" for number in range(zlib.crc32(tag.encode()) % 40))
    return Record(text=f"{tag} {revision} {words}", label=f"label {len(tag)}", time=1_700_000_000.0 + revision)


@cache
def vector(tag: str, revision: int) -> np.ndarray:
    """The unit vector (16,) float32 of a tag at a revision."""
    drawn = np.random.default_rng(zlib.crc32(f"{tag} {revision}".encode())).standard_normal(DIMENSION)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def value(tag: str, revision: int) -> bytes:
    """The named value of a tag at a revision."""
    return f"{tag} {revision} ".encode() * (1 + zlib.crc32(tag.encode()) % 300)


@dataclass
class State:
    """What a store holds: the revision of each record and of each named value, by tag; the tags in its ledger; how
    often it was charged; how many key slots it has besides the first.
    """

    exists: bool = False
    records: dict[str, int] = field(default_factory=dict)
    named: dict[str, int] = field(default_factory=dict)
    ledger: list[str] = field(default_factory=list)
    charges: int = 0
    slots: int = 0

    def after(self, done: Step) -> State:
        """The state once ``done`` is done."""
        do, state = done["do"], deepcopy(self)
        state.exists = self.exists or do == "create"
        state.charges += do == "charge"
        state.slots += {"slot_add": 1, "slot_remove": -1}.get(do, 0)
        for tag in done["tags"]:
            if do in ("add", "add_many"):
                state.records[tag] = 1
            elif do == "update":
                state.records[tag] += 1
            elif do in FORGETTING:
                del state.records[tag]
            elif do in ("put", "pair"):
                state.named[tag] = state.named.get(tag, 0) + 1
            elif do == "discard":
                state.named.pop(tag, None)
            elif do == "append":
                state.ledger.append(tag)
        return state


def observe(memory: EncryptedStore) -> State:
    """What ``memory`` holds by all its ways of reading. Raises ``AssertionError`` where they disagree or are wrong."""
    state, ids = State(exists=True), {}
    for stored in memory.iter():
        tag, revision = stored.record.text.split(" ")[:2]
        assert stored.record == record(tag, int(revision)), f"record {stored.id} is wrong"
        assert tag not in state.records, f"{tag} is there twice"
        state.records[tag] = int(revision)
        ids[stored.id] = tag
    assert memory.count() == len(ids)
    order, matrix = memory.vectors()
    assert list(order) == sorted(ids), "vectors() and iter() disagree"
    if ids:
        wanted = np.stack([vector(ids[id], state.records[ids[id]]) for id in order])
        assert np.allclose(matrix, wanted, atol=2e-3), "a vector is wrong"
    for id in sorted(ids)[:: max(1, len(ids) // 3)]:
        found = memory.search(vector(ids[id], state.records[ids[id]]), 1)
        assert found[0][0] == id, f"search for the vector of {ids[id]} found another"
        assert memory.get(id).record.text.startswith(ids[id] + " ")
    for tag in memory.names(KIND):
        held = memory.fetch(KIND, tag)
        assert held is not None
        state.named[tag] = int(held.split(b" ")[1])
        assert held == value(tag, state.named[tag]), f"the named value {tag} is wrong"
    state.ledger = [content.decode() for _, _, content in memory.entries(KIND)]
    state.charges = int(memory.ratchet or b"0")
    state.slots = len(memory.access.slots()) - 1
    return state


def place(root: Path) -> Path:
    """The folder of the store below ``root``; what is above it is made."""
    (root / "device").mkdir(exist_ok=True)
    (root / "home").mkdir(exist_ok=True)
    return root / "home" / "store"


class Driver:
    """Does steps on the store below ``root``."""

    def __init__(self, root: Path) -> None:
        self.folder = place(root)
        self.memory: EncryptedStore | None = None
        self.ids: dict[str, int] = {}
        self.state = State()

    def perform(self, task: Step) -> list[int]:
        """Do ``task``; the ids given to new records, in the order of its tags."""
        do, tags = task["do"], task["tags"]
        if do in ("create", "open"):
            self.open(create=do == "create")
            return []
        assert self.memory is not None
        new = [self.ids[tag] for tag in tags if tag in self.ids]
        if do == "look":
            assert observe(self.memory) == self.state, "the store shows something else than was acknowledged"
        elif do == "close":
            memory, self.memory = self.memory, None
            memory.close()
        elif do in ("add", "add_many"):
            new = self._add(tags) if do == "add_many" else [self.memory.add(record(tags[0], 1), vector(tags[0], 1))]
            self.ids.update(zip(tags, new, strict=True))
        else:
            self._change(self.memory, do, tags)
        self.state = self.state.after(task)
        return new

    def open(self, *, create: bool = False) -> None:
        """Open or create the store and learn what it holds."""
        opened = EncryptedStore.create(self.folder, KEY, dimension=DIMENSION) if create else self._opened()
        self.memory = opened
        self.ids = {stored.record.text.split(" ")[0]: stored.id for stored in opened.iter()}
        self.state = observe(opened)

    def _opened(self) -> EncryptedStore:
        return EncryptedStore.open(self.folder, KEY)

    def _add(self, tags: Sequence[str]) -> list[int]:
        assert self.memory is not None
        return self.memory.add_many([record(tag, 1) for tag in tags], np.stack([vector(tag, 1) for tag in tags]))

    def _change(self, memory: EncryptedStore, do: str, tags: Sequence[str]) -> None:
        ids = [self.ids[tag] for tag in tags if tag in self.ids]
        if do == "update":
            revision = self.state.records[tags[0]] + 1
            memory.update(ids[0], record(tags[0], revision), vector(tags[0], revision))
        elif do == "delete":
            memory.delete_many(ids)
        elif do == "forget":
            memory.forget(ids)
        elif do == "put":
            memory.put(KIND, tags[0], value(tags[0], self.state.named.get(tags[0], 0) + 1))
        elif do == "pair":
            with memory.transaction():
                for tag in tags:
                    memory.put(KIND, tag, value(tag, self.state.named.get(tag, 0) + 1))
        elif do == "discard":
            memory.discard(KIND, tags[0])
        else:
            self._keep(memory, do, tags)

    def _keep(self, memory: EncryptedStore, do: str, tags: Sequence[str]) -> None:
        if do == "rotate":
            memory.rotate()
        elif do == "append":
            memory.append(KIND, tags[0].encode())
        elif do == "charge":
            memory.charge(str(self.state.charges + 1).encode())
        elif do == "slot_add":
            memory.access.add(OTHER_KEY)
        elif do == "slot_remove":
            memory.access.remove(memory.access.slots()[-1].number)
        else:
            raise ValueError(f"There is no step {do}.")


class Log:
    """The acknowledgements: a line before each step and one after it."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, **line: object) -> None:
        """Append one line by one system call."""
        os.write(self._fd, json.dumps(line).encode() + b"\n")


@dataclass
class Progress:
    """What a log tells: the state that was acknowledged, the step that was under way, and ids that were given."""

    state: State
    under_way: Step | None
    ids: dict[str, int]

    @property
    def forgetting(self) -> bool:
        """Whether a forget was under way."""
        return self.under_way is not None and self.under_way["do"] in FORGETTING

    def allows(self, state: State) -> bool:
        """Whether ``state`` is what was acknowledged, with the step under way wholly or not at all."""
        return state == self.state or (self.under_way is not None and state == self.state.after(self.under_way))


def progress(log: bytes, state: State | None = None) -> Progress:
    """What the log's whole lines tell, starting from ``state``."""
    now = Progress(state or State(), None, {})
    for raw in log.split(b"\n")[:-1]:
        line = json.loads(raw)
        assert "error" not in line, line["error"]
        now.under_way = line.get("start")
        if "done" in line:
            now.state = now.state.after(line["done"])
            if line["done"]["do"] in ("add", "add_many"):
                now.ids.update(zip(line["done"]["tags"], line["ids"], strict=True))
    return now


def check(root: Path, now: Progress, extra: str | None = None) -> State:
    """Fail unless the store below ``root`` holds what ``now`` allows and is whole; what it holds in the end.

    With ``extra``, fail too unless the store (made, where it is missing) takes one more record of this tag.
    """
    driver = Driver(root)
    try:
        driver.open()
        assert now.allows(driver.state), f"holds {driver.state}, but was told {now}"
    except StoreMissingError:
        assert now.allows(State()), "the store is gone"
        if extra is None:
            return State()
        driver.open(create=True)
    memory, state = driver.memory, driver.state
    assert memory is not None
    with memory:
        for tag, id in now.ids.items():
            if tag in state.records and tag in now.state.records:
                assert driver.ids[tag] == id, f"{tag} has another id"
        memory.verify()
        if extra is not None:
            driver.perform(step("add", extra))
    if state.slots:
        EncryptedStore.open(driver.folder, OTHER_KEY).close()
    if extra is not None:
        again = Driver(root)
        again.open()
        assert again.state == driver.state, "the store did not go on"
        again.perform(step("close"))
    return driver.state


def run(root: Path, script: Iterable[Step]) -> None:
    """Do all of ``script`` and log it."""
    log, driver = Log(root / "ack"), Driver(root)
    for task in script:
        log.write(start=task)
        ids = driver.perform(task)
        log.write(done=task, ids=ids)
