"""Rows of a routing data set: which service should take this request?

A file holds one JSON object a line, UTF-8, with ``user, order, text, label, labels, split`` and, where it is
known, ``time`` (Unix seconds). Reading is strict: the first bad line is named by its number.

>>> parse_row('{"user": "u1", "order": 0, "text": "a taxi", "label": "ride hailing"}', line=1).label
'ride hailing'
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from engine.text import is_unicode
from federation.errors import DataError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

SPLITS = ("train", "valid", "test", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One request of one person, and the service that took it.

    ``order`` is a row number, not a time. ``labels`` are all accepted answers, best first. ``time`` is in
    Unix seconds. ``user`` is "" where the data names nobody.
    """

    user: str
    order: int
    text: str
    label: str
    labels: tuple[str, ...] = ()
    split: str = ""
    time: float | None = None

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("Expected a text that is not empty.")
        if not self.label.strip():
            raise ValueError("Expected a label that is not empty.")
        if not all(map(is_unicode, (self.user, self.text, self.label, *self.labels))):
            raise ValueError("Expected valid Unicode, got a lone surrogate.")
        if self.time is not None and not math.isfinite(self.time):
            raise ValueError(f"Expected time={self.time} to be finite.")
        if self.split not in SPLITS:
            raise ValueError(f"Expected split={self.split!r} in train, valid, test or ''.")


def object_of(text: str, line: int) -> dict[str, Any]:
    """Return the JSON object in a line; ``line`` (from 1) names it in the `DataError` that anything else raises."""
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"Line {line} is not JSON: {error.msg} at column {error.colno}.") from None
    # Numbers of thousands of digits, and nesting deeper than Python follows.
    except (ValueError, RecursionError) as error:
        raise DataError(f"Line {line} is not JSON that can be read: {error}.") from None
    if not isinstance(fields, dict):
        raise DataError(f"Line {line}: expected a JSON object, got {type(fields).__name__}.")
    return fields


def parse_row(line_text: str, *, line: int) -> Row:
    """Read one line; ``line`` (from 1) names it in the `DataError` that a malformed one raises."""
    fields = object_of(line_text, line)
    for name in ("text", "label"):
        if not isinstance(fields.get(name), str):
            raise DataError(f"Line {line}: expected a string in {name!r}.")
    user = fields.get("user")
    if user is not None and (not isinstance(user, str | int) or isinstance(user, bool)):
        raise DataError(f"Line {line}: expected a string in 'user'.")
    labels, order, time = fields.get("labels", []), fields.get("order", line - 1), fields.get("time")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise DataError(f"Line {line}: expected a list of strings in 'labels'.")
    if not isinstance(order, int) or isinstance(order, bool):
        raise DataError(f"Line {line}: expected a whole number in 'order'.")
    if time is not None and (not isinstance(time, int | float) or isinstance(time, bool)):
        raise DataError(f"Line {line}: expected Unix seconds or null in 'time'.")
    try:
        return Row(
            user="" if user is None else str(user),
            order=order,
            text=fields["text"],
            label=fields["label"],
            labels=tuple(labels) or (fields["label"],),
            split=str(fields.get("split") or ""),
            time=None if time is None else float(time),
        )
    except (ValueError, OverflowError) as error:
        raise DataError(f"Line {line}: {error}") from None


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Give the lines that are not blank with their numbers, from 1; raise `DataError` if they cannot be read."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, text in enumerate(file, start=1):
                if text.strip():
                    yield number, text
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.") from None


class Parse(Protocol[T_co]):
    """Reads a line, whose number it names in the `DataError` that a malformed one raises."""

    def __call__(self, text: str, /, *, line: int) -> T_co:
        """Return what the line holds."""


def parsed_lines(path: Path, parse: Parse[T]) -> list[T]:
    """Return what ``parse`` makes of each line that is not blank; a `DataError` names the file and the line."""
    found = []
    for number, text in lines_of(path):
        try:
            found.append(parse(text, line=number))
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
    return found


def read_rows(path: Path) -> list[Row]:
    """Read a whole file; raise `DataError` for a missing, empty or malformed one, the line named."""
    rows = parsed_lines(path, parse_row)
    if not rows:
        raise DataError(f"{path} holds no rows. Give a file with one JSON object a line.")
    return rows
