"""`tacit evaluate choice`: which item a person chooses next, by the protocol."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from federation.cli.simulate import called

if TYPE_CHECKING:
    from rich.console import Console


@click.command(name="choice")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--items", "items_file", type=click.Path(path_type=Path), help="Their file.  [default: X_items.jsonl]")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="How often 99 others are drawn.")
@click.option(
    "--methods",
    type=click.Choice(["simple", "all"]),
    default="simple",
    show_default=True,
    help="With all, also centralised item neighbours, SVD-32 and EASE.",
)
@click.option(
    "--factors", type=click.IntRange(2, 256), default=32, show_default=True, help="Numbers that stand for an item."
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for results.json and report.html.")
@click.option("--json", "as_json", is_flag=True, help="Print the results for a program.")
def choice(
    file: Path,
    items_file: Path | None,
    seeds: int,
    methods: str,
    factors: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Which app, film or item comes next: accuracy, MRR, and hit rate and NDCG among 99 items the user never had.

    Each user is a device; the factors of items are learned in federated rounds. Rows with a time: the last of each user
    with 20 rows or more is foreseen. Rows without: those whose split is test. Items that one user alone has, and that
    the list of items lacks, stay private.
    """
    from federation.cli.console import print_json, progress
    from federation.data.choices import items_beside, read_choices, read_items
    from federation.evaluation.choice import evaluate_choice

    rows = read_choices(file)
    beside = items_beside(file)
    named = items_file or (beside if beside.is_file() else None)
    results = evaluate_choice(
        rows,
        list(read_items(named)) if named is not None else [],
        title=file.name,
        seeds=seeds,
        all_methods=methods == "all",
        factors=factors,
        command=called(),
        progress=progress,
    )
    if out is not None:
        from federation.report import write_results
        from federation.report.choice import write_choice_report

        write_results(results, out)
        click.echo(f"Report: {write_choice_report(results, out)}", err=True)
    if as_json:
        print_json(results)
        return
    from rich.console import Console

    print_choices(results, Console())


def print_choices(results: Mapping[str, Any], console: "Console") -> None:
    """Print accuracy at 1 and 5, MRR, hit rate and NDCG of each method, over all rows and over those of two kinds."""
    from rich import box
    from rich.table import Table

    from federation.report.choice import choice_groups
    from federation.report.results import CHOICE_METHODS
    from federation.report.words import privacy_sentence

    console.print(f"{results['title']}\n{results['mode']}", style="bold", markup=False)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("Method")
    for heading in ("Acc@1", "Acc@5", "MRR", "HR@10 (95% interval)", "NDCG@10"):
        table.add_column(heading, justify="right", no_wrap=True)
    for words, its in choice_groups(results["methods"]):
        rows = next(iter(its.values()))["rows"]
        table.add_section()
        table.add_row(f"[bold]{words}: {rows} row{'s' * (rows > 1)}[/bold]")
        for name, one in its.items():
            low, high = one["hit_rate_interval"]
            table.add_row(
                CHOICE_METHODS[name],
                f"{one['accuracy']:.3f}",
                f"{one['accuracy_at_5']:.3f}",
                f"{one['mrr']:.3f}",
                f"{one['hit_rate_at_10']:.3f} ({low:.3f}–{high:.3f})",
                f"{one['ndcg_at_10']:.3f}",
            )
    console.print(table)
    users, items = results["users"], results["items"]
    console.print(
        f"{users} users measured, {results['devices']} devices, {items} items, {results['seeds']} draws of 99."
    )
    if privacy_sentence(results):
        console.print(f"{privacy_sentence(results)}.", markup=False)
