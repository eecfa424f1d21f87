"""The share of a cohort whose noise is counted on, over all the sizes that a run's cohorts may have.

A server that lies about drop-outs can unmask the sum of part of a cohort (`federation/secagg/PROTOCOL.md`, "What a sum
holds"); so much noise as it needs must be there already.

>>> honest_share(24, 24)
0.29
"""

import math

from federation.secagg.agreed import honest_in_sum
from federation.secagg.errors import ParameterError
from federation.secagg.parameters import parameters

DROPOUT, COLLUDING = 0.3, 0.1
_SIZES = 60  # Of cohorts that are tried, at most.


def honest_share(floor: int, ceiling: int, *, dropout: float = DROPOUT, colluding: float = COLLUDING) -> float:
    """Return the least share of a cohort in any sum that is unmasked, in hundredths, over sizes from floor to ceiling.

    Sizes that the secure sum has no graph for are left out: devices refuse such rounds. Raises `ParameterError` where
    it has none for any.
    """
    shares, refused = [], None
    for size in sorted({floor + (ceiling - floor) * step // _SIZES for step in range(_SIZES + 1)}):
        try:
            shares.append(parameters(size, dropout, colluding).smallest_sum / size)
        except ParameterError as error:
            refused = error
    if not shares and refused is not None:
        raise refused
    return math.floor(100 * min(shares)) / 100


def honest_where_all_stay(cohort: int, *, dropout: float = DROPOUT, colluding: float = COLLUDING) -> int:
    """The fewest honest devices in the sum of a cohort that nobody leaves; 0 where the secure sum has no graph."""
    try:
        return honest_in_sum(parameters(cohort, dropout, colluding), cohort)
    except ParameterError:
        return 0
