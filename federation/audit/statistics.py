"""What chance allows: the one-run audit's bound, the ε of two bells.

>>> one_run_epsilon(canaries=1000, guesses=100, correct=90, delta=1e-5, failure=0.05) > 1.4
True
"""

import math

import numpy as np
import numpy.typing as npt

from federation.privacy.sampling import binomial_cdf

_HALVINGS = 40
_MOST_EPSILON = 60.0


def one_run_epsilon(*, canaries: int, guesses: int, correct: int, delta: float, failure: float) -> float:
    """Return the largest ε that ``correct`` of ``guesses`` refute at ``delta``, wrongly with at most ``failure``.

    Each of ``canaries`` was in or out by a fair coin, and the auditor guessed for some of them. 0 refutes nothing.
    Source: Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run", Theorem 5.2.
    """
    if one_run_p_value(canaries, guesses, correct, 0.0, delta) > failure:
        return 0.0
    low, high = 0.0, 1.0
    while high < _MOST_EPSILON and one_run_p_value(canaries, guesses, correct, high, delta) <= failure:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        refuted = one_run_p_value(canaries, guesses, correct, middle, delta) <= failure
        low, high = (middle, high) if refuted else (low, middle)
    return low


def one_run_p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Return how likely a mechanism of (``epsilon``, ``delta``) lets an auditor guess so many right, at most."""
    share = 1 / (1 + math.exp(-epsilon))
    # P(at least `correct` of `guesses`), and beside it the most that δ may add (the theorem's α).
    beta = 1 - binomial_cdf(correct - 1, guesses, share)
    below = np.cumsum(_binomial(guesses, share)[:correct][::-1])
    alpha = float((below / np.arange(1, correct + 1)).max()) if correct else 0.0
    return min(1.0, beta + 2 * canaries * delta * alpha)


def _binomial(trials: int, share: float) -> npt.NDArray[np.float64]:
    """The probabilities (trials + 1,) of each number of hits."""
    steps = np.log(np.arange(1, trials + 1))
    factorials = np.concatenate([[0.0], np.cumsum(steps)])
    hits = np.arange(trials + 1)
    choose = factorials[-1] - factorials - factorials[::-1]
    chances: npt.NDArray[np.float64] = np.exp(choose + hits * math.log(share) + hits[::-1] * math.log1p(-share))
    return chances


def bells_epsilon(distance: float, spread: float, delta: float) -> float:
    """Return ε at ``delta`` of two Gaussians ``distance`` apart, each of standard deviation ``spread``.

    It is what a mechanism leaks whose output is so distributed with and without someone (Andrew et al. 2023, "One-shot
    Empirical Privacy Estimation for Federated Learning", §3); infinite where there is no spread.
    """
    from dp_accounting import get_epsilon_gaussian

    if not math.isfinite(distance) or not math.isfinite(spread):
        return math.inf
    if distance <= 0:
        return 0.0
    if spread < distance * 1e-3:
        return math.inf
    return float(get_epsilon_gaussian(spread / distance, delta))
