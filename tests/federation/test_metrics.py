"""Figures over users: against oracles written for reading, and an edge-case table."""

import json
import statistics
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.evaluation import metrics
from federation.evaluation.metrics import (
    UserRanks,
    accuracy,
    accuracy_interval,
    device_results,
    gain_interval,
    hurt,
    hurt_significant,
    method_summary,
    mrr,
    pool,
    routing_result,
    worst_tenth,
)

NAMES = ("a", "b", "c", "d")
PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


def user(name: str, pairs: list[tuple[int, int]]) -> UserRanks:
    return UserRanks(user=name, baseline=tuple(b for b, _ in pairs), personal=tuple(p for _, p in pairs))


USERS = st.lists(st.builds(user, st.sampled_from(NAMES), PAIRS), min_size=1, max_size=8)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- oracles, written for reading


def naive_hits(users: list[UserRanks]) -> dict[str, list[tuple[bool, bool]]]:
    rows: dict[str, list[tuple[bool, bool]]] = {}
    for one in users:
        for b, p in zip(one.baseline, one.personal, strict=True):
            rows.setdefault(one.user, []).append((b == 1, p == 1))
    return rows


def naive_hurt(users: list[UserRanks]) -> float:
    rows = naive_hits(users)
    return sum(sum(p for _, p in r) < sum(b for b, _ in r) for r in rows.values()) / len(rows)


def naive_hurt_significant(users: list[UserRanks]) -> float:
    rows = naive_hits(users)
    count = 0
    for pairs in rows.values():
        d = [int(p) - int(b) for b, p in pairs]
        if len(d) < 2 or statistics.mean(d) >= 0:
            continue
        sd = statistics.stdev(d)
        if sd == 0 or statistics.mean(d) / (sd / len(d) ** 0.5) < -1.64:
            count += 1
    return count / len(rows)


def naive_gain_interval(users: list[UserRanks], seed: int, draws: int) -> tuple[float, float, float]:
    rows = list(naive_hits(users).values())

    def gain(sample: list[list[tuple[bool, bool]]]) -> float:
        d = [int(p) - int(b) for pairs in sample for b, p in pairs]
        return sum(d) / len(d)

    source = rng(seed)
    drawn = [gain([rows[source.integers(len(rows))] for _ in rows]) for _ in range(draws)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return gain(rows), float(low), float(high)


# --- the fast against the naive


@given(users=USERS)
def test_hurt_equals_oracle(users: list[UserRanks]) -> None:
    assert hurt(users) == naive_hurt(users)


@given(users=USERS)
def test_hurt_significant_equals_oracle_and_is_at_most_hurt(users: list[UserRanks]) -> None:
    assert hurt_significant(users) == naive_hurt_significant(users) <= hurt(users)


@settings(max_examples=25, deadline=None)
@given(users=USERS, seed=st.integers(0, 99))
def test_gain_interval_equals_oracle(users: list[UserRanks], seed: int) -> None:
    fast = gain_interval(users, rng=rng(seed), draws=60)
    assert fast == pytest.approx(naive_gain_interval(users, seed, 60))


@given(ranks=st.lists(st.integers(0, 9), min_size=1))
def test_mrr_between_accuracy_and_share_ranked(ranks: list[int]) -> None:
    assert accuracy(ranks) <= mrr(ranks) + 1e-12
    assert mrr(ranks) <= sum(rank > 0 for rank in ranks) / len(ranks) + 1e-12


@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_worst_tenth_between_least_and_mean(values: list[float]) -> None:
    assert min(values) <= worst_tenth(values) + 1e-12
    assert worst_tenth(values) <= statistics.fmean(values) + 1e-12


@given(users=USERS)
def test_pool_keeps_all_rows_in_order_and_is_idempotent(users: list[UserRanks]) -> None:
    pooled = pool(users)
    assert pool(pooled) == pooled
    assert [one.user for one in pooled] == list(dict.fromkeys(one.user for one in users))
    assert {one.user: list(zip(one.baseline, one.personal, strict=True)) for one in pooled} == {
        name: [pair for one in users if one.user == name for pair in zip(one.baseline, one.personal, strict=True)]
        for name in {one.user for one in users}
    }


@settings(max_examples=25, deadline=None)
@given(users=USERS)
def test_routing_result_figures_agree_with_each_other_and_are_json(users: list[UserRanks]) -> None:
    extra = {"local": {one.user: one.personal for one in pool(users)}}
    result = routing_result(users, rng=rng(), extra=extra, draws=50)
    methods = result["methods"]
    assert list(methods) == ["global", "personal", "local"]
    figures = {"accuracy", "accuracy_at_5", "mrr", "interval", "hurt", "hurt_significant", "worst_tenth"}
    assert set(methods["local"]) == set(methods["personal"]) == set(methods["global"]) == figures
    assert methods["global"]["hurt"] == methods["global"]["hurt_significant"] == 0
    for one in methods.values():
        assert one["accuracy"] <= one["accuracy_at_5"] <= 1
    assert methods["local"] == methods["personal"]
    difference = methods["personal"]["accuracy"] - methods["global"]["accuracy"]
    assert result["gain"]["accuracy"][0] == pytest.approx(difference)
    assert methods["local"]["interval"] == methods["personal"]["interval"]
    assert result["users"] == len(pool(users))
    assert result["rows"] == sum(len(one.baseline) for one in users)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


# --- named properties


def test_accuracy_not_ranked_is_wrong() -> None:
    assert accuracy([0, 1, 2, 1]) == 0.5
    assert mrr([0, 1, 2, 4]) == pytest.approx((1 + 0.5 + 0.25) / 4)


def test_worst_tenth_of_thirty_is_mean_of_three() -> None:
    assert worst_tenth([number / 100 for number in range(30)]) == pytest.approx(0.01)


def test_hurt_significant_needs_more_than_one_lost_row() -> None:
    lost_one_of_ten = user("a", [(1, 2), *[(1, 1)] * 9])
    lost_three_of_ten = user("b", [(1, 2)] * 3 + [(1, 1)] * 7)
    assert hurt([lost_one_of_ten, lost_three_of_ten]) == 1.0
    assert hurt_significant([lost_one_of_ten, lost_three_of_ten]) == 0.5


def test_interval_covers_gain_and_narrows_with_users() -> None:
    source = rng(3)
    users = [user(str(i), [(int(source.integers(1, 4)), int(source.integers(1, 3)))] * 5) for i in range(200)]
    mean, low, high = gain_interval(users, rng=rng())
    _, few_low, few_high = gain_interval(users[:20], rng=rng())
    assert low < mean < high
    assert high - low < few_high - few_low


def test_interval_same_for_same_generator_state() -> None:
    users = [user(name, [(1, 2), (2, 1), (3, 1)]) for name in NAMES] + [user("e", [(1, 1)] * 4)]
    assert gain_interval(users, rng=rng(5)) == gain_interval(users, rng=rng(5))


def test_interval_in_blocks_equals_interval_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hits = [[True, False], [True], [False, False, True]]
    whole = accuracy_interval(hits, rng=rng(), draws=500)
    monkeypatch.setattr(metrics, "_DRAWN_AT_ONCE", 7)
    assert accuracy_interval(hits, rng=rng(), draws=500) == whole


def test_routing_result_further_method_changes_no_other_figure() -> None:
    users = [user(name, [(1, 2), (2, 1), (3, 1)]) for name in NAMES]
    plain = routing_result(users, rng=rng())
    more = routing_result(users, rng=rng(), extra={"local": dict.fromkeys(NAMES, (1, 0, 2))})
    del more["methods"]["local"]
    assert more == plain


def test_routing_result_over_seeds_counts_a_user_once() -> None:
    one = user("a", [(2, 1), (1, 1)])
    result = routing_result([one, one, one], rng=rng(), extra={"local": {"a": (1, 1) * 3}})
    assert (result["users"], result["rows"]) == (1, 6)


def test_device_results_one_row_a_user() -> None:
    rows = device_results([user("a", [(2, 1), (1, 1)]), user("b", [(1, 0)])], memories={"a": 7})
    assert rows == [
        {"device": "a", "memories": 7, "rows": 2, "global": 0.5, "personal": 1.0, "gain": 0.5},
        {"device": "b", "memories": 0, "rows": 1, "global": 1.0, "personal": 0.0, "gain": -1.0},
    ]


# --- edge cases

ONE_ROW = [user("a", [(2, 1)])]
ONE_ROW_LOST = [user("a", [(1, 2)])]
ALL_EQUAL = [user(name, [(1, 1), (2, 2)]) for name in NAMES]
ALL_LOST = [user("a", [(1, 2), (1, 0)])]


@pytest.mark.parametrize(
    ("users", "is_hurt", "is_significant", "gain"),
    [
        pytest.param(ONE_ROW, 0.0, 0.0, (1.0, 1.0, 1.0), id="one-row"),
        pytest.param(ONE_ROW_LOST, 1.0, 0.0, (-1.0, -1.0, -1.0), id="one-row-lost"),
        pytest.param(ALL_EQUAL, 0.0, 0.0, (0.0, 0.0, 0.0), id="all-equal"),
        pytest.param(ALL_LOST, 1.0, 1.0, (-1.0, -1.0, -1.0), id="all-lost-sd-0"),
    ],
)
def test_edge_case_table(
    users: list[UserRanks], is_hurt: float, is_significant: float, gain: tuple[float, float, float]
) -> None:
    assert hurt(users) == is_hurt
    assert hurt_significant(users) == is_significant
    assert gain_interval(users, rng=rng()) == gain


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda: hurt([]), id="hurt"),
        pytest.param(lambda: hurt_significant([]), id="hurt_significant"),
        pytest.param(lambda: gain_interval([], rng=rng()), id="gain_interval"),
        pytest.param(lambda: accuracy_interval([], rng=rng()), id="accuracy_interval"),
        pytest.param(lambda: method_summary([], rng=rng()), id="method_summary"),
        pytest.param(lambda: routing_result([], rng=rng()), id="routing_result"),
        pytest.param(lambda: device_results([], memories={}), id="device_results"),
        pytest.param(lambda: worst_tenth([]), id="worst_tenth"),
    ],
)
def test_no_users_is_a_clear_error(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="at least one user with test rows"):
        call()


@pytest.mark.parametrize("call", [accuracy, mrr])
def test_no_ranks_is_a_clear_error(call: Callable[[list[int]], float]) -> None:
    with pytest.raises(ValueError, match="at least one rank"):
        call([])


@pytest.mark.parametrize(
    ("baseline", "personal", "text"),
    [
        ((1, 2), (1,), "got 2 and 1"),
        ((), (), "at least one test row for user 'a'"),
        ((1,), (-1,), "to be 0"),
    ],
)
def test_user_ranks_malformed_is_refused(baseline: tuple[int, ...], personal: tuple[int, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        UserRanks(user="a", baseline=baseline, personal=personal)


def test_further_method_of_other_rows_or_taken_name_is_refused() -> None:
    with pytest.raises(ValueError, match="user 'a' has 1, the method 2"):
        routing_result(ONE_ROW, rng=rng(), extra={"local": {"a": (1, 1)}})
    with pytest.raises(ValueError, match="user 'b' has 0, the method 1"):
        routing_result(ONE_ROW, rng=rng(), extra={"local": {"a": (1,), "b": (1,)}})
    with pytest.raises(ValueError, match="'personal'"):
        routing_result(ONE_ROW, rng=rng(), extra={"personal": {"a": (1,)}})


def test_accuracy_interval_user_without_rows_or_no_draws_is_refused() -> None:
    with pytest.raises(ValueError, match="for each user"):
        accuracy_interval([[True], []], rng=rng())
    with pytest.raises(ValueError, match="draws=0"):
        accuracy_interval([[True]], rng=rng(), draws=0)
