"""The anchor of a run's ridge: half of the model that its rounds begin with.

A few rows a label do not say where its class vector lies, so the rounds' model is held near what the label's name
says, with half of the weight: names alone are surer of themselves than rows bear out. Biases are free.

>>> anchor_of(np.array([[1.0, 0.5, 0.0]], dtype=np.float32)).tolist()
[[0.5, 0.25, nan]]
"""

import numpy as np

from engine.encoders.encoder import Vectors

ANCHOR = "anchor"
"""The name under which a checkpoint's state keeps it."""
SHARE = 0.5


def anchor_of(table: Vectors) -> Vectors:
    """Return what rows (n, d + 1) of a start model are held to, float32: NaN for the biases, in the last column."""
    anchor: Vectors = np.asarray(SHARE * table, dtype=np.float32)
    anchor[:, -1] = np.nan
    return anchor
