"""`tacit report`: the table and the page of a run or an evaluation that is done."""

from pathlib import Path

import click


@click.command(name="report")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the results for a program.")
def command(folder: Path, as_json: bool) -> None:
    """Write report.html in DIR anew from its results.json, and print the table."""
    from federation.cli.evaluate_choice import print_choices
    from federation.report import load_results, print_methods, write_report
    from federation.report.choice import write_choice_report
    from federation.report.memory import write_memory_report
    from federation.report.results import is_choice, is_comparison, is_memory

    results = load_results(folder)
    write = write_choice_report if is_choice(results) else write_memory_report if is_memory(results) else write_report
    page = write(results, folder)
    if as_json:
        from federation.cli.console import print_json

        print_json(results)
        return
    if is_memory(results):
        from federation.cli.evaluate_memory import print_methods as print_found

        print_found(results)
    elif is_comparison(results):
        from federation.cli.demo import show as show_modes

        show_modes(results, folder)
    else:
        from rich.console import Console

        show = print_choices if is_choice(results) else print_methods
        show(results, Console())
    click.echo(f"\nReport: {page}")
