"""Spelling: a text's short runs of characters as a unit vector, hashed.

An encoder of meaning knows little of names that it was not trained on, and nothing of how they are misspelt. Runs of
letters still know them then, and also in languages that are written without spaces. Nobody need share a list of them: a
text is brought to NFKC and case-folded, each part between white space gets one space on either side, and each run of 2,
3 or 4 characters within such a part counts with a sign in one of 256 entries. Entry and sign come from a hash that is
the same in every process and on every platform. The empty text, and one whose runs cancel, gives zeros.

Sources: Weinberger et al. 2009 (feature hashing with signs); Bojanowski et al. 2017 (subwords as character runs);
Steele, Lea and Flood 2014 (the finaliser of SplitMix64).

>>> asked, youtube, gmail = spelling(["open youtoube", "youtube", "gmail"])
>>> bool(asked @ youtube > 0.4 > asked @ gmail)
True
"""

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.encoders.encoder import Vectors

SPELLING = 256
"""Floats in a vector of spelling."""
RUNS = (2, 3, 4)
_AT_ONCE = 1024  # Texts, so that many need little memory.

_Hashes = npt.NDArray[np.uint64]
_STEP = np.uint64(0x9E3779B97F4A7C15)


def spelling(texts: Sequence[str]) -> Vectors:
    """Return unit vectors, float32 (len(texts), SPELLING). Raises ``ValueError`` for a lone surrogate."""
    parts = [_spelling(texts[start : start + _AT_ONCE]) for start in range(0, len(texts), _AT_ONCE)]
    return np.concatenate(parts) if parts else np.zeros((0, SPELLING), dtype=np.float32)


def folded(text: str) -> str:
    """Return ``text`` in NFKC and case-folded."""
    # Folding can undo the normal form, so it is followed by another normalisation.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def of_length_one(rows: npt.NDArray[np.floating[Any]]) -> Vectors:
    """Return rows (n, d), each divided by its length, as float32; zeros stay zeros."""
    norms = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    scaled: Vectors = (rows / np.where(norms > 0, norms, 1.0)).astype(np.float32)
    return scaled


def _spelling(texts: Sequence[str]) -> Vectors:
    split = [folded(text).split() for text in texts]
    parts = [f" {part} " for its in split for part in its]
    codes = np.frombuffer("".join(parts).encode("utf-32-le"), dtype="<u4").astype(np.uint64)
    part = np.repeat(np.arange(len(parts)), [len(one) for one in parts])
    row = np.repeat(np.arange(len(texts)), [len(its) for its in split])  # Of each part.
    counts = np.zeros(len(texts) * SPELLING)
    for length in RUNS:
        starts = np.arange(len(codes) - length + 1)
        starts = starts[part[starts] == part[starts + length - 1]] if len(starts) else starts
        hashes = _hashed(codes, starts, length)
        places = row[part[starts]] * SPELLING + (hashes % np.uint64(SPELLING)).astype(np.int64)
        signs = np.where(hashes >> np.uint64(63), 1.0, -1.0)
        counts += np.bincount(places, weights=signs, minlength=len(counts))
    table = counts.reshape(len(texts), SPELLING)
    return of_length_one(table)


def _hashed(codes: _Hashes, starts: npt.NDArray[np.int64], length: int) -> _Hashes:
    """64-bit hashes (n,) of the runs of ``length`` codes that begin at ``starts`` (n,)."""
    state = np.full(len(starts), length, dtype=np.uint64)
    for offset in range(length):
        state = _mixed((state ^ codes[starts + offset]) * _STEP)
    return state


def _mixed(state: _Hashes) -> _Hashes:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
