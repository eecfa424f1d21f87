"""Why a memory was found, in words that its owner can read."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Because:
    """Why a memory was found.

    ``words`` of the question that it has; ``like``, words that it has in place of others; ``dates``, what in the
    question names its day or a day that it tells of; ``speaker``, whom the question names and who said it;
    ``neighbour``, the id of a memory kept just before or after it that has words of the question which it lacks.

    >>> print(Because(words=("camping",), like=("tent for campsite",), dates=("last June",), neighbour=7))
    camping; tent for campsite; last June; next to 7
    """

    words: tuple[str, ...] = ()
    like: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()
    speaker: str | None = None
    neighbour: int | None = None

    def __str__(self) -> str:
        parts = [", ".join(self.words), ", ".join(self.like), ", ".join(self.dates)]
        parts.append(f"said by {self.speaker}" if self.speaker else "")
        parts.append(f"next to {self.neighbour}" if self.neighbour is not None else "")
        return "; ".join(part for part in parts if part) or "meaning alone"
