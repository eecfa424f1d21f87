"""Made-up records of about 1 kB with unit vectors like those of real embeddings: the same for each seed and number.

Texts have 900 to 1,100 characters. Their words come from a vocabulary of 30,000 by Zipf's law (the word of rank r has
weight 1/r): the first ranks are English function words, the others are built of syllables and carry English endings,
so that a stop list and a stemmer find their usual work. Vectors are drawn around one of 500 centres, and the spread
around a centre is unequal along the directions (:data:`DECAY`), as it is for sentence embeddings. Equal spread would
make approximate search look too easy; with these settings sign codes miss somewhat more than on real texts.

>>> corpus = Corpus(seed=0)
>>> texts, vectors = corpus.batch(0, 4)
>>> len(texts), vectors.shape, all(900 <= len(text) <= 1100 for text in texts)
(4, (4, 384), True)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

DIMENSION = 384
VOCABULARY = 30_000
CENTRES = 500
DECAY = 0.7
SPREAD = 1.6
CHUNK = 1024  # Records that one random state makes.

_STOP = (
    "the of and to a in that it is was i for on you he be with as by at have are this not but had his they from she "
    "which or we an there her were one do been all their has would will what if can when so no said who more about up "
    "them some could him into its then two out time like only my did other me your now over just may these new also "
    "than any very our after first where most us because how through before between must should back here own under "
    "such many those each same both being while"
)
STOP_WORDS = tuple(_STOP.split())
_ONSETS = (*"bcdfghjlmnprstvw", "br", "cl", "cr", "dr", "fl", "gr", "pl", "pr", "sh", "st", "th", "tr")
_VOWELS = (*"aeiou", "ai", "ea", "ee", "io", "oa", "ou")
_CODAS = ("", "", *"nrltsmd", "nd", "nt", "st", "ck", "sh")
_ENDINGS = ("", "s", "ed", "ing", "er", "ly", "ness", "ation")


def vocabulary(rng: np.random.Generator) -> list[str]:
    """:data:`VOCABULARY` different words, the most frequent first; short ones tend to stand further to the front."""
    stems: dict[str, None] = {}
    while len(stems) < VOCABULARY // 2:
        syllables = 1 + int(rng.integers(3))
        parts = [str(rng.choice(part)) for _ in range(syllables) for part in (_ONSETS, _VOWELS, _CODAS)]
        stems["".join(parts)] = None
    words = dict.fromkeys(stem + ending for stem in stems for ending in _ENDINGS)
    for word in STOP_WORDS:
        words.pop(word, None)
    content = np.array([word for word in words if len(word) > 2])
    lengths = np.char.str_len(content)
    order = np.argsort(lengths + rng.exponential(4.0, len(content)))
    return [*STOP_WORDS, *content[order][: VOCABULARY - len(STOP_WORDS)].tolist()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """``vector`` (384,) of unit length; ``text`` a question of a few words; ``terms`` its words off the stop list."""

    vector: Floats
    text: str
    terms: tuple[str, ...]


class Corpus:
    """The records of one seed, made when asked for, so that a million of them need no memory."""

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed
        rng = np.random.default_rng([seed, 0])
        self.words = vocabulary(rng)
        self._lengths = np.array([len(word) + 1 for word in self.words])
        weights = 1.0 / np.arange(1, VOCABULARY + 1)
        self._cumulative = np.cumsum(weights / weights.sum())
        self._centres = rng.standard_normal((CENTRES, DIMENSION)).astype(np.float32) / np.sqrt(DIMENSION)  # (C, d)
        axes, _ = np.linalg.qr(rng.standard_normal((DIMENSION, DIMENSION)))
        scales = np.arange(1, DIMENSION + 1) ** -DECAY
        scales *= SPREAD / np.linalg.norm(scales)
        self._spread = (scales[:, None] * axes).astype(np.float32)  # (d, d)

    def batch(self, start: int, count: int) -> tuple[list[str], Floats]:
        """The texts and vectors (count, 384) of records ``start`` to ``start + count - 1``."""
        texts: list[str] = []
        vectors: list[Floats] = []
        for chunk in range(start // CHUNK, -(-(start + count) // CHUNK)):
            rng = np.random.default_rng([self.seed, 1, chunk])
            low, high = max(0, start - chunk * CHUNK), min(CHUNK, start + count - chunk * CHUNK)
            made = self._texts(rng)
            texts += made[low:high]
            vectors.append(self._vectors(rng, CHUNK)[low:high])
        return texts, np.concatenate(vectors) if vectors else np.zeros((0, DIMENSION), np.float32)

    def queries(self, count: int) -> list[Query]:
        """``count`` questions from the same distribution, none of them a record."""
        rng = np.random.default_rng([self.seed, 2])
        vectors = self._vectors(rng, count)
        made = []
        for vector in vectors:
            ranks = np.searchsorted(self._cumulative, rng.uniform(self._cumulative[len(STOP_WORDS)], 1.0, 5))
            terms = tuple(self.words[min(rank, VOCABULARY - 1)] for rank in ranks)
            made.append(Query(vector=vector, text=f"what did i say about {' '.join(terms)}", terms=terms))
        return made

    def _texts(self, rng: np.random.Generator) -> list[str]:
        draws = np.searchsorted(self._cumulative, rng.random((CHUNK, 400)))  # (n, words), more than any text needs
        draws = np.minimum(draws, VOCABULARY - 1)
        sizes = self._lengths[draws].cumsum(axis=1)
        counts = (sizes <= rng.integers(920, 1101, CHUNK)[:, None]).sum(axis=1)
        words = self.words
        return [" ".join([words[i] for i in row[:n].tolist()]) + "." for row, n in zip(draws, counts, strict=True)]

    def _vectors(self, rng: np.random.Generator, count: int) -> Floats:
        noise = rng.standard_normal((count, DIMENSION), dtype=np.float32) @ self._spread
        vectors = self._centres[rng.integers(CENTRES, size=count)] + noise
        unit: Floats = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32, copy=False)
        return unit
