"""Twenty devices with a memory each, of twenty labels, whose private sum a server looks into: texts and noise.

The texts are those of the generated population with the labels that have most; a server knows others of each label.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from engine.encoders.encoder import Encoder, Vectors
from engine.owner.modes import PRIVATE
from federation.audit.accounted import accounted_noise
from federation.population import generate
from federation.privacy.parameters import NoiseParameters
from federation.rounds.config import default

# What a private run keeps within where nothing is said.
EPSILON, DELTA = (default(name, PRIVATE) for name in ("epsilon", "delta"))
LABELS, DEVICES, POINTS = 20, 20, 0.05
TEXTS = 16  # Of each label, on devices.


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Unit vectors (LABELS, TEXTS, d) of the texts that devices hold, and what a server knows of each label."""

    held: Vectors
    others: Vectors  # (LABELS, TEXTS, d): other people's
    names: tuple[str, ...]

    @property
    def dimension(self) -> int:
        """d."""
        return int(self.held.shape[2])

    @property
    def known(self) -> Vectors:
        """The direction (LABELS, d) of other people's texts with each label."""
        mean = self.others.mean(axis=1)
        unit: Vectors = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return unit


def noise_within(dimension: int, rounds: int) -> NoiseParameters:
    """The noise of a run of ``rounds`` within the default ε, all devices in each; `DEVICES` are the fewest unmasked."""
    return accounted_noise(EPSILON, delta=DELTA, devices=DEVICES, dimension=dimension, rounds=rounds)


def texts_of(encoder: Encoder) -> Texts:
    """Texts of the generated population with the labels that have most, half for devices and half for the server."""
    by_label: dict[str, set[str]] = defaultdict(set)
    for row in generate(40, seed=1).rows:
        by_label[row.label].add(row.text)
    labels = sorted(by_label, key=lambda label: (-len(by_label[label]), label))[:LABELS]
    chosen = [sorted(by_label[label])[: 2 * TEXTS] for label in labels]
    vectors = encoder.encode([text for texts in chosen for text in texts]).reshape(LABELS, 2 * TEXTS, -1)
    held, others = (np.ascontiguousarray(vectors[:, part::2]) for part in (0, 1))
    return Texts(held=held, others=others, names=tuple(labels))
