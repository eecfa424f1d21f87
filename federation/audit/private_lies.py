"""A server that lies to devices' agents in a private round: every lie must be refused, at whatever stage it comes.

Lies that the secure sum itself refuses are told to it in `malicious_server`; these are about what stands around it: the
terms, the noise that is counted on, the roster, the model, the owner's word and limits.
"""

import json
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from engine.device.device import Device
from engine.errors import EngineError
from engine.owner.consent import PERSONALIZATION
from engine.owner.modes import PRIVATE
from engine.owner.ratchet import Limits
from federation.agent.agent import Agent
from federation.agent.cohorts import honest_share
from federation.agent.pool import DevicePool
from federation.agent.private import unmask_parts
from federation.agent.terms import TRAIN, NoisyTerms, asked_hash
from federation.audit.finding import Finding, Ground, at_most
from federation.audit.world import World
from federation.errors import FederationError, UpdateError
from federation.privacy.update import Floats
from federation.secagg import Announcement, Roster, ServerRound, SigningKey, Terms, sign_roster
from store import StoreError

DEVICES = 13
_Z = 20.0  # So much noise that the owners' default budget lasts for all of these rounds.
Lie = Callable[[], object]


def private_finding(ground: Ground, *, audit: str) -> Finding:
    """Return the finding on what devices' agents answer to a server that lies in private rounds."""
    with tempfile.TemporaryDirectory(prefix="tacit-audit-") as folder:
        world = World(folder=Path(folder), encoder=ground.encoder, rng=ground.rng, mode=PRIVATE)
        world.add(DEVICES)
        with DevicePool(world.open) as pool:
            server = LyingServer(world, [pool.agent(name) for name in world.names])
            server.invite()
            told = [(what, _tell(what, lie)) for lies in GROUPS.values() for what, lie in lies(server)]
    answered = [what for what, was in told if was]
    note = f"of {len(told)} told" + (f": {', '.join(answered[:3])}" if answered else "")
    return at_most("private rounds: lies answered", len(answered), 0, note, audit=audit)


def _tell(_: str, lie: Lie) -> bool:
    """Whether the device did anything else than to refuse."""
    try:
        lie()
    except (FederationError, EngineError, StoreError):
        return False
    # Whatever else comes out was not foreseen: the app would abstain, but it is no refusal.
    except Exception:  # noqa: BLE001
        return True
    return True


class LyingServer:
    """Rounds over agents, each with a number of its own, honest but for what is changed."""

    def __init__(self, world: World, agents: list[Agent]) -> None:
        self.agents, self.flat, self._number, self._version = agents, world.start.flat, 0, 2
        self.publisher = world.publisher
        self.keys = tuple(SigningKey(agent.device.round_identity()).public for agent in agents)
        self.terms = NoisyTerms(
            run="00" * 16,
            mode=PRIVATE,
            server_round=1,
            rounds=4,
            participations=4,
            devices=len(agents),
            cohort=len(agents),
            dimension=world.start.flat.size,
            catalogue=world.start.catalogue.fingerprint,
            task=TRAIN,
            directions=0,
            scatter=0,
            hold_back=False,
            local_steps=1,
            learning_rate=0.3,
            proximal_mu=0.0,
            seed=0,
            clip_norm=1.0,
            noise="discrete Gaussian",
            noise_multiplier=_Z,
            honest_share=honest_share(len(agents), len(agents)),
            delta=1e-5,
        )

    @property
    def victim(self) -> Agent:
        """Whom it lies to."""
        return self.agents[0]

    @property
    def device(self) -> Device:
        """The victim's."""
        return self.victim.device

    def roster(self, *, version: int = 0, signer: SigningKey | None = None, keys: tuple[bytes, ...] = ()) -> bytes:
        """The signed list of devices, or another one."""
        roster = Roster(version=version or self._version, keys=keys or self.keys)
        return sign_roster(roster, signer or self.publisher)

    def announce(self, told: bytes, flat: Floats, **changed: Any) -> Announcement:
        """The announcement of the next round."""
        self._number += 1
        terms = Terms(dimension=self.terms.dimension)
        honest: dict[str, Any] = {
            "number": self._number,
            "model_hash": asked_hash(told, flat),
            "roster_version": self._version,
            "roster_hash": Roster(version=self._version, keys=self.keys).hash,
            "terms": terms,
        }
        return Announcement(**(honest | changed))

    def invite(self, told: bytes | None = None, roster: bytes | None = None, **changed: Any) -> bytes:
        """What the victim answers to an invitation."""
        told = self.terms.to_bytes() if told is None else told
        announcement = self.announce(told, self.flat, **changed).encode()
        return self.victim.private.advert(announcement, terms=told, roster=roster or self.roster())

    def run_until_reveal(self, terms: NoisyTerms, flat: Floats) -> tuple[ServerRound, bytes]:
        """All devices advert; the server, and the message that names the cohort."""
        announcement = self.announce(terms.to_bytes(), flat)
        server = ServerRound(announcement, Roster(version=self._version, keys=self.keys))
        for agent in self.agents:
            server.advert(agent.private.advert(announcement.encode(), terms=terms.to_bytes(), roster=self.roster()))
        return server, server.close_adverts()

    def run_until_input(self, flat: Floats | None = None) -> ServerRound:
        """All devices share; the server has what to forward."""
        server, cohort = self.run_until_reveal(self.terms, self.flat if flat is None else flat)
        for index, agent in enumerate(self.agents):
            server.reveal(index, agent.private.reveal(cohort))
        server.close_reveals()
        for index, agent in enumerate(self.agents):
            server.shares(index, agent.private.shares(server.peers(index)))
        server.close_shares()
        return server


def _about_terms(server: LyingServer) -> Iterator[tuple[str, Lie]]:
    honest = json.loads(server.terms.to_bytes())
    for name, value in (
        ("noise_multiplier", 0.5),
        ("noise_multiplier", 0.0),
        ("noise_multiplier", math.nan),
        ("noise", "none"),
        ("honest_share", 2.0),
        ("clip_norm", 0.0),
        ("clip_norm", math.inf),
        ("mode", "central"),
        ("mode", "open"),
        ("catalogue", 32 * "0"),
        ("dimension", server.terms.dimension + 1),
        ("devices", DEVICES + 1),
        ("local_steps", 10**6),
        ("participations", 10**6),
        ("delta", 1.0),
        ("memories", True),
    ):
        told = json.dumps(honest | {name: value}, sort_keys=True, separators=(",", ":")).encode()
        yield f"terms: {name} = {value}", partial(server.invite, told)
    for weak in (Terms(dimension=server.terms.dimension, colluding=0), Terms(dimension=server.terms.dimension - 1)):
        yield "a weaker secure sum", partial(server.invite, terms=weak)


def _about_the_roster(server: LyingServer) -> Iterator[tuple[str, Lie]]:
    stranger = SigningKey.generate()
    yield "a roster of the server's", partial(server.invite, roster=server.roster(signer=stranger))
    yield "another roster than announced", partial(server.invite, roster_hash=bytes(32))
    sybils = (server.keys[0], *(SigningKey.generate().public for _ in range(DEVICES - 1)))
    yield "a roster of sybils", partial(server.invite, roster=server.roster(signer=stranger, keys=sybils))
    older = Roster(version=1, keys=server.keys)
    yield (
        "an older roster",
        partial(server.invite, roster=server.roster(version=1), roster_version=1, roster_hash=older.hash),
    )


def _about_an_older_round(server: LyingServer) -> Iterator[tuple[str, Lie]]:
    server.invite()
    yield "a round that is not new", partial(server.invite, number=1)


def _about_noise_and_model(server: LyingServer) -> Iterator[tuple[str, Lie]]:
    # All of the cohort's noise is counted on, though a sum of less can be unmasked.
    greedy = replace(server.terms, honest_share=1.0)
    _, cohort = server.run_until_reveal(greedy, server.flat)
    yield "less noise than is counted on", partial(server.victim.private.reveal, cohort)
    _, cohort = server.run_until_reveal(server.terms, server.flat)
    few = cohort[:2] + bytes((3, *(0 for _ in cohort[3:])))
    yield "a cohort of two", partial(server.victim.private.reveal, few)
    one = server.run_until_input()
    other = server.flat + np.float32(1)
    yield "another model than announced", partial(server.victim.private.input, one.forwarded(0), flat=other)


def _about_noise_that_is_needed(server: LyingServer) -> Iterator[tuple[str, Lie]]:
    # As many dropped out as may: all noise is needed, and none is to be given back.
    one = server.run_until_input()
    there = list(enumerate(server.agents))[: one.found.survivors]
    for index, agent in there:
        one.input(index, agent.private.input(one.forwarded(index), flat=server.flat))
    survivors = one.close_inputs()
    for index, agent in there:
        one.agreement(index, agent.private.agree(survivors))
    one.close_agreements()
    answers = [agent.private.unmask(one.signers(index)) for index, agent in there]
    keys = [key for answer in answers for key in unmask_parts(answer, server.terms, cohort=DEVICES)[1]]
    if not keys:
        raise RuntimeError("A round gives no noise back, so that keeping it says nothing: repair it first.")

    def given_back() -> None:
        if not any(map(any, keys)):
            raise UpdateError("All noise is needed.")

    yield "noise given back where all of it is needed", given_back


def _about_a_round_that_is_over(server: LyingServer) -> Iterator[tuple[str, Lie]]:
    one = server.run_until_input()
    for index, agent in enumerate(server.agents):
        one.input(index, agent.private.input(one.forwarded(index), flat=server.flat))
    forwarded, survivors = one.forwarded(0), one.close_inputs()
    changed = forwarded[:-1] + bytes((forwarded[-1] ^ 1,))
    yield "a second input", partial(server.victim.private.input, changed, flat=server.flat)
    for index, agent in enumerate(server.agents):
        one.agreement(index, agent.private.agree(survivors))
    one.close_agreements()
    for index, agent in enumerate(server.agents):
        answer = agent.private.unmask(one.signers(index))
        one.unmask(index, unmask_parts(answer, server.terms, cohort=DEVICES)[0])
    if one.sum() is None:
        raise RuntimeError("An honest round gives no sum, so that refusing lies says nothing: repair it first.")
    yield "a second unmasking", partial(server.victim.private.unmask, one.signers(0))
    yield "an input after the unmasking", partial(server.victim.private.input, forwarded, flat=server.flat)


def _against_the_owner(server: LyingServer) -> Iterator[tuple[str, Lie]]:
    device, run = server.device, replace(server.terms, participations=1)
    yield "oftener than the run counts on", partial(server.invite, run.to_bytes())
    one = server.run_until_input()
    device.withdraw_purpose(PERSONALIZATION)
    yield "consent withdrawn meanwhile", partial(server.victim.private.input, one.forwarded(0), flat=server.flat)
    yield "consent withdrawn", server.invite
    device.allow_purpose(PERSONALIZATION)
    one = server.run_until_input()
    device.account.limit(Limits(rho=device.account.spent.rho), now=0.0)
    yield "a budget that is spent meanwhile", partial(server.victim.private.input, one.forwarded(0), flat=server.flat)
    yield "a budget that is spent", server.invite
    device.account.limit(Limits(), now=0.0)
    device.allow_rounds(None)
    yield "no rounds allowed", server.invite


# In an order in which what one leaves behind does not refuse the next.
GROUPS: dict[str, Callable[[LyingServer], Iterator[tuple[str, Lie]]]] = {
    "terms": _about_terms,
    "roster": _about_the_roster,
    "an older round": _about_an_older_round,
    "noise and model": _about_noise_and_model,
    "noise that is needed": _about_noise_that_is_needed,
    "a round that is over": _about_a_round_that_is_over,
    "the owner": _against_the_owner,
}
