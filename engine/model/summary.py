"""A device's summary of what it remembers: what one private release needs to learn the shared model.

The server says a few public directions of the model's inputs and, along these, where each label's texts are thought
to lie before anything is known (`SummaryPlan`). A device answers with how far its own texts lie from there, label by
label, how much each label weighs in that, and how its texts scatter around: one array of a fixed length and of an L2
norm of at most 1, whatever it holds. The mean of such arrays, noised, is all that the server's estimate needs.

A label with n texts counts √n: one of many texts does not hide the others, and one of few is not as sure. Sources:
Fisher 1936 and Rao 1948 (means and a common scatter tell classes apart best where texts spread normally); Snell et al.
2017 (class means of a frozen encoder as a classifier).

>>> plan = SummaryPlan(basis=np.eye(2, 3, dtype=np.float32), centres=np.zeros((2, 2), dtype=np.float32), scatter=1)
>>> answer = summary(plan, np.array([[1, 0, 0]], dtype=np.float32), np.array([1]))
>>> plan.length, answer.shape, bool(np.linalg.norm(answer) <= 1)
(7, (7,), True)
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.encoders.encoder import Vectors
from engine.errors import ModelError

Floats = npt.NDArray[np.float64]

# How much a label's weight counts beside its texts, and the share of the norm that the scatter may have.
WEIGHT_GAIN = 0.1
SCATTER_GAIN = 0.5
# The usual Frobenius norm of a device's scatter: what is larger is clipped to it.
SCATTER_NORM = 0.2
SUMMARY_NORM = 1.0
"""The most that the L2 norm of a summary is, and so the clip that costs nothing."""
_LEAST_NORM = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryPlan:
    """What a summary is taken against, all of it public: d directions (d, D) of the inputs, and centres (C, d).

    ``centres`` are where the C labels' texts are thought to lie along these directions. The scatter is told along the
    first ``scatter`` of them. Raises `ModelError` for shapes that do not fit, and for NaN and infinity.
    """

    basis: Vectors
    centres: Vectors
    scatter: int = 0

    def __post_init__(self) -> None:
        fits = self.basis.ndim == self.centres.ndim == 2 and self.centres.shape[1] == len(self.basis) > 0
        if not fits or self.basis.dtype != np.float32 or self.centres.dtype != np.float32:
            raise ModelError(
                f"Expected float32 directions (d, D) and centres (C, d), got {self.basis.dtype} {self.basis.shape} and "
                f"{self.centres.dtype} {self.centres.shape}."
            )
        if not (np.isfinite(self.basis).all() and np.isfinite(self.centres).all()):
            raise ModelError("The plan of a summary holds NaN or infinity.")
        if not 0 <= self.scatter <= len(self.basis):
            raise ModelError(f"Expected scatter={self.scatter} to be from 0 to {len(self.basis)} directions.")

    @property
    def classes(self) -> int:
        """The number of labels, C."""
        return len(self.centres)

    @property
    def directions(self) -> int:
        """The number of directions, d."""
        return len(self.basis)

    @property
    def length(self) -> int:
        """Floats of a summary: C·d residuals, C weights, and the upper triangle of the scatter."""
        return self.classes * (self.directions + 1) + self.scatter * (self.scatter + 1) // 2

    @property
    def share(self) -> float:
        """The norm that residuals and weights have, so that the scatter fits beside them."""
        return SUMMARY_NORM / math.sqrt(1.0 + SCATTER_GAIN**2) if self.scatter else SUMMARY_NORM

    def digest(self) -> str:
        """SHA-256, in hex, of all of it."""
        shape = f"{self.basis.shape} {self.centres.shape}"
        found = hashlib.sha256(f"summary-2 {shape} {self.scatter}\0".encode())
        found.update(np.ascontiguousarray(self.basis, dtype="<f4").tobytes())
        found.update(np.ascontiguousarray(self.centres, dtype="<f4").tobytes())
        return found.hexdigest()


def summary(plan: SummaryPlan, x: Vectors, y: npt.NDArray[np.int64]) -> Vectors:
    """Return the summary, float32 (plan.length,), of inputs x (n, D) with labels y (n,), in whatever order.

    Its L2 norm is at most `SUMMARY_NORM`, and 0 without rows. Raises `ModelError` for NaN, infinity, or rows that do
    not fit the plan.
    """
    if x.ndim != 2 or x.shape[1] != plan.basis.shape[1] or y.shape != (len(x),):
        raise ModelError(f"Expected inputs (n, {plan.basis.shape[1]}) and labels (n,), got {x.shape} and {y.shape}.")
    if len(y) and not 0 <= y.min() <= y.max() < plan.classes:
        raise ModelError(f"Expected labels in 0..{plan.classes - 1}, got {int(y.min())}..{int(y.max())}.")
    if not np.isfinite(x).all():
        raise ModelError("The inputs hold NaN or infinity.")
    if not len(y):
        return np.zeros(plan.length, dtype=np.float32)
    away = x.astype(np.float64) @ plan.basis.T - plan.centres[y]  # (n, d)
    labels, place, counts = np.unique(y, return_inverse=True, return_counts=True)
    mean = np.zeros((len(labels), plan.directions))
    np.add.at(mean, place, away / counts[place, None])
    table = np.zeros((plan.classes, plan.directions + 1))
    table[labels] = np.sqrt(counts)[:, None] * np.column_stack([mean, np.full(len(labels), WEIGHT_GAIN)])
    table /= max(float(np.linalg.norm(table)), _LEAST_NORM)
    parts = [table[:, :-1].reshape(-1), table[:, -1]]
    if plan.scatter:
        parts.append(SCATTER_GAIN * _scatter(away[:, : plan.scatter], place, counts))
    answer: Vectors = (plan.share * np.concatenate(parts)).astype(np.float32)
    return answer


def unpacked(plan: SummaryPlan, mean: npt.NDArray[np.floating[Any]]) -> tuple[Floats, Floats, Floats]:
    """Return what a mean of summaries (plan.length,) says: residuals (C, d), weights (C,) and the scatter (s, s).

    A label's residual over its weight is how far its texts lie from its centre. Raises `ModelError` for another length.
    """
    if mean.shape != (plan.length,):
        raise ModelError(f"Expected a mean of {plan.length} numbers, got {mean.shape}.")
    whole = mean.astype(np.float64) / plan.share
    ends = plan.classes * plan.directions, plan.classes * (plan.directions + 1)
    scatter = np.zeros((plan.scatter, plan.scatter))
    if plan.scatter:
        rows, columns = np.triu_indices(plan.scatter)
        entries = whole[ends[1] :] * (SCATTER_NORM / SCATTER_GAIN)
        scatter[rows, columns] = scatter[columns, rows] = np.where(rows == columns, entries, entries / math.sqrt(2))
    return whole[: ends[0]].reshape(plan.classes, plan.directions), whole[ends[0] : ends[1]] / WEIGHT_GAIN, scatter


def _scatter(away: Floats, place: npt.NDArray[np.intp], counts: npt.NDArray[np.intp]) -> Floats:
    """Return the packed mean product (s·(s+1)/2,) of residuals (n, s), labels weighing √n, of a norm of at most 1."""
    weights = 1.0 / np.sqrt(counts[place])
    products = (away * weights[:, None]).T @ away / weights.sum()
    rows, columns = np.triu_indices(away.shape[1])
    packed: Floats = np.where(rows == columns, 1.0, math.sqrt(2)) * products[rows, columns] / SCATTER_NORM
    return packed / max(float(np.linalg.norm(packed)), 1.0)
