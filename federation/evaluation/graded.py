"""Rankings against several accepted answers: right by any of them, and NDCG with graded gains.

The accepted answers of a row stand best first; the gain of the first is 1, of the second 1/2, of the third 1/3, and so
on. Source: Järvelin and Kekäläinen 2002, *Cumulated Gain-Based Evaluation of IR Techniques*, with log₂(1 + rank).

>>> rows = [(1, 3), (2, 1)]
>>> accuracy_any(rows), round(ndcg_at(rows, 5), 3)
(1.0, 0.905)
"""

import math
from collections.abc import Sequence

Ranks = Sequence[int]
"""The ranks (from 1; 0 is "not ranked") of one row's accepted answers, best first."""


def accuracy_any(rows: Sequence[Ranks]) -> float:
    """Return the share of rows whose first answer is an accepted one; raise ``ValueError`` if there is no row."""
    return sum(1 in ranks for ranks in rows) / _count(rows)


def ndcg_at(rows: Sequence[Ranks], k: int) -> float:
    """Return the mean over rows of the gains of the first ``k``, discounted, over the most that they could be."""
    return math.fsum(_ndcg(ranks, k) for ranks in rows) / _count(rows)


def graded(rows: Sequence[Ranks]) -> dict[str, float]:
    """Return ``{"accuracy_any", "ndcg_at_5"}``, or nothing where no row has several accepted answers."""
    if all(len(ranks) == 1 for ranks in rows):
        return {}
    return {"accuracy_any": accuracy_any(rows), "ndcg_at_5": ndcg_at(rows, 5)}


def _ndcg(ranks: Ranks, k: int) -> float:
    found = sum(1 / place / math.log2(1 + rank) for place, rank in enumerate(ranks, 1) if 0 < rank <= k)
    best = sum(1 / place / math.log2(1 + place) for place in range(1, min(len(ranks), k) + 1))
    return found / best


def _count(rows: Sequence[Ranks]) -> int:
    if not rows or not all(rows):
        raise ValueError("Expected at least one row, and an accepted answer in each.")
    return len(rows)
