"""Inputs of public texts, by which the server knows where texts lie before any device says so.

They are requests of invented people of the generated population: public, since the program that makes them is.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.encoders.encoder import Encoder, Vectors, load_encoder
from engine.errors import EncoderError, EncoderMismatchError
from engine.model.checkpoint import Checkpoint, check_encoder
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
    """Return public inputs (n, D) from a file of numpy's, or without one those of the default encoder.

    Raises `ConfigError` for a file that is missing or does not fit, and without a file where the default encoder is
    not the one that ``model`` was made with: a checkpoint holds a fingerprint, by which no encoder can be loaded.
    """
    if not path:
        try:
            encoder = load_encoder()
            check_encoder(model, encoder)
        except EncoderMismatchError:
            raise ConfigError(
                f"This model was made for encoder {model.encoder[:12]}…, which is not the default one: "
                "name a file of public inputs made by it with public."
            ) from None
        except EncoderError as error:
            raise ConfigError(f"{error} Or name a file of public inputs with public.") from None
        return encode_public(public_texts(), encoder, model)
    try:
        inputs = np.load(Path(path), allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"The public inputs {path} cannot be read: {error}.") from None
    if inputs.ndim != 2 or inputs.shape[1] != model.dimension:
        raise ConfigError(f"Expected public inputs of {model.dimension} numbers a text in {path}, got {inputs.shape}.")
    return np.asarray(inputs, dtype=np.float32)
