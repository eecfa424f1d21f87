"""Poisson sampling by each device's own coin, and the cohorts that come of it."""

from __future__ import annotations

import math

import pytest
from scipy.stats import binom

from federation.errors import PrivacyError
from federation.privacy.sampling import (
    binomial_cdf,
    cohort_bounds,
    drawn,
    participation_limit,
    sampling_rate,
)
from federation.privacy.stream import SecureStream, stream_of_key


def test_coin_falls_as_often_as_q() -> None:
    stream = stream_of_key(bytes(32))
    for q in (0.01, 0.3, 0.9):
        share = sum(drawn(q, stream) for _ in range(4000)) / 4000
        assert abs(share - q) < 5 * math.sqrt(q * (1 - q) / 4000)
    assert all(drawn(1.0, stream) for _ in range(100))


@pytest.mark.parametrize("q", [0.0, -0.1, 1.1, math.nan])
def test_a_probability_that_is_none_is_refused(q: float) -> None:
    with pytest.raises(PrivacyError, match="q="):
        drawn(q, SecureStream())


@pytest.mark.parametrize(("devices", "cohort"), [(10, 0), (10, 11), (0, 0)])
def test_a_cohort_outside_the_population_is_refused(devices: int, cohort: int) -> None:
    with pytest.raises(PrivacyError, match="cohort"):
        sampling_rate(devices, cohort)


@pytest.mark.parametrize(("trials", "q"), [(1, 0.5), (50, 0.02), (300, 0.5), (1000, 0.1), (100_000, 0.001)])
def test_tail_is_the_binomial_distribution(trials: int, q: float) -> None:
    mean = trials * q
    for most in {-1, 0, int(mean / 2), int(mean), min(trials, int(2 * mean) + 1), trials - 1, trials}:
        assert binomial_cdf(most, trials, q) == pytest.approx(binom.cdf(most, trials, q), rel=1e-7, abs=1e-300)


@pytest.mark.parametrize(("devices", "cohort"), [(24, 24), (100, 30), (1000, 100), (3000, 300), (10_000, 50), (5, 1)])
@pytest.mark.parametrize("failure", [2.0**-20, 0.01])
def test_bounds_are_the_tightest_that_fail_as_seldom(devices: int, cohort: int, failure: float) -> None:
    floor, ceiling = cohort_bounds(devices, cohort, failure)
    size = binom(devices, cohort / devices)
    assert 0 <= floor <= cohort <= ceiling <= devices
    assert size.cdf(floor - 1) <= failure
    assert size.sf(ceiling) <= failure
    assert floor == devices or size.cdf(floor) > failure
    assert ceiling == 0 or size.sf(ceiling - 1) > failure


def test_limit_is_what_few_devices_exceed() -> None:
    for rounds, q in ((30, 0.1), (100, 0.1), (10, 0.9), (1, 0.5)):
        limit = participation_limit(rounds=rounds, q=q)
        assert binom.sf(limit, rounds, q) <= 0.01 < binom.sf(limit - 1, rounds, q)
    assert participation_limit(rounds=10, q=1.0) == 10


@pytest.mark.parametrize("failure", [0.0, 1.0, math.nan])
def test_a_failure_that_is_no_probability_is_refused(failure: float) -> None:
    with pytest.raises(PrivacyError, match="failure"):
        cohort_bounds(100, 10, failure)
