"""The methods as a table for the terminal, readable at 80 columns and without colour."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from federation.report.results import blocks, check_results, is_comparison, is_evaluation
from federation.report.words import (
    GENERATED,
    METHODS,
    accounted,
    bytes_of,
    cost_sentence,
    count,
    finer,
    finer_columns,
    method_rows,
    plain,
    points,
    privacy_rows,
    refused_sentence,
    scope_rows,
    scope_sentence,
    share,
    size,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_ASCII = str.maketrans(
    {"–": "-", "−": "-", "α": "alpha", "δ": "delta", "ε": "epsilon", "∞": "infinite", "·": "-", "…": "..."}
    | {"“": '"', "”": '"'}
)


def print_methods(results: Mapping[str, Any], console: "Console") -> None:
    """Print accuracy with interval, MRR, share significantly hurt and bytes sent of each method, and both ε above them.

    An evaluation gets one section per α, and further tables: calibration, accepted answers, requests out of scope. A
    comparison of modes gets one section per mode, and a sentence on what privacy costs.
    Raises `DataError` if the results are malformed.
    """
    check_results(results)
    fit = _fitting(console)
    for line in _heading(results):
        console.print(fit(line, "bold"))
    console.print(_methods_table(results, fit))
    if not is_evaluation(results) and not is_comparison(results):
        console.print(fit(_counts(results) + "."))
    for name, block in blocks(results):
        if refused_sentence(block.get("rounds", [])):
            where = f"{name}: " if name else ""
            console.print(fit(f"{where}{refused_sentence(block['rounds'])}", "bold red"))
    console.print(fit("* share of devices whose paired z against the global model lies below −1.64"))
    for text in dict.fromkeys(accounted(block) for _, block in blocks(results)):
        if text:
            console.print(fit(f"Accounted: {text}."))
    if cost_sentence(results):
        console.print(fit(f"\n{cost_sentence(results)}", "bold"))
    if is_evaluation(results):
        for name, block in blocks(results):
            _print_finer(name, block, console)
            _print_scope(name, block, console)


def _methods_table(results: Mapping[str, Any], fit: "Callable[..., Text]") -> "Table":
    """Return the table of methods, a section for each block that has a name."""
    table = _table(fit, "Method", "Accuracy\n(95% interval)", "MRR", "Devices\nhurt *", "Sent per\ndevice")
    for name, block in blocks(results):
        if name:
            table.add_section()
            table.add_row(
                fit(f"{name}, {count(block['users'], 'user')}", "bold"), fit(count(block["rows"], "test row"))
            )
        for what, figure in privacy_rows(block):
            table.add_row(fit(what), fit(figure))
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
    return table


def _fitting(console: "Console") -> "Callable[..., Text]":
    """Return what makes a text that this console can show."""
    from rich.text import Text

    def fit(text: str, style: str = "") -> Text:
        if not console.encoding.lower().startswith("utf"):
            text = text.translate(_ASCII).encode(console.encoding, errors="replace").decode(console.encoding)
        return Text(text, style=style)

    return fit


def _table(fit: "Callable[..., Text]", first: str, *others: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(fit(first))
    for heading in others:
        table.add_column(fit(heading), justify="right", no_wrap=True)
    return table


def _print_finer(name: str, block: Mapping[str, Any], console: "Console") -> None:
    """Print how sure the methods are, and how they rank several accepted answers, where a block says so."""
    columns, fit = finer_columns(block), _fitting(console)
    if not columns:
        return
    table = _table(fit, name, *(heading for _, heading in columns))
    for method, figures, _ in method_rows(block, None):
        if any(key in figures for key, _ in columns):
            table.add_row(fit(METHODS[method]), *(fit(finer(figures, key)) for key, _ in columns))
    console.print()
    console.print(table)


def _print_scope(name: str, block: Mapping[str, Any], console: "Console") -> None:
    """Print how well requests out of scope were told from others, where a block says so."""
    if "out_of_scope" not in block:
        return
    fit = _fitting(console)
    table = _table(fit, f"Out of scope, {name}", "AUROC\n(95% interval)", "False\nrefusals", "Refused")
    for cells in scope_rows(block["out_of_scope"]):
        table.add_row(*map(fit, cells))
    console.print()
    console.print(table)
    console.print(fit(scope_sentence(block["out_of_scope"])))


def _differences(block: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[float]]]:
    yield "Gain, in points", block["gain"]["accuracy"]
    if "versus_best_baseline" in block:
        best = block["versus_best_baseline"]
        yield f"Personalized − {METHODS[best['name']]}", best["accuracy"]


def _heading(results: Mapping[str, Any]) -> list[str]:
    title = plain(results["title"])
    if results["generated"] and GENERATED not in title:
        title = f"{title} · {GENERATED}"
    runs = results["runs"].values() if is_comparison(results) else [results]
    return [title, *(plain(run["mode"]) for run in runs)]


def _counts(block: Mapping[str, Any]) -> str:
    return f"{count(block['users'], 'user')}, {count(block['rows'], 'test row')}"
