"""What the server asks of a device in a round about choices, and its answer: two clipped sums in one array.

>>> request = ChoiceRequest(run="1", basis=np.eye(3, 2, dtype=np.float32), items="ab", step=-1, server_round=1,
...                         weights=np.zeros(5), mode="open", clip_norm=1.0)
>>> request.length
64
"""

import json
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from engine.choices.history import CHOICE
from engine.device.chooses import REPEATS, reply_length
from engine.device.device import Device
from engine.owner.account import digest
from federation.errors import UpdateError
from federation.privacy.update import Floats, clip


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceRequest:
    """A step of the factor model; all of it is public. ``items`` is the fingerprint of the list of n items.

    ``basis`` (n, k) is the model so far, ``weights`` (K,) the shared weights of habits, ``step`` -1 for a step of the
    power iteration and 0 to 3 for a block of the regression.
    """

    run: str
    basis: Floats
    items: str
    step: int
    weights: npt.NDArray[np.float64]
    server_round: int
    mode: str
    clip_norm: float

    purpose = CHOICE

    @property
    def flat(self) -> Floats:
        """The model that came with the request, as one array (n·k,)."""
        return self.basis.reshape(-1)

    @property
    def length(self) -> int:
        """How many numbers the answer has."""
        return reply_length(*self.basis.shape)

    def digest(self) -> str:
        """SHA-256, in hex, of all that is asked."""
        arrays = {"basis": digest(self.basis.tobytes()), "weights": digest(self.weights.tobytes())}
        terms = asdict(self) | arrays | {"shape": self.basis.shape}
        return digest(json.dumps(terms, sort_keys=True).encode())


def choice_answer(device: Device, request: ChoiceRequest) -> Floats:
    """Return the factor model's sums and those of habits, each clipped to the request's norm, as one float32 array.

    The share of repeats and the 1 beside it stay as they are: scaled down they would say another share. Raises
    `UpdateError` where the device knows another list of items, and `ModelError` for a malformed request.
    """
    if device.choice_items != request.items:
        raise UpdateError("This device knows another list of items than the server asks about.")
    sums, habits = device.choice_statistics(
        request.basis, items=request.items, step=request.step, weights=request.weights
    )
    parts = [clip(part.astype(np.float32), request.clip_norm) for part in (sums, habits[:-REPEATS])]
    return np.concatenate([*parts, habits[-REPEATS:].astype(np.float32)])
