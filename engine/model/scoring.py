"""The shared model's scores as plain arithmetic: what `Model.forward` computes, without torch and its start-up.

>>> import numpy as np
>>> logits(np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]]), np.zeros(2)).tolist()
[[10.0, 0.0]]
"""

from typing import Any

import numpy.typing as npt

# Logits per unit of cosine: near the inverse temperature at which label names alone are best calibrated.
SCALE = 10.0
# The length of the constant entry that carries the bias, beside a unit vector.
BIAS_GAIN = 0.3


def logits(x: npt.NDArray[Any], class_vectors: npt.NDArray[Any], class_bias: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return logits (n, C) for unit vectors x (n, d), class vectors (C, d) and biases (C,)."""
    scores: npt.NDArray[Any] = SCALE * (x @ class_vectors.T + BIAS_GAIN * class_bias)
    return scores
