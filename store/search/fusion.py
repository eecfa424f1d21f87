"""Fusing two rankings by their standardised scores.

Each list's scores are standardised over the union of both lists' slots (less their mean, over their standard
deviation), so that cosines and BM25, which have no common unit, can be added. Of the simple fusions this one measured
best (``benchmarks/retrieval.py``). What a score that is missing or says nothing means:

- a slot that a list lacks has the lowest score of that list, for it did not come in;
- a list whose scores are all equal, or that is empty, counts 0 for every slot.

>>> dense = np.array([1, 2, 3]), np.array([0.9, 0.8, 0.1])
>>> lexical = np.array([3, 2]), np.array([7.0, 6.0])
>>> [slot for slot, score in fuse(dense, lexical, 2)]
[1, 3]
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Slots = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Scores = npt.NDArray[np.float32] | Floats
# Scores that differ by less than this share of the largest are equal: dividing by such a spread would amplify rounding.
_SPREAD = 1e-6  # Products are float32.


def fuse(
    dense: tuple[Slots, Scores], lexical: tuple[Slots, Scores], k: int, weight: float = 0.5
) -> list[tuple[int, float]]:
    """The ``k`` best (slot, fused score) of two lists, best first, equal scores by lower slot.

    A list is slots (n,), each once and in any order, and their scores (n,), higher being better. ``weight`` is the
    share of ``dense``, from 0 to 1. Raises ``ValueError`` for a score that is NaN or infinite, a slot that occurs twice
    in one list, arrays of different lengths, or a weight out of range.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"Expected weight={weight} in [0, 1]. Pass the share of the embedding search.")
    slots = np.union1d(_checked("dense", *dense), _checked("lexical", *lexical)).astype(np.int64)
    total = weight * _standard(slots, *dense) + (1 - weight) * _standard(slots, *lexical)
    best = np.lexsort((slots, -total))[: max(k, 0)]
    return list(zip(slots[best].tolist(), total[best].tolist(), strict=True))


def _checked(name: str, slots: Slots, scores: Scores) -> Slots:
    if slots.shape != scores.shape or slots.ndim != 1:
        raise ValueError(f"Expected one {name} score a slot, got {scores.shape} for {slots.shape}.")
    if not np.isfinite(scores).all():
        raise ValueError(f"Expected finite {name} scores, got NaN or infinity. Check the vectors of the query.")
    if len(np.unique(slots)) != len(slots):
        raise ValueError(f"Expected each {name} slot once. Leave out its repetitions.")
    return slots


def _standard(slots: Slots, its: Slots, scores: Scores) -> Floats:
    """The standardised scores of ``slots`` (m,), ascending, in the list (``its``, ``scores``)."""
    zeros = np.zeros(len(slots), dtype=np.float64)
    largest = float(np.abs(scores).max(initial=0.0))
    if not largest:
        return zeros
    scaled = scores.astype(np.float64) / largest  # In [-1, 1], so that nothing below overflows.
    if scaled.max() - scaled.min() <= _SPREAD:
        return zeros
    values = np.full(len(slots), scaled.min())
    values[np.searchsorted(slots, its)] = scaled
    result: Floats = (values - values.mean()) / values.std()
    return result
