"""A fleet on disk: whole devices stay, broken ones are made again, and its figures agree with naive ones."""

from __future__ import annotations

import stat
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from federation.data.dataset import Row
from federation.errors import DataError
from federation.simulation.fleet import Member, label_ranks, local_scores, members, most_frequent_scores


def row(text: str, label: str) -> Row:
    return Row(user="u", order=0, text=text, label=label)


def test_fewer_than_two_devices_are_refused() -> None:
    for split in ([], [("a", [row("t", "l")], [])]):
        with pytest.raises(DataError, match="at least 2 users or devices"):
            members(split)


def test_devices_lie_apart_from_their_keys_and_hold_the_train_rows(town: Any) -> None:
    folder = town.fleet.folder
    assert sorted(path.name for path in (folder / "devices").iterdir()) == town.names
    for member in town.fleet.people:
        key = folder / "keys" / f"{member.name}.key"
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        with town.fleet.open(member.name) as device:
            assert [(m.text, m.label) for m in device.memories()] == [(r.text, r.label) for r in member.train]
            assert device.allowed_rounds == "open"


def test_test_rows_never_enter_a_device(town_of: Any, rows: Any) -> None:
    made = rows(users=2)
    split = [
        (u, [r for r in made if r.user == u][:8], [r for r in made if r.user == u][8:]) for u in ("user-0", "user-1")
    ]
    town = town_of(split)
    for member in town.fleet.people:
        with town.fleet.open(member.name) as device:
            assert not {m.text for m in device.memories()} & {r.text for r in member.test}


@pytest.mark.parametrize("broken", ["no key", "no store", "garbage", "half of its memories", "another key"])
def test_device_that_is_not_whole_is_made_again_and_the_others_stay(town: Any, broken: str) -> None:
    name, folder = "device-0002", town.fleet.folder
    store, key = folder / "devices" / name, folder / "keys" / f"{name}.key"
    if broken == "no key":
        key.unlink()
    elif broken == "no store":
        for file in store.iterdir():
            file.unlink()
    elif broken == "garbage":
        for file in store.iterdir():
            file.write_bytes(b"not a store")
    elif broken == "another key":
        key.unlink()
        key.write_bytes((folder / "keys" / "device-0001.key").read_bytes())
        key.chmod(0o600)
    else:
        with town.fleet.open(name) as device:
            device.forget([m.id for m in device.memories()[:5]])
    others = {path: path.stat().st_ino for path in (folder / "keys").iterdir() if path.stem != name}
    town.fleet.fill()
    assert {path: path.stat().st_ino for path in others} == others
    with town.fleet.open(name) as device:
        assert device.count() == len(town.fleet.people[1].train)


def test_measuring_gives_every_device_the_final_model(town: Any) -> None:
    model = town.run(rounds=2)
    with town.fleet.pool() as pool:
        measured = town.fleet.measure(model, pool)
    assert measured == []  # nobody has test rows
    for member in town.fleet.people:
        with town.fleet.open(member.name) as device:
            assert device.model.flat.tobytes() == model.flat.tobytes()
            assert device.model.round == 2
            assert not device.model.tensors  # the server's moments are of no use there
            device.previous_model()
            assert device.model.flat.tobytes() == town.fleet.start.flat.tobytes()


def truth_ranks(member: Member, names: list[str], scores: Any) -> tuple[int, ...]:
    return tuple(rank for (rank,) in label_ranks(names, scores, [(one.label,) for one in member.test]))


def test_most_frequent_ranks_count_the_users_own_train_rows() -> None:
    train = [row("a", "x"), row("b", "y"), row("c", "y"), row("d", "z"), row("e", "x"), row("f", "y")]
    test = [row("g", "y"), row("h", "x"), row("i", "z"), row("j", "new")]
    [member, _] = members([("u", train, test), ("v", [], [])])
    assert truth_ranks(member, *most_frequent_scores(member)) == (1, 2, 3, 0)
    assert Counter(one.label for one in train)["y"] == 3


def test_local_ranks_need_no_shared_model(toy: Any) -> None:
    train = [row(f"cab ride {n}", "taxi") for n in range(5)] + [row(f"cheese slice {n}", "pizza") for n in range(5)]
    test = [row("cab ride", "taxi"), row("cheese slice", "pizza"), row("cab ride", "unknown")]
    [member, _] = members([("u", train, test), ("v", [], [])])
    assert truth_ranks(member, *local_scores(toy, member)) == (1, 1, 0)


def test_fleet_of_the_same_rows_trains_to_the_same_bits_whatever_its_keys(
    tmp_path: Path, town_of: Any, split: Any
) -> None:
    one, two = town_of(split, name="one"), town_of(split, name="two")
    keys = [(t.fleet.folder / "keys" / "device-0001.key").read_bytes() for t in (one, two)]
    assert keys[0] != keys[1]
    assert one.run(rounds=2).flat.tobytes() == two.run(rounds=2).flat.tobytes()
