"""A cohort of devices and a server in one process: a whole secure sum, with devices that vanish at any stage."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from federation.secagg import (
    Announcement,
    DeviceRound,
    History,
    Policy,
    Roster,
    ServerRound,
    SigningKey,
    Terms,
)

MODEL = hashlib.sha256(b"model").digest()
STAGES = ("reveal", "shares", "input", "agree", "unmask")


def key_of(name: str) -> SigningKey:
    return SigningKey(hashlib.sha256(name.encode()).digest())


def seed_of(index: int) -> bytes:
    return hashlib.sha256(f"seed {index}".encode()).digest()


def _same(_: str, __: int, message: bytes) -> bytes:
    return message


@dataclass(kw_only=True)
class Fleet:
    """``rows`` devices on a roster; ``members`` (indices) advert. ``gone`` maps an index to the stage it misses first.

    ``tamper(stage, index, message)`` changes what the server sends; ``through`` sees each round after it answered.
    """

    rows: int
    terms: Terms
    members: Collection[int] = ()
    gone: Mapping[int, str] = field(default_factory=dict)
    tamper: Callable[[str, int, bytes], bytes] = _same
    through: Callable[[DeviceRound, int], DeviceRound] = lambda device, _: device

    def __post_init__(self) -> None:
        self.keys = [key_of(f"device {index}") for index in range(self.rows)]
        self.roster = Roster(version=3, keys=tuple(key.public for key in self.keys))
        self.members = sorted(self.members or range(self.rows))
        self.policy = Policy(terms=(self.terms,), min_threshold=2, min_sum=2)
        self.announcement = Announcement(
            number=7, model_hash=MODEL, roster_version=3, roster_hash=self.roster.hash, terms=self.terms
        )
        self.server = ServerRound(self.announcement, self.roster)
        self.devices: dict[int, DeviceRound] = {}
        self.sent: dict[tuple[str, int], tuple[bytes, bytes]] = {}  # (message, reply) by stage and index.
        self.before: dict[tuple[str, int], DeviceRound] = {}  # Each device before it answered a stage.

    def start(self, index: int) -> bytes:
        started = DeviceRound._start(
            self.tamper("advert", index, self.announcement.encode()),
            MODEL,
            self.roster,
            self.policy,
            History(roster_version=2, number=6),
            self.keys[index],
            seed_of(index),
        )
        self.devices[index] = self.through(started.round, index)
        return started.reply

    def here(self, stage: str) -> list[int]:
        """Who still answers at ``stage``."""
        at = STAGES.index(stage)
        return [index for index in self.members if index not in self.gone or STAGES.index(self.gone[index]) > at]

    def ask(self, stage: str, index: int, message: bytes, *rest: object) -> bytes:
        """The device's answer; its round goes through ``through``, as if a new process took it up."""
        message = self.tamper(stage, index, message)
        self.before[stage, index] = self.devices[index]
        answer = getattr(self.devices[index], stage)(message, *rest)
        self.devices[index] = self.through(answer.round, index)
        self.sent[stage, index] = (message, answer.reply)
        return answer.reply

    def adverts(self) -> bytes:
        for index in self.members:
            self.server.advert(self.start(index))
        return self.server.close_adverts()

    def until(self, stage: str, vectors: np.ndarray) -> None:
        """Run all stages up to and with ``stage``."""
        message = self.adverts()
        for index in self.here("reveal"):
            self.server.reveal(index, self.ask("reveal", index, message))
        self.server.close_reveals()
        if stage == "reveal":
            return
        for index in self.here("shares"):
            self.server.shares(index, self.ask("shares", index, self.server.peers(index)))
        self.server.close_shares()
        if stage == "shares":
            return
        for index in self.here("input"):
            self.server.input(index, self.ask("input", index, self.server.forwarded(index), vectors[index]))
        message = self.server.close_inputs()
        if stage == "input":
            return
        for index in self.here("agree"):
            self.server.agreement(index, self.ask("agree", index, message))
        self.server.close_agreements()
        if stage == "agree":
            return
        for index in self.here("unmask"):
            self.server.unmask(index, self.ask("unmask", index, self.server.signers(index)))

    def run(self, vectors: np.ndarray) -> np.ndarray:
        self.until("unmask", vectors)
        return self.server.sum()
