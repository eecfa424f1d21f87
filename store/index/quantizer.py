"""Codes of vectors: the signs of a rotated vector and one factor, made without looking at any other vector.

A vector is turned by a fixed public rotation; its code is the signs of the turned vector and a factor, from which inner
products are estimated without bias. Nothing is learned from data, so a forgotten vector leaves no trace in the codes of
others. Source: Gao and Long 2024 (RaBitQ, https://arxiv.org/abs/2405.12497).

>>> Quantizer(8).encode(np.eye(8, dtype=np.float32)[:2]).shape
(2, 5)
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np
import numpy.typing as npt

from store.format.vectors import Vectors, as_matrix, check_dimension

Codes = npt.NDArray[np.uint8]

_ROUNDS = 3
_SEED = b"tacit codes 1"
_MATRIX_DIMENSION = 1024  # Up to here the rotation is kept as a matrix, of 4 MB at most.
_FACTOR_BYTES = 4


class Quantizer:
    """Vectors (d,) to codes: the signs of the rotated vector, then a factor as float32, little-endian.

    The rotation is three rounds of: flip signs, permute, transform the first p coordinates, transform the last p.
    p is the largest power of two up to d, the transform is Walsh-Hadamard's over the square root of p. The d words of
    a round are 64 bits each, little-endian, from SHAKE-256 of "tacit codes 1", d as 4 bytes little-endian and the
    round (0 to 2) as one byte. An odd word flips its coordinate; the permutation puts words in ascending order.
    """

    def __init__(self, dimension: int) -> None:
        check_dimension(dimension)
        self.dimension = dimension
        self._rounds = [_round(dimension, number) for number in range(_ROUNDS)]
        self._matrix: Vectors | None = None

    @property
    def sign_bytes(self) -> int:
        """Bytes of the signs in a code."""
        return (self.dimension + 7) // 8

    @property
    def code_bytes(self) -> int:
        """Bytes of one code."""
        return self.sign_bytes + _FACTOR_BYTES

    def encode(self, vectors: Vectors) -> Codes:
        """The codes (n, code_bytes) of float32 ``vectors`` (n, d).

        Bit j, counted from the lowest bit of byte 0, is set if coordinate j of the rotated vector y is above zero. The
        factor is √d·Σy²/Σ|y|, or zero for the zero vector. Rounding may differ between machines and batch sizes, so
        compare no codes of the same vector byte by byte. Raises `DimensionError` and `ValueError` as `as_matrix` does.
        """
        return self.codes_of(as_matrix(vectors, len(vectors), self.dimension))

    def codes_of(self, vectors: Vectors) -> Codes:
        """As :meth:`encode`, of ``vectors`` that :func:`as_matrix` has let through: each add needs it once only."""
        turned = self.rotate(vectors)
        squares = (turned * turned).sum(axis=1, dtype=np.float64)
        sums = np.abs(turned).sum(axis=1, dtype=np.float64)
        sums[sums == 0] = 1.0
        factors = (squares * (self.dimension**0.5 / sums)).astype("<f4")
        signs = np.packbits(turned > 0, axis=1, bitorder="little")
        return np.concatenate([signs, factors.view(np.uint8).reshape(-1, _FACTOR_BYTES)], axis=1)

    def split(self, codes: Codes) -> tuple[Codes, Vectors]:
        """The signs (n, sign_bytes) and the factors (n,) in ``codes`` (n, code_bytes)."""
        signs, factors = np.split(codes, [self.sign_bytes], axis=1)
        return signs, np.ascontiguousarray(factors).view("<f4")[:, 0]

    def rotate(self, vectors: Vectors) -> Vectors:
        """The rotated ``vectors``, float32 (n, d); norms and inner products stay the same but for rounding."""
        if self.dimension > _MATRIX_DIMENSION:
            return self._transformed(vectors)
        if self._matrix is None:
            self._matrix = self._transformed(np.eye(self.dimension)).astype(np.float32)
        return vectors @ self._matrix

    def _transformed(self, vectors: npt.NDArray[np.floating]) -> Vectors:
        power = 1 << (self.dimension.bit_length() - 1)
        turned = np.ascontiguousarray(vectors.T)  # (d, n): what is added then lies together.
        for signs, order in self._rounds:
            turned = (turned * signs.astype(turned.dtype)[:, None])[order]
            _hadamard(turned[:power])
            if power < self.dimension:
                _hadamard(turned[-power:])
        return np.ascontiguousarray(turned.T)


@functools.lru_cache(maxsize=4)
def quantizer_for(dimension: int) -> Quantizer:
    """The quantizer for a dimension, made once a process: its rotation takes some milliseconds."""
    return Quantizer(dimension)


def _round(dimension: int, number: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int64]]:
    """The signs (d,) and the permutation (d,) of one round."""
    stream = hashlib.shake_256(_SEED + dimension.to_bytes(4, "little") + bytes([number])).digest(8 * dimension)
    words = np.frombuffer(stream, dtype="<u8")
    signs = 1 - 2 * (words & 1).astype(np.int8)
    return signs, np.argsort(words, kind="stable")


def _hadamard(part: npt.NDArray[np.floating]) -> None:
    """Transform each column of ``part`` (p, n) in place, p a power of two: an orthonormal Walsh-Hadamard transform."""
    width = 1
    while width < len(part):
        pairs = part.reshape(-1, 2, width, part.shape[1])  # A view: rows of ``part`` lie one after the other.
        differences = pairs[:, 0] - pairs[:, 1]
        pairs[:, 0] += pairs[:, 1]
        pairs[:, 1] = differences
        width *= 2
    part *= part.dtype.type(len(part) ** -0.5)
