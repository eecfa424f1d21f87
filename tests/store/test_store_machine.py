"""The store as a whole against an oracle of dicts and numpy: any order of operations, on two connections."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from store import DeviceKey, EncryptedStore, FileSecret, Record, RecordMissingError, Where
from store.index.terms import terms_of

KEY = DeviceKey(bytes(32))
START = 1_000.0
WORDS = ("apple", "river", "stone", "cloud", "train", "violin")
SCOPES = ("default", "work")
K1, B = 0.9, 0.4  # The oracle's own: a change of the store's shows.


class UndoError(Exception):
    """Raised to undo a transaction."""


@contextmanager
def ending(memory: EncryptedStore, *, undone: bool) -> Iterator[None]:
    """A transaction that is undone by an error at its end, or not."""
    with suppress(UndoError), memory.transaction():
        yield
        if undone:
            raise UndoError


@dataclass(frozen=True)
class Row:
    version: int
    record: Record
    vector: np.ndarray


@dataclass
class Model:
    """What the store must hold: records by id, ids that a later record replaced, named values, what receipts say."""

    rows: dict[int, Row] = field(default_factory=dict)
    hidden: set[int] = field(default_factory=set)
    values: dict[tuple[str, str], bytes] = field(default_factory=dict)
    receipts: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)

    def copy(self) -> Model:
        return Model(dict(self.rows), set(self.hidden), dict(self.values), list(self.receipts))

    def current(self, where: Where, now: float) -> list[int]:
        def fits(record: Record) -> bool:
            after = where.after is None or record.time >= where.after
            before = where.before is None or record.time < where.before
            return after and before and where.scope in (None, record.scope)

        return [
            id
            for id, row in sorted(self.rows.items())
            if id not in self.hidden and (row.record.expires is None or row.record.expires > now) and fits(row.record)
        ]

    def reached(self, ids: list[int]) -> set[int]:
        """These ids, what was derived from them, and what any of them replaced."""
        found: set[int] = set()
        waiting = list(ids)
        while waiting:
            id = waiting.pop()
            if id in found or id not in self.rows:
                continue
            found.add(id)
            waiting += [other for other, row in self.rows.items() if id in row.record.derived_from]
            waiting += [self.rows[id].record.supersedes or 0]
        return found

    def forget(self, ids: list[int], what: str) -> None:
        gone = self.reached(ids)
        self.rows = {id: row for id, row in self.rows.items() if id not in gone}
        self.hidden -= gone
        if gone:
            self.receipts.append((what, tuple(sorted(gone))))

    def search(self, ids: list[int], query: np.ndarray, k: int) -> list[tuple[int, float]]:
        scores = [(id, float(self.rows[id].vector @ query)) for id in ids]
        return sorted(scores, key=lambda pair: (-pair[1], pair[0]))[:k]

    def bm25(self, text: str, ids: list[int]) -> dict[int, float]:
        """The naive way, over all records that are there, replaced and expired ones included."""
        documents = {id: terms_of(row.record.text) for id, row in self.rows.items()}
        mean = sum(sum(terms.values()) for terms in documents.values()) / max(1, len(documents))
        scores: dict[int, float] = {}
        for term, wanted in terms_of(text).items():
            having = sum(term in terms for terms in documents.values())
            idf = math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
            for id in ids:
                count = documents[id].get(term, 0)
                if count:
                    size = sum(documents[id].values())
                    weight = count * (K1 + 1) / (count + K1 * (1 - B + B * size / mean))
                    scores[id] = scores.get(id, 0.0) + wanted * idf * weight
        return scores


texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join)
triples = st.tuples(*[st.integers(-3, 3)] * 3)
which = st.integers(0, 1)
wheres = st.builds(
    Where,
    scope=st.none() | st.sampled_from((*SCOPES, "none")),
    after=st.none() | st.integers(0, 9).map(float),
    before=st.none() | st.integers(0, 9).map(float),
)
parts = st.tuples(
    texts,
    triples,
    st.sampled_from(SCOPES),
    st.integers(0, 9),
    st.none() | st.integers(1, 5),
    st.booleans(),
    st.booleans(),
)


class StoreAgainstOracle(RuleBasedStateMachine):
    """Two connections to one store and a model. ``template``, if given, is a folder with a store and its state."""

    root: Path
    template: tuple[Path, Model] | None = None
    counter = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        place = self.root / str(next(self.counter))
        self.folder, self.now = place / "home", START
        self.secret = FileSecret(place / "state" / "home.secret")
        if self.template is None:
            place.mkdir()
            self.model = Model()
            EncryptedStore.create(self.folder, KEY, dimension=3, secret=self.secret).close()
        else:
            shutil.copytree(self.template[0], place)
            self.model = self.template[1].copy()
        self.stores = [self.opened(), self.opened()]

    def opened(self) -> EncryptedStore:
        return EncryptedStore.open(self.folder, KEY, secret=self.secret, clock=lambda: self.now)

    def drawn(self, data: st.DataObject, least: int = 1, most: int = 3) -> list[int]:
        known = sorted(self.model.rows)[-12:] + sorted(self.model.rows)[:3]
        return data.draw(st.lists(st.sampled_from(known), min_size=least, max_size=most, unique=True))

    def built(self, data: st.DataObject, part: tuple[object, ...]) -> tuple[Record, np.ndarray]:
        text, triple, scope, time, expires, replaces, derives = part
        free = bool(self.model.rows)
        record = Record(
            text=str(text),
            time=float(time),  # type: ignore[arg-type]
            scope=str(scope),
            expires=None if expires is None else self.now + float(expires),  # type: ignore[arg-type]
            supersedes=self.drawn(data, most=1)[0] if replaces and free else None,
            derived_from=tuple(self.drawn(data)) if derives and free else (),
        )
        return record, np.array(triple, dtype=np.float32)

    def add(self, memory: EncryptedStore, rows: list[tuple[Record, np.ndarray]], model: Model) -> list[int]:
        matrix = np.array([vector for _, vector in rows], dtype=np.float32).reshape(-1, 3)
        ids = memory.add_many([record for record, _ in rows], matrix)
        assert not set(ids) & self.model.rows.keys()
        for id, (record, vector) in zip(ids, rows, strict=True):
            model.rows[id] = Row(1, record, vector)
            model.hidden |= {record.supersedes} if record.supersedes else set()
        return ids

    @rule(which=which, rows=st.lists(parts, max_size=4), fails=st.booleans(), data=st.data())
    def add_many(self, which: int, rows: list[tuple[object, ...]], fails: bool, data: st.DataObject) -> None:
        memory, model = self.stores[which], self.model.copy()
        built = [self.built(data, part) for part in rows]
        with ending(memory, undone=fails):
            self.add(memory, built, model)
            memory.search(np.ones(3, dtype=np.float32), 2, where=Where(scope="work"))
            memory.search_text("apple river", 2)
        self.model = self.model if fails else model

    @precondition(lambda self: self.model.rows)
    @rule(which=which, data=st.data(), part=parts, keeps=st.booleans())
    def update(self, which: int, data: st.DataObject, part: tuple[object, ...], keeps: bool) -> None:
        (id,) = self.drawn(data, most=1)
        row = self.model.rows[id]
        record, vector = self.built(data, part)
        record = replace(record, supersedes=row.record.supersedes)
        assert self.stores[which].update(id, record, None if keeps else vector) == row.version + 1
        self.model.rows[id] = Row(row.version + 1, record, row.vector if keeps else vector)

    @precondition(lambda self: self.model.rows)
    @rule(which=which, data=st.data())
    def forget(self, which: int, data: st.DataObject) -> None:
        ids = self.drawn(data)
        receipt = self.stores[which].forget(ids)
        self.model.forget(ids, "forget")
        assert receipt is not None
        assert (receipt.what, receipt.ids) == self.model.receipts[-1]
        for memory, id in itertools.product(self.stores, ids):
            with pytest.raises(RecordMissingError):
                memory.get(id)

    @rule(which=which, where=wheres)
    def erase(self, which: int, where: Where) -> None:
        every = replace(self.model.copy(), hidden=set())
        self.stores[which].erase(where)
        self.model.forget(every.current(where, -math.inf), "forget")

    @rule(which=which, seconds=st.integers(1, 3))
    def time_passes_and_expired_ones_are_forgotten_or_not(self, which: int, seconds: int) -> None:
        self.now += seconds
        if seconds == 1:
            self.stores[which].expire()
            over = [id for id, row in self.model.rows.items() if (row.record.expires or math.inf) <= self.now]
            self.model.forget(over, "expire")

    @rule(which=which, name=st.sampled_from("abc"), value=st.none() | st.binary(max_size=3))
    def named(self, which: int, name: str, value: bytes | None) -> None:
        if value is None:
            self.stores[which].discard("kind", name)
            self.model.values.pop(("kind", name), None)
        else:
            self.stores[which].put("kind", name, value)
            self.model.values["kind", name] = value

    @precondition(lambda self: self.model.rows)
    @rule(which=which, parts=st.tuples(parts, parts), inner=st.booleans(), outer=st.booleans(), data=st.data())
    def nested(
        self, which: int, parts: tuple[tuple[object, ...], ...], inner: bool, outer: bool, data: st.DataObject
    ) -> None:
        """Outer block: add, put, and an inner block that adds and forgets; either of them undone, or both."""
        memory, model, gone = self.stores[which], self.model.copy(), self.drawn(data)
        first, second = ([self.built(data, part)] for part in parts)
        query = np.array([1, 2, 3], dtype=np.float32)
        with ending(memory, undone=outer):
            self.add(memory, first, model)
            memory.put("kind", "a", b"outer")
            model.values["kind", "a"] = b"outer"
            deeper = model.copy()
            with ending(memory, undone=inner):
                self.add(memory, second, deeper)
                memory.forget(gone)
                deeper.forget(gone, "forget")
                ids = deeper.current(Where(), self.now)
                assert memory.search(query, 9) == deeper.search(ids, query, 9)
            model = model if inner else deeper
            ids = model.current(Where(scope="work"), self.now)
            assert memory.search(query, 9, where=Where(scope="work")) == model.search(ids, query, 9)
        self.model = self.model if outer else model

    @rule(which=which)
    def purge(self, which: int) -> None:
        self.stores[which].purge()
        assert self.stores[which].purge() is None

    @rule(which=which, stops=st.booleans())
    def rotate(self, which: int, stops: bool) -> None:
        def progress(done: int, total: int) -> None:
            if stops:
                raise UndoError

        with suppress(UndoError):
            self.stores[which].rotate(progress)
            assert not self.stores[which].rotating

    @rule(which=which)
    def reopen(self, which: int) -> None:
        self.stores[which].close()
        self.stores[which] = self.opened()

    @rule(which=which, query=triples, k=st.integers(1, 6), where=wheres)
    def search(self, which: int, query: tuple[int, ...], k: int, where: Where) -> None:
        vector = np.array(query, dtype=np.float32)
        ids = self.model.current(where, self.now)
        assert self.stores[which].search(vector, k, where=where) == self.model.search(ids, vector, k)
        hits = self.stores[which].search_hybrid(vector, "apple", k, where=where)
        assert {id for id, _ in hits} <= set(ids)
        assert len(hits) == min(k, len(ids))

    @rule(which=which, text=texts, k=st.integers(1, 6), where=wheres)
    def search_text(self, which: int, text: str, k: int, where: Where) -> None:
        scores = self.model.bm25(text, self.model.current(where, self.now))
        found = self.stores[which].search_text(text, k, where=where)
        assert [score for _, score in found] == pytest.approx(sorted(scores.values(), reverse=True)[:k])
        assert all(score == pytest.approx(scores[id]) for id, score in found)

    @rule(which=which, where=wheres)
    def read(self, which: int, where: Where) -> None:
        memory, ids = self.stores[which], self.model.current(where, self.now)
        found = memory.iter(scope=where.scope, after=where.after, before=where.before)
        assert [(s.id, s.version, s.record) for s in found] == [
            (id, self.model.rows[id].version, self.model.rows[id].record) for id in ids
        ]
        assert memory.count(where) == len(ids)
        numbers, matrix = memory.vectors(where)
        assert numbers == ids
        assert np.array_equal(matrix, np.array([self.model.rows[id].vector for id in ids]).reshape(-1, 3))

    @invariant()
    def both_connections_show_the_model(self) -> None:
        for memory in self.stores:
            assert {s.id: (s.version, s.record) for s in memory.iter(history=True)} == {
                id: (row.version, row.record) for id, row in self.model.rows.items()
            }
            assert memory.vectors()[0] == self.model.current(Where(), self.now)
            assert memory.count() == len(self.model.current(Where(), self.now))
            assert {("kind", n): memory.fetch("kind", n) for n in memory.names("kind")} == self.model.values

    def teardown(self) -> None:
        receipts = [(r.what, r.ids) for r in self.stores[0].receipts() if r.what in ("forget", "expire")]
        assert receipts == self.model.receipts
        for memory in self.stores:
            assert memory.verify() > 0
            memory.close()


def run(root: Path, examples: int, steps: int, template: tuple[Path, Model] | None = None) -> None:
    machine = type("Machine", (StoreAgainstOracle,), {"root": root, "template": template})
    how = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(machine, settings=how)


def preloaded(place: Path, count: int) -> tuple[Path, Model]:
    """A store of ``count`` records, most of them folded into segments, and its model."""
    model, rng = Model(), np.random.default_rng(0)
    matrix = rng.integers(-3, 4, (count, 3)).astype(np.float32)
    records = [
        Record(text=f"{WORDS[i % 6]} {WORDS[i % 5]}", time=float(i % 10), scope=SCOPES[i % 2]) for i in range(count)
    ]
    secret = FileSecret(place / "state" / "home.secret")
    with EncryptedStore.create(place / "home", KEY, dimension=3, secret=secret, clock=lambda: START) as memory:
        for id, record, vector in zip(memory.add_many(records, matrix), records, matrix, strict=True):
            model.rows[id] = Row(1, record, vector)
    return place, model


def test_any_sequence_of_operations_equals_the_oracle(tmp_path: Path) -> None:
    run(tmp_path, examples=12, steps=20)


def test_any_sequence_with_segments_equals_the_oracle(tmp_path: Path) -> None:
    run(tmp_path, examples=3, steps=12, template=preloaded(tmp_path / "template", 1_022))


@pytest.mark.slow
def test_many_long_sequences_equal_the_oracle(tmp_path: Path) -> None:
    run(tmp_path, examples=150, steps=60)


@pytest.mark.slow
def test_many_long_sequences_with_segments_equal_the_oracle(tmp_path: Path) -> None:
    run(tmp_path, examples=40, steps=40, template=preloaded(tmp_path / "template", 2_040))
