"""A user's choices, read from the sealed memory: which item, when, in which context.

A choice lies in the store as an ordinary memory of the purpose "choice": its label is the item, its text the context as
canonical JSON. So it is sealed, found, exported, expired and forgotten like every other, and no format knows of it.

>>> context_text({"day": "Sunday", "at": "home"})
'{"at":"home","day":"Sunday"}'
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from engine.model.catalogue import Catalogue
from engine.personal.rescorer import Integers
from engine.text import is_unicode
from store import StoredRecord

CHOICE = "choice"
MOST_KEYS = 64
Context = Mapping[str, str]


def check_context(context: object) -> dict[str, str]:
    """Return the context as a flat dict of strings, its keys sorted. Raises ValueError."""
    if not isinstance(context, Mapping):
        raise ValueError(f"Expected a context as a flat object of strings, got {type(context).__name__}.")
    if len(context) > MOST_KEYS:
        raise ValueError(f"Expected at most {MOST_KEYS} keys in a context, got {len(context)}.")
    for key, value in context.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ValueError("Expected a context as a flat object of strings: write numbers and truth values as text.")
        if not is_unicode(key) or not is_unicode(value):
            raise ValueError("Expected a context in valid Unicode, got a lone surrogate.")
    return dict(sorted(context.items()))


def context_text(context: Context) -> str:
    """Return the text under which a context is kept: the same for equal contexts."""
    return json.dumps(check_context(context), ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceHistory:
    """T choices in order of time, then of keeping: items as places y (T,) in ``names``, each one's context and time."""

    names: tuple[str, ...]
    y: Integers
    contexts: tuple[dict[str, str], ...]
    times: tuple[float, ...]

    @property
    def ordered(self) -> bool:
        """False where all have the same time, so that nothing is known of which came first."""
        return len(set(self.times)) > 1

    @classmethod
    def of(cls, choices: Iterable[tuple[str, Context, float]]) -> "ChoiceHistory":
        """Take (item, context, Unix seconds) in the order they were kept."""
        inorder = sorted(choices, key=lambda choice: choice[2])
        names = tuple(dict.fromkeys(item for item, _, _ in inorder))
        place = {name: index for index, name in enumerate(names)}
        return cls(
            names=names,
            y=np.array([place[item] for item, _, _ in inorder], dtype=np.int64),
            contexts=tuple(check_context(context) for _, context, _ in inorder),
            times=tuple(time for _, _, time in inorder),
        )

    @classmethod
    def from_records(cls, stored: Iterable[StoredRecord]) -> "ChoiceHistory":
        """Read the choices among memories; one that another program kept without an item or a context is none."""
        return cls.of(
            (one.record.label, context, one.record.time)
            for one in stored
            if one.record.label is not None and (context := _parsed(one.record.text)) is not None
        )

    def known_to(self, items: Catalogue) -> "ChoiceHistory":
        """Return the history as if only the choices of these items had been made."""
        kept = [t for t, item in enumerate(self.y) if self.names[item] in items]
        names = tuple(dict.fromkeys(self.names[self.y[t]] for t in kept))
        place = {name: index for index, name in enumerate(names)}
        return ChoiceHistory(
            names=names,
            y=np.array([place[self.names[self.y[t]]] for t in kept], dtype=np.int64),
            contexts=tuple(self.contexts[t] for t in kept),
            times=tuple(self.times[t] for t in kept),
        )

    def items_in(self, items: Catalogue) -> Integers:
        """Return the places (T,) of the choices in a catalogue that holds them all."""
        places = np.array([items.index(name) for name in self.names], dtype=np.int64)
        return places[self.y] if len(self.y) else np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.y)


def _parsed(text: str) -> dict[str, str] | None:
    try:
        return check_context(json.loads(text))
    except (ValueError, RecursionError):
        return None
