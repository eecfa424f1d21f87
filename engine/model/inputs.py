"""What the shared model sees of a text: its vector by the encoder and, for most models, its wording beside it.

Class vectors that no data has trained are the same of the label's name or meaning, with half of the wording: names are
short, and many words say that a label is meant.

The number of a checkpoint's floats a label says which: those of the encoder alone, or those of `wording` more. Search
and the memory's neighbours rest on the encoder's vectors alone.

>>> from engine.encoders.encoder import load_encoder
>>> encode_inputs(["hello"], load_encoder(), 384 + wording_size(load_encoder())).shape
(1, 1024)
"""

from collections.abc import Mapping, Sequence

import numpy as np

from engine.encoders.encoder import Encoder, Vectors, check_vectors
from engine.encoders.wording import wording, wording_size
from engine.errors import ModelError

NAME_WORDING = 0.5
"""Of a name's wording, what a class vector that starts from it has."""


def fits(dimension: int, encoder: Encoder) -> bool:
    """Whether a model of ``dimension`` floats a label can be used with this encoder."""
    return dimension in (encoder.dimension, encoder.dimension + wording_size(encoder))


def model_inputs(
    texts: Sequence[str],
    vectors: Vectors,
    dimension: int,
    encoder: Encoder,
    *,
    known: Mapping[str, Vectors] | None = None,
) -> Vectors:
    """Return (n, dimension) for n texts and the ``encoder``'s vectors (n, d) of them.

    Wordings that are ``known`` by text, each (wording_size,), are not made again. Raises `ModelError` for a misfit, and
    `EncoderError`.
    """
    if dimension == vectors.shape[1]:
        return vectors
    if dimension != vectors.shape[1] + wording_size(encoder):
        raise ModelError(f"A model of {dimension} floats a label does not fit vectors of {vectors.shape[1]} floats.")
    found = dict(known or {})
    new = [text for text in dict.fromkeys(texts) if text not in found]
    found |= zip(new, wording(new, encoder), strict=True)
    words = np.stack([found[text] for text in texts]) if texts else wording([], encoder)
    return np.concatenate([vectors, words], axis=1)


def encode_inputs(texts: Sequence[str], encoder: Encoder, dimension: int) -> Vectors:
    """Return the inputs (n, dimension) of texts that are yet to be encoded. Raises `EncoderError` and `ModelError`."""
    vectors = check_vectors(encoder.encode(texts), count=len(texts), encoder=encoder)
    return model_inputs(texts, vectors, dimension, encoder)


def name_vectors(names: Sequence[str], encoder: Encoder, dimension: int) -> Vectors:
    """Return the class vectors (n, dimension) that labels known by name alone start from. Raises as `encode_inputs`."""
    vectors = encode_inputs(names, encoder, dimension)
    if dimension > encoder.dimension:
        vectors[:, encoder.dimension :] *= NAME_WORDING
    return vectors
