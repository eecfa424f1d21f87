"""How many honest devices a sum holds, once the devices agreed on who survived.

Before that a server may lie about anybody, and `smallest_sum` of the parameters is what holds. A device unmasks only
after a quorum signed one survivor set, the same for all of them. From then on a sum can lack an honest survivor only if
nobody in the sum chose it as a neighbour, since the mask between them would stay. So with few drop-outs a sum holds all
honest survivors but very few (`PROTOCOL.md`, "Once the survivors are agreed").

>>> from federation.secagg.parameters import parameters
>>> found = parameters(300, dropout=0.3, colluding=0.1)
>>> found.smallest_sum, honest_in_sum(found, 300), honest_in_sum(found, 240)
(159, 270, 208)
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from math import comb, perm

from federation.secagg.errors import SurvivorError
from federation.secagg.parameters import Parameters
from federation.secagg.tails import FINE, log2_down, log2_up

_AGREED_BITS = 43  # Of the chance that a sum lacks more than is said, whatever the server does.
_FINE = 256  # Logarithms count in so many parts of a bit, since some are taken thousands of times.
_ALONE = 8  # Sets of fewer are counted size by size.
_UNITS = 80  # Chances are added up in units of 2^-80.


def honest_in_sum(found: Parameters, survivors: int) -> int:
    """The fewest honest devices in any sum that is unmasked after ``survivors`` were agreed on, but for 2^-43.

    Raises ``SurvivorError`` for a number of survivors that no round may have.
    """
    if not found.survivors <= survivors <= found.devices:
        raise SurvivorError(f"Expected survivors={survivors} from {found.survivors} to {found.devices}: refuse them.")
    gone = found.devices - survivors
    largest = found.devices - found.colluding - gone - found.smallest_sum
    bits = _AGREED_BITS + found.lost.bit_length()  # A server chooses how many survive when it knows the graph.
    left_out = _left_out(found.devices, found.colluding, found.neighbours, gone, largest, bits)
    return max(found.smallest_sum, survivors - found.colluding - left_out)


@functools.lru_cache(maxsize=256)
def _left_out(n: int, colluding: int, k: int, gone: int, largest: int, bits: int) -> int:
    """The fewest g such that no set of g + 1 to ``largest`` honest survivors goes unchosen by the others.

    But for 2^-``bits``. Counted from the largest sets down, which are the least likely.
    """
    honest, total = n - colluding, 0
    for first, last in reversed(list(_ranges(largest))):
        total += (last - first + 1) << max(_UNITS - _bits(n, honest, k, gone, first, last), 0)
        if total > 1 << _UNITS - bits:
            return last
    return 0


def _ranges(largest: int) -> Iterator[tuple[int, int]]:
    """Sizes from 1 to ``largest``: each of the first alone, then doubling."""
    first = 1
    while first <= largest:
        last = min(largest, first if first < _ALONE else 2 * first - 1)
        yield first, last
        first = last + 1


def _bits(n: int, honest: int, k: int, gone: int, first: int, last: int) -> int:
    """Bits, rounded down, of the chance that all but ``gone`` honest devices outside a set have no neighbour in it.

    For some set of ``first`` to ``last`` honest ones. A device chooses its k neighbours alone: with chance q none of
    the set's. P[Bin(N, 1 − q) ≤ gone] is at most its largest term, C(N, gone)·q^(N − gone)·(1 − q)^gone, over what the
    terms before it fall by (Feller 1968, VI.3.5), and at most one.
    """
    outside = honest - last
    few, many = min(first, k), max(first, k)
    none, whole = perm(n - 1 - many, few), perm(n - 1, few)  # C(n − 1 − first, k) / C(n − 1, k), in lower terms.
    if outside <= gone:
        return 0
    if none == 0:
        return 1 << 20
    hit = whole - none
    # Terms rise towards the mean by at least this ratio.
    up, down = (outside - gone + 1) * hit, gone * none
    if up <= down:
        return 0
    powers = (outside - gone) * log2_up(none, _FINE) + gone * log2_up(hit, _FINE) - outside * log2_down(whole, _FINE)
    sets = log2_up(comb(honest, min(last, honest // 2)))
    elsewhere = log2_up(honest) - log2_down(outside - gone)  # Cohorts that some were told before this one.
    rest = sets + log2_up(comb(outside, gone)) + log2_up(up) - log2_down(up - down) + elsewhere
    return max(0, -(powers + rest * (_FINE // FINE)) // _FINE)
