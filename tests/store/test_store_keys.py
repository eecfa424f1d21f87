"""Unlockers keep their secret, and a key file is refused unless only its owner can read it."""

from __future__ import annotations

import copy
import os
import pickle
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import (
    DeviceKey,
    EncryptedStore,
    KeychainKey,
    KeyFileError,
    Passphrase,
    Record,
    RecoveryKey,
    TamperedError,
    refuse_key_inside,
)
from store.keys.crypto import Lock, Place
from store.keys.keytree import Branch, KeyTree, no_nodes
from store.keys.root import Generation, Root
from store.keys.unlock import Argon2, kind_of, stretch

HUNTER = b"hunter2hunter2hunter2hunter2hunt"
BRANCH = Branch.seed(HUNTER)
GENERATION = Generation(number=1, rows=BRANCH, pages=BRANCH)
SECRETS = [
    Passphrase("hunter2hunter2"),
    DeviceKey(HUNTER),
    KeychainKey(HUNTER),
    RecoveryKey(HUNTER),
    Lock(HUNTER, "record"),
    BRANCH,
    KeyTree(no_nodes(), Place(bytes(16), "row tree 1", 0), BRANCH),
    GENERATION,
    Root(
        epoch=1,
        key=HUNTER,
        anchor_key=HUNTER,
        log_key=HUNTER,
        lookup_key=HUNTER,
        generations=(GENERATION,),
        slot_keys=((1, HUNTER),),
    ),
]


@pytest.mark.parametrize("secret", SECRETS)
def test_secret_prints_without_its_value(secret: object) -> None:
    for text in (repr(secret), str(secret), f"{secret}", f"{[secret]}"):
        assert "hunter2" not in text
        assert re.search(rf"{type(secret).__name__}\((epoch=1, )?\*\*\*\)", text)
    assert not hasattr(secret, "__dict__")


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_secret_refuses_pickling(secret: object, protocol: int) -> None:
    with pytest.raises(TypeError, match="secret"):
        pickle.dumps([secret], protocol)


@pytest.mark.parametrize("secret", SECRETS)
def test_secret_refuses_copying(secret: object) -> None:
    with pytest.raises(TypeError, match="secret"):
        copy.copy(secret)
    with pytest.raises(TypeError, match="secret"):
        copy.deepcopy(secret)


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33), "x" * 32, bytearray(32)])
def test_device_key_refuses_other_than_32_bytes(key: object) -> None:
    with pytest.raises(ValueError, match="32"):
        DeviceKey(key)  # type: ignore[arg-type]


def test_passphrase_refuses_empty_huge_and_invalid() -> None:
    for text in ("", "x" * 5000, "\ud800"):
        with pytest.raises(ValueError, match="passphrase"):
            Passphrase(text)
    with pytest.raises(TypeError):
        Passphrase(b"bytes")  # type: ignore[arg-type]


def test_each_unlock_has_its_kind_and_a_key_of_its_own() -> None:
    cost = Argon2(memory_kib=8 * 1024, passes=1)
    unlocks = [Passphrase("hunter2"), DeviceKey(HUNTER), KeychainKey(HUNTER), RecoveryKey(HUNTER)]
    assert [kind_of(unlock) for unlock in unlocks] == ["passphrase", "device-key", "keychain", "recovery-key"]
    assert len({stretch(unlock, bytes(16), cost) for unlock in unlocks}) == 2  # The bound kind keeps the rest apart.
    assert stretch(unlocks[1], bytes(16), cost) != stretch(unlocks[1], bytes(15) + b"\1", cost)
    for wrong in ("text", HUNTER, None):
        with pytest.raises(TypeError):
            kind_of(wrong)  # type: ignore[arg-type]


def test_passphrase_is_the_same_composed_and_decomposed() -> None:
    cost = Argon2(memory_kib=8 * 1024, passes=1)
    assert stretch(Passphrase("caf\u00e9"), bytes(16), cost) == stretch(Passphrase("cafe\u0301"), bytes(16), cost)


def test_argon2id_matches_published_library_value() -> None:
    # From argon2-cffi 25.1: hash_secret_raw(b"password", b"somesaltsomesalt", 3, 65536, 1, 32, Type.ID).
    expected = "7664ad4ba1a3c999fcdd0991ffc2270f78302d2383233db5e7befc85d1bb1819"
    assert stretch(Passphrase("password"), b"somesaltsomesalt", Argon2()).hex() == expected


@pytest.mark.parametrize(
    "cost",
    [
        {"memory_kib": 1 << 30},
        {"memory_kib": 1},
        {"passes": 0},
        {"passes": 10**6},
        {"lanes": 0},
        {"lanes": 255},
        {"memory_kib": -1},
    ],
)
def test_argon2_cost_out_of_bounds_is_refused_before_any_work(cost: dict[str, int]) -> None:
    with pytest.raises(TamperedError):
        Argon2(**cost)


def test_key_file_round_trip_with_mode_0600(tmp_path: Path) -> None:
    path = tmp_path / "device.key"
    key = DeviceKey.generate()
    key.write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert DeviceKey.from_file(path)._key == key._key
    path.chmod(0o400)
    assert DeviceKey.from_file(str(path))._key == key._key


def test_key_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "device.key"
    DeviceKey(bytes(32)).write(path)
    with pytest.raises(KeyFileError, match="not overwritten"):
        DeviceKey.generate().write(path)
    assert path.read_bytes() == bytes(32)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o700, 0o200])
def test_key_file_with_open_mode_is_refused_with_the_command_to_fix_it(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "device.key"
    DeviceKey.generate().write(path)
    path.chmod(mode)
    with pytest.raises(KeyFileError) as caught:
        DeviceKey.from_file(path)
    if mode != 0o200 or os.geteuid() == 0:  # Without read permission, a plain user fails at the opening already.
        assert f"chmod 600 {path}" in str(caught.value)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_key_file_of_wrong_size_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "device.key"
    path.write_bytes(bytes(size))
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match=f"{size} bytes"):
        DeviceKey.from_file(path)


def test_key_file_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot be read"):
        DeviceKey.from_file(tmp_path / "missing")
    with pytest.raises(KeyFileError):
        DeviceKey.from_file(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(KeyFileError, match="no regular file"):
        DeviceKey.from_file(tmp_path / "pipe")
    with pytest.raises(KeyFileError, match="cannot be written"):
        DeviceKey.generate().write(tmp_path / "no" / "folder" / "key")


def test_key_file_inside_the_store_is_refused_through_links_too(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "link").symlink_to(home)
    refuse_key_inside(tmp_path / "device.key", home)
    refuse_key_inside(tmp_path / "home.key", home)
    for inside in (home / "device.key", tmp_path / "link" / "device.key", home / "a" / ".." / "device.key"):
        with pytest.raises(KeyFileError, match="keep it elsewhere"):
            refuse_key_inside(inside, home)


# The key tree's memory of what it derived


PLACE = Place(bytes(16), "row tree 1", 0)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sets(st.integers(0, 3).map(lambda n: n * 70_000) | st.integers(0, 600), max_size=4), st.booleans()
        ),
        min_size=1,
        max_size=5,
    ),
    asked=st.lists(st.integers(0, 600), max_size=6),
)
def test_tree_that_remembers_answers_as_one_that_reads_anew(
    steps: list[tuple[set[int], bool]], asked: list[int]
) -> None:
    nodes = no_nodes()
    tree, gone = KeyTree(nodes, PLACE, BRANCH), set()
    for punctured, asks in steps:
        if asks:
            for number in asked:
                tree.has(number)
        tree.puncture(punctured)
        gone |= punctured
        anew = KeyTree(nodes, PLACE, tree.top)
        for number in [*asked, *gone, *(number + 1 for number in gone)]:
            assert tree.has(number) is anew.has(number) is (number not in gone)
            assert number in gone or tree.key(number) == anew.key(number)
        left = sorted({*asked} - gone)
        assert tree.keys(left) == [anew.key(number) for number in left]
        for number in gone:
            with pytest.raises(TamperedError):
                tree.keys([*left, number])


def test_punctured_tree_holds_no_secret_of_what_is_gone() -> None:
    tree = KeyTree(no_nodes(), PLACE, BRANCH)
    secret = tree.key(300)
    tree.key(5)
    tree.puncture([300])
    kept = [leaf if isinstance(leaf, bytes) else leaf.secret for leaf in tree._leaves.values()]
    above = [content for _, content in tree._upper.values()]
    assert kept
    assert len(above) == 3
    assert all(secret not in leaf for leaf in [*kept, *above])
    # Nor what it was derived from: the seed of its leaf.
    whole = KeyTree(no_nodes(), PLACE, BRANCH)
    assert whole.key(300) == secret
    seed = whole._leaves[1]
    assert isinstance(seed, Branch)
    assert all(seed.secret not in content for content in above)
    assert tree._leaves.keys() == {0, 1}
    tree.forget_cached()
    assert not tree._upper
    assert not tree._leaves


def test_leaf_that_is_punctured_whole_is_not_remembered() -> None:
    tree = KeyTree(no_nodes(), PLACE, BRANCH)
    asked = (5, 255, 256, 300, 511, 512, 700)
    assert all(map(tree.has, asked))
    tree.puncture(range(256, 512))
    assert [number for number in asked if tree.has(number)] == [5, 255, 512, 700]
    assert 1 not in tree._leaves


def test_keyring_keeps_what_no_puncture_reached_and_reads_the_rest_anew(tmp_path: Path) -> None:
    with EncryptedStore.create(tmp_path / "home", DeviceKey(HUNTER), dimension=2) as memory:
        first = memory.add(Record(text="one", time=0.0), np.ones(2, dtype=np.float32))
        keys = memory._core.keys
        before = keys._trees
        memory.forget(first)
        rows, pages = keys._trees[1]
        # Both were punctured, and what the puncture wrote is known without a reading.
        assert (rows.top, pages.top) == (keys.root.generations[0].rows, keys.root.generations[0].pages)
        assert rows is before[1][0]
        assert 0 in rows._leaves
        memory._core.reread()
        assert not rows._leaves
        with suppress(RuntimeError), memory.transaction():
            memory.forget(memory.add(Record(text="two", time=0.0), np.ones(2, dtype=np.float32)))
            raise RuntimeError
        assert keys._trees[1][0].top == keys.root.generations[0].rows
        assert memory.verify()
