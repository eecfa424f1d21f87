"""EASE: a linear item-to-item model in closed form, B = −P/diag(P) off the diagonal, P = (XᵀX + λ·1)⁻¹.

Source: H. Steck, *Embarrassingly shallow autoencoders for sparse data* (WWW 2019), equation 8. λ is the one by which
most people's last train items, held out of X, are among the first tenth of what each did not have.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from federation.evaluation.choice_metrics import Scores
from federation.evaluation.choice_plain import Scorer

LAMBDAS = (30.0, 100.0, 300.0, 1000.0, 3000.0)


def item_weights(x: Scores, ridge: float) -> Scores:
    """Return B (N, N) for x (people, N)."""
    p = np.linalg.inv(x.T @ x + ridge * np.eye(x.shape[1]))
    b: Scores = -p / np.diag(p)
    np.fill_diagonal(b, 0.0)
    return b


def best_ridge(counts: Scores, validation: Sequence[tuple[int, int]]) -> float:
    """Return the λ that foresees the held-out (person, item) best."""
    if not validation:
        return LAMBDAS[2]
    people, items = (np.array(column) for column in zip(*validation, strict=True))
    held = counts.copy()
    held[people, items] = 0.0
    x = (held > 0).astype(np.float64)

    def quality(ridge: float) -> float:
        scores = x[people] @ item_weights(x, ridge)
        scores[x[people] > 0] = -np.inf
        ranks = (scores >= scores[np.arange(len(items)), items][:, None]).sum(axis=1)
        return float((ranks <= 0.1 * np.isfinite(scores).sum(axis=1)).mean())

    return max(LAMBDAS, key=quality)


def scorer(counts: Scores, validation: Sequence[tuple[int, int]]) -> Scorer:
    x = (counts > 0).astype(np.float64)
    scores = x @ item_weights(x, best_ridge(counts, validation))

    def score(person: int, context: Mapping[str, str]) -> Scores:
        return scores[person]

    return score
