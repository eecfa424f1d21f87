"""Canary clients: how much a sum of private updates tells of one device, measured in one run.

As many devices as a lying server can unmask the sum of add noise; each carries one of orthogonal updates of full norm,
or zeros, by a fair coin. What the server sees is then guessed at. Two figures: a lower bound that refutes any smaller ε
(Steinke, Nasr and Jagielski 2023), and an estimate from the two bells that scores fall into (Andrew et al. 2023), for
the worst of two kinds of devices: with an update that just fits the norm, and with one many times as long, as devices
with many memories have. A weight by number of memories shows in the second.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from federation.audit.accounted import HONEST_SHARE, accounted_noise
from federation.audit.finding import Finding, Ground, at_most
from federation.audit.statistics import bells_epsilon, one_run_epsilon
from federation.errors import UpdateError
from federation.privacy import mechanism
from federation.privacy.excess import EXCESS_BYTES, piece_keys, rung_of
from federation.privacy.parameters import NoiseParameters
from federation.privacy.stream import SecureStream

AUDIT = "canary clients"
# Small enough for the bound to have power: with this many canaries it cannot reach much beyond 5.
CLAIM, DELTA = 3.3, 1e-5
SLACK = 1.25  # Of the claim, for the estimate.
LONG = 40.0  # A long update's norm before the clip, in clip norms.
_GUESSED = 0.1  # Of the canaries, at either end of the scores.
_DOUBT = 0.01  # That the bound is wrong. A sound sum stays below the claim by far more than that.
_MOST_MISSING = 0.07  # 6 standard errors of its measurement.
_GIVERS, _NUMBERS = 16, 4096  # Devices and numbers of an update, where noise is given back.
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Scores (m,) of the canaries in what the server sees and in what is released, in clip norms; who was in, long."""

    server: Floats
    released: Floats
    inside: npt.NDArray[np.bool_]
    long: npt.NDArray[np.bool_]


def audit(ground: Ground) -> list[Finding]:
    """Return the findings on canary clients, and on updates that must not leave."""
    size = ground.sized(4096, 16384)
    parameters = accounted_noise(CLAIM, delta=DELTA, devices=size, dimension=size)
    with ground.progress(AUDIT, 16) as tick:
        seen = _run(parameters, ground.rng, tick)
    return [*_findings(seen, parameters), missing_after(), malformed(parameters)]


def _run(parameters: NoiseParameters, rng: np.random.Generator, tick: Callable[[], None]) -> Seen:
    size, stream = parameters.dimension, SecureStream()
    signs = rng.choice([-1.0, 1.0], size=size)
    inside, long = rng.random(size) < 0.5, rng.random(size) < 0.5
    total = np.zeros(size, dtype=np.uint32)
    for number, row in enumerate(_rows(size)):
        update = (row * signs * (LONG if long[number] else 1.0) * inside[number]).astype(np.float32)
        total += mechanism.privatise(update, parameters, stream)  # The masks cancel: this is their sum modulo 2³².
        if number % (size // 16) == 0:
            tick()
    full = mechanism.top_up(total, size, parameters, stream)
    server, released = (
        hadamard(mechanism.decode(sum_, parameters, denominator=1.0).astype(np.float64) * signs) / np.sqrt(size)
        for sum_ in (total, full)
    )
    return Seen(server=server, released=released, inside=inside, long=long)


def _findings(seen: Seen, parameters: NoiseParameters) -> list[Finding]:
    size = len(seen.inside)
    each = round(_GUESSED * size)
    order = np.argsort(seen.server)
    correct = int((~seen.inside[order[:each]]).sum() + seen.inside[order[-each:]].sum())
    bound = one_run_epsilon(canaries=size, guesses=2 * each, correct=correct, delta=DELTA, failure=_DOUBT)
    spread = float(seen.server[~seen.inside].std())
    # Noise is symmetric and canaries are orthogonal: the bell of those who are out has its middle at 0.
    kinds = [seen.inside & kind for kind in (seen.long, ~seen.long)]
    estimate = max(bells_epsilon(float(seen.server[kind].mean()), spread, DELTA) for kind in kinds)
    # In clip norms; the noise that is accounted grows with the cohort where more than the smallest sum survives.
    accounted = np.sqrt(parameters.central_variance / HONEST_SHARE) / parameters.scale
    means = sum(np.where(kind, seen.released[kind].mean(), 0.0) for kind in kinds)
    noise = float((seen.released - means).std()) / accounted
    claim = f"claimed ε = {CLAIM:g} at δ = {DELTA:g}"
    return [
        at_most(
            "lower bound of ε, one run",
            bound,
            CLAIM,
            f"{claim}; {correct} of {2 * each} guesses right about {size} canaries (at {1 - _DOUBT:.0%} confidence)",
            audit=AUDIT,
        ),
        at_most("estimate of ε", estimate, SLACK * CLAIM, f"{claim}, the worse of two kinds of devices", audit=AUDIT),
        at_most(
            "share of noise missing from a topped-up sum",
            1 - noise,
            _MOST_MISSING,
            "standard deviations, after half of the cohort dropped out",
            audit=AUDIT,
        ),
    ]


def missing_after() -> Finding:
    """Return the finding on noise that is given back: what stays must be what is accounted, whoever stayed."""
    one = accounted_noise(CLAIM, delta=DELTA, devices=_GIVERS, dimension=_NUMBERS)
    stream, nothing, worst = SecureStream(), np.zeros(_NUMBERS, dtype=np.float32), 0.0
    secrets = [stream.words(EXCESS_BYTES // 8).tobytes() for _ in range(one.cohort)]
    sent = [mechanism.privatise(nothing, one, stream, excess=secret) for secret in secrets]
    for honest in range(_GIVERS, one.cohort + 1):  # So many are known to be in the sum.
        rung = rung_of(one, honest)
        total = np.array(sent[:honest]).sum(axis=0, dtype=np.uint32)
        left = mechanism.without_excess(total, (piece_keys(secret, one)[:rung] for secret in secrets[:honest]), one)
        spread = float(left.view(np.int32).astype(np.float64).std())
        worst = max(worst, 1 - spread / np.sqrt(one.central_variance))
    return at_most(
        "share of accounted noise that is given back",
        worst,
        _MOST_MISSING,
        f"standard deviations, {_GIVERS} to {one.cohort} honest devices in the sum",
        audit=AUDIT,
    )


def malformed(parameters: NoiseParameters) -> Finding:
    """Return the finding on updates with NaN, infinity or of absurd length: none may leave longer than the norm.

    A number that no norm bounds makes a clip by factor let all others through as they are.
    """
    size, leaked = parameters.dimension, 0
    bad = [np.full(size, LONG, dtype=np.float32) for _ in range(3)]
    for update, value in zip(bad, (np.nan, np.inf, -np.inf), strict=True):
        update[0] = value
        try:
            mechanism.privatise(update, parameters, SecureStream())
        except UpdateError:
            continue
        leaked += 1
    # Long ones are clipped: their length may be what is agreed and the noise of one device, and no more.
    spread = np.sqrt(parameters.share_variance * size)
    for length in (LONG, 3e38):
        sent = mechanism.privatise(np.full(size, length, dtype=np.float32), parameters, SecureStream())
        direction = sent.view(np.int32).astype(np.float64).sum() / np.sqrt(size)
        leaked += bool(abs(direction) > np.sqrt(parameters.squared_bound) + 10 * spread / np.sqrt(size))
    return at_most("malformed updates that leave", leaked, 0, "NaN, ±infinity, long", audit=AUDIT)


def _rows(size: int) -> Iterator[Floats]:
    """Orthonormal rows (size,), as many, each with all its entries of one magnitude."""
    for number in range(size):
        one = np.zeros(size)
        one[number] = size**-0.5
        yield hadamard(one)


def hadamard(values: Floats) -> Floats:
    """Return the Walsh–Hadamard transform of ``values`` (2ᵏ,), unscaled."""
    rows = values.reshape(1, -1)
    while rows.shape[1] > 1:
        left, right = np.split(rows, 2, axis=1)
        rows = np.concatenate([left + right, left - right], axis=0)
    return rows.reshape(-1)
