"""Recall: ranking what a search found by a small linear model, and saying of each why it is there.

A candidate's score is w · φ, φ standing in ``recall_features.py`` and w in ``recall_weights.py``. The candidates are
those of the store's fused search with what was kept just before and after each (``store/search/candidates.py``); only
memories that the reading may answer are candidates or neighbours. How rare a word is, and how long a memory usually is,
is taken from the whole store, as BM25 takes it. The same call gives the same order on every machine.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from engine.encoders.word_vectors import WordVectors
from engine.recall.because import Because
from engine.recall.features import FEATURES, Features, features_of
from engine.recall.weights import WEIGHTS
from engine.recall.word_match import match_words
from store import Candidates

Floats = npt.NDArray[np.float64]
MOST = 40
AROUND = 2
FUSION = {"meaning": 0.5, "soft": 0.5}
"""Plain fusion of standardised scores, for comparison: no date, neighbour or speaker counts."""


def rank(features: Features, weights: Mapping[str, float] = WEIGHTS) -> npt.NDArray[np.int64]:
    """The candidates' indices (n,), best first, equal scores in the order in which they were kept."""
    scores = features.matrix @ np.array([weights.get(name, 0.0) for name in FEATURES])
    return np.argsort(-scores, kind="stable")


def recall(
    text: str, candidates: Candidates, k: int, *, now: float, words: WordVectors | None
) -> list[tuple[int, Because]]:
    """The indices of the ``k`` best candidates, best first, each with its reasons. ``now`` is in Unix seconds."""
    if not len(candidates):
        return []
    features = features_of(text, candidates, now=now, words=words)
    return [(at, explain(features, at)) for at in rank(features)[:k].tolist()]


def explain(features: Features, at: int) -> Because:
    """Why candidate ``at`` is there."""
    return Because(
        words=tuple(features.exact_words(at)),
        like=tuple(features.similar_words(at)),
        dates=tuple(features.dates(at)),
        speaker=features.speakers[at] if features.named[at] else None,
        neighbour=features.neighbour(at),
    )


def shared_words(text: str, memories: Sequence[str]) -> list[Because]:
    """The reasons of a search by meaning or by words alone: which words of ``text`` each of ``memories`` has."""
    match = match_words(text, memories, None)
    return [
        Because(words=tuple(word for word, exact in zip(match.question, column, strict=True) if exact))
        for column in match.exact.T
    ]
