"""A server that asks a device's agent for what it must not give: nothing may come back but an error without a text.

The messages go over the simulation's wire, through the app that deploys, to devices whose owners allow open rounds.
What the app knows is answered by an abstain; of messages that it has no function for it never hears, and Flower's own
error code comes back.
"""

# isort: off
import federation.rounds.flower_env  # noqa: F401 - before Flower
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

# isort: on
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from engine.owner.account import Limits
from engine.owner.consent import PERSONALIZATION
from engine.personal.rescorer import PUBLIC_WEIGHTS
from federation.agent.pool import DevicePool, serving
from federation.audit.finding import Finding, Ground, at_most
from federation.audit.world import World
from federation.privacy.update import Floats
from federation.rounds.client_app import ABSTAIN
from federation.simulation.grid import InProcessGrid

KIND, FLAT, WEIGHTS = "kind", "flat", "weights"
_NODE = 2  # The simulation numbers its nodes from 2.


def agent_finding(ground: Ground, *, audit: str) -> Finding:
    """Return the finding on what devices' agents answer to a lying server."""
    with tempfile.TemporaryDirectory(prefix="tacit-audit-") as folder:
        world = World(folder=Path(folder), encoder=ground.encoder, rng=ground.rng)
        world.add(4)
        with DevicePool(world.open) as pool, serving(pool):
            told = list(_answers(world, pool))
    answered = [what for what, reply in told if not _is_silent(reply, what)]
    note = f"of {len(told)} told" + (f": {', '.join(answered[:3])}" if answered else "")
    return at_most("requests to agents: lies answered", len(answered), 0, note, audit=audit)


def _is_silent(reply: Message, what: str) -> bool:
    """Whether the reply says no more than that there is none."""
    if not reply.has_error() or reply.has_content() or reply.error.reason:
        return False
    return bool(reply.error.code == ABSTAIN) or what in _UNKNOWN


def _answers(world: World, pool: DevicePool) -> Iterator[tuple[str, Message]]:
    """Each lie with the answer to it. Of the first device all is allowed, so that the lie alone is refused."""
    asked = _Asking(world)
    if asked(0).has_error():
        raise RuntimeError("A device refuses an honest request, so that refusing lies says nothing: repair it first.")
    for what, lie in (_LIES | _UNKNOWN).items():
        yield what, asked(0, lie)
    for what, flat in _models(world.start.flat).items():
        yield what, asked(0, {FLAT: flat})
    for what, weights in _WEIGHTS.items():
        yield what, asked(0, {KIND: "train.rescorer", WEIGHTS: weights})
    devices = [pool.agent(name).device for name in world.names]
    devices[1].allow_rounds(None)
    yield "no rounds allowed", asked(1)
    devices[2].withdraw_purpose(PERSONALIZATION)
    yield "consent withdrawn", asked(2)
    devices[3].account.limit(Limits(lifetime=1), now=0.0)
    if asked(3).has_error():
        raise RuntimeError("A device refuses a request within its owner's limit: repair it first.")
    yield "beyond the owner's limit", asked(3, {"server-round": 2})
    for _ in range(8):
        asked(3)
    yield "asked for the same once more than eight times", asked(3)


_LIES: dict[str, dict[str, Any]] = {
    "central mode": {"mode": "central"},
    "private mode in the open lane": {"mode": "private"},
    "no mode": {"mode": ""},
    "another catalogue": {"catalogue": 32 * "0"},
    "many steps": {"local-steps": 10**6},
    "no step": {"local-steps": 0},
    "no clip": {"clip-norm": math.inf},
    "a clip of NaN": {"clip-norm": math.nan},
    "a clip below 0": {"clip-norm": -1.0},
    "a learning rate of NaN": {"learning-rate": math.nan},
    "an endless learning rate": {"learning-rate": math.inf},
}
_UNKNOWN: dict[str, dict[str, Any]] = {
    "metrics asked for": {KIND: "evaluate"},
    "a query": {KIND: "query"},
    "another function": {KIND: "train.memories"},
}
_WEIGHTS = {
    "weights of NaN": np.full(len(PUBLIC_WEIGHTS), math.nan),
    "weights too large": np.full(len(PUBLIC_WEIGHTS), 1e9),
    "too few weights": np.zeros(len(PUBLIC_WEIGHTS) - 1),
}


def _models(flat: Floats) -> dict[str, Floats]:
    poisoned, huge = flat.copy(), flat.copy()
    poisoned[0], huge[::2] = math.nan, 3e38
    return {
        "a model with NaN": poisoned,
        "a model that makes NaN": huge,
        "a short model": flat[:-1],
        "a long model": np.append(flat, np.float32(0)),
    }


class _Asking:
    """Requests over the wire of a simulation, honest but for what is changed."""

    def __init__(self, world: World) -> None:
        self._world, self._grid = world, InProcessGrid(world.names)

    def __call__(self, device: int, lie: Mapping[str, Any] = MappingProxyType({})) -> Message:
        """The answer of a device; of ``lie``, `KIND`, `FLAT` and `WEIGHTS` stand for themselves, the rest for terms."""
        changed = dict(lie)
        kind, flat = changed.pop(KIND, "train"), changed.pop(FLAT, self._world.start.flat)
        arrays = {"model": Array(flat)}
        if WEIGHTS in changed:
            arrays["weights"] = Array(changed.pop(WEIGHTS))
        honest: dict[str, Any] = {
            "server-round": 1,
            "catalogue": self._world.start.catalogue.fingerprint,
            "mode": self._world.mode,
            "hold-back": False,
            "local-steps": 1,
            "learning-rate": 0.3,
            "clip-norm": 1.0,
            "seed": 0,
        }
        content = RecordDict({"arrays": ArrayRecord(arrays), "config": ConfigRecord(honest | changed)})
        [reply] = self._grid.send_and_receive([Message(content, _NODE + device, kind)])
        return reply
