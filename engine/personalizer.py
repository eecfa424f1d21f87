"""The mixture that turns global scores and a memory into personal scores.

For a query x with global log probabilities g(y), a device with n memories (x_i, y_i) answers

    p(y|x) = Σ_θ w_θ · [(1 − λ) · softmax(g(y) + β · log r(y)) + λ · q(y|x)],   θ = (β, λ, τ)

where r is the smoothed frequency of y on the device over what the global model expects of the device's own texts
(label prior), and q the kernel average Σ exp(τ(x·x_i − 1))·[y_i = y] of neighbours in memory, with the first term as
a pseudo-neighbour at similarity 0.35. The weights w_θ over a grid are chosen on the device by leave-one-out: each row
of the evidence is predicted with itself removed from counts and neighbours, and with global scores of a model that
had not trained on it; w_θ ∝ exp(log likelihood − 60·|θ − usual|²). Without evidence, or where it speaks against the
mixture by 2 nats or more, the global model answers.
Sources: Marfoq et al. 2022 (kNN-Per, eq. 7: the mixture); Saerens et al. 2002 (eq. 2.4: ratio of label priors);
Hoeting et al. 1999 (Bayesian model averaging); Kass and Raftery 1995 (§3.2: what a Bayes factor says).

>>> USUAL
Mixture(prior=0.5, neighbours=0.35, sharpness=20.0)
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# Pseudo-count of the expected label distribution in r(y).
SMOOTHING = 5.0
# Added to each label's expected share, so that a label the model never expects has a finite ratio.
EXPECTED_FLOOR = 1e-3
# Cosine at which the global prediction enters the kernel average: that of loosely related requests.
ANCHOR_COSINE = 0.35
# Nats of evidence that moving by 1 away from the usual weights must bring.
SHRINKAGE = 60.0
# Mixtures below this weight are left out of an answer.
LEAST_WEIGHT = 1e-4
# Evidence against the mixture, in nats, from which the global model answers alone: a Bayes factor of about 7. A few
# memories with a label each say little, since no other memory can vouch for the one left out.
AGAINST_NATS = 2.0
# Where a probability underflows to 0, so that its logarithm is finite.
LEAST_PROBABILITY = 1e-300
# The newest rows of evidence that leave-one-out uses: its cost grows with their number times the memory's size.
MOST_EVIDENCE = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Weights of the label prior (β ≥ 0) and of the neighbours (0 ≤ λ < 1), and the kernel's sharpness τ > 0."""

    prior: float = 0.0
    neighbours: float = 0.0
    sharpness: float = 10.0

    def __post_init__(self) -> None:
        if not (self.prior >= 0 and 0 <= self.neighbours < 1 and 0 < self.sharpness < float("inf")):
            raise ValueError(f"Expected prior >= 0, neighbours in [0, 1) and sharpness > 0, got {self}.")


GLOBAL = Mixture()
USUAL = Mixture(prior=0.5, neighbours=0.35, sharpness=20.0)
GRID = tuple(
    Mixture(prior=prior, neighbours=neighbours, sharpness=sharpness)
    for prior, neighbours, sharpness in itertools.product(
        (0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 0.1, 0.2, 0.35, 0.5, 0.65), (10.0, 20.0, 30.0)
    )
    # Without neighbours the sharpness has no effect: one of them is enough.
    if neighbours or sharpness == 10.0
)


def log_softmax(scores: npt.NDArray[Any]) -> Floats:
    """Return log probabilities (n, C) of logits (n, C), in float64."""
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """q queries before a memory of m rows, over C labels.

    ``global_log`` (q, C) log probabilities; ``log_ratio`` (q, C) is log r(y); ``similarity`` (q, m) are cosines, −inf
    where a memory must not count; ``one_hot`` (m, C).
    """

    global_log: Floats
    log_ratio: Floats
    similarity: Floats
    one_hot: Floats

    def probabilities(self, mixture: Mixture) -> Floats:
        """Return personal probabilities (q, C) under one mixture."""
        tilted = np.exp(log_softmax(self.global_log + mixture.prior * self.log_ratio))  # (q, C)
        if mixture.neighbours == 0:
            return tilted
        kernel = np.exp(mixture.sharpness * (self.similarity - 1.0)) @ self.one_hot  # (q, C)
        anchor = np.exp(mixture.sharpness * (ANCHOR_COSINE - 1.0))
        nearby = (kernel + anchor * tilted) / (kernel.sum(axis=1, keepdims=True) + anchor)
        result: Floats = (1 - mixture.neighbours) * tilted + mixture.neighbours * nearby
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Rows of the memory that may judge: their positions (e,) in it and their out-of-sample global logs (e, C)."""

    rows: Integers
    global_log: Floats

    def newest(self, most: int) -> "Evidence":
        """Return at most the ``most`` last rows."""
        return Evidence(rows=self.rows[-most:], global_log=self.global_log[-most:])


class Personalizer:
    """A memory of m unit vectors (m, d) and labels (m,), and the mixtures that its own evidence chose.

    >>> x = np.eye(2, dtype=np.float32)[[0, 0, 1, 0, 0, 1]]
    >>> y = np.array([1, 1, 0, 1, 1, 0])
    >>> undecided = np.log(np.full((6, 2), 0.5))
    >>> evidence = Evidence(rows=np.arange(6), global_log=undecided)
    >>> personal = Personalizer.fit(x, y, expected=np.array([0.5, 0.5]), evidence=evidence)
    >>> personal.predict(undecided[:1], x[:1]).argmax(axis=1)
    array([1])
    """

    def __init__(
        self,
        x: npt.NDArray[np.float32],
        y: Integers,
        *,
        expected: Floats,
        weights: tuple[tuple[Mixture, float], ...] = (),
    ) -> None:
        self.weights = weights
        self._x = x  # (m, d)
        self._one_hot = np.eye(len(expected))[y]  # (m, C)
        floored = expected + EXPECTED_FLOOR
        self._expected = floored / floored.sum()  # (C,)

    @property
    def is_global(self) -> bool:
        """Whether the global model answers alone."""
        return not self.weights

    @property
    def strongest(self) -> Mixture:
        """The mixture with the largest weight."""
        return max(self.weights, key=lambda pair: pair[1])[0] if self.weights else GLOBAL

    @classmethod
    def fit(cls, x: npt.NDArray[np.float32], y: Integers, *, expected: Floats, evidence: Evidence) -> "Personalizer":
        """Choose the weights by leave-one-out; ``expected`` (C,) are the label shares the global model expects."""
        personalizer = cls(x, y, expected=expected)
        judged = evidence.newest(MOST_EVIDENCE)
        if len(judged.rows):
            personalizer.weights = personalizer._choose(y, judged)
        return personalizer

    def _log_ratio(self, counts: Floats) -> Floats:
        total = counts.sum(axis=1, keepdims=True)  # (q, 1)
        share = (counts + SMOOTHING * self._expected) / (total + SMOOTHING)  # (q, C)
        ratio: Floats = np.log(share / self._expected)
        return ratio

    def _choose(self, y: Integers, evidence: Evidence) -> tuple[tuple[Mixture, float], ...]:
        rows, position = evidence.rows, np.arange(len(evidence.rows))
        similarity = (self._x[rows] @ self._x.T).astype(np.float64)  # (e, m)
        similarity[position, rows] = -np.inf
        counts = self._one_hot.sum(axis=0) - self._one_hot[rows]  # (e, C)
        query = Query(
            global_log=evidence.global_log,
            log_ratio=self._log_ratio(counts),
            similarity=similarity,
            one_hot=self._one_hot,
        )
        answers = [query.probabilities(mixture) for mixture in GRID]
        values = np.array(
            [
                float(np.log(np.maximum(answer[position, y[rows]], LEAST_PROBABILITY)).sum())
                - SHRINKAGE * ((mixture.prior - USUAL.prior) ** 2 + (mixture.neighbours - USUAL.neighbours) ** 2)
                for mixture, answer in zip(GRID, answers, strict=True)
            ]
        )
        weights = np.exp(values - values.max())
        weights /= weights.sum()
        averaged = sum(weight * answer for weight, answer in zip(weights, answers, strict=True))
        personal_log = np.log(np.maximum(np.asarray(averaged)[position, y[rows]], LEAST_PROBABILITY))
        if personal_log.sum() < evidence.global_log[position, y[rows]].sum() - AGAINST_NATS:
            return ()
        return tuple((mixture, float(w)) for mixture, w in zip(GRID, weights, strict=True) if w >= LEAST_WEIGHT)

    def predict(self, global_log: Floats, x: npt.NDArray[np.float32]) -> Floats:
        """Return personal log probabilities (q, C) for queries x (q, d) with global log probabilities (q, C)."""
        if self.is_global or not len(self._x):
            return global_log  # To the bit, so that nothing looks as if the memory had raised it.
        query = Query(
            global_log=global_log,
            log_ratio=np.repeat(self._log_ratio(self._one_hot.sum(axis=0)[None]), len(x), axis=0),
            similarity=(x @ self._x.T).astype(np.float64),
            one_hot=self._one_hot,
        )
        total = sum(weight for _, weight in self.weights)
        mixed = sum(weight / total * query.probabilities(mixture) for mixture, weight in self.weights)
        result: Floats = np.log(np.maximum(np.asarray(mixed), LEAST_PROBABILITY))
        return result
