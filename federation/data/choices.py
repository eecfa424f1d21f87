"""Rows of a choice data set: which item did this person choose next, and in which context?

A file holds one JSON object a line, UTF-8, with ``user, ts, item, value, context, split``; ``ts`` is a Unix time, a
position, or null, ``context`` a flat object of strings. The file of items beside it has ``item, text``. Reading is
strict: the first bad line is named by its number.

>>> parse_choice('{"user": "u1", "ts": 3, "item": "tea", "context": {"at": "home"}}', line=1).context
{'at': 'home'}
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.choices.history import check_context
from engine.text import is_unicode
from federation.data.dataset import object_of, parsed_lines
from federation.errors import DataError
from store.format.records import MAX_WORD_CHARS

FEWEST_ROWS = 20
TEST = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceRow:
    """One choice of one person. ``ts`` orders a person's choices; ``None`` where nothing tells their order."""

    user: str
    item: str
    ts: float | None = None
    context: dict[str, str] = field(default_factory=dict)
    split: str = ""

    def __post_init__(self) -> None:
        for name, value in (("user", self.user), ("item", self.item)):
            if not value.strip():
                raise ValueError(f"Expected {name!r} not to be empty.")
            if len(value) > MAX_WORD_CHARS:
                raise ValueError(f"Expected {name!r} of at most {MAX_WORD_CHARS} characters, got {len(value)}.")
        if not all(map(is_unicode, (self.user, self.item, *self.context, *self.context.values()))):
            raise ValueError("Expected valid Unicode, got a lone surrogate.")
        if self.ts is not None and not math.isfinite(self.ts):
            raise ValueError(f"Expected ts={self.ts} to be finite, or null.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceSplit:
    """One person's rows: those that train, in order, and those to measure on."""

    user: str
    train: tuple[ChoiceRow, ...]
    test: tuple[ChoiceRow, ...]


def parse_choice(text: str, *, line: int) -> ChoiceRow:
    """Read one line; ``line`` (from 1) names it in the `DataError` that a malformed one raises."""
    fields = object_of(text, line)
    ts, context = fields.get("ts"), fields.get("context")
    if ts is not None and (not isinstance(ts, int | float) or isinstance(ts, bool)):
        raise DataError(f"Line {line}: expected a number or null in 'ts'.")
    try:
        return ChoiceRow(
            user=_word(fields, "user", line),
            item=_word(fields, "item", line),
            ts=None if ts is None else float(ts),
            context=check_context({} if context is None else context),
            split=str(fields.get("split") or ""),
        )
    except (ValueError, OverflowError) as error:
        raise DataError(f"Line {line}: {error}") from None


def _word(fields: dict[str, Any], name: str, line: int) -> str:
    """A name, which may be written as a whole number."""
    value = fields.get(name)
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise DataError(f"Line {line}: expected a string in {name!r}.")
    return str(value)


def read_choices(path: Path) -> list[ChoiceRow]:
    """Read a whole file; raise `DataError` for a missing, empty or malformed one, the line named."""
    rows = parsed_lines(path, parse_choice)
    if not rows:
        raise DataError(f"{path} holds no rows. Give a file with one JSON object a line.")
    return rows


def read_items(path: Path) -> dict[str, str]:
    """Read a file of items: their texts by their names. Raises `DataError`, the line named."""

    def parse(text: str, *, line: int) -> tuple[str, str]:
        fields = object_of(text, line)
        if not isinstance(fields.get("text", ""), str):
            raise DataError(f"Line {line}: expected a string in 'text'.")
        item = _word(fields, "item", line)
        if not item.strip() or not is_unicode(item):
            raise DataError(f"Line {line}: expected a name in 'item' that is not empty and valid Unicode.")
        return item, fields.get("text", "")

    return dict(parsed_lines(path, parse))


def items_beside(path: Path) -> Path:
    """Return where the items of a file lie: ``X_items.jsonl`` beside ``X.jsonl``."""
    return path.with_name(f"{path.stem}_items{path.suffix}")


def split_choices(rows: Sequence[ChoiceRow]) -> list[ChoiceSplit]:
    """Split each person's rows, people in order of name.

    Where each row has a ``ts``, the last of a person (the largest ``ts``, then the later line) is measured, for people
    with 20 rows or more; smaller ones only train. Otherwise ``split`` is used as it stands. Raises `DataError`.
    """
    by_user: dict[str, list[ChoiceRow]] = defaultdict(list)
    for row in rows:
        by_user[row.user].append(row)
    ordered = all(row.ts is not None for row in rows)
    if not ordered and not any(row.split == TEST for row in rows):
        raise DataError("Some rows have no ts and none has the split 'test', so nothing tells what to measure on.")
    split = []
    for user in sorted(by_user):
        own = by_user[user]
        if ordered:
            own = sorted(own, key=lambda row: row.ts or 0.0)
            cut = len(own) - 1 if len(own) >= FEWEST_ROWS else len(own)
            train, test = own[:cut], own[cut:]
        else:
            train = [row for row in own if row.split != TEST]
            test = [row for row in own if row.split == TEST]
        split.append(ChoiceSplit(user=user, train=tuple(train), test=tuple(test)))
    if not any(one.test for one in split):
        raise DataError(f"No user has rows to measure on: {FEWEST_ROWS} rows of a user are needed. Give more rows.")
    return split


def public_items(split: Sequence[ChoiceSplit], listed: Sequence[str]) -> list[str]:
    """Return the items that all devices may know: the listed ones, and those that two people or more train on."""
    owners: dict[str, set[str]] = defaultdict(set)
    for one in split:
        for row in one.train:
            owners[row.item].add(one.user)
    return sorted({*listed, *(item for item, users in owners.items() if len(users) > 1)})
