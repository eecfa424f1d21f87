"""Rényi differential privacy of the Skellam and Gaussian mechanisms, sampled or not, and what follows from it.

Neighbours are two fleets of which one device's update is replaced by zeros ("zero-out"); its noise stays. All bounds
are at whole orders α ≥ 2, where that of the Skellam mechanism is proven.

Sources: Skellam, Agarwal, Kairouz and Liu 2021, for several dimensions; sampling, Mironov, Talwar and Zhang 2019: their
sum for whole orders holds for any pair of distributions, and its direction is the larger one wherever a reflection
swaps the two, as it does for Skellam (Theorem 5); conversion, Canonne, Kamath and Steinke 2020, Proposition 12; zCDP,
Bun and Steinke 2016. What a total of ρ is as (ε, δ) says `engine.owner.rho`, since devices keep their account in it.

>>> round(epsilon_of(10 * gaussian_rdp(2.0), 1e-5), 3), gaussian_rho(2.0)
(8.088, 0.125)
"""

import math

import numpy as np
import numpy.typing as npt

from federation.errors import PrivacyError

Curve = npt.NDArray[np.float64]
_DENSE = 256
ORDERS = np.unique(np.concatenate([np.arange(2, _DENSE + 1), np.geomspace(_DENSE, 2**20, 400).astype(np.int64)]))
SAMPLED_ORDERS = np.arange(2, _DENSE + 1)  # A sampled order needs all the orders below it.


def gaussian_rdp(noise_multiplier: float, orders: npt.NDArray[np.int64] = ORDERS) -> Curve:
    """Return ε(α) = α/(2z²) at each of ``orders`` (n,): the Gaussian mechanism (Mironov 2017, Corollary 3)."""
    curve: Curve = orders / (2 * noise_multiplier**2)
    return curve


def skellam_rdp(squared_l2: float, l1: float, variance: float, orders: npt.NDArray[np.int64] = ORDERS) -> Curve:
    """Return ε(α) at each of ``orders`` (n,) for integers of these sensitivities and noise of ``variance``.

    ε(α) = α Δ₂²/(2μ) + min(((2α − 1) Δ₂² + 6 Δ₁)/(4μ²), 3Δ₁/(2μ)). The bound of one coordinate has the same form, and
    divergences add up over coordinates.
    """
    extra = np.minimum(((2 * orders - 1) * squared_l2 + 6 * l1) / (4 * variance**2), 3 * l1 / (2 * variance))
    curve: Curve = orders * squared_l2 / (2 * variance) + extra
    return curve


def sampled_rdp(curve: Curve, q: float) -> Curve:
    """Return ε(α) at `SAMPLED_ORDERS` (n,) of a mechanism that each device enters with probability ``q``.

    ``curve`` (n,) is the mechanism's own at these orders. (α − 1) ε(α) is the logarithm of
    Σ_k C(α, k) (1 − q)^(α−k) q^k e^((k−1) ε(k)), whose terms at k = 0 and 1 have no ε.
    """
    if q == 1:
        return curve
    below = np.concatenate([[0.0, 0.0], curve * (SAMPLED_ORDERS - 1)])  # (k − 1) ε(k) for k = 0, 1, 2, …
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, SAMPLED_ORDERS[-1] + 1)))])
    sampled = np.empty(len(SAMPLED_ORDERS))
    for at, order in enumerate(SAMPLED_ORDERS):
        k = np.arange(order + 1)
        choose = factorials[order] - factorials[k] - factorials[order - k]
        terms = choose + k * math.log(q) + (order - k) * math.log1p(-q) + below[: order + 1]
        # Never below 0: rounding may leave a tiny negative logarithm of what is at least 1.
        sampled[at] = max(0.0, float(np.logaddexp.reduce(terms))) / (order - 1)
    return sampled


def epsilon_of(curve: Curve, delta: float, orders: npt.NDArray[np.int64] = ORDERS) -> float:
    """Return the least ε at ``delta`` that the ``curve`` (n,) at ``orders`` (n,) gives, at least 0.

    ε = ε(α) + ln(1 − 1/α) − ln(δ α)/(α − 1), the least over α. Raises `PrivacyError` unless 0 < delta < 1.
    """
    if not 0 < delta < 1:
        raise PrivacyError(f"Expected delta={delta} in (0, 1).")
    each = curve + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1)
    return max(0.0, float(each.min()))


def skellam_rho(squared_l2: float, l1: float, variance: float) -> float:
    """Return the least ρ with ε(α) ≤ ρα at every whole order α ≥ 2: one participation's part of a lifetime's budget.

    That is zCDP at whole orders, which is what the Skellam bound is proven for and what `engine.owner.rho` uses. It
    adds up over participations as zCDP does. ε(α)/α is largest at α = 2 or in the limit of large α.
    """
    at_two = (3 * squared_l2 + 6 * l1) / (8 * variance**2)
    in_the_limit = squared_l2 / (2 * variance**2)
    # The other member of the minimum bounds it at every order; over α it is largest at 2.
    return squared_l2 / (2 * variance) + min(max(at_two, in_the_limit), 3 * l1 / (4 * variance))


def gaussian_rho(noise_multiplier: float) -> float:
    """Return ρ = 1/(2z²) of the Gaussian mechanism (Bun and Steinke 2016, Proposition 1.6)."""
    return 1 / (2 * noise_multiplier**2)
