"""Sets of whole numbers. Replaced pages come in long runs, so as sorted, disjoint ranges a few name thousands.

>>> Ranges([(1, 3)]).with_number(3).pairs
((1, 4),)
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from store.errors import TamperedError

_PAIR = struct.Struct(">QQ")
Numbers = npt.NDArray[np.int64]


class Ranges:
    """An immutable set of whole numbers; each pair is (first, one past the last)."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        merged: list[tuple[int, int]] = []
        for low, high in sorted(pairs):
            if merged and low <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
            elif low < high:
                merged.append((low, high))
        self.pairs = tuple(merged)

    def with_number(self, number: int) -> Ranges:
        """This set and ``number``."""
        return Ranges([*self.pairs, (number, number + 1)])

    def __iter__(self) -> Iterator[int]:
        for low, high in self.pairs:
            yield from range(low, high)

    def __contains__(self, number: int) -> bool:
        return any(low <= number < high for low, high in self.pairs)

    def to_bytes(self) -> bytes:
        """16 bytes a range."""
        return b"".join(_PAIR.pack(*pair) for pair in self.pairs)

    @classmethod
    def from_bytes(cls, data: bytes) -> Ranges:
        """The set in ``data``. Raises ``TamperedError``."""
        if len(data) % _PAIR.size:
            raise _malformed()
        ranges = cls(tuple(_PAIR.iter_unpack(data)))
        if ranges.to_bytes() != data:
            raise _malformed()
        return ranges


NO_RANGES = Ranges()


def outside(numbers: Numbers, gone: Collection[int]) -> npt.NDArray[np.bool_]:
    """Which of ascending ``numbers`` (n,) are not in ``gone``, of which there are few.

    >>> outside(np.array([3, 5, 9]), {5, 7}).tolist()
    [True, False, True]
    """
    kept = np.ones(len(numbers), dtype=np.bool_)
    if len(numbers) and gone:
        wanted = np.fromiter(gone, dtype=np.int64, count=len(gone))
        at = np.minimum(numbers.searchsorted(wanted), len(numbers) - 1)
        kept[at[numbers[at] == wanted]] = False
    return kept


def _malformed() -> TamperedError:
    return TamperedError("A list of pages is not laid out as in format 2: restore the store from a backup.")
