"""Recall: ranking what a search found by a small linear model, and saying of each why it is there.

A candidate's score is w · φ, φ standing in ``features.py`` and w in ``weights.py``. The candidates are those of the
store's fused search, of the days that the question names once more, with what was kept just before and after each
(``store/search/candidates.py``); only memories that the reading may answer are candidates or neighbours. How rare a
word is, and how long a memory usually is, is taken from the whole store, as BM25 takes it. The same call gives the same
order on every machine.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from engine.encoders.word_vectors import WordVectors
from engine.recall.because import Because
from engine.recall.features import FEATURES, Features, features_of
from engine.recall.query import Query
from engine.recall.traits import ReadBy
from engine.recall.weights import WEIGHTS
from engine.recall.word_match import match_words
from engine.recall.words import words_in
from store import Candidates, EncryptedStore, Where

Floats = npt.NDArray[np.float64]
_MOST = 40
_AROUND = 2
_ALL = Where()
FUSION = {"meaning": 0.5, "soft": 0.5}
"""Plain fusion of standardised scores, for comparison: no date, neighbour or speaker counts."""


def find(
    store: EncryptedStore, query: Query, *, words: WordVectors | None, k: int = 0, where: Where = _ALL
) -> Candidates:
    """What may answer ``query``: more candidates than `recall` usually gives back, at least ``k`` if there are.

    With each the store keeps what a ranking by ``words`` reads of it.
    """
    most, then = max(_MOST, k), query.spans()
    return store.candidates(
        query.vector, query.text, most=most, around=_AROUND, where=where, then=then, derive=ReadBy(words)
    )


def rank(features: Features, weights: Mapping[str, float] = WEIGHTS) -> npt.NDArray[np.int64]:
    """The candidates' indices (n,), best first, equal scores in the order in which they were kept."""
    scores = features.matrix @ np.array([weights.get(name, 0.0) for name in FEATURES])
    return np.argsort(-scores, kind="stable")


def recall(query: Query, candidates: Candidates, k: int, *, words: WordVectors | None) -> list[tuple[int, Because]]:
    """The indices of the ``k`` best candidates, best first, each with its reasons."""
    if not len(candidates):
        return []
    features = features_of(query, candidates, words=words)
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
    match = match_words(text, words_in(memories, None), None)
    return [
        Because(words=tuple(word for word, exact in zip(match.question, column, strict=True) if exact))
        for column in match.exact.T
    ]
