"""Vectors of single words, so that "camped" is near "tent" though no letter of theirs agrees.

They are the rows of the encoder's own embedding layer, less their mean (Mu and Viswanath 2018, "All-but-the-Top"), so
they cost a look-up and no run of the model. A word of several pieces has the mean of their rows. An encoder without
such a table gives words no vectors: then a word is like itself alone.

>>> words = WordVectors({"tea": 0, "co": 1, "##co": 2}, np.eye(3, dtype=np.float32) * 3)
>>> (words.vectors(["cocoa", "coco"]) > 0).tolist()
[[False, False, False], [False, True, True]]
"""

import threading
import unicodedata
import weakref
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engine.encoders.encoder import Encoder, Vectors, WordTable, innermost

_LONGEST = 40


class Pieces(NamedTuple):
    """Of n words the pieces: rows of the table (p,), and where each word's begin among them and how many it has (n,).

    A word with a piece that is not in the table has none.
    """

    places: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]

    def of(self, which: npt.NDArray[np.integer]) -> "Pieces":
        """Those of some of the words."""
        return Pieces(self.places, self.starts[which], self.sizes[which])


class WordVectors:
    """A table of pieces of words, split as WordPiece does it: greedily, the longest piece first."""

    def __init__(self, places: Mapping[str, int], table: Vectors, centre: Vectors | None = None) -> None:
        self._places, self._table = places, np.asarray(table)
        self._centre = np.zeros(table.shape[1], dtype=np.float32) if centre is None else centre

    def vectors(self, words: Sequence[str]) -> Vectors:
        """Unit vectors (n, d) of ``words``; 0 for a word that has a piece which is not in the table."""
        rows, sizes = self._sums(self.pieces(words))
        rows -= sizes[:, None] * self._centre
        length = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
        rows /= np.where(length > 0, length, 1)
        return rows

    def cosines(self, words: Sequence[str], others: Pieces) -> Vectors:
        """The cosines (q, n) of the vectors of ``words`` (q,) and ``others`` (n), which are not made one by one."""
        ours, (rows, sizes) = self.vectors(words), self._sums(others)
        centre = self._centre
        products = np.concatenate([ours, centre[None]]) @ rows.T
        # |r - s·c|² = |r|² - 2s·(r·c) + s²|c|².
        squares = np.einsum("nd,nd->n", rows, rows) - 2 * sizes * products[-1] + sizes**2 * (centre @ centre)
        cosines: Vectors = products[:-1] - (ours @ centre)[:, None] * sizes
        cosines /= np.sqrt(np.where((squares > 0) & (sizes > 0), squares, np.inf))
        return cosines

    def split(self, words: Sequence[str]) -> list[Sequence[int]]:
        """The rows of the pieces of each word: none if one is not in the table."""
        wholes = map(self._places.get, words)
        return [self._pieces(word) if whole is None else (whole,) for word, whole in zip(words, wholes, strict=True)]

    def pieces(self, words: Sequence[str]) -> Pieces:
        """The same, joined."""
        split = self.split(words)
        sizes = np.array([len(its) for its in split], dtype=np.int64)
        places = np.array([place for its in split for place in its], dtype=np.int32)
        return Pieces(places, np.cumsum(sizes) - sizes, sizes)

    def _sums(self, words: Pieces) -> tuple[Vectors, Vectors]:
        """The summed rows (n, d) of each word's pieces, and how many it has (n,)."""
        places, starts, sizes = words
        if not len(places):
            return np.zeros((len(sizes), self._table.shape[1]), dtype=np.float32), sizes.astype(np.float32)
        # Most words have one piece; the others are put right below.
        firsts = places[np.minimum(starts, len(places) - 1)]
        result: Vectors = self._table.take(firsts, axis=0).astype(np.float32, copy=False)
        for size in np.unique(sizes[sizes != 1]).tolist():
            at = np.flatnonzero(sizes == size)
            which = places[starts[at] + np.arange(size)[:, None]]  # (size, words)
            result[at] = self._table[which].sum(axis=0) if size else 0
        return result, sizes.astype(np.float32)

    def _pieces(self, word: str) -> Sequence[int]:
        if len(word) > _LONGEST:
            return ()
        if not word.isascii():
            word = "".join(letter for letter in unicodedata.normalize("NFD", word) if not unicodedata.combining(letter))
        found: list[int] = []
        start = 0
        while start < len(word):
            for end in range(len(word), start, -1):
                place = self._places.get(word[start:end] if not start else "##" + word[start:end])
                if place is not None:
                    break
            else:
                return ()
            found.append(place)
            start = end
        return found


_made: weakref.WeakKeyDictionary[WordTable, WordVectors] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def word_vectors(encoder: Encoder) -> WordVectors | None:
    """The word vectors of ``encoder``, made once; ``None`` for one that has no table. Raises `EncoderError`."""
    encoder = innermost(encoder)
    if not isinstance(encoder, WordTable) or not encoder.word_dimension:
        return None
    with _lock:
        if encoder not in _made:
            places, table = encoder.word_table()
            _made[encoder] = WordVectors(places, table, table.mean(axis=0, dtype=np.float32))
        return _made[encoder]
