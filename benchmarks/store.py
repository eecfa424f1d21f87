"""Tacit's store beside plain SQLite and SQLCipher with FTS5 and FAISS: ``python -m benchmarks.store``.

The same records of about 1 kB with 384 floats each (``benchmarks/corpus.py``), the same durability, one thread. Prints
medians, ratios taken turn by turn, and the bound that each figure has, met or not. Options: --sizes, --baseline,
--folder, --repeats, --seed, --json. One million records take some ten minutes, 13 GB of disk and 6 GB of memory; leave
SQLCipher out there with ``--baseline plain``. Run it from the root of the repository: a module of this name beside the
package ``store`` is only in its way as a script.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.measures import Row

SMALLEST = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What a figure must keep for ``low`` to ``high`` records."""

    text: str
    holds: Callable[[Row], bool]
    low: int = 0
    high: int = 1 << 62


def _at_most(limit: float, unit: str, *, low: int = 0, high: int = 1 << 62) -> Bound:
    return Bound(text=f"<= {limit:g} {unit}", holds=lambda row: row.ours <= limit, low=low, high=high)


def _against_plain(limit: float) -> Bound:
    return Bound(text=f"<= {limit:g} x plain", holds=lambda row: (row.ratio_plain or 0.0) <= limit)


_EXACT_BELOW, _HUNDRED_K, _MILLION = 20_000, 100_000, 1_000_000

BOUNDS: dict[str, tuple[Bound, ...]] = {
    "add": (_against_plain(1.5),),
    "batch": (
        Bound(text=">= 15,000 or 0.5 x plain", holds=lambda row: row.ours >= 15_000 or (row.ratio_plain or 0.0) >= 0.5),
    ),
    "search": (_at_most(2, "ms", high=_HUNDRED_K), _at_most(25, "ms", low=_HUNDRED_K + 1, high=_MILLION)),
    "search_uncached": (_at_most(5, "ms", high=_HUNDRED_K),),
    "speedup": (Bound(text=">= 10 x", holds=lambda row: row.ours >= 10, low=_HUNDRED_K, high=_HUNDRED_K),),
    "size": (_against_plain(1.3),),
    "forget_net": (_at_most(5, "ms"),),
    "unlock": (
        _at_most(30, "ms", low=_HUNDRED_K, high=_HUNDRED_K),
        _at_most(100, "ms", low=_HUNDRED_K + 1, high=_MILLION),
    ),
    "embedding": (_at_most(80, "MB", high=_MILLION),),
    "growth_apart": (_at_most(80, "MB", high=_MILLION),),
}


def bound_of(row: Row, count: int) -> tuple[str, bool | None]:
    """The text of the bound on ``row`` at ``count`` records and whether it is met; ``("", None)`` where none is set."""
    for bound in BOUNDS.get(row.key, ()):
        if bound.low <= count <= bound.high:
            return bound.text, bound.holds(row)
    return "", None


def main() -> None:
    """Measure each size asked for and print what came out."""
    asked = _parser().parse_args()
    # Before numpy is imported here or in a process that this one starts.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    names, notes = _engine_names(asked.baseline)
    for note in notes:
        print(note, file=sys.stderr)
    sizes = {}
    for count in asked.sizes:
        rows = _measured(count, names, asked)
        sizes[str(count)] = [_described(row, count) for row in rows]
        if not asked.json:
            _print_table(count, rows, "sqlcipher" in names)
    if asked.json:
        print(json.dumps({"machine": _machine(), "engines": names, "notes": notes, "sizes": sizes}, indent=2))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=_sizes, default=[10_000, 100_000], help="numbers of records: 10000,100000")
    parser.add_argument("--baseline", type=_baselines, default=["plain", "sqlcipher"], help="plain or plain,sqlcipher")
    parser.add_argument("--folder", type=Path, help="where the databases lie meanwhile; a temporary folder by default")
    parser.add_argument("--repeats", type=int, default=5, help="how often each unlock is repeated")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the records")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _sizes(text: str) -> list[int]:
    sizes = [int(part) for part in text.split(",")]
    if min(sizes) < SMALLEST:
        raise argparse.ArgumentTypeError(f"Expected sizes of at least {SMALLEST} records, got {min(sizes)}.")
    return sizes


def _baselines(text: str) -> list[str]:
    names = text.split(",")
    if "plain" not in names or not set(names) <= {"plain", "sqlcipher"}:
        raise argparse.ArgumentTypeError(f"Expected plain or plain,sqlcipher, got {text}: each ratio needs plain.")
    return [name for name in ("plain", "sqlcipher") if name in names]


def _engine_names(baselines: Sequence[str]) -> tuple[list[str], list[str]]:
    """The engines to measure, Tacit's first, and a line for each that cannot be."""
    from benchmarks.plain_engines import sqlcipher

    names = ["tacit", *baselines]
    driver = sqlcipher()
    if isinstance(driver, str) and "sqlcipher" in names:
        return [name for name in names if name != "sqlcipher"], [driver]
    return names, []


def _measured(count: int, names: Sequence[str], asked: argparse.Namespace) -> list[Row]:
    from rich.console import Console
    from rich.progress import Progress

    from benchmarks.corpus import Corpus
    from benchmarks.measures import Measurement

    folder = Path(tempfile.mkdtemp(prefix="tacit-benchmark-", dir=asked.folder))
    try:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            corpus = Corpus(seed=asked.seed)
            return Measurement(corpus, count, names, folder, progress.track).run(asked.repeats)
    finally:
        shutil.rmtree(folder)


def _described(row: Row, count: int) -> dict[str, object]:
    bound, met = bound_of(row, count)
    return {**asdict(row), "bound": bound or None, "met": met}


def _machine() -> dict[str, object]:
    import faiss

    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "faiss": faiss.__version__,
    }


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _print_table(count: int, rows: Sequence[Row], with_sqlcipher: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{count:,} records of about 1 kB and 384 floats, medians", title_justify="left")
    table.add_column("figure")
    columns = ["unit", "Tacit", "plain", "SQLCipher", "/ plain", "/ SQLCipher", "bound", "verdict"]
    for title in columns:
        if with_sqlcipher or "SQLCipher" not in title:
            table.add_column(title, justify="left" if title in ("unit", "bound", "verdict") else "right")
    for row in rows:
        bound, met = bound_of(row, count)
        measured = [row.ours, row.plain, *([row.sqlcipher] if with_sqlcipher else [])]
        ratios = [row.ratio_plain, *([row.ratio_sqlcipher] if with_sqlcipher else [])]
        verdict = {True: "met", False: "not met", None: ""}[met]
        table.add_row(row.title, row.unit, *map(_figure, measured), *map(_figure, ratios), bound, verdict)
    console = Console()
    # A file has no width, and a table cut to 80 columns would drop figures.
    Console(width=None if console.is_terminal else 160).print(table)


def _figure(value: float | None) -> str:
    """At least three digits that count; what is nearly one stays apart from one."""
    if value is None:
        return ""
    if abs(value) >= 1:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}"
    return f"{value:.4f}" if abs(value) >= 0.99 else f"{value:.3g}"


if __name__ == "__main__":
    main()
