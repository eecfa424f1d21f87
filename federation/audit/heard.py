"""What a tap heard, as the messages that Flower's nodes and their server exchanged.

Flower sends a message in pieces, objects: a head with the kind, the parts' names and the length, and a body. An
object's name is its SHA-256, and one that is there already is not sent again, so pieces are put together over all
connections. How they are framed is no matter: an object is found wherever it lies in the bytes.
"""

# isort: off
import federation.rounds.flower_env  # noqa: F401 - before Flower
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

# isort: on
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

_HEAD = re.compile(
    rb"(Message|RecordDict|ArrayRecord|ConfigRecord|MetricRecord|ArrayChunk|Array) "
    rb"((?:[0-9a-f]{64}(?:,[0-9a-f]{64})*)?) (\d{1,12})\0"
)
# A piece of an array has no public name.
_KINDS = {kind.__qualname__: kind for kind in (Message, RecordDict, ArrayRecord, ConfigRecord, MetricRecord, Array)} | {
    type(piece).__qualname__: type(piece) for piece in (Array(np.zeros(1, dtype=np.float32)).children or {}).values()
}


@dataclass(kw_only=True)
class Heard:
    """Messages, requests before replies; which device's connection each node's replies came over; what is odd."""

    messages: list[Message] = field(default_factory=list)
    devices: dict[int, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def messages_of(sent: Mapping[str, Iterable[bytes]], received: Iterable[bytes]) -> Heard:
    """Put together what devices ``sent``, by name a connection each, and ``received``.

    Problems are pieces that belong to no message, messages that were not heard whole, and replies to nothing.
    """
    by_device = {name: _objects(connections) for name, connections in sent.items()}
    pieces = _objects(received)
    for found in by_device.values():
        pieces |= found
    heard, used = Heard(), set[str]()
    whole: dict[str, Message] = {}
    for name, content in pieces.items():
        if content.startswith(b"Message "):
            try:
                whole[name] = _inflated(name, pieces, used)
            except KeyError:
                heard.problems.append("a message that was not heard whole")
    if set(pieces) - used:
        heard.problems.append(f"{len(set(pieces) - used)} pieces of no message")
    for name, message in whole.items():
        message.metadata.__dict__["_message_id"] = name  # As Flower's nodes do: it is left out on the way.
    asked = {name: message for name, message in whole.items() if not message.metadata.reply_to_message_id}
    replies = [message for message in whole.values() if message.metadata.reply_to_message_id in asked]
    if len(asked) + len(replies) < len(whole):
        heard.problems.append("a reply to nothing that was asked")
    heard.messages = [*asked.values(), *replies]
    for device, found in by_device.items():
        heard.devices |= {whole[name].metadata.src_node_id: device for name in found if name in whole}
    return heard


def _objects(heard: Iterable[bytes]) -> dict[str, bytes]:
    """Each object that lies whole in the bytes, by its name."""
    found = {}
    for data in heard:
        for head in _HEAD.finditer(data):
            content = data[head.start() : head.end() + int(head[3])]
            if len(content) == head.end() - head.start() + int(head[3]):
                found[hashlib.sha256(content).hexdigest()] = content
    return found


def _inflated(name: str, pieces: Mapping[str, bytes], used: set[str]) -> Message:
    """The object of this name with its parts; ``used`` gets the names of all of them. Raises KeyError."""
    head = _HEAD.match(pieces[name])
    assert head is not None  # By which it was found.
    parts = {part: _inflated(part, pieces, used) for part in head[2].decode().split(",") if part}
    used.add(name)
    inflated: Message = _KINDS[head[1].decode()].inflate(pieces[name], parts)  # type: ignore[arg-type, assignment]
    return inflated
