"""What a device answers: suggestions with the memories that explain them, found memories, and an evaluation.

>>> Evaluation(global_ranks=(1, 2), personal_ranks=(1, 1), cautious_ranks=(1, 1)).personal_accuracy
1.0
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy.typing as npt

from engine.because import Because
from store import Record

Source = Literal["global", "personal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A memory and its cosine with the query; ``because`` is why a search found it, ``None`` where none did."""

    id: int
    text: str
    label: str | None
    time: float
    scope: str
    purpose: str
    source: str
    similarity: float
    because: Because | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A label with its probability (``score``), and the memories with that label nearest to the query.

    ``source`` is "personal" where the memory raised the label above what the global model gives it, or where only
    this device knows it; otherwise "global".
    """

    label: str
    score: float
    source: Source
    private: bool
    because: tuple[Found, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Ranks (from 1) of the true label for each row, by the global and by the personal model; 0 is "not ranked".

    ``cautious_ranks`` are those of the personal model when it is cautious: see `Device.suggest`.
    """

    global_ranks: tuple[int, ...]
    personal_ranks: tuple[int, ...]
    cautious_ranks: tuple[int, ...]

    @property
    def global_accuracy(self) -> float:
        """Share of rows whose first answer by the global model is the true label."""
        return _share_first(self.global_ranks)

    @property
    def personal_accuracy(self) -> float:
        """Share of rows whose first answer by the personal model is the true label."""
        return _share_first(self.personal_ranks)


def _share_first(ranks: Sequence[int]) -> float:
    return sum(rank == 1 for rank in ranks) / len(ranks) if ranks else float("nan")


def found(id: int, record: Record, similarity: float, because: Because | None = None) -> Found:
    """Return what a stored memory looks like to a caller."""
    return Found(
        id=id,
        text=record.text,
        label=record.label,
        time=record.time,
        scope=record.scope,
        purpose=record.purpose,
        source=record.source,
        similarity=similarity,
        because=because,
    )


def ranks_of(scores: npt.NDArray[Any], truth: Sequence[int]) -> tuple[int, ...]:
    """Return ranks from 1, ties counted against the true label; 0 where it is not among the columns."""
    ranks = []
    for row, label in zip(scores, truth, strict=True):
        ranks.append(int((row >= row[label]).sum()) if 0 <= label < len(row) else 0)
    return tuple(ranks)
