"""What commands share: progress bars on standard error, tables on standard output, JSON for programs."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click


def print_json(value: Any) -> None:
    """Print ``value`` as JSON on standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


@contextlib.contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar of ``total`` steps on standard error; gives the function that advances it.

    Where standard error is no terminal, one line says that the step began.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(file=sys.stderr)
    if not console.is_terminal:
        click.echo(f"{title} …", err=True)
        yield lambda: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(title, total=total)
        yield lambda: bars.advance(task)
