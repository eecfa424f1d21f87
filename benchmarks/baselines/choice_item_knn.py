"""Items by their nearest neighbours: cosine between items' columns of who had them, summed over a person's items.

Source: B. Sarwar, G. Karypis, J. Konstan and J. Riedl, *Item-based collaborative filtering recommendation algorithms*
(WWW 2001), §3.1.1 and §3.2.1, with all neighbours.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from federation.evaluation.choice_metrics import Scores
from federation.evaluation.choice_plain import Scorer


def similarities(x: Scores) -> Scores:
    """Return the cosines (N, N) between the columns of x (people, N), 0 on the diagonal."""
    norm = np.sqrt((x * x).sum(axis=0))
    unit = x / np.where(norm > 0, norm, 1.0)
    cosine: Scores = unit.T @ unit
    np.fill_diagonal(cosine, 0.0)
    return cosine


def scorer(counts: Scores, validation: Sequence[tuple[int, int]]) -> Scorer:
    x = (counts > 0).astype(np.float64)
    scores = x @ similarities(x)

    def score(person: int, context: Mapping[str, str]) -> Scores:
        return scores[person]

    return score
