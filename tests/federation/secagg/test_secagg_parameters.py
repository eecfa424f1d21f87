"""Neighbours and threshold: derived exactly, minimal, against independent computations and against simulation."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.secagg import ParameterError, Terms, parameters
from federation.secagg.parameters import _group_bits
from federation.secagg.tails import at_least, below, binomial_limit, greatest_threshold, least_threshold


def chance(population: int, marked: int, draws: int, x: int) -> Fraction:
    """The hypergeometric distribution as Feller writes it."""
    return Fraction(comb(marked, x) * comb(population - marked, draws - x), comb(population, draws))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.data())
def test_tails_equal_the_sum_of_the_distribution(population: int, data: st.DataObject) -> None:
    marked, draws = data.draw(st.integers(0, population)), data.draw(st.integers(0, population))
    t = data.draw(st.integers(0, draws + 1))
    terms = [chance(population, marked, draws, x) if x <= draws else Fraction(0) for x in range(draws + 1)]
    assert Fraction(*at_least(population, marked, draws, t)) == sum(terms[t:])
    assert Fraction(*below(population, marked, draws, t)) == sum(terms[:t])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 1000), st.integers(0, 20), st.data())
def test_thresholds_are_the_tightest_that_hold(population: int, times: int, bits: int, data: st.DataObject) -> None:
    marked, draws = data.draw(st.integers(0, population)), data.draw(st.integers(1, population))
    limit = Fraction(1, times * 2**bits)
    upper = [Fraction(*at_least(population, marked, draws, t)) for t in range(draws + 2)]
    lower = [Fraction(*below(population, marked, draws, t)) for t in range(draws + 2)]
    least = least_threshold(population, marked, draws, times=times, bits=bits)
    assert least == next(t for t in range(draws + 2) if upper[t] <= limit)
    greatest = greatest_threshold(population, marked, draws, times=times, bits=bits)
    assert greatest == max(t for t in range(draws + 2) if lower[t] <= limit)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 50), st.integers(0, 12))
def test_binomial_limit_is_the_tightest_that_holds(trials: int, numerator: int, times: int, bits: int) -> None:
    p = Fraction(numerator, 10)
    terms = [comb(trials, x) * p**x * (1 - p) ** (trials - x) for x in range(trials + 1)]
    limit = next(m for m in range(trials + 1) if times * sum(terms[m + 1 :]) <= Fraction(1, 2**bits))
    assert binomial_limit(trials, numerator, 10, times=times, bits=bits) == limit


def logs(population: int, marked: int, draws: int, wanted: range) -> float:
    """log2 of a tail by gamma functions: another way to the same number."""

    def log_comb(n: int, k: int) -> float:
        return -math.inf if not 0 <= k <= n else math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    parts = [log_comb(marked, x) + log_comb(population - marked, draws - x) for x in wanted]
    top = max(parts, default=-math.inf)
    if top == -math.inf:
        return -math.inf
    return (top + math.log(sum(math.exp(p - top) for p in parts)) - log_comb(population, draws)) / math.log(2)


@pytest.mark.parametrize("n", [10, 30, 60, 100, 300, 1000, 3000])
def test_parameters_hold_both_promises_by_an_independent_computation(n: int) -> None:
    found = parameters(n, 0.3, 0.1)
    k, t = found.neighbours, found.threshold
    assert found.colluding == math.ceil(n / 10)
    assert found.early == math.ceil(n / 20)
    assert found.lost == found.early + math.ceil(0.3 * (n - found.early) - 1e-9)
    alive = n - 1 - found.lost
    assert math.log2(n) + logs(n - 1, alive, k, range(t)) <= -20
    assert math.log2(n) + logs(n - 1, found.colluding, k, range(t, k + 1)) <= -40
    assert found.failure_bits >= 20
    assert found.breach_bits >= 40
    assert 2 * found.quorum > n + found.colluding
    assert found.quorum <= found.survivors
    assert 2 * found.smallest_sum > n - found.lost - found.colluding


@pytest.mark.parametrize("n", [300, 1000])  # In small cohorts it is the bound on sums of a few devices that decides.
def test_one_neighbour_fewer_would_break_a_promise(n: int) -> None:
    found = parameters(n, 0.3, 0.1)
    k = found.neighbours - 1
    assert not any(
        math.log2(n) + logs(n - 1, n - 1 - found.lost, k, range(t)) <= -21
        and math.log2(n - found.colluding) + logs(n - 1, found.colluding, k, range(t, k + 1)) <= -41
        for t in range(1, k + 1)
    )


def test_neighbours_grow_with_the_logarithm_of_the_cohort() -> None:
    counts = [parameters(n, 0.3, 0.1).neighbours for n in (100, 300, 1000, 3000)]
    steps = [after - before for before, after in itertools.pairwise(counts)]
    assert all(step <= 35 for step in steps)
    assert counts[-1] <= 3 * counts[0]  # For thirty times the devices.


def test_more_dropouts_or_colluders_never_need_fewer_neighbours() -> None:
    base = parameters(400, 0.2, 0.05).neighbours
    assert base < parameters(400, 0.3, 0.05).neighbours
    assert base < parameters(400, 0.2, 0.1).neighbours


@pytest.mark.parametrize("n", [3, 5, 9, 12])
def test_cohorts_that_no_graph_protects_are_refused_with_the_next_that_works(n: int) -> None:
    with pytest.raises(ParameterError, match=r"the next that works is (10|13)\.$") as caught:
        parameters(n, 0.3, 0.1)
    parameters(int(str(caught.value).rstrip(".").split()[-1]), 0.3, 0.1)


def test_terms_that_no_cohort_bears_are_refused() -> None:
    with pytest.raises(ParameterError, match="ask for less"):
        parameters(100, 0.5, 0.4)


@pytest.mark.parametrize(
    ("n", "dropout", "colluding"),
    [(2, 0.3, 0.1), (10**6, 0.3, 0.1), (100, 1.0, 0.1), (100, -0.1, 0.1), (100, 0.30005, 0.1), (100, math.nan, 0.1)],
)
def test_arguments_out_of_range_are_refused(n: int, dropout: float, colluding: float) -> None:
    with pytest.raises(ParameterError):
        parameters(n, dropout, colluding)
    with pytest.raises(ParameterError):
        Terms(dimension=0)
    with pytest.raises(ParameterError):
        Terms(dimension=1, early=1000)


def test_failures_and_breaches_come_as_often_as_computed_in_simulated_graphs() -> None:
    """Weaker promises, so that both are seen: neighbours drawn, devices lost, colluders counted."""
    rng = np.random.default_rng(0)
    n, k, lost, bad, rounds = 60, 20, 20, 6, 3000
    t_fail, t_breach = 9, 5
    short, reached = np.zeros(rounds), np.zeros(rounds)
    for at in range(rounds):
        # The device itself is alive and honest; its neighbours are a uniform subset of the others.
        chosen = rng.choice(n - 1, size=k, replace=False)
        short[at] = (chosen >= lost).sum() < t_fail
        reached[at] = (chosen < bad).sum() >= t_breach
    for seen, (numerator, denominator) in (
        (short, below(n - 1, n - 1 - lost, k, t_fail)),
        (reached, at_least(n - 1, bad, k, t_breach)),
    ):
        want = numerator / denominator
        assert 0.001 < want < 0.5
        assert abs(seen.mean() - want) < 4 * math.sqrt(want * (1 - want) / rounds)


def test_bound_on_sums_of_few_devices_holds_in_simulated_graphs() -> None:
    """All groups and dropped sets of a small cohort, by brute force: none is summed apart more often than bounded."""
    rng = np.random.default_rng(1)
    n, bad, lost, k, t, rounds = 12, 1, 2, 4, 3, 200
    honest = n - bad
    seen: dict[int, int] = {}
    colluding = 1 << honest
    for _ in range(rounds):
        arcs = [0] * honest
        for device in range(honest):
            others = [at for at in range(n) if at != device]
            arcs[device] = sum(1 << int(at) for at in rng.choice(others, size=k, replace=False))
        for size in range(2, honest - lost):
            seen[size] = seen.get(size, 0) + any(
                _apart(group, arcs, colluding, lost, t) for group in itertools.combinations(range(honest), size)
            )
    informative = 0
    for size, count in seen.items():
        bound = 2.0 ** -_group_bits(n, bad, lost, k, t, size, size)
        informative += bound < 0.5
        if bound < 1:
            assert count / rounds <= bound + 4 * math.sqrt(bound / rounds)
    assert informative
    assert sum(seen.values())


def _apart(group: tuple[int, ...], arcs: list[int], colluding: int, lost: int, t: int) -> bool:
    """Whether a server can sum ``group`` without the others, by dropping at most ``lost`` devices outside it."""
    inside = colluding | sum(1 << device for device in group)
    outside = 0
    for device in group:
        if (arcs[device] & inside).bit_count() < t:
            return False
        outside |= arcs[device] & ~inside
    return outside.bit_count() <= lost


def test_derivation_is_the_same_from_thousandths_as_from_fractions() -> None:
    assert Terms(dimension=1).derive(200) == parameters(200, 0.3, 0.1, 0.05)
