"""How much label habits could give at most: ``python -m benchmarks.ceiling FILE [--alpha A]… [--seeds N]``.

For rows without users, dealt to devices by Dirichlet(α): accuracy of a shared model fitted in one place, as in
``benchmarks/parts.py``, of personalized devices, and of the same shared model by Bayes' rule with a device's label
shares in place of the usual ones, where it is told more than any device can know: α itself, beside its memories; and
the labels of all that it will be asked, those of the very request included. What is gained above the second, nobody
could tell from labels alone; above the last, nobody could tell from any memory of labels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.parts import Ready, learned_by, personal, ready, scored, split_of
from benchmarks.private_fleet import crowd_of
from engine.encoders.encoder import CachedEncoder, load_encoder
from federation.data.dataset import read_rows
from federation.data.splits import has_users

ALPHAS = (0.05, 0.3, 1.0, 5.0)


def by_shares(devices: list[Ready], alpha: float, *, told_all: bool) -> Callable[[Ready], np.ndarray]:
    """How a device answers by Bayes' rule with its label shares: their mean after its memories, dealt by ``alpha``.

    If ``told_all`` the labels that it will be asked for count as memories.
    """
    usual = np.exp(np.concatenate([one.memory.global_log[:, : one.memory.public] for one in devices])).mean(axis=0)

    def answer(one: Ready) -> np.ndarray:
        public = one.memory.public
        known = np.concatenate([one.memory.y, one.truth]) if told_all else one.memory.y
        counts = np.bincount(known[(known >= 0) & (known < public)], minlength=public) + alpha
        scores: np.ndarray = one.asked_log[:, :public] + np.log(counts / counts.sum()) - np.log(usual)
        # Labels that only this device has stay as the shared model sees them.
        return np.concatenate([scores, one.asked_log[:, public:]], axis=1)

    return answer


def measure(devices: list[Ready], alpha: float) -> Iterator[tuple[str, float, int]]:
    """Accuracy by each way, and rows."""
    ways = {
        "shared model": lambda one: one.asked_log,
        "personalized": personal(learned_by(devices)),
        "its memories' label shares, α told": by_shares(devices, alpha, told_all=False),
        "all its label shares told": by_shares(devices, alpha, told_all=True),
    }
    for name, way in ways.items():
        accuracy, _, _, rows = scored(devices, way)
        yield name, accuracy, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--alpha", action="append", type=float, metavar="A")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--inner", action="store_true", help="measure on train rows")
    given = parser.parse_args()
    if has_users(read_rows(given.file)):
        parser.error(f"{given.file} names users, whose label shares nobody dealt: give rows without users.")
    encoder = CachedEncoder(load_encoder())
    for alpha in given.alpha or ALPHAS:
        found: dict[str, list[tuple[float, int]]] = {}
        for seed in range(given.seeds):
            dealt = argparse.Namespace(alpha=alpha, inner=given.inner)
            split, catalogue = split_of(given.file, seed, dealt)
            for name, accuracy, rows in measure(ready(crowd_of(split, catalogue, encoder)), alpha):
                found.setdefault(name, []).append((accuracy, rows))
        print(f"{given.file.stem}, α = {alpha:g}: {sum(rows for _, rows in found['shared model']):,} rows")
        shared = np.mean([accuracy for accuracy, _ in found["shared model"]])
        for name, each in found.items():
            mean = np.mean([accuracy for accuracy, _ in each])
            print(f"  {name:36} {mean:.3f}  {100 * (mean - shared):+.1f} points", flush=True)


if __name__ == "__main__":
    main()
