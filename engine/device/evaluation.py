"""How a device does on rows whose labels are known: ranks of the right answers, and how sure it was.

>>> scores = np.log(np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2]]))
>>> answers = Answers.of(scores, scores, truth=[0, 1], accepted=[(0,), (1, 0)], judged=[True, True])
>>> answers.ranks, answers.accepted_ranks, [round(one, 2) for one in answers.confidence]
((1, 2), ((1,), (2, 1)), [0.7, 0.5])
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.personal.rescorer import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What one method says of n rows.

    ``ranks`` (from 1; 0 is "not ranked") of the true labels, ``accepted_ranks`` of all accepted ones, best first;
    ``confidence``, the probability it gives its first answer; ``log_likelihood``, the log of the probability it gives
    the true label (nats), ``None`` for a label that is not public: not every method could know that.
    """

    ranks: tuple[int, ...]
    accepted_ranks: tuple[tuple[int, ...], ...]
    confidence: tuple[float, ...]
    log_likelihood: tuple[float | None, ...]

    @classmethod
    def of(
        cls,
        ranking: Floats,
        log_probability: Floats,
        *,
        truth: Sequence[int],
        accepted: Sequence[Sequence[int]],
        judged: Sequence[bool],
    ) -> "Answers":
        """Read scores (n, C) that rank labels, and log probabilities (n, C); −1 is a label that has no column.

        ``judged`` says which rows have a log likelihood.
        """
        rows = np.arange(len(truth))
        first = log_probability[rows, ranking.argmax(axis=1)] if len(truth) else np.zeros(0)
        return cls(
            ranks=ranks_of(ranking, truth),
            accepted_ranks=tuple(
                ranks_of(np.repeat(row[None], len(labels), axis=0), labels)
                for row, labels in zip(ranking, accepted, strict=True)
            ),
            confidence=tuple(float(one) for one in np.exp(first)),
            log_likelihood=tuple(
                float(log_probability[row, label]) if is_judged else None
                for row, (label, is_judged) in enumerate(zip(truth, judged, strict=True))
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The answers to the same rows by the shared model, by the personal one, and by that when it is cautious."""

    shared: Answers
    personal: Answers
    cautious: Answers

    @property
    def global_ranks(self) -> tuple[int, ...]:
        """Ranks (from 1) of the true labels by the global model; 0 is "not ranked"."""
        return self.shared.ranks

    @property
    def personal_ranks(self) -> tuple[int, ...]:
        """The same by the personal model."""
        return self.personal.ranks

    @property
    def cautious_ranks(self) -> tuple[int, ...]:
        """The same by the personal model when it is cautious: see `Device.suggest`."""
        return self.cautious.ranks

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


def ranks_of(scores: npt.NDArray[Any], truth: Sequence[int]) -> tuple[int, ...]:
    """Return ranks from 1, ties counted against the true label; 0 where it is not among the columns."""
    ranks = []
    for row, label in zip(scores, truth, strict=True):
        ranks.append(int((row >= row[label]).sum()) if 0 <= label < len(row) else 0)
    return tuple(ranks)
