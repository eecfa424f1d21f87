"""`report.html`: one file that loads nothing else, runs no script and can be read on a phone.

`render` is a pure function of the results: the same results give the same bytes.
"""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from federation.report import parts
from federation.report.pictures import (
    accuracy_by_method,
    accuracy_by_mode,
    accuracy_by_round,
    bytes_per_round,
    gain_by_alpha,
    gain_per_device,
)
from federation.report.results import blocks, check_results, is_comparison, is_evaluation, write_file
from federation.report.style import CSS
from federation.report.words import GENERATED, count, plain

FILE_NAME = "report.html"
# Should anything slip through the escaping, the browser still runs and fetches nothing.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(results: Mapping[str, Any], folder: Path) -> Path:
    """Write ``folder/report.html`` atomically and return its path.

    Raises `DataError` for malformed results, `FederationError` without matplotlib or if the disk refuses the file.
    """
    return write_file(folder / FILE_NAME, render(results))


def render(results: Mapping[str, Any]) -> str:
    """Return the page of a run or of an evaluation; raise `DataError` if the results are malformed."""
    check_results(results)
    body = (_evaluation if is_evaluation(results) else _comparison if is_comparison(results) else _run)(results)
    title = plain(results["title"])
    if results["generated"] and GENERATED not in title:
        title = f"{title} ({GENERATED})"
    return framed(title, body)


def framed(title: str, body: str) -> str:
    """Return a whole page of this title around HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Tacit: {escape(plain(title))}</title>\n<style>{CSS}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _run(results: Mapping[str, Any]) -> str:
    return "\n".join(
        [
            parts.banner(results),
            parts.head(results, f"report of {count(len(results['devices']), 'device')} over rounds"),
            parts.undone(results),
            parts.tiles(results, results),
            "<h2>How well suggestions fit</h2>",
            *_figures_of(results),
            parts.what_left(results),
            *_traffic_of(results),
            parts.examples(results),
            parts.made_with(results),
        ]
    )


def _comparison(results: Mapping[str, Any]) -> str:
    runs = list(blocks(results))
    devices = max(len(run["devices"]) for _, run in runs)
    sections, left = [], []
    for name, run in runs:
        title = name.capitalize()
        sections += [f"<h2>{escape(title)}</h2>", parts.undone(run), *_figures_of(run, name=name)]
        left += [parts.what_left(run, heading=f"What left the devices, {name}"), *_traffic_of(run, name=name)]
    return "\n".join(
        [
            parts.banner(results),
            parts.head(results, f"report of {count(devices, 'device')} over rounds"),
            parts.cost(results),
            parts.figure(accuracy_by_mode(results["runs"], generated=results["generated"])),
            *sections,
            *left,
            parts.ledger(results),
            parts.examples(runs[0][1]),
            parts.made_with({**results, "config": {name: run["config"] for name, run in runs}}),
        ]
    )


def _figures_of(run: Mapping[str, Any], *, name: str = "") -> list[str]:
    """How well suggestions of a run fit: table, pictures, devices."""
    return [
        parts.methods_table(run, run),
        parts.figure(accuracy_by_round(run, name=name)),
        parts.figure(gain_per_device(run["devices"], generated=run["generated"], name=name)),
        parts.devices_table(run["devices"]),
    ]


def _traffic_of(run: Mapping[str, Any], *, name: str = "") -> list[str]:
    return [parts.figure(bytes_per_round(run, name=name)), parts.rounds_table(run["rounds"])]


def _evaluation(results: Mapping[str, Any]) -> str:
    generated, all_blocks = results["generated"], list(blocks(results))
    several = len(all_blocks) > 1
    # Devices that joined after the rounds stand in a block of their own, without an α.
    in_rounds = [(name, block) for name, block in all_blocks if "alpha" in block]
    sections = []
    for name, block in all_blocks:
        sections += [
            f"<h2>{escape(name.replace('users of', 'Users of'))}</h2>",
            parts.methods_table(block, results),
            parts.scope_table(block),
            parts.figure(accuracy_by_method(block, generated=generated, name=name if several else "")),
            parts.figure(gain_per_device(block["devices"], generated=generated, name=name if several else "")),
            parts.devices_table(block["devices"]),
        ]
    if len(in_rounds) > 1:
        overview = parts.figure(gain_by_alpha(in_rounds, generated=generated))
    else:
        overview = parts.tiles(all_blocks[0][1], results)
    return "\n".join(
        [
            parts.banner(results),
            parts.head(results, "evaluation of routing"),
            overview,
            *sections,
            parts.what_left(results),
            parts.made_with(results),
        ]
    )
