"""How many neighbours and which threshold a cohort needs, derived exactly, and what they then hold.

The promises: of n devices whose cohort is fixed, `lost` may vanish at any stage, and the sum still unmasks but for a
chance of 2^-20; `colluding` of them may pool all they have with a server that lies, and no input, nor the sum of a few,
comes out but for a chance of 2^-40. Both are bounds over the whole cohort. Proofs stand in ``PROTOCOL.md``; the frame
is that of Bell et al. 2020 (CCS), sections 3.4 and 4.2, with exact tails in place of Chernoff's.

>>> found = parameters(1000, dropout=0.3, colluding=0.1)
>>> found.neighbours, found.threshold
(99, 38)
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass
from fractions import Fraction
from math import comb

from federation.secagg.errors import ParameterError
from federation.secagg.tails import (
    FINE,
    at_least,
    below,
    binomial_limit,
    greatest_threshold,
    least_threshold,
    log2_down,
    log2_up,
)

FAILURE_BITS = 20
BREACH_BITS = 40
MOST_DEVICES = 20_000
LEAST_DEVICES = 3
# 2^-20 is split: 2^-21 for too few shares, 2^-22 for each of two lists of choosers that overflow their messages. 2^-40
# is split: 2^-41 for a device whose colluding neighbours reach the threshold, 2^-42 for sums of a few devices.
_SHARES_BITS, _LIST_BITS, _DEVICE_BITS, _GROUP_BITS = 21, 22, 41, 42
_ENCODED = struct.Struct("<10I2d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What follows from a cohort's size and its terms. Counts of devices, but for ``*_bits``: −log2 of a chance.

    ``early`` may vanish before shares are distributed, ``lost`` in total. ``choosers`` and ``extra`` are the most
    devices that one device is chosen by, and chosen by without choosing them. ``quorum`` must sign the survivor set.
    ``smallest_sum`` is the fewest honest devices that any sum can hold which a lying server unmasks.
    """

    devices: int
    colluding: int
    early: int
    lost: int
    neighbours: int
    threshold: int
    choosers: int
    extra: int
    quorum: int
    smallest_sum: int
    failure_bits: float
    breach_bits: float

    def encode(self) -> bytes:
        """56 bytes, for a device to keep: deriving again takes a tenth of a second in a large cohort."""
        return _ENCODED.pack(*(getattr(self, name) for name in self.__slots__))

    @classmethod
    def decode(cls, encoded: bytes) -> Parameters:
        """What :meth:`encode` gave. Raises ``struct.error`` for another size."""
        return cls(**dict(zip(cls.__slots__, _ENCODED.unpack(encoded), strict=True)))

    @property
    def survivors(self) -> int:
        """The fewest devices whose inputs a sum holds."""
        return self.devices - self.lost

    @property
    def complete(self) -> bool:
        """Whether every device is every other's neighbour."""
        return self.neighbours == self.devices - 1


def parameters(devices: int, dropout: float, colluding: float, early: float = 0.05) -> Parameters:
    """The cheapest graph and its threshold for ``devices``; the rest are fractions of the cohort, exact to 1/1000.

    ``dropout`` of the devices may vanish after shares are distributed, ``early`` before that, once the cohort is fixed.
    Raises ``ParameterError`` where no graph, not even the complete one, keeps the promises; it says from which n on.
    """
    shares = {"dropout": dropout, "colluding": colluding, "early": early}
    for name, share in shares.items():
        if not 0 <= share < 1 or abs(1000 * share - round(1000 * share)) > 1e-6:  # NaN fails the first.
            raise ParameterError(f"Expected {name}={share} in [0, 1) with at most three decimals.")
    return derive(devices, round(1000 * dropout), round(1000 * colluding), round(1000 * early))


@functools.lru_cache(maxsize=64)
def derive(devices: int, dropout: int, colluding: int, early: int) -> Parameters:
    """:func:`parameters` with fractions in thousandths, as terms write them."""
    if type(devices) is not int or not LEAST_DEVICES <= devices <= MOST_DEVICES:
        raise ParameterError(f"Expected {LEAST_DEVICES} to {MOST_DEVICES:,} devices in a cohort, got {devices}.")
    found = _derive(devices, dropout, colluding, early)
    if found is None:
        known = (n for n in range(devices + 1, 2001) if _derive(n, dropout, colluding, early) is not None)
        least = next(known, None)
        hint = f"the next that works is {least}" if least else "nor does it for any up to 2,000: ask for less"
        raise ParameterError(
            f"No graph of {devices} devices bears {dropout / 10:g}% dropouts, {early / 10:g}% early ones and "
            f"{colluding / 10:g}% colluding: {hint}."
        )
    return found


def _derive(n: int, dropout: int, colluding: int, early: int) -> Parameters | None:
    bad = _share(n, colluding)
    soon = _share(n, early)
    lost = soon + _share(n - soon, dropout)
    quorum = (n + bad) // 2 + 1
    if quorum > n - lost or n - lost - bad < 2:
        return None
    for k in range(1, n):
        t = _threshold(n, bad, lost, k)
        if t is None:
            continue
        largest, group_bits = _small_sums(n, bad, lost, k, t)
        if largest >= (n - lost - bad) // 2:
            return _found(n, bad, soon, lost, k, t, largest, group_bits)
    return None


def _threshold(n: int, bad: int, lost: int, k: int) -> int | None:
    """The largest threshold that ``lost`` devices leave reachable, if it is out of the colluders' reach."""
    low = least_threshold(n - 1, bad, k, times=n - bad, bits=_DEVICE_BITS)
    high = greatest_threshold(n - 1, n - lost - 1, k, times=n, bits=_SHARES_BITS)
    return high if max(low, 2) <= high else None


def _found(n: int, bad: int, early: int, lost: int, k: int, t: int, largest: int, group_bits: float) -> Parameters:
    choosers = extra = n - 1
    overflow = 0.0
    if k < n - 1:
        choosers = binomial_limit(n - 1, k, n - 1, times=n, bits=_LIST_BITS)
        extra = binomial_limit(n - 1 - k, k, n - 1, times=n, bits=_LIST_BITS)
        overflow = ((choosers < n - 1) + (extra < n - 1 - k)) * 2.0**-_LIST_BITS
    else:
        extra = 0
    failure = n * Fraction(*below(n - 1, n - lost - 1, k, t)) + Fraction(overflow)
    breach = (n - bad) * Fraction(*at_least(n - 1, bad, k, t)) + Fraction(2.0**-group_bits)
    return Parameters(
        devices=n,
        colluding=bad,
        early=early,
        lost=lost,
        neighbours=k,
        threshold=t,
        choosers=choosers,
        extra=extra,
        quorum=(n + bad) // 2 + 1,
        smallest_sum=largest + 1,
        failure_bits=_bits(failure),
        breach_bits=_bits(breach),
    )


def _small_sums(n: int, bad: int, lost: int, k: int, t: int) -> tuple[int, float]:
    """The largest a such that no 2 to a honest devices can be summed apart, but for 2^-42; and the bits of that chance.

    A group of a honest devices that is unmasked without the others has all its arcs inside itself, the colluders and
    the dropped, and each of it has t arcs inside itself and the colluders (``PROTOCOL.md``, "What a sum holds"). The
    bound is a union over all groups and, where that helps, all dropped sets, taken for whole ranges of a at once.
    """
    honest = n - bad
    most = honest - lost - 1  # One more is the whole sum.
    total = 0  # In units of 2^-80.
    a, largest = 2, 1
    while a <= most:
        last = min(a + a // 32, most)
        bits = _group_bits(n, bad, lost, k, t, a, last)
        total_with = total + (last - a + 1) * (1 << max(80 - bits, 0))
        if total_with > 1 << 80 - _GROUP_BITS:
            break
        total, largest, a = total_with, last, last + 1
    return largest, 80.0 - total.bit_length()


def _group_bits(n: int, bad: int, lost: int, k: int, t: int, first: int, last: int) -> int:
    """Bits, rounded down, of the chance that some group of ``first`` to ``last`` devices can be summed apart."""
    honest = n - bad
    groups = log2_up(comb(honest, min(last, honest // 2)))
    inside = last - 1 + bad
    whole = log2_down(comb(n - 1, k))
    enough, _ = at_least(n - 1, inside, k, t)
    by_threshold = first * (whole - log2_up(enough)) - groups
    dropped = log2_up(comb(honest - first, min(lost, (honest - first) // 2))) + log2_up(lost + 1)
    closed = sum(comb(inside, x) * comb(lost, k - x) for x in range(max(t, k - lost), min(inside, k) + 1))
    by_arcs = first * (whole - log2_up(closed)) - groups - dropped if closed else 1 << 20
    elsewhere = log2_up(honest) - log2_down(first)  # Cohorts that some were told before this one.
    return (max(by_threshold, by_arcs) - elsewhere) // FINE


def _share(devices: int, permille: int) -> int:
    """So many thousandths of the devices, rounded up: a promise about a part of a device counts for it whole."""
    return -(-devices * permille // 1000)


def _bits(chance: Fraction) -> float:
    """−log2 of ``chance`` to a tenth, infinite for none."""
    if not chance:
        return float("inf")
    return (int(chance.denominator**10 // chance.numerator**10).bit_length() - 1) / 10
