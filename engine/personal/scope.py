"""Whether a request is one that a device can answer: its scope score, and the threshold that its own memories set.

Three signs speak for a request: the energy of the shared model's scores, how certain the personal answer is, and how
near memories are. Their weighted sum is the scope score; the weights ship with the code. `benchmarks/scope.py` fitted
them, on generated people and on train rows of HWU64. No shared number says which score is low: that differs between
models, encoders and people. Each device scores its own memories, each left out of counts and neighbours and judged by a
shared model that had not trained on it, and refuses what scores below all but a stated share of these.

Sources: Liu et al. 2020 (energy); Hendrycks and Gimpel 2017 (certainty of the answer); Sun et al. 2022 (distance to
neighbours); Vovk et al. 2005 (a threshold from one's own scores); Geisser 1993, section 2.1 (the next of n normal
scores lies as Student's t says); Abramowitz and Stegun 1964, 26.7.5 (its quantiles).

>>> own = np.linspace(0.0, 1.0, 201)
>>> round(threshold(own, share=0.05), 2), threshold(own[:2], share=0.05)
(0.05, -inf)
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.personal.rescorer import ANCHOR_COSINE, NEAR_SHARPNESS, Floats

SIGNS = ("energy", "certain", "near")
WEIGHTS: Floats = np.array([0.68, 0.78, 0.26])
"""How much each sign counts in the scope score."""
FALSE_REFUSALS = 0.05
"""The share of requests in scope that a device refuses unless told otherwise."""

LEAST_LOG_PROBABILITY = -700.0
# With fewer judged memories nothing says what a request in scope looks like, and none is refused.
LEAST_OWN = 5
# As many scores as a normal distribution would give, seen from a device's own, stand beside these: the lowest of a
# handful says little of the twentieth part that lies below.
FORESEEN = 20.0
_NORMAL: Floats = np.array([NormalDist().inv_cdf((place + 0.5) / 100) for place in range(100)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """How much a request is like those that a device can answer: its score, and the lowest that is not refused.

    The threshold is −inf on a device that has too few memories to set one.
    """

    score: float
    threshold: float

    @property
    def known(self) -> bool:
        """Whether the device can answer."""
        return self.score >= self.threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """The three signs (n, 3) of n requests, and the shared model's log of its highest probability (n,).

    The latter is no part of the score: it is what others refuse by, for comparison.
    """

    values: Floats
    highest_log: Floats

    @property
    def scores(self) -> Floats:
        """The scope scores (n,)."""
        scores: Floats = self.values @ WEIGHTS
        return scores


def signs(logits: npt.NDArray[Any], personal_log: Floats, similarity: npt.NDArray[Any]) -> Signs:
    """Return the signs of n requests: shared logits (n, C), personal log probabilities (n, C), cosines (n, m).

    A cosine of −inf is a memory that must not count.
    """
    energy = energies(logits)
    likely = np.maximum(personal_log, LEAST_LOG_PROBABILITY)  # 0 · −∞ is 0 here.
    uncertain = -(np.exp(likely) * likely).sum(axis=1)
    kernel = np.exp(NEAR_SHARPNESS * (similarity - 1.0)).sum(axis=1, dtype=np.float64)
    near = np.log(kernel + np.exp(NEAR_SHARPNESS * (ANCHOR_COSINE - 1.0)))
    return Signs(
        values=np.stack([energy, -uncertain, near], axis=1),
        highest_log=np.asarray(logits, dtype=np.float64).max(axis=1) - energy,
    )


def energies(logits: npt.NDArray[Any]) -> Floats:
    """Return log Σ exp of logits (n, C): (n,), in float64."""
    scores = np.asarray(logits, dtype=np.float64)
    highest = scores.max(axis=1)
    energy: Floats = highest + np.log(np.exp(scores - highest[:, None]).sum(axis=1))
    return energy


def threshold(own: Floats, *, share: float) -> float:
    """Return the score below which about ``share`` of requests in scope lie, seen from a device's own scores (m,).

    −inf for fewer than `LEAST_OWN` of them. Raises ``ValueError`` for a share outside (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"Expected false_refusals={share} to be between 0 and 1, as 0.05 is.")
    if len(own) < LEAST_OWN:
        return -np.inf
    foreseen = own.mean() + own.std(ddof=1) * np.sqrt(1 + 1 / len(own)) * _student(len(own) - 1)
    scores = np.concatenate([own, foreseen])
    weights = np.concatenate([np.ones(len(own)), np.full(len(foreseen), FORESEEN / len(foreseen))])
    order = np.argsort(scores, kind="stable")
    below = np.cumsum(weights[order]) - weights[order] / 2
    return float(np.interp(share * weights.sum(), below, scores[order]))


def _student(freedom: int) -> Floats:
    """Return a hundred evenly spaced quantiles of Student's t, by the expansion from those of the normal."""
    z, n = _NORMAL, freedom
    quantiles: Floats = z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
    return quantiles
