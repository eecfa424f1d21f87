"""Weights of the ranking of found memories, fitted to questions whose answers are known.

The weights maximise the likelihood of the evidence among the candidates under a softmax of their scores, the listwise
loss of Cao et al. 2007 ("Learning to Rank: From Pairwise Approach to Listwise Approach", section 4.1, ListNet's top-one
probability), less a penalty for leaving a prior: κ/2 · ‖w − w₀‖². The objective is strictly concave, so Newton steps
with halving find its one maximum, the same on every run.

>>> lists = [RankedList(features=np.array([[1.0], [0.0]]), evidence=(0,))]
>>> bool(fit_weights(lists, prior=np.zeros(1))[0] > 0)
True
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
PENALTY = 1.0
_STEPS = 50
_TOLERANCE = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RankedList:
    """One question: the features (n, d) of its candidates, and the indices of those that answer it, at least one."""

    features: Floats
    evidence: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.evidence or not set(self.evidence) <= set(range(len(self.features))):
            raise ValueError(f"Expected evidence={self.evidence} among {len(self.features)} candidates, at least one.")
        if not np.isfinite(self.features).all():
            raise ValueError("Expected finite features, got NaN or infinity.")


def fit_weights(lists: Sequence[RankedList], *, prior: Floats, penalty: float = PENALTY) -> Floats:
    """The weights (d,) for ``lists``, drawn towards ``prior`` (d,); ``prior`` itself where there are no lists.

    Raises ``ValueError`` for a ``penalty`` that is not above 0.
    """
    if not penalty > 0:
        raise ValueError(f"Expected penalty={penalty} above 0.")
    if not lists:
        return prior.copy()
    packed = _Packed.of(lists)
    weights = prior.copy()
    value = packed.value(weights, prior, penalty)
    for _ in range(_STEPS):
        gradient, curvature = packed.slopes(weights, prior, penalty)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while (new := packed.value(weights + size * step, prior, penalty)) < value and size > _TOLERANCE:
            size /= 2
        if new <= value:
            break
        weights = weights + size * step
        if new - value <= _TOLERANCE * (1 + abs(value)):
            break
        value = new
    return weights


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Packed:
    """All lists one under another: features (N, d), each row's list (N,), its target (N,), where lists start (q,)."""

    features: Floats
    lists: npt.NDArray[np.int64]
    target: Floats
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, lists: Sequence[RankedList]) -> "_Packed":
        sizes = np.array([len(one.features) for one in lists])
        starts = np.cumsum(sizes) - sizes
        target = np.zeros(int(sizes.sum()))
        for start, one in zip(starts.tolist(), lists, strict=True):
            its = sorted(set(one.evidence))
            target[[start + at for at in its]] = 1 / len(its)
        return cls(
            features=np.concatenate([one.features for one in lists]).astype(np.float64),
            lists=np.repeat(np.arange(len(lists)), sizes),
            target=target,
            starts=starts,
        )

    def _log_probabilities(self, weights: Floats) -> Floats:
        scores = self.features @ weights
        scores = scores - np.maximum.reduceat(scores, self.starts)[self.lists]
        result: Floats = scores - np.log(np.add.reduceat(np.exp(scores), self.starts))[self.lists]
        return result

    def value(self, weights: Floats, prior: Floats, penalty: float) -> float:
        """The penalised log likelihood."""
        likelihood = float(self.target @ self._log_probabilities(weights))
        return likelihood - penalty / 2 * float((weights - prior) @ (weights - prior))

    def slopes(self, weights: Floats, prior: Floats, penalty: float) -> tuple[Floats, Floats]:
        """The gradient (d,), and the negated Hessian (d, d)."""
        probability = np.exp(self._log_probabilities(weights))
        expected = self.features * probability[:, None]
        means = np.add.reduceat(expected, self.starts, axis=0)  # (q, d)
        gradient = self.features.T @ self.target - means.sum(axis=0) - penalty * (weights - prior)
        curvature = self.features.T @ expected - means.T @ means + penalty * np.eye(len(weights))
        return gradient, curvature
