"""What a sum holds once the survivors are agreed on, against exact chances and against graphs that are drawn."""

from __future__ import annotations

from fractions import Fraction
from math import comb, log2

import numpy as np
import pytest

from federation.secagg import ParameterError, SurvivorError, parameters
from federation.secagg.agreed import _bits, _left_out, _ranges, honest_in_sum

SIZES = (10, 11, 13, 16, 24, 50, 100, 300, 1000)


@pytest.mark.parametrize("devices", SIZES)
def test_it_is_between_what_holds_before_and_all_honest_survivors(devices: int) -> None:
    found = parameters(devices, 0.3, 0.1)
    all_survivors = [*range(found.survivors, devices, max(1, devices // 50)), devices]
    kept = [honest_in_sum(found, survivors) for survivors in all_survivors]
    assert kept == sorted(kept)
    assert kept[0] >= found.smallest_sum
    for survivors, honest in zip(all_survivors, kept, strict=True):
        assert honest <= max(found.smallest_sum, survivors - found.colluding)
    # Where nobody is gone a sum lacks hardly any.
    assert devices - found.colluding - kept[-1] <= (2 if devices < 13 else 1 if devices <= 50 else 0)
    assert kept[-1] > 1.5 * found.smallest_sum


@pytest.mark.parametrize("devices", [300, 40])
def test_numbers_of_survivors_that_no_round_may_have_are_refused(devices: int) -> None:
    found = parameters(devices, 0.3, 0.1)
    for survivors in (found.survivors - 1, devices + 1):
        with pytest.raises(SurvivorError):
            honest_in_sum(found, survivors)


def chance(n: int, honest: int, k: int, gone: int, size: int) -> Fraction:
    """Of a set of ``size`` in which at most ``gone`` of the other honest devices have a neighbour, by a union."""
    none = Fraction(comb(n - 1 - size, k), comb(n - 1, k))
    others = honest - size
    few = sum(comb(others, x) * (1 - none) ** x * none ** (others - x) for x in range(min(gone, others) + 1))
    return comb(honest, size) * few


@pytest.mark.parametrize(("n", "k"), [(24, 16), (60, 28), (100, 38)])
def test_bits_are_those_of_the_exact_chance_and_never_more(n: int, k: int) -> None:
    honest = n - n // 10
    for gone in (0, 1, 3, n // 10):
        for size in (1, 2, 3, 7, honest // 3):
            exact = chance(n, honest, k, gone, size)
            told = _bits(n, honest, k, gone, size, size)
            if exact == 0:
                assert told > 1000
            else:
                wanted = log2(exact.denominator) - log2(exact.numerator)
                assert told <= max(0.0, wanted)
                # A ratio of terms and rounding to whole bits cost little.
                assert told >= wanted - 3


def test_bits_are_never_more_than_those_of_the_exact_chance_on_any_graph() -> None:
    rng = np.random.default_rng(1)
    for _ in range(1500):
        n = int(rng.integers(3, 40))
        honest, k, gone = (
            n - int(rng.integers(0, n // 4 + 1)),
            int(rng.integers(1, n)),
            int(rng.integers(0, n // 2 + 1)),
        )
        first = int(rng.integers(1, honest))
        last = int(rng.integers(first, honest))
        exact = max(chance(n, honest, k, gone, size) for size in range(first, last + 1))
        told = _bits(n, honest, k, gone, first, last)
        assert exact == 0 or told == 0 or exact <= Fraction(1, 2**told)


@pytest.mark.parametrize("largest", [0, 1, 5, 8, 9, 31, 300])
def test_every_size_is_counted_once(largest: int) -> None:
    counted = [size for first, last in _ranges(largest) for size in range(first, last + 1)]
    assert counted == [*range(1, largest + 1)]


@pytest.mark.parametrize(("n", "k", "gone", "largest"), [(20, 3, 0, 10), (16, 5, 4, 8), (20, 6, 2, 9), (20, 1, 0, 9)])
def test_chances_of_all_sizes_are_added_up(n: int, k: int, gone: int, largest: int) -> None:
    chances = [chance(n, n, k, gone, size) for size in range(1, largest + 1)]
    for bits in range(1, 40):
        left_out = _left_out(n, 0, k, gone, largest, bits)
        assert sum(chances[left_out:], Fraction(0)) <= Fraction(1, 2**bits)


@pytest.mark.parametrize("k", [11, 13, 15, 18])
def test_a_tail_near_its_mean_is_more_than_its_largest_term(k: int) -> None:
    for gone in range(10):
        assert min(1, chance(40, 40, k, gone, 1)) <= Fraction(1, 2 ** _bits(40, 40, k, gone, 1, 1))


@pytest.mark.parametrize("devices", [10, 11, *range(13, 60, 2), 100])
def test_sums_that_lack_more_than_is_said_are_as_rare_as_is_promised_whatever_a_server_does(devices: int) -> None:
    """The oracle: exact chances, one number of those gone at a time, as the proof in PROTOCOL.md adds them up."""
    found = parameters(devices, 0.3, 0.1)
    honest, allowed = devices - found.colluding, Fraction(1, 2**43)
    spent = Fraction(0)
    for gone in range(found.lost + 1):
        told, largest = honest_in_sum(found, devices - gone), honest - gone - found.smallest_sum
        lacking = [chance(devices, honest, found.neighbours, gone, size) for size in range(1, largest + 1)]
        left_out = honest - gone - told
        here = sum(lacking[left_out:], Fraction(0))
        assert here * (found.lost + 1) <= allowed  # Each number of those gone has its part.
        spent += here
        # Nor is much given away: 4 bits more than are asked for, for all that is rounded up, and it is too likely.
        if left_out:
            assert 16 * (found.lost + 1) * 2 * sum(lacking[left_out - 1 :], Fraction(0)) > allowed
    assert spent <= allowed


@pytest.mark.parametrize(("n", "k"), [(24, 16), (60, 28)])
def test_a_range_of_sizes_is_as_likely_as_its_likeliest_at_least(n: int, k: int) -> None:
    honest = n - 3
    for gone, first, last in ((0, 2, 5), (2, 1, 4), (3, 6, 9)):
        least = min(_bits(n, honest, k, gone, size, size) for size in range(first, last + 1))
        assert _bits(n, honest, k, gone, first, last) <= least


@pytest.mark.parametrize(("k", "gone"), [(2, 0), (2, 2), (3, 1), (4, 3)])
def test_graphs_that_are_drawn_leave_out_sets_no_more_often_than_is_said(k: int, gone: int) -> None:
    """All honest, few neighbours, so that it happens: single devices that at most ``gone`` others chose."""
    n, draws, rng = 14, 4000, np.random.default_rng(0)
    seen = 0
    for _ in range(draws):
        chosen = np.zeros((n, n), dtype=bool)
        for device in range(n):
            others = [at for at in range(n) if at != device]
            chosen[device, rng.choice(others, size=k, replace=False)] = True
        seen += bool((chosen.sum(axis=0) <= gone).any())
    exact = float(chance(n, n, k, gone, 1))
    assert seen / draws <= exact + 4 * (exact / draws) ** 0.5
    # Bonferroni: the union is at most half too much where it is small.
    assert exact > 0.5 or seen / draws >= exact * (1 - exact) - 4 * (exact / draws) ** 0.5


def test_sets_left_out_grow_with_those_gone_and_all_may_be_where_too_many_are() -> None:
    left = [_left_out(100, 10, 38, gone, 40, 48) for gone in range(0, 36, 5)]
    assert left == sorted(left)
    assert left[0] <= 1
    assert _left_out(100, 10, 1, 30, 40, 48) == 40


def test_every_machine_that_may_have_a_round_finds_a_number() -> None:
    for devices in range(10, 60):
        try:
            found = parameters(devices, 0.3, 0.1)
        except ParameterError:
            continue
        assert honest_in_sum(found, devices) >= found.smallest_sum
