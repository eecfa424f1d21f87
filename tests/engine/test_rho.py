"""ρ as ε and back, against dp-accounting, a plain search over all orders, and the Gaussian's exact ε."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from engine.owner.modes import CENTRAL, MODES, OPEN, PRIVATE, suffices
from engine.owner.rho import DELTA, MOST_RHO, allowed_units, charged_units, epsilon_of, rho_of, rho_of_units

RHOS = [1e-9, 1e-6, 1e-4, 0.02, 0.1, 0.5, 1.0, 3.0, 20.0, 500.0]


def plainly(rho: float, delta: float, orders: range) -> float:
    """The conversion as its source writes it, for each order."""
    each = [rho * a + (math.log(1 / delta) + (a - 1) * math.log(1 - 1 / a) - math.log(a)) / (a - 1) for a in orders]
    return max(0.0, min(each))


@pytest.mark.parametrize("delta", [1e-9, 1e-5, 0.1, 0.9])
@pytest.mark.parametrize("rho", [0.0003, 0.02, 0.1, 0.5, 1.0, 3.0, 20.0, 500.0])
def test_epsilon_is_the_least_over_all_whole_orders(rho: float, delta: float) -> None:
    assert epsilon_of(rho, delta) == pytest.approx(plainly(rho, delta, range(2, 2000)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("rho", [0.001, 0.02, 0.1, 0.5, 1.0, 3.0, 20.0])
def test_epsilon_is_that_of_the_accountant(rho: float) -> None:
    from dp_accounting import GaussianDpEvent
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(orders=list(range(2, 1000)))
    accountant.compose(GaussianDpEvent(math.sqrt(1 / (2 * rho))))
    assert epsilon_of(rho) == pytest.approx(accountant.get_epsilon(DELTA), rel=1e-9)


@pytest.mark.parametrize("rho", RHOS)
def test_epsilon_lies_above_the_exact_one_and_below_the_simple_bound(rho: float) -> None:
    epsilon, z = epsilon_of(rho), math.sqrt(1 / (2 * rho))
    # The Gaussian with this ρ (Balle and Wang 2018, Theorem 8); Bun and Steinke 2016, Lemma 3.5.
    exact = norm.cdf(0.5 / z - epsilon * z) - math.exp(epsilon + norm.logcdf(-0.5 / z - epsilon * z))
    assert exact <= DELTA
    # Above ρ = 2 the best order is below 2, where nothing is proven of Skellam noise.
    assert epsilon <= rho + 2 * math.sqrt(rho * math.log(1 / DELTA)) or rho > 2


@settings(deadline=None)
@given(st.floats(0, 1e5), st.floats(0, 1e5), st.floats(1e-12, 0.99))
def test_epsilon_grows_with_rho(one: float, more: float, delta: float) -> None:
    assert epsilon_of(one, delta) <= epsilon_of(one + more, delta) * (1 + 1e-12) + 1e-12


@pytest.mark.parametrize("delta", [1e-9, 1e-5, 0.1])
@pytest.mark.parametrize("epsilon", [0.01, 0.5, 1.0, 2.0, 8.0, 100.0])
def test_rho_is_the_most_that_keeps_the_limit(epsilon: float, delta: float) -> None:
    rho = rho_of(epsilon, delta)
    assert epsilon_of(rho, delta) <= epsilon < epsilon_of(rho_of_units(allowed_units(rho) + 1), delta)


def test_edges() -> None:
    assert (epsilon_of(0.0), rho_of(0.0), rho_of(0.0, 0.9)) == (0.0, 0.0, 0.0)
    assert rho_of(1e300) == MOST_RHO
    assert epsilon_of(5e-324) == 0.0
    assert 0 < epsilon_of(1e-300, 1e-300) < 1e-100
    assert math.isfinite(epsilon_of(1e300))


@pytest.mark.parametrize("bad", [-1.0, -1e-300, math.nan, math.inf])
def test_out_of_range_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="rho="):
        epsilon_of(bad)
    with pytest.raises(ValueError, match="epsilon="):
        rho_of(bad)
    for delta in (0.0, 1.0, bad):
        with pytest.raises(ValueError, match="delta="):
            epsilon_of(1.0, delta)
        with pytest.raises(ValueError, match="delta="):
            rho_of(1.0, delta)


@settings(deadline=None)
@given(st.integers(0, 10**15))
def test_units_come_back_as_they_were(units: int) -> None:
    rho = rho_of_units(units)
    assert (charged_units(rho), allowed_units(rho)) == (units, units)


@settings(deadline=None)
@given(st.floats(0, 1e5))
def test_charges_are_rounded_up_and_limits_down(rho: float) -> None:
    assert 0 <= charged_units(rho) - allowed_units(rho) <= 1
    assert allowed_units(rho) - 1e-6 <= rho * 1e9 * (1 + 1e-15) + 1e-6
    assert rho * 1e9 * (1 - 1e-15) <= charged_units(rho) + 1e-6
    assert charged_units(1e-300) == 1


def test_stronger_modes_are_allowed_with_a_mode_and_weaker_ones_are_not() -> None:
    assert MODES == (OPEN, CENTRAL, PRIVATE)
    taken = {allowed: [mode for mode in (*MODES, "secret", "") if suffices(allowed, mode)] for allowed in MODES}
    assert taken == {OPEN: [OPEN, CENTRAL, PRIVATE], CENTRAL: [CENTRAL, PRIVATE], PRIVATE: [PRIVATE]}
    assert not any(suffices(allowed, mode) for allowed in (None, "", "secret") for mode in (*MODES, "secret"))
