"""Discrete noise that devices add in shares: what a sum of shares is, and how close to it.

**Skellam**: sums of independent Skellam numbers are Skellam, of the summed variance (Agarwal, Kairouz and Liu 2021).

**Discrete Gaussian** (Canonne, Kamath and Steinke 2020): its sums are not quite discrete Gaussians, nor is it quite a
rounded Gaussian, but both fail by less than can be measured. Write θ(σ) = 2 Σ_{m ≥ 1} e^(−2π²σ²m²); by Poisson's
summation Σ_k e^(−(k−c)²/(2σ²)) = σ√(2π)·(1 ± θ(σ)) for every centre c.

1. *Sums.* In the sum of two, of variances a and b, P(y) is e^(−y²/(2(a+b))) times such a sum of variance ab/(a+b), so
   each addition changes probabilities by a factor within 1 ± 4θ(√(ab/(a+b))), as in Kairouz, Liu and Steinke 2021.
   Shares have σ ≥ 8 here: 1 ± 2⁻⁹⁰⁰.
2. *The Gaussian's own privacy.* Add a continuous Gaussian of variance σ² − 4 to the integer sum, then replace the
   result x by a discrete Gaussian of variance 4 around x. That is post-processing of the Gaussian mechanism, and it
   commutes with integers. P(y) is the integral of φ_{σ²−4}(x)·φ_4(y − x)/(1 ± θ(2)), that is φ_{σ²}(y)/(1 ± θ(2)): the
   discrete Gaussian of variance σ², within a factor of 1 ± 2⁻¹¹¹. So privacy loss distributions of the Gaussian with
   noise of variance σ² − 4 hold for it, up to that factor a coordinate.

`SMOOTHING_VARIANCE` is the 4. The factors, over 10⁶ numbers, 10⁵ devices and 10⁴ participations, move ε by less than
10⁻¹⁶.

>>> from federation.privacy.stream import SecureStream
>>> share(DISCRETE_GAUSSIAN, 4, 900.0, SecureStream()).dtype, share(SKELLAM, 4, 9.0, SecureStream()).shape
(dtype('int64'), (4,))
"""

import math

import numpy as np

from federation.errors import PrivacyError
from federation.privacy.stream import SecureStream
from federation.privacy.table import Integers, gaussian_table, skellam_table

DISCRETE_GAUSSIAN = "discrete Gaussian"
SKELLAM = "Skellam"
NOISES = (DISCRETE_GAUSSIAN, SKELLAM)
SMOOTHING_VARIANCE = 4.0
LEAST_SHARE_VARIANCE = 64.0  # Of a discrete Gaussian that is added up.
_LARGEST_VARIANCE = 2.0**26  # Of one table: about 106,000 entries, 1.7 MB.


def share(noise: str, count: int, variance: float, stream: SecureStream) -> Integers:
    """Return ``count`` independent numbers of mean 0 and ``variance``, int64 (count,); ``noise`` is one of `NOISES`.

    A variance above 2²⁶ is drawn as a sum of equal parts. Each part is within 2⁻¹⁰⁰ of its distribution in total
    variation. Raises `PrivacyError` for another name, for a variance that is not positive and finite, and for one below
    64 where the noise is a discrete Gaussian, whose sums would be none.
    """
    if noise not in NOISES:
        raise PrivacyError(f"Expected noise={noise!r} to be one of {', '.join(NOISES)}.")
    if noise == DISCRETE_GAUSSIAN and not variance >= LEAST_SHARE_VARIANCE:
        raise PrivacyError(f"Expected variance={variance} of a discrete Gaussian share to be at least 64.")
    parts = max(1, math.ceil(variance / _LARGEST_VARIANCE)) if math.isfinite(variance) else 1
    table = (gaussian_table if noise == DISCRETE_GAUSSIAN else skellam_table)(variance / parts)
    total = np.zeros(count, dtype=np.int64)
    for _ in range(parts):
        total += table.draw(count, stream)
    return total
