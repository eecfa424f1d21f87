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

import numpy as np

from engine.encoders.encoder import Encoder, Vectors, innermost
from engine.encoders.onnx_encoder import OnnxEncoder

_LONGEST = 40


class WordVectors:
    """A table of pieces of words, split as WordPiece does it: greedily, the longest piece first."""

    def __init__(self, places: Mapping[str, int], table: Vectors, centre: Vectors | None = None) -> None:
        self._places, self._table = places, np.asarray(table)
        self._centre = np.zeros(table.shape[1], dtype=np.float32) if centre is None else centre

    def vectors(self, words: Sequence[str]) -> Vectors:
        """Unit vectors (n, d) of ``words``; 0 for a word that has a piece which is not in the table."""
        rows, sizes = self._sums(words)
        rows -= sizes[:, None] * self._centre
        length = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
        rows /= np.where(length > 0, length, 1)
        return rows

    def cosines(self, words: Sequence[str], others: Sequence[str]) -> Vectors:
        """The cosines (q, n) of the vectors of ``words`` (q,) and ``others`` (n,), which are not made one by one."""
        ours, (rows, sizes) = self.vectors(words), self._sums(others)
        centre = self._centre
        products = np.concatenate([ours, centre[None]]) @ rows.T
        # |r - s·c|² = |r|² - 2s·(r·c) + s²|c|².
        squares = np.einsum("nd,nd->n", rows, rows) - 2 * sizes * products[-1] + sizes**2 * (centre @ centre)
        cosines: Vectors = products[:-1] - (ours @ centre)[:, None] * sizes
        cosines /= np.sqrt(np.where((squares > 0) & (sizes > 0), squares, np.inf))
        return cosines

    def _sums(self, words: Sequence[str]) -> tuple[Vectors, Vectors]:
        """The summed rows (n, d) of each word's pieces, and how many it has (n,): none if one is not in the table."""
        get = self._places.get
        of_size: dict[int, tuple[list[int], list[Sequence[int]]]] = {}  # Words, and pieces of each, by their number.
        for at, word in enumerate(words):
            whole = get(word)
            pieces = self._pieces(word) if whole is None else (whole,)
            alike = of_size.setdefault(len(pieces), ([], []))
            alike[0].append(at)
            alike[1].append(pieces)
        result = np.zeros((len(words), self._table.shape[1]), dtype=np.float32)
        sizes = np.zeros(len(words), dtype=np.float32)
        for size, (places, parts) in of_size.items():
            if size:
                which = np.array(parts)
                result[places] = self._table[which.T].sum(axis=0) if size > 1 else self._table[which[:, 0]]
                sizes[places] = size
        return result, sizes

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


_made: weakref.WeakKeyDictionary[OnnxEncoder, WordVectors] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def word_vectors(encoder: Encoder) -> WordVectors | None:
    """The word vectors of ``encoder``, made once; ``None`` for one that has no table. Raises `EncoderError`."""
    encoder = innermost(encoder)
    if not isinstance(encoder, OnnxEncoder):
        return None
    with _lock:
        if encoder not in _made:
            places, table = encoder.word_table()
            _made[encoder] = WordVectors(places, table, table.mean(axis=0, dtype=np.float32))
        return _made[encoder]
