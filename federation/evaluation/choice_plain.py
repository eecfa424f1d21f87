"""The plain rivals of a choice: the user's most frequent item, the same within the context, and what is popular.

Each is made from all people's train rows and then gives scores (N,) of all items to one person in one context. They are
given what they need to do well: popularity breaks ties, and where people hardly ever repeat a choice, none of them
names an item that the person had already.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from federation.data.choices import ChoiceSplit
from federation.evaluation.choice_metrics import Scores

Scorer = Callable[[int, Mapping[str, str]], Scores]
"""Gives the scores (N,) of all items to a person, by number, in a context."""
_REPEATS_MATTER = 0.5


def counted(split: Sequence[ChoiceSplit], places: Mapping[str, int]) -> Scores:
    """Return how often each person's train rows have each item: (people, N)."""
    counts = np.zeros((len(split), len(places)))
    for person, one in enumerate(split):
        for row in one.train:
            counts[person, places[row.item]] += 1
    return counts


def repeat_share(counts: Scores) -> float:
    """Return the share of train rows that repeat an earlier one of the same person."""
    total = counts.sum()
    return float((total - (counts > 0).sum()) / total) if total else 0.0


def plain_methods(split: Sequence[ChoiceSplit], places: Mapping[str, int]) -> dict[str, Scorer]:
    """Return the plain methods by name."""
    counts = counted(split, places)
    popular: Scores = (counts > 0).sum(axis=0) / (len(split) + 1.0)  # (N,), below 1
    within = _within(split, places)

    def most_frequent(person: int, context: Mapping[str, str]) -> Scores:
        result: Scores = counts[person] + popular
        return result

    def own_context(person: int, context: Mapping[str, str]) -> Scores:
        share: Scores = (counts[person] + popular / len(places)) / (counts[person].sum() + 1.0)
        score: Scores = share.copy()
        for pair in context.items():
            here: Counter[int] = within[person].get(pair, Counter())
            values = np.zeros(len(places))
            values[list(here)] = list(here.values())
            score *= (values + share) / (values.sum() + 1.0) / np.maximum(share, 1e-300)
        return score

    def popularity(person: int, context: Mapping[str, str]) -> Scores:
        return popular

    methods = {"most_frequent": most_frequent, "own_context": own_context, "popularity": popularity}
    return {name: without_had(scorer, counts) for name, scorer in methods.items()}


def without_had(scorer: Scorer, counts: Scores) -> Scorer:
    """Return the method, which names no item that a person had already where people hardly ever repeat a choice."""
    if repeat_share(counts) >= _REPEATS_MATTER:
        return scorer

    def fresh(person: int, context: Mapping[str, str]) -> Scores:
        scores = scorer(person, context)
        # As if least wanted of all, in their order: there may be a repeat after all.
        return np.where(counts[person] > 0, scores - (scores.max() - scores.min() + 1.0), scores)

    return fresh


def _within(split: Sequence[ChoiceSplit], places: Mapping[str, int]) -> list[dict[tuple[str, str], Counter[int]]]:
    """Return, for each person, the counts of items with each key and value of the context."""
    found = []
    for one in split:
        counts: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)
        for row in one.train:
            for pair in row.context.items():
                counts[pair][places[row.item]] += 1
        found.append(dict(counts))
    return found
