"""`tacit evaluate`: measure personalization by the protocol, on any data file of the schema."""

from pathlib import Path
from typing import Any

import click

from engine.owner.modes import OPEN
from federation.cli.evaluate_choice import choice
from federation.cli.evaluate_memory import memory
from federation.cli.simulate import called, run_options, with_defaults


@click.group(name="evaluate")
def command() -> None:
    """Measure personalization on a data file: the global model against the personal one, with intervals."""


command.add_command(memory)


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--devices", type=click.IntRange(2), help="Users to take, or devices to deal to.  [default: all, or 150]")
@click.option(
    "--alpha", "alphas", type=float, multiple=True, help="Dirichlet α, repeatable.  [default: 0.05, 0.3, 1 and 5]"
)
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="How many splits to pool.")
@click.option(
    "--methods",
    multiple=True,
    default=("ours",),
    show_default="ours",
    help="Run these published methods beside ours, repeatable or a comma list: "
    "local, most_frequent, fedavg, fedavg_finetuned, fedrep, ditto, knn_per, or all.",
)
@click.option("--unseen", type=float, help="Share of devices that join after the rounds, with figures of their own.")
@click.option(
    "--out-of-scope",
    type=float,
    help="Share of the labels to hold out: how well are requests for them told from others?",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for results.json and report.html.")
@run_options(OPEN)
def routing(
    file: Path,
    devices: int | None,
    alphas: tuple[float, ...],
    seeds: int,
    methods: tuple[str, ...],
    unseen: float | None,
    out_of_scope: float | None,
    out: Path | None,
    encoder_name: str | None,
    as_json: bool,
    cohort: int | None,
    **given: Any,
) -> None:
    """Which service should take a request: accuracy, MRR, share of users hurt, worst tenth, and the gain's interval.

    Rows that name users: 70% of each user's rows train, users with fewer than 20 rows only train. Rows without: one
    block for each Dirichlet α, with an 80/20 split in each device. The global model sees all train rows through
    federated rounds, one device a user; labels that one user alone has stay private.

    With --methods, published methods run beside ours on the same vectors, splits and number of rounds, each with
    six settings tried on held-out train rows: they lie in benchmarks/baselines of a source checkout.

    With --out-of-scope, rows of the labels held out leave all train rows. AUROC says how well the device tells the test
    rows among them from the others; a threshold that aims at 5% of its own memories says how many of either it refuses.
    """
    from engine.encoders.encoder import CachedEncoder, load_encoder
    from federation.cli.console import progress
    from federation.data.dataset import read_rows
    from federation.evaluation.methods import chosen_baselines
    from federation.evaluation.routing import evaluate_routing

    if cohort is not None:
        raise click.UsageError("The protocol invites all devices to each round: leave --cohort out.")
    baselines = chosen_baselines(methods)
    rows = read_rows(file)
    results = evaluate_routing(
        rows,
        title=file.name,
        settings=with_defaults(given),
        seeds=seeds,
        devices=devices,
        alphas=alphas,
        encoder=CachedEncoder(load_encoder(encoder_name)),
        command=called(),
        baselines=baselines,
        unseen=unseen,
        out_of_scope=out_of_scope,
        progress=progress,
    )
    _show(results, out, as_json=as_json)


def _show(results: dict[str, Any], out: Path | None, *, as_json: bool) -> None:
    from federation.cli.console import print_json
    from federation.report import print_methods, write_report, write_results

    if out is not None:
        write_results(results, out)
        click.echo(f"Report: {write_report(results, out)}", err=True)
    if as_json:
        print_json(results)
        return
    from rich.console import Console

    print_methods(results, Console())


command.add_command(choice)
