"""The one-run bound holds as often as it says, and is what the paper's own numbers say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import get_epsilon_gaussian

from federation.audit.statistics import bells_epsilon, one_run_epsilon, one_run_p_value


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 3.0])
def test_a_mechanism_that_is_as_bad_as_it_may_be_is_refuted_no_oftener_than_allowed(epsilon: float) -> None:
    """Randomized response is the worst mechanism of its ε: each guess is right with e^ε/(1 + e^ε)."""
    rng, failure, times = np.random.default_rng(0), 0.1, 400
    share = 1 / (1 + math.exp(-epsilon))
    bounds = [
        one_run_epsilon(canaries=300, guesses=300, correct=int(correct), delta=0.0, failure=failure)
        for correct in rng.binomial(300, share, size=times)
    ]
    refuted = sum(bound > epsilon + 1e-9 for bound in bounds)
    assert refuted <= failure * times + 4 * math.sqrt(failure * times)
    assert np.median(bounds) >= epsilon - 0.5 - 0.2 * epsilon  # And it is close to what it bounds.


def test_all_right_refutes_up_to_what_chance_allows() -> None:
    """P(all r right) = (1 + e^−ε)^−r, which is solved for the failure."""
    failure, guesses = 0.01, 100
    closed = -math.log(failure ** (-1 / guesses) - 1)
    found = one_run_epsilon(canaries=guesses, guesses=guesses, correct=guesses, delta=0.0, failure=failure)
    assert found == pytest.approx(closed, abs=1e-6)


def test_a_larger_delta_refutes_less() -> None:
    bounds = [
        one_run_epsilon(canaries=1000, guesses=100, correct=95, delta=delta, failure=0.05)
        for delta in (0.0, 1e-6, 1e-4, 1e-2)
    ]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > bounds[2] > bounds[-1]


@pytest.mark.parametrize(("epsilon", "delta"), [(0.7, 1e-4), (2.0, 1e-5)])
def test_the_p_value_is_the_sum_that_the_theorem_writes(epsilon: float, delta: float) -> None:
    canaries, guesses, correct = 50, 20, 17
    share = 1 / (1 + math.exp(-epsilon))
    pmf = [math.comb(guesses, k) * share**k * (1 - share) ** (guesses - k) for k in range(guesses + 1)]
    beta = sum(pmf[correct:])
    alpha = max((sum(pmf[correct - i :]) - beta) / i for i in range(1, correct + 1))
    wanted = beta + 2 * canaries * delta * alpha
    assert one_run_p_value(canaries, guesses, correct, epsilon, delta) == pytest.approx(wanted, rel=1e-9)


def test_two_bells_have_the_epsilon_of_the_gaussian_mechanism() -> None:
    assert bells_epsilon(2.0, 3.0, 1e-5) == pytest.approx(float(get_epsilon_gaussian(1.5, 1e-5)))
    assert bells_epsilon(0.0, 3.0, 1e-5) == 0
    assert bells_epsilon(-1.0, 3.0, 1e-5) == 0
    assert math.isinf(bells_epsilon(1.0, 0.0, 1e-5))
    assert math.isinf(bells_epsilon(math.nan, 1.0, 1e-5))
