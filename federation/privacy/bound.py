"""How long a mean update may be, if no device of it left the clip: what is longer holds a lie, whoever told it.

In a masked sum no single update is seen, and a device that lies about its clipping may add any vector. But the sum of
m clipped updates has a norm of at most m·C, and the noise is known, so the sum's own norm tells a vector that is far
too long. Let the mean be μ + g over the fixed denominator q·N, with ‖μ‖ ≤ B = m·C/(q·N) and g of independent numbers of
variance σ². Then, but for a probability of 3·e⁻ᵗ, ‖μ + g‖² is at most

    B² + 2·B·σ√(2t) + σ²(d + 2√(d·t) + 2t)

for the discrete Gaussian, which is subgaussian of its own variance (Canonne, Kamath and Steinke 2020, Corollary 17):
Chernoff for μ·g, Hsu, Kakade and Zhang 2012 (Theorem 1) for ‖g‖². Skellam noise is not quite. In integer steps, with
K what none of its numbers exceeds (but for e⁻ᵗ in all, `skellam_tail`), Bernstein's inequality bounds ‖g‖² by
σ²d + √(2·d·(2σ⁴ + σ²)·t) + K²·t/3, since the variance of a squared number is 2σ⁴ + σ². And Chernoff's bound on μ·g at
λ = √(2t)/(σ‖μ‖), where its log moment σ²·Σ(cosh(λμᵢ) − 1) is at most f·t for f = 2(cosh(x) − 1)/x² at x = √(2t)/σ,
grows by (1 + f)/2.

It is the squared norm that is bounded: a bound on the norm by the triangle's inequality would leave a liar
√(2·B·σ√d) more to hide in.

>>> one = NoiseParameters(dimension=10_000, clip_norm=1.0, noise_multiplier=1.2, cohort=100, honest_share=0.6)
>>> round(longest_mean(one, devices=100, denominator=100.0), 2)
1.98
"""

import math

from federation.errors import RefusedRoundError
from federation.privacy.noise import SKELLAM
from federation.privacy.parameters import NoiseParameters
from federation.privacy.table import skellam_tail
from federation.privacy.update import Floats, l2_norm

FALSE_ALARM = 2.0**-40  # At most, that an honest mean is longer.


def longest_mean(parameters: NoiseParameters, *, devices: int, denominator: float) -> float:
    """Return the most that the L2 norm of a mean of ``devices`` updates over ``denominator`` (q·N) may be.

    Its noise is that of the whole ``parameters.cohort``, as the server evens it out.
    """
    t, d = math.log(3 / FALSE_ALARM), parameters.dimension
    variance = parameters.share_variance * parameters.cohort  # In squared integer steps, as all below.
    sigma, signal = math.sqrt(variance), devices * math.sqrt(parameters.squared_bound)
    along = 2 * signal * sigma * math.sqrt(2 * t)
    if parameters.noise == SKELLAM:
        x = min(700.0, math.sqrt(2 * t) / sigma)  # Beyond it the bound is infinite in all but name.
        along *= (1 + 2 * (math.cosh(x) - 1) / x**2) / 2
        most = _reach(variance, math.log(d) + t)
        noise = variance * d + math.sqrt(2 * d * (2 * variance**2 + variance) * t) + most**2 * t / 3
    else:
        noise = variance * (d + 2 * math.sqrt(d * t) + 2 * t)
    return math.sqrt(signal**2 + along + noise) * parameters.step / denominator


def check_mean(mean: Floats, parameters: NoiseParameters, *, devices: int, denominator: float) -> None:
    """Raise `RefusedRoundError` where a mean (d,) is longer than `longest_mean` says."""
    most, norm = longest_mean(parameters, devices=devices, denominator=denominator), l2_norm(mean)
    if not norm <= most:
        raise RefusedRoundError(
            f"the mean update is {norm:.3g} long, and {devices} clipped ones with the noise make at most {most:.3g}"
        )


def _reach(variance: float, nats: float) -> float:
    """What a Skellam number exceeds with a probability of at most e to minus ``nats``, within a hundredth."""
    reach = math.sqrt(2 * variance * nats)
    while skellam_tail(reach, variance) > -nats:
        reach *= 1.01
    return reach
