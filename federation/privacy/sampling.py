"""Who takes part in a round, by Poisson sampling, and the cohort sizes to expect.

The server invites all N devices; each draws for itself with q = K/N from its own secure source, so that nobody else
chooses who is drawn. N comes from the signed roster.

>>> cohort_bounds(1000, 100)
(58, 148)
>>> participation_limit(rounds=30, q=0.1)
7
"""

import math

from federation.errors import PrivacyError
from federation.privacy.stream import SecureStream

ROUND_FAILURE = 2.0**-20


def sampling_rate(population: int, cohort: int) -> float:
    """Return q = ``cohort``/``population``. Raises `PrivacyError` unless 1 ≤ cohort ≤ population."""
    if not 1 <= cohort <= population:
        raise PrivacyError(f"Expected cohort={cohort} to be from 1 to the population, {population}.")
    return cohort / population


def drawn(q: float, stream: SecureStream) -> bool:
    """Whether this device takes part: true with probability ``q``, rounded down to a multiple of 2⁻⁶⁴."""
    if not 0 < q <= 1:
        raise PrivacyError(f"Expected q={q} in (0, 1].")
    return int(stream.words(1)[0]) < int(q * 2.0**64)


def cohort_bounds(population: int, cohort: int, failure: float = ROUND_FAILURE) -> tuple[int, int]:
    """Return the floor and the ceiling of a cohort: a round is below or above them with at most ``failure`` each.

    What noise is counted on is reckoned over the sizes in between; what a device refuses is told by the cohort itself.
    """
    q = sampling_rate(population, cohort)
    floor = _largest_below(population, q, failure)
    return floor, population - _largest_below(population, 1 - q, failure)


def participation_limit(*, rounds: int, q: float, share: float = 0.01) -> int:
    """Return k: at most ``share`` of the devices draw themselves into more than k of the ``rounds``.

    These abstain from then on, so that k bounds what anyone spends against the server.
    """
    return rounds - _largest_below(rounds, 1 - q, share)


def binomial_cdf(most: int, trials: int, q: float) -> float:
    """Return P(X ≤ ``most``) for X binomial, its terms added up from ``most`` downwards."""
    if most < 0:
        return 0.0
    if most >= trials or q == 0:
        return 1.0
    if q == 1:
        return 0.0
    choose = math.lgamma(trials + 1) - math.lgamma(most + 1) - math.lgamma(trials - most + 1)
    logarithm = choose + most * math.log(q) + (trials - most) * math.log1p(-q)
    total, peak = 0.0, logarithm
    for k in range(most, -1, -1):
        total, peak = total + math.exp(logarithm), max(peak, logarithm)
        if k == 0 or (logarithm < peak - 60 and k < trials * q):
            break
        logarithm += math.log(k * (1 - q)) - math.log((trials - k + 1) * q)  # P(X = k − 1) over P(X = k).
    return min(1.0, total)


def _largest_below(trials: int, q: float, failure: float) -> int:
    """The largest k with P(X < k) ≤ ``failure``."""
    if not 0 < failure < 1:
        raise PrivacyError(f"Expected failure={failure} in (0, 1).")
    low, high = 0, trials
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if binomial_cdf(middle - 1, trials, q) <= failure else (low, middle - 1)
    return low
