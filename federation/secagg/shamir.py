"""Shamir's secret sharing over the field of p = 2^255 − 19; a share is 32 bytes, little-endian, like a secret.

Any ``threshold`` shares give the secret; fewer are independent of it (Shamir 1979, CACM 22). The prime leaves room for
clamped X25519 keys and for 254 bits of anything else. Python's whole numbers take time that depends on their values:
who can time a device's process closely is outside the threat model.

>>> shares = split(7, [1, 2, 3], threshold=2)
>>> combine({1: shares[0], 3: shares[2]}, threshold=2)
7
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

PRIME = 2**255 - 19
SHARE_BYTES = 32


def split(secret: int, points: Sequence[int], *, threshold: int) -> list[int]:
    """The shares of ``secret`` at ``points`` (distinct, 1 to p − 1), with fresh randomness."""
    return _split(secret, points, [secrets.randbelow(PRIME) for _ in range(threshold - 1)])


def _split(secret: int, points: Sequence[int], coefficients: Sequence[int]) -> list[int]:
    """The deterministic half of :func:`split`: ``coefficients`` are uniform, secret, and used for one secret only."""
    if not 0 <= secret < PRIME:
        raise ValueError("Expected a secret from 0 to p - 1.")
    if len(set(points)) != len(points) or not all(0 < point < PRIME for point in points):
        raise ValueError("Expected distinct points from 1 to p - 1.")
    falling = [*reversed(coefficients), secret]
    shares = []
    for point in points:
        value = 0
        for coefficient in falling:  # Horner's rule.
            value = (value * point + coefficient) % PRIME
        shares.append(value)
    return shares


def combine(shares: Mapping[int, int], *, threshold: int) -> int:
    """The secret of ``threshold`` or more shares, by point: Lagrange's formula at 0 on the lowest points.

    Raises ``ValueError`` for fewer. A wrong share gives a wrong secret, unnoticed.
    """
    if len(shares) < threshold:
        raise ValueError(f"Expected {threshold} shares or more, got {len(shares)}.")
    points = sorted(shares)[:threshold]
    above, below = 0, 1  # The sum as one fraction, so that one inverse does for all.
    for at in points:
        numerator, denominator = shares[at], 1
        for other in points:
            if other != at:
                numerator = numerator * other % PRIME
                denominator = denominator * (other - at) % PRIME
        above = (above * denominator + numerator * below) % PRIME
        below = below * denominator % PRIME
    return above * pow(below, -1, PRIME) % PRIME


def field_elements(stream: bytes) -> list[int]:
    """A uniform field element from each 48 bytes of ``stream``, but for a bias below 2^-128."""
    return [int.from_bytes(stream[at : at + 48], "little") % PRIME for at in range(0, len(stream), 48)]
