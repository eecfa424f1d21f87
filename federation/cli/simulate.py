"""`tacit simulate`: federated rounds over the users of a data file, or over a generated population."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.owner.modes import MODES, PRIVATE
from federation.rounds.config import DEFAULTS, NOISY_DEFAULTS, STRATEGIES, RunSettings, default

if TYPE_CHECKING:
    from federation.simulation.experiment import Experiment

GENERATED = "generated"


def setting(flag: str, kind: Any, text: str) -> Callable[..., Any]:
    """Return the option of a setting of the same name, with its default from `RunSettings`."""
    name = flag.removeprefix("--").replace("-", "_")
    if name in NOISY_DEFAULTS:
        text = f"{text}  [default: {DEFAULTS[name]} in open mode, else {NOISY_DEFAULTS[name]}]"
        return click.option(flag, type=kind, help=text)
    return click.option(flag, type=kind, default=DEFAULTS[name], show_default=True, help=text)


def run_options(mode: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what adds the options that decide how rounds run, in ``mode`` where none is given."""
    options = (
        click.option("--mode", type=click.Choice(MODES), default=mode, show_default=True, help="Who sees an update."),
        setting("--epsilon", float, "ε to keep within: against the server in private mode, of the model in central."),
        setting("--delta", float, "How likely ε may fail to hold."),
        click.option("--cohort", type=click.IntRange(1), help="Devices in a round, on average.  [default: all]"),
        setting("--rounds", click.IntRange(1), "Rounds to run."),
        setting("--strategy", click.Choice(STRATEGIES), "Flower's strategy."),
        setting("--local-steps", click.IntRange(1), "Steps a device takes a round."),
        setting("--learning-rate", float, "Of a device's steps."),
        setting("--server-learning-rate", float, "Of fedadam and fedyogi."),
        setting("--proximal-mu", float, "Of fedprox."),
        setting("--byzantine", float, "The share of a cohort that fedtrimmedavg and krum take for lying."),
        click.option(
            "--canary",
            default=DEFAULTS["canary"],
            show_default=True,
            metavar="FILE|catalogue|none",
            help="Public texts on which each new model is tried: rows of FILE too, or none.",
        ),
        setting("--gate-margin", float, "A round that makes the model worse there by more than this share is undone."),
        setting("--ridge", float, "How strongly the server holds the model to half of its start; 0 is not at all."),
        setting("--clip-norm", float, "L2 bound of an update."),
        setting("--rescorer-steps", click.IntRange(0, 3), "Newton steps for the personalization, after the rounds."),
        click.option("--encoder", "encoder_name", help="A folder or a hub name.  [default: all-MiniLM-L6-v2]"),
        click.option("--json", "as_json", is_flag=True, help="Print the results for a program."),
    )

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def with_defaults(given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings, those that were left out by the mode's own defaults."""
    left_out = [name for name in NOISY_DEFAULTS if given.get(name) is None]
    return given | {name: default(name, given["mode"]) for name in left_out}


@click.command(name="simulate")
@click.option("--data", required=True, metavar="FILE|generated", help="Rows in JSONL, or a generated population.")
@click.option("--devices", type=click.IntRange(2), help="Users to take (those with most rows), or devices to deal to.")
@click.option("--alpha", type=float, default=0.3, show_default=True, help="Dirichlet α where rows name no user.")
@setting("--seed", click.IntRange(0), "Of split, sampling and training.")
@click.option("--min-replies", type=click.IntRange(0), default=0, help="Valid replies a round needs.  [default: half]")
@click.option(
    "--deadline",
    "deadline_s",
    type=float,
    default=DEFAULTS["deadline_s"],
    show_default=True,
    help="Of a round, in seconds.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for devices, model and report.")
@click.option("--resume", is_flag=True, help="Continue the run in --out, interrupted or migrated.")
@run_options(PRIVATE)
def command(
    data: str, devices: int | None, alpha: float, out: Path, encoder_name: str | None, as_json: bool, **given: Any
) -> None:
    """Run federated rounds over many devices in this process, each with an encrypted store of its own.

    The rows of FILE hold user, order, text and label; each user becomes a device. OUT receives the devices, the
    checkpoint after each round, results.json and report.html. Exit status 0 means that every round completed.
    """
    experiment = load_experiment(data, devices=devices, alpha=alpha, seed=given["seed"])
    run_and_report(experiment, out, encoder_name=encoder_name, as_json=as_json, given=given)


def load_experiment(data: str, *, devices: int | None, alpha: float, seed: int) -> "Experiment":
    """Return the experiment that ``data`` names; raises `DataError` for a bad file."""
    from federation.data.dataset import read_rows
    from federation.data.splits import has_users, split_as_marked, split_rows
    from federation.simulation.experiment import Experiment

    if data == GENERATED:
        from federation.population import generate

        population = generate(devices or 24, seed=seed)
        return Experiment.of(split_as_marked(population.rows), title=population.title, generated=True)
    rows = read_rows(Path(data))
    split = split_rows(rows, seed=seed, devices=devices, alpha=None if has_users(rows) else alpha)
    return Experiment.of(split, title=Path(data).name)


def settings_for(experiment: "Experiment", given: dict[str, Any]) -> RunSettings:
    """Return the settings of a run over the experiment: what is not ``given`` by the mode's own defaults, all devices.

    Raises `ConfigError`.
    """
    given = with_defaults(given)
    cohort = min(given.pop("cohort", None) or len(experiment.split), len(experiment.split))
    return RunSettings(cohort=cohort, **given)


def run_and_report(
    experiment: "Experiment", out: Path, *, encoder_name: str | None, as_json: bool, given: dict[str, Any]
) -> dict[str, Any]:
    """Run the experiment in ``out``, write its results and report, and print the table or the JSON."""
    from engine.encoders.encoder import CachedEncoder, load_encoder
    from federation.cli.console import print_json, progress
    from federation.evaluation.results import run_results
    from federation.report import print_methods, write_report, write_results
    from federation.simulation.experiment import run_experiment

    settings = settings_for(experiment, given)
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
