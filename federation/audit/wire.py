"""What crosses the wire of a run: no secret in any form, nothing off the protocol, and what the ledgers say of it.

Rounds of each mode, and rounds about choices, run over devices full of planted secrets, of which some fail, with
secrets in the texts of their exceptions. Each frame is looked through for all forms of all secrets; each update that
left is looked up in its device's ledger, by its hash; masked inputs must look like noise. A full run does the same to
an open round and to a private one over real SuperNodes, by what a listener between them and their SuperLink sees.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.encoders.encoder import Encoder
from engine.owner.modes import CENTRAL, OPEN, PRIVATE
from federation.agent.terms import SUMMARY
from federation.audit.deployment import run_deployed
from federation.audit.finding import Finding, Ground, at_most
from federation.audit.forms import Forms
from federation.audit.frames import Frames, run_watched
from federation.audit.world import World
from federation.rounds.config import default

AUDIT = "the wire"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """Rounds of one kind, and how many healthy devices take part in them in a ``quick`` and in a ``full`` run."""

    mode: str
    strategy: str = "fedavg"
    chooses: bool = False
    quick: int = 0
    full: int

    @property
    def name(self) -> str:
        """What tells it from the others."""
        return f"{self.mode}-{'choice' if self.chooses else self.strategy}"


_EPSILON = 64.0  # Over SuperNodes: so few devices' summaries show above the noise, and a model comes of them.
# Of a private round's cohort up to three tenths may drop out after shares: the failing ones do.
LANES = (
    Lane(mode=OPEN, quick=3, full=8),
    Lane(mode=OPEN, chooses=True, quick=3, full=8),
    Lane(mode=CENTRAL, quick=3, full=8),
    Lane(mode=CENTRAL, strategy=SUMMARY, full=8),
    Lane(mode=PRIVATE, strategy=default("strategy", PRIVATE), quick=13, full=16),
    Lane(mode=PRIVATE, full=13),
)


def audit(ground: Ground) -> list[Finding]:
    """Return the findings on the wire of rounds in this process, and in a full run of those on SuperNodes."""
    chosen = [lane for lane in LANES if ground.sized(lane.quick, lane.full)]
    with (
        tempfile.TemporaryDirectory(prefix="tacit-audit-") as folder,
        ground.progress(AUDIT, len(chosen) + ground.sized(1, 3)) as tick,
    ):
        lanes = []
        for lane in chosen:
            world = World(
                folder=Path(folder) / lane.name,
                encoder=ground.encoder,
                rng=ground.rng,
                mode=lane.mode,
                chooses=lane.chooses,
            )
            world.add(ground.sized(lane.quick, lane.full))
            world.add(1, kind="lost")
            world.add(1, kind="failing")
            lanes.append(
                run_watched(world, lane.strategy, rounds=ground.sized(1, 3), rescorer_steps=ground.sized(1, 3))
            )
            tick()
        found = list(_findings(lanes))
        tick()
        if not ground.quick:
            deployed = []
            for seen in _over_supernodes(Path(folder) / "nodes", ground):
                deployed.append(seen)
                tick()
            found += _findings(deployed, "SuperNodes: ")
    return found


def deployed_world(folder: Path, mode: str, *, encoder: Encoder, rng: np.random.Generator) -> World:
    """The devices of a round over SuperNodes in ``mode``, of which one is lost: its node has no agent to ask.

    In private mode 13 others are on the roster, of which one fails and one takes its node with it.
    """
    world = World(folder=folder, encoder=encoder, rng=rng, mode=mode, epsilon=_EPSILON)
    world.add(2 if mode == OPEN else 11)
    world.add(1, kind="lost")
    if mode != OPEN:
        world.add(1, kind="failing")
        world.add(1, kind="leaving")
    return world


def _over_supernodes(folder: Path, ground: Ground) -> Iterator[Frames]:
    """Rounds over real SuperNodes: an open one, and a private one of summaries."""
    for mode in (OPEN, PRIVATE):
        world = deployed_world(folder / mode / "devices", mode, encoder=ground.encoder, rng=ground.rng)
        yield run_deployed(world, folder / mode, apart=world.healthy if mode == PRIVATE else ())


def _findings(lanes: list[Frames], where: str = "") -> Iterator[Finding]:
    failed = [lane.failed for lane in lanes if lane.failed]
    yield at_most(f"{where}runs that failed", len(failed), 0, _told(f"of {len(lanes)}", failed), audit=AUDIT)
    leaked: set[str] = set()
    for lane in lanes:
        forms = Forms(lane.world.secrets, lane.world.vectors())
        leaked |= set().union(*map(forms.found, lane.frames))
        leaked |= forms.found("\n".join(lane.log).encode(errors="replace"))
    planted = sum(len(lane.world.secrets) for lane in lanes)
    frames = [frame for lane in lanes for frame in lane.frames]
    count = f"{len(frames)} frames, {sum(map(len, frames)) / 1e6:.1f} MB"
    note = _told(f"{planted} planted; {count}, and log lines", sorted(leaked))
    yield at_most(f"{where}secrets in frames", len(leaked), 0, note, audit=AUDIT)
    problems = sorted({problem for lane in lanes for problem in lane.problems()})
    yield at_most(f"{where}frames off the protocol", len(problems), 0, _told(count, problems), audit=AUDIT)
    apart = sum(lane.apart() for lane in lanes)
    updates = sum(lane.sent().total() for lane in lanes)
    yield at_most(f"{where}updates that no ledger has, or that never left", apart, 0, f"of {updates}", audit=AUDIT)
    bare, inputs = (sum(counts) for counts in zip(*(lane.unmasked() for lane in lanes), strict=True))
    yield at_most(f"{where}masked inputs that do not look like noise", bare, 0, f"of {inputs}", audit=AUDIT)


def _told(note: str, what: list[str]) -> str:
    """``note``, and the first of what was found."""
    return f"{note}: {', '.join(what[:3])}" if what else note
