"""The embedding index: one code of d/8 + 4 bytes a vector, made without looking at other vectors, searched with FAISS.

A vector is turned by a fixed public rotation; its code is the signs of the turned vector and one factor, from which
inner products are estimated without bias. Nothing is learned from data, so a forgotten vector leaves no trace in the
codes of others. The estimate is rough: take :func:`candidates_for` rows and rank these again by their exact vectors.

Sources: Gao and Long 2024 (RaBitQ, https://arxiv.org/abs/2405.12497); André, Kermarrec and Le Scouarnec 2017 (scan of
packed 4-bit codes in registers, https://arxiv.org/abs/1704.07355); Douze et al. 2024 (FAISS,
https://arxiv.org/abs/2401.08281).

>>> quantizer = Quantizer(8)
>>> index = CodeIndex(quantizer)
>>> index.extend(np.array([7, 9]), quantizer.encode(np.eye(8, dtype=np.float32)[:2]))
>>> index.search(np.eye(8, dtype=np.float32)[1], 1)[0].tolist(), quantizer.code_bytes
([9], 5)
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from store.errors import DimensionError, TamperedError
from store.vectors import Vectors, as_matrix, as_vector, check_dimension

Codes = npt.NDArray[np.uint8]
Slots = npt.NDArray[np.int64]

RERANK = 200  # Rows to rank again by their vectors for up to 10 results: recall@10 is above 0.99 (benchmarks/codes.py).
_ROUNDS = 3
_SEED = b"tacit codes 1"
_MATRIX_DIMENSION = 1024  # Up to here the rotation is kept as a matrix, of 4 MB at most.
_FACTOR_BYTES = 4
_LANES = 32  # Rows in a packed block.
_FLOATS_BYTES = 8  # FAISS keeps two floats a row.
_TANGLED = np.array([0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15])  # Which row a byte of a block begins with.
_UNTANGLED = np.argsort(_TANGLED)
_DEAD = 3e38  # An addend that puts a removed row behind all live ones.
_QUERY_NORM = 2.0**-60  # FAISS adds and subtracts the query's squared norm: so small, it cancels nothing.
_STEP = 2048  # Rows packed at a time, so that they stay in the processor's cache.
_STRAYS = 1024  # Rows out of order that are looked up in a dictionary before all are sorted.


def candidates_for(k: int) -> int:
    """How many rows to take from the index and rank again by their vectors, to find the ``k`` best."""
    return max(RERANK, 8 * k)


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
        if dimension <= _MATRIX_DIMENSION:
            self._matrix = self._transformed(np.eye(dimension)).astype(np.float32)

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
        turned = self.rotate(as_matrix(vectors, len(vectors), self.dimension))
        codes = np.empty((len(turned), self.code_bytes), dtype=np.uint8)
        codes[:, : self.sign_bytes] = np.packbits(turned > 0, axis=1, bitorder="little")
        squares = np.einsum("ij,ij->i", turned, turned, dtype=np.float64)
        sums = np.abs(turned).sum(axis=1, dtype=np.float64)
        factors = self.dimension**0.5 * squares / np.where(sums > 0, sums, 1.0)
        codes[:, self.sign_bytes :] = factors.astype("<f4").view(np.uint8).reshape(-1, _FACTOR_BYTES)
        return codes

    def rotate(self, vectors: Vectors) -> Vectors:
        """The rotated ``vectors``, float32 (n, d); norms and inner products stay the same but for rounding."""
        if self._matrix is not None:
            return vectors @ self._matrix
        return self._transformed(vectors)

    def _transformed(self, vectors: npt.NDArray[np.floating]) -> Vectors:
        power = 1 << (self.dimension.bit_length() - 1)
        for signs, order in self._rounds:
            vectors = (vectors * signs.astype(vectors.dtype))[:, order]
            _hadamard(vectors[:, :power])
            if power < self.dimension:
                _hadamard(vectors[:, -power:])
        return vectors


def _round(dimension: int, number: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int64]]:
    """The signs (d,) and the permutation (d,) of one round."""
    stream = hashlib.shake_256(_SEED + dimension.to_bytes(4, "little") + bytes([number])).digest(8 * dimension)
    words = np.frombuffer(stream, dtype="<u8")
    signs = 1 - 2 * (words & 1).astype(np.int8)
    return signs, np.argsort(words, kind="stable")


def _hadamard(part: npt.NDArray[np.floating]) -> None:
    """Transform each row of ``part`` (n, p) in place, p a power of two: an orthonormal Walsh-Hadamard transform."""
    size = part.shape[1]
    values, width = np.ascontiguousarray(part), 1
    while width < size:
        pairs = values.reshape(len(part), -1, 2, width)
        values = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2)
        width *= 2
    part[:] = values.reshape(part.shape) * values.dtype.type(size**-0.5)


class CodeIndex:
    """Codes in memory by slot, some 60 bytes a row for 384 dimensions. Not safe for several threads.

    Rows lie mostly in ascending order of their slots; those that came out of order are looked up in a dictionary until
    all are sorted again. A removed row is zeroed and keeps its place until more than one in eight are removed.
    """

    def __init__(self, quantizer: Quantizer) -> None:
        self.quantizer = quantizer
        self._table = _Table(quantizer)
        self._slots: npt.NDArray[np.uint32 | np.int64] = np.empty(0, dtype=np.uint32)  # By place, with room to grow.
        self._sorted = 0  # The first places, whose slots ascend.
        self._strays: dict[int, int] = {}  # The places of live rows beyond these, by slot.
        self._dead = 0

    def __len__(self) -> int:
        return self._table.count - self._dead

    @property
    def size_bytes(self) -> int:
        """Bytes in memory of codes, factors and slots."""
        strays = sys.getsizeof(self._strays) + 64 * len(self._strays)
        return self._table.size_bytes + self._slots.nbytes + strays

    def reserve(self, count: int) -> None:
        """Get memory for so many rows at once, so that adding them moves nothing."""
        self._table.reserve(count)
        self._grow_slots(count)

    def extend(self, slots: npt.ArrayLike, codes: Codes) -> None:
        """Add the rows ``codes`` (n, code_bytes) under ``slots`` (n,), in any order; fastest if they ascend.

        All are added or none: raises `ValueError` for a slot that is there or comes twice, `DimensionError` for a
        wrong shape and `TamperedError` for factors that no vector has.
        """
        new = np.asarray(slots, dtype=np.int64)
        if new.ndim != 1 or codes.shape != (len(new), self.quantizer.code_bytes) or codes.dtype != np.uint8:
            raise DimensionError(
                f"Expected uint8 codes of shape {(new.size, self.quantizer.code_bytes)}, got {codes.dtype} "
                f"{codes.shape}: encode with the store's own quantizer."
            )
        if not len(new):
            return
        if not (new[1:] > new[:-1]).all():
            order = np.argsort(new, kind="stable")
            new, codes = new[order], codes[order]
        self._refuse_taken(new)
        signs, factors = np.split(codes, [self.quantizer.sign_bytes], axis=1)
        numbers = np.ascontiguousarray(factors).view("<f4")[:, 0]  # (n,)
        if not (numbers >= 0).all() or np.isinf(numbers).any():
            raise TamperedError("The index holds codes that no vector has. Restore the store from a backup.")
        self._append(new, signs, numbers)

    def remove(self, slots: Iterable[int]) -> None:
        """Take these rows out and zero their codes in memory; unknown slots are passed over."""
        for slot in map(int, slots):
            place = self._place(slot)
            if place is not None:
                self._strays.pop(slot, None)
                self._table.bury(place)
                self._dead += 1
        if self._dead > self._table.count // 8:
            self._settle()

    def search(self, query: Vectors, k: int) -> tuple[Slots, Vectors]:
        """The min(k, len) slots, int64, with the highest estimated inner products with ``query`` (d,), best first.

        Also returns the estimates, float32. Raises `DimensionError` and `ValueError` as `as_vector` does.
        """
        query = as_vector(query, self.quantizer.dimension)
        k = min(k, len(self))
        if k <= 0:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        norm = float(np.linalg.norm(query.astype(np.float64)))
        # All rows tie for the zero vector, which FAISS takes for another metric.
        unit = query / norm if norm else np.eye(1, len(query))[0]
        turned = self.quantizer.rotate(unit.astype(np.float32)[None])  # (1, d)
        scores, places = self._table.search(turned, k)
        return self._slots[places].astype(np.int64), (scores * norm).astype(np.float32)

    def _place(self, slot: int) -> int | None:
        """The place of the live row with this slot."""
        if slot in self._strays:
            return self._strays[slot]
        limits = np.iinfo(self._slots.dtype)
        if not limits.min <= slot <= limits.max:
            return None
        # Of equal slots the last is the live one. The key has the array's type, or all of the array were converted.
        key = self._slots.dtype.type(slot)
        place = int(np.searchsorted(self._slots[: self._sorted], key, side="right")) - 1
        return place if place >= 0 and self._slots[place] == key and self._table.is_live(place) else None

    def _refuse_taken(self, new: Slots) -> None:
        """Raise `ValueError` if one of the ascending slots ``new`` (n,) comes twice or is there."""
        taken = bool((new[1:] == new[:-1]).any())
        if not taken and (self._strays or (self._sorted and new[0] <= self._slots[self._sorted - 1])):
            taken = any(self._place(slot) is not None for slot in new.tolist())
        if taken:
            raise ValueError("A slot is in the index already, or comes twice: remove it first.")

    def _append(self, slots: Slots, signs: Codes, factors: Vectors) -> None:
        """Write rows with ascending slots (n,) behind the last place."""
        start, end = self._table.count, self._table.count + len(slots)
        self._keep_slots(slots, start)
        self._table.append(signs, factors)
        if self._sorted == start and (start == 0 or slots[0] >= self._slots[start - 1]):
            self._sorted = end
            return
        self._strays.update(zip(slots.tolist(), range(start, end), strict=True))
        if len(self._strays) > _STRAYS + end // 8:
            self._settle()

    def _keep_slots(self, slots: Slots, start: int) -> None:
        end = start + len(slots)
        if slots[0] < 0 or slots[-1] > np.iinfo(np.uint32).max:
            self._slots = self._slots.astype(np.int64, copy=False)
        self._grow_slots(end if start == 0 or end <= len(self._slots) else end + end // 8)
        self._slots[start:end] = slots

    def _grow_slots(self, count: int) -> None:
        if count > len(self._slots):
            self._slots = np.concatenate([self._slots, np.empty(count - len(self._slots), dtype=self._slots.dtype)])

    def _settle(self) -> None:
        """Write the live rows anew, without gaps and in ascending order of their slots."""
        live = self._table.live()
        slots, (signs, factors) = self._slots[live].astype(np.int64), self._table.rows(live)
        if self._strays:
            order = np.argsort(slots, kind="stable")
            slots, signs, factors = slots[order], signs[order], factors[order]
        self._table.clear()
        self._sorted, self._strays, self._dead = 0, {}, 0
        if len(slots):
            self._append(slots, signs, factors)
        signs[:] = 0


class _Table:
    """Rows by place, laid out as FAISS scans them: in blocks of 32.

    First the signs: for each byte of a code 32 bytes, of which the first 16 hold the byte's lower halves and the last
    16 its upper halves, rows r and r + 16 of the block in the halves of one. Then, for each row, two floats: an addend,
    which is zero for inner products, and the factor.
    """

    def __init__(self, quantizer: Quantizer) -> None:
        self._width = quantizer.sign_bytes
        self._faiss = _fast_scan(quantizer.dimension)
        self._bytes: Codes = np.empty(0, dtype=np.uint8)  # A view of FAISS's memory.

    @property
    def count(self) -> int:
        return int(self._faiss.ntotal)

    @property
    def size_bytes(self) -> int:
        return self._blocks(0, -(-self.count // _LANES)).nbytes

    def reserve(self, count: int) -> None:
        """Get memory for so many rows. What is left behind is zeroed before it is given back."""
        size = -(-count // _LANES) * _LANES * (self._width + _FLOATS_BYTES)
        if size <= self._bytes.size:
            return
        import faiss

        used, codes = self.size_bytes, self._faiss.codes
        kept = self._bytes[:used].copy()
        self._bytes[:used] = 0
        size = codes.round_capacity(size)  # What FAISS takes anyway; pages that are never written cost nothing.
        codes.resize(size)
        self._bytes = faiss.rev_swig_ptr(codes.get(), size)
        self._bytes[:used] = kept
        kept[:] = 0

    def append(self, signs: Codes, factors: Vectors) -> None:
        """Write rows, (n, width) and (n,), behind the last."""
        start, end = self.count, self.count + len(signs)
        self.reserve(end)
        head = min(-start % _LANES, len(signs))
        for row in range(head):
            self._put(start + row, signs[row], 0, float(factors[row]))
        for row in range(head, len(signs), _STEP):
            self._pack((start + row) // _LANES, signs[row : row + _STEP], factors[row : row + _STEP])
        # FAISS scans the rows up to ntotal2, which fill blocks, and passes over those from ntotal on.
        self._faiss.ntotal, self._faiss.ntotal2 = end, -(-end // _LANES) * _LANES

    def bury(self, place: int) -> None:
        """Zero a row, and put it behind all others in every search."""
        self._put(place, np.zeros(self._width, dtype=np.uint8), _DEAD, 0)

    def is_live(self, place: int) -> bool:
        return bool(self._floats(place // _LANES, place // _LANES + 1)[0, place % _LANES, 0] == 0)

    def live(self) -> npt.NDArray[np.intp]:
        """The places of the rows that are not buried, ascending."""
        addends = self._floats(0, -(-self.count // _LANES))[..., 0]  # (blocks, 32)
        return np.flatnonzero(addends.reshape(-1)[: self.count] == 0)

    def rows(self, places: npt.NDArray[np.intp]) -> tuple[Codes, Vectors]:
        """The signs (n, width) and factors (n,) of these places, which ascend."""
        signs = np.empty((len(places), self._width), dtype=np.uint8)
        starts = range(0, self.count, _STEP)
        for start, (low, high) in zip(starts, pairwise([*np.searchsorted(places, starts), len(places)]), strict=True):
            pairs = self._signs(start // _LANES, -(-min(start + _STEP, self.count) // _LANES))[..., _UNTANGLED]
            lower, upper = pairs.transpose(2, 0, 3, 1)  # (blocks, 16, width) each
            halves = np.stack([lower & 15 | upper << 4, lower >> 4 | upper & 240], axis=1)  # (blocks, 2, 16, width)
            signs[low:high] = halves.reshape(-1, self._width)[places[low:high] - start]
        return signs, self._floats(0, -(-self.count // _LANES))[places // _LANES, places % _LANES, 1]

    def clear(self) -> None:
        self._bytes[: self.size_bytes] = 0
        self._faiss.ntotal = self._faiss.ntotal2 = 0
        self._faiss.codes.resize(0)
        self._bytes = np.empty(0, dtype=np.uint8)

    def search(self, unit: Vectors, k: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """The estimates (k,) and places (k,) of the best rows for a rotated query of norm one (1, d)."""
        scores, places = self._faiss.search(unit * np.float32(_QUERY_NORM), k)  # (1, k) each
        return scores[0].astype(np.float64) / _QUERY_NORM, places[0]

    def _blocks(self, first: int, last: int) -> Codes:
        stride = _LANES * (self._width + _FLOATS_BYTES)
        return self._bytes[first * stride : last * stride].reshape(last - first, stride)

    def _signs(self, first: int, last: int) -> Codes:
        """Signs (blocks, width, 2, 16), writable."""
        return self._blocks(first, last)[:, : _LANES * self._width].reshape(last - first, self._width, 2, 16)

    def _floats(self, first: int, last: int) -> Vectors:
        """Addends and factors (blocks, 32, 2), writable."""
        return self._blocks(first, last)[:, _LANES * self._width :].view(np.float32).reshape(last - first, _LANES, 2)

    def _put(self, place: int, signs: Codes, addend: float, factor: float) -> None:
        block, lane = divmod(place, _LANES)
        pairs = self._signs(block, block + 1)[0, :, :, _UNTANGLED[lane % 16]]  # (width, 2)
        shift, kept = (0, 240) if lane < 16 else (4, 15)
        pairs &= np.uint8(kept)
        pairs[:, 0] |= (signs & 15) << shift
        pairs[:, 1] |= (signs >> 4) << shift
        self._floats(block, block + 1)[0, lane] = addend, factor

    def _pack(self, block: int, signs: Codes, factors: Vectors) -> None:
        """Write rows from the start of a block on, the last block filled up with zeros."""
        blocks = -(-len(signs) // _LANES)
        missing = blocks * _LANES - len(signs)
        if missing:
            signs = np.concatenate([signs, np.zeros((missing, self._width), dtype=np.uint8)])
            factors = np.concatenate([factors, np.zeros(missing, dtype=np.float32)])
        first, second = signs.reshape(blocks, 2, 16, self._width).transpose(1, 0, 2, 3)  # (blocks, 16, width) each
        lower, upper = first & 15 | second << 4, first >> 4 | second & 240
        pairs = np.stack([lower[:, _TANGLED], upper[:, _TANGLED]], axis=1)  # (blocks, 2, 16, width)
        self._signs(block, block + blocks)[:] = pairs.transpose(0, 3, 1, 2)
        floats = self._floats(block, block + blocks)
        floats[..., 0] = 0
        floats[..., 1] = factors.reshape(blocks, _LANES)


def _fast_scan(dimension: int) -> Any:
    """An empty index of FAISS; raises `RuntimeError` where FAISS lays out its blocks otherwise."""
    import faiss  # Takes 0.2 s, so only a store that is searched pays for it.

    faiss.omp_set_num_threads(1)
    index: Any = faiss.IndexRaBitQFastScan(dimension, faiss.METRIC_INNER_PRODUCT)
    index.is_trained = True  # There is nothing to train: the centre stays at zero.
    if index.get_block_stride() != _LANES * ((dimension + 7) // 8 + _FLOATS_BYTES):
        raise RuntimeError(f"FAISS {faiss.__version__} keeps codes in a way that is not known here: install 1.15.")
    return index
