"""A backup gives back what the user said, all or nothing, on the same device or on another."""

from __future__ import annotations

import itertools
import json
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.device.device import Device, Memory
from engine.errors import BackupError, EncoderMismatchError, EngineError
from engine.model.catalogue import Catalogue
from store import (
    ArchiveError,
    DeviceKey,
    RecoveryKey,
    StoredRecord,
    StoreFullError,
    TamperedError,
    UnknownFormatError,
    Where,
    WrongKeyError,
)
from store.outside.archive import write_archive, write_plain

RECOVERY = RecoveryKey(bytes(range(32)))
HEADER = {"kind": "tacit memories", "version": 1}
Way = tuple[Callable[[Device, Path], int], Callable[[Device, Path], list[int]]]


@pytest.fixture(params=["sealed", "plain"])
def way(request: pytest.FixtureRequest) -> Way:
    """How to export and how to import."""
    if request.param == "plain":
        return Device.export_plain, Device.import_plain
    return (lambda device, path: device.export(path, RECOVERY)), (lambda device, path: device.import_(path, RECOVERY))


@pytest.fixture
def other(tmp_path: Path, key: DeviceKey, catalogue: Catalogue, toy: Any) -> Iterator[Device]:
    """A second, empty device."""
    with Device.create(tmp_path / "tablet", key, catalogue=catalogue, encoder=toy) as opened:
        yield opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "backups" / "all"


@pytest.fixture(autouse=True)
def backups(path: Path) -> None:
    path.parent.mkdir()


def everything(device: Device) -> list[StoredRecord]:
    return list(device.store.iter(history=True))


def said(device: Device) -> list[tuple[Any, ...]]:
    """All that was said, in order, with links as places in this order."""
    stored = everything(device)
    place = {each.id: at for at, each in enumerate(stored)}
    return [
        (
            *(r.text, r.label, r.time, r.scope, r.purpose, r.source, r.expires),
            place.get(r.supersedes or 0),
            tuple(sorted(place[id] for id in r.derived_from if id in place)),
        )
        for r in (each.record for each in stored)
    ]


def fill(device: Device) -> list[int]:
    """Memories of every kind: replaced, derived, expired, of other purposes, in other scripts."""
    ids = device.remember_many(
        [
            Memory(text="two salads, please", label="pizza", time=1.5),
            Memory(text='"quoted"\n\ttwo lines 汉字 🐎 \\', label="own 🐎", time=-2.0, scope="work", source="mail"),
            Memory(text="for audit", time=1e300, purpose="audit"),
            Memory(text="over", time=0.0, expires=1.0),
            Memory(text="not over", time=0.0, expires=1e12),
        ]
    )
    ids.append(device.remember("three salads, please", label="pizza", time=3.0, supersedes=ids[0]))
    ids.append(device.remember("likes salad", time=4.0, derived_from=[ids[1], ids[5]]))
    return ids


# Round trips.


def test_a_new_device_gets_all_that_was_said_and_answers_alike(
    device: Device, other: Device, path: Path, way: Way
) -> None:
    export, take = way
    ids = fill(device)
    assert export(device, path) == len(ids)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    fresh = take(other, path)
    assert said(other) == said(device)
    assert [found.text for found in other.history(fresh[5])] == ["three salads, please", "two salads, please"]
    assert other.suggest("salads", k=5) == device.suggest("salads", k=5)
    assert other.search("salad, please", by="words") == device.search("salad, please", by="words")
    assert other.store.verify() > 0


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
TIMES = st.floats(allow_nan=False, allow_infinity=False)
TERMS = dict.fromkeys(["text", "scope", "purpose", "source"], WORDS)
MEMORY = st.builds(Memory, **TERMS, time=TIMES, label=st.none() | WORDS, expires=st.none() | TIMES)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(memories=st.lists(MEMORY, max_size=4))
def test_whatever_can_be_remembered_comes_back(device: Device, path: Path, way: Way, memories: list[Memory]) -> None:
    export, take = way
    path.unlink(missing_ok=True)
    device.erase(Where())
    device.remember_many(memories)
    before = said(device)
    export(device, path)
    device.erase(Where())
    assert len(take(device, path)) == len(memories)
    assert said(device) == before


def test_more_than_one_page_comes_back_in_order(device: Device, other: Device, path: Path, way: Way) -> None:
    export, take = way
    device.remember_many([Memory(text=f"number {number}", time=0.0) for number in range(300)])
    export(device, path)
    assert take(other, path) == list(range(1, 301))
    assert said(other) == said(device)


def test_an_empty_device_makes_an_archive_of_nothing(device: Device, other: Device, path: Path, way: Way) -> None:
    export, take = way
    assert export(device, path) == 0
    assert take(other, path) == []
    assert other.count() == 0


def test_what_is_there_stays_as_it_is_and_links_reach_the_newcomers_only(
    device: Device, other: Device, path: Path, way: Way
) -> None:
    export, take = way
    fill(device)
    export(device, path)
    own = other.remember_many([Memory(text=f"own {number}", label="taxi", time=9.0) for number in range(9)])
    before = everything(other)
    fresh = take(other, path)
    assert fresh == list(range(10, 17))
    assert everything(other)[:9] == before
    assert said(other)[9:] == [
        (*fields, None if old is None else old + 9, tuple(at + 9 for at in made)) for *fields, old, made in said(device)
    ]
    other.forget(fresh[1])
    assert [each.id for each in everything(other)] == [*own, *(fresh[at] for at in (0, 2, 3, 4, 5))]


def test_links_to_what_was_forgotten_are_dropped(device: Device, other: Device, path: Path, way: Way) -> None:
    export, take = way
    first = device.remember("old", time=0.0)
    device.remember("new", time=0.0, supersedes=first)
    device.forget(first)
    export(device, path)
    other.remember("has the id that was forgotten", time=0.0)
    (fresh,) = take(other, path)
    assert [found.text for found in other.history(fresh)] == ["new"]
    assert other.count() == 2


def test_a_link_to_a_later_memory_comes_back_and_forgetting_follows_it(
    device: Device, other: Device, path: Path, way: Way
) -> None:
    export, take = way
    first, second = device.remember_many([Memory(text="a", time=0.0), Memory(text="b", time=0.0)])
    record = device.store.get(first).record
    device.store.update(first, type(record)(text="a", time=0.0, derived_from=(second, first)))
    export(device, path)
    fresh = take(other, path)
    assert said(other) == said(device)
    receipt = other.forget(fresh[1])
    assert receipt is not None
    assert receipt.ids == tuple(fresh)


def test_consent_is_the_device_s_own(device: Device, other: Device, path: Path, way: Way) -> None:
    export, take = way
    fill(device)
    export(device, path)
    other.withdraw_purpose("personalization")
    new = other.suggest("two salads, please", k=4)
    take(other, path)
    assert other.withdrawn_purposes == ["personalization"]
    assert other.suggest("two salads, please", k=4) == new


def test_an_archive_from_before_a_forget_still_holds_the_memory(device: Device, path: Path, way: Way) -> None:
    export, take = way
    ids = fill(device)
    export(device, path)
    device.forget(ids)
    take(device, path)
    assert "for audit" in {found.text for found in device.memories()}


def test_a_sealed_archive_shows_no_text_and_a_plain_one_no_forgotten_one(device: Device, path: Path) -> None:
    ids = fill(device)
    device.export(path, RECOVERY)
    content = path.read_bytes()
    assert not any(word in content for word in (b"salad", b"audit", b"personalization", b"tacit memories"))
    device.forget(ids[2])
    plain = path.with_name("plain")
    device.export_plain(plain)
    lines = plain.read_text("utf-8").splitlines()
    assert json.loads(lines[0]) == HEADER
    assert [json.loads(line)["text"] for line in lines[1:]] == [each.record.text for each in everything(device)]
    assert "audit" not in plain.read_text("utf-8")


# Encoders.


def test_a_device_with_another_encoder_makes_vectors_of_its_own(
    device: Device, tmp_path: Path, path: Path, way: Way, key: DeviceKey, catalogue: Catalogue, toy_class: Any
) -> None:
    export, take = way
    fill(device)
    export(device, path)
    with Device.create(tmp_path / "small", key, catalogue=catalogue, encoder=toy_class(8, seed=1)) as small:
        take(small, path)
        assert said(small) == said(device)
        best = small.search("three salads, please", k=1, by="meaning")[0]
        assert best.text == "three salads, please"
        assert best.similarity == pytest.approx(1, abs=1e-5)


def test_import_after_another_process_changed_the_encoder_is_refused(
    device: Device, folder: Path, path: Path, way: Way, key: DeviceKey, toy_class: Any
) -> None:
    export, take = way
    fill(device)
    export(device, path)
    with Device.reencode(folder, key, encoder=toy_class(seed=1)) as again:
        before = everything(again)
        with pytest.raises(EncoderMismatchError):
            take(device, path)
        assert everything(again) == before


# What is refused changes nothing.


@pytest.fixture
def unchanged(other: Device) -> Iterator[Device]:
    """A device with a memory, which must be all that it has at the end."""
    other.remember("my own", time=0.0)
    before, version = everything(other), other.store.data_version()
    yield other
    assert everything(other) == before
    assert other.store.data_version() == version


def test_a_wrong_recovery_key_is_refused(device: Device, unchanged: Device, path: Path) -> None:
    fill(device)
    device.export(path, RECOVERY)
    with pytest.raises(WrongKeyError):
        unchanged.import_(path, RecoveryKey.generate())


@pytest.mark.parametrize(
    "harm",
    [lambda data, at=at: data[:at] for at in (0, 1, 100, 108, 5_000, 65_659, -1)]
    + [lambda data, at=at: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in (12, 60, 100, 108, 65_000)],
)
def test_a_cut_or_changed_archive_is_refused(
    device: Device, unchanged: Device, path: Path, harm: Callable[[bytes], bytes]
) -> None:
    fill(device)
    device.export(path, RECOVERY)
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(TamperedError):
        unchanged.import_(path, RECOVERY)


def test_the_other_kind_of_archive_and_a_missing_one_are_named(device: Device, unchanged: Device, path: Path) -> None:
    device.export(path, RECOVERY)
    device.export_plain(plain := path.with_name("plain"))
    with pytest.raises(ArchiveError, match="sealed archive"):
        unchanged.import_plain(path)
    with pytest.raises(UnknownFormatError):
        unchanged.import_(plain, RECOVERY)
    with pytest.raises(ArchiveError, match="no archive"):
        unchanged.import_(path.with_name("none"), RECOVERY)


def written(path: Path, way: Way, rows: Sequence[object], header: dict[str, object] | None = None) -> None:
    """An archive of ``rows`` in the form that this way reads."""
    if way[1] == Device.import_plain:
        write_plain(path, header or HEADER, rows)  # type: ignore[arg-type]
    else:
        write_archive(path, RECOVERY, header or HEADER, (json.dumps(row).encode() for row in rows))


GOOD = {"id": 7, "text": "fine", "time": 1.0}


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ({}, "lacks its id"),
        ({"id": 8, "text": "SECRET"}, "lacks its id"),
        ({"id": 8, "text": "SECRET", "time": None}, "lacks its id"),
        ({"id": True, "text": "SECRET", "time": 1}, "lacks its id"),
        ({"text": "SECRET", "time": 1}, "lacks its id"),
        ({"id": 8, "text": "SECRET", "time": 1, "colour": "SECRET"}, "unknown field"),
        ({"id": 8, "text": "", "time": 1}, "malformed"),
        ({"id": 8, "text": "SECRET", "time": "SECRET"}, "malformed"),
        ({"id": 8, "text": "SECRET", "time": 1, "expires": True}, "malformed"),
        ({"id": 8, "text": "SECRET", "time": 1, "scope": None}, "malformed"),
        ({"id": 8, "text": "SECRET", "time": 1, "supersedes": "SECRET"}, "malformed"),
        ({"id": 8, "text": "SECRET", "time": 1, "derived_from": 7}, "malformed"),
        ({"id": 8, "text": "SECRET", "time": 1, "derived_from": "SECRET"}, "malformed"),
        ({"id": 8, "text": "SECRET", "time": 1, "supersedes": 9}, "does not come before"),
        ({"id": 8, "text": "SECRET", "time": 1, "supersedes": 8}, "does not come before"),
    ],
)
def test_a_malformed_memory_is_named_and_none_is_kept(
    unchanged: Device, path: Path, way: Way, bad: dict[str, object], expected: str
) -> None:
    written(path, way, [GOOD, bad, {**GOOD, "id": 9}])
    with pytest.raises(BackupError, match=expected) as refused:
        way[1](unchanged, path)
    assert str(refused.value).startswith("Memory 2 of the archive ")
    assert "SECRET" not in str(refused.value)


def test_two_memories_of_one_id_are_refused(unchanged: Device, path: Path, way: Way) -> None:
    written(path, way, [GOOD, GOOD])
    with pytest.raises(BackupError, match="same id"):
        way[1](unchanged, path)


@pytest.mark.parametrize("item", [b"", b"[1]", b"{", b"\xff", b"[" * 100_000])
def test_an_item_that_is_no_json_object_is_refused(unchanged: Device, path: Path, item: bytes) -> None:
    write_archive(path, RECOVERY, HEADER, [json.dumps(GOOD).encode(), item])
    with pytest.raises(BackupError):
        unchanged.import_(path, RECOVERY)


@pytest.mark.parametrize("header", [{**HEADER, "version": 2}, {"kind": "tacit memories"}, {"kind": "x", "version": 1}])
def test_an_archive_of_something_else_is_refused(
    unchanged: Device, path: Path, way: Way, header: dict[str, object]
) -> None:
    written(path, way, [GOOD], header)
    with pytest.raises(BackupError, match="newer Tacit"):
        way[1](unchanged, path)
    assert issubclass(BackupError, EngineError)
    assert BackupError.exit_code == 25


def test_an_import_that_fails_on_the_way_keeps_nothing(
    device: Device, other: Device, path: Path, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    export, take = way
    fill(device)
    export(device, path)
    add, calls = other.store.add_many, itertools.count()

    def full(*args: Any) -> list[int]:
        if next(calls):
            raise StoreFullError("The disk is full.")
        return add(*args)

    monkeypatch.setattr(other.store, "add_many", full)
    with pytest.raises(StoreFullError):
        take(other, path)
    assert everything(other) == []


def test_an_export_never_replaces_a_file(device: Device, path: Path, way: Way) -> None:
    fill(device)
    path.write_bytes(b"mine")
    path.with_name("link").symlink_to("nowhere")
    for there in (path, path.with_name("link"), path.parent):
        with pytest.raises(ArchiveError):
            way[0](device, there)
    with pytest.raises(ArchiveError):
        way[0](device, path.with_name("no folder") / "x")
    assert path.read_bytes() == b"mine"
    assert sorted(each.name for each in path.parent.iterdir()) == ["all", "link"]
