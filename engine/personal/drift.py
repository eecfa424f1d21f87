"""Drift: how sure a device must be that a habit changed before memories lose their say, learned from sums over devices.

What looks like a change (``recency.py``) may be chance: where habits stay, or where memories came in no order, to
follow it costs. How often it is one differs between populations, and hardly shows on one device. So each device goes
through its judged memories in the order of time, each answered from those before it, with recency at several least
chances of a change, and marks by how many nats the true labels are more probable than without it. From sums over
devices follows what each gains, less one standard error; the least chance that gains most holds for all, and where none
gains, no memory loses its say. Sources: Dawid 1984 (prequential: each request foreseen from those before it); Breiman
et al. 1984 (the rule of one standard error); Efron and Morris 1975 (what an ensemble shows of each).

>>> found = np.array([9.0, 8.0, 7.0, 1.0, 36.0, 9.0, 4.0, 1.0])
>>> least_chance_of(found), least_chance_of(-np.abs(found))
(0.65, 1.0)
"""

import functools

import numpy as np

from engine.errors import ModelError
from engine.personal.recency import LEAST_CHANCE, Recency, recency_weights
from engine.personal.rescorer import (
    Evidence,
    Floats,
    Integers,
    LabelledMemory,
    earlier_features,
    log_softmax,
    newest_judges,
)

CHANCES = (LEAST_CHANCE, 0.65, 0.8, 0.9)
"""What may be asked for: the probability from which a change counts as one."""
NEVER = 1.0
"""From this probability on no change counts."""
DRIFT_MARKS = 2 * len(CHANCES)
"""Floats of a device's marks: nats gained at each of `CHANCES`, then their squares."""
PUBLIC_CHANCE = LEAST_CHANCE
"""Where no more is known: generated people lose as good as nothing by it (``benchmarks/public_weights.py``)."""


def recency_from(least_chance: float) -> Recency | None:
    """Return the recency that follows a change of at least this probability; ``None`` where it follows none."""
    return None if least_chance >= NEVER else functools.partial(recency_weights, least_chance=least_chance)


def drift_marks(memory: LabelledMemory, evidence: Evidence, weights: Floats) -> Floats:
    """Return the marks (DRIFT_MARKS,) of a device's evidence at ``weights`` (K,).

    The squares are for the standard error of sums over devices.
    """
    rows, logs = newest_judges(memory, evidence.rows, evidence.global_log)
    plain = _foreseen(memory, rows, logs, weights, None)
    # A change that is likelier than a higher chance is likelier than a lower one: the others' answers are the same.
    lowest = _foreseen(memory, rows, logs, weights, CHANCES[0])
    found = np.flatnonzero(lowest != plain)
    nats = [float((lowest - plain).sum())]
    for chance in CHANCES[1:]:
        nats.append(float((_foreseen(memory, rows[found], logs[found], weights, chance) - plain[found]).sum()))
    return np.concatenate([nats, np.square(nats)])


def _foreseen(memory: LabelledMemory, rows: Integers, logs: Floats, weights: Floats, chance: float | None) -> Floats:
    """The log probability (e,) of each row's label, from the memories before it."""
    recency = None if chance is None else recency_from(chance)
    before = earlier_features(memory, rows, logs, recency)
    found: Floats = log_softmax(before.phi @ weights)[np.arange(len(before.y)), before.y]
    return found


def nats_of(summed: Floats) -> Floats:
    """Return the nats gained at each of `CHANCES`, less one standard error, of summed marks (DRIFT_MARKS,).

    Raises `ModelError` for sums that are none.
    """
    if summed.shape != (DRIFT_MARKS,) or not np.isfinite(summed).all():
        raise ModelError(f"Expected {DRIFT_MARKS} finite sums of marks.")
    nats, squares = np.split(summed, 2)
    gained: Floats = nats - np.sqrt(np.maximum(squares, 0.0))
    return gained


def least_chance_of(summed: Floats) -> float:
    """Return the least chance at which devices gain most, by their summed marks (DRIFT_MARKS,).

    `PUBLIC_CHANCE` where all is 0: nothing was looked at. Raises `ModelError` for sums that are none.
    """
    gained = nats_of(summed)
    if not summed.any():
        return PUBLIC_CHANCE
    best = int(np.argmax(gained))
    return CHANCES[best] if gained[best] > 0 else NEVER
