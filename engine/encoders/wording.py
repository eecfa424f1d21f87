"""Wording: which words a text uses and how they are spelt, beside what it means, as one unit vector.

An encoder's vector of a text says what it is about, and takes words alike whose difference decides ("video call",
"video"). Beside it stand the mean direction of the text's words, each by the encoder's own vector of it before any
context (`engine.encoders.word_vectors`), and its `engine.encoders.spelling`. An encoder without a table of words has
spelling alone.

Sources: Mikolov et al. 2013 and Wieting et al. 2016 (the mean of word vectors as a text's); Bojanowski et al. 2017.

>>> from engine.encoders.encoder import load_encoder
>>> call, video, news = wording(["video call", "a video", "the news"], load_encoder())
>>> len(call) == wording_size(load_encoder()), bool(call @ video > 0.4 > call @ news)
(True, True)
"""

import re
from collections.abc import Sequence

import numpy as np

from engine.encoders.encoder import Encoder, Vectors, word_dimension
from engine.encoders.spelling import SPELLING, folded, of_length_one, spelling
from engine.encoders.word_vectors import WordVectors, word_vectors

# Of the squared length, the share of the words; the rest is spelling's.
WORDS_SHARE = 0.6
_WORD = re.compile(r"\w+")
_AT_ONCE = 1024  # Texts, so that many need little memory.


def wording_size(encoder: Encoder) -> int:
    """Return the number of floats in a vector of wording: those of a word of ``encoder``, if any, and `SPELLING`."""
    return word_dimension(encoder) + SPELLING


def wording(texts: Sequence[str], encoder: Encoder) -> Vectors:
    """Return unit vectors, float32 (len(texts), wording_size(encoder)); zeros for a text without characters.

    Raises ``ValueError`` for a lone surrogate, and `EncoderError`.
    """
    spelt, table = spelling(texts), word_vectors(encoder)
    if table is None:
        return spelt
    used = [_used(texts[start : start + _AT_ONCE], table) for start in range(0, len(texts), _AT_ONCE)]
    words = np.concatenate(used) if used else np.zeros((0, word_dimension(encoder)), dtype=np.float32)
    both = np.concatenate([np.sqrt(WORDS_SHARE) * words, np.sqrt(1 - WORDS_SHARE) * spelt], axis=1)
    return of_length_one(both)


def _used(texts: Sequence[str], table: WordVectors) -> Vectors:
    """The mean direction (n, d) of each text's words; zeros where none is in the table."""
    split = [_WORD.findall(folded(text)) for text in texts]
    known = {word: place for place, word in enumerate(dict.fromkeys(word for its in split for word in its))}
    vectors = table.vectors(list(known))
    sums = np.zeros((len(texts), vectors.shape[1]), dtype=np.float32)
    for row, its in enumerate(split):  # In the order of the text, whatever stands beside it.
        if its:
            sums[row] = vectors[[known[word] for word in its]].sum(axis=0)
    return of_length_one(sums)
