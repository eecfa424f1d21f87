"""`tacit device`: one device's encrypted memory and the model it personalizes. Needs no flwr."""

import math
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.owner.modes import MODES
from federation.cli.console import print_json
from federation.cli.device_agent import agent
from federation.cli.device_backup import erase, export, import_
from federation.cli.device_consent import consent, publisher
from federation.cli.device_keys import rotate, slots, verify
from federation.cli.device_ledger import check_ledger, ledger
from federation.cli.device_memory import forget, remember, search
from federation.cli.device_rounds import allow_rounds, budget, identity, rounds_in_words
from federation.cli.device_shared import (
    WordsType,
    json_option,
    memory_as_json,
    model_as_json,
    model_in_words,
    opened,
    path_argument,
    plain,
    plural,
    print_origin,
    print_table,
    refuse_missing,
    when,
)
from federation.cli.unlock import Unlocking, store_file, unlock_options

if TYPE_CHECKING:
    from engine.device.device import Device
    from engine.device.suggestion import Found, Suggestion
    from engine.personal.scope import Scope


class InOrder(click.Group):
    """A group whose help lists the commands in the order in which they are met."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands' names as they were added."""
        return list(self.commands)


@click.group(name="device", cls=InOrder)
def command() -> None:
    """Create and use one device's encrypted memory, in the folder PATH.

    A device opens with a passphrase (--passphrase-file, the environment variable TACIT_PASSPHRASE, or a hidden
    prompt) or with a device key (--key-file); an option counts more than the environment.
    """
    # One person's arrays are small: threads of a matrix library would spend more on waiting for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@command.command()
@path_argument
@click.option(
    "--catalogue", type=click.Path(path_type=Path), metavar="FILE", help="Labels as JSON, not the built-in ones."
)
@click.option(
    "--encoder", type=WordsType(), metavar="NAME|PATH", help="A hub name or a folder.  [default: all-MiniLM-L6-v2]"
)
@click.option("--allow-rounds", type=click.Choice([*reversed(MODES)]), help="Allow federated rounds in this mode.")
@json_option
@unlock_options
def create(
    path: Path,
    catalogue: Path | None,
    encoder: str | None,
    allow_rounds: str | None,
    as_json: bool,
    unlocking: Unlocking,
) -> None:
    """Make a device in the folder PATH, which is made if missing.

    With --key-file, a key file that is missing is made with a new random key; it must lie outside PATH. Nobody can
    open the device without its passphrase or key.
    """
    from engine.model.catalogue import Catalogue

    _refuse_existing(path)
    labels = Catalogue.builtin() if catalogue is None else Catalogue.from_file(catalogue)
    has_key = unlocking.key_file is not None and unlocking.key_file.exists()
    with unlocking.unlock_new(path) as unlock:
        from engine.device.device import Device
        from engine.encoders.encoder import load_encoder

        with Device.create(path, unlock, catalogue=labels, encoder=load_encoder(encoder)) as device:
            if allow_rounds is not None:
                device.allow_rounds(allow_rounds)
            name = device.encoder.name
    if as_json:
        made = {"catalogue": labels.title, "labels": len(labels), "encoder": name, "allowed_rounds": allow_rounds}
        key = {"key_file": None if unlocking.key_file is None else str(unlocking.key_file)}
        print_json({"device": str(path), **made, **key})
        return
    click.echo(f"Made a device in {path}: {plural(len(labels), 'label')} ({plain(labels.title)}), encoder {name}.")
    if unlocking.key_file is None:
        click.echo("Nobody can open it without the passphrase.")
    else:
        click.echo(f"Its {'key' if has_key else 'new key'} is in {unlocking.key_file}: nobody can open it without.")
    click.echo(f"Federated rounds: {rounds_in_words(allow_rounds)}.")


def _refuse_existing(path: Path) -> None:
    """Raise `StoreExistsError` before anybody is asked for a passphrase and the encoder is loaded."""
    from store import StoreExistsError

    if store_file(path).exists():
        raise StoreExistsError(f"There is a device at {path} already: open that one, or choose another folder.")


command.add_command(remember)


@command.command()
@path_argument
@click.argument("text", type=WordsType())
@click.option("-k", type=click.IntRange(1), default=3, show_default=True, help="How many labels.")
@click.option(
    "--cautious", is_flag=True, help="Keep the shared model's first answer unless another is several times as probable."
)
@json_option
@unlock_options
def suggest(path: Path, text: str, k: int, cautious: bool, as_json: bool, unlocking: Unlocking) -> None:
    """Say which labels TEXT most probably belongs to, with the memories that explain each.

    Where TEXT is like nothing that the device can answer, less so than all but 5% of its own labelled memories are,
    it says that it does not know; what follows is a guess.

    "personal" is a label that the memory raised above what the global model gives it; "private" one that only this
    device knows.
    """
    with opened(path, unlocking) as device:
        suggestions = device.suggest(text, k, cautious=cautious)
        model = device.model
    if as_json:
        answer = [_suggestion_as_json(suggestion) for suggestion in suggestions]
        scope = {"known": suggestions.known, "scope": _scope_as_json(suggestions.scope)}
        print_json({**scope, "suggestions": answer, "model": model_as_json(model)})
        return
    if not suggestions.known:
        click.echo("I do not know: this is like nothing that the device can answer. Its best guesses:")
    rows = [
        (
            suggestion.label,
            f"{suggestion.score:.1%}",
            suggestion.source + (", private" if suggestion.private else ""),
            "\n".join(_because(memory) for memory in suggestion.because),
        )
        for suggestion in suggestions
    ]
    print_table(("label", "probability", "source", "because of"), rows, right=("probability",))
    print_origin(model)


def _because(memory: "Found") -> str:
    return f"{memory.id}: {plain(memory.text)} ({memory.similarity:.2f})"


def _scope_as_json(scope: "Scope") -> dict[str, object]:
    # JSON has no −inf, which stands for "nothing is refused".
    lowest = None if scope.threshold == -math.inf else round(scope.threshold, 6)
    return {"score": round(scope.score, 6), "threshold": lowest}


def _suggestion_as_json(suggestion: "Suggestion") -> dict[str, object]:
    return {
        "label": suggestion.label,
        "probability": round(suggestion.score, 6),
        "source": suggestion.source,
        "private": suggestion.private,
        "because": [memory_as_json(memory) for memory in suggestion.because],
    }


command.add_command(search)
command.add_command(forget)
command.add_command(erase)
command.add_command(export)
command.add_command(import_)
command.add_command(slots)
command.add_command(rotate)
command.add_command(verify)


@command.command()
@path_argument
@click.option("--memories", "with_memories", is_flag=True, help="List the memories as well.")
@json_option
@unlock_options
def show(path: Path, with_memories: bool, as_json: bool, unlocking: Unlocking) -> None:
    """Show what the device at PATH holds: memories by label, encoder, model, allowed rounds."""
    with opened(path, unlocking) as device:
        memories = device.memories()
        model, encoder, allowed = device.model, device.encoder.name, device.allowed_rounds
    counts = Counter(memory.label for memory in memories if memory.label is not None)
    labels = sorted(counts, key=lambda name: (-counts[name], name))
    private = [name for name in labels if name not in model.catalogue]
    if as_json:
        used = [{"label": name, "memories": counts[name], "private": name in private} for name in labels]
        shown = {"memories": len(memories), "labels": used, "encoder": encoder}
        listed = {"listed": [memory_as_json(memory, similarity=False) for memory in memories]} if with_memories else {}
        print_json({"device": str(path), **shown, "model": model_as_json(model), "allowed_rounds": allowed, **listed})
        return
    labelled = counts.total()
    click.echo(f"Device:   {path}")
    click.echo(f"Memories: {len(memories)}, {labelled} of them with a label")
    click.echo(f"Labels:   {len(labels)} used, {len(private)} of them private; {len(model.catalogue)} in the catalogue")
    click.echo(f"Encoder:  {encoder}")
    click.echo(f"Model:    {model_in_words(model)}")
    click.echo(f"Rounds:   {rounds_in_words(allowed)}")
    if labels:
        rows = [(name, str(counts[name]), "private" if name in private else "") for name in labels]
        print_table(("label", "memories", ""), rows, right=("memories",))
    if with_memories and memories:
        # What is the same for every memory needs no column.
        terms = [name for name in ("scope", "purpose", "source") if len({getattr(m, name) for m in memories}) > 1]
        lines = [
            (str(m.id), m.text, m.label or "", when(m.time), *(str(getattr(m, name)) for name in terms))
            for m in memories
        ]
        print_table(("id", "text", "label", "time", *terms), lines, right=("id",))


@command.command()
@path_argument
@click.option("--use", type=click.Path(path_type=Path), metavar="CHECKPOINT", help="Use the model of this file.")
@click.option("--previous", is_flag=True, help="Go back to the model before; again: forward.")
@json_option
@unlock_options
def model(path: Path, use: Path | None, previous: bool, as_json: bool, unlocking: Unlocking) -> None:
    """Show the shared model that the device at PATH uses, or use another one.

    Where the owner trusts a publisher, CHECKPOINT must be signed by it, in the file CHECKPOINT.sig beside it.
    """
    if use is not None and previous:
        raise click.UsageError("Give --use CHECKPOINT or --previous, not both.")
    with opened(path, unlocking) as device:
        if use is not None:
            device.load_model(use)
        elif previous:
            device.previous_model()
        current = device.model
    if as_json:
        print_json({"changed": use is not None or previous, **model_as_json(current)})
        return
    click.echo(f"{'Now in use' if use is not None or previous else 'In use'}: {model_in_words(current)}.")


@command.command()
@path_argument
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@unlock_options
def evaluate(path: Path, file: Path, as_json: bool, unlocking: Unlocking) -> None:
    """Measure how often the first answer is right on the rows of FILE, by the global and by the personal model.

    FILE holds one JSON object a line with text and label. Nothing of it is kept.
    """
    from federation.data.dataset import read_rows

    pairs = [(row.text, row.label) for row in read_rows(file)]
    with opened(path, unlocking, many=True) as device:
        evaluation = device.evaluate(pairs)
        known = {(memory.text, memory.label) for memory in device.memories()}
        model = device.model
    remembered = sum(pair in known for pair in pairs)
    unknown = sum(rank == 0 for rank in evaluation.personal_ranks)
    if as_json:
        measured = {
            "rows": len(pairs),
            "rows_in_memory": remembered,
            "rows_with_unknown_label": unknown,
            "global": {"accuracy": evaluation.global_accuracy},
            "personal": {"accuracy": evaluation.personal_accuracy},
        }
        print_json({**measured, "model": model_as_json(model)})
        return
    rows = [
        ("global model", f"{evaluation.global_accuracy:.3f}"),
        ("personalized", f"{evaluation.personal_accuracy:.3f}"),
    ]
    print_table((f"{plural(len(pairs), 'row')} of {file.name}", "accuracy"), rows, right=("accuracy",))
    if remembered:
        click.echo(f"In memory word for word: {plural(remembered, 'row')}; that flatters the personalized figure.")
    if unknown:
        click.echo(f"With a label that the device does not know: {plural(unknown, 'row')}, counted as wrong.")
    print_origin(model)


@command.command()
@path_argument
@click.option("--encoder", type=WordsType(), required=True, metavar="NAME|PATH", help="A hub name or a folder.")
@json_option
@unlock_options
def reencode(path: Path, encoder: str, as_json: bool, unlocking: Unlocking) -> None:
    """Give all memories of the device at PATH new vectors of another encoder, all or none.

    The model starts again from the label names, since models do not carry over between encoders.
    """
    from engine.device.device import Device
    from engine.encoders.encoder import load_encoder
    from federation.cli.showing import ShowingEncoder

    refuse_missing(path)
    other = ShowingEncoder(load_encoder(encoder))
    with Device.reencode(path, unlocking.unlock(), encoder=other) as device:
        _print_reencoded(device, as_json=as_json)


def _print_reencoded(device: "Device", *, as_json: bool) -> None:
    count, name = device.count(), device.encoder.name
    if as_json:
        print_json({"memories": count, "encoder": name, "model": model_as_json(device.model)})
        return
    click.echo(f"Encoded {plural(count, 'memory')} again with {name}. The model starts again from the label names.")


command.add_command(agent)
command.add_command(allow_rounds)
command.add_command(budget)
command.add_command(consent)
command.add_command(ledger)
command.add_command(check_ledger)
command.add_command(publisher)
command.add_command(identity)
