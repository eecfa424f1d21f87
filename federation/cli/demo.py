"""`tacit demo`: the whole path on generated people, in about a minute."""

import shutil
from pathlib import Path

import click

from federation.simulation.run_lock import LOCK_FILE, only_run

_OWN_FILES = (
    "results.json",
    "report.html",
    "rounds.jsonl",
    "run.json",
    "start.safetensors",
    "checkpoint.safetensors",
    "public.npy",
    "roster",
)
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

    check_is_ours(out)
    with only_run(out):
        clear_earlier(out)
    experiment = load_experiment(GENERATED, devices=devices, alpha=1.0, seed=seed)
    run_and_report(experiment, out, encoder_name=encoder_name, as_json=as_json, given={"rounds": rounds, "seed": seed})


def check_is_ours(out: Path) -> None:
    """Refuse a folder that holds anything no demo wrote."""
    if not out.exists():
        return
    if not out.is_dir():
        raise click.UsageError(f"{out} is a file. Name a folder with --out.")
    foreign = sorted(path.name for path in out.iterdir() if not _is_ours(path.name))
    if foreign:
        raise click.UsageError(f"{out} holds {foreign[0]!r}, which no demo wrote. Name another folder with --out.")


def clear_earlier(out: Path) -> None:
    """Remove what an earlier demo left in ``out``."""
    for path in list(out.iterdir()):
        if path.name in _OWN_FOLDERS:
            shutil.rmtree(path)
        elif path.name != LOCK_FILE:
            path.unlink()


def _is_ours(name: str) -> bool:
    # A demo that was killed while it wrote a file leaves that file under its name with a dot and an ending.
    unfinished = any(name.startswith(f".{own}.") for own in _OWN_FILES)
    return name in (*_OWN_FILES, *_OWN_FOLDERS, LOCK_FILE) or unfinished
