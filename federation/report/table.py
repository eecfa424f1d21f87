"""The methods as a table for the terminal, readable at 80 columns and without colour."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from federation.report.results import blocks, check_results, is_evaluation
from federation.report.words import GENERATED, METHODS, bytes_of, count, method_rows, plain, points, share, size

if TYPE_CHECKING:
    from rich.console import Console

_ASCII = str.maketrans({"–": "-", "−": "-", "α": "alpha", "·": "-", "…": "..."})


def print_methods(results: Mapping[str, Any], console: "Console") -> None:
    """Print accuracy with interval, MRR, share significantly hurt and bytes sent of each method.

    An evaluation gets one section per α. Raises `DataError` if the results are malformed.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    check_results(results)

    def fit(text: str, style: str = "") -> Text:
        if not console.encoding.lower().startswith("utf"):
            text = text.translate(_ASCII).encode(console.encoding, errors="replace").decode(console.encoding)
        return Text(text, style=style)

    for line in _heading(results):
        console.print(fit(line, "bold"))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(fit("Method"))
    for heading in ("Accuracy\n(95% interval)", "MRR", "Devices\nhurt *", "Sent per\ndevice"):
        table.add_column(fit(heading), justify="right", no_wrap=True)
    for name, block in blocks(results):
        if is_evaluation(results):
            table.add_section()
            table.add_row(
                fit(f"{name}, {count(block['users'], 'user')}", "bold"), fit(count(block["rows"], "test row"))
            )
        for method, figures, sent in method_rows(block, bytes_of(block, results).get("sent_per_device")):
            low, high = figures["interval"]
            table.add_row(
                fit(METHODS[method], "bold" if method == "personal" else ""),
                fit(f"{share(figures['accuracy'])} ({100 * low:.1f}–{100 * high:.1f})"),
                fit(f"{figures['mrr']:.3f}"),
                fit(share(figures.get("hurt_significant"))),
                fit(size(sent)),
            )
        for what, (mean, low, high) in _differences(block):
            table.add_row(fit(what), fit(f"{points(mean)} ({points(low)}…{points(high)})"))
    console.print(table)
    if not is_evaluation(results):
        console.print(fit(_counts(results) + "."))
    console.print(fit("* share of devices whose paired z against the global model lies below −1.64"))


def _differences(block: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[float]]]:
    yield "Gain, in points", block["gain"]["accuracy"]
    if "versus_best_baseline" in block:
        best = block["versus_best_baseline"]
        yield f"Personalized − {METHODS[best['name']]}", best["accuracy"]


def _heading(results: Mapping[str, Any]) -> list[str]:
    title = plain(results["title"])
    if results["generated"] and GENERATED not in title:
        title = f"{title} · {GENERATED}"
    return [title, plain(results["mode"])]


def _counts(block: Mapping[str, Any]) -> str:
    return f"{count(block['users'], 'user')}, {count(block['rows'], 'test row')}"
