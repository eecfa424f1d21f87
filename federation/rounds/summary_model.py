"""The shared model from one private release: what the server asks devices for, and what it makes of the noised mean.

Every text's inputs are taken to spread normally around its label's place, all labels alike. Before anything is known a
label lies where its name says, a third as far from the middle of public texts as names lie from one another; devices'
summaries (`engine.model.summary`) say how far off that is. What noise of a known size leaves to believe is the
posterior mean under a normal prior whose variance is what the released residuals have beyond the noise: no step size is
set anywhere, and where the noise drowns all, the answer is the names' own model. Labels of like names are off alike, so
they share what they learn.

Sources: Fisher 1936 (the discriminant); Robbins 1956, James and Stein 1961, Efron and Morris 1973 (empirical Bayes);
Rasmussen and Williams 2006 (§2.2: the posterior mean under a kernel); Balle and Wang 2018 (§4: denoising by what is
known of the noise is free post-processing).
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from engine.encoders.encoder import Vectors
from engine.encoders.spelling import SPELLING
from engine.errors import ModelError
from engine.model.checkpoint import Checkpoint
from engine.model.scoring import BIAS_GAIN, SCALE
from engine.model.summary import WEIGHT_GAIN, SummaryPlan, unpacked

Floats = npt.NDArray[np.float64]

DIRECTIONS = 96
# Of spelling beside meaning.
SPELLING_WEIGHT = 0.5
# How far texts lie from their middle, for names that lie 1 from theirs.
NAME_SHARE = 0.33
# Logits per unit of the product of an input and a label's place.
SHARPNESS = 45.0
# Of what labels are off, the share that those of like names have in common, and how fast that falls with the cosine.
IN_COMMON, LIKENESS = 0.6, 0.5
# Floors of the two spectra whose geometric mean says which directions are worth asking for.
_TEXT_FLOOR, _NAME_FLOOR = 1e-4, 1e-3
# Standard deviations of the noise that a figure must exceed to be believed.
_BELIEVED = 2.0


def plan_summary(
    start: Checkpoint,
    public: Vectors,
    *,
    directions: int = DIRECTIONS,
    scatter: int = 0,
    with_spelling: bool = True,
) -> SummaryPlan:
    """Return what devices are to summarise against: ``start`` is the label names' model, ``public`` (n, D) any texts.

    The inputs of ``public`` texts say where texts lie and how they spread; no label of theirs is used. The directions
    are those along which both these texts and the label names differ much. ``with_spelling`` is as in
    `start_checkpoint`. Raises `ModelError` for a start that has
    trained and for shapes that do not fit.
    """
    scale = _scale(start.dimension, with_spelling)
    names = _names(start, scale)
    if public.ndim != 2 or public.shape[1] != start.dimension or len(public) < 2:
        raise ModelError(f"Expected at least 2 public inputs of {start.dimension} numbers, got {public.shape}.")
    if not np.isfinite(public).all():
        raise ModelError("The public inputs hold NaN or infinity.")
    texts = public * scale
    middle = texts.mean(axis=0)
    directions = min(directions, start.dimension)
    basis = _directions(texts - middle, names, directions)
    centres = (middle + NAME_SHARE * names) @ basis.T
    return SummaryPlan(
        basis=(basis * scale).astype(np.float32),
        centres=centres.astype(np.float32),
        scatter=min(scatter, directions),
        with_spelling=with_spelling,
    )


def summary_model(start: Checkpoint, plan: SummaryPlan, mean: Vectors, *, noise_std: float) -> Checkpoint:
    """Return the model that the mean of summaries (plan.length,) speaks for, ``noise_std`` of noise on each number.

    ``start`` and ``plan`` are as in `plan_summary`. It is a whole checkpoint that devices load. Raises `ModelError` for
    what is not finite or does not fit.
    """
    if not 0 <= noise_std < float("inf") or not np.isfinite(mean).all():
        raise ModelError("Expected a finite mean of summaries and a finite standard deviation of its noise.")
    if plan.classes != len(start.catalogue) or plan.basis.shape[1] != start.dimension:
        raise ModelError("The plan of the summaries is of another model.")
    scale = _scale(start.dimension, plan.with_spelling)
    names = _names(start, scale)
    residuals, weights, _ = unpacked(plan, mean)
    off = _posterior(residuals, weights, _kernel(names), noise_std / plan.share)
    basis = plan.basis.astype(np.float64) / scale
    places = NAME_SHARE * names + off @ basis  # (C, D), from the middle of the public texts
    middle = plan.centres.astype(np.float64).mean(axis=0)  # (d,), since names have mean 0
    bias = -((places @ basis.T) @ middle + 0.5 * (places**2).sum(axis=1))
    table = SHARPNESS / SCALE * np.column_stack([places * scale, bias / BIAS_GAIN])
    return replace(start, flat=table.reshape(-1).astype(np.float32), round=start.round + 1)


def _posterior(residuals: Floats, weights: Floats, kernel: Floats, noise: float) -> Floats:
    """Return by how much labels are off (C, d), from residuals (C, d) and weights (C,) with ``noise`` on each."""
    weights = _shrunk(weights, noise / WEIGHT_GAIN)
    beyond = float((residuals**2).sum()) - noise**2 * residuals.size
    if beyond <= _BELIEVED * noise**2 * np.sqrt(2.0 * residuals.size) or not weights.any():
        return np.zeros_like(residuals)
    variance = beyond / (float((weights**2).sum()) * residuals.shape[1])
    prior = variance * weights[:, None] * kernel * weights[None, :]
    values, vectors = np.linalg.eigh(prior)
    values = np.maximum(values, 0.0)
    kept = values > 1e-9 * values[-1]
    solved = vectors[:, kept] @ ((vectors[:, kept].T @ residuals) / (values[kept] + noise**2)[:, None])
    result: Floats = variance * (kernel * weights[None, :]) @ solved
    return result


def _shrunk(weights: Floats, noise: float) -> Floats:
    """Return the labels' weights (C,) drawn to their mean as far as ``noise`` on each asks; 0 where it drowns them."""
    mean = float(weights.mean())
    if mean <= _BELIEVED * noise / np.sqrt(len(weights)):
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
    names: Floats = table - table.mean(axis=0)
    return names


def _scale(dimension: int, with_spelling: bool) -> Floats:
    """Return how much each input counts (D,): spelling, where there is any, stands last."""
    scale = np.ones(dimension)
    if with_spelling:
        if dimension <= SPELLING:
            raise ModelError(f"A model of {dimension} floats a label has no spelling: say so.")
        scale[-SPELLING:] = SPELLING_WEIGHT
    return scale
