"""What a private round's noise is set to: the numbers that each device checks and that its masks are bound to.

>>> one = NoiseParameters(dimension=10_000, clip_norm=1.0, noise_multiplier=1.2, cohort=100, honest_share=0.6)
>>> one.scale, one.honest_survivors, round(one.share_variance), one.wrap_probability() < WRAP_PROBABILITY
(4096, 60.0, 403454, True)
"""

import math
from dataclasses import dataclass

from federation.errors import PrivacyError
from federation.privacy.noise import DISCRETE_GAUSSIAN, LEAST_SHARE_VARIANCE, NOISES
from federation.privacy.quantise import scale_for, squared_norm_bound
from federation.privacy.table import skellam_tail

MODULUS_BITS = 32
WRAP_PROBABILITY = 2.0**-40


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseParameters:
    """The settings of the mechanism for one kind of update in one round.

    An update has ``dimension`` numbers, is clipped to an L2 norm of ``clip_norm`` and scaled so that this becomes
    `scale` integers; `squared_bound` bounds the integers' norm after rounding. ``cohort`` is how many devices agreed to
    take part in this round, and any sum that is unmasked holds the noise of ``honest_share`` of it at least, whose
    devices keep it to themselves: so much noise has a standard deviation of ``noise_multiplier`` (z) times the
    integers' norm. The secure sum proves that share against a server that lies (its ``smallest_sum``).
    Shares in proportion to the cohort make the sum's noise the same whether or not one device was drawn, which
    amplification by sampling needs. ``noise`` is one of `NOISES`.

    Raises `PrivacyError` for values out of range, for discrete Gaussian shares of a standard deviation below 8 steps,
    and where the sum could leave ±2³¹ with a probability of 2⁻⁴⁰ or more.
    """

    dimension: int
    clip_norm: float
    noise_multiplier: float
    cohort: int
    honest_share: float
    noise: str = DISCRETE_GAUSSIAN

    def __post_init__(self) -> None:
        for name in ("dimension", "cohort"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise PrivacyError(f"Expected {name}={value!r} to be a whole number of at least 1.")
        for name in ("clip_norm", "noise_multiplier", "honest_share"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise PrivacyError(f"Expected {name}={value!r} to be positive and finite.")
        if not self.honest_share <= 1:
            raise PrivacyError(f"Expected honest_share={self.honest_share} to be at most 1.")
        if self.noise not in NOISES:
            raise PrivacyError(f"Expected noise={self.noise!r} to be one of {', '.join(NOISES)}.")
        if self.noise == DISCRETE_GAUSSIAN and self.share_variance < LEAST_SHARE_VARIANCE:
            raise PrivacyError(
                f"Expected noise_multiplier={self.noise_multiplier} over {self.honest_survivors:g} devices to leave "
                "each a standard deviation of at least 8 steps: take a larger one, or Skellam noise."
            )
        if not self.wrap_probability() < WRAP_PROBABILITY:
            raise PrivacyError(
                f"The sum of cohort={self.cohort} updates of dimension={self.dimension} may wrap at 2^{MODULUS_BITS} "
                f"with noise_multiplier={self.noise_multiplier}: lower one of them."
            )

    @property
    def scale(self) -> int:
        """The integer norm that ``clip_norm`` becomes, a power of two that follows from the dimension."""
        return scale_for(self.dimension)

    @property
    def squared_bound(self) -> int:
        """The most that the squared L2 norm of a device's integers may be: the squared sensitivity."""
        return squared_norm_bound(self.scale, self.dimension)

    @property
    def honest_survivors(self) -> float:
        """The number t of devices whose noise is counted on, not rounded."""
        return self.honest_share * self.cohort

    @property
    def central_variance(self) -> float:
        """The variance of the noise that is counted on, a coordinate, in squared integer steps."""
        return self.noise_multiplier**2 * self.squared_bound

    @property
    def share_variance(self) -> float:
        """The variance of one device's noise, a coordinate, in squared integer steps."""
        return self.central_variance / self.honest_survivors

    @property
    def step(self) -> float:
        """What one integer step is worth in the update's own unit."""
        return self.clip_norm / self.scale

    def wrap_probability(self) -> float:
        """Return a bound on the probability that any coordinate of a sum leaves ±2³¹.

        At the worst each device of the cohort puts its whole norm on one coordinate, and all add their noise: what
        remains to ±2³¹ is left to the noise, whose tail Chernoff's bound and a union over coordinates give. The bound
        is that of Skellam noise; discrete Gaussians have lighter tails (Canonne, Kamath and Steinke 2020).
        """
        room = 2.0 ** (MODULUS_BITS - 1) - 1 - self.cohort * math.sqrt(self.squared_bound)
        if room <= 0:
            return 1.0
        tail = skellam_tail(room, self.share_variance * self.cohort)
        return math.exp(min(0.0, math.log(self.dimension) + tail))
