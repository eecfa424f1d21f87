"""Rounds over many devices in one process: a Flower Grid that runs the ClientApp itself, with the wire encoding on.

The apps and strategies are those that deploy. This is the only file that touches Flower's internals
(``flwr.supercore.run.Run``, ``flwr.supercore.task_identity.TaskIdentity`` and the message codec of
``flwr.common.serde``); a test pins that contract. One run at a time in a process.
"""

# isort: off
import federation.rounds.flower_env
from flwr.app import Context, Error, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

# isort: on
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from federation.agent.names import ARRAY
from federation.agent.pool import DevicePool, serving
from federation.errors import ConfigError
from federation.privacy.update import Floats
from federation.rounds import client_app, server_app
from federation.rounds.config import RunSettings
from federation.rounds.gate import encoding_by
from federation.rounds.records import ARRAYS, CONFIG

_RUN_ID, _SERVER_NODE, _TASK = 1, 1, 1
_FIRST_DEVICE_NODE = 2
_CRASHED = 8


@dataclass(slots=True, kw_only=True)
class RoundTraffic:
    """What crossed the wire in a round, in bytes of encoded messages over all devices, and who answered."""

    server_round: int
    asked: int = 0
    replies: int = 0
    failures: int = 0
    sent_bytes: int = 0  # by devices
    received_bytes: int = 0  # by devices


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Called while a simulation runs: with the model at the start of a round, after each answer, at a round's end.

    ``on_frame`` gets each message as the other side decodes it, and its bytes on the wire.
    """

    on_round: Callable[[int, Floats], None] = lambda _round, _flat: None
    on_reply: Callable[[], None] = lambda: None
    on_traffic: Callable[[RoundTraffic], None] = lambda _traffic: None
    on_frame: Callable[[Message, bytes], None] = lambda _message, _frame: None


class InProcessGrid(Grid):
    """A Grid whose nodes are named devices in this process. Each message is encoded, decoded, answered, encoded."""

    def __init__(self, names: Sequence[str], *, watch: Watch | None = None) -> None:
        self._names = dict(enumerate(names, start=_FIRST_DEVICE_NODE))
        self._watch = watch or Watch()
        self._run = Run.create_empty(_RUN_ID)
        self._replies: dict[str, Message] = {}
        self._count = 0
        self.traffic: list[RoundTraffic] = []
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = _RUN_ID, _TASK, _SERVER_NODE

    def set_run(self, run: Run) -> None:
        """Set the run that messages belong to."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message to a node."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all devices' nodes, the same in every run."""
        return list(self._names)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver messages and keep the replies for `pull_messages`."""
        return self._deliver(list(messages), deadline=float("inf"))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there for these ids, each once."""
        return [self._replies.pop(id) for id in message_ids if id in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Deliver messages and return the replies that came before the timeout (seconds)."""
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        return self.pull_messages(self._deliver(list(messages), deadline=deadline))

    def _deliver(self, messages: list[Message], *, deadline: float) -> list[str]:
        if not messages:
            return []
        config = messages[0].content.config_records[CONFIG]
        traffic = self._traffic_of(int(config["server-round"]), messages)  # type: ignore[arg-type]
        ids = []
        for message in messages:
            self._count += 1
            message.metadata.__dict__["_message_id"] = f"message-{self._count}"  # as Flower's own Grid does
            ids.append(message.metadata.message_id)
            if time.monotonic() > deadline:
                traffic.failures += 1
                continue
            reply = self._answer(message, traffic)
            traffic.replies += not reply.has_error()
            traffic.failures += reply.has_error()
            self._replies[message.metadata.message_id] = reply
            self._watch.on_reply()
        self._watch.on_traffic(traffic)
        return ids

    def _traffic_of(self, server_round: int, messages: list[Message]) -> RoundTraffic:
        """The traffic of this round, to add to: a private round has several exchanges, one of which has the model."""
        content, last = messages[0].content, self.traffic[-1] if self.traffic else None
        if ARRAYS in content:
            self._watch.on_round(server_round, np.array(content.array_records[ARRAYS][ARRAY].numpy()))
        if last is None or last.server_round != server_round:
            last = RoundTraffic(server_round=server_round, asked=len(messages))
            self.traffic.append(last)
        return last

    def _answer(self, message: Message, traffic: RoundTraffic) -> Message:
        node = message.metadata.dst_node_id
        arrived, frame = _over_the_wire(message)
        self._watch.on_frame(arrived, frame)
        traffic.received_bytes += len(frame)
        context = Context(
            run_id=_RUN_ID,
            node_id=node,
            node_config={"device": self._names[node]},
            state=RecordDict(),
            run_config={},
        )
        TaskIdentity.node_id = node
        try:
            reply = client_app.app(arrived, context)
        # As a SuperNode does: a client that crashes is an error reply, never the end of the round.
        except Exception:  # noqa: BLE001
            reply = Message(Error(code=_CRASHED), reply_to=arrived)
        finally:
            TaskIdentity.node_id = _SERVER_NODE
        returned, frame = _over_the_wire(reply)
        self._watch.on_frame(returned, frame)
        traffic.sent_bytes += len(frame)
        return returned


def _over_the_wire(message: Message) -> tuple[Message, bytes]:
    """Return the message as the other side decodes it, and its bytes."""
    encoded = message_to_proto(message).SerializeToString()
    return message_from_proto(ProtoMessage.FromString(encoded)), encoded


def run_rounds(
    settings: RunSettings, names: Sequence[str], pool: DevicePool, *, watch: Watch | None = None
) -> list[RoundTraffic]:
    """Run the ServerApp over the devices ``names`` of ``pool``; return each round's traffic.

    Raises `RoundError`, `CheckpointError` and `ConfigError`, as the ServerApp does.
    """
    # On a network the ServerApp waits for more devices to join; here none ever will.
    if settings.cohort > len(names):
        raise ConfigError(f"Expected cohort={settings.cohort} to be at most the {len(names)} devices there are.")
    import torch

    federation.rounds.flower_env.quiet()
    # A device's training is a few small products: more threads than one only wait for each other.
    torch.set_num_threads(1)
    grid = InProcessGrid(names, watch=watch)
    context = Context(
        run_id=_RUN_ID, node_id=_SERVER_NODE, node_config={}, state=RecordDict(), run_config=settings.to_config()
    )
    with serving(pool), encoding_by(pool.encoder):
        server_app.app(grid, context)
    return grid.traffic
