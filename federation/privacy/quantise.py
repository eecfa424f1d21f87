"""From a clipped float vector to integers, unbiased, under a norm that is enforced.

Source: conditional randomized rounding (Kairouz, Liu and Steinke 2021, "The Distributed Discrete Gaussian Mechanism",
§4 and Theorem 1). Each coordinate goes to one of its two neighbouring integers so that its mean stays; the vector is
drawn again until its integer norm is within the bound. The bound fails with probability β or less, and drawing again
moves a coordinate's mean by about β steps: here β = 2⁻⁴⁰, so that the result is unbiased in practice, and a larger
scale, not a biased draw, keeps the bound close to the norm. Privacy rests on the check alone.

>>> import numpy as np
>>> from federation.privacy.stream import SecureStream
>>> round_unbiased(np.array([3.0, -4.0]), 25, SecureStream())
array([ 3, -4])
"""

import math

import numpy as np
import numpy.typing as npt

from federation.errors import PrivacyError
from federation.privacy.stream import SecureStream
from federation.privacy.table import Integers

REDRAW_PROBABILITY = 2.0**-40  # β: the most that one draw exceeds the bound with.
MOST_DRAWS = 16  # All of them exceed it with probability below 2⁻⁶⁴⁰: only a vector that was not clipped does.
MOST_INFLATION = 0.001  # Of the norm by rounding, and so of the noise that hides it.
_LEAST_SCALE, _MOST_SCALE = 2**8, 2**24


def squared_norm_bound(scale: int, dimension: int) -> int:
    """Return the most that the squared L2 norm of the integers may be, for a vector of norm ``scale``.

    Kairouz et al. 2021, Theorem 1, with γ = 1: the lesser of (c + √d)² and c² + d/4 + √(2 ln 1/β)·(c + √d/2).
    """
    root = math.sqrt(dimension)
    likely = scale**2 + dimension / 4 + math.sqrt(2 * math.log(1 / REDRAW_PROBABILITY)) * (scale + root / 2)
    return math.floor(min((scale + root) ** 2, likely))


def scale_for(dimension: int) -> int:
    """Return the least power of two, of 256 or more, at which rounding inflates the norm by at most 0.1%.

    It is 2¹² at 10,000 numbers. Raises `PrivacyError` where none up to 2²⁴ does.
    """
    scale = _LEAST_SCALE
    while squared_norm_bound(scale, dimension) > (scale * (1 + MOST_INFLATION)) ** 2:
        scale *= 2
        if scale > _MOST_SCALE:
            raise PrivacyError(f"An update of {dimension} numbers is too long to be rounded: share fewer.")
    return scale


def round_unbiased(values: npt.NDArray[np.float64], squared_bound: int, stream: SecureStream) -> Integers:
    """Round ``values`` (d,) to integers (d,) of a squared norm of at most ``squared_bound``, means kept.

    A coordinate goes up with the probability of its fraction, rounded up to a multiple of 2⁻⁵³. Raises `PrivacyError`
    for NaN and infinity, and where no draw of 16 is within the bound, so that nothing longer ever leaves.
    """
    below = np.floor(values)
    fractions = values - below
    for _ in range(MOST_DRAWS):
        uniform = (stream.words(len(values)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        rounded = below + (uniform < fractions)
        # A sum of squared integers is exact in float64 up to 2⁵³, above which it exceeds any bound here anyway.
        if np.square(rounded).sum() <= squared_bound < 2**52:
            return rounded.astype(np.int64)
    raise PrivacyError("An update exceeds its norm after rounding: it was not clipped to the norm that was agreed.")
