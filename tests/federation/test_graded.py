"""Several accepted answers: right by any of them, and NDCG as a naive one gives it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.evaluation.graded import accuracy_any, graded, ndcg_at

# Distinct ranks, some of them 0 for "not ranked".
RANKS = st.lists(st.integers(1, 9), min_size=1, max_size=6, unique=True).flatmap(
    lambda ranks: st.tuples(*(st.sampled_from([rank, rank, 0]) for rank in ranks))
)
ROWS = st.lists(RANKS, min_size=1, max_size=6)


def naive_ndcg(ranks: tuple[int, ...], k: int) -> float:
    gains = {rank: 1 / (place + 1) for place, rank in enumerate(ranks) if rank}
    found = sum(gains.get(position, 0.0) / math.log2(position + 1) for position in range(1, k + 1))
    best = sorted((1 / (place + 1) for place in range(len(ranks))), reverse=True)[:k]
    return found / sum(gain / math.log2(position + 1) for position, gain in enumerate(best, start=1))


@settings(max_examples=80, deadline=None)
@given(rows=ROWS, k=st.integers(1, 8))
def test_ndcg_equals_the_naive_one(rows: list[tuple[int, ...]], k: int) -> None:
    found = ndcg_at(rows, k)
    assert found == pytest.approx(sum(naive_ndcg(row, k) for row in rows) / len(rows))
    assert 0 <= found <= 1 + 1e-12


@settings(max_examples=40, deadline=None)
@given(rows=ROWS)
def test_any_accepted_answer_counts_and_the_best_one_among_them(rows: list[tuple[int, ...]]) -> None:
    assert accuracy_any(rows) == sum(1 in row for row in rows) / len(rows)
    assert accuracy_any(rows) >= sum(row[0] == 1 for row in rows) / len(rows)


def test_the_best_order_is_worth_one_and_any_other_less() -> None:
    assert ndcg_at([(1, 2, 3)], 5) == pytest.approx(1)
    assert ndcg_at([(2, 1, 3)], 5) < 1
    assert ndcg_at([(1, 2, 6)], 5) < 1
    assert ndcg_at([(0, 0)], 5) == 0


def test_one_accepted_answer_everywhere_says_nothing_that_accuracy_does_not() -> None:
    assert graded([(1,), (3,)]) == {}
    assert set(graded([(1,), (3, 1)])) == {"accuracy_any", "ndcg_at_5"}


@pytest.mark.parametrize("rows", [[], [()], [(1,), ()]])
def test_rows_without_an_accepted_answer_are_refused(rows: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="accepted answer"):
        accuracy_any(rows)
