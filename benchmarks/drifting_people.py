"""Invented people whose habits change at a known moment, or never, as arrays that a personalizer takes.

`people` draws them as `federation.population` does; `CHANGES` says what becomes of their habits: none changes, one to
three change as in the generated population, or every other one, from the most frequent on, changes at the middle: its
first and its second service swap places.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from engine.device.memory_view import encode_names
from engine.encoders.encoder import Encoder
from engine.model.checkpoint import Checkpoint
from engine.model.inputs import model_inputs
from engine.model.scoring import logits
from engine.personal.rescorer import Floats, Integers, LabelledMemory, Vectors, log_softmax
from federation.data.dataset import Row
from federation.population.people import Person, make_person
from federation.population.requests import make_rows

BY_HABIT = ("ambiguous", "short")


def unchanged(person: Person, rng: Random) -> Person:
    """The person with the first habits for good."""
    habits = [dataclasses.replace(one, first=one.first[:1] * 2, second=one.second[:1] * 2) for one in person.habits]
    return dataclasses.replace(person, habits=tuple(habits))


def half_swapped(person: Person, rng: Random) -> Person:
    """The person with every other habit swapped at the middle, by how frequent they are."""
    ranked = sorted(range(len(person.habits)), key=lambda at: -person.habits[at].weight)
    swapped, habits = set(ranked[rng.randrange(2) :: 2]), []
    for at, one in enumerate(person.habits):
        first, second = one.first[0], one.second[0]
        after = (second, first) if at in swapped else (first, second)
        habits.append(dataclasses.replace(one, first=(first, after[0]), second=(second, after[1])))
    return dataclasses.replace(person, habits=tuple(habits), drift_at=0.5)


CHANGES: dict[str, Callable[[Person, Random], Person]] = {
    "no habit changes": unchanged,
    "one to three habits change": lambda person, rng: person,
    "half of the habits change": half_swapped,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One person's n requests in order of time, and what the shared model says of them.

    ``kind`` (n,) numbers the need of each request, one habit each; ``of_changed`` (n,) are all requests for a need
    whose favourite changes; ``by_habit`` (n,) those among all requests that do not name what they want. ``change`` is
    how many requests come before the change.
    """

    x: Vectors  # (n, d)
    y: Integers  # (n,)
    logits: Floats  # (n, C), public labels first
    public: int
    kind: Integers
    of_changed: np.ndarray
    by_habit: np.ndarray
    change: int

    @property
    def changed(self) -> np.ndarray:
        """Which requests (n,) are answered by a habit that changes."""
        return self.of_changed & self.by_habit

    def memory(self, rows: Integers) -> LabelledMemory:
        """What a device knows that remembers these rows; no model trained on them."""
        labels = self._labels(rows)
        logs = log_softmax(self.logits[np.ix_(rows, labels)])
        y = np.searchsorted(labels, self.y[rows])
        return LabelledMemory(x=self.x[rows], y=y, global_log=logs, public=self.public)

    def query(self, row: int, rows: Integers) -> tuple[Floats, int]:
        """The global log probabilities (1, C) of a request where these rows are remembered, and its label's place.

        −1 for a private label that they do not hold.
        """
        labels = self._labels(rows)
        place = int(np.searchsorted(labels, self.y[row]))
        known = place < len(labels) and labels[place] == self.y[row]
        return log_softmax(self.logits[None, row, labels]), place if known else -1

    def _labels(self, rows: Integers) -> Integers:
        private = np.unique(self.y[rows][self.y[rows] >= self.public])
        return np.concatenate([np.arange(self.public), private])


def people(change: str, count: int, *, rows: int, seed: int, model: Checkpoint, encoder: Encoder) -> list[Life]:
    """``count`` people with ``rows`` requests each; the same whatever becomes of their habits, up to these."""
    lives = []
    for number in range(count):
        rng = Random(f"drift:{seed}:{number}")
        person = CHANGES[change](make_person(number, name_offset=seed, rng=rng), rng)
        lives.append(_life(person, rows, model, encoder, Random(f"drift:{seed}:{number}:rows")))
    return lives


def _life(person: Person, count: int, model: Checkpoint, encoder: Encoder, rng: Random) -> Life:
    rows, intents = make_rows(person, count, rng=rng)
    changing = {habit.need for habit in person.habits if habit.first[0] != habit.first[1]}
    return dataclasses.replace(
        life_of(rows, model, encoder),
        kind=np.unique([intent.need for intent in intents], return_inverse=True)[1],
        of_changed=np.array([intent.need in changing for intent in intents]),
        by_habit=np.array([intent.form in BY_HABIT for intent in intents]),
        change=int(np.ceil(person.drift_at * count)),
    )


def life_of(rows: Sequence[Row], model: Checkpoint, encoder: Encoder) -> Life:
    """Somebody's requests in order of time, of whom neither needs nor changes are known."""
    names = model.catalogue.names + tuple(sorted({row.label for row in rows} - set(model.catalogue.names)))
    place = {name: at for at, name in enumerate(names)}
    texts = [row.text for row in rows]
    x = encoder.encode(texts)
    table = model.flat.reshape(len(model.catalogue), model.dimension + 1)
    private = encode_names(names[len(model.catalogue) :], encoder, model.dimension)
    bias = np.concatenate([table[:, -1], np.zeros(len(private), dtype=np.float32)])
    scores = logits(model_inputs(texts, x, model.dimension, encoder), np.concatenate([table[:, :-1], private]), bias)
    return Life(
        x=x,
        y=np.array([place[row.label] for row in rows], dtype=np.int64),
        logits=scores.astype(np.float64),
        public=len(model.catalogue),
        kind=np.arange(len(rows)),
        of_changed=np.zeros(len(rows), dtype=bool),
        by_habit=np.ones(len(rows), dtype=bool),
        change=len(rows),
    )
