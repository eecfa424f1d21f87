"""Codes in blocks of 32 rows, laid out as FAISS scans them in registers, on the disk as in memory.

A block has, for each byte of a row's signs, 32 bytes: the first 16 hold the byte's lower halves, the last 16 its upper
halves; byte p of either belongs to row r and, in its own upper half, to row r + 16, where r is the p-th of 0, 8, 1, 9,
and so on to 7, 15. So a segment's codes are opened straight into the table.

Sources: André, Kermarrec and Le Scouarnec 2017 (scan of packed 4-bit codes in registers,
https://arxiv.org/abs/1704.07355); Douze et al. 2024 (FAISS, https://arxiv.org/abs/2401.08281).

>>> signs = np.arange(80, dtype=np.uint8).reshape(40, 2)
>>> packed = packed_signs(signs)
>>> packed.shape, (unpacked_signs(packed)[:40] == signs).all()
((2, 2, 2, 16), np.True_)
"""

from __future__ import annotations

import ctypes
import mmap
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from store.format.vectors import Vectors
from store.index.quantizer import Codes, Quantizer

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
LANES = 32  # Rows in a block.
_TANGLED = np.array([0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15])  # Which row a byte of a block begins with.
_UNTANGLED = np.argsort(_TANGLED)
_BURIED = -1.0  # In place of the factor of a row that is gone.
_FAR = 3e38  # An addend that puts such a row behind all others.
_QUERY_NORM = 2.0**-60  # FAISS adds and subtracts the query's squared norm: so small, it cancels nothing.
_LARGE_PAGE = 2 * 1024 * 1024
_STEP = 2048  # Rows packed at a time, so that they stay in the processor's cache.


def packed_signs(signs: Codes) -> Codes:
    """Signs (n, width) as blocks (⌈n/32⌉, width, 2, 16); rows that fill the last block are zero."""
    blocks = -(-len(signs) // LANES)
    if len(signs) % LANES:
        signs = np.concatenate([signs, np.zeros((-len(signs) % LANES, signs.shape[1]), dtype=np.uint8)])
    first, second = signs.reshape(blocks, 2, 16, signs.shape[1]).transpose(1, 0, 2, 3)  # (blocks, 16, width) each
    lower, upper = first & 15 | second << 4, first >> 4 | second & 240
    pairs = np.stack([lower[:, _TANGLED], upper[:, _TANGLED]], axis=1)  # (blocks, 2, 16, width)
    return np.ascontiguousarray(pairs.transpose(0, 3, 1, 2))


def unpacked_signs(packed: Codes) -> Codes:
    """The signs (32·blocks, width) in blocks (blocks, width, 2, 16)."""
    pairs = np.ascontiguousarray(packed.transpose(0, 3, 2, 1)[:, _UNTANGLED])  # (blocks, 16, 2, width)
    lower, upper = pairs[:, :, 0], pairs[:, :, 1]
    halves = np.empty((len(packed), 2, 16, packed.shape[1]), dtype=np.uint8)
    np.bitwise_or(lower & 15, upper << 4, out=halves[:, 0])
    np.bitwise_or(lower >> 4, upper & 240, out=halves[:, 1])
    return halves.reshape(LANES * len(packed), -1)


def packed_without(packed: Codes, kept: Bools) -> Codes:
    """``packed`` (blocks, width, 2, 16) with only those of its n first rows that are ``kept`` (n,)."""
    if kept.all():
        return packed
    block = int(kept.argmin()) // LANES  # The first one that changes.
    left = kept[block * LANES :]
    return np.concatenate([packed[:block], packed_signs(unpacked_signs(packed[block:])[: len(left)][left])])


class Blocks(ABC):
    """Rows by place in blocks of signs, each with its factor; a buried row keeps its place. Base of the two below."""

    floats = 0  # How many floats FAISS keeps with each row, in its block.

    def __init__(self, quantizer: Quantizer, index: Any) -> None:
        self._width = quantizer.sign_bytes
        self._dimension = quantizer.dimension
        self._faiss = index
        self._bytes: Codes = np.empty(0, dtype=np.uint8)  # A view of FAISS's memory.
        self._factors: Vectors = np.empty(0, dtype=np.float32)  # By place, with room to grow.

    @property
    def count(self) -> int:
        """Rows, the buried ones included."""
        return int(self._faiss.ntotal)

    @property
    def size_bytes(self) -> int:
        """Bytes of the blocks in use, and of the factors."""
        return self._blocks(0, self._filled()).nbytes + (self._factors.nbytes if self.count else 0)

    def reserve(self, count: int) -> None:
        """Get memory for so many rows. What is left behind is zeroed before it is given back."""
        size = -(-count // LANES) * LANES * (self._width + 4 * self.floats)
        if size <= self._bytes.size:
            return
        import faiss

        used, codes = self._blocks(0, self._filled()).nbytes, self._faiss.codes
        kept = self._bytes[:used].copy()
        self._bytes[:used] = 0
        size = codes.round_capacity(size)  # What FAISS takes anyway; pages that are never written cost nothing.
        codes.resize(size)
        self._bytes = faiss.rev_swig_ptr(codes.get(), size)
        _prefer_large_pages(self._bytes)
        self._bytes[:used] = kept
        kept[:] = 0
        factors = np.empty(size // (self._width + 4 * self.floats), dtype=np.float32)
        factors[: self.count] = self._factors[: self.count]
        self._factors = factors

    def append(self, signs: Codes, factors: Vectors) -> None:
        """Write rows, (n, width) and (n,), behind the last."""
        start, end = self.count, self.count + len(signs)
        self.reserve(end)
        head = min(-start % LANES, len(signs))
        for row in range(head):
            self._put(start + row, signs[row], float(factors[row]))
        for row in range(head, len(signs), _STEP):
            part = slice(row, row + _STEP)
            self._write((start + row) // LANES, packed_signs(signs[part]), factors[part])
        self._end_at(end)

    def append_blocks(self, parts: Sequence[tuple[Codes, Vectors]]) -> None:
        """Write whole blocks (blocks, width, 2, 16) with the factors (n,) of their first rows, behind whole blocks.

        The rows that only fill the last block of a part are buried.
        """
        if self.count % LANES:
            raise ValueError("Expected whole blocks before these: append rows instead.")
        block = self.count // LANES
        self.reserve(LANES * (block + sum(len(packed) for packed, _ in parts)))
        for packed, factors in parts:
            self._write(block, packed, factors)
            if len(factors) < LANES * len(packed):
                self._bury_filling(LANES * block + len(factors), LANES * (block + len(packed)))
            block += len(packed)
        self._end_at(LANES * block)

    def bury(self, place: int) -> None:
        """Zero a row, which no search finds from then on."""
        self._put(place, np.zeros(self._width, dtype=np.uint8), _BURIED)

    def is_live(self, place: int) -> bool:
        """Whether a row is not buried."""
        return bool(self._factors[place] >= 0)

    def live(self) -> npt.NDArray[np.intp]:
        """The places of the rows that are not buried, ascending."""
        return np.flatnonzero(self._factors[: self.count] >= 0)

    def rows(self, places: npt.NDArray[np.intp]) -> tuple[Codes, Vectors]:
        """The signs (n, width) and factors (n,) of these places, which ascend."""
        signs = np.empty((len(places), self._width), dtype=np.uint8)
        starts = range(0, self.count, _STEP)
        for start, (low, high) in zip(starts, pairwise([*np.searchsorted(places, starts), len(places)]), strict=True):
            packed = self._signs(start // LANES, -(-min(start + _STEP, self.count) // LANES))
            signs[low:high] = unpacked_signs(packed)[places[low:high] - start]
        return signs, self._factors[places]

    def clear(self) -> None:
        """Zero all rows and drop them."""
        self._bytes[:] = 0
        self._faiss.ntotal = self._faiss.ntotal2 = 0
        self._faiss.codes.resize(0)
        self._bytes, self._factors = np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.float32)

    @abstractmethod
    def search(self, unit: Vectors, k: int) -> tuple[Floats, Places, Vectors]:
        """The k rows that a rotated query of norm one (1, d) fits best: estimates (k,), best first, places, factors.

        ``k`` is at most the number of rows that are not buried.
        """

    def _end_at(self, count: int) -> None:
        # FAISS scans the rows up to ntotal2, which fill blocks, and passes over those from ntotal on.
        self._faiss.ntotal, self._faiss.ntotal2 = count, -(-count // LANES) * LANES

    def _filled(self) -> int:
        return -(-self.count // LANES)

    def _blocks(self, first: int, last: int) -> Codes:
        stride = LANES * (self._width + 4 * self.floats)
        return self._bytes[first * stride : last * stride].reshape(last - first, stride)

    def _signs(self, first: int, last: int) -> Codes:
        """Signs (blocks, width, 2, 16), writable."""
        return self._blocks(first, last)[:, : LANES * self._width].reshape(last - first, self._width, 2, 16)

    def _put(self, place: int, signs: Codes, factor: float) -> None:
        block, lane = divmod(place, LANES)
        pairs = self._signs(block, block + 1)[0, :, :, _UNTANGLED[lane % 16]]  # (width, 2)
        shift, kept = (0, 240) if lane < 16 else (4, 15)
        pairs &= np.uint8(kept)
        pairs[:, 0] |= (signs & 15) << shift
        pairs[:, 1] |= (signs >> 4) << shift
        self._factors[place] = factor

    def _write(self, block: int, packed: Codes, factors: Vectors) -> None:
        """Write blocks from ``block`` on, and the factors (n,) of their rows."""
        self._signs(block, block + len(packed))[:] = packed
        self._factors[LANES * block : LANES * block + len(factors)] = factors

    def _bury_filling(self, start: int, end: int) -> None:
        """Bury the rows that only fill a block, from place ``start`` to ``end``: their signs are zero already."""
        self._factors[start:end] = _BURIED


def _prefer_large_pages(memory: Codes) -> None:
    """Ask Linux for pages of 2 MB under a large table, as NumPy does for arrays: filling it takes a fifth of the time.

    A wish that the system may not know or not grant, so that what it answers makes no difference.
    """
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    start, end = -(-memory.ctypes.data // _LARGE_PAGE), (memory.ctypes.data + memory.nbytes) // _LARGE_PAGE
    if advice is None or end <= start:
        return
    libc = ctypes.CDLL(None)
    libc.madvise(ctypes.c_void_p(start * _LARGE_PAGE), ctypes.c_size_t((end - start) * _LARGE_PAGE), advice)


class SignBlocks(Blocks):
    """For rows of like factors, such as those of unit vectors: finds by signs, and estimates what it found.

    FAISS sums up a table of each four coordinates' sums under their 16 patterns of signs, as it does for products of
    codebooks; these codebooks are fixed. Several times as fast as weighing each row by its factor.
    """

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__(quantizer, _scan_of_signs(quantizer.sign_bytes))

    def search(self, unit: Vectors, k: int) -> tuple[Floats, Places, Vectors]:
        """See :meth:`Blocks.search`."""
        query, spare = unit, 8 * self._width - self._dimension
        if spare:
            query = np.pad(unit, ((0, 0), (0, spare)))
        wanted = k
        while True:
            ((scores,), (places,)) = self._faiss.search(query, wanted)  # (wanted,) each
            factors = self._factors.take(places)
            live = (factors >= 0).nonzero()[0][:k]
            if len(live) == k or wanted == self.count:
                break
            wanted = min(self.count, wanted + int((self._factors[: self.count] < 0).sum()))
        # Where none is buried, the usual case, nothing is left out.
        scores, places, factors = (its if len(live) == wanted else its[live] for its in (scores, places, factors))
        estimates = scores.astype(np.float64) * factors
        estimates /= self._dimension**0.5
        order = (-estimates).argsort(kind="stable")
        return estimates[order], places[order], factors[order]


class WeighedBlocks(Blocks):
    """For rows of any factors: FAISS weighs each row by its factor as it scans (RaBitQ).

    With each row FAISS keeps two floats: an addend, which is zero for inner products, and the factor.
    """

    floats = 2

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__(quantizer, _scan_of_weighed(quantizer.dimension))

    def search(self, unit: Vectors, k: int) -> tuple[Floats, Places, Vectors]:
        """See :meth:`Blocks.search`."""
        scores, places = self._faiss.search(unit * np.float32(_QUERY_NORM), k)  # (1, k) each
        return scores[0].astype(np.float64) / _QUERY_NORM, places[0], self._factors[places[0]]

    def _weights(self, first: int, last: int) -> Vectors:
        """Addends and factors (blocks, 32, 2), writable."""
        return self._blocks(first, last)[:, LANES * self._width :].view(np.float32).reshape(last - first, LANES, 2)

    def _put(self, place: int, signs: Codes, factor: float) -> None:
        super()._put(place, signs, factor)
        block, lane = divmod(place, LANES)
        self._weights(block, block + 1)[0, lane] = (_FAR, 0) if factor < 0 else (0, factor)

    def _write(self, block: int, packed: Codes, factors: Vectors) -> None:
        super()._write(block, packed, factors)
        weights = np.zeros((LANES * len(packed), 2), dtype=np.float32)
        weights[: len(factors), 1] = factors
        self._weights(block, block + len(packed))[:] = weights.reshape(len(packed), LANES, 2)

    def _bury_filling(self, start: int, end: int) -> None:
        super()._bury_filling(start, end)
        self._weights(end // LANES - 1, end // LANES)[0, start % LANES :] = (_FAR, 0)


def _scan_of_signs(width: int) -> Any:
    """An empty index of FAISS over codes of ``width`` bytes; raises `RuntimeError` as :func:`_checked` does."""
    import faiss  # Takes 0.2 s, so only a store that is searched pays for it.

    faiss.omp_set_num_threads(1)
    index: Any = faiss.IndexPQFastScan(8 * width, 2 * width, 4, faiss.METRIC_INNER_PRODUCT)
    patterns = 2.0 * (np.arange(16)[:, None] >> np.arange(4) & 1) - 1  # (16, 4): a set bit is a plus.
    faiss.copy_array_to_vector(np.tile(patterns.ravel(), 2 * width).astype(np.float32), index.pq.centroids)
    index.is_trained = True
    return _checked(index, index.bbs == LANES and 2 * width == index.M2)


def _scan_of_weighed(dimension: int) -> Any:
    """An empty index of FAISS for rows of any factors; raises `RuntimeError` as :func:`_checked` does."""
    import faiss

    faiss.omp_set_num_threads(1)
    index: Any = faiss.IndexRaBitQFastScan(dimension, faiss.METRIC_INNER_PRODUCT)
    index.is_trained = True  # There is nothing to train: the centre stays at zero.
    return _checked(index, index.get_block_stride() == LANES * ((dimension + 7) // 8 + 8))


def _checked(index: Any, known: bool) -> Any:
    """``index``; raises `RuntimeError` where FAISS lays out its blocks otherwise."""
    import faiss

    if not known:
        raise RuntimeError(f"FAISS {faiss.__version__} keeps codes in a way that is not known here: install 1.15.")
    return index
