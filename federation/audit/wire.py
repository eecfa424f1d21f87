"""What crosses the wire of a run: no secret in any form, nothing off the protocol, and what the ledgers say of it.

Rounds run over devices full of planted secrets, of which some fail, with secrets in the texts of their exceptions. Each
frame is looked through for all forms of all secrets; each reply is looked up in its device's ledger, by its hash.
"""

import contextlib
import hashlib
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import Message

from engine.errors import EngineError
from federation.agent.pool import DevicePool
from federation.audit.finding import Finding, Ground, at_most
from federation.audit.forms import Forms
from federation.audit.wire_schema import problem_of
from federation.audit.world import World
from federation.errors import FederationError
from federation.rounds.config import RunSettings
from federation.simulation.grid import Watch, run_rounds

AUDIT = "the wire"
Sent = Counter[tuple[str, str, int]]  # Device, hash and size of what left it.


@dataclass(kw_only=True)
class Frames:
    """What crossed the wire: messages as the other side decodes them, and their bytes; log lines beside them."""

    messages: list[Message] = field(default_factory=list)
    frames: list[bytes] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    failed: str = ""

    def take(self, message: Message, frame: bytes) -> None:
        """Keep one message."""
        self.messages.append(message)
        self.frames.append(frame)


def audit(ground: Ground) -> list[Finding]:
    """Return the findings on the wire of open rounds, in this process."""
    with tempfile.TemporaryDirectory(prefix="tacit-audit-") as folder:
        world = World(folder=Path(folder) / "world", encoder=ground.encoder, rng=ground.rng)
        world.add(ground.sized(3, 8))
        world.add(1, kind="lost")
        world.add(1, kind="failing")
        with ground.progress(AUDIT, 2) as tick:
            frames, noted = _run(world, ground)
            tick()
            found = _findings(world, frames, noted)
            tick()
    return found


def _run(world: World, ground: Ground) -> tuple[Frames, Sent]:
    """Run the rounds; what was seen, and what the ledgers of healthy devices say."""
    settings = RunSettings(
        rounds=ground.sized(1, 3),
        strategy="fedavg",
        cohort=len(world.names),
        min_replies=len(world.healthy),
        rescorer_steps=ground.sized(1, 3),
        model=str(world.folder / "start.safetensors"),
        out=str(world.folder),
    )
    seen = Frames()
    with _logged(seen.log), DevicePool(world.open) as pool:
        try:
            run_rounds(settings, world.names, pool, watch=Watch(on_frame=seen.take))
        except (FederationError, EngineError) as error:  # What was seen until then is looked through all the same.
            seen.failed = str(error)
        noted: Sent = Counter()
        for name in world.healthy:
            for its in pool.agent(name).device.account.contributions():
                noted[name, its.sent, its.size_bytes] += 1
    return seen, noted


def _findings(world: World, seen: Frames, noted: Sent) -> list[Finding]:
    forms = Forms(world.secrets, world.vectors())
    total = sum(map(len, seen.frames))
    leaked = sorted(set().union(*map(forms.found, seen.frames)))
    logged = sorted(forms.found("\n".join(seen.log).encode(errors="replace")))
    odd = sorted({problem for message in seen.messages if (problem := problem_of(message))})
    sent = _sent(world, seen)
    apart = sum(((sent - noted) + (noted - sent)).values())
    count = f"{len(seen.frames)} frames, {total / 1e6:.1f} MB"
    return [
        at_most("runs that failed", bool(seen.failed), 0, seen.failed, audit=AUDIT),
        at_most(
            "secrets in frames", len(leaked), 0, _told(f"{len(world.secrets)} planted; {count}", leaked), audit=AUDIT
        ),
        at_most("secrets in log lines", len(logged), 0, _told(f"of {len(seen.log)} lines", logged), audit=AUDIT),
        at_most("frames off the protocol", len(odd), 0, _told(count, odd), audit=AUDIT),
        at_most(
            "replies that no ledger has, or that never left", apart, 0, f"of {sum(sent.values())} replies", audit=AUDIT
        ),
    ]


def _sent(world: World, seen: Frames) -> Sent:
    """What each device sent, from the frames alone."""
    first, sent = 2, Counter[tuple[str, str, int]]()  # The simulation numbers its nodes from 2.
    for message in seen.messages:
        if message.metadata.reply_to_message_id and not message.has_error():
            for payload in _payloads(message):
                name = world.names[message.metadata.src_node_id - first]
                sent[name, hashlib.sha256(payload).hexdigest(), len(payload)] += 1
    return sent


def _payloads(message: Message) -> Iterator[bytes]:
    """The bytes of the numbers in a reply."""
    for record in message.content.array_records.values():
        for array in record.values():
            yield array.numpy().astype("<f4").tobytes()


def _told(note: str, what: list[str]) -> str:
    """``note``, and the first of what was found."""
    return f"{note}: {', '.join(what[:3])}" if what else note


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
