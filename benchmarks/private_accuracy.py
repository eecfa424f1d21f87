"""What privacy costs in accuracy: ``python -m benchmarks.private_accuracy [--data FILE]… [--devices N,N] [--out PNG]``.

For each fleet, number of devices and ε against the server (user-level, δ = 1e-5), the accuracy of the shared model and
of the personalized devices, for: the label names alone, which cost nothing; one release of summaries
(``federation/rounds/summary_model.py``), by the mechanism of central mode as it is; and plain DP-FedAvg from the label
names, 10 rounds of all devices, with one step for all noises, and with the step that does best on the very rows that
are measured, which nobody could choose: a bound on what tuning gives. Last, all rows in one place. All devices take
part in all rounds, so ε of the released model is that against the server; both are printed.

Fleets are FILE without users (rows dealt by Dirichlet α, a fifth of each device's measured) and `generated`, people as
`tacit demo` has them, of whom the first --measured are measured. What is chosen (constants of the modules, the step of
plain averaging) was chosen on train rows with --inner, seeds from 100 up. The noise of DP-FedAvg is numpy's, of the
mechanism's variance. --honest-share H adds the noise of a private round, whose secure sum counts on the share H of its
devices. --draws N makes N releases of each fleet, with noise of their own. Options: --epsilon, --alpha, --seeds,
--first-seed, --rounds, --steps, --inner, --json, --without NAME.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.private_fleet import (
    SERVER_STEP,
    Crowd,
    by_averaging,
    by_one_release,
    by_pooling,
    crowd_of,
    inner,
    measured,
)
from engine.encoders.encoder import CachedEncoder, load_encoder
from engine.model.catalogue import Catalogue
from federation.data.dataset import read_rows
from federation.data.splits import Split, public_labels, split_as_marked, split_by_dirichlet, within_labels
from federation.population import generate
from federation.privacy.accounting import PrivacyPlan, guarantee
from federation.privacy.calibration import calibrate

GENERATED = "generated"
DELTA, NUMBERS, ANY = 1e-5, 10_000, 300
NAMES, RELEASE, AVERAGED, TUNED, POOLED = "names", "one release", "DP-FedAvg", "DP-FedAvg, best step", "pooled"
METHODS = (NAMES, RELEASE, AVERAGED, TUNED, POOLED)


def split_of(name: str, count: int, seed: int, given: argparse.Namespace) -> tuple[Split, Catalogue]:
    """The devices' rows, and the labels that all know."""
    if name == GENERATED:
        split = within_labels(split_as_marked(generate(count, seed=seed).rows))
        return (inner(split, seed) if given.inner else split), Catalogue.builtin()
    split = split_by_dirichlet(read_rows(Path(name)), devices=count, alpha=given.alpha, seed=seed)
    split = inner(split, seed) if given.inner else split
    return split, Catalogue.from_names(public_labels(split))


@functools.cache
def multiplier(epsilon: float, rounds: int) -> tuple[float, float, float]:
    """z, ε against the server and ε of the released model, whatever the number of devices, since all take part.

    No noise for an infinite ε.
    """
    if math.isinf(epsilon):
        return 0.0, math.inf, math.inf
    plan = PrivacyPlan(devices=ANY, cohort=ANY, rounds=rounds, participations=rounds, delta=DELTA, dimension=NUMBERS)
    z = calibrate(plan, epsilon)
    found = guarantee(plan, z)
    return z, found.eps_server, found.eps_released


def rows_of(name: str, count: int, seed: int, encoder: CachedEncoder, given: argparse.Namespace) -> Iterator[dict]:
    """One fleet's figures, a method and an ε at a time."""
    split, catalogue = split_of(name, count, seed, given)
    crowd = crowd_of(split, catalogue, encoder)

    def row(method: str, flat: np.ndarray, figures: tuple[float, float, float], numbers: int) -> dict:
        shared, personal = measured(crowd, flat, most=given.measured)
        told = {"fleet": Path(name).stem, "devices": count, "seed": seed, "method": method, "numbers": numbers}
        z, server, released = figures
        return told | {"z": z, "eps_server": server, "eps_released": released, "global": shared, "personal": personal}

    free, whole = (0.0, 0.0, 0.0), (0.0, math.inf, math.inf)
    if NAMES not in given.without:
        yield row(NAMES, crowd.start.flat, free, 0)
    for epsilon in given.epsilon:
        one = multiplier(epsilon, 1)
        if RELEASE not in given.without:
            for _ in range(given.draws if one[0] else 1):
                flat, plan = by_one_release(crowd, one[0], given.honest_share)
                yield row(RELEASE, flat, one, plan.length)
        if AVERAGED not in given.without:
            yield from _averaged(crowd, epsilon, seed, given, row)
    if POOLED not in given.without:
        yield row(POOLED, by_pooling(crowd), whole, len(crowd.start.flat))


def _averaged(crowd: Crowd, epsilon: float, seed: int, given: argparse.Namespace, row) -> Iterator[dict]:
    many = multiplier(epsilon, given.rounds)
    found = {
        step: row(
            AVERAGED,
            by_averaging(crowd, many[0], given.honest_share, rounds=given.rounds, step=step, seed=seed),
            many,
            len(crowd.start.flat),
        )
        for step in dict.fromkeys((SERVER_STEP, *given.steps))
    }
    yield found[SERVER_STEP]
    if len(found) > 1:
        yield max(found.values(), key=lambda one: one["personal"]) | {"method": TUNED}


def means(rows: list[dict]) -> list[dict]:
    """The mean over seeds and draws of each fleet, method and ε, in the order they came in, with 95% of its error."""
    found = []
    for key in dict.fromkeys((one["fleet"], one["devices"], one["method"], one["eps_server"]) for one in rows):
        own = [one for one in rows if (one["fleet"], one["devices"], one["method"], one["eps_server"]) == key]
        row = dict(own[0]) | {name: float(np.mean([one[name] for one in own])) for name in ("global", "personal")}
        spread = float(np.std([one["personal"] for one in own], ddof=1)) if len(own) > 1 else math.nan
        found.append(row | {"seeds": len(own), "error": 1.96 * spread / math.sqrt(len(own))})
    return found


def told(epsilon: float) -> str:
    """An ε as the table shows it."""
    return "∞" if math.isinf(epsilon) else f"{epsilon:.2f}"


def print_table(rows: list[dict]) -> None:
    print(f"{'fleet':<10} {'devices':>7}  {'method':<21} {'ε server':>8} {'ε released':>10}  global  personalized")
    for one in rows:
        margin = "" if math.isnan(one["error"]) else f" ± {one['error']:.3f}"
        print(
            f"{one['fleet']:<10} {one['devices']:>7}  {one['method']:<21} {told(one['eps_server']):>8} "
            f"{told(one['eps_released']):>10}  {one['global']:.3f}   {one['personal']:.3f}{margin}"
        )


def draw(rows: list[dict], out: Path) -> None:
    """Write a picture: personalized accuracy by ε, one panel for each fleet and number of devices."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((one["fleet"], one["devices"]) for one in rows))
    columns = min(4, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(3.4 * columns, 3.2 * lines), dpi=130)
    every = sorted({one["eps_server"] for one in rows if one["method"] == RELEASE})
    styles = {RELEASE: ("#1f5fbf", "-", "o"), AVERAGED: ("#b3541e", "--", "s"), TUNED: ("#b3541e", ":", "^")}
    places = {round(epsilon, 1): at for at, epsilon in enumerate(every)}
    for number, (fleet, count) in enumerate(panels, start=1):
        axes = figure.add_subplot(lines, columns, number)
        own = [one for one in rows if (one["fleet"], one["devices"]) == (fleet, count)]
        for method, (colour, dash, marker) in styles.items():
            line = [
                (places[round(one["eps_server"], 1)], 100 * one["personal"]) for one in own if one["method"] == method
            ]
            if line:
                axes.plot(*zip(*line, strict=True), color=colour, linestyle=dash, marker=marker, label=method)
        for method, dash in ((NAMES, (0, (1, 2))), (POOLED, (0, (6, 2)))):
            for one in own:
                if one["method"] == method:
                    axes.axhline(100 * one["personal"], color="#555555", linestyle=dash, linewidth=1, label=method)
        axes.set_xticks(range(len(every)), ["∞" if math.isinf(one) else f"{one:.0f}" for one in every])
        axes.set_title(f"{fleet}, {count} devices", fontsize=9, loc="left")
        axes.grid(axis="y", color="#dddddd", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        if number > len(panels) - columns:
            axes.set_xlabel("ε against the server, δ = 1e-5", fontsize=8)
        if (number - 1) % columns == 0:
            axes.set_ylabel("personalized accuracy, %", fontsize=8)
        if number == 1:
            axes.legend(fontsize=7, frameon=False)
    figure.tight_layout()
    FigureCanvasAgg(figure).print_png(out, metadata={"Software": None})


def main() -> None:
    numbers = lambda text: [float(part) for part in text.split(",")]  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", default=[], metavar="FILE|generated")
    parser.add_argument("--devices", type=lambda text: [int(part) for part in text.split(",")], default=[100, 300])
    parser.add_argument("--epsilon", type=numbers, default=[1.0, 2.0, 4.0, 8.0, math.inf])
    parser.add_argument("--alpha", type=float, default=0.3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=numbers, default=[0.8, 1.6, 3.2, 6.4])
    parser.add_argument("--measured", type=int, default=300)
    parser.add_argument("--honest-share", type=float, default=1.0)
    parser.add_argument("--inner", action="store_true")
    parser.add_argument("--without", action="append", default=[], choices=METHODS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rows", type=Path, help="Also read these rows of earlier runs (JSON), and write all there.")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    encoder = CachedEncoder(load_encoder())
    rows = json.loads(given.rows.read_text()) if given.rows and given.rows.exists() else []
    for name in given.data:
        for count in given.devices:
            for seed in range(given.first_seed, given.first_seed + given.seeds):
                for row in rows_of(name, count, seed, encoder, given):
                    rows.append(row)
                    if given.rows:
                        given.rows.write_text(json.dumps(rows, indent=1))
    rows = means(rows)
    if given.json:
        print(json.dumps(rows, indent=2))
    else:
        print_table(rows)
    if given.out:
        draw(rows, given.out)


if __name__ == "__main__":
    main()
