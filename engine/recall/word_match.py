"""How much of each word of a question is in each of many texts: exactly, and softly by word vectors.

>>> from engine.recall.words import words_in
>>> match = match_words("walking the dog", words_in(["a dog that walks", "the cat"], None), None)
>>> match.question, match.exact.astype(int).tolist()
(('walking', 'dog'), [[1, 0], [1, 0]])
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.encoders.word_vectors import WordVectors
from engine.recall.words import Words, pieces_in, terms_in
from store.index.terms import words_of

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Match:
    """The q words of a question that are terms, each once, against n texts.

    ``hashes`` (q) are their terms'. ``exact`` (q, n) says whether a text has a word of the same stem; ``soft`` (q, n),
    0 to 1, how like the question's word its most similar word is, 1 being the same stem.
    """

    question: tuple[str, ...]
    hashes: tuple[int, ...]
    exact: npt.NDArray[np.bool_]
    soft: Floats
    _likeness: npt.NDArray[np.float32]
    _texts: Sequence[Words]
    _ends: npt.NDArray[np.int64]

    def nearest(self, row: int, at: int) -> str:
        """The word of text ``at`` that is most like the question's word ``row``."""
        start = int(self._ends[at - 1]) if at else 0
        return self._texts[at].spelled()[int(self._likeness[row, start : self._ends[at]].argmax())].decode()

    def side_by_side(self, weights: Floats) -> Floats:
        """The summed weights (n,) of the pairs of neighbouring question's words that each text has side by side.

        ``weights`` (q,) are the words'; a pair has the smaller one. Function words between two do not count.
        """
        total = np.zeros(self.exact.shape[1])
        starts = np.concatenate([[0], self._ends[:-1]])
        full = self._ends - starts > 1
        if len(self.question) < 2 or not full.any():
            return total
        has = self._likeness >= 1
        both = has[:-1, :-1] & has[1:, 1:]  # (q - 1, words - 1)
        both[:, self._ends[(self._ends > 0) & (self._ends < has.shape[1])] - 1] = False  # Of two texts.
        pairs = np.maximum.reduceat(both, starts[full], axis=1)
        total[full] = np.minimum(weights[:-1], weights[1:]) @ pairs
        return total


def match_words(question: str, texts: Sequence[Words], vectors: WordVectors | None) -> Match:
    """Match the words of ``question`` with those of ``texts``; without ``vectors`` only equal stems are alike."""
    asked, terms, _ = words_of([question])
    kept: dict[int, str] = {}
    for word, term in zip(asked, terms.tolist(), strict=True):
        if term:
            kept.setdefault(term, word.decode())
    wanted = np.array(list(kept), dtype=np.uint64)
    hashes, ends = terms_in(texts)
    unique, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    same = wanted[:, None] == unique[None, :]  # (q, u)
    alike = same.astype(np.float32)
    if vectors is not None and len(wanted) and len(unique):
        cosines = vectors.cosines(list(kept.values()), pieces_in(texts).of(first))
        alike = np.maximum(np.clip(cosines, 0, 0.99), alike)
    likeness = alike[:, inverse]  # (q, words)
    shape = (len(wanted), len(texts))
    soft, exact = np.zeros(shape), np.zeros(shape, dtype=np.bool_)
    starts = np.concatenate([[0], ends[:-1]])
    full = ends > starts
    if len(wanted) and full.any():
        soft[:, full] = np.maximum.reduceat(likeness, starts[full], axis=1)
        exact = soft >= 1
    return Match(
        question=tuple(kept.values()),
        hashes=tuple(wanted.tolist()),
        exact=exact,
        soft=soft,
        _likeness=likeness,
        _texts=texts,
        _ends=ends,
    )
