"""What a device sends: the flattened global model plus its clipped delta, one float32 array of fixed length.

>>> import numpy as np
>>> clip(np.array([0.0, 4.0], dtype=np.float32), 1.0)
array([0., 1.], dtype=float32)
"""

import numpy as np
import numpy.typing as npt

from federation.errors import UpdateError

Floats = npt.NDArray[np.float32]


def l2_norm(values: Floats) -> float:
    """Return the L2 norm in float64. Not by BLAS, whose threads cost more than they save at this length."""
    return float(np.sqrt(np.square(values, dtype=np.float64).sum()))


def clip(delta: Floats, clip_norm: float) -> Floats:
    """Scale ``delta`` (d,) down to an L2 norm of at most ``clip_norm``; a zero update stays zero.

    Raises `UpdateError` for NaN or infinity, which no norm bounds. Source: McMahan et al. 2018 (DP-FedAvg, §3).
    """
    if not np.isfinite(delta).all():
        raise UpdateError("The update holds NaN or infinity, so it is not sent.")
    if not 0 < clip_norm < float("inf"):
        raise UpdateError(f"Expected clip_norm={clip_norm} to be positive and finite.")
    # In float64: the square of a large float32 overflows, and then the bound would not hold.
    norm = l2_norm(delta)
    if norm <= clip_norm:
        return delta
    clipped = (delta.astype(np.float64) * (clip_norm / norm)).astype(np.float32)
    # Rounding to float32 may exceed the bound by an ulp a coordinate; one step towards zero holds it strictly.
    while l2_norm(clipped) > clip_norm:
        clipped = np.nextafter(clipped, np.float32(0.0))
    return clipped


def check_reply(values: Floats, length: int) -> Floats:
    """Return ``values`` if they are ``length`` finite float32 numbers; raise `UpdateError` otherwise."""
    if values.dtype != np.float32 or values.shape != (length,):
        raise UpdateError(f"Expected a reply of {length} float32 numbers, got {values.dtype} {values.shape}.")
    if not np.isfinite(values).all():
        raise UpdateError("A reply holds NaN or infinity.")
    return values
