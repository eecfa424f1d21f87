"""Privacy loss as ρ, which adds up over all that a device ever gave, and as (ε, δ), which people read.

ρ bounds the Rényi divergence at each whole order α ≥ 2 by ρα: zero-concentrated differential privacy (Bun and Steinke
2016, Definition 1.1), asked for at whole orders alone, where that of Skellam noise is proven too. From there to (ε, δ)
by the least over these orders of Canonne, Kamath and Steinke 2020, Proposition 12 (Corollary 13 takes all α > 1).

A budget is kept in whole units of 10⁻⁹, so that sums are exact: rounded up where something is charged, and down where
it is allowed.

>>> round(epsilon_of(0.5), 3), rho_of(8.0)
(4.753, 1.228034592)
"""

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

DELTA = 1e-5
"""The δ at which ε is shown and set where nobody says another."""

MOST_RHO = 1e6
"""More than any limit that means something: ε is then about two million."""

_UNITS = 10**9


def epsilon_of(rho: float, delta: float = DELTA) -> float:
    """Return the least ε such that a total of ``rho`` is (ε, ``delta``)-DP by the conversion above; 0 for none.

    f(α) = ρα + ln(1 − 1/α) − ln(δα)/(α − 1) has the slope ρ + ln(δα)/(α − 1)², which changes its sign once.
    Raises ValueError.
    """
    _check_delta(delta)
    if not 0 <= rho < math.inf:
        raise ValueError(f"Expected rho={rho} to be at least 0 and finite.")
    if rho == 0:
        return 0.0
    # The slope is positive from where either of its bounds is.
    low, high = 2, max(2, math.ceil(min(1 / delta, 1 + math.sqrt(-math.log(delta) / rho))))
    while low < high:
        middle = (low + high) // 2
        if rho * (middle - 1.0) * (middle - 1.0) + math.log(delta * middle) < 0:
            low = middle + 1
        else:
            high = middle
    return max(0.0, min(_epsilon_at(order, rho, delta) for order in {max(2, low - 1), low}))


def _epsilon_at(order: int, rho: float, delta: float) -> float:
    return rho * order + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)


def rho_of(epsilon: float, delta: float = DELTA) -> float:
    """Return the most ρ, in whole units and at most `MOST_RHO`, that is within (``epsilon``, ``delta``).

    0 for ``epsilon`` 0. Raises ValueError.
    """
    _check_delta(delta)
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"Expected epsilon={epsilon} to be at least 0 and finite.")
    if epsilon == 0:  # At a given δ, ever so little ρ has ε = 0; who allows none means none.
        return 0.0
    low, high = 0, int(MOST_RHO) * _UNITS
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if epsilon_of(rho_of_units(middle), delta) <= epsilon else (low, middle - 1)
    return rho_of_units(low)


def charged_units(rho: float) -> int:
    """Return how many units ``rho`` is charged as: rounded up."""
    return int((Decimal(repr(float(rho))) * _UNITS).to_integral_value(ROUND_CEILING))


def allowed_units(rho: float) -> int:
    """Return how many units a limit of ``rho`` allows: rounded down."""
    return int((Decimal(repr(float(rho))) * _UNITS).to_integral_value(ROUND_FLOOR))


def rho_of_units(units: int) -> float:
    """Return ρ of a number of units; below 10¹⁵ of them the two above give the number back."""
    return units / _UNITS


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"Expected delta={delta} in (0, 1).")
