"""What a device sends in private mode, what the server makes of the sum, and the same for a trusted server.

On the device: refuse NaN and infinity, clip to L2 norm C with uniform weight, scale, round under an enforced integer
norm, add this device's share of the noise, reduce modulo 2³². On the server: the sum of such arrays modulo 2³², read
as signed, scaled back and divided by the fixed q·N.

>>> import numpy as np
>>> from federation.privacy.parameters import NoiseParameters
>>> from federation.privacy.stream import SecureStream
>>> one = NoiseParameters(dimension=2, clip_norm=1.0, noise_multiplier=0.04, cohort=1, honest_share=1.0)
>>> sent = privatise(np.array([0.5, -0.25], dtype=np.float32), one, SecureStream())
>>> sent.dtype, bool(abs(decode(sent, one, denominator=1.0) - [0.5, -0.25]).max() < 0.2)
(dtype('uint32'), True)
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from federation.errors import PrivacyError, UpdateError
from federation.privacy.excess import excess_of, noise_with_excess
from federation.privacy.noise import share
from federation.privacy.parameters import NoiseParameters
from federation.privacy.quantise import round_unbiased
from federation.privacy.stream import SecureStream
from federation.privacy.table import Integers
from federation.privacy.update import Floats, clip

Residues = npt.NDArray[np.uint32]


def quantise(delta: Floats, parameters: NoiseParameters, stream: SecureStream) -> Integers:
    """Return ``delta`` (d,) as integers (d,) of a squared norm of at most ``parameters.squared_bound``.

    Every device weighs 1, however many memories it has: a weight would multiply the sensitivity. Raises `UpdateError`
    for another length or type than float32, and for NaN and infinity.
    """
    if delta.dtype != np.float32 or delta.shape != (parameters.dimension,):
        raise UpdateError(
            f"Expected an update of {parameters.dimension} float32 numbers, got {delta.dtype} {delta.shape}."
        )
    clipped = clip(delta, parameters.clip_norm).astype(np.float64)
    return round_unbiased(clipped * (parameters.scale / parameters.clip_norm), parameters.squared_bound, stream)


def privatise(delta: Floats, parameters: NoiseParameters, stream: SecureStream, *, excess: bytes = b"") -> Residues:
    """Return ``delta`` (d,) float32 as residues modulo 2³², uint32 (d,), with this device's share of the noise.

    With a secret ``excess`` (32 bytes) the noise is in pieces that can be taken off again (`excess`); it is as much.
    Ready to be masked: without masks the noise of one device alone hides too little. Raises as `quantise`.
    """
    integers = quantise(delta, parameters, stream)
    if excess:
        return _residues(integers + noise_with_excess(parameters, excess, stream))
    return _residues(integers + share(parameters.noise, parameters.dimension, parameters.share_variance, stream))


def without_excess(total: Residues, keys: Iterable[Sequence[bytes]], parameters: NoiseParameters) -> Residues:
    """Return the sum ``total`` (d,) modulo 2³² less the pieces of noise whose keys devices gave (`excess`)."""
    off = np.zeros(parameters.dimension, dtype=np.int64)
    for its in keys:
        off += excess_of(its, parameters)
    return total - _residues(off)


def top_up(total: Residues, survivors: int, parameters: NoiseParameters, stream: SecureStream) -> Residues:
    """Return the unmasked sum ``total`` (d,) with the noise of a full cohort, whatever the number of ``survivors``.

    Amplification by sampling counts on noise that does not tell whether a device was drawn, so the server adds the
    shares of the devices that dropped out. ε against the server does not count on it. Raises `PrivacyError` for a
    number of survivors that no round may have: more than the cohort, or fewer than the noise was shared between.
    """
    missing = parameters.cohort - survivors
    if missing < 0 or survivors < parameters.honest_survivors - 1e-6:
        raise PrivacyError(
            f"Expected survivors={survivors} from {parameters.honest_survivors:g} to {parameters.cohort}: "
            "this round is not used."
        )
    if missing == 0:
        return _checked(total, parameters)
    noise = share(parameters.noise, parameters.dimension, parameters.share_variance * missing, stream)
    return _checked(total, parameters) + _residues(noise)


def decode(total: Residues, parameters: NoiseParameters, *, denominator: float) -> Floats:
    """Return the mean update, float32 (d,): the sum modulo 2³² ``total`` (d,), centred, over the fixed ``denominator``.

    The denominator is q·N, what a round is expected to draw: the number that it did draw would tell of one device.
    Raises `PrivacyError` for a sum of another form or a denominator that is not positive.
    """
    return _mean(_checked(total, parameters).view(np.int32).astype(np.float64), parameters, denominator)


def central_mean(
    updates: Iterable[Floats], parameters: NoiseParameters, stream: SecureStream, *, denominator: float
) -> Floats:
    """Return the noised mean, float32 (d,), of ``updates`` in clear, each float32 (d,): **central** mode.

    The server clips and rounds each update itself, whatever the device did, and adds noise of a standard deviation of z
    times the integer norm. For no updates at all this is noise alone. Raises `UpdateError` for a bad update.
    """
    total = share(parameters.noise, parameters.dimension, parameters.central_variance, stream)
    for update in updates:
        total += quantise(update, parameters, stream)
    return _mean(total.astype(np.float64), parameters, denominator)


def _residues(integers: Integers) -> Residues:
    return (integers & 0xFFFFFFFF).astype(np.uint32)


def _checked(total: Residues, parameters: NoiseParameters) -> Residues:
    if total.dtype != np.uint32 or total.shape != (parameters.dimension,):
        raise PrivacyError(f"Expected a sum of {parameters.dimension} uint32 numbers, got {total.dtype} {total.shape}.")
    return np.ascontiguousarray(total)


def _mean(total: npt.NDArray[np.float64], parameters: NoiseParameters, denominator: float) -> Floats:
    if not 0 < denominator < float("inf"):
        raise PrivacyError(f"Expected denominator={denominator} to be positive and finite.")
    return (total * (parameters.step / denominator)).astype(np.float32)
