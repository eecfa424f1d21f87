"""Tables for drawing integers from a symmetric distribution by inversion, exact to 2⁻¹⁰⁰.

A table holds the 128-bit cumulative probabilities of |X|; a uniform 128-bit number is looked up in it, and a sign is
drawn. The probabilities are computed in whole numbers of 320 bits and more, by recurrences without cancellation. What
is drawn differs from X in total variation by at most the mass beyond the table's end (2⁻¹¹⁹) and the rounding of its
thresholds (2⁻¹²⁷ an entry): together below 2⁻¹⁰⁰ for tables of up to 2²⁴ entries.

>>> from federation.privacy.stream import SecureStream
>>> table_of([6, 4, 1]).draw(5, SecureStream()).max() <= 2
np.True_
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from federation.errors import PrivacyError
from federation.privacy.stream import SecureStream, Words

Integers = npt.NDArray[np.int64]
DISTANCE = 2.0**-100  # Total variation between one drawn number and the distribution it stands for.
_WORD = 64
_TAIL_BITS = 120  # The mass beyond the last entry is below 2 to minus this.
_START_BITS = 220  # Where the recurrence of the Skellam distribution begins.
_PRECISION = 320  # Bits behind the point.


@dataclass(frozen=True, slots=True, kw_only=True)
class MagnitudeTable:
    """P(|X| ≤ k) for k = 0, 1, … in units of 2⁻¹²⁸, as the words ``high`` and ``low``, each uint64 (entries,)."""

    high: Words
    low: Words

    def draw(self, count: int, stream: SecureStream) -> Integers:
        """Return ``count`` independent draws of X, int64 (count,)."""
        uniform = stream.words(count)
        magnitudes = np.searchsorted(self.high, uniform, side="right")
        # Where the first word is that of a threshold, about one draw in 2⁶⁴ an entry, a second one decides.
        for at in np.flatnonzero(self.high[np.maximum(magnitudes - 1, 0)] == uniform):
            magnitudes[at] = self.look_up(int(uniform[at]), int(stream.words(1)[0]))
        return magnitudes * stream.signs(count)

    def look_up(self, high: int, low: int) -> int:
        """Return the magnitude at the uniform number ``high``·2⁶⁴ + ``low``: how many thresholds do not exceed it."""
        first, last = (int(np.searchsorted(self.high, np.uint64(high), side=side)) for side in ("left", "right"))
        return first + int(np.searchsorted(self.low[first:last], np.uint64(low), side="right"))


def table_of(weights: Sequence[int]) -> MagnitudeTable:
    """Return the table of X with P(X = ±k) in proportion to ``weights[k]``, whole numbers."""
    whole, passed, thresholds = 2 * sum(weights) - weights[0], -weights[0], []
    for weight in weights[:-1]:
        passed += 2 * weight
        thresholds.append(min((passed << 2 * _WORD) // whole, (1 << 2 * _WORD) - 1))
    words = np.frombuffer(b"".join(value.to_bytes(16, "big") for value in thresholds), dtype=">u8").reshape(-1, 2)
    return MagnitudeTable(high=words[:, 0].astype(np.uint64), low=words[:, 1].astype(np.uint64))


@lru_cache(maxsize=8)
def skellam_table(variance: float) -> MagnitudeTable:
    """Return the table of the symmetric Skellam distribution: the difference of two Poisson(variance/2).

    P(k) = e^−μ I_k(μ), with the modified Bessel function, μ the variance. Miller's backward recurrence
    I_{k−1} = I_{k+1} + (2k/μ) I_k is stable (Olver 1967), and its start far out cannot be seen in the entries.
    """
    _refuse_unusable(variance)
    numerator, denominator = variance.as_integer_ratio()
    factor = (2 * denominator << _PRECISION) // numerator
    last = _reach(lambda tau: skellam_tail(tau, variance), _START_BITS)
    weights, beyond, here = [0] * (last + 1), 0, 1 << _WORD
    for k in range(last, -1, -1):
        weights[k] = here
        beyond, here = here, beyond + (k * factor * here >> _PRECISION)
    return table_of(_with_tail(weights, _reach(lambda tau: skellam_tail(tau, variance), _TAIL_BITS)))


@lru_cache(maxsize=8)
def gaussian_table(variance: float) -> MagnitudeTable:
    """Return the table of the discrete Gaussian: P(k) in proportion to e^(−k²/(2σ²)), σ² the ``variance``.

    Source: Canonne, Kamath and Steinke 2020, Definition 1. Raises `PrivacyError` for a variance that is not positive.
    """
    _refuse_unusable(variance)
    # P(k+1) = P(k)·step(k), and step(k+1) = step(k)·e^(−1/σ²).
    step, shrink = _exp(-1 / (2 * Fraction(variance))), _exp(-1 / Fraction(variance))
    weights, here = [], 1 << _PRECISION
    for _ in range(_reach(lambda tau: math.log(2) - tau**2 / (2 * variance), _TAIL_BITS) + 1):
        weights.append(here)
        here, step = here * step >> _PRECISION, step * shrink >> _PRECISION
    return table_of(weights)


def skellam_tail(threshold: float, variance: float) -> float:
    """Return the natural logarithm of a bound on P(|X| ≥ threshold), X Skellam of this variance (Chernoff)."""
    x = threshold / variance
    return math.log(2) + variance * (math.hypot(1.0, x) - 1) - threshold * math.asinh(x)


def _reach(log_tail: Callable[[float], float], bits: int) -> int:
    """The least whole number that the tail beyond does not exceed 2 to minus ``bits`` at."""
    wanted, low, high = -bits * math.log(2), 0, 1
    while log_tail(high) > wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if log_tail(middle) > wanted else (low, middle)
    return high


def _with_tail(weights: list[int], end: int) -> list[int]:
    """The weights up to ``end``, whose own takes in all beyond."""
    return [*weights[:end], sum(weights[end:])]


def _exp(value: Fraction) -> int:
    """e to the ``value`` with `_PRECISION` bits behind the point."""
    context = Context(prec=130)
    power = context.exp(context.divide(Decimal(value.numerator), Decimal(value.denominator)))
    return int(context.multiply(power, Decimal(1 << _PRECISION)))


def _refuse_unusable(variance: float) -> None:
    if not 0 < variance < float("inf"):
        raise PrivacyError(f"Expected variance={variance} of the noise to be positive and finite.")
