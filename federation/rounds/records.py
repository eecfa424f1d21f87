"""What a message of a round holds, for the node that relays it and the server that reads it: numbers, or one message.

A device's answer is one float32 array and the constant weight 1, or in a private round the bytes of one message.
"""

# isort: off
import federation.rounds.flower_env  # noqa: F401 - before Flower
from flwr.app import Array, ArrayRecord, Message, RecordDict

# isort: on
import functools

import numpy as np

from federation.agent.names import ARRAY, MESSAGE
from federation.errors import UpdateError
from federation.privacy.update import Floats, check_reply

ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"
WEIGHT = "weight"  # What Flower averages by: 1.
_STYPE = "numpy.ndarray"


def reply_array(content: RecordDict, *, length: int) -> Floats:
    """Return the update of a reply; raise `UpdateError` if the reply holds anything else or is malformed."""
    arrays, metrics = content.array_records, content.metric_records
    if set(content) != {ARRAYS, METRICS} or set(arrays) != {ARRAYS} or set(metrics) != {METRICS}:
        raise UpdateError(f"Expected a reply of {ARRAYS!r} and {METRICS!r} alone.")
    if set(arrays[ARRAYS]) != {ARRAY} or dict(metrics[METRICS]) != {WEIGHT: 1.0}:
        raise UpdateError("Expected one array and the constant weight 1 in a reply.")
    array, head = arrays[ARRAYS][ARRAY], _encoded_head(length)
    # The one encoding that a device sends: nothing hides beside the numbers, and a hostile header is never parsed.
    described = (array.stype, array.dtype, tuple(array.shape)) == (_STYPE, "float32", (length,))
    if not described or len(array.data) != len(head) + 4 * length or not array.data.startswith(head):
        raise UpdateError(f"Expected a reply of {length} float32 numbers and nothing else.")
    return check_reply(np.frombuffer(array.data, dtype=np.float32, offset=len(head)), length)


@functools.lru_cache(maxsize=8)
def _encoded_head(length: int) -> bytes:
    """Return what stands before the numbers in Flower's encoding of a flat model."""
    return as_arrays(np.zeros(length, dtype=np.float32))[ARRAY].data[: -4 * length or None]


def as_arrays(flat: Floats) -> ArrayRecord:
    """Return the record that carries a flat model (d,)."""
    return ArrayRecord({ARRAY: Array(np.ascontiguousarray(flat, dtype=np.float32))})


def answer_of(reply: Message) -> bytes | None:
    """What a device answered; ``None`` where it abstained, or sent anything but one message."""
    if reply.has_error() or set(reply.content) != {CONFIG}:
        return None
    record = reply.content.config_records.get(CONFIG)
    answer = None if record is None or set(record) != {MESSAGE} else record[MESSAGE]
    return answer if isinstance(answer, bytes) else None
