"""Recency: how far each memory still speaks for what its user wants now, where habits may have changed.

A memory loses its say only where the memories that are alike to a query say that the habit changed after it; everywhere
else it keeps all of it, to the bit. ``benchmarks/drift.py`` prints what this and half-lives for all memories gain on
changed habits, and what each costs on the others.

For a query, each memory i counts as one of its kind by k_i in 0..1: how alike the two texts are, in meaning and by the
global model's answers to them, and less where its answer to the query is as good as none, since all texts are alike to
a model that knows nothing. Two stories of these memories' labels compare, each told by a Pólya urn that starts from
what the model expects of the query: one urn for all of them, or, from some moment on, a new one. The odds of a change
just before memory s are ::

    λk_s·min(1, Σ_{i<s} k_i) / (1 + λ·Σk) · Π_{i≥s} [ P(y_i | alike memories after i) / P(y_i | those before i) ]^k_i

so before the labels are looked at, a change is never likelier than none. If a change is then likelier than a least
chance (half; how much more, devices learn together: ``drift.py``), each memory weighs as much as it is likely that the
change came before it, and what is left is looked at again; if not, all weigh 1. Times enter by their order alone.

Sources: Dawid 1984 (prequential: each label's probability given those already seen); Blackwell and MacQueen 1973 (the
urn); Barry and Hartigan 1993, Adams and MacKay 2007 (posterior over the moments of change); Tibshirani and Hastie 1987
(local likelihood: the exponent k).

>>> pizza, sushi, opera = 0, 1, 2
>>> y = np.array([pizza] * 6 + [sushi] * 3)
>>> food = np.array([[0.5, 0.5, 0.0]])
>>> recency_weights(np.ones((1, 9)), food, y).round(1)
array([[0. , 0. , 0. , 0.1, 0.1, 0.2, 0.9, 1. , 1. ]])
>>> recency_weights(np.ones((1, 7)), food, y[:7]) is None  # Once is no habit.
True
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# Memories of the urn's start: how much the global model's expectation weighs against what came before.
URN_START = 2.0
# The urn starts half from what the model expects of the query, half from all labels alike.
EVEN_SHARE = 0.5
# λ: how many changes a memory of the kind is expected to bring, while they are few.
RATE = 0.3
# From this probability of a change on, memories weigh as if there was one, where no higher one is asked for.
LEAST_CHANCE = 0.5
# How alike two texts are is counted this often, up to 1, where the model's answer is not even; how even it is, its
# Bhattacharyya coefficient with all labels alike, is taken to this power.
ALIKE_GAIN, EVEN_POWER = 2.0, 4
# How many changes are looked for, the clearest first.
MOST_CHANGES = 3
# The newest memories among which a change is looked for; older ones lie before all of them.
MOST_MOMENTS = 2000


class Recency(Protocol):
    """Something that weighs memories as `recency_weights` does."""

    def __call__(self, alike: Floats, expected: Floats, y: Integers, /) -> Floats | None:
        """Return the weights (q, m), or ``None`` where all weigh 1."""


def recency_weights(
    alike: Floats, expected: Floats, y: Integers, /, *, least_chance: float = LEAST_CHANCE
) -> Floats | None:
    """Return the weights (q, m) in 0..1 of m memories, oldest first, before q queries; ``None`` where all weigh 1.

    ``alike`` (q, m) in 0..1 is how alike memory and query are, ``expected`` (q, C) are the global probabilities of the
    query's labels, and ``y`` (m,) are the memories' labels. A change counts from the probability ``least_chance`` on.
    """
    skipped = max(0, len(y) - MOST_MOMENTS)
    labels = y[skipped:]
    if not alike.size:
        return None
    even = np.minimum(np.sqrt(expected / expected.shape[1]).sum(axis=1, keepdims=True), 1.0)
    k = np.minimum(ALIKE_GAIN * (1.0 - even**EVEN_POWER) * alike[:, skipped:], 1.0)
    start = URN_START * ((1.0 - EVEN_SHARE) * expected + EVEN_SHARE / expected.shape[1])[:, labels]
    weights = np.ones_like(k)
    for _ in range(MOST_CHANGES):  # What is left after a change is looked at again: the habit may have changed back.
        chance = _chances(k * weights, start, labels)
        total = chance.sum(axis=1, keepdims=True)
        found = total > least_chance
        if not found.any():
            break
        # How likely the change came before each memory, given that there was one.
        past = np.minimum(np.cumsum(chance / np.where(found, total, 1.0), axis=1), 1.0)
        weights = weights * np.where(found, past, 1.0)
    least = weights.min(axis=1, keepdims=True)
    if least.min() == 1.0:
        return None
    return np.concatenate([np.repeat(np.where(least < 1.0, 0.0, 1.0), skipped, axis=1), weights], axis=1)


def _chances(k: Floats, start: Floats, y: Integers) -> Floats:
    """Return the probability (q, m) that the habit changed just before each memory; k and urn's start (q, m)."""
    gain = _told(k[:, ::-1], start[:, ::-1], y[::-1])[:, ::-1] - _told(k, start, y)
    evidence = np.cumsum(gain[:, ::-1], axis=1)[:, ::-1]  # Of all memories from a moment on.
    before = np.cumsum(k, axis=1) - k  # Where there is nothing before, nothing can change.
    prior = RATE * k * np.minimum(before, 1.0) / (1.0 + RATE * k.sum(axis=1, keepdims=True))
    with np.errstate(divide="ignore"):
        odds = np.log(prior) + evidence
    top = np.maximum(odds.max(axis=1, keepdims=True), 0.0)
    shares = np.exp(odds - top)
    chance: Floats = shares / (np.exp(-top) + shares.sum(axis=1, keepdims=True))
    return chance


def _told(k: Floats, start: Floats, y: Integers) -> Floats:
    """Return the log probability (q, m) that the urn gives to each label after those before it, to the power k."""
    order = np.argsort(y, kind="stable")
    first = np.searchsorted(y[order], y[order])  # Where each one's label begins in that order.
    before = np.cumsum(k[:, order], axis=1) - k[:, order]
    same = np.empty_like(k)
    same[:, order] = before - before[:, first]
    told: Floats = k * np.log((start + same) / (URN_START + np.cumsum(k, axis=1) - k))
    return told
