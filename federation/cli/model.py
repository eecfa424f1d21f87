"""`tacit model`: a shared model's file between rounds. Needs no flwr."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from federation.cli.console import print_json
from federation.cli.device_shared import WordsType, model_as_json, model_in_words, print_table

if TYPE_CHECKING:
    from engine.model.checkpoint import Checkpoint
    from engine.model.migration import LabelMap


@click.group(name="model")
def command() -> None:
    """Change a shared model's file between rounds."""


@command.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--catalogue",
    type=click.Path(path_type=Path),
    metavar="FILE",
    required=True,
    help="All labels of the next version, as JSON.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="NEW",
    required=True,
    help="The file to write; CHECKPOINT itself, to go on in its run's folder.",
)
@click.option("--encoder", type=WordsType(), metavar="NAME|PATH", help="The model's own.  [default: all-MiniLM-L6-v2]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a program.")
def migrate(checkpoint: Path, catalogue: Path, out: Path, encoder: str | None, as_json: bool) -> None:
    """Bring CHECKPOINT to the next version of its catalogue: labels added, renamed or removed.

    FILE is a whole catalogue. A label that stays keeps what was learned; one with another name says which it had, as
    "was"; a new one starts from its name and description; one that FILE does not have is dropped. The optimizer's state
    and the population weights come along.

    `tacit simulate --resume`, with the result in the run's folder, runs its --rounds more. A device takes part again
    once it uses the new model (`tacit device model PATH --use NEW`), and abstains before.
    """
    from engine.encoders.encoder import load_encoder
    from engine.model.catalogue import Catalogue
    from engine.model.checkpoint import Checkpoint
    from engine.model.migration import label_map, migrate

    before, wanted = Checkpoint.load(checkpoint), Catalogue.from_file(catalogue)
    if out.exists() and not (checkpoint.exists() and out.samefile(checkpoint)):
        raise click.UsageError(f"There is a file at {out} already: name another one, or CHECKPOINT itself.")
    after = migrate(before, wanted, load_encoder(encoder))
    moves = label_map(before.catalogue, after.catalogue)
    after.save(out)
    if as_json:
        print_json(_as_json(moves, after))
        return
    print_table(("label", "", "before"), _rows(moves))
    click.echo(f"Version {before.catalogue.version} to {after.catalogue.version}: {_counted(moves)}.")
    click.echo(f"Wrote {out}: {model_in_words(after)}.")


def _rows(moves: "LabelMap") -> list[tuple[str, str, str]]:
    """What became of each label, the next version's in their order, then the removed ones."""
    renamed = {new: old for old, new in moves.renamed}
    new = {moves.after.names[at] for at in moves.new}
    rows = []
    for name in moves.after.names:
        what = "new" if name in new else "renamed" if name in renamed else "kept"
        rows.append((name, what, renamed.get(name, "")))
    return rows + [("", "removed", name) for name in moves.removed]


def _counted(moves: "LabelMap") -> str:
    renamed, new = len(moves.renamed), len(moves.new)
    kept = len(moves.after) - renamed - new
    return f"{kept} kept, {renamed} renamed, {new} new, {len(moves.removed)} removed"


def _as_json(moves: "LabelMap", model: "Checkpoint") -> dict[str, object]:
    changes = {
        "renamed": [{"name": new, "was": old} for old, new in moves.renamed],
        "new": [moves.after.names[at] for at in moves.new],
        "removed": list(moves.removed),
    }
    return {"version_before": moves.before.version, **changes, "model": model_as_json(model)}
