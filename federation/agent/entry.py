"""What the owner's ledger is to say of something that leaves, the same in every mode."""

import time
from typing import Protocol

from engine.owner.account import Contribution, digest
from federation.privacy.update import Floats

WIRE = "<f4"  # What an update's numbers are on the wire and in the ledger's hashes.


class About(Protocol):
    """What an answer is to: a request, or the terms of a round."""

    @property
    def run(self) -> str:
        """Which federation asks."""

    @property
    def server_round(self) -> int:
        """The round's number."""

    @property
    def mode(self) -> str:
        """The round's mode."""

    @property
    def purpose(self) -> str:
        """What memories are read for."""


def entry(about: About, flat: Floats, *, asked: str, payload: bytes, rho: float | None) -> Contribution:
    """The entry for ``payload``, in answer to what ``asked`` hashes, to the model ``flat``, at a cost of ``rho``."""
    return Contribution(
        time=time.time(),
        to=about.run,
        round=about.server_round,
        mode=about.mode,
        purpose=about.purpose,
        asked=asked,
        model=digest(flat.astype(WIRE).tobytes()),
        sent=digest(payload),
        size_bytes=len(payload),
        rho=rho,
    )
