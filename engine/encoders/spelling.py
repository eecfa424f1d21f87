"""Spelling: a text's words, pairs of words and short runs of characters as a unit vector, hashed.

An encoder of meaning knows little of names that it was not trained on, and takes words alike whose difference decides
("video call", "video"). Words and pairs say which ones stood there; runs of letters still know them when misspelt, and
in languages that are written without spaces. Nobody need share a list of them: a text is brought to NFKC, case-folded,
and its white space to single spaces, one also at each end; each word (weight 1), each pair of neighbouring words (a
half) and each run of 2, 3 or 4 characters counts with a sign in one of 512 entries. The words with their pairs, and the
runs, are each brought to length 1, and so is their sum. Entry and sign come from hashes that are the same in every
process and on every platform. The empty text, and one whose parts cancel, gives zeros.

Sources: Weinberger et al. 2009 (feature hashing with signs); Bojanowski et al. 2017 (subwords as character runs); Wang
and Manning 2012 (pairs of words in short texts); Steele, Lea and Flood 2014 (the finaliser of SplitMix64).

>>> asked, youtube, gmail = spelling(["open youtoube", "youtube", "gmail"])
>>> bool(asked @ youtube > 0.2 > asked @ gmail)
True
"""

import itertools
import re
import unicodedata
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from engine.encoders.encoder import Vectors

SPELLING = 512
"""Floats in a vector of spelling."""
RUNS = (2, 3, 4)
PAIR_WEIGHT = 0.5
_WORD = re.compile(r"\w+")
_AT_ONCE = 1024  # Texts, so that many need little memory.

_Hashes = npt.NDArray[np.uint64]
_Counts = npt.NDArray[np.float64]
_STEP = np.uint64(0x9E3779B97F4A7C15)


def spelling(texts: Sequence[str]) -> Vectors:
    """Return unit vectors, float32 (len(texts), SPELLING). Raises ``ValueError`` for a lone surrogate."""
    parts = [_spelling(texts[start : start + _AT_ONCE]) for start in range(0, len(texts), _AT_ONCE)]
    return np.concatenate(parts) if parts else np.zeros((0, SPELLING), dtype=np.float32)


def _spelling(texts: Sequence[str]) -> Vectors:
    tidy = [_tidied(text) for text in texts]
    both = _of_length_one(_words(tidy)) + _of_length_one(_runs(tidy))
    vectors: Vectors = _of_length_one(both).astype(np.float32)
    return vectors


def _of_length_one(counts: _Counts) -> _Counts:
    norms = np.sqrt(np.einsum("nd,nd->n", counts, counts))[:, None]
    scaled: _Counts = counts / np.where(norms > 0, norms, 1.0)
    return scaled


def _words(tidy: Sequence[str]) -> _Counts:
    """Signed counts (n, SPELLING) of words and of pairs of them."""
    places: list[int] = []
    weights: list[float] = []
    for row, text in enumerate(tidy):
        words = _WORD.findall(text)
        pairs = [f"{first} {second}" for first, second in itertools.pairwise(words)]
        for parts, weight in ((words, 1.0), (pairs, PAIR_WEIGHT)):
            codes = [zlib.crc32(part.encode()) for part in parts]
            places += [row * SPELLING + (code >> 1) % SPELLING for code in codes]
            weights += [weight if code & 1 else -weight for code in codes]
    where, signed = np.array(places, dtype=np.int64), np.array(weights, dtype=np.float64)
    counts = np.bincount(where, weights=signed, minlength=len(tidy) * SPELLING).astype(np.float64)
    return counts.reshape(len(tidy), SPELLING)


def _runs(tidy: Sequence[str]) -> _Counts:
    """Signed counts (n, SPELLING) of runs of characters."""
    codes = np.frombuffer("".join(tidy).encode("utf-32-le"), dtype="<u4").astype(np.uint64)
    row = np.repeat(np.arange(len(tidy)), [len(text) for text in tidy])
    counts = np.zeros(len(tidy) * SPELLING)
    for length in RUNS:
        starts = np.arange(len(codes) - length + 1)
        starts = starts[row[starts] == row[starts + length - 1]] if len(starts) else starts
        hashes = _hashed(codes, starts, length)
        places = row[starts] * SPELLING + (hashes % np.uint64(SPELLING)).astype(np.int64)
        signs = np.where(hashes >> np.uint64(63), 1.0, -1.0)
        counts += np.bincount(places, weights=signs, minlength=len(counts))
    return counts.reshape(len(tidy), SPELLING)


def _tidied(text: str) -> str:
    # Folding can undo the normal form, so it is followed by another normalisation.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words = folded.split()
    return f" {' '.join(words)} " if words else ""


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
