"""What noise guarantees, against closed forms, exact divergences of small cases, and dp-accounting's accountants."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import ive
from scipy.stats import norm

from engine.owner.modes import CENTRAL
from engine.owner.rho import epsilon_of as rho_epsilon
from federation.errors import PrivacyError
from federation.privacy.accounting import (
    PrivacyPlan,
    amplified_epsilon,
    guarantee,
    participation_rho,
    unamplified_epsilon,
)
from federation.privacy.noise import DISCRETE_GAUSSIAN, NOISES, SKELLAM, SMOOTHING_VARIANCE
from federation.privacy.rdp import (
    ORDERS,
    SAMPLED_ORDERS,
    epsilon_of,
    gaussian_rdp,
    gaussian_rho,
    sampled_rdp,
    skellam_rdp,
    skellam_rho,
)

# Noise multipliers of the Gaussian by PLD at δ = 1e-5, measured before this code was written.
SERVER_TABLE = {(8, 1): 0.60, (8, 4): 1.20, (8, 10): 1.90, (4, 1): 1.08, (4, 4): 2.16, (4, 10): 3.42,
                (2, 1): 1.99, (2, 4): 3.99, (2, 10): 6.30}  # fmt: skip
RELEASED_TABLE = {8: 0.936, 2: 2.25, 1: 3.94}


def plan_of(**changed: object) -> PrivacyPlan:
    given = {"devices": 1000, "cohort": 100, "rounds": 100, "participations": 100, "delta": 1e-5, "dimension": 10_000}
    return PrivacyPlan(**(given | changed))  # type: ignore[arg-type]


def gaussian_delta(epsilon: float, z: float) -> float:
    """δ of the Gaussian mechanism at sensitivity 1 (Balle and Wang 2018, Theorem 8)."""
    return float(norm.cdf(0.5 / z - epsilon * z) - math.exp(epsilon) * norm.cdf(-0.5 / z - epsilon * z))


@pytest.mark.parametrize(("epsilon", "count"), list(SERVER_TABLE))
def test_epsilon_against_the_server_is_that_of_the_table(epsilon: int, count: int) -> None:
    z = SERVER_TABLE[epsilon, count]
    plan = plan_of(participations=count)
    # The table has two places: ε at half a unit more and less lies around the wanted one.
    assert unamplified_epsilon(plan, z + 0.006) < epsilon < unamplified_epsilon(plan, z - 0.006)


@pytest.mark.parametrize("epsilon", list(RELEASED_TABLE))
def test_epsilon_of_the_released_model_is_that_of_the_table(epsilon: int) -> None:
    z = RELEASED_TABLE[epsilon]
    assert amplified_epsilon(plan_of(), z) == pytest.approx(epsilon, rel=0.005)


@pytest.mark.parametrize("z", [0.4, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("count", [1, 9])
def test_gaussian_epsilon_is_the_root_of_the_analytic_delta(z: float, count: int) -> None:
    effective = z / math.sqrt(count)
    exact = brentq(lambda epsilon: gaussian_delta(epsilon, effective) - 1e-5, 1e-9, 500)
    assert unamplified_epsilon(plan_of(participations=count), z) == pytest.approx(exact, rel=1e-5)


def test_closed_form_is_that_of_the_privacy_loss_distribution() -> None:
    from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant()
    accountant.compose(SelfComposedDpEvent(GaussianDpEvent(1.9), 10))
    assert unamplified_epsilon(plan_of(participations=10), 1.9) == pytest.approx(accountant.get_epsilon(1e-5), abs=2e-3)


def discrete_gaussian(variance: float, reach: int) -> np.ndarray:
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * variance))
    return weights / weights.sum()


def skellam(variance: float, reach: int) -> np.ndarray:
    return np.asarray(ive(np.abs(np.arange(-reach, reach + 1)), variance))


def hockey_stick(p: np.ndarray, q: np.ndarray, epsilon: float) -> float:
    return float(np.maximum(p - math.exp(epsilon) * q, 0).sum())


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("shift", [(1, 0), (3, 0), (8, 0), (5, 5), (1, 7)])
def test_gaussian_accounting_holds_for_the_discrete_gaussian(shift: tuple[int, int], epsilon: float) -> None:
    # Exact δ of two coordinates, each of variance 64, against the Gaussian of variance 60.
    one = discrete_gaussian(64.0, 120)
    q = np.outer(one, one)
    p = np.outer(np.roll(one, shift[0]), np.roll(one, shift[1]))
    sensitivity = math.hypot(*shift)
    allowed = gaussian_delta(epsilon, math.sqrt(64.0 - SMOOTHING_VARIANCE) / sensitivity)
    assert hockey_stick(p, q, epsilon) <= allowed + 1e-15
    # And nearly all of it is used: the bound is no looser than a tenth.
    assert hockey_stick(p, q, epsilon) >= 0.5 * allowed or allowed < 1e-6


def renyi(p: np.ndarray, q: np.ndarray, order: float) -> float:
    """The Rényi divergence, where both have mass that floats hold."""
    keep = (p > 1e-200) & (q > 1e-200)
    return float(np.logaddexp.reduce(order * np.log(p[keep]) + (1 - order) * np.log(q[keep])) / (order - 1))


@pytest.mark.parametrize("variance", [2.0, 30.0, 400.0])
@pytest.mark.parametrize("shift", [1, 2, 6])
def test_skellam_bound_covers_the_exact_divergence(variance: float, shift: int) -> None:
    orders = np.arange(2, 7)
    q = skellam(variance, 40 + int(20 * math.sqrt(variance)))
    bound = skellam_rdp(shift**2, shift, variance, orders)
    for order, allowed in zip(orders, bound, strict=True):
        exact = renyi(np.roll(q, shift), q, float(order))
        assert exact <= allowed * (1 + 1e-9)
        assert allowed <= 1.1 * exact or shift * order > variance / 20  # Tight where noise is not tiny.


@pytest.mark.parametrize("q", [0.01, 0.1, 0.5])
def test_sampled_bound_is_the_exact_divergence_in_its_direction_and_covers_the_other(q: float) -> None:
    base = skellam(30.0, 150)
    moved = np.roll(base, 4)
    mixed = (1 - q) * base + q * moved
    own = np.array([renyi(moved, base, float(order)) for order in SAMPLED_ORDERS[:5]])
    curve = np.concatenate([own, np.full(len(SAMPLED_ORDERS) - 5, np.inf)])
    with np.errstate(invalid="ignore"):
        sampled = sampled_rdp(curve, q)[:5]
    for order, bound in zip(SAMPLED_ORDERS[:5], sampled, strict=True):
        assert renyi(mixed, base, float(order)) == pytest.approx(bound, rel=1e-9)
        assert renyi(base, mixed, float(order)) <= bound * (1 + 1e-9)


def test_sampled_gaussian_is_that_of_the_rdp_accountant() -> None:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
    from dp_accounting.rdp import RdpAccountant

    theirs = RdpAccountant(orders=SAMPLED_ORDERS.tolist())
    theirs.compose(SelfComposedDpEvent(PoissonSampledDpEvent(0.1, GaussianDpEvent(1.3)), 50))
    ours = epsilon_of(50 * sampled_rdp(gaussian_rdp(1.3, SAMPLED_ORDERS), 0.1), 1e-6, SAMPLED_ORDERS)
    assert ours == pytest.approx(theirs.get_epsilon(1e-6), rel=1e-9)


def test_skellam_costs_what_the_gaussian_costs_by_the_same_accounting() -> None:
    plan = plan_of(noise=SKELLAM, participations=10)
    assert unamplified_epsilon(plan, 2.0) == pytest.approx(epsilon_of(10 * gaussian_rdp(2.0), 1e-5), rel=1e-6)
    assert unamplified_epsilon(plan, 2.0) == pytest.approx(8.088, abs=1e-3)


@pytest.mark.parametrize("noise", NOISES)
def test_more_noise_fewer_rounds_a_smaller_cohort_and_a_larger_delta_never_cost_more(noise: str) -> None:
    plan = plan_of(noise=noise, rounds=10, participations=5)
    more, less = 4.1, 4.0
    for cheaper, z in (
        (plan, more),
        (replace(plan, participations=4), less),
        (replace(plan, delta=1e-4), less),
    ):
        assert unamplified_epsilon(cheaper, z) < unamplified_epsilon(plan, less)
    for cheaper, z in (
        (plan, more),
        (replace(plan, rounds=9), less),
        (replace(plan, cohort=50), less),
        (replace(plan, delta=1e-4), less),
    ):
        assert amplified_epsilon(cheaper, z) < amplified_epsilon(plan, less)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("participations", [1, 10])
def test_released_model_costs_no_more_than_the_server_sees(noise: str, participations: int) -> None:
    given = guarantee(plan_of(noise=noise, rounds=10, participations=participations, cohort=900), 3.0)
    assert 0 < given.eps_released <= given.eps_server


def test_without_sampling_all_rounds_count() -> None:
    plan = plan_of(cohort=1000, rounds=7, participations=7)
    assert amplified_epsilon(plan, 2.0) == unamplified_epsilon(plan, 2.0)
    skellam_plan = replace(plan, noise=SKELLAM)
    assert amplified_epsilon(skellam_plan, 2.0) == pytest.approx(unamplified_epsilon(skellam_plan, 2.0), rel=1e-3)


@pytest.mark.parametrize("noise", NOISES)
def test_epsilon_in_the_hundreds_is_found_without_gigabytes(noise: str) -> None:
    assert 100 < amplified_epsilon(plan_of(noise=noise), 0.15) < 5000


def test_guarantee_in_words_and_for_a_program() -> None:
    given = guarantee(plan_of(rounds=3, participations=1), 2.0)
    assert given.text.startswith(
        f"ε = {math.ceil(given.eps_server * 100) / 100:.2f} against the server (1 participation)"
    )
    assert "discrete Gaussian noise z = 2 by PLD" in given.text
    assert given.to_json()["eps_released"] == given.eps_released
    assert "Skellam noise z = 2 by RDP" in guarantee(plan_of(rounds=3, noise=SKELLAM, participations=1), 2.0).text


def test_central_mode_promises_nothing_against_the_server() -> None:
    given = guarantee(plan_of(rounds=3, participations=1, mode=CENTRAL), 2.0)
    assert given.eps_server == math.inf
    assert given.eps_released == guarantee(plan_of(rounds=3, participations=1), 2.0).eps_released
    assert given.text.startswith("nothing against the server")
    assert given.to_json()["eps_server"] is None


@pytest.mark.parametrize(
    "changed",
    [
        {"devices": 0},
        {"cohort": 1001},
        {"cohort": 0},
        {"rounds": 1.0},
        {"participations": 101},
        {"delta": 0.0},
        {"delta": 1.0},
        {"delta": math.nan},
        {"dimension": 0},
        {"noise": "gauss"},
        {"mode": "open"},
    ],
)
def test_plans_out_of_range_are_refused(changed: dict[str, object]) -> None:
    with pytest.raises(PrivacyError, match=r"Expected|too long"):
        plan_of(**changed)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("z", [0.0, -1.0, math.nan, math.inf])
def test_noise_out_of_range_has_no_epsilon(noise: str, z: float) -> None:
    for figure in (unamplified_epsilon, amplified_epsilon, participation_rho):
        with pytest.raises(PrivacyError, match="noise_multiplier"):
            figure(plan_of(noise=noise), z)


@pytest.mark.parametrize(("l1", "variance"), [(1.0, 5.0), (40.0, 50.0), (900.0, 1e4), (1.0, 1e4), (1e6, 10.0)])
def test_rho_of_skellam_is_the_least_line_over_its_curve(l1: float, variance: float) -> None:
    rho = skellam_rho(900.0, l1, variance)
    curve = skellam_rdp(900.0, l1, variance)
    assert (curve <= rho * ORDERS * (1 + 1e-12)).all()
    assert (curve / ORDERS).max() == pytest.approx(rho, rel=2e-2)


@pytest.mark.parametrize("noise", NOISES)
def test_a_lifetime_in_rho_costs_what_the_participations_cost(noise: str) -> None:
    plan = plan_of(noise=noise, participations=6)
    total = 6 * participation_rho(plan, 3.0)
    epsilon = unamplified_epsilon(plan, 3.0)
    assert epsilon <= rho_epsilon(total, 1e-5) <= 1.1 * epsilon
    assert participation_rho(plan, 3.0) == pytest.approx(gaussian_rho(3.0), rel=1e-5)


def test_the_default_noise_is_the_one_accounted() -> None:
    assert plan_of().noise == DISCRETE_GAUSSIAN
