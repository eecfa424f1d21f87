"""`tacit demo`: the whole path on generated people, in about a minute."""

import shutil
from pathlib import Path

import click

_OWN_FILES = ("results.json", "report.html", "rounds.jsonl", "run.json", "start.safetensors", "checkpoint.safetensors")
_OWN_FOLDERS = ("devices", "keys")


@click.command(name="demo")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("tacit-report"), show_default=True, help="Folder to write."
)
@click.option("--devices", type=click.IntRange(2), default=24, show_default=True, help="People to generate.")
@click.option("--rounds", type=click.IntRange(1), default=30, show_default=True, help="Federated rounds.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Another seed, other people.")
@click.option("--encoder", "encoder_name", help="A folder or a hub name.  [default: all-MiniLM-L6-v2]")
@click.option("--json", "as_json", is_flag=True, help="Print the results for a program.")
def command(out: Path, devices: int, rounds: int, seed: int, encoder_name: str | None, as_json: bool) -> None:
    """Fill 24 simulated devices from a generated population, run federated rounds and personalize each.

    Each device has its own encrypted store in OUT. An earlier demo in OUT is replaced.
    """
    from federation.cli.simulate import GENERATED, load_experiment, run_and_report

    clear_earlier(out)
    experiment = load_experiment(GENERATED, devices=devices, alpha=1.0, seed=seed)
    run_and_report(experiment, out, encoder_name=encoder_name, as_json=as_json, given={"rounds": rounds, "seed": seed})


def clear_earlier(out: Path) -> None:
    """Remove what an earlier demo left in ``out``; refuse a folder that holds anything else."""
    if not out.exists():
        return
    if not out.is_dir():
        raise click.UsageError(f"{out} is a file. Name a folder with --out.")
    foreign = sorted(path.name for path in out.iterdir() if path.name not in _OWN_FILES + _OWN_FOLDERS)
    if foreign:
        raise click.UsageError(f"{out} holds {foreign[0]!r}, which no demo wrote. Name another folder with --out.")
    for name in _OWN_FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)
    for name in _OWN_FILES:
        (out / name).unlink(missing_ok=True)
