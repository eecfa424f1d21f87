"""What the methods share: devices as arrays, softmax, and gradient descent of a linear model on many devices at once.

A linear model that descends on a device's n rows X moves only within their span: W − η·Eᵀ·X, where E (n, K) are the
errors softmax(scores) − targets. So a step changes the scores of any rows R by −η·(R·Xᵀ)·E, and a device's whole local
training needs the products R·Xᵀ alone, once. That is the same update as in the papers, to rounding, and about d/n times
as fast; the tests hold every method against a plain loop over devices and weights.

The inputs are 10·[x; 0.3]: a unit vector and a constant for the bias, scaled as the shared model scales them
(`engine.model.scoring`), so that the methods stand on the same model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from engine.model.scoring import BIAS_GAIN, SCALE

Array = npt.NDArray[Any]
ABSENT = -1e4  # The score of a label that a device does not know: its probability is 0, and so is its gradient.


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One device: unit vectors x (n, d) with labels y (n,) to train on, and queries (q, d) to rank labels for.

    ``names`` (K, d) are the encoded names of the K labels that this device knows: first the ``public`` ones, the same
    on all devices, then those of its own. ``truth`` (q,) holds the queries' labels, −1 for one that it does not know,
    and ``accepted``, where it is given, all labels that each query's user would take. One that is ``late`` takes no
    part in rounds and gets what they made afterwards.
    """

    x: Array
    y: Array
    queries: Array
    truth: Array
    names: Array
    public: int
    late: bool = False
    accepted: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """D devices of about the same number of rows as arrays, padded to n train rows, q queries and K labels.

    ``inputs`` (D, n + q, d + 1): the train rows, then the queries. ``targets`` (D, n, K) one-hot, zero where padded.
    ``counts`` (D,) of train rows, at least 1. ``kernel`` (D, n + q, n): inputs times train inputs. ``names``
    (D, K, d + 1): what a model starts from. ``offset`` (D, 1, K): 0, or `ABSENT`.
    """

    places: tuple[int, ...]
    inputs: Array
    targets: Array
    counts: Array
    kernel: Array
    names: Array
    offset: Array
    public: int
    late: bool

    @classmethod
    def of(cls, clients: Sequence[Client], places: Sequence[int]) -> Self:
        """Pad the clients at these places to a group; they must agree in ``public`` and ``late``."""
        some = [clients[place] for place in places]
        rows, queries = max(len(one.y) for one in some), max(len(one.queries) for one in some)
        labels = max(len(one.names) for one in some)
        size, width, kind = len(some), some[0].names.shape[1] + 1, some[0].names.dtype
        both = np.zeros((size, rows + queries, width), dtype=kind)
        targets, names = np.zeros((size, rows, labels), dtype=kind), np.zeros((size, labels, width), dtype=kind)
        offset = np.full((size, 1, labels), ABSENT, dtype=kind)
        for number, one in enumerate(some):
            both[number, : len(one.y)] = inputs(one.x)
            both[number, rows : rows + len(one.queries)] = inputs(one.queries)
            targets[number, np.arange(len(one.y)), one.y] = 1
            names[number, : len(one.names), :-1] = one.names
            offset[number, 0, : len(one.names)] = 0
        return cls(
            places=tuple(places),
            inputs=both,
            targets=targets,
            counts=np.maximum(targets.sum(axis=(1, 2)), 1),
            kernel=both @ both[:, :rows].transpose(0, 2, 1),
            names=names,
            offset=offset,
            public=some[0].public,
            late=some[0].late,
        )

    @property
    def rows(self) -> int:
        """The padded number of train rows, n."""
        return int(self.targets.shape[1])

    def scores(self, table: Array) -> Array:
        """Return scores (D, n + q, K): public labels by the shared ``table`` (C, d + 1), a device's own by name."""
        shared = self.inputs @ table.T  # (D, n + q, C)
        own = self.inputs @ self.names[:, self.public :].transpose(0, 2, 1)  # (D, n + q, K − C)
        return np.concatenate([shared, own], axis=2) + self.offset

    def answers(self, scores: Array, clients: Sequence[Client]) -> dict[int, Array]:
        """Return, by place, what these ``scores`` (D, n + q, K) say of each device's queries: (its q, its K)."""
        labels = [(len(clients[place].queries), len(clients[place].names)) for place in self.places]
        return {
            place: scores[number, self.rows : self.rows + asked, :known]
            for number, (place, (asked, known)) in enumerate(zip(self.places, labels, strict=True))
        }


def inputs(x: Array) -> Array:
    """Return what the linear models see of unit vectors x (n, d): (n, d + 1)."""
    return SCALE * np.concatenate([x, np.full((len(x), 1), BIAS_GAIN, dtype=x.dtype)], axis=1)


def groups_of(clients: Sequence[Client]) -> list[Group]:
    """Group devices by the next power of two of their train rows, those that join late apart."""
    places: dict[tuple[bool, int], list[int]] = {}
    for place, one in enumerate(clients):
        places.setdefault((one.late, len(one.y).bit_length()), []).append(place)
    return [Group.of(clients, some) for _, some in sorted(places.items())]


def softmax(scores: Array) -> Array:
    """Return probabilities over the last axis."""
    shares: Array = scores - scores.max(axis=-1, keepdims=True)
    np.exp(shares, out=shares)
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares


def errors(scores: Array, targets: Array, counts: Array) -> Array:
    """Return the gradient of each device's mean cross-entropy in its train rows' scores: (D, n, K), 0 where padded."""
    valid = targets.sum(axis=2, keepdims=True)  # (D, n, 1)
    found = softmax(scores)
    found *= valid
    found -= targets
    found /= counts[:, None, None]
    return found


def descend(
    scores: Array, targets: Array, counts: Array, kernel: Array, *, steps: int, rate: float
) -> tuple[Array, Array]:
    """Take gradient steps on each device's mean cross-entropy; return scores (D, n + q, K) and the sum of errors.

    The weights moved by −rate · (sum of errors)ᵀ · inputs.
    """
    rows, total = targets.shape[1], np.zeros_like(targets)
    for _ in range(steps):
        wrong = errors(scores[:, :rows], targets, counts)
        scores = scores - rate * (kernel @ wrong)
        total += wrong
    return scores, total
