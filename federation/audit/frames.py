"""What crossed the wire of a run in this process, and what the ledgers of its devices say of it."""

# isort: off
import federation.rounds.flower_env  # noqa: F401 - before Flower
from flwr.app import Message

# isort: on
import contextlib
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from engine.device.device import Device
from engine.errors import EngineError
from engine.owner.modes import OPEN
from federation.agent.names import PRIVATE_MESSAGE
from federation.agent.pool import DevicePool
from federation.agent.private import INPUT
from federation.agent.terms import SUMMARY
from federation.audit.wire_schema import problem_of, stage_of
from federation.audit.world import World
from federation.errors import FederationError
from federation.rounds.config import RunSettings
from federation.secagg.messages import decode_input
from federation.simulation.grid import Watch, run_rounds

_INPUT_HEAD_BYTES = 2 + 32 + 64  # Version and kind, and behind the numbers commitment and signature.
_FIRST_NODE = 2  # The simulation numbers its nodes from 2.
Sent = Counter[tuple[str, str, int]]  # Device, hash and size of what left it.


@dataclass(kw_only=True)
class Frames:
    """Messages as the other side decodes them, and their bytes; log lines, and why the run failed, if it did.

    ``devices`` are the devices' names by their nodes' numbers, ``noted`` what their ledgers say, ``odd`` what was heard
    and is no message.
    """

    world: World
    messages: list[Message] = field(default_factory=list)
    frames: list[bytes] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    devices: dict[int, str] = field(default_factory=dict)
    failed: str = ""
    noted: Sent = field(default_factory=Counter)
    odd: list[str] = field(default_factory=list)

    def take(self, message: Message, frame: bytes) -> None:
        """Keep one message."""
        self.messages.append(message)
        self.frames.append(frame)

    def problems(self) -> list[str]:
        """What messages hold that the protocol does not list, each once; and rounds whose answers differ in size."""
        requests = [message for message in self.messages if not message.metadata.reply_to_message_id]
        found: set[str | None] = {*self.odd, *map(problem_of, requests)}
        sizes: dict[tuple[str, str], int] = {}
        for reply, asked in self._pairs():
            found.add(problem_of(reply, asked))
            if not reply.has_error() and not problem_of(reply, asked):
                kind, size = asked.metadata.message_type, len(_content(reply, asked))
                what = stage_of(asked) if kind == PRIVATE_MESSAGE else kind
                if sizes.setdefault((what, asked.metadata.group_id), size) != size:
                    found.add(f"answers of several sizes to {what}")
        return sorted(problem for problem in found if problem)

    def sent(self) -> Sent:
        """What each device sent that its ledger has to have: its update, in clear or masked."""
        sent: Sent = Counter()
        for reply, asked in self._pairs():
            payload = b"" if reply.has_error() or not _is_update(asked) else _content(reply, asked)
            if payload:
                name = self.devices[reply.metadata.src_node_id]
                sent[name, hashlib.sha256(payload).hexdigest(), len(payload)] += 1
        return sent

    def note_ledgers(self, opened: Callable[[str], Device]) -> None:
        """Note what the ledgers of all devices say that took part; ``opened`` opens one by its name."""
        for name in self.world.names:
            if name not in self.world.lost:
                with opened(name) as device:
                    self.note(name, device)

    def note(self, name: str, device: Device) -> None:
        """Note what a device's ledger says."""
        for its in device.account.contributions():
            self.noted[name, its.sent, its.size_bytes] += 1

    def apart(self) -> int:
        """How many updates no ledger has, or never left; what a device that left says of its last is true."""
        sent, noted = self.sent(), self.noted
        unsent = {entry: count for entry, count in (noted - sent).items() if entry[0] not in self.world.leaving}
        return (sent - noted).total() + sum(unsent.values())

    def unmasked(self) -> tuple[int, int]:
        """How many of the masked inputs do not look like noise that fills all of 2³², and how many there were."""
        bare = inputs = 0
        for reply, asked in self._pairs():
            if asked.metadata.message_type == PRIVATE_MESSAGE and _is_update(asked) and not reply.has_error():
                inputs += 1
                bare += not _fills_all(_answer(reply))
        return bare, inputs

    def _pairs(self) -> Iterator[tuple[Message, Message]]:
        """Each reply with its request."""
        asked: dict[str, Message] = {}
        for message in self.messages:
            if message.metadata.reply_to_message_id:
                yield message, asked[message.metadata.reply_to_message_id]
            else:
                asked[message.metadata.message_id] = message


def run_watched(world: World, strategy: str, *, rounds: int, rescorer_steps: int) -> Frames:
    """Run rounds of ``strategy`` over all devices of ``world`` in its mode, and return what was seen of them.

    Where the world chooses, the rounds are about choices.
    """
    seen = Frames(world=world, devices=dict(enumerate(world.names, start=_FIRST_NODE)))
    there = [*world.healthy, *world.failing]
    with _logged(seen.log), DevicePool(world.open) as pool:
        noisy = world.mode != OPEN
        settings = RunSettings(
            rounds=1 if strategy == SUMMARY else rounds,
            strategy=strategy,
            mode=world.mode,
            cohort=len(there) if noisy else len(world.names),
            min_replies=0 if noisy else len(world.healthy),
            rescorer_steps=0 if noisy else rescorer_steps,
            choice=str(world.folder / "films.safetensors") if world.chooses else "",
            roster=str(world.sign_roster(pool.agent(name).device for name in there)) if noisy else "",
            public=str(world.folder / "public.npy") if strategy == SUMMARY else "",
            model=str(world.folder / "start.safetensors"),
            out=str(world.folder),
        )
        try:
            run_rounds(settings, world.names, pool, watch=Watch(on_frame=seen.take))
        except (FederationError, EngineError) as error:  # What was seen until then is looked through all the same.
            seen.failed = str(error)
        for name in there:
            seen.note(name, pool.agent(name).device)
    return seen


def _answer(reply: Message) -> bytes:
    answer = reply.content.config_records["config"]["message"]
    return answer if isinstance(answer, bytes) else b""


def _is_update(asked: Message) -> bool:
    """Whether the answer to ``asked`` is a device's update, in clear or masked, and no other step of a sum."""
    return asked.metadata.message_type != PRIVATE_MESSAGE or stage_of(asked) == INPUT


def _content(reply: Message, asked: Message) -> bytes:
    """The bytes of a device's answer: its message of a secure sum, or its numbers."""
    if asked.metadata.message_type == PRIVATE_MESSAGE:
        return _answer(reply)
    return b"".join(
        array.numpy().astype("<f4").tobytes()
        for record in reply.content.array_records.values()
        for array in record.values()
    )


def _fills_all(answer: bytes) -> bool:
    """Whether the numbers of a masked input are spread evenly over eight parts of 0 … 2³², within 6 standard errors."""
    dimension = (len(answer) - _INPUT_HEAD_BYTES) // 4
    numbers, *_ = decode_input(answer, dimension)
    counts = np.bincount(numbers >> np.uint32(29), minlength=8)
    away = np.abs(counts - dimension / 8) / np.sqrt(dimension * 7 / 64)
    return bool(away.max() < 6)


@contextlib.contextmanager
def _logged(lines: list[str]) -> Iterator[None]:
    """Keep every log line of this process while the block runs, Flower's too."""

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))  # With the trace, if there is one.

    keep, loggers = Keep(level=logging.DEBUG), [logging.getLogger(), logging.getLogger("flwr")]
    for logger in loggers:
        logger.addHandler(keep)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(keep)
