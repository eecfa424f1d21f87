"""Tails of the hypergeometric and binomial distributions, exact, as fractions of whole numbers.

Whole numbers give the same answer on every machine, which the devices of a round need: each derives neighbours and
threshold for itself. Formulas: Feller 1968, "An Introduction to Probability Theory", II.6 and VI.2.

>>> at_least(10, 3, 4, 3)  # Four draws from ten of which three are marked: all three among them.
(7, 210)
"""

from __future__ import annotations

from collections.abc import Iterator
from math import comb

FINE = 16  # Logarithms count in sixteenths of a bit.


def hypergeometric_counts(population: int, marked: int, draws: int, *, downward: bool) -> Iterator[tuple[int, int]]:
    """Each possible number x of marked ones among ``draws``, and the number of draws that have x, in order of x."""
    low, high = max(0, draws - (population - marked)), min(marked, draws)
    others = population - marked
    x = high if downward else low
    count = comb(marked, x) * comb(others, draws - x)
    while low <= x <= high:
        yield x, count
        if downward:
            count = count * x * (others - draws + x) // ((marked - x + 1) * (draws - x + 1))
            x -= 1
        else:
            count = count * (marked - x) * (draws - x) // ((x + 1) * (others - draws + x + 1))
            x += 1


def at_least(population: int, marked: int, draws: int, least: int) -> tuple[int, int]:
    """P(X ≥ ``least``) as (numerator, denominator) for X marked ones among ``draws`` without putting back."""
    total = 0
    for x, count in hypergeometric_counts(population, marked, draws, downward=True):
        if x < least:
            break
        total += count
    return total, comb(population, draws)


def below(population: int, marked: int, draws: int, bound: int) -> tuple[int, int]:
    """P(X < ``bound``) as (numerator, denominator), X as in :func:`at_least`."""
    total = 0
    for x, count in hypergeometric_counts(population, marked, draws, downward=False):
        if x >= bound:
            break
        total += count
    return total, comb(population, draws)


def least_threshold(population: int, marked: int, draws: int, *, times: int, bits: int) -> int:
    """The smallest t with ``times`` · P(X ≥ t) ≤ 2^-``bits``."""
    whole, total = comb(population, draws), 0
    for x, count in hypergeometric_counts(population, marked, draws, downward=True):
        total += count
        if times * total << bits > whole:
            return x + 1
    return 0


def greatest_threshold(population: int, marked: int, draws: int, *, times: int, bits: int) -> int:
    """The largest t with ``times`` · P(X < t) ≤ 2^-``bits``."""
    whole, total = comb(population, draws), 0
    for x, count in hypergeometric_counts(population, marked, draws, downward=False):
        total += count
        if times * total << bits > whole:
            return x
    return draws + 1


def binomial_limit(trials: int, numerator: int, denominator: int, *, times: int, bits: int) -> int:
    """The smallest m with ``times`` · P(X > m) ≤ 2^-``bits``, X binomial with chance numerator / denominator < 1."""
    rest = denominator - numerator
    whole = denominator**trials
    above = whole  # What is left of `whole` above x.
    count = rest**trials
    for x in range(trials):
        above -= count
        if times * above << bits <= whole:
            return x
        count = count * (trials - x) * numerator // ((x + 1) * rest)
    return trials


def log2_up(value: int, fine: int = FINE) -> int:
    """An upper bound of ``fine`` · log2(``value``), from whole numbers only."""
    return int(value**fine).bit_length() if value else -(1 << 20)


def log2_down(value: int, fine: int = FINE) -> int:
    """A lower bound of ``fine`` · log2(``value``) for a positive ``value``, from whole numbers only."""
    return int(value**fine).bit_length() - 1
