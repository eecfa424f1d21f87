"""The shared model: class vectors over frozen embeddings, started from the encoded label names.

A label's score is ``scale · (x · v_y + g·b_y)``. With the start vectors this is zero-shot classification by label
names; rounds move the vectors. All parameters are one flat float32 array of C·(d+1) numbers: C rows of d vector
entries and one bias. It is what rounds carry.

>>> import numpy as np
>>> model = Model(np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32))
>>> model.flat().shape, int(model.scores(np.array([[0.9, 0.1]], dtype=np.float32)).argmax())
((6,), 0)
"""

import math
from typing import Self

import numpy as np
import torch

from engine.encoders.encoder import Encoder, Vectors
from engine.errors import ModelError
from engine.model.catalogue import Catalogue
from engine.model.inputs import name_vectors
from engine.model.scoring import BIAS_GAIN, SCALE


class Model(torch.nn.Module):
    """C class vectors of d floats, and a bias each. ``forward`` maps (n, d) unit vectors to (n, C) logits."""

    def __init__(self, vectors: Vectors, bias: Vectors | None = None) -> None:
        super().__init__()
        classes, _ = vectors.shape
        self.vectors = torch.nn.Parameter(torch.tensor(vectors, dtype=torch.float32))  # (C, d)
        start = np.zeros(classes, dtype=np.float32) if bias is None else bias
        self.bias = torch.nn.Parameter(torch.tensor(start, dtype=torch.float32))  # (C,)

    @classmethod
    def from_catalogue(cls, catalogue: Catalogue, encoder: Encoder, dimension: int) -> Self:
        """Start from the encoded meanings of the labels: a model that no data has trained."""
        return cls(name_vectors([label.meaning for label in catalogue.labels], encoder, dimension))

    @classmethod
    def from_flat(cls, flat: Vectors, *, classes: int, dimension: int) -> Self:
        """Read the flat form; raise `ModelError` for another length, NaN or infinity."""
        if flat.shape != (flat_size(classes, dimension),):
            raise ModelError(f"Expected {flat_size(classes, dimension)} model numbers, got {flat.shape}.")
        if not np.isfinite(flat).all():
            raise ModelError("The model holds NaN or infinity. Go back with `tacit device model PATH --previous`.")
        table = np.asarray(flat, dtype=np.float32).reshape(classes, dimension + 1)
        return cls(np.ascontiguousarray(table[:, :dimension]), np.ascontiguousarray(table[:, dimension]))

    @property
    def classes(self) -> int:
        """The number of labels, C."""
        return int(self.vectors.shape[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n, C) for unit vectors ``x`` (n, d)."""
        return SCALE * (x @ self.vectors.T + BIAS_GAIN * self.bias)  # (n, C)

    def flat(self) -> Vectors:
        """Return all parameters as one float32 array (C·(d+1),)."""
        table = torch.cat([self.vectors, self.bias[:, None]], dim=1)  # (C, d + 1)
        flat: Vectors = table.detach().reshape(-1).numpy().copy()
        return flat

    def scores(self, x: Vectors) -> Vectors:
        """Return logits (n, C) as float32 for unit vectors ``x`` (n, d), without a gradient."""
        with torch.no_grad():
            scores: Vectors = self(torch.from_numpy(x)).numpy()
        return scores


def flat_size(classes: int, dimension: int) -> int:
    """Return the number of floats in a flat model: C·(d+1)."""
    return classes * (dimension + 1)


def class_count(flat: Vectors, dimension: int) -> int:
    """Return C of a flat model; raise `ModelError` if its length is no multiple of d+1."""
    if flat.ndim != 1 or flat.size == 0 or flat.size % (dimension + 1):
        raise ModelError(f"A model of {flat.size} numbers does not fit vectors of {dimension} floats.")
    return math.floor(flat.size / (dimension + 1))
