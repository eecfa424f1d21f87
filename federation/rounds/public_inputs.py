"""Inputs of public texts, by which the server knows where texts lie before any device says so.

They are requests of invented people of the generated population: public, since the program that makes them is.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.encoders.encoder import Encoder, Vectors, load_encoder
from engine.model.checkpoint import Checkpoint
from engine.model.inputs import encode_inputs
from federation.errors import ConfigError
from federation.population import generate

PEOPLE, SEED = 30, 77_000


def public_texts() -> list[str]:
    """The texts, each once."""
    return list(dict.fromkeys(row.text for row in generate(PEOPLE, seed=SEED).rows))


def encode_public(texts: Sequence[str], encoder: Encoder, model: Checkpoint) -> Vectors:
    """Their inputs (n, D), as ``model`` takes them."""
    return encode_inputs(texts, encoder, model.dimension)


def public_inputs(path: str, model: Checkpoint) -> Vectors:
    """Return public inputs (n, D) from a file of numpy's, or by the encoder that ``model`` names.

    Raises `ConfigError` for a file that is missing or does not fit.
    """
    if not path:
        return encode_public(public_texts(), load_encoder(model.encoder), model)
    try:
        inputs = np.load(Path(path), allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"The public inputs {path} cannot be read: {error}.") from None
    if inputs.ndim != 2 or inputs.shape[1] != model.dimension:
        raise ConfigError(f"Expected public inputs of {model.dimension} numbers a text in {path}, got {inputs.shape}.")
    return np.asarray(inputs, dtype=np.float32)
