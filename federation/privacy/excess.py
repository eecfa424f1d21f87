"""Noise that is taken off again: a device adds what the worst drop-out needs, and gives back what turns out too much.

Before a round nobody knows how many will drop out, or how many a lying server hides, so each device's noise is that of
the fewest honest devices in any sum (`NoiseParameters.honest_share`). It is added in pieces: a core, and one for each
rung of a ladder of shares. Once the devices agreed on the survivors, more honest devices are known to be in the sum
(`federation/secagg/agreed.py`), and each gives away the keys of the pieces that are too much. What stays is the noise
that is accounted, never less. The idea is that of Jiang, Wang and Chen 2024 (*Dordis: Efficient Federated Learning with
Dropout-Resilient Differential Privacy*, EuroSys); here a piece is told by who added it or stays for good.

>>> one = NoiseParameters(dimension=10_000, clip_norm=1.0, noise_multiplier=1.0, cohort=100, honest_share=0.52)
>>> rungs(one), rung_of(one, 90), rung_of(one, 80), rung_of(one, 52)
((0.65, 0.75, 0.83, 0.89), 4, 2, 0)
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from federation.errors import PrivacyError
from federation.privacy.noise import DISCRETE_GAUSSIAN, LEAST_SHARE_VARIANCE, share
from federation.privacy.parameters import NoiseParameters
from federation.privacy.stream import KEY_BYTES, SecureStream, stream_of_key
from federation.privacy.table import Integers

LADDER = (0.65, 0.75, 0.83, 0.89)  # The last is what a large cohort holds of which a tenth colludes and none drops out.
EXCESS_BYTES = 32  # Of the secret that a device's pieces follow from.
_INFO = b"tacit/rounds/1/excess/%d"


@functools.lru_cache(maxsize=64)
def rungs(parameters: NoiseParameters) -> tuple[float, ...]:
    """The shares of the ladder above what the noise is shared between, ascending.

    Without those whose piece would be too small to be drawn as a discrete Gaussian.
    """
    found: list[float] = []
    for rung in LADDER:
        before = found[-1] if found else parameters.honest_share
        least = LEAST_SHARE_VARIANCE if parameters.noise == DISCRETE_GAUSSIAN else 0.0
        core = parameters.central_variance / (rung * parameters.cohort)
        if rung > before and min(core, _piece_variance(parameters, before, rung)) > least:
            found.append(rung)
    return tuple(found)


def rung_of(parameters: NoiseParameters, honest: float) -> int:
    """How many pieces are too much where any sum holds ``honest`` devices or more."""
    return sum(rung * parameters.cohort <= honest for rung in rungs(parameters))


def on_rung(parameters: NoiseParameters, rung: int) -> NoiseParameters:
    """The mechanism when ``rung`` pieces of each device are off: its noise is shared between more."""
    return parameters if rung == 0 else dataclasses.replace(parameters, honest_share=rungs(parameters)[rung - 1])


def piece_keys(secret: bytes, parameters: NoiseParameters) -> tuple[bytes, ...]:
    """The keys (32 bytes) of a device's pieces, in the order in which they go; one tells nothing of another."""
    return tuple(
        HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=_INFO % number).derive(secret)
        for number in range(len(rungs(parameters)))
    )


def noise_with_excess(parameters: NoiseParameters, secret: bytes, stream: SecureStream) -> Integers:
    """A device's noise, int64 (d,): its core from ``stream``, its pieces from keys that ``secret`` (32 bytes) gives."""
    core = on_rung(parameters, len(rungs(parameters)))
    total = share(core.noise, core.dimension, core.share_variance, stream)
    return total + excess_of(piece_keys(secret, parameters), parameters)


def excess_of(keys: Sequence[bytes], parameters: NoiseParameters) -> Integers:
    """The sum, int64 (d,), of the first pieces of one device, by their ``keys``. Raises `PrivacyError` for too many."""
    shares = (parameters.honest_share, *rungs(parameters))
    if len(keys) >= len(shares):
        raise PrivacyError(f"Expected at most {len(shares) - 1} keys of noise, got {len(keys)}.")
    total = np.zeros(parameters.dimension, dtype=np.int64)
    for number, key in enumerate(keys):
        variance = _piece_variance(parameters, shares[number], shares[number + 1])
        total += share(parameters.noise, parameters.dimension, variance, stream_of_key(key))
    return total


def left_after(parameters: NoiseParameters, rung: int, *, whole: int) -> NoiseParameters:
    """The mechanism whose noise is in a full sum, evened out, of which ``whole`` devices kept all their pieces."""
    if rung == 0:
        return parameters
    here = on_rung(parameters, rung)
    variance = here.share_variance * (parameters.cohort - whole) + parameters.share_variance * whole
    return dataclasses.replace(parameters, honest_share=parameters.central_variance / variance)


def _piece_variance(parameters: NoiseParameters, before: float, after: float) -> float:
    return parameters.central_variance / parameters.cohort * (1 / before - 1 / after)
