"""The embedding index: one code of d/8 + 4 bytes a vector, searched with FAISS.

The estimate from a code is rough: take :func:`candidates_for` rows and rank these again by their exact vectors. How
codes are made stands in ``quantizer.py``, how they lie in memory in ``blocks.py``.

>>> quantizer = Quantizer(8)
>>> index = CodeIndex(quantizer)
>>> index.extend(np.array([7, 9]), quantizer.encode(np.eye(8, dtype=np.float32)[:2]))
>>> index.search(np.eye(8, dtype=np.float32)[1], 1)[0].tolist(), quantizer.code_bytes
([9], 5)
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from store.errors import DimensionError, TamperedError
from store.format.vectors import Vectors, as_vector
from store.index.blocks import LANES, Blocks, SignBlocks, WeighedBlocks, unpacked_signs
from store.index.quantizer import Codes, Quantizer

Slots = npt.NDArray[np.int64]

RERANK = 200  # Rows to rank again by their vectors for up to 10 results: recall@10 is above 0.99 (benchmarks/codes.py).
DEVIATIONS = 2  # A candidate stays closed if its estimate and so many deviations do not reach the best so far.
_STEP = 64  # So many candidates are opened at a time, at least.
_LIKE = 1.3  # Up to this ratio factors are alike: those of unit vectors in 384 dimensions differ by 1.12.
_DEVIATION = (1 - 2 / np.pi) ** 0.5  # Of an estimate, for d - 1 = 1 and a factor and a query of one.
_STRAYS = 1024  # Rows out of order that are looked up in a dictionary before all are sorted.


def candidates_for(k: int) -> int:
    """How many rows to take from the index and rank again by their vectors, to find the ``k`` best."""
    return max(RERANK, 8 * k)


def rerank(query: Vectors, k: int, slots: Slots, highest: Vectors, vectors_of: Callable[[Slots], Vectors]) -> Vectors:
    """The exact products of ``query`` (d,) with the vectors of the first of ``slots`` (n,), which come best first.

    Stops where none of the rest is likely to be among the ``k`` best: ``highest`` (n,) is what each may reach.
    """
    scores, step = np.zeros(0, dtype=np.float32), max(_STEP, k)
    while len(scores) < len(slots):
        least = -np.inf if len(scores) < k else np.partition(scores, len(scores) - k)[len(scores) - k]
        if highest[len(scores) :].max() < least:
            break
        scores = np.append(scores, vectors_of(slots[len(scores) : len(scores) + step]) @ query)
    return scores


class CodeIndex:
    """Codes in memory by slot, some 60 bytes a row for 384 dimensions. Not safe for several threads.

    Rows lie mostly in ascending order of their slots; those that came out of order are looked up in a dictionary until
    all are sorted again. A removed row is zeroed and keeps its place until more than one in eight are removed.
    """

    def __init__(self, quantizer: Quantizer) -> None:
        self.quantizer = quantizer
        self._table: Blocks = SignBlocks(quantizer)
        self._factors = (np.inf, 0.0)  # The least and the most that were seen.
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
        signs, factors = self.quantizer.split(codes)
        self._see(factors)
        self._append(new, signs, factors)

    def extend_packed(self, parts: Sequence[tuple[Slots, Codes, Vectors]]) -> None:
        """As :meth:`extend`, by slots (n,), signs in blocks (⌈n/32⌉, width, 2, 16) and factors (n,) of each part.

        The way to load many rows at once; slots ascend through all parts.
        """
        self._see(np.concatenate([factors for _, _, factors in parts]))
        start = self._table.count
        if start % LANES or self._strays or (start and parts[0][0][0] < self._slots[start - 1]):
            for slots, packed, factors in parts:
                self._refuse_taken(slots)
                self._append(slots, unpacked_signs(packed)[: len(slots)], factors)
            return
        filled = np.concatenate([_filled(slots) for slots, _, _ in parts])
        self._keep_slots(filled, start)
        self._table.append_blocks([(packed, factors) for _, packed, factors in parts])
        self._sorted = self._table.count
        self._dead += len(filled) - sum(len(slots) for slots, _, _ in parts)

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

    def search(self, query: Vectors, k: int) -> tuple[Slots, Vectors, Vectors]:
        """The min(k, len) slots, int64, with the highest estimated inner products with ``query`` (d,), best first.

        Also returns the estimates and the standard deviation of each, float32. The latter is that of RaBitQ's estimator
        (theorem 3.2) at the usual overlap of a vector with its signs, √(2/π). Raises `DimensionError` and `ValueError`
        as `as_vector` does.
        """
        query = as_vector(query, self.quantizer.dimension)
        k = min(k, len(self))
        if k <= 0:
            nothing = np.zeros(0, dtype=np.float32)
            return np.zeros(0, dtype=np.int64), nothing, nothing
        wide = query.astype(np.float64)
        norm = math.sqrt(wide @ wide)
        # All rows tie for the zero vector, which FAISS takes for another metric.
        unit = wide / norm if norm else np.eye(1, len(query))[0]
        turned = self.quantizer.rotate(unit.astype(np.float32)[None])  # (1, d)
        scores, places, factors = self._table.search(turned, k)
        deviations = factors * np.float32(_DEVIATION * norm / max(len(query) - 1, 1) ** 0.5)
        return self._slots.take(places).astype(np.int64), (scores * norm).astype(np.float32), deviations

    def _see(self, factors: Vectors) -> None:
        """Change over to weighing each row once factors differ. Raises ``TamperedError`` for what is none."""
        if not (factors >= 0).all() or np.isinf(factors).any():
            raise TamperedError("The index holds codes that no vector has. Restore the store from a backup.")
        least, most = self._factors
        self._factors = min(least, float(factors.min())), max(most, float(factors.max()))
        if isinstance(self._table, SignBlocks) and self._factors[1] > _LIKE * self._factors[0]:
            self._settle(WeighedBlocks(self.quantizer))

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

    def _settle(self, table: Blocks | None = None) -> None:
        """Write the live rows anew, without gaps and in ascending order of their slots; into ``table``, if given."""
        live = self._table.live()
        slots, (signs, factors) = self._slots[live].astype(np.int64), self._table.rows(live)
        if self._strays:
            order = np.argsort(slots, kind="stable")
            slots, signs, factors = slots[order], signs[order], factors[order]
        self._table.clear()
        self._sorted, self._strays, self._dead = 0, {}, 0
        self._table = table or self._table
        if len(slots):
            self._append(slots, signs, factors)
        elif table is None:
            self._table, self._factors = SignBlocks(self.quantizer), (np.inf, 0.0)
        signs[:] = 0


def _filled(slots: Slots) -> Slots:
    """``slots`` (n,) and, for the rows that fill the last block, the slot after the last: no live row there has it."""
    rest = -len(slots) % LANES
    return np.append(slots, np.full(rest, slots[-1] + 1)) if rest else slots
