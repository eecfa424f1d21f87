"""What the user does again: own frequency times own counts in this context, each weighed by how it served so far.

Over the items that the user has chosen before, a log-linear model: score(i) = w·φ(i), softmax. φ holds the log of the
item's share of all choices; the log ratio of its fading share to that; whether it was the last choice; and for each key
of the context the log ratio of its share among the choices with the same value, backed off to its share at large; with
two keys or more the same for the whole context. With w = (1, 0, 0, 1 …) that is frequency × context counts as they
stand. The weights follow from the user's own choices, each predicted from those before it (or, where nothing tells
their order, from all others), shrunk towards the weights of all devices: a key that says nothing loses its weight.

How often a choice repeats an earlier one is a share of its own, backed off to that of all devices: people who never
watch a film twice and people who open the same five apps need no option.

>>> history = ChoiceHistory.of([("tea", {"at": "home"}, 0.0), ("beer", {"at": "pub"}, 1.0)] * 5)
>>> habits = Habits.fit(history)
>>> [history.names[int(habits.shares({"at": place}).argmax())] for place in ("home", "pub")]
['tea', 'beer']
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.choices.history import ChoiceHistory, Context
from engine.errors import ModelError
from engine.personal.rescorer import Floats, Judged, Statistics, ascend, local_weights, log_softmax, statistics

K = 5
"""Weights that all devices share: frequency, recency, the last one, each key, the whole context."""
STATISTICS_LENGTH = K + K * (K + 1) // 2
PUBLIC_HABITS: Floats = np.array([1.0, 0.1, 0.0, 0.5, 0.1])
KAPPA = 15.0  # How strongly a device's weights are held to those of all.
SHARED_RIDGE = 10.0
MOST_WEIGHT = 20.0
MOST_STEP = 0.3
MOST_JUDGED, MOST_SCORES = 400, 2_000_000
_FADE = float(np.exp(-1 / 10))  # Of the fading share, a choice.
RARE, BACK_OFF = 0.01, 3.0
_RECENT_REPEATS, _REPEAT_PRIOR = 50, 5.0
_FIXED = 3  # Features that are there in any context.


def check_habits(weights: npt.NDArray[np.float64]) -> None:
    """Raise `ModelError` unless ``weights`` are K finite float64 numbers of usual size."""
    if weights.shape != (K,) or weights.dtype != np.float64 or not np.abs(weights).max() <= MOST_WEIGHT:
        raise ModelError(f"Expected {K} weights of habits from -{MOST_WEIGHT:g} to {MOST_WEIGHT:g}.")


class Counts:
    """How often each of C items was chosen: at large, of late, with each value of each key, in the whole context."""

    def __init__(self, items: int, keys: tuple[str, ...]) -> None:
        self.keys = keys
        self.all = np.zeros(items)
        self.late = np.zeros(items)
        self.last = -1
        self._in: dict[tuple[str, ...], Floats] = {}

    def add(self, item: int, context: Context, *, times: float = 1.0) -> None:
        """Count a choice; with ``times`` −1 take it out again."""
        self.all[item] += times
        for group in self._groups(context):
            if group not in self._in:
                self._in[group] = np.zeros(len(self.all))
            self._in[group][item] += times

    def follow(self, item: int) -> None:
        """Note that this was the latest choice."""
        self.late *= _FADE
        self.late[item] += 1.0
        self.last = item

    def within(self, context: Context) -> list[Floats]:
        """Return the counts (C,) with the value of each of the keys, then in the whole context."""
        none = np.zeros(len(self.all))
        return [self._in.get(group, none) for group in self._groups(context)]

    def features(self, context: Context) -> Floats:
        """Return φ (C, 3 + keys + 1 with two keys or more) for a choice in this context."""
        share = (self.all + RARE) / (self.all.sum() + RARE * len(self.all))
        late = (self.late + share) / (self.late.sum() + 1.0)
        columns = [np.log(share), np.log(late / share), (np.arange(len(share)) == self.last).astype(np.float64)]
        for counts in self.within(context):
            columns.append(np.log((counts + BACK_OFF * share) / (counts.sum() + BACK_OFF) / share))
        return np.stack(columns, axis=1)

    def _groups(self, context: Context) -> list[tuple[str, ...]]:
        single = [(key, context.get(key, "")) for key in self.keys]
        if len(single) < 2:
            return list(single)
        return [*single, tuple(word for pair in single for word in pair)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """What a walk through a history gave: the counts after it, the judged choices, and which were repeats (T,)."""

    counts: Counts
    judged: Judged
    repeats: npt.NDArray[np.bool_]


def walk(history: ChoiceHistory) -> Walk:
    """Judge the newest repeats of a history, each by the choices before it, or by all others where none is before."""
    keys = tuple(sorted({key for context in history.contexts for key in context}))
    counts, total = Counts(len(history.names), keys), len(history)
    repeats = _repeats(history)
    width = _FIXED + len(keys) + (len(keys) > 1)
    judged = set(np.flatnonzero(repeats)[-_most_judged(len(history.names) * width) :].tolist())
    rows: list[Floats] = []
    events = list(zip(history.y.tolist(), history.contexts, strict=True))
    if not history.ordered:
        for item, context in events:
            counts.add(item, context)
    for t, (item, context) in enumerate(events):
        if not history.ordered:
            if t in judged:
                counts.add(item, context, times=-1.0)
                rows.append(counts.features(context))
                counts.add(item, context)
            continue
        if t in judged:
            rows.append(counts.features(context))
        counts.add(item, context)
        counts.follow(item)
    phi = np.array(rows).reshape(len(rows), len(history.names), width)
    return Walk(counts=counts, judged=Judged(phi=phi, y=history.y[sorted(judged)]), repeats=repeats[:total])


def _repeats(history: ChoiceHistory) -> npt.NDArray[np.bool_]:
    """Which choices (T,) are of an item chosen before, or, without an order, of one chosen more than once."""
    if not history.ordered:
        found: npt.NDArray[np.bool_] = np.bincount(history.y, minlength=len(history.names))[history.y] > 1
        return found
    repeats = np.ones(len(history), dtype=np.bool_)
    repeats[np.unique(history.y, return_index=True)[1]] = False
    return repeats


def _most_judged(numbers: int) -> int:
    """How many choices are judged where each takes so many numbers."""
    return max(1, min(MOST_JUDGED, MOST_SCORES // max(numbers, 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """A user's own counts, the weights (3 + keys + 1) found for them, and how likely the next choice is a repeat."""

    counts: Counts
    weights: Floats
    repeat: float

    @classmethod
    def fit(cls, history: ChoiceHistory, *, shared: Floats = PUBLIC_HABITS, repeat_rate: float = 0.5) -> "Habits":
        """Fit to a history, held to the ``shared`` weights (K,) and the repeat rate of all devices."""
        seen = walk(history)
        recent = seen.repeats[-_RECENT_REPEATS:]
        return cls(
            counts=seen.counts,
            weights=local_weights(seen.judged, _spread(shared, seen.counts.keys), kappa=KAPPA),
            repeat=float((recent.sum() + _REPEAT_PRIOR * repeat_rate) / (len(recent) + _REPEAT_PRIOR)),
        )

    def shares(self, context: Context) -> Floats:
        """Return the probabilities (C,) of the user's own items in this context, given that it is one of them."""
        if not len(self.counts.all):
            return np.zeros(0)
        result: Floats = np.exp(log_softmax((self.counts.features(context) @ self.weights)[None])[0])
        return result


def _spread(shared: Floats, keys: tuple[str, ...]) -> Floats:
    """Return shared weights (K,) as those of this device's features."""
    return np.concatenate([shared[:_FIXED], np.full(len(keys), shared[3]), shared[4:] if len(keys) > 1 else []])


def device_statistics(history: ChoiceHistory, weights: Floats) -> tuple[Floats, Floats]:
    """Return gradient and packed curvature (STATISTICS_LENGTH,) at weights (K,), and the repeat share with a 1 (2,).

    Of a device's own keys there is nothing in it but their sum. Without choices both are 0.
    """
    check_habits(weights)
    seen = walk(history)
    phi = seen.judged.phi
    # Their mean likelihood, so that who chooses often counts no more than a hundred choices.
    share = min(1.0, 100 / max(len(phi), 1))
    keys = len(seen.counts.keys)
    whole = phi[:, :, -1:] if keys > 1 else np.zeros((*phi.shape[:2], 1))
    each = phi[:, :, _FIXED : _FIXED + keys].sum(axis=2, keepdims=True)
    folded = np.concatenate([phi[:, :, :_FIXED], each, whole], axis=2)
    own = statistics(Judged(phi=folded, y=seen.judged.y), weights)
    packed = own.packed() * share
    recent = seen.repeats[-_RECENT_REPEATS:]
    return packed, np.array([recent.mean(), 1.0]) if len(recent) else np.zeros(2)


def newton_step(weights: Floats, total: Floats) -> Floats:
    """Return the shared weights (K,) after one step on devices' statistics (STATISTICS_LENGTH,), summed."""
    check_habits(weights)
    if not np.isfinite(total).all() or total.shape != (STATISTICS_LENGTH,):
        raise ModelError(f"Expected {STATISTICS_LENGTH} finite sums of habits.")
    summed = Statistics.unpacked(total, weights=K)
    step = ascend(weights, summed, towards=PUBLIC_HABITS, ridge=SHARED_RIDGE) - weights
    # Far from its optimum the likelihood is flat, and a whole step would leave for where it is flatter still.
    step *= min(1.0, MOST_STEP / max(float(np.abs(step).max()), MOST_STEP))
    return np.clip(weights + step, -MOST_WEIGHT, MOST_WEIGHT)
