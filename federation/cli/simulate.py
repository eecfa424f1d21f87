"""`tacit simulate`: federated rounds over the users of a data file, or over a generated population."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from federation.config import STRATEGIES

GENERATED = "generated"


def run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that decide how rounds run."""
    options = (
        click.option("--cohort", type=click.IntRange(1), help="Devices invited to a round.  [default: all]"),
        click.option("--rounds", type=click.IntRange(1), default=90, show_default=True, help="Rounds to run."),
        click.option(
            "--strategy", type=click.Choice(STRATEGIES), default="fedadam", show_default=True, help="Flower's strategy."
        ),
        click.option(
            "--local-steps", type=click.IntRange(1), default=5, show_default=True, help="Steps a device takes a round."
        ),
        click.option("--learning-rate", type=float, default=0.3, show_default=True, help="Of a device's steps."),
        click.option(
            "--server-learning-rate", type=float, default=0.05, show_default=True, help="Of fedadam and fedyogi."
        ),
        click.option("--proximal-mu", type=float, default=0.1, show_default=True, help="Of fedprox."),
        click.option("--clip-norm", type=float, default=1.0, show_default=True, help="L2 bound of an update."),
        click.option("--encoder", "encoder_name", help="A folder or a hub name.  [default: all-MiniLM-L6-v2]"),
        click.option("--json", "as_json", is_flag=True, help="Print the results for a program."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command(name="simulate")
@click.option("--data", required=True, metavar="FILE|generated", help="Rows in JSONL, or a generated population.")
@click.option("--devices", type=click.IntRange(2), help="Users to take (those with most rows), or devices to deal to.")
@click.option("--alpha", type=float, default=0.3, show_default=True, help="Dirichlet α where rows name no user.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of split, sampling and training.")
@click.option("--min-replies", type=click.IntRange(0), default=0, help="Valid replies a round needs.  [default: half]")
@click.option("--deadline", "deadline_s", type=float, default=3600.0, show_default=True, help="Of a round, in seconds.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for devices, model and report.")
@click.option("--resume", is_flag=True, help="Continue the interrupted run in --out, to the same bits.")
@run_options
def command(
    data: str, devices: int | None, alpha: float, out: Path, encoder_name: str | None, as_json: bool, **given: Any
) -> None:
    """Run federated rounds over many devices in this process, each with an encrypted store of its own.

    The rows of FILE hold user, order, text and label; each user becomes a device. OUT receives the devices, the
    checkpoint after each round, results.json and report.html. Exit status 0 means that every round completed.
    """
    experiment = load_experiment(data, devices=devices, alpha=alpha, seed=given["seed"])
    run_and_report(experiment, out, encoder_name=encoder_name, as_json=as_json, given=given)


def load_experiment(data: str, *, devices: int | None, alpha: float, seed: int) -> Any:
    """Return the experiment that ``data`` names; raises `DataError` for a bad file."""
    from federation.dataset import read_rows
    from federation.experiment import Experiment
    from federation.splits import has_users, split_as_marked, split_by_dirichlet, split_by_user

    if data == GENERATED:
        from federation.population import generate

        population = generate(devices or 24, seed=seed)
        return Experiment.of(split_as_marked(population.rows), title=population.title, generated=True)
    rows = read_rows(Path(data))
    if has_users(rows):
        split = split_by_user(rows, seed=seed, most=devices)
    else:
        split = split_by_dirichlet(rows, devices=devices or 150, alpha=alpha, seed=seed)
    return Experiment.of(split, title=Path(data).name)


def run_and_report(
    experiment: Any, out: Path, *, encoder_name: str | None, as_json: bool, given: dict[str, Any]
) -> dict[str, Any]:
    """Run the experiment in ``out``, write its results and report, and print the table or the JSON."""
    from engine.encoder import CachedEncoder, load_encoder
    from federation.cli.console import print_json, progress
    from federation.config import RunSettings
    from federation.experiment import run_experiment
    from federation.report import print_methods, write_report, write_results
    from federation.results import run_results

    given = dict(given)
    given["cohort"] = min(given.pop("cohort", None) or len(experiment.split), len(experiment.split))
    settings = RunSettings(**given)
    encoder = CachedEncoder(load_encoder(encoder_name))
    outcome = run_experiment(experiment, settings, out, encoder, progress)
    results = run_results(experiment, settings, outcome, command=called())
    write_results(results, out)
    page = write_report(results, out)
    if as_json:
        print_json(results)
        return results
    from rich.console import Console

    console = Console()
    print_methods(results, console)
    if results["examples"]:
        print_examples(results)
    click.echo(f"\nReport: {page}\nModel:  {out / 'checkpoint.safetensors'}  (tacit device model PATH --use …)")
    return results


def print_examples(results: dict[str, Any]) -> None:
    """Print requests that memory set right, each with the memories that explain the answer."""
    click.echo(f"\nRequests that memory set right ({results['title']}):")
    for example in results["examples"]:
        first = example["suggestions"][0]
        click.echo(f"\n  “{example['text']}”")
        click.echo(f"    global model: {example['global']}")
        click.echo(f"    this device:  {first['label']} ({first['score']:.0%}), because it remembers")
        for memory in first["because"]:
            click.echo(f"      · “{memory['text']}” ({memory['similarity']:.2f})")


def called() -> str:
    """Return the command line as it was given, without the program's folder."""
    return shlex.join(["tacit", *sys.argv[1:]])
