"""The report of `tacit evaluate memory`: results.json, and a page with the table and a picture."""

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from federation.report import parts
from federation.report.page import FILE_NAME as PAGE
from federation.report.page import framed
from federation.report.pictures import found_by_method
from federation.report.results import FILE_NAME, write_file
from federation.report.words import count

NAMES = {
    "bm25": "BM25",
    "embedding": "embedding",
    "fusion_bm25": "BM25 fusion",
    "fusion": "soft fusion",
    "hybrid_shipped": "shipped",
    "hybrid": "hybrid",
}
_HEADS = {"recall_at_5": "R@5", "recall_at_10": "R@10", "hit_at_5": "hit@5", "hit_at_10": "hit@10", "mrr": "MRR"}


def write_memory_report(results: Mapping[str, Any], folder: Path) -> Path:
    """Write ``folder/results.json`` and ``folder/report.html``, whole or not at all; return the page's path.

    Raises `FederationError` without matplotlib or if the disk refuses a file.
    """
    content = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_file(folder / FILE_NAME, content)
    return write_file(folder / PAGE, render_memory(results))


def render_memory(results: Mapping[str, Any]) -> str:
    """Return the page of an evaluation of memory search."""
    methods = {name: results["methods"][name] for name in NAMES if name in results["methods"]}
    rows = [
        (NAMES[name], *(f"{its[figure]:.3f} ({_interval(its, figure)})" for figure in _HEADS))
        for name, its in methods.items()
    ]
    shown = {name: (NAMES[name], its["recall_at_5"], *its["intervals"]["recall_at_5"]) for name, its in methods.items()}
    counted = [count(results[what], noun) for what, noun in (("conversations", "conversation"), ("memories", "turn"))]
    counted.append(count(results["questions"], "question"))
    body = [
        f'<p class="soft">Tacit · evaluation of memory search</p><h1>{parts.foreign(results["title"])}</h1>',
        f"<pre>$ {parts.foreign(results['command'])}</pre><p>{escape(', '.join(counted))}.</p>",
        "<h2>What is found</h2>",
        parts.table(("Method", *_HEADS.values()), rows, scroll=True),
        "<p>R@k is the mean share of a question's evidence among the first k memories; hit@k the share of questions "
        "with any of it there; in brackets 95% intervals by bootstrap. The weights of the hybrid are "
        f"{escape(results['weights']['hybrid'])}.</p>",
        parts.figure(found_by_method(shown)),
        *_without(results),
        parts.made_with(results),
    ]
    return framed(str(results["title"]), "\n".join(body))


def _without(results: Mapping[str, Any]) -> list[str]:
    """What the hybrid finds without each of its parts, where that was measured."""
    if "without" not in results:
        return []
    rows = [(f"less {part}", *(f"{its[figure]:.3f}" for figure in _HEADS)) for part, its in results["without"].items()]
    return [
        "<h2>The hybrid without each of its parts</h2>",
        parts.table(("Hybrid", *_HEADS.values()), rows, scroll=True),
    ]


def _interval(figures: Mapping[str, Any], name: str) -> str:
    low, high = figures["intervals"][name]
    return f"{low:.3f}–{high:.3f}"
