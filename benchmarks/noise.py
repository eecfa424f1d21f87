"""What a device's share of the noise costs: ``python -m benchmarks.noise``.

Prints, in milliseconds for 100,000 numbers, the median of single runs taken turn by turn: the whole way of an update
(clip, round, noise), each kind of noise by itself from the secure stream, numpy's Poisson numbers as a reference (not
secure, and not exact), and what a round's first table costs once. Options: --numbers, --repeats, --json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np


def main() -> int:
    from federation.privacy.mechanism import privatise
    from federation.privacy.noise import NOISES, share
    from federation.privacy.parameters import NoiseParameters
    from federation.privacy.stream import SecureStream
    from federation.privacy.table import gaussian_table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--numbers", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    parameters = NoiseParameters(
        dimension=given.numbers, clip_norm=1.0, noise_multiplier=2.0, cohort=100, honest_share=0.6
    )
    variance, stream, rng = parameters.share_variance, SecureStream(), np.random.default_rng(0)
    update = rng.standard_normal(given.numbers).astype(np.float32)
    ways: dict[str, Callable[[], object]] = {
        "whole way of an update": lambda: privatise(update, parameters, stream),
        **{f"{noise} noise": lambda noise=noise: share(noise, given.numbers, variance, stream) for noise in NOISES},
        "numpy, two Poissons": lambda: (
            rng.poisson(variance / 2, given.numbers) - rng.poisson(variance / 2, given.numbers)
        ),
        "a round's table, once": lambda: gaussian_table.__wrapped__(variance),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.repeats + 1):
        for name, way in ways.items():
            start = time.process_time()
            way()
            taken[name].append(1e3 * (time.process_time() - start))
    # The first turn builds the tables that the others find.
    medians = {name: round(statistics.median(times[1:]), 1) for name, times in taken.items()}
    entries = len(gaussian_table(variance).high)
    if given.json:
        print(json.dumps({"numbers": given.numbers, "stddev": variance**0.5, "entries": entries, "cpu_ms": medians}))
        return 0
    print(f"{given.numbers} numbers, standard deviation {variance**0.5:.0f}, a table of {entries} entries; CPU ms:")
    for name, median in medians.items():
        print(f"  {name:<24}{median:8.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
