"""What the commands of `tacit device` share: their arguments, opening a device, and what they print."""

import contextlib
import dataclasses
import datetime
import math
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from federation.cli.unlock import Unlocking, store_file

if TYPE_CHECKING:
    from engine.device.device import Device
    from engine.device.suggestion import Found
    from engine.model.checkpoint import Checkpoint
    from store import EncryptedStore

GENERATED = "generated population"


class SecondsType(click.types.FloatParamType):
    """A moment in Unix seconds: a number, since none is before or after what is no number."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the moment."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number.", param, ctx)
        return seconds


SECONDS = SecondsType()


class WordsType(click.types.StringParamType):
    """A text of at least one character that is no space, in valid Unicode."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text."""
        from engine.text import is_unicode

        text = str(value)
        if not text.strip():
            self.fail("It is empty.", param, ctx)
        if not is_unicode(text):
            self.fail("It is not valid Unicode.", param, ctx)
        return text


def _as_path(_ctx: click.Context, _param: click.Parameter, value: str) -> Path:
    return Path(value)


# Words, so that the empty path, as an unset shell variable gives it, is refused and is not the current folder.
path_argument = click.argument("path", type=WordsType(), callback=_as_path)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program.")


@contextlib.contextmanager
def opened(path: Path, unlocking: Unlocking, *, many: bool = False) -> Iterator["Device"]:
    """Open the device in ``path`` for the block; with ``many``, encoding many texts shows a progress bar."""
    from engine.device.device import Device
    from federation.cli.showing import ShowingEncoder

    refuse_missing(path)
    unlock = unlocking.unlock()
    with contextlib.ExitStack() as stack:
        device = stack.enter_context(Device.open(path, unlock))
        if many:
            # Which encoder to wrap is known to the device alone, so it is opened once to ask.
            encoder = ShowingEncoder(device.encoder)
            device = stack.enter_context(Device.open(path, unlock, encoder=encoder))
        yield device


@contextlib.contextmanager
def opened_store(path: Path, unlocking: Unlocking) -> Iterator["EncryptedStore"]:
    """Open the device's sealed store alone for the block: no encoder is loaded."""
    from store import EncryptedStore

    refuse_missing(path)
    with EncryptedStore.open(path, unlocking.unlock()) as store:
        yield store


def refuse_missing(path: Path) -> None:
    """Raise `StoreMissingError` before anybody is asked for a passphrase."""
    from store import StoreMissingError

    try:
        os.lstat(store_file(path))
    except (FileNotFoundError, NotADirectoryError):
        raise StoreMissingError(
            f"There is no device at {path}: make one with `tacit device create`, or check the path."
        ) from None
    except OSError:
        return  # Opening it says better what is wrong.


# What is printed


def plain(text: str) -> str:
    """Return ``text`` on one line and without control characters, which could steer a terminal."""
    return "".join(
        " " if unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp") else character for character in text
    )


def ask_about(question: str, undone: str) -> None:
    """Ask on standard error; end the command, saying that nothing was ``undone``, where the answer is no."""
    if not click.confirm(question, err=True):
        raise click.ClickException(f"Not confirmed: nothing was {undone}.")


def show_what_goes(device: "Device", ids: Sequence[int]) -> None:
    """Show these memories, replaced and expired ones too, on standard error; none if one is missing.

    Raises `RecordMissingError`.
    """
    texts = [device.store.get(id).record.text for id in ids]
    for id, text in zip(ids, texts, strict=True):
        click.echo(f"{id:>6}  {plain(text)}", err=True)


def plural(number: int, noun: str) -> str:
    """Return "1 memory", "2 memories", "3 labels".

    >>> plural(2, "memory")
    '2 memories'
    """
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun.removesuffix('y')}ies" if noun.endswith("y") else f"{number} {noun}s"


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Print rows under their headings; the columns named in ``right`` hold numbers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in columns:
        number = column in right
        table.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
    for row in rows:
        # Text, not str: what a user wrote is never read as rich's markup.
        table.add_row(*(Text("\n".join(plain(line) for line in cell.split("\n"))) for cell in row))
    Console().print(table)


def memory_as_json(memory: "Found", *, similarity: bool = True) -> dict[str, Any]:
    """Return a memory for a program; times are Unix seconds."""
    fields = {name: getattr(memory, name) for name in ("id", "text", "label", "time", "scope", "purpose", "source")}
    fields |= {"similarity": round(memory.similarity, 6)} if similarity else {}
    return fields if memory.because is None else fields | {"because": dataclasses.asdict(memory.because)}


def when(time_s: float) -> str:
    """Return a moment in local time to the minute, or the bare number where no calendar reaches."""
    try:
        return datetime.datetime.fromtimestamp(time_s).astimezone().strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):
        return f"{time_s:g}"


def model_as_json(model: "Checkpoint") -> dict[str, Any]:
    """Return which model is in use, for a program."""
    return {
        "round": model.round,
        "title": model.title,
        "generated_population": GENERATED in model.title,
        "catalogue": model.catalogue.title,
        "catalogue_version": model.catalogue.version,
        "labels": len(model.catalogue),
    }


def model_in_words(model: "Checkpoint") -> str:
    """Return which model is in use, on one line."""
    made = f"after round {model.round}" if model.round else "from the label names, no round yet"
    title = f" ({plain(model.title)})" if model.title else ""
    version = f", version {model.catalogue.version}" if model.catalogue.version > 1 else ""
    return f"{made}{title}, {plural(len(model.catalogue), 'label')} ({plain(model.catalogue.title)}{version})"


def print_origin(model: "Checkpoint") -> None:
    """Say it where what was printed rests on a model of generated data."""
    if GENERATED in model.title:
        click.echo(f"The model is of a {GENERATED}.")


def print_private(labels: Sequence[str]) -> None:
    """Say which labels stay on the device, ten at most by name."""
    for label in labels[:10]:
        click.echo(f"'{plain(label)}' is not in the catalogue: it stays on this device.")
    if len(labels) > 10:
        click.echo(f"{plural(len(labels) - 10, 'more label')} of this kind: they stay on this device.")
