"""What a node was asked, as its agent takes it (`answers`): plain values and arrays, from a call or from a socket.

This much a node's process needs, and no more: it loads nothing of a device.

>>> asked = Asked(kind="train.private", run="Flower run 1", node_id=2, values={"stage": "agree", "message": b"ab"})
>>> Asked.decode(asked.encode()) == asked
True
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from federation.errors import UpdateError

Value = bool | int | float | str | bytes
Array = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Answer = npt.NDArray[np.float32] | bytes
_DTYPES = {"<f4": np.float32, "<f8": np.float64}
_HEAD = struct.Struct(">I")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A message of ``kind`` (`names`) to the node ``node_id`` in ``run``, with its values and its flat arrays."""

    kind: str
    run: str
    node_id: int
    values: Mapping[str, Value] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)

    def encode(self) -> bytes:
        """One head in JSON, its length before it, and what it points to."""
        blobs: list[bytes] = []

        def kept(blob: bytes) -> int:
            blobs.append(blob)
            return len(blob)

        head = {
            "kind": self.kind,
            "run": self.run,
            "node": self.node_id,
            "values": {name: value for name, value in self.values.items() if not isinstance(value, bytes)},
            "bytes": [[name, kept(value)] for name, value in self.values.items() if isinstance(value, bytes)],
            "arrays": [
                [
                    name,
                    array.dtype.newbyteorder("<").str,
                    list(array.shape),
                    kept(array.astype(array.dtype.newbyteorder("<")).tobytes()),
                ]
                for name, array in self.arrays.items()
            ],
        }
        told = json.dumps(head).encode()
        return _HEAD.pack(len(told)) + told + b"".join(blobs)

    @classmethod
    def decode(cls, told: bytes) -> "Asked":
        """What :meth:`encode` gave. Raises `UpdateError`."""
        try:
            (size,) = _HEAD.unpack_from(told)
            head, at = json.loads(told[_HEAD.size : _HEAD.size + size]), _HEAD.size + size
            values: dict[str, Value] = dict(head["values"])
            arrays: dict[str, Array] = {}
            for name, length in head["bytes"]:
                values[name], at = told[at : at + length], at + length
            for name, dtype, shape, length in head["arrays"]:
                array: Array = np.frombuffer(told[at : at + length], dtype=_DTYPES[dtype]).copy()
                if array.size != math.prod(shape):
                    raise ValueError("an array of another size")
                arrays[name], at = array.reshape(shape), at + length
            if at != len(told):
                raise ValueError("more than was told")
            return cls(
                kind=str(head["kind"]), run=str(head["run"]), node_id=int(head["node"]), values=values, arrays=arrays
            )
        except (struct.error, ValueError, KeyError, TypeError, RecursionError, OverflowError):
            raise UpdateError("What the node was asked is malformed.") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Asked) and self.encode() == other.encode()
