"""New items from what went before: the low-dimensional model that devices learn together by sums alone.

First a basis Q (n items, k) is found by block power iteration: each device adds xᵀ(xQ) of its own 0/1 row x, and the
sum over devices is XᵀXQ, whose span converges to the first k right singular vectors of the pooled matrix X, which
nobody holds. Then each device walks through its choices in order. Before each one that was new to its user it has
features z (4·k): what it chose so far, projected on Q with weights that fade over 2 events, over 8 events and not at
all, then the context, hashed, and a constant. Where nothing tells the order, what stands for "so far" is all else that
the user chose. The sums of z zᵀ and of z for each item that came give the ridge
regression from a history to the next new item: of rare items little is known, so these are held closer to their share
of all choices. A device's own profile never leaves it; what it adds is one array of fixed length.

Sources: G. Golub and C. Van Loan, *Matrix Computations*, §8.2 (orthogonal iteration); H. Steck 2019 (EASE: linear
models of implicit feedback in closed form); M. Ammad-ud-din et al. 2019 (federated factors whose user side stays on the
device).

>>> q = orthonormal(np.eye(3)[:, :2])
>>> profiles(np.array([0, 2]), q).shape
(3, 6)
"""

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from engine.errors import ModelError
from engine.personal.rescorer import Floats, Integers

SPANS = (2.0, 8.0, math.inf)
"""Over how many later choices (e-fold) an earlier one fades from each part of a profile."""
BLOCKS = len(SPANS) + 1
# So that few people teach little beside what is popular; this for an item as popular as a choice is on average, more
# for one less popular: by how many times it deviates from its share is then shrunk more, as it shows less clearly.
RIDGE, RARE_POWER = 100.0, 0.5
CONTEXT_RIDGE = 2000.0  # The same for contexts, which say less about new items than histories do, in more numbers.
UNSEEN = 0.2  # Choices that each item counts as, so that one which nobody chose has a share, too.
_NEGLIGIBLE = 1e-12


def orthonormal(columns: Floats) -> npt.NDArray[np.float32]:
    """Return an orthonormal basis (n, k) of the span of columns (n, k), float32, each with its largest entry positive.

    Raises `ModelError` for what is not finite. Where the columns span less, unit vectors fill the rest.
    """
    if not np.isfinite(columns).all():
        raise ModelError("The devices' sums hold NaN or infinity, so no factors follow from them.")
    n, k = columns.shape
    if n < k:
        raise ModelError(f"Expected at least as many items as factors, got {n} items and {k} factors.")
    q, r = np.linalg.qr(columns.astype(np.float64))
    size = np.abs(np.diag(r))
    if size.min() <= _NEGLIGIBLE * max(size.max(), 1.0):
        q = _filled(columns.astype(np.float64))
    top = q[np.abs(q).argmax(axis=0), np.arange(k)]
    result: npt.NDArray[np.float32] = (q * np.where(top < 0, -1.0, 1.0)).astype(np.float32)
    return result


def _filled(columns: Floats) -> Floats:
    """Orthonormal columns (n, k) that span what ``columns`` (n, k) do; unit vectors, made orthogonal, fill the rest."""
    left, values, _ = np.linalg.svd(columns, full_matrices=False)
    q = np.zeros_like(columns)
    rank = int((values > _NEGLIGIBLE * max(values.max(), 1.0)).sum())
    q[:, :rank] = left[:, :rank]
    for column in range(rank, columns.shape[1]):
        item = int((q**2).sum(axis=1).argmin())  # The one that the span knows least of.
        unit = -(q @ q[item])
        unit[item] += 1.0
        unit -= q @ (q.T @ unit)  # Once more, for rounding.
        q[:, column] = unit / np.linalg.norm(unit)
    return q


def profiles(items: Integers, basis: npt.NDArray[np.float32]) -> Floats:
    """Return the profile before each of T choices and after the last, (T + 1, 3·k), by the spans in order.

    A part is Σ decayᵃ·Q[item] / √(Σ decayᵃ) over the choices so far, a being how many came since; in the part that does
    not fade an item counts once.
    """
    k, rows = basis.shape[1], basis[items].astype(np.float64)  # (T, k)
    out = np.zeros((len(items) + 1, len(SPANS) * k))
    first = np.zeros(len(items))
    first[first_times(items)] = 1.0
    for block, span in enumerate(SPANS):
        fade, counts = math.exp(-1.0 / span), first if math.isinf(span) else np.ones(len(items))
        total, weight = np.zeros(k), 0.0
        for t, (row, count) in enumerate(zip(rows, counts, strict=True), start=1):
            total, weight = total * fade + count * row, weight * fade + count
            out[t, block * k : (block + 1) * k] = total / math.sqrt(weight)
    return out


def next_profile(items: Integers, basis: npt.NDArray[np.float32], *, ordered: bool) -> Floats:
    """Return the profile (3·k,) before the choice to come; without an order each part is that of the distinct items."""
    if ordered:
        last: Floats = profiles(items, basis)[-1]
        return last
    own = np.unique(items)
    part = basis[own].sum(axis=0, dtype=np.float64) / math.sqrt(max(len(own), 1))
    return np.tile(part, len(SPANS))


def examples(
    items: Integers, contexts: Sequence[Mapping[str, str]], basis: npt.NDArray[np.float32], *, ordered: bool
) -> tuple[Integers, Floats]:
    """Return the items (m,) that were new to the user once, and the features (m, 4·k) before each.

    Without an order, each distinct item stands against all others, in the mean of the contexts that it was chosen in.
    """
    where = context_features(contexts, basis.shape[1])  # (T, k)
    if ordered:
        new = first_times(items)
        return items[new], np.concatenate([profiles(items, basis)[new], where[new]], axis=1)
    own, place, times = np.unique(items, return_inverse=True, return_counts=True)
    mean = np.zeros((len(own), basis.shape[1]))
    np.add.at(mean, place, where)
    mean /= np.maximum(times, 1)[:, None]
    rows = basis[own].astype(np.float64)
    others = (rows.sum(axis=0) - rows) / math.sqrt(max(len(own) - 1, 1))
    return own, np.concatenate([np.tile(others, (1, len(SPANS))), mean], axis=1)


def context_features(contexts: Sequence[Mapping[str, str]], factors: int) -> Floats:
    """Return (T, k): a one in the bucket of each key and value, k − 1 buckets, and the constant 1 at the end."""
    out = np.zeros((len(contexts), factors))
    out[:, -1] = 1.0
    for row, context in enumerate(contexts):
        for key, value in context.items():
            out[row, _bucket(key, value, factors - 1)] = 1.0
    return out


def _bucket(key: str, value: str, buckets: int) -> int:
    named = hashlib.sha256(f"{len(key)}:{key}={value}".encode()).digest()
    return int.from_bytes(named[:8], "big") % buckets


def first_times(items: Integers) -> Integers:
    """Return the places (m,) at which an item comes for the first time."""
    _, first = np.unique(items, return_index=True)
    return np.sort(first)


def power_block(items: Integers, basis: npt.NDArray[np.float32]) -> Floats:
    """Return xᵀ(xQ) (n, k) of the 0/1 row x of the distinct ``items``."""
    own = np.unique(items)
    out = np.zeros(basis.shape)
    out[own] = basis[own].sum(axis=0, dtype=np.float64)
    return out


def gram(z: Floats) -> Floats:
    """Return the upper triangle of zᵀz, row by row, for features z (m, F): (F·(F+1)/2,)."""
    return (z.T @ z)[np.triu_indices(z.shape[1])]


def target_block(items: Integers, z: Floats, shape: tuple[int, int]) -> Floats:
    """Return the sums (n, k) of the features z (m, k) before each of the ``items`` (m,)."""
    out = np.zeros(shape)
    np.add.at(out, items, z)
    return out


def solve(gram_sum: Floats, targets: Floats) -> tuple[npt.NDArray[np.float32], Floats]:
    """Return weights (n, F) of the ridge regression whose sums are the packed Gram matrix and targets (n, F), and the
    share (n,) of each item among all new choices.

    The last k = F/4 features are the context's. The constant (the last of all) is not shrunk, so that without other
    evidence items stand by their popularity.
    Noise may leave the matrix with eigenvalues below 0: those count as 0. Raises `ModelError`.
    """
    if not np.isfinite(gram_sum).all() or not np.isfinite(targets).all():
        raise ModelError("The devices' sums hold NaN or infinity, so no weights follow from them.")
    size = targets.shape[1]
    matrix = np.zeros((size, size))
    matrix[np.triu_indices(size)] = gram_sum
    matrix += np.triu(matrix, 1).T
    values, vectors = np.linalg.eigh(matrix)
    matrix = (vectors * np.maximum(values, 0.0)) @ vectors.T
    rows = max(float(matrix[-1, -1]), 1.0)
    mean, popular = matrix[:-1, -1] / rows, targets[:, -1] / rows
    scale = np.ones(size - 1)
    scale[-(size // BLOCKS) + 1 :] = np.sqrt(RIDGE / CONTEXT_RIDGE)
    # What is left of both where the constant has told what it can.
    centred = (matrix[:-1, :-1] - rows * np.outer(mean, mean)) * np.outer(scale, scale)
    values, vectors = np.linalg.eigh(centred)
    turned = ((targets[:, :-1] - np.outer(targets[:, -1], mean)) * scale) @ vectors
    turned /= np.maximum(values, 0.0) + ridges(popular, rows)[:, None]
    slopes = (turned @ vectors.T) * scale
    weights = np.column_stack([slopes, popular - slopes @ mean]).astype(np.float32)
    counts = np.maximum(targets[:, -1], 0.0) + UNSEEN
    return weights, counts / counts.sum()


def ridges(popular: Floats, rows: float) -> Floats:
    """Return the ridge (n,) of each item by its share of ``rows`` choices; noise may leave a share below 0."""
    shares = np.maximum(popular, 0.5 / rows)
    usual = float((shares**2).sum() / shares.sum())
    found: Floats = RIDGE * (usual / shares) ** RARE_POWER
    return found
