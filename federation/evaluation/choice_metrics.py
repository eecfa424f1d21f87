"""How well choices are foreseen: the ranks of what was chosen, among all items and among 99 that the user never had.

Guarantees: ties count against the method; the items drawn depend on seed and user alone, the same for every method.

>>> rank_of(np.array([0.5, 0.5, 0.1]), 0)
2
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from federation.data.choices import ChoiceSplit
from federation.evaluation.metrics import accuracy_interval, mrr

NEGATIVES = 99
Scores = npt.NDArray[np.float64]
GROUPS = ("all", "new_items", "not_in_this_context")


def rank_of(scores: Scores, true: int, among: npt.NDArray[np.int64] | None = None) -> int:
    """Return the rank from 1 of the item ``true`` in scores (N,), among all or some; ties and NaN count against it."""
    others = scores if among is None else scores[among]
    return int((~(others < scores[true])).sum()) + (among is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One choice to foresee: whose, the item's place, the negatives by seed (seeds, ≤ 99), and what was had before."""

    person: int
    row: int
    item: int
    negatives: tuple[npt.NDArray[np.int64], ...]
    new: bool
    had_here: npt.NDArray[np.int64]  # items that the user had in this very context


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """The ranks that a method gave to the answer of one question; ``elsewhere`` is among items not had in this context.

    ``elsewhere`` is empty where the answer itself was had in this context.
    """

    full: int
    sampled: tuple[int, ...]
    elsewhere: int | None


def questions(split: Sequence[ChoiceSplit], places: Mapping[str, int], *, seeds: int) -> list[Question]:
    """Return a question for each test row; negatives are drawn by ``random.Random(f"{seed}:{user}")``."""
    names = sorted(places)
    asked = []
    for person, one in enumerate(split):
        if not one.test:
            continue
        had = {row.item for row in [*one.train, *one.test]}
        trained = {row.item for row in one.train}
        never = [places[name] for name in names if name not in had]
        draws = [random.Random(f"{seed}:{one.user}") for seed in range(seeds)]
        for number, row in enumerate(one.test):
            here = sorted({places[its.item] for its in one.train if its.context == row.context})
            asked.append(
                Question(
                    person=person,
                    row=number,
                    item=places[row.item],
                    negatives=tuple(
                        np.array(draw.sample(never, min(NEGATIVES, len(never))), dtype=np.int64) for draw in draws
                    ),
                    new=row.item not in trained,
                    had_here=np.array(here, dtype=np.int64),
                )
            )
    return asked


def answer(question: Question, scores: Scores) -> Ranks:
    """Rank the answer of a question by a method's scores (N,) of all items."""
    elsewhere = None
    if question.item not in question.had_here:
        left = np.ones(len(scores), dtype=np.bool_)
        left[question.had_here] = False
        elsewhere = int((scores[left] >= scores[question.item]).sum())
    return Ranks(
        full=rank_of(scores, question.item),
        sampled=tuple(rank_of(scores, question.item, some) for some in question.negatives),
        elsewhere=elsewhere,
    )


def figures(asked: Sequence[Question], ranks: Sequence[Ranks], *, seed: int) -> dict[str, Any]:
    """Return one method's figures over all questions, and, under ``new_items`` and ``not_in_this_context``, over some.

    Intervals are by bootstrap over users.
    """
    result = _summary(asked, ranks, [one.full for one in ranks], seed=seed)
    new = [place for place, one in enumerate(asked) if one.new]
    elsewhere = [place for place, one in enumerate(ranks) if one.elsewhere is not None]
    for name, some, full in (
        ("new_items", new, [ranks[place].full for place in new]),
        ("not_in_this_context", elsewhere, [ranks[place].elsewhere or 0 for place in elsewhere]),
    ):
        some_ranks = [ranks[place] for place in some]
        result[name] = _summary([asked[place] for place in some], some_ranks, full, seed=seed) if some else None
    return result


def _summary(asked: Sequence[Question], ranks: Sequence[Ranks], full: Sequence[int], *, seed: int) -> dict[str, Any]:
    sampled = [rank for one in ranks for rank in one.sampled]
    firsts: dict[int, list[bool]] = {}
    hits: dict[int, list[bool]] = {}
    for question, one, rank in zip(asked, ranks, full, strict=True):
        firsts.setdefault(question.person, []).append(rank == 1)
        hits.setdefault(question.person, []).extend(rank <= 10 for rank in one.sampled)
    accuracy, low, high = accuracy_interval(list(firsts.values()), rng=np.random.default_rng(seed))
    hit_rate, hit_low, hit_high = accuracy_interval(list(hits.values()), rng=np.random.default_rng(seed))
    return {
        "accuracy": accuracy,
        "accuracy_at_5": sum(rank <= 5 for rank in full) / len(full),
        "mrr": mrr(full),
        "hit_rate_at_10": hit_rate,
        "ndcg_at_10": math.fsum(1 / math.log2(rank + 1) for rank in sampled if rank <= 10) / len(sampled),
        "interval": [low, high],
        "hit_rate_interval": [hit_low, hit_high],
        "rows": len(full),
    }
