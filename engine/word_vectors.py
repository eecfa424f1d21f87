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

from engine.encoder import Encoder, Vectors, WrappedEncoder
from engine.onnx_encoder import OnnxEncoder

_LONGEST = 40


class WordVectors:
    """A table of pieces of words, split as WordPiece does it: greedily, the longest piece first."""

    def __init__(self, places: Mapping[str, int], table: Vectors, centre: Vectors | None = None) -> None:
        self._places, self._table = places, np.asarray(table)
        self._centre = np.zeros(table.shape[1], dtype=np.float32) if centre is None else centre

    def vectors(self, words: Sequence[str]) -> Vectors:
        """Unit vectors (n, d) of ``words``; 0 for a word that has a piece which is not in the table."""
        get = self._places.get
        pieces = [(whole,) if (whole := get(word)) is not None else self._pieces(word) for word in words]
        known = [at for at, its in enumerate(pieces) if its]
        result = np.zeros((len(words), self._table.shape[1]), dtype=np.float32)
        if not known:
            return result
        rows = self._table[[place for at in known for place in pieces[at]]] - self._centre
        if len(rows) > len(known):
            sizes = np.array([len(pieces[at]) for at in known])
            rows = np.add.reduceat(rows, np.cumsum(sizes) - sizes, axis=0)
        length = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
        result[known] = rows / np.where(length > 0, length, 1)
        return result

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
    while isinstance(encoder, WrappedEncoder):
        encoder = encoder.inner
    if not isinstance(encoder, OnnxEncoder):
        return None
    with _lock:
        if encoder not in _made:
            places, table = encoder.word_table()
            _made[encoder] = WordVectors(places, table, table.mean(axis=0, dtype=np.float32))
        return _made[encoder]
