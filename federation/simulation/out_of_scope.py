"""Requests that a device should not answer: labels held out of a split, and how well their rows are told from others.

A share of the labels that devices share is drawn by the seed. Their rows leave all train rows, so that neither the
shared model nor any memory knows them, and the test rows among them are out of scope on their device. So are test rows
with any other label that the device does not know. The device's own score stands beside three that others refuse by,
each with a threshold that the same rule sets from the device's own memories.

Sources: Hendrycks and Gimpel 2017 (the highest probability of a softmax, AUROC); Liu et al. 2020 (energy); Sun et al.
2022 (the nearest neighbour); Hanley and McNeil 1982 (AUROC as the share of pairs in the right order).

>>> auroc([2.0, 3.0], [1.0, 2.0])
0.875
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.device.device import Device
from engine.personal.scope import FALSE_REFUSALS, SIGNS, Signs, threshold
from federation.agent.pool import DevicePool
from federation.data.dataset import Row
from federation.data.splits import Split, public_labels
from federation.errors import ConfigError, DataError
from federation.simulation.fleet import Member

METHODS = ("personal", "max_probability", "energy", "nearest")
_Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """A split without the ``labels`` that were held out, and each user's requests that are thereby out of scope."""

    split: Split
    labels: tuple[str, ...]
    outside: dict[str, tuple[Row, ...]]


def hold_out(split: Split, *, share: float, seed: int) -> HeldOut:
    """Draw this share, at least one, of the labels that two users or more have in train rows, and hold them out.

    Users who are left without train rows are left out. Raises `ConfigError` for a share outside (0, 1), `DataError`
    where fewer than two such labels or no row out of scope would be left.
    """
    if not 0 < share < 1:
        raise ConfigError(f"Expected out-of-scope={share} to be between 0 and 1, as 0.25 is.")
    public = public_labels(split)
    count = max(1, round(share * len(public)))
    if len(public) - count < 2:
        raise DataError(
            f"Of {len(public)} labels that devices share, out-of-scope={share:g} leaves {max(0, len(public) - count)}; "
            "two are needed. Give more rows or a smaller share."
        )
    held = frozenset(random.Random(f"out of scope:{seed}").sample(public, count))
    kept, outside = [], {}
    for user, train, test in split:
        own = [row for row in train if row.label not in held]
        if own:
            kept.append((user, own, [row for row in test if row.label not in held]))
            outside[user] = tuple(row for row in test if row.label in held)
    if not any(outside.values()):
        raise DataError("No test row has a label that was held out. Give more rows or a larger --out-of-scope.")
    return HeldOut(split=kept, labels=tuple(sorted(held)), outside=outside)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeRead:
    """By each method, the scores of a device's requests in scope and out of it, and the threshold (−inf: none)."""

    user: str
    late: bool
    inside: dict[str, tuple[float, ...]]
    outside: dict[str, tuple[float, ...]]
    thresholds: dict[str, float]


def read_scopes(people: Sequence[Member], outside: Mapping[str, Sequence[Row]], pool: DevicePool) -> list[ScopeRead]:
    """Score the test rows and the rows out of scope of each member that has any, on its own device."""
    reads = []
    for member in people:
        further = outside.get(member.user, ())
        if member.test or further:
            reads.append(read_scope(pool.agent(member.name).device, member, further))
    return reads


def read_scope(device: Device, member: Member, outside: Sequence[Row]) -> ScopeRead:
    """Score one member's rows: those in scope have a label that the device knows."""
    rows, labels = [*member.test, *outside], set(device.labels)
    asked, own = device.scope_signs([row.text for row in rows])
    known = np.array([row.label in labels for row in rows])
    scores, own_scores = _by_method(asked), _by_method(own)
    return ScopeRead(
        user=member.user,
        late=member.late,
        inside={name: tuple(scores[name][known].tolist()) for name in METHODS},
        outside={name: tuple(scores[name][~known].tolist()) for name in METHODS},
        thresholds={name: threshold(own_scores[name], share=FALSE_REFUSALS) for name in METHODS},
    )


def _by_method(signs: Signs) -> dict[str, _Scores]:
    return {
        "personal": signs.scores,
        "max_probability": signs.highest_log,
        "energy": signs.values[:, SIGNS.index("energy")],
        "nearest": signs.values[:, SIGNS.index("near")],
    }


def auroc(inside: Sequence[float], outside: Sequence[float]) -> float:
    """Return the share of pairs in which the score in scope is the higher one, ties as one half.

    Raises ``ValueError`` where one side is empty.
    """
    if not len(inside) or not len(outside):
        raise ValueError("Expected scores in scope and out of it.")
    wins = _wins(np.asarray(inside, dtype=np.float64), np.asarray(outside, dtype=np.float64))
    return float(wins.sum() / (len(inside) * len(outside)))


def _wins(inside: _Scores, outside: _Scores) -> _Scores:
    """How many scores out of scope each one in scope (n,) beats, a tie as one half."""
    ordered = np.sort(outside)
    wins: _Scores = (np.searchsorted(ordered, inside, "left") + np.searchsorted(ordered, inside, "right")) / 2
    return wins


def auroc_interval(
    users: Sequence[tuple[Sequence[float], Sequence[float]]], *, rng: np.random.Generator, draws: int = 2000
) -> tuple[float, float, float]:
    """Return the AUROC over all users' (scores in scope, scores out of it), and its 95% interval by bootstrap.

    Users are drawn, not rows; draws without a row on one side are left out.
    """
    whole = auroc([score for one, _ in users for score in one], [score for _, one in users for score in one])
    counts = np.array([(len(one), len(other)) for one, other in users], dtype=np.float64)  # (users, 2)
    pairs = np.zeros((len(users), len(users)))  # how many pairs of u's rows in scope and v's out of it are in order
    inside = np.concatenate([np.asarray(one, dtype=np.float64) for one, _ in users])
    owner = np.repeat(np.arange(len(users)), counts[:, 0].astype(int))
    for place, (_, other) in enumerate(users):
        if len(other):
            wins = _wins(inside, np.asarray(other, dtype=np.float64))
            pairs[:, place] = np.bincount(owner, weights=wins, minlength=len(users))
    ratios = []
    for _ in range(draws):
        times = np.bincount(rng.integers(len(users), size=len(users)), minlength=len(users)).astype(np.float64)
        sides = times @ counts
        if sides.all():
            ratios.append(float(times @ pairs @ times / sides.prod()))
    low, high = np.percentile(ratios, [2.5, 97.5])
    return whole, float(low), float(high)


def scope_result(reads: Sequence[ScopeRead], *, rng: np.random.Generator, draws: int = 2000) -> dict[str, Any]:
    """Return the figures as plain JSON values: rows on either side, devices, and each method's.

    ``methods.<name>`` has ``auroc`` with its ``interval``, ``false_refusals`` (the share of rows in scope below the
    threshold) and ``refused`` (that of rows out of it). Reads of the same user are pooled. There are no methods where
    there are no rows on one side.
    """
    by_user: dict[str, list[ScopeRead]] = defaultdict(list)
    for read in reads:
        by_user[read.user].append(read)
    inside = sum(len(read.inside[METHODS[0]]) for read in reads)
    outside = sum(len(read.outside[METHODS[0]]) for read in reads)
    seed = int(rng.integers(2**63))  # All methods see the same resampled users.
    methods = {}
    for name in METHODS if inside and outside else ():
        users = [
            ([s for read in own for s in read.inside[name]], [s for read in own for s in read.outside[name]])
            for own in by_user.values()
        ]
        mean, low, high = auroc_interval(users, rng=np.random.default_rng(seed), draws=draws)
        wrong = sum(score < read.thresholds[name] for read in reads for score in read.inside[name])
        right = sum(score < read.thresholds[name] for read in reads for score in read.outside[name])
        methods[name] = {
            "auroc": mean,
            "interval": [low, high],
            "false_refusals": wrong / inside,
            "refused": right / outside,
        }
    unset = sum(read.thresholds[METHODS[0]] == -np.inf for read in reads)
    return {
        "in_scope": inside,
        "out_of_scope": outside,
        "devices": len(reads),
        "devices_without_threshold": unset,
        "aimed_at": FALSE_REFUSALS,
        "methods": methods,
    }
