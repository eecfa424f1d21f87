"""Labels out of a private release of summaries, which is what a private run is where nothing is said.

Each of 20 devices with one memory gives its summary, of an L2 norm of 1 whatever it holds. A server that keeps to the
plan of the rounds guesses a device's label by which label's residual lies most as other people's texts do. One that
lies about where texts are thought to lie makes every residual long and its direction known: that tells as much of
labels as ε allows anyone, and is reported.
"""

from collections.abc import Callable

import numpy as np

from engine.model.catalogue import Catalogue
from engine.model.checkpoint import Checkpoint
from engine.model.summary import WEIGHT_GAIN, Floats, SummaryPlan, summary, unpacked
from federation.audit.crowd import DEVICES, EPSILON, LABELS, POINTS, TEXTS, Texts, noise_within
from federation.audit.finding import Finding, Ground, at_most, reported
from federation.privacy import mechanism
from federation.privacy.stream import SecureStream
from federation.rounds.summary_model import plan_summary

_FAR = 100.0  # In lengths of a text's vector.
Match = Callable[[Floats, Floats], Floats]  # From residuals (C, d) and weights (C,) to a score of each label (C,).


def summary_findings(texts: Texts, ground: Ground, *, audit: str) -> list[Finding]:
    """Return the findings on the labels in one release at the default ε."""
    sums = ground.sized(900, 4000)
    plan = _plan(texts, ground)
    direct = (texts.others @ plan.basis.T).mean(axis=1) - plan.centres
    direct /= np.linalg.norm(direct, axis=1, keepdims=True)
    honest = _rate(
        plan, texts, lambda off, weights: (off * direct).sum(axis=1) + WEIGHT_GAIN**2 * weights, sums, ground
    )
    one_way = np.full((LABELS, plan.directions), -_FAR, dtype=np.float32)
    lying = SummaryPlan(basis=plan.basis, centres=one_way)
    told = _rate(lying, texts, lambda off, _: off.sum(axis=1), sums // 10, ground)
    note = f"of one device of {DEVICES}; chance {1 / LABELS:.2f}; ε = {EPSILON:g}, {sums} sums"
    return [
        at_most("label rate, private sums of summaries", honest, 1 / LABELS + POINTS, note, audit=audit),
        reported("label rate, summaries to a server that lies about centres", told, note, audit=audit),
    ]


def _plan(texts: Texts, ground: Ground) -> SummaryPlan:
    """What a server asks whose public texts are other people's, as the rounds make it."""
    names = ground.encoder.encode(texts.names)
    flat = np.concatenate([names, np.zeros((LABELS, 1), dtype=np.float32)], axis=1).reshape(-1)
    catalogue = Catalogue.from_names(texts.names)
    start = Checkpoint(flat=flat, dimension=texts.dimension, encoder=ground.encoder.fingerprint, catalogue=catalogue)
    public = texts.others.reshape(-1, texts.dimension)
    noise = noise_within(texts.dimension, 1)
    return plan_summary(start, public, noise_std=noise.noise_multiplier / DEVICES)


def _rate(plan: SummaryPlan, texts: Texts, match: Match, sums: int, ground: Ground) -> float:
    """How often the best match in the sum is the label of one device's memory."""
    noise, stream, hits = noise_within(plan.length, 1), SecureStream(), 0.0
    for _ in range(sums):
        labels = ground.rng.integers(LABELS, size=DEVICES)
        total = np.zeros(plan.length, dtype=np.uint32)
        for label in labels:
            x = texts.held[label, ground.rng.integers(TEXTS)][None]
            total += mechanism.privatise(summary(plan, x, np.array([label])), noise, stream)
        off, weights, _scatter = unpacked(plan, mechanism.decode(total, noise, denominator=1.0))
        hits += float((labels == match(off, weights).argmax()).mean())
    return hits / sums
