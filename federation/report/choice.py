"""The page of an evaluation of choices: its figures and one picture, in the same frame as the other reports."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from federation.report import parts
from federation.report.page import FILE_NAME, framed
from federation.report.pictures import Picture, picture
from federation.report.results import CHOICE_METHODS, check_results, write_file
from federation.report.words import privacy_sentence

WHOLE = "all"
CHOICE_GROUPS = {WHOLE: "all", "not_in_this_context": "not had in this context", "new_items": "new to the user"}
COLUMNS = {
    "accuracy": "Acc@1",
    "accuracy_at_5": "Acc@5",
    "mrr": "MRR",
    "hit_rate_at_10": "HR@10",
    "ndcg_at_10": "NDCG@10",
}


def write_choice_report(results: Mapping[str, Any], folder: Path) -> Path:
    """Write ``folder/report.html`` atomically and return its path. Raises `FederationError` without matplotlib."""
    return write_file(folder / FILE_NAME, render_choices(results))


def render_choices(results: Mapping[str, Any]) -> str:
    """Return the page; the same results give the same bytes. Raises `DataError` if they are malformed."""
    check_results(results)
    sections = []
    for words, methods in choice_groups(results["methods"]):
        rows = next(iter(methods.values()))["rows"]
        sections += [f"<h2>{escape(words.capitalize())}: {rows:,} row{'s' * (rows > 1)}</h2>", _table(methods)]
    body = [
        parts.head(results, "evaluation of choices"),
        parts.figure(hit_rates(results["methods"])),
        *sections,
        f'<p class="soft">{results["users"]:,} users measured, {results["devices"]:,} devices, {results["items"]:,} '
        f"items; hit rate and NDCG among 99 items that the user never had, drawn {results['seeds']} times.</p>",
        parts.what_left(results),
        f'<p class="soft">{escape(privacy_sentence(results))}</p>' if privacy_sentence(results) else "",
        parts.made_with(results),
    ]
    return framed(results["title"], "\n".join(body))


def choice_groups(methods: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The kinds of rows with each method's figures; a kind whose figures show no difference shares the lines of all."""
    whole = {
        name: {key: value for key, value in one.items() if key not in CHOICE_GROUPS} for name, one in methods.items()
    }
    groups, same = [], [CHOICE_GROUPS[WHOLE]]
    for group, words in CHOICE_GROUPS.items():
        its = whole if group == WHOLE else {name: one[group] for name, one in methods.items()}
        if group == WHOLE or not all(its.values()):
            continue
        if _shown(its) == _shown(whole):
            same.append(words)
        else:
            groups.append((words, its))
    return [("; ".join(same), whole), *groups]


def _shown(methods: Mapping[str, Any]) -> list[list[str]]:
    return [[str(one["rows"]), *(f"{one[column]:.3f}" for column in COLUMNS)] for one in methods.values()]


def hit_rates(methods: Mapping[str, Any]) -> Picture:
    """Draw each method's hit rate at 10 with its interval, the best at the top."""
    order = sorted(methods, key=lambda name: float(methods[name]["hit_rate_at_10"]))
    values = [100 * methods[name]["hit_rate_at_10"] for name in order]
    spread = [
        [100 * abs(methods[name]["hit_rate_at_10"] - methods[name]["hit_rate_interval"][end]) for name in order]
        for end in (0, 1)
    ]

    def draw(axes: Any, theme: Any) -> None:
        axes.figure.subplots_adjust(left=0.37)
        axes.grid(visible=False, axis="y")
        axes.grid(axis="x", color=theme.faint, linewidth=0.7)
        colours = [theme.blue if name == "personalized" else theme.grey for name in order]
        axes.barh(range(len(order)), values, color=colours, xerr=spread, ecolor=theme.ink, capsize=3)
        axes.set_yticks(range(len(order)), [CHOICE_METHODS[name] for name in order], color=theme.ink)
        axes.set_xlim(0, 100)
        axes.set_xlabel("hit rate at 10, in percent", color=theme.ink)

    said = ", ".join(
        f"{CHOICE_METHODS[name]} {value:.1f}%" for name, value in zip(order[::-1], values[::-1], strict=True)
    )
    return picture("Hit rate among 99 items that the user never had", f"With 95% intervals over users: {said}.", draw)


def _table(methods: Mapping[str, Any]) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS.values())
    lines = []
    for name, one in methods.items():
        cells = "".join(f"<td>{one[column]:.3f}</td>" for column in COLUMNS)
        best = ' class="best"' if name == "personalized" else ""
        lines.append(f'<tr{best}><th scope="row">{escape(CHOICE_METHODS[name])}</th>{cells}</tr>')
    table = f'<table><thead><tr><th scope="col">Method</th>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return f'<div class="wide">{table}</div>'
