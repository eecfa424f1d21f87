"""Vectors as bytes: what is accepted.

A vector of d floats is sealed as 4·d bytes, float32, little-endian.

>>> as_vector(np.zeros(2, dtype=np.float32), 3)
Traceback (most recent call last):
store.errors.DimensionError: Expected a vector of shape (3,), got (2,): encode with the store's own encoder.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from store.errors import DimensionError

Vectors = npt.NDArray[np.float32]

MAX_DIMENSION = 65_536
# Up to here no inner product of two vectors overflows float32: 65,536 · (1e15)² is 7e34, the limit 3e38.
MAX_COMPONENT = 1e15
STORED = np.dtype("<f4")


def check_dimension(dimension: int) -> None:
    """Raise ``DimensionError`` unless ``dimension`` is a whole number from 1 to 65,536."""
    if type(dimension) is not int or not 1 <= dimension <= MAX_DIMENSION:
        raise DimensionError(f"Expected dimension={dimension!r} as a whole number from 1 to {MAX_DIMENSION}.")


def as_vector(vector: Vectors, dimension: int) -> Vectors:
    """``vector`` if it is float32 of shape (dimension,) and finite. Raises ``DimensionError`` or ``ValueError``."""
    return _checked(vector, (dimension,), "a vector")


def as_matrix(vectors: Vectors, count: int, dimension: int) -> Vectors:
    """``vectors`` if float32 of shape (count, dimension) and finite. Raises ``DimensionError`` or ``ValueError``."""
    return _checked(vectors, (count, dimension), "vectors")


def _checked(array: Vectors, shape: tuple[int, ...], what: str) -> Vectors:
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"Expected {what} as a float32 array, got {got}: use np.asarray(x, dtype=np.float32).")
    if array.shape != shape:
        raise DimensionError(
            f"Expected {what} of shape {shape}, got {array.shape}: encode with the store's own encoder."
        )
    # Written so that NaN fails as well.
    if array.size and not np.abs(array).max() <= MAX_COMPONENT:
        raise ValueError(f"Expected {what} without NaN, infinity or sizes above {MAX_COMPONENT:g}: check the encoder.")
    return np.ascontiguousarray(array)


def vector_bytes(vector: Vectors) -> bytes:
    """The bytes that are sealed for one vector (d,)."""
    return vector.astype(STORED, copy=False).tobytes()
