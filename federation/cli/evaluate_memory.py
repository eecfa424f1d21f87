"""`tacit evaluate memory`: what the search of a device's memory finds, on conversations with known evidence."""

from pathlib import Path
from typing import Any

import click

_HYBRID = {"shipped": "as shipped", "fitted on the other conversations": "fitted on the other conversations"}


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--conversations", "most", type=click.IntRange(1), metavar="N", help="Only the first N.  [default: all]")
@click.option("--encoder", "encoder_name", metavar="NAME", help="A folder or a hub name.  [default: all-MiniLM-L6-v2]")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for results.json and report.html.")
@click.option("--ablate", is_flag=True, help="Also what the hybrid finds without each of its parts.")
@click.option("--json", "as_json", is_flag=True, help="Print the results for a program.")
def memory(
    file: Path, most: int | None, encoder_name: str | None, out: Path | None, ablate: bool, as_json: bool
) -> None:
    """Which memories answer a question: evidence found among the first 5 and 10, and MRR, by each way of searching.

    Each line of FILE is a conversation with questions. It is searched by itself; questions without evidence, and those
    of category 5, are left out. The weights of "hybrid" are fitted on the other conversations of the file.
    """
    from engine.encoders.encoder import load_encoder
    from federation.cli.console import print_json, progress
    from federation.cli.simulate import called
    from federation.data.conversations import read_conversations
    from federation.evaluation.memory import evaluate_memory

    results = evaluate_memory(
        read_conversations(file)[:most],
        title=file.name,
        encoder=load_encoder(encoder_name),
        command=called(),
        ablate=ablate,
        progress=progress,
    )
    if out is not None:
        from federation.report.memory import write_memory_report

        click.echo(f"Report: {write_memory_report(results, out)}", err=True)
    if as_json:
        print_json(results)
        return
    print_methods(results)


def print_methods(results: dict[str, Any]) -> None:
    """Print the figures of each method as a table."""
    from federation.cli.device_shared import plural, print_table
    from federation.report.memory import NAMES

    heads = ("R@5 (95%)", "R@10 (95%)", "hit@5", "hit@10", "MRR")
    rows = []
    methods = [(shown, results["methods"][name]) for name, shown in NAMES.items()]
    methods += [(f"less {part}", its) for part, its in results.get("without", {}).items()]
    for shown, its in methods:
        cells = []
        for figure in ("recall_at_5", "recall_at_10"):
            low, high = its["intervals"][figure]
            cells.append(f"{its[figure]:.3f} ({low:.2f}–{high:.2f})")
        rows.append((shown, *cells, *(f"{its[figure]:.3f}" for figure in ("hit_at_5", "hit_at_10", "mrr"))))
    click.echo(
        f"{results['title']}: {plural(results['conversations'], 'conversation')}, "
        f"{plural(results['memories'], 'memory')}, {plural(results['questions'], 'question')}"
    )
    print_table(("method", *heads), rows, right=heads)
    click.echo(
        "R@k: mean share of a question's evidence. BM25 fusion, soft fusion: plain sums,\n"
        "no re-ranker. Shipped: the search of a device. Hybrid: the same with weights\n"
        f"{_HYBRID[results['weights']['hybrid']]}."
    )
