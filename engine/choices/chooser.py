"""Which item next: what the user does again, and what is new to the user, in one ranking with probabilities.

An item chosen before gets P(repeat) · P(item | own habits, context); a new one the rest, shared out by the factor model
that devices learned together, from what this user chose so far. Without such a model a device chooses among its own.

>>> history = ChoiceHistory.of([("tea", {}, 0.0), ("tea", {}, 1.0), ("milk", {}, 2.0)])
>>> chooser = Chooser.of(history, None)
>>> best = chooser.best({}, k=1)[0]
>>> best.item, best.times, best.explanation
('tea', 2, 'chosen 2 times')
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from engine.choices.factors import BLOCKS, context_features, next_profile
from engine.choices.habits import Habits
from engine.choices.history import ChoiceHistory, Context, check_context
from engine.choices.model import ChoiceModel
from engine.personal.rescorer import Floats, Integers

LEAST_SHARE = 0.5
"""Of its share among all users, what a new item has at least; all else is left to what a history says for it."""
_EXPLAINED_BY = 3
_NO_HISTORY = ChoiceHistory.of([])


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An item with its probability, and why: how often it was chosen, in this context, or which items led to it.

    ``alike`` are earlier choices of this user whose users chose this item too; empty where it was chosen before.
    """

    item: str
    probability: float
    times: int = 0
    times_in_context: int = 0
    context: tuple[tuple[str, str], ...] = ()
    alike: tuple[str, ...] = ()

    @property
    def explanation(self) -> str:
        """One line for a person."""
        if self.times:
            line = f"chosen {_times(self.times)}"
            if self.context:
                where = ", ".join(f"{key} {value}" for key, value in self.context)
                line += f", {self.times_in_context} of them with {where}"
            return line
        if self.alike:
            return f"people who choose {' and '.join(self.alike)} also choose this"
        return "people choose this often"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


class Chooser:
    """A user's history and the shared model, ready to rank; C items are the model's, then this user's own others."""

    def __init__(self, history: ChoiceHistory, model: ChoiceModel | None, habits: Habits) -> None:
        self._history, self._model, self._habits = history, model, habits
        public = model.items.names if model is not None else ()
        self._names = public + tuple(name for name in history.names if model is None or name not in model.items)
        self._place = {name: index for index, name in enumerate(self._names)}
        self._own: Integers = np.array([self._place[name] for name in history.names], dtype=np.int64)
        self._profile = self._own_profile()

    @classmethod
    def of(cls, history: ChoiceHistory, model: ChoiceModel | None) -> "Chooser":
        """Fit a chooser to a history, held to what the model says of all devices."""
        if model is None:
            return cls(history, None, Habits.fit(history))
        return cls(history, model, Habits.fit(history, shared=model.habits, repeat_rate=model.repeat_rate))

    @property
    def items(self) -> tuple[str, ...]:
        """The items that are ranked (C)."""
        return self._names

    def probabilities(self, context: Context) -> Floats:
        """Return the probability (C,) of each item as the next choice in this context; they add up to 1."""
        out = np.zeros(len(self._names))
        new = np.ones(len(out), dtype=np.bool_)
        new[self._own] = False
        repeat = self._habits.repeat if len(self._own) and new.any() else float(len(self._own) > 0)
        out[self._own] = repeat * self._habits.shares(context)
        if new.any():
            out[new] = (1.0 - repeat) * self._new_shares(context, new)
        return out

    def best(self, context: Context, *, k: int, among: Collection[str] | None = None) -> list[Choice]:
        """Return the ``k`` most probable items, of those in ``among`` if given, with probabilities among them."""
        context = check_context(context)
        if k < 1:
            raise ValueError(f"Expected k={k} to be at least 1.")
        p, open_to = self.probabilities(context), np.arange(len(self._names))
        if among is not None:
            open_to = np.array(sorted(self._place[name] for name in set(among) if name in self._place), dtype=np.int64)
        total = p[open_to].sum()
        order = open_to[np.argsort(-p[open_to], kind="stable")[:k]]
        return [self._explained(int(item), float(p[item] / total) if total > 0 else 0.0, context) for item in order]

    def _own_profile(self) -> Floats:
        """The profile before the next choice (3·k,)."""
        if self._model is None or self._model.weights is None:
            return np.zeros(0)
        known = self._history.known_to(self._model.items)
        return next_profile(known.items_in(self._model.items), self._model.basis, ordered=known.ordered)

    def _new_shares(self, context: Context, new: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Floats:
        """Shares of the items that are new to the user, as they stand where ``new`` (C,) is true."""
        expected = np.full(len(self._names), 1.0 / len(self._names))
        if self._model is not None and self._model.weights is not None and self._model.shares is not None:
            z = np.concatenate([self._profile, context_features([context], self._model.factors)[0]])
            scores = self._model.weights.astype(np.float64) @ z
            # Scores are near probabilities, but those of items that this user would hardly choose are little more than
            # their error, and may be negative.
            expected[: len(scores)] = np.maximum(scores, LEAST_SHARE * self._model.shares)
        chosen: Floats = expected[new] / expected[new].sum()
        return chosen

    def _explained(self, item: int, probability: float, context: Context) -> Choice:
        name = self._names[item]
        if name in self._history.names:
            chosen = np.flatnonzero(self._history.y == self._history.names.index(name))
            contexts = [self._history.contexts[t] for t in chosen]
            fits = sum(all(its.get(key) == value for key, value in context.items()) for its in contexts)
            return Choice(
                item=name,
                probability=probability,
                times=len(chosen),
                times_in_context=fits,
                context=tuple(context.items()),
            )
        return Choice(item=name, probability=probability, alike=self._alike(item))

    def _alike(self, item: int) -> tuple[str, ...]:
        """The own items that add most to this new item's score."""
        if self._model is None or self._model.weights is None or not len(self._history):
            return ()
        known = self._history.known_to(self._model.items)
        k = self._model.factors
        towards = self._model.weights[item, : (BLOCKS - 1) * k].reshape(BLOCKS - 1, k).sum(axis=0)
        gains = self._model.basis[[self._model.items.index(name) for name in known.names]] @ towards
        order = np.argsort(-gains, kind="stable")[:_EXPLAINED_BY]
        return tuple(known.names[i] for i in order if gains[i] > 0)


def empty_chooser(model: ChoiceModel | None) -> Chooser:
    """Return the chooser of a user of whom nothing may be read."""
    return Chooser.of(_NO_HISTORY, model)
