"""A cohort of devices in a secure sum, each kept as it was before every stage, and an honest server to lie in place of.

The devices are the running code's `DeviceRound`; what is theirs alone is here only so that an audit can check it.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from federation.secagg import (
    Announcement,
    Answer,
    DeviceRound,
    History,
    Policy,
    Roster,
    ServerRound,
    SigningKey,
    Terms,
    sign_roster,
)
from federation.secagg.masks import Words

STAGES = ("reveal", "shares", "input", "agree", "unmask")
MODEL = hashlib.sha256(b"the model of an audit").digest()
NUMBER, VERSION = 7, 3


@dataclass(kw_only=True)
class AuditedCohort:
    """``size`` devices of one roster, all of them in the cohort. ``late`` share but send no input.

    `run_until` runs the stages up to one of `STAGES`; `before` then has each device as it was before a stage, `heard`
    what it was told.
    """

    size: int
    dimension: int = 4
    late: Collection[int] = ()
    terms: Terms = field(init=False)
    keys: list[SigningKey] = field(init=False)
    before: dict[tuple[str, int], DeviceRound] = field(default_factory=dict)
    heard: dict[tuple[str, int], bytes] = field(default_factory=dict)
    replied: dict[tuple[str, int], bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.terms = Terms(dimension=self.dimension)
        self.keys = [SigningKey.generate() for _ in range(self.size)]
        self.publisher = SigningKey.generate()
        self.roster = Roster(version=VERSION, keys=tuple(key.public for key in self.keys))
        self.signed_roster = sign_roster(self.roster, self.publisher)
        self.policy = Policy(terms=(self.terms,))
        self.announcement = Announcement(
            number=NUMBER,
            model_hash=MODEL,
            roster_version=VERSION,
            roster_hash=self.roster.hash,
            terms=self.terms,
        )
        self.server = ServerRound(self.announcement, self.roster)
        self.devices: list[DeviceRound] = []
        self.vectors: Words = np.arange(self.size * self.dimension, dtype=np.uint32).reshape(self.size, -1)

    def begin(self, index: int, announcement: bytes, *, model: bytes = MODEL, history: History | None = None) -> bytes:
        """The advert of a device that is told ``announcement``; its round is not kept."""
        return DeviceRound.start(
            announcement,
            model_hash=model,
            roster=self.roster,
            policy=self.policy,
            history=history or History(roster_version=VERSION, number=NUMBER - 1),
            identity=self.keys[index],
        ).reply

    def run_until(self, last: str) -> None:
        """Run an honest round up to and with the stage ``last``."""
        message = self._adverts()
        for index in range(self.size):
            self.server.reveal(index, self.ask("reveal", index, message))
        self.server.close_reveals()
        if last == "reveal":
            return
        for index in range(self.size):
            self.server.shares(index, self.ask("shares", index, self.server.peers(index)))
        self.server.close_shares()
        if last == "shares":
            return
        here = [index for index in range(self.size) if index not in self.late]
        for index in here:
            self.server.input(index, self.ask("input", index, self.server.forwarded(index)))
        message = self.server.close_inputs()
        if last == "input":
            return
        for index in here:
            self.server.agreement(index, self.ask("agree", index, message))
        self.server.close_agreements()
        if last == "agree":
            return
        for index in here:
            self.server.unmask(index, self.ask("unmask", index, self.server.signers(index)))

    def ask(self, stage: str, index: int, message: bytes) -> bytes:
        """The answer of a device to the next stage of its round."""
        self.before[stage, index], self.heard[stage, index] = self.devices[index], message
        answer = _answer(self.devices[index], stage, message, self.vectors[index])
        self.devices[index], self.replied[stage, index] = answer.round, answer.reply
        return answer.reply

    def tell(self, stage: str, index: int, message: bytes, *, at: str = "") -> bytes:
        """What a device answers to ``message`` of ``stage``, as it was before that stage, or before the stage ``at``.

        Raises what it refuses with.
        """
        return _answer(self.before[at or stage, index], stage, message, self.vectors[index]).reply

    def _adverts(self) -> bytes:
        for index in range(self.size):
            started = DeviceRound.start(
                self.announcement.encode(),
                model_hash=MODEL,
                roster=self.roster,
                policy=self.policy,
                history=History(roster_version=VERSION, number=NUMBER - 1),
                identity=self.keys[index],
            )
            self.devices.append(started.round)
            self.server.advert(started.reply)
        return self.server.close_adverts()


def _answer(device: DeviceRound, stage: str, message: bytes, vector: Words) -> Answer:
    if stage == "input":
        return device.input(message, vector)
    answer: Answer = getattr(device, stage)(message)
    return answer
