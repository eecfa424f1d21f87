"""How rows become devices: the protocol for routing with users and without.

With users: rows sorted by ``order`` and shuffled by ``random.Random(f"{seed}:{user}")``; users with 20 rows or more
give their first ⌊0.7·n⌋ to train and the rest to test, smaller users only train. Without users: rows are dealt to
devices by Dirichlet(α) over labels without replacement, and 80% of each device's rows train.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from federation.data.dataset import Row
from federation.errors import ConfigError, DataError

Split = list[tuple[str, list[Row], list[Row]]]
FEWEST_ROWS = 20
DEALT_DEVICES = 150


def has_users(rows: Sequence[Row]) -> bool:
    """Return whether the rows name users; raise `DataError` if some do and some do not."""
    named = sum(bool(row.user) for row in rows)
    if 0 < named < len(rows):
        raise DataError(f"{len(rows) - named} of {len(rows)} rows name no user. Give all rows a user, or none.")
    return named > 0


def split_rows(rows: Sequence[Row], *, seed: int, devices: int | None, alpha: float | None) -> Split:
    """Split by user where ``alpha`` is ``None``, or else deal to ``devices`` devices, 150 by default."""
    if alpha is None:
        return split_by_user(rows, seed=seed, most=devices)
    return split_by_dirichlet(rows, devices=devices or DEALT_DEVICES, alpha=alpha, seed=seed)


def split_by_user(rows: Sequence[Row], *, seed: int, most: int | None = None) -> Split:
    """Return (user, train, test) for each user, those with most rows first where ``most`` limits them."""
    by_user: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_user[row.user].append(row)
    users = sorted(by_user)
    if most is not None:
        users = sorted(sorted(users, key=lambda user: (-len(by_user[user]), user))[:most])
    split: Split = []
    for user in users:
        own = sorted(by_user[user], key=lambda row: row.order)
        random.Random(f"{seed}:{user}").shuffle(own)
        cut = int(0.7 * len(own)) if len(own) >= FEWEST_ROWS else len(own)
        split.append((user, own[:cut], own[cut:]))
    return split


def split_as_marked(rows: Sequence[Row], *, most: int | None = None) -> Split:
    """Return (user, train, test) by the rows' own ``split``: for generated people, whose habits drift."""
    by_user: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_user[row.user].append(row)
    return [
        (user, [row for row in own if row.split != "test"], [row for row in own if row.split == "test"])
        for user, own in list(by_user.items())[:most]
    ]


def split_by_dirichlet(rows: Sequence[Row], *, devices: int, alpha: float, seed: int) -> Split:
    """Deal rows to ``devices`` devices of equal size with label shares drawn from Dirichlet(``alpha``).

    No row is dealt twice; when a label runs out, a device draws from those that are left. Source: Hsu et al. 2019.
    """
    if not 0 < alpha < float("inf"):
        raise ConfigError(f"Expected alpha={alpha} to be positive and finite.")
    per_device = len(rows) // devices
    if per_device < 2:
        raise ConfigError(f"Expected at most {len(rows) // 2} devices for {len(rows)} rows, got {devices}.")
    rng = np.random.default_rng([seed, round(alpha * 1_000_000)])
    labels = sorted({row.label for row in rows})
    pools: list[list[Row]] = []
    for label in labels:
        own = [row for row in rows if row.label == label]
        pools.append([own[i] for i in rng.permutation(len(own))])
    shares = rng.dirichlet(np.full(len(labels), alpha), size=devices)  # (devices, labels)
    dealt: list[list[Row]] = [[] for _ in range(devices)]
    left = np.array([len(pool) for pool in pools])
    # In turns, so that no device is the last to choose from what is left.
    for _ in range(per_device):
        for device in range(devices):
            weights = shares[device] * (left > 0)
            if weights.sum() <= 1e-300:
                weights = (left > 0).astype(np.float64)
            label_index = int(rng.choice(len(labels), p=weights / weights.sum()))
            left[label_index] -= 1
            dealt[device].append(pools[label_index].pop())
    split: Split = []
    for number, own in enumerate(dealt, start=1):
        mixed = [own[i] for i in rng.permutation(len(own))]
        cut = int(0.8 * len(mixed))
        split.append((f"device {number}", mixed[:cut], mixed[cut:]))
    return split


def late_users(split: Split, *, share: float, seed: int) -> frozenset[str]:
    """Draw who takes no part in rounds: this share, at least one, of those who are measured, and of the others.

    Raises `ConfigError` for a share outside (0, 1), `DataError` where too few would be left for rounds.
    """
    if not 0 < share < 1:
        raise ConfigError(f"Expected unseen={share} to be between 0 and 1, as 0.2 is.")
    rng = random.Random(f"unseen:{seed}")
    measured = [user for user, _, test in split if test]
    others = [user for user, _, test in split if not test]
    late = rng.sample(measured, max(1, round(share * len(measured)))) if measured else []
    late += rng.sample(others, round(share * len(others)))
    if len(measured) < 2 or len(split) - len(late) < 2 or not set(measured) - set(late):
        raise DataError(
            f"Of {len(split)} devices, {len(measured)} with test rows, unseen={share:g} leaves too few for rounds. "
            "Give more rows or a smaller share."
        )
    return frozenset(late)


def public_labels(split: Split) -> list[str]:
    """Return, sorted, the labels that at least two users have in their train rows: the others stay private."""
    owners: dict[str, set[str]] = defaultdict(set)
    for user, train, _ in split:
        for row in train:
            owners[row.label].add(user)
    return sorted(label for label, users in owners.items() if len(users) > 1)


def within_labels(split: Split) -> Split:
    """Leave out accepted answers that are no row's label: nothing in the split could teach them."""
    labels = {row.label for _, train, test in split for row in [*train, *test]}

    def within(row: Row) -> Row:
        kept = tuple(name for name in row.labels if name in labels)
        return row if kept == row.labels else replace(row, labels=kept)

    return [(user, [within(row) for row in train], [within(row) for row in test]) for user, train, test in split]
