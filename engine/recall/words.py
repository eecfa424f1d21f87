"""The words of texts as the ranking compares them: their terms, and the pieces that their vectors are made of.

>>> (its,) = words_in(["the dogs walked"], None)
>>> its.spelled()
[b'dogs', b'walked']
"""

from collections.abc import Sequence
from itertools import compress, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.encoders.word_vectors import Pieces, WordVectors
from store.index.terms import words_of

Hashes = npt.NDArray[np.uint64]
_BYTES = 220  # Of one of these without what it holds.


class Words(NamedTuple):
    """The words of one text that are terms, in order, packed, since a search joins those of hundreds of texts.

    ``letters`` has them in UTF-8 with spaces between; ``terms`` their terms' hashes, 8 bytes each; ``pieces`` the rows
    of the pieces of ``vectors`` that they are split into, 4 bytes each; ``sizes`` how many pieces, a byte each.
    """

    letters: bytes
    terms: bytes
    pieces: bytes
    sizes: bytes
    vectors: WordVectors | None

    @property
    def size_bytes(self) -> int:
        """Bytes in memory."""
        return _BYTES + len(self.letters) + len(self.terms) + len(self.pieces) + len(self.sizes)

    def spelled(self) -> list[bytes]:
        """Each word in UTF-8, as it stands in the text but in small letters."""
        return self.letters.split()


def words_in(texts: Sequence[str], vectors: WordVectors | None) -> list[Words]:
    """The words of each of ``texts``; function words are left out. Without ``vectors`` they have no pieces."""
    every, hashes, counts = words_of(texts, characters=True)
    kept = hashes != 0
    words, terms = list(compress(every, kept.tolist())), hashes[kept].tobytes()
    places, sizes = _split(words, vectors)
    word_ends = _sums(kept)[np.cumsum(counts)]
    piece_ends = 0 * word_ends if vectors is None else _sums(sizes)[word_ends]
    pieces, lengths = places.tobytes(), sizes.tobytes()
    spans = zip(pairwise([0, *word_ends.tolist()]), pairwise([0, *piece_ends.tolist()]), strict=True)
    return [
        Words(b" ".join(words[a:b]), terms[8 * a : 8 * b], pieces[4 * c : 4 * d], lengths[a:b], vectors)
        for (a, b), (c, d) in spans
    ]


def _sums(counts: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """How many there are before each (n + 1,) and in all."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _split(words: Sequence[bytes], vectors: WordVectors | None) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """The pieces (p,) of all words and how many each has (n,), none without vectors: each spelling is split once."""
    if vectors is None:
        return np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.uint8)
    number: dict[bytes, int] = {}
    which = np.array([number.setdefault(word, len(number)) for word in words], dtype=np.int64)
    its = vectors.pieces([word.decode() for word in number]).of(which)
    # The pieces of each word follow each other: from where its first stands here to where it stands among them all.
    shift = its.starts - (np.cumsum(its.sizes) - its.sizes)
    return its.places[np.repeat(shift, its.sizes) + np.arange(int(its.sizes.sum()))], its.sizes.astype(np.uint8)


def terms_in(texts: Sequence[Words]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """The hashes (words,) of the terms of all texts, one text after the other, and where each text ends (texts,)."""
    terms = [its.terms for its in texts]
    ends = np.cumsum([len(its) // 8 for its in terms], dtype=np.int64)
    return np.frombuffer(b"".join(terms), dtype=np.uint64), ends


def pieces_in(texts: Sequence[Words]) -> Pieces:
    """The pieces of the words of all texts, one text after the other."""
    places = np.frombuffer(b"".join([its.pieces for its in texts]), dtype=np.int32)
    sizes = np.frombuffer(b"".join([its.sizes for its in texts]), dtype=np.uint8).astype(np.int64)
    return Pieces(places, np.cumsum(sizes) - sizes, sizes)
