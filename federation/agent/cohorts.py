"""The share of a cohort whose noise is counted on, over all the sizes that a run's cohorts may have.

A server that lies about drop-outs can unmask the sum of part of a cohort (`federation/secagg/PROTOCOL.md`, "What a sum
holds"); so much noise as it needs must be there already.

>>> honest_share(24, 24)
0.29
"""

import contextlib
import functools
import math

from federation.secagg.agreed import honest_in_sum
from federation.secagg.errors import ParameterError
from federation.secagg.parameters import parameters

DROPOUT, COLLUDING = 0.3, 0.1
_SIZES = 60  # Of cohorts that are tried, at most.
_EACH = 200  # Up to here each is, since a rounded-up tenth is more of a small one than of the next.


def honest_share(floor: int, ceiling: int, *, dropout: float = DROPOUT, colluding: float = COLLUDING) -> float:
    """Return the least share of a cohort in any sum that is unmasked, in hundredths, over sizes from floor to ceiling.

    Sizes that the secure sum has no graph for are left out: devices refuse such rounds. Raises `ParameterError` where
    it has none for any.
    """
    shares, refused = [], None
    for size in _sizes(floor, ceiling):
        try:
            shares.append(parameters(size, dropout, colluding).smallest_sum / size)
        except ParameterError as error:
            refused = error
    if not shares and refused is not None:
        raise refused
    return math.floor(100 * min(shares)) / 100


@functools.lru_cache(maxsize=16)
def steady_share(floor: int, ceiling: int, *, dropout: float = DROPOUT, colluding: float = COLLUDING) -> float:
    """Return the least share of a cohort in the sum where nobody left it, in hundredths, from floor to ceiling.

    So large a share all sizes reach, so that noise shared between it does not tell how many were drawn. 0 where the
    secure sum has a graph for none.
    """
    shares = []
    for size in sorted({*_sizes(floor, ceiling), *range(floor, min(ceiling, _EACH) + 1)}):
        with contextlib.suppress(ParameterError):
            shares.append(honest_in_sum(parameters(size, dropout, colluding), size) / size)
    return math.floor(100 * min(shares, default=0.0)) / 100


def _sizes(floor: int, ceiling: int) -> list[int]:
    return sorted({floor + (ceiling - floor) * step // _SIZES for step in range(_SIZES + 1)})
