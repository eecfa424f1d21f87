"""The shared model from one private release: what the server asks devices for, and what it makes of the noised mean.

Every text's inputs are taken to spread normally around its label's place, all labels alike. Before anything is known a
label lies where its name says, a third as far from the middle of public texts as names lie from one another; devices'
summaries (`engine.model.summary`) say how far off that is. What noise of a known size leaves to believe is the
posterior mean under a normal prior whose variance is what the released residuals have beyond the noise: no step size is
set anywhere. Labels of like names are off alike, so they share what they learn. Where the noise drowns all, the answer
is the start itself, as on a device that no round reached; where little shows above it, it lies between the two.

What is the same for all labels tells none of the catalogue apart, but devices score labels of their own beside these,
by names alone. So the mean over labels stays what it is in the start, and their own labels are not favoured.

Sources: Fisher 1936 (the discriminant); Robbins 1956, James and Stein 1961, Efron and Morris 1973 (empirical Bayes);
Rasmussen and Williams 2006 (§2.2: the posterior mean under a kernel); Balle and Wang 2018 (§4: what is done with a
release afterwards, knowing its noise, is free); Benaych-Georges and Nadakuditi 2011 (eigenvalues under symmetric
noise).
"""

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from engine.encoders.encoder import Vectors
from engine.errors import ModelError
from engine.model.checkpoint import Checkpoint
from engine.model.inputs import NAME_WORDING
from engine.model.scoring import BIAS_GAIN, SCALE
from engine.model.summary import SCATTER_GAIN, SCATTER_NORM, WEIGHT_GAIN, SummaryPlan, unpacked

Floats = npt.NDArray[np.float64]

# Directions that are asked for: this over the root of the noise on a number, at most so many.
DIRECTIONS, MOST_DIRECTIONS = 8.0, 384
# The scatter is asked for where the noise on a number is at most so much, along this share of the directions.
SCATTER_NOISE, SCATTER_SHARE = 0.001, 2 / 3
# Of wording beside meaning.
WORDING_WEIGHT = 0.5
# How far texts lie from their middle, for names that lie 1 from theirs.
NAME_SHARE = 0.33
# Logits per unit of the product of an input and a label's place, over the root of the number of directions; where the
# scatter is known it says itself what they are, and this share of it is taken, since texts do not spread normally.
SHARPNESS, SCATTER_SHARPNESS = 4.5, 0.6
# What the scatter is blended with: even scatter, this much of its mean.
SCATTER_RIDGE = 0.5
# The share of the scatter that must lie within labels.
LEAST_WITHIN = 0.25
# Of what labels are off, the share that those of like names have in common, and how fast that falls with the cosine.
IN_COMMON, LIKENESS = 0.6, 0.5
# Floors of the two spectra whose geometric mean says which directions are worth asking for.
_TEXT_FLOOR, _NAME_FLOOR = 1e-4, 1e-3
# Standard deviations of the noise that a figure must exceed to be believed at all, and to be believed in full.
_BELIEVED, _SURE = 2.0, 4.0


def plan_summary(start: Checkpoint, public: Vectors, *, noise_std: float) -> SummaryPlan:
    """Return what devices are to summarise against: ``start`` is the label names' model, ``public`` (n, D) any texts.

    ``noise_std`` is the standard deviation of the noise that each number of the mean will have: for a clip norm of
    `SUMMARY_NORM`, N devices and a noise multiplier z it is z/N. The less noise, the more is asked.
    The inputs of ``public`` texts say where texts lie and how they spread; no label of theirs is used. The directions
    are those along which both these texts and the label names differ much. The last ``wording`` inputs are
    wording (`engine.encoders.wording`). Raises `ModelError` for a start that has
    trained and for shapes that do not fit.
    """
    scale = _scale(start)
    names = _names(start, scale)
    if public.ndim != 2 or public.shape[1] != start.dimension or len(public) < 2:
        raise ModelError(f"Expected at least 2 public inputs of {start.dimension} numbers, got {public.shape}.")
    if not np.isfinite(public).all():
        raise ModelError("The public inputs hold NaN or infinity.")
    texts = public * scale
    middle = texts.mean(axis=0)
    directions = min(directions_for(noise_std), start.dimension)
    basis = _directions(texts - middle, names, directions)
    centres = (middle + NAME_SHARE * names) @ basis.T
    return SummaryPlan(
        basis=(basis * scale).astype(np.float32),
        centres=centres.astype(np.float32),
        scatter=round(SCATTER_SHARE * directions) if noise_std <= SCATTER_NOISE else 0,
    )


def directions_for(noise_std: float) -> int:
    """Return how many directions are asked for at this noise on each number of the mean.

    >>> directions_for(0.02), directions_for(0.002), directions_for(0.0)
    (56, 178, 384)
    """
    if not 0 <= noise_std < float("inf"):
        raise ModelError(f"Expected noise_std={noise_std} to be at least 0 and finite.")
    if noise_std <= (DIRECTIONS / MOST_DIRECTIONS) ** 2:
        return MOST_DIRECTIONS
    return max(1, int(DIRECTIONS / math.sqrt(noise_std)))


def summary_model(start: Checkpoint, plan: SummaryPlan, mean: Vectors, *, noise_std: float) -> Checkpoint:
    """Return the model that the mean of summaries (plan.length,) speaks for, ``noise_std`` of noise on each number.

    ``start`` and ``plan`` are as in `plan_summary`. It is a whole checkpoint that devices load, with the numbers of
    ``start`` where the mean says nothing beyond the noise. Raises `ModelError` for what is not finite or does not fit.
    """
    if not 0 <= noise_std < float("inf") or not np.isfinite(mean).all():
        raise ModelError("Expected a finite mean of summaries and a finite standard deviation of its noise.")
    if plan.classes != len(start.catalogue) or plan.basis.shape[1] != start.dimension:
        raise ModelError("The plan of the summaries is of another model.")
    scale = _scale(start)
    names = _names(start, scale)
    noise = noise_std / plan.share
    residuals, weights, scatter = unpacked(plan, mean)
    weights = _shrunk(weights, noise / WEIGHT_GAIN)
    off = _posterior(residuals, weights, _kernel(names), noise)
    if not off.any():
        return replace(start, round=start.round + 1)
    basis = plan.basis.astype(np.float64) / scale  # (d, D), orthonormal
    places = NAME_SHARE * names + off @ basis  # (C, D), from the middle of the public texts
    along = places @ basis.T
    metric, sharpness = np.eye(plan.directions), SHARPNESS * math.sqrt(plan.directions)
    within = _within(scatter, off[:, : plan.scatter], weights, noise) if plan.scatter else None
    if within is not None:
        metric, sharpness = _metric(within, along)
    middle = plan.centres.astype(np.float64).mean(axis=0)  # (d,), since names have mean 0
    vectors = places + (along @ metric - along) @ basis
    bias = -(along @ metric @ middle + 0.5 * (vectors * places).sum(axis=1))
    table = sharpness / SCALE * np.column_stack([vectors * scale, bias / BIAS_GAIN])
    before = start.flat.reshape(table.shape).astype(np.float64)
    table += before.mean(axis=0) - table.mean(axis=0)
    belief = _belief(residuals, noise)
    table = belief * table + (1.0 - belief) * before
    return replace(start, flat=table.reshape(-1).astype(np.float32), round=start.round + 1)


def _belief(residuals: Floats, noise: float) -> float:
    """Return how far residuals (C, d) are believed, from 0 to 1: by what their energy has beyond that of ``noise``."""
    beyond = float((residuals**2).sum()) - noise**2 * residuals.size
    usual = noise**2 * math.sqrt(2.0 * residuals.size)
    if beyond <= _BELIEVED * usual:
        return 0.0
    return 1.0 if beyond >= _SURE * usual else (beyond / usual - _BELIEVED) / (_SURE - _BELIEVED)


def _posterior(residuals: Floats, weights: Floats, kernel: Floats, noise: float) -> Floats:
    """Return by how much labels are off (C, d), from residuals (C, d) and weights (C,) with ``noise`` on each."""
    if not _belief(residuals, noise) or not weights.any():
        return np.zeros_like(residuals)
    beyond = float((residuals**2).sum()) - noise**2 * residuals.size
    variance = beyond / (float((weights**2).sum()) * residuals.shape[1])
    prior = variance * weights[:, None] * kernel * weights[None, :]
    values, vectors = np.linalg.eigh(prior)
    values = np.maximum(values, 0.0)
    kept = values > 1e-9 * values[-1]
    solved = vectors[:, kept] @ ((vectors[:, kept].T @ residuals) / (values[kept] + noise**2)[:, None])
    result: Floats = variance * (kernel * weights[None, :]) @ solved
    return result


def _within(scatter: Floats, off: Floats, weights: Floats, noise: float) -> Floats | None:
    """Return how texts scatter around their labels' places (s, s), positive definite; ``None`` where that is not known.

    From the scatter around the centres, that of what labels are ``off`` (C, s) is taken out. What is left is even
    scatter and the eigenvalues that differ from it by more than noise alone makes them, less what noise adds to these.
    """
    size = len(scatter)
    inner = scatter - (off * (weights / weights.sum())[:, None]).T @ off
    even = float(np.trace(inner)) / size
    if even <= LEAST_WITHIN * float(np.trace(scatter)) / size or even <= 0:
        return None  # Devices clip a scatter that is too large, and what labels are off is not clipped.
    edge = 2.0 * math.sqrt(size) * noise * SCATTER_NORM / SCATTER_GAIN / math.sqrt(2.0)
    values, vectors = np.linalg.eigh(inner - even * np.eye(size))
    beyond = np.sqrt(np.maximum(values**2 - edge**2, 0.0))
    kept = np.where(np.abs(values) > edge, np.sign(values) * (np.abs(values) + beyond) / 2.0, 0.0)
    result: Floats = (vectors * (np.maximum(even + kept, 0.0) + SCATTER_RIDGE * even)) @ vectors.T
    return result


def _metric(within: Floats, along: Floats) -> tuple[Floats, float]:
    """Return the metric (d, d) in which labels are told apart along d directions, and how sharply.

    Directions beyond those of ``within`` (s, s) count as even ones; ``along`` (C, d) are the labels' places.
    """
    size, count = len(within), along.shape[1]
    even = float(np.trace(within)) / size
    metric, spread = np.eye(count), even * np.eye(count)
    metric[:size, :size] = even * np.linalg.inv(within)
    spread[:size, :size] = within
    apart = along @ metric
    sharpness = float((apart * along).sum()) / max(float((apart @ spread * apart).sum()), 1e-12)
    return metric, SCATTER_SHARPNESS * sharpness


def _shrunk(weights: Floats, noise: float) -> Floats:
    """Return the labels' weights (C,) drawn to their mean as far as ``noise`` on each asks; 0 where it drowns them."""
    mean = float(weights.mean())
    if mean <= _BELIEVED * noise / math.sqrt(len(weights)):
        return np.zeros_like(weights)
    spread = max(float(weights.var()) - noise**2, 0.0)
    share = spread / (spread + noise**2) if spread else 0.0
    # Every label is some device's, and a device with it gives it at least so much.
    least = np.zeros_like(weights) if noise == 0 else np.full_like(weights, 0.1 * mean)
    return np.maximum(mean + share * (weights - mean), least)


def _directions(texts: Floats, names: Floats, count: int) -> Floats:
    """Return orthonormal directions (count, D), those where the spreads of texts and of names are both large."""
    size = texts.shape[1]
    spread, apart = texts.T @ texts, names.T @ names
    spread *= 1.0 / max(float(np.trace(spread)), 1e-30)
    apart *= 1.0 / max(float(np.trace(apart)), 1e-30)
    values, vectors = np.linalg.eigh(spread + _TEXT_FLOOR * np.eye(size))
    root = (vectors * np.sqrt(values)) @ vectors.T
    _, both = np.linalg.eigh(root @ (apart + _NAME_FLOOR * np.eye(size)) @ root)
    found: Floats = both[:, ::-1].T[:count]
    return found


def _kernel(names: Floats) -> Floats:
    """Return the prior correlation (C, C) of what labels are off."""
    unit = names / np.maximum(np.linalg.norm(names, axis=1, keepdims=True), 1e-12)
    kernel: Floats = IN_COMMON * np.exp((unit @ unit.T - 1.0) / LIKENESS) + (1.0 - IN_COMMON) * np.eye(len(names))
    return kernel


def _names(start: Checkpoint, scale: Floats) -> Floats:
    """Return the encoded label names (C, D), scaled, around their middle. Raises `ModelError` for a trained model."""
    if start.round:
        raise ModelError(f"Expected the label names' own model, got one after round {start.round}.")
    table = start.flat.reshape(len(start.catalogue), start.dimension + 1)[:, :-1] * scale
    table[:, start.dimension - start.wording :] /= NAME_WORDING  # To stand where a text of these words would.
    names: Floats = table - table.mean(axis=0)
    return names


def _scale(start: Checkpoint) -> Floats:
    """Return how much each input counts (D,): wording stands last."""
    scale = np.ones(start.dimension)
    scale[start.dimension - start.wording :] = WORDING_WEIGHT
    return scale
