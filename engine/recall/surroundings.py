"""What was kept around each candidate: the one before and after it, and its session.

Two memories are neighbours where no more than an hour lies between them. A session is all of one scope without a gap of
more than an hour.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from store import Candidates, Record
from store.search.candidates import NONE

SESSION_GAP_S = 3600.0
_LESS = 0.5  # What each neighbour's vector counts beside a memory's own.

Floats = npt.NDArray[np.float64]
Slots = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Surroundings:
    """Of n candidates: ``before`` (n,), the index of each one's neighbour before it or ``NONE``; ``sessions`` (n,).

    ``near`` (3, n) are the neighbour before, the one before that, and the one after; n where there is none.
    """

    before: Slots
    sessions: Slots
    near: Slots

    @classmethod
    def of(cls, candidates: Candidates) -> Self:
        """The surroundings of at least one candidate."""
        records = [stored.record for stored in candidates.records]
        times = np.array([record.time for record in records])
        before, none = candidates.before, len(records)
        # A time may be so large that the gap is no number.
        with np.errstate(invalid="ignore"):
            before = np.where((before != NONE) & (np.abs(times - times[before]) <= SESSION_GAP_S), before, NONE)
        last = np.where(before == NONE, none, before)
        after = np.full(none + 1, none)
        after[last] = np.arange(none)
        near = np.stack([last, np.append(last, none)[last], after[:none]])
        return cls(before=before, sessions=sessions_of(records), near=near)

    def earlier(self, values: Floats) -> Floats:
        """Of each candidate the value (n,) of the one before it, 0 where there is none."""
        result: Floats = np.append(values, 0.0)[self.near[0]]
        return result

    def later(self, values: Floats) -> Floats:
        """Of each candidate the value (n,) of the one after it, 0 where there is none."""
        result: Floats = np.append(values, 0.0)[self.near[2]]
        return result

    def window(self, matched: Floats) -> Floats:
        """The maxima (q, n) of ``matched`` (q, n), none below 0, over two before, the candidate and one after."""
        # A last column for those that have no neighbour.
        padded = np.concatenate([matched, np.zeros((len(matched), 1))], axis=1)
        best = matched
        for its in self.near:
            best = np.maximum(best, padded[:, its])
        return best

    def blended(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Unit vectors (n, d) of the same four: a candidate's own, and half of each neighbour's."""
        padded = np.concatenate([vectors, np.zeros((1, vectors.shape[1]), dtype=np.float32)])
        total: npt.NDArray[np.float32] = padded[self.near].sum(axis=0)
        total *= np.float32(_LESS)
        total += vectors
        length = np.sqrt(np.einsum("nd,nd->n", total, total))[:, None]
        total /= np.where(length > 0, length, 1)
        return total

    def session_best(self, scores: Floats) -> Floats:
        """The maxima (q, n) of ``scores`` (q, n) over each candidate's session."""
        if not len(scores):
            return scores
        order = np.argsort(self.sessions, kind="stable")
        starts = np.searchsorted(self.sessions[order], np.arange(int(self.sessions.max()) + 1))
        best: Floats = np.maximum.reduceat(scores[:, order], starts, axis=1)[:, self.sessions]
        return best


def sessions_of(records: Sequence[Record]) -> Slots:
    """A number (n,) for the session of each record."""
    order = sorted(range(len(records)), key=lambda at: (records[at].scope, records[at].time))
    numbers, number = np.zeros(len(records), dtype=np.int64), 0
    for last, at in itertools.pairwise(order):
        same = records[last].scope == records[at].scope and records[at].time - records[last].time <= SESSION_GAP_S
        number += not same
        numbers[at] = number
    return numbers
