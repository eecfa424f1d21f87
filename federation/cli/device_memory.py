"""The commands of `tacit device` that keep, find, list and delete memories."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from federation.cli.console import print_json
from federation.cli.device_shared import (
    SECONDS,
    WordsType,
    ask_about,
    json_option,
    memory_as_json,
    opened,
    path_argument,
    plural,
    print_private,
    print_table,
    show_what_goes,
    when,
)
from federation.cli.unlock import Unlocking, unlock_options

if TYPE_CHECKING:
    from engine.device.device import Memory

_OWN = ("text", "label", "time", "scope", "purpose", "source")
# A routing file can be remembered as it stands: what else its rows hold is of no use to a memory.
_LEFT_OUT = ("user", "order", "labels", "split")


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a memory is kept under unless its line in a file says otherwise."""

    label: str | None
    scope: str
    purpose: str
    source: str


@click.command()
@path_argument
@click.argument("text", type=WordsType(), required=False)
@click.option(
    "--file", type=click.Path(path_type=Path), metavar="FILE", help="One memory a line, as JSON; all or none."
)
@click.option("--label", type=WordsType(), help="What the text belongs to; outside the catalogue it stays private.")
@click.option("--scope", type=WordsType(), default="default", show_default=True, help="A group to search in.")
@click.option(
    "--purpose", type=WordsType(), default="personalization", show_default=True, help="What it may be used for."
)
@click.option("--source", type=WordsType(), default="user", show_default=True, help="Who wrote it.")
@json_option
@unlock_options
def remember(
    path: Path,
    text: str | None,
    file: Path | None,
    label: str | None,
    scope: str,
    purpose: str,
    source: str,
    as_json: bool,
    unlocking: Unlocking,
) -> None:
    """Keep TEXT, sealed, in the device at PATH, or all lines of a file.

    A line is {"text": …, "label": …}; label may be left out, and time (Unix seconds), scope, purpose and source may
    stand there too. The options hold for lines that do not say otherwise. A malformed line is named and then none is
    kept. What the command reports as remembered is durable.
    """
    if (text is None) == (file is None):
        raise click.UsageError("Give a TEXT or --file FILE.")
    defaults = Defaults(label=label, scope=scope, purpose=purpose, source=source)
    if file is not None:
        memories = read_memories(file, defaults)
    else:
        try:
            memories = [_memory({"text": text}, defaults)]
        except ValueError as error:
            raise click.UsageError(str(error)) from None
    with opened(path, unlocking, many=file is not None) as device:
        ids = device.remember_many(memories)
        catalogue = device.model.catalogue
    labels = dict.fromkeys(memory.label for memory in memories if memory.label is not None)
    private = [name for name in labels if name not in catalogue]
    if as_json:
        print_json({"ids": ids, "private_labels": private})
        return
    numbers = f"id {ids[0]}" if len(ids) == 1 else f"ids {ids[0]} to {ids[-1]}"
    click.echo(f"Remembered {plural(len(ids), 'memory')}: {numbers}.")
    print_private(private)


@click.command()
@path_argument
@click.argument("text", type=WordsType())
@click.option("-k", type=click.IntRange(1), default=5, show_default=True, help="How many memories.")
@click.option("--scope", type=WordsType(), help="Only of this scope.")
@click.option("--purpose", type=WordsType(), help="Only of this purpose.")
@click.option("--source", type=WordsType(), help="Only of this source.")
@click.option("--since", type=SECONDS, metavar="SECONDS", help="Only from this Unix time on.")
@click.option("--until", type=SECONDS, metavar="SECONDS", help="Only before this Unix time.")
@click.option("--by", type=click.Choice(["both", "meaning", "words"]), default="both", show_default=True, help="How.")
@json_option
@unlock_options
def search(
    path: Path,
    text: str,
    k: int,
    scope: str | None,
    purpose: str | None,
    source: str | None,
    since: float | None,
    until: float | None,
    by: str,
    as_json: bool,
    unlocking: Unlocking,
) -> None:
    """Find the memories of the device at PATH that answer TEXT best, best first, and say why each is there.

    Words and meaning count, dates in words ("last Friday", "in May 2023"), who is named as having said it, and what was
    kept just before and after.
    """
    with opened(path, unlocking) as device:
        memories = device.search(text, k, scope=scope, purpose=purpose, source=source, since=since, until=until, by=by)
    if as_json:
        print_json({"memories": [memory_as_json(memory) for memory in memories]})
        return
    if not memories:
        click.echo("No memory found.")
        return
    rows = [
        (str(m.id), m.text, m.label or "", f"{m.similarity:.2f}", when(m.time), str(m.because or "")) for m in memories
    ]
    print_table(("id", "text", "label", "cosine", "time", "why"), rows, right=("id", "cosine"))


@click.command()
@path_argument
@click.argument("ids", type=click.IntRange(1), nargs=-1, required=True, metavar="ID...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@unlock_options
def forget(path: Path, ids: tuple[int, ...], yes: bool, as_json: bool, unlocking: Unlocking) -> None:
    """Delete the memories with these IDs and all that was kept about them; if one is missing, none.

    What was derived from them, and what they replaced, goes with them. They cannot be brought back. What a model that
    has already left the device learned from them stays in that model.
    """
    wanted = list(dict.fromkeys(ids))
    if not yes and not (sys.stdin is not None and sys.stdin.isatty()):
        raise click.UsageError("Forgetting cannot be undone: add --yes where nobody can be asked.")
    with opened(path, unlocking) as device:
        if not yes:
            show_what_goes(device, wanted)
            ask_about(f"Forget {plural(len(wanted), 'memory')} for good?", "forgotten")
        receipt = device.forget(wanted)
        left = device.count()
    # With what was derived from them, and what they replaced.
    gone = list(receipt.ids) if receipt is not None else []
    if as_json:
        print_json({"forgotten": gone, "memories": left})
        return
    click.echo(f"Forgot {plural(len(gone), 'memory')}; {left} left.")


def read_memories(file: Path, defaults: Defaults) -> list["Memory"]:
    """Read a file of memories; raise `DataError` for a missing, empty or malformed one, the line named."""
    from federation.errors import DataError

    memories = []
    for number, line in _lines(file):
        try:
            memories.append(_memory(_fields(line), defaults))
        except ValueError as error:
            raise DataError(f"{file}: Line {number}: {error} Nothing was remembered.") from None
    if not memories:
        raise DataError(f"{file} holds no memories. Give a file with one JSON object a line.")
    return memories


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    from federation.errors import DataError

    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line.decode("utf-8")
    except OSError as error:
        raise DataError(f"Cannot read {file}: {error.strerror}.") from None
    except UnicodeDecodeError:
        # The codec's error quotes the bytes, so it is not chained.
        raise DataError(f"{file}: Line {number}: Not UTF-8 text. Nothing was remembered.") from None


def _fields(line: str) -> dict[str, Any]:
    """Return the object on this line; raise ValueError, which quotes nothing that the user wrote, if there is none."""
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"Not JSON: {error.msg} at column {error.colno}.") from None
    except (ValueError, RecursionError):
        raise ValueError("Not JSON that can be read: a number too long or brackets too deep.") from None
    if not isinstance(fields, dict):
        raise ValueError(f"Expected a JSON object, got {type(fields).__name__}.")
    unknown = sorted(set(fields) - {*_OWN, *_LEFT_OUT})
    if unknown:
        raise ValueError(f"Unknown field {unknown[0]!r}; known: {', '.join(_OWN)}.")
    return fields


def _memory(fields: dict[str, Any], defaults: Defaults) -> "Memory":
    """Return the memory that these fields describe; raise ValueError where one is missing or malformed."""
    from engine.device.device import Memory
    from store import Record

    given = {name: fields[name] for name in _OWN if fields.get(name) is not None}
    for name in given.keys() & {"text", "label", "scope", "purpose", "source"}:
        if not isinstance(given[name], str) or not given[name].strip():
            raise ValueError(f"Expected {name!r} as text that is not empty.")
    if "text" not in given:
        raise ValueError("Expected a string in 'text'.")
    terms = {"label": defaults.label, "scope": defaults.scope, "purpose": defaults.purpose, "source": defaults.source}
    memory = Memory(**(terms | given))
    # The store's own rules, asked now, while the line is known.
    Record(
        text=memory.text,
        label=memory.label,
        time=0.0 if memory.time is None else memory.time,
        scope=memory.scope,
        purpose=memory.purpose,
        source=memory.source,
    )
    return memory
