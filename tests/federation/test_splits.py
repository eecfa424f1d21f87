"""The protocol, beside an oracle that spells it out again."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.data.dataset import Row
from federation.data.splits import has_users, public_labels, split_as_marked, split_by_dirichlet, split_by_user
from federation.errors import ConfigError, DataError


def people(sizes: dict[str, int], *, labels: int = 3) -> list[Row]:
    """Rows whose order in the file is not their ``order``."""
    rows = [
        Row(user=user, order=(7 * n + 3) % size, text=f"{user} says {n}", label=f"label {n % labels}")
        for user, size in sizes.items()
        for n in range(size)
    ]
    random.Random(0).shuffle(rows)
    return rows


def naive_protocol(rows: list[Row], seed: int) -> dict[str, tuple[list[Row], list[Row]]]:
    """The data's own words: sort by order, shuffle by Random(f"{seed}:{user}"), 70% where there are 20 or more."""
    split = {}
    for user in {row.user for row in rows}:
        mine = [row for row in rows if row.user == user]
        mine.sort(key=lambda row: row.order)
        random.Random(f"{seed}:{user}").shuffle(mine)
        train = math.floor(0.7 * len(mine)) if len(mine) >= 20 else len(mine)
        split[user] = (mine[:train], mine[train:])
    return split


@pytest.mark.parametrize("seed", range(5))
def test_split_by_user_is_the_protocol(seed: int) -> None:
    sizes = {"a": 1, "b": 19, "c": 20, "d": 21, "e": 43, "f": 100, "g": 2}
    rows = people({user: size for user, size in sizes.items() if math.gcd(7, size) == 1})
    split = split_by_user(rows, seed=seed)
    assert {user: (train, test) for user, train, test in split} == naive_protocol(rows, seed)
    assert [user for user, _, _ in split] == sorted(user for user, _, _ in split)


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 60), min_size=1, max_size=6),
    st.integers(0, 99),
)
def test_split_by_user_loses_and_repeats_no_row(sizes: dict[str, int], seed: int) -> None:
    rows = [Row(user=user, order=n, text=f"{user} {n}", label="x") for user, size in sizes.items() for n in range(size)]
    split = split_by_user(rows, seed=seed)
    got = [row for _, train, test in split for row in [*train, *test]]
    assert Counter(row.text for row in got) == Counter(row.text for row in rows)
    for user, train, test in split:
        assert {row.user for row in [*train, *test]} == {user}
        assert bool(test) == (sizes[user] >= 20)
    assert split == split_by_user(list(reversed(rows)), seed=seed)  # the file's order does not matter


def test_most_takes_the_users_with_most_rows_and_splits_them_the_same() -> None:
    rows = people({"a": 5, "b": 40, "c": 30, "d": 30, "e": 1})
    assert [user for user, _, _ in split_by_user(rows, seed=0, most=3)] == ["b", "c", "d"]
    whole = {one[0]: one for one in split_by_user(rows, seed=0)}
    assert all(whole[one[0]] == one for one in split_by_user(rows, seed=0, most=3))


def test_seeds_and_users_shuffle_differently() -> None:
    rows = people({"a": 30, "b": 30})
    first, second = split_by_user(rows, seed=0), split_by_user(rows, seed=1)
    assert [row.order for row in first[0][1]] != [row.order for row in second[0][1]]
    assert [row.order for row in first[0][1]] != [row.order for row in first[1][1]]


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3, 1.0, 5.0, 1e6])
def test_dirichlet_deals_without_replacement_to_devices_of_equal_size(alpha: float) -> None:
    rows = [Row(user="", order=n, text=f"row {n}", label=f"label {n % 7}") for n in range(403)]
    split = split_by_dirichlet(rows, devices=10, alpha=alpha, seed=0)
    assert len(split) == 10
    assert all((len(train), len(test)) == (32, 8) for _, train, test in split)
    dealt = [row.text for _, train, test in split for row in [*train, *test]]
    assert len(dealt) == len(set(dealt)) == 400
    assert set(dealt) <= {row.text for row in rows}
    assert len({user for user, _, _ in split}) == 10


def test_dirichlet_deals_all_rows_where_they_divide_evenly() -> None:
    # The last cards are dealt from labels that are left, whatever the shares say.
    rows = [Row(user="", order=n, text=f"row {n}", label="common" if n % 10 else "rare") for n in range(200)]
    split = split_by_dirichlet(rows, devices=20, alpha=0.01, seed=3)
    assert sorted(row.order for _, train, test in split for row in [*train, *test]) == list(range(200))


def test_dirichlet_is_a_function_of_rows_alpha_and_seed() -> None:
    rows = [Row(user="", order=n, text=f"row {n}", label=f"label {n % 4}") for n in range(120)]

    def deal(**changed: Any) -> Any:
        return split_by_dirichlet(rows, **({"devices": 6, "alpha": 0.3, "seed": 0} | changed))

    random.seed(1)
    np.random.seed(1)
    first = deal()
    random.seed(2)
    np.random.seed(2)
    assert deal() == first
    assert deal(seed=1) != first
    assert deal(alpha=0.31) != first


def test_smaller_alpha_gives_devices_fewer_labels() -> None:
    rows = [Row(user="", order=n, text=f"row {n}", label=f"label {n % 20}") for n in range(2000)]

    def mean_labels(alpha: float) -> float:
        split = split_by_dirichlet(rows, devices=40, alpha=alpha, seed=0)
        return float(np.mean([len({row.label for row in [*train, *test]}) for _, train, test in split]))

    assert mean_labels(0.05) < mean_labels(0.3) < mean_labels(1.0) < mean_labels(5.0) <= 20


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan, math.inf])
def test_alpha_out_of_range_is_refused(alpha: float) -> None:
    rows = [Row(user="", order=n, text=f"row {n}", label="x") for n in range(20)]
    with pytest.raises(ConfigError, match="alpha"):
        split_by_dirichlet(rows, devices=2, alpha=alpha, seed=0)


def test_more_devices_than_rows_can_fill_are_refused() -> None:
    rows = [Row(user="", order=n, text=f"row {n}", label="x") for n in range(20)]
    with pytest.raises(ConfigError, match="at most 10 devices for 20 rows, got 11"):
        split_by_dirichlet(rows, devices=11, alpha=1.0, seed=0)


def test_public_labels_are_those_that_two_users_train_on() -> None:
    def row(user: str, label: str) -> Row:
        return Row(user=user, order=0, text="t", label=label)

    split = [
        ("a", [row("a", "shared"), row("a", "own"), row("a", "own")], [row("a", "tested")]),
        ("b", [row("b", "shared"), row("b", "tested")], [row("b", "own")]),
        ("c", [row("c", "both")], []),
        ("d", [row("d", "both")], []),
    ]
    # A label that a second user has in test rows only is not known to be shared.
    assert public_labels(split) == ["both", "shared"]
    assert public_labels([]) == []


def test_rows_with_and_without_users_are_refused_together() -> None:
    named, nameless = people({"a": 3}), [Row(user="", order=0, text="t", label="l")]
    assert has_users(named)
    assert not has_users(nameless)
    with pytest.raises(DataError, match="1 of 4 rows name no user"):
        has_users([*named, *nameless])


def test_marked_split_follows_the_rows() -> None:
    rows = [
        Row(user=user, order=n, text=f"{user} {n}", label="l", split=("train", "valid", "test", "")[n % 4])
        for user in ("b", "a")
        for n in range(8)
    ]
    split = split_as_marked(rows)
    assert [user for user, _, _ in split] == ["b", "a"]
    for _, train, test in split:
        assert {row.split for row in test} == {"test"}
        assert {row.split for row in train} == {"train", "valid", ""}
    assert split_as_marked(rows, most=1) == split[:1]
