"""Subwords: a text's short runs of characters as a unit vector, hashed, so that no list of them need be shared.

An encoder of meaning knows little of names that it was not trained on; their letters say the rest. A text is brought
to NFKC, case-folded, and its white space to single spaces, one also at each end; each run of 2, 3 and 4 characters
counts with a sign in one of 512 entries, and the vector is brought to length 1. Entry and sign come from a 64-bit hash
that is the same in every process and on every platform. The empty text, and one whose runs cancel, gives zeros.

Sources: Weinberger et al. 2009 (feature hashing with signs); Bojanowski et al. 2017 (subwords as character runs);
Steele, Lea and Flood 2014 (the finaliser of SplitMix64).

>>> asked, youtube, gmail = subwords(["open youtoube", "youtube", "gmail"])
>>> bool(asked @ youtube > 0.4 > asked @ gmail)
True
"""

import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from engine.encoder import Vectors

SUBWORDS = 512
"""Floats in a vector of subwords."""
RUNS = (2, 3, 4)
_AT_ONCE = 1024  # Texts, so that many need little memory.

_Words = npt.NDArray[np.uint64]
_STEP = np.uint64(0x9E3779B97F4A7C15)


def subwords(texts: Sequence[str]) -> Vectors:
    """Return unit vectors, float32 (len(texts), SUBWORDS). Raises ``ValueError`` for a lone surrogate."""
    parts = [_subwords(texts[start : start + _AT_ONCE]) for start in range(0, len(texts), _AT_ONCE)]
    return np.concatenate(parts) if parts else np.zeros((0, SUBWORDS), dtype=np.float32)


def _subwords(texts: Sequence[str]) -> Vectors:
    tidy = [_tidied(text) for text in texts]
    codes = np.frombuffer("".join(tidy).encode("utf-32-le"), dtype="<u4").astype(np.uint64)
    row = np.repeat(np.arange(len(tidy)), [len(text) for text in tidy])
    counts = np.zeros(len(tidy) * SUBWORDS)
    for length in RUNS:
        starts = np.arange(len(codes) - length + 1)
        starts = starts[row[starts] == row[starts + length - 1]] if len(starts) else starts
        hashes = _hashed(codes, starts, length)
        places = row[starts] * SUBWORDS + (hashes % np.uint64(SUBWORDS)).astype(np.int64)
        signs = np.where(hashes >> np.uint64(63), 1.0, -1.0)
        counts += np.bincount(places, weights=signs, minlength=len(counts))
    matrix = counts.reshape(len(tidy), SUBWORDS)
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    vectors: Vectors = (matrix / np.where(norms > 0, norms, 1.0)).astype(np.float32)
    return vectors


def _tidied(text: str) -> str:
    # Folding can undo the normal form, so it is followed by another normalisation.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words = folded.split()
    return f" {' '.join(words)} " if words else ""


def _hashed(codes: _Words, starts: npt.NDArray[np.int64], length: int) -> _Words:
    """64-bit hashes (n,) of the runs of ``length`` codes that begin at ``starts`` (n,)."""
    state = np.full(len(starts), length, dtype=np.uint64)
    for offset in range(length):
        state = _mixed((state ^ codes[starts + offset]) * _STEP)
    return state


def _mixed(state: _Words) -> _Words:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
