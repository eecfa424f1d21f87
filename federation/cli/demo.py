"""`tacit demo`: the whole path on generated people, in private and in open mode, in about a minute."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.owner.modes import OPEN, PRIVATE
from federation.cli.simulate import GENERATED, called, load_experiment, print_examples, setting, settings_for
from federation.simulation.run_lock import LOCK_FILE, only_run

if TYPE_CHECKING:
    from federation.rounds.config import RunSettings
    from federation.simulation.experiment import Outcome

BOTH = "both"
_LEDGER_FILE = "ledger.json"
_RHO = "ρ (zCDP), and tells an ε that is somewhat larger than the table's"
_RUN_FILES = (
    "results.json",
    "report.html",
    "rounds.jsonl",
    "run.json",
    "public.npy",
    "roster",
    "start.safetensors",
    "checkpoint.safetensors",
)
_RUN_FOLDERS = ("devices", "keys")


@click.command(name="demo")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("tacit-report"), show_default=True, help="Folder to write."
)
@click.option("--devices", type=click.IntRange(2), default=24, show_default=True, help="People to generate.")
@click.option(
    "--mode",
    type=click.Choice([PRIVATE, OPEN, BOTH]),
    default=BOTH,
    show_default=True,
    help="Who sees an update; with both, what privacy costs.",
)
@setting("--epsilon", float, "ε against the server to keep within, in private mode.")
@setting("--delta", float, "How likely ε may fail to hold.")
@click.option("--rounds", type=click.IntRange(1), default=30, show_default=True, help="Rounds in open mode.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Another seed, other people.")
@click.option("--encoder", "encoder_name", help="A folder or a hub name.  [default: all-MiniLM-L6-v2]")
@click.option("--json", "as_json", is_flag=True, help="Print the results for a program.")
def command(
    out: Path,
    devices: int,
    mode: str,
    epsilon: float,
    delta: float,
    rounds: int,
    seed: int,
    encoder_name: str | None,
    as_json: bool,
) -> None:
    """Fill 24 simulated devices from a generated population, run federated rounds and personalize each.

    The same people do so in private mode, then in open mode, on devices of their own under OUT: the table shows what
    privacy costs, the ledger of one device what left it. An earlier demo in OUT is replaced.
    """
    from engine.encoders.encoder import CachedEncoder, load_encoder
    from federation.cli.console import print_json, progress
    from federation.evaluation.modes import comparison_results
    from federation.report import write_report, write_results
    from federation.simulation.experiment import run_experiment, titled

    experiment = load_experiment(GENERATED, devices=devices, alpha=1.0, seed=seed)
    given: dict[str, dict[str, Any]] = {
        PRIVATE: {"mode": PRIVATE, "epsilon": epsilon, "delta": delta, "seed": seed},
        OPEN: {"mode": OPEN, "rounds": rounds, "seed": seed},
    }
    settings = {one: settings_for(experiment, its) for one, its in given.items() if mode in (one, BOTH)}
    check_are_enough(devices, settings)
    check_is_ours(out)
    encoder = CachedEncoder(load_encoder(encoder_name))
    runs: dict[str, tuple[RunSettings, Outcome]] = {}
    with only_run(out):
        clear_earlier(out)
        for one, its in settings.items():
            runs[one] = (its, run_experiment(experiment, its, out / one, encoder, titled(progress, f"{one} mode")))
        ledger = note_ledger(runs[PRIVATE], out) if PRIVATE in runs else None
        results = comparison_results(experiment, runs, command=called(), ledger=ledger, seed=seed)
        for one, run in results["runs"].items():
            write_results(run, out / one)
        write_results(results, out)
        page = write_report(results, out)
    if as_json:
        print_json(results)
        return
    show(results, out)
    click.echo(f"\nReport: {page}")
    for one in runs:
        click.echo(f"Model:  {out / one / 'checkpoint.safetensors'}  (tacit device model PATH --use …)")


def check_are_enough(devices: int, settings: "dict[str, RunSettings]") -> None:
    """Refuse fewer devices than a private round hides, before anything is replaced."""
    if PRIVATE not in settings:
        return
    from federation.rounds.noisy_rounds import check_enough

    check_enough(settings[PRIVATE], devices=devices)


def note_ledger(run: "tuple[RunSettings, Outcome]", out: Path) -> dict[str, Any]:
    """Export the ledger of the first device that sent something, and return what it says."""
    from engine.owner.statement import statement
    from federation.cli.device_ledger import told_entries
    from federation.simulation.fleet import open_store
    from store.outside.archive import write_new

    settings, outcome = run
    for member in outcome.people:
        with open_store(out / settings.mode, member.name) as store:
            entries = store.entries()
        if any(kind == "sent" for _, kind, _ in entries):
            break
    text = statement(entries, delta=settings.delta)
    write_new(out / _LEDGER_FILE, text.encode())
    told = told_entries(text, entries)
    for one in told["entries"]:
        one["words"] = _briefly(one, settings.delta)
    return {"device": member.name, **told}


def _briefly(entry: dict[str, Any], delta: float) -> str:
    """What an entry of a device that only a demo wrote to says, on one line."""
    from federation.cli.device_ledger import HASH_SHOWN, cost_in_words, limits_of
    from federation.cli.device_rounds import limits_in_words

    match entry["kind"]:
        case "sent":
            sent = f"round {entry['round']}: {entry['size_bytes']:,} bytes {entry['sent'][:HASH_SHOWN]}…"
            return f"{sent}, {cost_in_words(entry, delta).partition(' (')[0]}"
        case "limits":
            return limits_in_words(limits_of(entry)).partition("\n")[2]
        case "rounds":
            return "none allowed" if entry["mode"] is None else f"allowed in {entry['mode']} mode"
        case "publisher":
            return f"trusts models and lists signed by {entry['key'][:HASH_SHOWN]}…"
        case "receipt":
            return f"{entry['what']}: epoch {entry['epoch']} began"
        case other:
            return str(other)


def show(results: dict[str, Any], out: Path) -> None:
    """Print the table of a comparison of modes, one device's ledger and the examples of the first mode."""
    from rich.console import Console

    from federation.cli.device_shared import plain
    from federation.report import print_methods

    print_methods(results, Console())
    if "ledger" in results:
        its = results["ledger"]
        click.echo(f"\nThe ledger of {plain(its['device'])} in private mode, each ε at δ = {its['delta']:g}:")
        for one in its["entries"]:
            click.echo(f"  {one['number']:>2}  {plain(one['kind']):9}  {plain(one['words'])}")
        click.echo(f"A device adds up {_RHO}.\nTo check its file: tacit device check-ledger {out / _LEDGER_FILE}")
    first = next(iter(results["runs"].values()))
    if first.get("examples"):
        print_examples(first)


def check_is_ours(out: Path) -> None:
    """Refuse a folder that holds anything no demo wrote."""
    if not out.exists():
        return
    if not out.is_dir():
        raise click.UsageError(f"{out} is a file. Name a folder with --out.")
    foreign = sorted(path.relative_to(out) for path in _contents(out) if not _is_ours(path.name))
    if foreign:
        raise click.UsageError(f"{out} holds '{foreign[0]}', which no demo wrote. Name another folder with --out.")


def clear_earlier(out: Path) -> None:
    """Remove what an earlier demo left in ``out``."""
    for path in list(out.iterdir()):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK_FILE:
            path.unlink()


def _contents(out: Path) -> list[Path]:
    """What lies in the folder and in those of its runs."""
    found = list(out.iterdir())
    runs = [out / mode for mode in (PRIVATE, OPEN) if (out / mode).is_dir()]
    return [path for path in found if path not in runs] + [path for run in runs for path in run.iterdir()]


def _is_ours(name: str) -> bool:
    # A demo that was killed while it wrote a file leaves that file under its name with a dot and an ending.
    files = (*_RUN_FILES, _LEDGER_FILE)
    return name in (*files, *_RUN_FOLDERS, LOCK_FILE) or any(name.startswith(f".{own}.") for own in files)
