"""PureSVD with 32 factors: the 0/1 matrix X of who had what, projected on its first right singular vectors, X·V·Vᵀ.

Source: P. Cremonesi, Y. Koren and R. Turrin, *Performance of recommender algorithms on top-N recommendation tasks*
(RecSys 2010), §3.2.2. The vectors are those of XᵀX or XXᵀ, whichever is smaller, so exact.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from federation.evaluation.choice_metrics import Scores
from federation.evaluation.choice_plain import Scorer

FACTORS = 32


def projection(x: Scores, factors: int) -> Scores:
    """Return x·V·Vᵀ (people, N) with the first ``factors`` right singular vectors V of x (people, N)."""
    if x.shape[0] <= x.shape[1]:
        _, u = np.linalg.eigh(x @ x.T)
        u = u[:, ::-1][:, :factors]  # Left singular vectors: X·V·Vᵀ = U·Uᵀ·X.
        return np.asarray(u @ (u.T @ x))
    _, v = np.linalg.eigh(x.T @ x)
    v = v[:, ::-1][:, :factors]
    return np.asarray((x @ v) @ v.T)


def scorer(counts: Scores, validation: Sequence[tuple[int, int]]) -> Scorer:
    scores = projection((counts > 0).astype(np.float64), FACTORS)

    def score(person: int, context: Mapping[str, str]) -> Scores:
        return scores[person]

    return score
