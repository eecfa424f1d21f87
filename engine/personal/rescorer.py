"""The stacked re-scorer: personal scores as a weighted sum of what the global model and the memory say of each label.

For a query and C labels each label y has K features φ(y); the device answers softmax over y of w·φ(y). The weights w₀
that suit most people are fitted across devices by Newton's method: a device gives only the summed gradient (K,) and the
summed Hessian (K, K) of its own leave-one-out likelihood. Each device then moves its own w away from w₀ as far as its
evidence outweighs κ/2·‖w − w₀‖². The likelihood is concave in w, so both fits have one optimum.

Leave-one-out: each judged row is scored with itself removed from counts and neighbours, and with global scores of a
model that had not trained on it. A row that is the only memory of a private label judges nothing: without it the device
would not know the label.

Sources: Wolpert 1992 (stacked generalization); McFadden 1974 (conditional logit: the likelihood and its
derivatives); Marfoq et al. 2022 (kNN-Per, eq. 7); Saerens et al. 2002 (eq. 2.4: ratio of label priors).

>>> x = np.eye(2, dtype=np.float32)[[0, 0, 1, 0, 0, 1]]
>>> y = np.array([1, 1, 0, 1, 1, 0])
>>> undecided = np.log(np.full((6, 2), 0.5))
>>> memory = LabelledMemory(x=x, y=y, global_log=undecided, public=2)
>>> judged = evidence_features(memory, np.arange(6), undecided)
>>> w = local_weights(judged, PUBLIC_WEIGHTS)
>>> (query_features(memory, x[:1], undecided[:1]) @ w).argmax(axis=1)
array([1])
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ModelError
from engine.personal.recency import Recency

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]

FEATURES = (
    "global",  # log of the global probability
    "often",  # log ratio of the user's label shares to the prior, smoothed little
    "often, smooth",  # the same, smoothed much
    "near",  # log ratio of a kernel average, the prior as pseudo-neighbour, to the prior
    "instead",  # log of what the user chose over what the global model expected, where it answered alike
    "prior",  # log prior
)
K = len(FEATURES)
"""Floats in a weight vector."""
STATISTICS_LENGTH = K + K * (K + 1) // 2
"""Floats of a device's statistics as they leave it: gradient, and upper triangle of the curvature."""

# Pseudo-counts of the prior in the two label shares.
LITTLE, MUCH = 1.0, 20.0
# Sharpness of the kernel average, and the cosine at which the prior enters it as a neighbour.
NEAR_SHARPNESS, ANCHOR_COSINE = 20.0, 0.35
# Two texts are alike to the global model by the Bhattacharyya coefficient of its answers, to this power; the model's
# own answer counts as one more memory, and each label as a hundredth of one.
ALIKE_POWER, ALIKE_SELF, ALIKE_FLOOR = 4, 1.0, 0.01
# Rows with all labels alike that the expected shares are blended with: they come from m texts of one user, and where
# the model is right about these they are the user's own shares, against which no habit would stand out.
EVEN_ROWS = 20.0
# The least global log probability that counts: a certain model must leave the memory a say.
LEAST_LOG = -14.0
# The newest rows of evidence that are used: cost grows with their number times the memory's size.
MOST_EVIDENCE = 400
# How strongly a device's own weights are held to the shared ones, in nats for a distance of √2.
KAPPA = 100.0
# The same for the shared weights around the public start.
SHARED_RIDGE = 10.0
# The longest Newton step of the shared weights. Where the shared model is surer than it should be, the likelihood is
# flat at the start and a whole step would leave for where it is flatter still.
MOST_STEP = 0.5
# Newton steps of a device's own weights.
LOCAL_STEPS = 4
# No weight is larger: what devices learn lies far below.
MOST_WEIGHT = 100.0

PUBLIC_WEIGHTS: Floats = np.array([1.0, 0.0, 0.5, 0.2, 0.2, 0.2])
"""Where the shared weights start: the global model, tilted a little to what the user does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledMemory:
    """m unit vectors x (m, d), their labels y (m,), what the global model says of them, and how many labels are public.

    ``global_log`` (m, C) are its log probabilities, out of sample where there are such; ``expected`` (C,) is the share
    of each label that it expects of them on average; ``prior`` is that, blended with even shares. Memories stand in
    order of time, oldest first.
    """

    x: Vectors
    y: Integers
    global_log: Floats
    public: int
    expected: Floats = field(init=False)  # (C,)
    prior: Floats = field(init=False)  # (C,)
    counts: Floats = field(init=False)  # (C,)
    order: Integers = field(init=False)  # (m,) memories sorted by label
    in_time: Integers = field(init=False)  # (m,) where each memory stands in that order
    starts: Integers = field(init=False)  # (s,) where each seen label begins in that order
    seen: Integers = field(init=False)  # (s,) the seen labels
    answers: Floats = field(init=False)  # (m, C) global probabilities, in that order

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or len(self.x) != len(self.y):
            raise ValueError(f"Expected as many labels as vectors, got {self.y.shape} and {self.x.shape}.")
        if self.global_log.ndim != 2 or len(self.global_log) != len(self.y):
            raise ValueError(f"Expected global_log of ({len(self.y)}, C), got {self.global_log.shape}.")
        m, labels = self.global_log.shape
        if not 0 <= self.public <= labels:
            raise ValueError(f"Expected public={self.public} in 0..{labels}.")
        answers = np.exp(self.global_log)
        expected = answers.mean(axis=0) if m else np.full(labels, 1 / labels)
        prior = (m * expected + EVEN_ROWS / labels) / (m + EVEN_ROWS)
        order = np.argsort(self.y, kind="stable")
        seen, starts = np.unique(self.y[order], return_index=True)
        put = object.__setattr__
        put(self, "expected", expected)
        put(self, "prior", prior / prior.sum())
        put(self, "counts", np.bincount(self.y, minlength=labels).astype(np.float64))
        put(self, "order", order)
        put(self, "in_time", np.argsort(order))
        put(self, "starts", starts)
        put(self, "seen", seen)
        put(self, "answers", answers[order])


def _features(
    memory: LabelledMemory, similarity: Floats, counts: Floats, global_log: Floats, recency: Recency | None = None
) -> Floats:
    """Return φ (q, C, K) for similarities (q, m), −inf where a memory must not count, and counts (q or 1, C).

    ``recency`` says how far older memories still count; ``None``: fully.
    """
    q, labels = global_log.shape
    prior = memory.prior
    sorted_similarity = similarity[:, memory.order]  # (q, m), memories of a label side by side
    kernel = np.exp(NEAR_SHARPNESS * (sorted_similarity - 1.0))  # (q, m); 0 where a memory must not count
    anchor = np.exp(NEAR_SHARPNESS * (ANCHOR_COSINE - 1.0))
    p = np.exp(global_log)
    alike = (np.sqrt(p) @ np.sqrt(memory.answers).T) ** ALIKE_POWER  # (q, m)
    alike[sorted_similarity == -np.inf] = 0.0
    if recency is not None:
        # Habits go with what is asked for: of one kind are texts that are alike in meaning, too.
        kind = alike[:, memory.in_time] * np.sqrt(np.clip(similarity, 0.0, 1.0))
        if (weights := recency(kind, p, memory.y)) is not None:
            weights = np.where(sorted_similarity == -np.inf, 0.0, weights[:, memory.order])
            kernel, alike, counts = kernel * weights, alike * weights, _by_label(memory, weights)
    usual = ALIKE_SELF * p + ALIKE_FLOOR
    total = counts.sum(axis=1, keepdims=True)
    phi = np.empty((q, labels, K))
    phi[:, :, 0] = np.maximum(global_log, LEAST_LOG)
    for column, smoothing in ((1, LITTLE), (2, MUCH)):
        phi[:, :, column] = np.log((counts + smoothing * prior) / ((total + smoothing) * prior))
    near = _by_label(memory, kernel) + anchor * prior
    phi[:, :, 3] = np.log(near / ((kernel.sum(axis=1, keepdims=True) + anchor) * prior))
    phi[:, :, 4] = np.log((_by_label(memory, alike) + usual) / (alike @ memory.answers + usual))
    phi[:, :, 5] = np.log(prior)
    return phi


def _by_label(memory: LabelledMemory, values: Floats) -> Floats:
    """Sum values (q, m), memories of a label side by side, over the memories of each label: (q, C)."""
    whole = np.zeros((len(values), len(memory.counts)))
    if len(memory.seen) and len(values):
        whole[:, memory.seen] = np.add.reduceat(values, memory.starts, axis=1)
    return whole


def query_features(memory: LabelledMemory, x: Vectors, global_log: Floats, recency: Recency | None = None) -> Floats:
    """Return φ (q, C, K) of queries x (q, d) with global log probabilities (q, C) before the whole memory."""
    similarity = (x @ memory.x.T).astype(np.float64)
    return _features(memory, similarity, memory.counts[None], global_log, recency)


def judging(memory: LabelledMemory, rows: Integers) -> npt.NDArray[np.bool_]:
    """Return which of these rows may judge: all but the only memories of private labels."""
    y = memory.y[rows]
    able: npt.NDArray[np.bool_] = (y < memory.public) | (memory.counts[y] > 1)
    return able


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Rows of the memory that may judge: their positions (e,) in it and their out-of-sample global logs (e, C)."""

    rows: Integers
    global_log: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Leave-one-out features φ (e, C, K) of a device's evidence and the true labels y (e,)."""

    phi: Floats
    y: Integers


def evidence_features(memory: LabelledMemory, rows: Integers, global_log: Floats) -> Judged:
    """Return the evidence of memory rows (e,) with out-of-sample global log probabilities (e, C), the newest ones.

    Each row is removed from counts and neighbours of its own query.
    """
    rows, global_log = newest_judges(memory, rows, global_log)
    y = memory.y[rows]
    position = np.arange(len(rows))
    similarity = (memory.x[rows] @ memory.x.T).astype(np.float64)
    similarity[position, rows] = -np.inf
    counts = np.repeat(memory.counts[None], len(rows), axis=0)
    counts[position, y] -= 1.0
    return Judged(phi=_features(memory, similarity, counts, global_log), y=y)


def earlier_features(
    memory: LabelledMemory, rows: Integers, global_log: Floats, recency: Recency | None = None
) -> Judged:
    """Return the same evidence, each row before the memories that are older than it alone."""
    rows, global_log = newest_judges(memory, rows, global_log)
    similarity = (memory.x[rows] @ memory.x.T).astype(np.float64)
    similarity[np.arange(len(memory.y)) >= rows[:, None]] = -np.inf
    counts = np.zeros((len(rows), len(memory.counts)))
    for place, row in enumerate(rows):
        counts[place] = np.bincount(memory.y[:row], minlength=len(memory.counts))
    return Judged(phi=_features(memory, similarity, counts, global_log, recency), y=memory.y[rows])


def newest_judges(memory: LabelledMemory, rows: Integers, global_log: Floats) -> tuple[Integers, Floats]:
    """Return those of the rows (e,) that may judge, the newest of them, with their log probabilities."""
    able = judging(memory, rows)
    return rows[able][-MOST_EVIDENCE:], global_log[able][-MOST_EVIDENCE:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Of a log likelihood at w: value (nats), gradient (K,) and curvature (K, K) = −Hessian."""

    value: float
    gradient: Floats
    curvature: Floats

    def packed(self) -> Floats:
        """Gradient (K,), then the curvature's upper triangle row by row: (STATISTICS_LENGTH,)."""
        return np.concatenate([self.gradient, self.curvature[np.triu_indices(len(self.gradient))]])

    @classmethod
    def unpacked(cls, packed: Floats, *, weights: int = K) -> "Statistics":
        """What :meth:`packed` gave, or a sum of such; the value is not in it and is 0. Raises ``ValueError``."""
        length = weights + weights * (weights + 1) // 2
        if packed.shape != (length,):
            raise ValueError(f"Expected {length} numbers, got {packed.shape}.")
        curvature = np.zeros((weights, weights))
        curvature[np.triu_indices(weights)] = packed[weights:]
        curvature += np.triu(curvature, 1).T
        return cls(value=0.0, gradient=packed[:weights].astype(np.float64), curvature=curvature)


def log_softmax(scores: npt.NDArray[Any]) -> Floats:
    """Return log probabilities (n, C) of logits (n, C), in float64."""
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def log_likelihood(judged: Judged, w: Floats) -> float:
    """Return the log likelihood (nats) of one device at w (K,), without what its statistics cost."""
    return float(log_softmax(judged.phi @ w)[np.arange(len(judged.y)), judged.y].sum())


def statistics(judged: Judged, w: Floats) -> Statistics:
    """Return the statistics of one device at w (K,)."""
    e, labels, k = judged.phi.shape
    if not e:
        return Statistics(value=0.0, gradient=np.zeros(k), curvature=np.zeros((k, k)))
    log_p = log_softmax(judged.phi @ w)  # (e, C)
    p = np.exp(log_p)
    position = np.arange(e)
    mean = (p[:, None, :] @ judged.phi)[:, 0]  # (e, K)
    weighted = (judged.phi * np.sqrt(p)[:, :, None]).reshape(e * labels, k)
    return Statistics(
        value=float(log_p[position, judged.y].sum()),
        gradient=judged.phi[position, judged.y].sum(axis=0) - mean.sum(axis=0),
        curvature=weighted.T @ weighted - mean.T @ mean,
    )


def ascend(w: Floats, summed: Statistics, *, towards: Floats, ridge: float) -> Floats:
    """Return w after a Newton step on the likelihood less ridge/2·‖w − towards‖².

    Noise on the sums, or rounding, may leave the curvature with eigenvalues below 0: those count as 0, so that
    with ridge > 0 the matrix is positive definite.
    """
    if not ridge > 0:
        raise ValueError(f"Expected ridge={ridge} to be positive.")
    values, vectors = np.linalg.eigh((summed.curvature + summed.curvature.T) / 2)
    gradient = summed.gradient - ridge * (w - towards)
    step: Floats = vectors @ ((vectors.T @ gradient) / (np.maximum(values, 0.0) + ridge))
    return w + step


def newton_step(weights: Floats, total: Floats) -> Floats:
    """Return the population weights (K,) after one step on devices' packed statistics (STATISTICS_LENGTH,), summed.

    The step is at most `MOST_STEP` long. Raises `ModelError` for what is not finite.
    """
    check_weights(weights)
    if not np.isfinite(total).all():
        raise ModelError("The devices' statistics sum up to NaN or infinity, so no weights follow from them.")
    step = ascend(weights, Statistics.unpacked(total), towards=PUBLIC_WEIGHTS, ridge=SHARED_RIDGE) - weights
    step *= min(1.0, MOST_STEP / max(float(np.linalg.norm(step)), MOST_STEP))
    return np.clip(weights + step, -MOST_WEIGHT, MOST_WEIGHT)


def check_weights(weights: npt.NDArray[np.float64]) -> None:
    """Raise `ModelError` unless ``weights`` are K finite float64 numbers of usual size."""
    if weights.shape != (K,) or weights.dtype != np.float64 or not np.abs(weights).max() <= MOST_WEIGHT:
        raise ModelError(f"Expected {K} weights of the re-scorer from -{MOST_WEIGHT:g} to {MOST_WEIGHT:g}.")


def local_weights(judged: Judged, shared: Floats, *, kappa: float = KAPPA, steps: int = LOCAL_STEPS) -> Floats:
    """Return a device's own w: the optimum of its likelihood less κ/2·‖w − w₀‖², w₀ without evidence.

    A step that would not raise the objective is halved, then left out.
    """
    if not len(judged.y):
        return shared

    def objective(w: Floats, at: Statistics) -> float:
        return at.value - kappa / 2 * float((w - shared) @ (w - shared))

    w, here = shared, statistics(judged, shared)
    for _ in range(steps):
        aim = ascend(w, here, towards=shared, ridge=kappa)
        for share in (1.0, 0.5, 0.25):
            new = w + share * (aim - w)
            there = statistics(judged, new)
            if objective(new, there) >= objective(w, here):
                break
        else:
            break
        done = float(np.abs(new - w).max()) < 1e-3
        w, here = new, there
        if done:
            break
    return w
