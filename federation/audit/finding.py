"""What an audit found: a figure, the limit it is held to, and the verdict.

>>> at_most("rows recovered", 0, 0).verdict, at_most("rows recovered", 3, 0).verdict, reported("labels", 0.9).verdict
('pass', 'breach', 'pass')
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from engine.encoders.encoder import Encoder

PASS, BREACH = "pass", "breach"
Progress = Callable[[str, int], contextlib.AbstractContextManager[Callable[[], None]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the table. ``limit`` is ``None`` for what is reported alone; ``note`` says what was done."""

    audit: str
    name: str
    figure: float
    limit: float | None
    holds: bool
    note: str = ""

    @property
    def verdict(self) -> str:
        """ "pass" or "breach"."""
        return PASS if self.holds else BREACH

    def to_json(self) -> dict[str, Any]:
        """Return the finding as plain values; a figure that is no finite number is ``null``."""
        return {
            "name": f"{self.audit}: {self.name}" if self.audit else self.name,
            "figure": self.figure if math.isfinite(self.figure) else None,
            "limit": self.limit,
            "verdict": self.verdict,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What an audit works with: an encoder of texts, its own random choices, its size, and who watches.

    ``rng`` decides what is planted where and who is in or out; noise and keys come from the system's secure source all
    the same, so that figures differ a little from run to run.
    """

    encoder: "Encoder"
    rng: "np.random.Generator"
    quick: bool
    progress: Progress

    def sized(self, quick: int, full: int) -> int:
        """Return how large something is in this run."""
        return quick if self.quick else full


def at_most(name: str, figure: float, limit: float, note: str = "", *, audit: str = "") -> Finding:
    """Return the finding that ``figure`` is held to at most ``limit``; NaN is a breach."""
    return Finding(audit=audit, name=name, figure=figure, limit=limit, holds=figure <= limit, note=note)


def reported(name: str, figure: float, note: str = "", *, audit: str = "") -> Finding:
    """Return a finding without a limit: what a server could see where nothing is promised."""
    return Finding(audit=audit, name=name, figure=figure, limit=None, holds=True, note=note)
