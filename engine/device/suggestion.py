"""What a device answers: suggestions with the memories that explain them, and found memories.

>>> Suggestions([], scope=Scope(score=1.0, threshold=2.0)).known
False
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from engine.personal.scope import Scope
from engine.recall.because import Because
from store import Record

Source = Literal["global", "personal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A memory and its cosine with the query; ``because`` is why a search found it, ``None`` where none did."""

    id: int
    text: str
    label: str | None
    time: float
    scope: str
    purpose: str
    source: str
    similarity: float
    because: Because | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A label with its probability (``score``), and the memories with that label nearest to the query.

    ``source`` is "personal" where the memory raised the label above what the global model gives it, or where only
    this device knows it; otherwise "global".
    """

    label: str
    score: float
    source: Source
    private: bool
    because: tuple[Found, ...]


class Suggestions(list[Suggestion]):
    """Suggestions, the most probable first, and whether the request looks like one that the device can answer.

    A list like any other, so whoever only wants labels need not ask.
    """

    def __init__(self, suggestions: Iterable[Suggestion], *, scope: Scope) -> None:
        super().__init__(suggestions)
        self.scope = scope

    @property
    def known(self) -> bool:
        """Whether the device can answer; ``False`` says "I do not know", and what is suggested is a guess."""
        return self.scope.known


def found(id: int, record: Record, similarity: float, because: Because | None = None) -> Found:
    """Return what a stored memory looks like to a caller."""
    return Found(
        id=id,
        text=record.text,
        label=record.label,
        time=record.time,
        scope=record.scope,
        purpose=record.purpose,
        source=record.source,
        similarity=similarity,
        because=because,
    )
