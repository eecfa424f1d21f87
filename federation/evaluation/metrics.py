"""How well suggestions fit, per user and over all of them: accuracy, MRR, who is hurt, and intervals over users.

Guarantees: pure functions of ranks; every draw comes from the generator that is passed in; accuracies are compared
as counts of hits, so no rounding decides who is hurt. Users are pooled over several seeds by `pool`.

>>> users = [UserRanks(user="u1", baseline=(2, 1), personal=(1, 1)), UserRanks(user="u2", baseline=(1,), personal=(1,))]
>>> hurt(users), gain_interval(users, rng=np.random.default_rng(0))[0] > 0
(0.0, True)

The interval is the percentile bootstrap of B. Efron and R. Tibshirani, *An Introduction to the Bootstrap* (1993),
section 13.3, with users (not rows) as the sampled units, because the rows of one user are not independent.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

SIGNIFICANT_Z = -1.64
"""A user whose paired z lies below this is significantly hurt (one-sided, 5%)."""
_DRAWN_AT_ONCE = 2_000_000  # Sampled users held in memory at a time: 16 MB of indices.

Ranks = Sequence[int]
Interval = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRanks:
    """The true label's rank in each test row of one user, under the global model and under the personal one.

    A rank counts from 1; 0 means that the label was not ranked: wrong, with a reciprocal rank of 0. Raises
    `ValueError` for arrays that are empty, of different lengths, or hold a negative rank.
    """

    user: str
    baseline: tuple[int, ...]
    personal: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.baseline) != len(self.personal):
            raise ValueError(
                f"Expected as many baseline ranks as personal ones for user {self.user!r}, "
                f"got {len(self.baseline)} and {len(self.personal)}."
            )
        if not self.baseline:
            raise ValueError(f"Expected at least one test row for user {self.user!r}. Leave out users without any.")
        if min(*self.baseline, *self.personal) < 0:
            raise ValueError(f"Expected ranks of user {self.user!r} to be 0 (not ranked) or more.")


def pool(users: Sequence[UserRanks]) -> list[UserRanks]:
    """Join the rows of the same user name (several seeds), users and rows in order of first appearance."""
    rows: dict[str, tuple[list[int], list[int]]] = {}
    for one in users:
        baseline, personal = rows.setdefault(one.user, ([], []))
        baseline.extend(one.baseline)
        personal.extend(one.personal)
    return [UserRanks(user=name, baseline=tuple(b), personal=tuple(p)) for name, (b, p) in rows.items()]


def accuracy(ranks: Ranks) -> float:
    """Return the share of ranks (n,) that are 1; raise `ValueError` if there is none."""
    return _hits(ranks) / _count(ranks)


def mrr(ranks: Ranks) -> float:
    """Return the mean reciprocal rank of ranks (n,), 0 counting as 0; raise `ValueError` if there is none."""
    return math.fsum(1 / rank for rank in ranks if rank > 0) / _count(ranks)


def accuracy_at(ranks: Ranks, k: int) -> float:
    """Return the share of ranks (n,) from 1 to ``k``; raise `ValueError` if there is none."""
    return sum(0 < rank <= k for rank in ranks) / _count(ranks)


def worst_tenth(per_user_accuracies: Sequence[float]) -> float:
    """Return the mean over the ⌊n/10⌋ users with the lowest accuracy, at least one user."""
    if not per_user_accuracies:
        raise ValueError(_NO_USERS)
    size = max(1, len(per_user_accuracies) // 10)
    return math.fsum(sorted(per_user_accuracies)[:size]) / size


def hurt(users: Sequence[UserRanks]) -> float:
    """Return the share of users whose personal accuracy is strictly below the baseline's."""
    pooled = _some(users)
    return sum(_hits(one.personal) < _hits(one.baseline) for one in pooled) / len(pooled)


def hurt_significant(users: Sequence[UserRanks]) -> float:
    """Return the share of users whose paired z = mean(d) / (sd(d) / √n) lies below −1.64.

    d is the personal hit minus the baseline's, row by row; sd has n − 1 in its denominator. A user with one row never
    counts; one with two rows or more that all got worse does (sd 0).
    """
    pooled = _some(users)
    return sum(_is_hurt_significantly(one) for one in pooled) / len(pooled)


def gain_interval(users: Sequence[UserRanks], *, rng: np.random.Generator, draws: int = 2000) -> Interval:
    """Return the pooled accuracy difference, personal minus baseline, and its 95% interval by bootstrap over users."""
    pooled = _some(users)
    gains = [_hits(one.personal) - _hits(one.baseline) for one in pooled]
    return _bootstrap(gains, [len(one.personal) for one in pooled], rng=rng, draws=draws)


def accuracy_interval(
    hits_per_user: Sequence[Sequence[bool]], *, rng: np.random.Generator, draws: int = 2000
) -> Interval:
    """Return one method's pooled accuracy and its 95% interval by bootstrap over users; one sequence of hits a user."""
    if not hits_per_user:
        raise ValueError(_NO_USERS)
    if not all(len(hits) for hits in hits_per_user):
        raise ValueError("Expected at least one test row for each user. Leave out users without any.")
    return _bootstrap([sum(map(bool, h)) for h in hits_per_user], [len(h) for h in hits_per_user], rng=rng, draws=draws)


def method_summary(
    ranks_per_user: Sequence[Ranks], *, rng: np.random.Generator, draws: int = 2000
) -> dict[str, float | list[float]]:
    """Return ``{"accuracy", "accuracy_at_5", "mrr", "interval": [low, high]}`` of one method.

    One sequence of ranks a user.
    """
    hits = [[rank == 1 for rank in ranks] for ranks in ranks_per_user]
    mean, low, high = accuracy_interval(hits, rng=rng, draws=draws)
    every = [rank for ranks in ranks_per_user for rank in ranks]
    return {
        "accuracy": mean,
        "accuracy_at_5": accuracy_at(every, 5),
        "mrr": mrr(every),
        "interval": [low, high],
    }


def routing_result(
    users: Sequence[UserRanks],
    *,
    rng: np.random.Generator,
    extra: Mapping[str, Mapping[str, Ranks]] | None = None,
    draws: int = 2000,
) -> dict[str, Any]:
    """Return the figures of `tacit evaluate routing` as plain JSON values: methods, gain, users and rows.

    ``extra`` maps a further method ("most_frequent", "local") to each user's ranks, pooled over the seeds as `pool`
    does. Raises `ValueError` if there is no user, or if a further method does not cover the same rows.
    """
    pooled = pool(_some(users))
    # All methods see the same resampled users: intervals compare, and a further method changes none of the others.
    seed = int(rng.integers(2**63))

    def beside_global(users: Sequence[UserRanks]) -> dict[str, float | list[float]]:
        """Of the ranks that stand in the users' ``personal``."""
        ranks = [one.personal for one in users]
        return method_summary(ranks, rng=np.random.default_rng(seed), draws=draws) | {
            "hurt": hurt(users),
            "hurt_significant": hurt_significant(users),
            "worst_tenth": worst_tenth([accuracy(one.personal) for one in users]),
        }

    shared = [replace(one, personal=one.baseline) for one in pooled]
    methods = {"global": beside_global(shared), "personal": beside_global(pooled)}
    for name, ranks_of in (extra or {}).items():
        if name in methods:
            raise ValueError(f"Expected a further method's name, got {name!r}, which the users' own ranks give.")
        ranks = _same_rows(name, ranks_of, pooled)
        methods[name] = beside_global(
            [replace(one, personal=tuple(its)) for one, its in zip(pooled, ranks, strict=True)]
        )
    gain = gain_interval(pooled, rng=np.random.default_rng(seed), draws=draws)
    rows = sum(len(one.baseline) for one in pooled)
    return {"methods": methods, "gain": {"accuracy": list(gain)}, "users": len(pooled), "rows": rows}


def device_results(users: Sequence[UserRanks], *, memories: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return a row a user for the report: device, memories, rows (test rows), global, personal and gain in accuracy."""
    return [
        {
            "device": one.user,
            "memories": memories.get(one.user, 0),
            "rows": len(one.baseline),
            "global": accuracy(one.baseline),
            "personal": accuracy(one.personal),
            "gain": (_hits(one.personal) - _hits(one.baseline)) / len(one.baseline),
        }
        for one in pool(_some(users))
    ]


_NO_USERS = "Expected at least one user with test rows, got none. Give more rows or lower the least number of rows."


def _some(users: Sequence[UserRanks]) -> list[UserRanks]:
    if not users:
        raise ValueError(_NO_USERS)
    return pool(users)


def _count(ranks: Ranks) -> int:
    if not len(ranks):
        raise ValueError("Expected at least one rank, got none.")
    return len(ranks)


def _hits(ranks: Ranks) -> int:
    return sum(rank == 1 for rank in ranks)


def _is_hurt_significantly(one: UserRanks) -> bool:
    d = [(p == 1) - (b == 1) for b, p in zip(one.baseline, one.personal, strict=True)]
    n, total, squares = len(d), sum(d), sum(x * x for x in d)
    if n < 2 or total >= 0:
        return False
    spread = n * squares - total * total  # n · (n − 1) · variance, a whole number: zero is exact.
    return spread == 0 or total * math.sqrt((n - 1) / spread) < SIGNIFICANT_Z


def _same_rows(name: str, ranks_of: Mapping[str, Ranks], users: Sequence[UserRanks]) -> list[Ranks]:
    expected = {one.user: len(one.baseline) for one in users}
    got = {user: len(ranks) for user, ranks in ranks_of.items()}
    if got != expected:
        wrong = min(user for user in expected.keys() | got.keys() if expected.get(user) != got.get(user))
        raise ValueError(
            f"Expected method {name!r} to rank the same rows: user {wrong!r} has {expected.get(wrong, 0)}, "
            f"the method {got.get(wrong, 0)}."
        )
    return [ranks_of[one.user] for one in users]


def _bootstrap(sums: Sequence[int], counts: Sequence[int], *, rng: np.random.Generator, draws: int) -> Interval:
    """Return the ratio of sums (n,) to counts (n,) over all users, and the middle 95% of ``draws`` resamplings."""
    if draws < 1:
        raise ValueError(f"Expected draws={draws} to be at least 1.")
    total, rows = np.asarray(sums, dtype=np.int64), np.asarray(counts, dtype=np.int64)
    n = len(total)
    at_once = max(1, _DRAWN_AT_ONCE // n)
    ratios: npt.NDArray[np.float64] = np.empty(draws)
    for start in range(0, draws, at_once):
        stop = min(draws, start + at_once)
        drawn = rng.integers(n, size=(stop - start, n))  # (draws, users)
        ratios[start:stop] = total[drawn].sum(axis=1) / rows[drawn].sum(axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return int(total.sum()) / int(rows.sum()), float(low), float(high)
