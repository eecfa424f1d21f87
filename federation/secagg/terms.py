"""What a round is about (terms, announcement), what a device accepts (policy), and what it remembers (history)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from federation.secagg.errors import (
    FloorError,
    ParameterError,
    ReplayError,
    RosterError,
    RosterRollbackError,
    StateError,
    WireError,
)
from federation.secagg.parameters import Parameters, derive
from federation.secagg.roster import Roster

VERSION = 1
MOST_NUMBERS = 2**24
# A malicious server that announces the last round number of all would lock a device out for good; so it needs 2^22
# rounds. Numbers may be milliseconds since 1970 all the same.
LONGEST_STEP = 2**42
_TERMS = struct.Struct("<IHHH")
_ANNOUNCEMENT = struct.Struct("<BBQ32sQ32s")
_HISTORY = struct.Struct("<BQQ")
ANNOUNCEMENT_BYTES = _ANNOUNCEMENT.size + _TERMS.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Numbers a vector (``dimension``), and shares of the cohort in thousandths; see :func:`parameters.parameters`."""

    dimension: int
    dropout: int = 300
    colluding: int = 100
    early: int = 50

    def __post_init__(self) -> None:
        if type(self.dimension) is not int or not 1 <= self.dimension <= MOST_NUMBERS:
            raise ParameterError(f"Expected 1 to {MOST_NUMBERS:,} numbers a vector, got dimension={self.dimension}.")
        for name in ("dropout", "colluding", "early"):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value < 1000:
                raise ParameterError(f"Expected {name}={value} in thousandths of the cohort, 0 to 999.")

    def derive(self, devices: int) -> Parameters:
        """The parameters of a cohort of ``devices`` under these terms. Raises ``ParameterError``."""
        return derive(devices, self.dropout, self.colluding, self.early)

    def encode(self) -> bytes:
        """10 bytes."""
        return _TERMS.pack(self.dimension, self.dropout, self.colluding, self.early)


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What opens a round. ``number`` grows from round to round; hashes are SHA-256 (32 bytes)."""

    number: int
    model_hash: bytes
    roster_version: int
    roster_hash: bytes
    terms: Terms

    def encode(self) -> bytes:
        """92 bytes, always."""
        head = (VERSION, 1, self.number, self.model_hash, self.roster_version, self.roster_hash)
        return _ANNOUNCEMENT.pack(*head) + self.terms.encode()

    @classmethod
    def decode(cls, message: bytes) -> Announcement:
        """Raises ``WireError``, and ``ParameterError`` for terms that none may have."""
        if len(message) != ANNOUNCEMENT_BYTES or message[:2] != bytes((VERSION, 1)):
            raise WireError(f"Expected an announcement of {ANNOUNCEMENT_BYTES} bytes, version {VERSION}: refuse it.")
        _, _, number, model_hash, version, roster_hash = _ANNOUNCEMENT.unpack_from(message)
        dimension, dropout, colluding, early = _TERMS.unpack_from(message, _ANNOUNCEMENT.size)
        terms = Terms(dimension=dimension, dropout=dropout, colluding=colluding, early=early)
        return cls(number=number, model_hash=model_hash, roster_version=version, roster_hash=roster_hash, terms=terms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The device's own list of terms and its floors: cohort, threshold, and honest devices in the smallest sum."""

    terms: tuple[Terms, ...]
    min_cohort: int = 10
    min_threshold: int = 3
    min_sum: int = 3

    def check_terms(self, terms: Terms) -> None:
        """Raise ``ParameterError`` unless ``terms`` are on the list."""
        if terms not in self.terms:
            raise ParameterError("The round's terms are not on this device's list: refuse the round.")

    def check(self, found: Parameters) -> None:
        """Raise ``FloorError`` where the cohort or what follows from it is below a floor."""
        floors = (
            ("cohort", found.devices, self.min_cohort),
            ("threshold", found.threshold, self.min_threshold),
            ("smallest sum", found.smallest_sum, self.min_sum),
        )
        for name, value, floor in floors:
            if value < floor:
                raise FloorError(f"The round's {name} is {value}, this device's floor {floor}: refuse the round.")


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The newest roster version and round number that a device has seen. Kept, sealed, between rounds."""

    roster_version: int = 0
    number: int = 0

    def after(self, announcement: Announcement, roster: Roster) -> History:
        """The history once the round is taken up. Raises ``ReplayError``, ``RosterError``, ``RosterRollbackError``."""
        if not self.number < announcement.number <= self.number + LONGEST_STEP:
            raise ReplayError(
                f"The round has number {announcement.number}, the last seen was {self.number}: refuse a round that is "
                "not new."
            )
        for what, version in (("this device holds", roster.version), ("the round names", announcement.roster_version)):
            if version < self.roster_version:
                raise RosterRollbackError(
                    f"Roster {self.roster_version} was seen, {what} {version}: refuse the older one."
                )
        if (announcement.roster_version, announcement.roster_hash) != (roster.version, roster.hash):
            raise RosterError(
                f"The round names roster version {announcement.roster_version}, this device holds {roster.version}, or "
                "another of that version: refuse the round, or get the newer roster."
            )
        return History(roster_version=roster.version, number=announcement.number)

    def to_bytes(self) -> bytes:
        """17 bytes."""
        return _HISTORY.pack(VERSION, self.roster_version, self.number)

    @classmethod
    def from_bytes(cls, stored: bytes) -> History:
        """Raises ``StateError``."""
        if len(stored) != _HISTORY.size or stored[0] != VERSION:
            raise StateError("The stored history of rounds is damaged: restore the device from a backup.")
        _, roster_version, number = _HISTORY.unpack(stored)
        return cls(roster_version=roster_version, number=number)
