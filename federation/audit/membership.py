"""Who took part, from the released model: a likelihood-ratio attack on devices, by many releases with and without each.

The attacker has everything but one bit a device: the model before and after, all updates, and many releases in which it
knows who took part. Its score is the model's change along the device's own update, in standard deviations of releases
without it: LiRA (Carlini et al. 2022, "Membership Inference Attacks From First Principles", §IV, offline), for whole
devices. Two kinds: ordinary people of the generated population, and canaries, who hold one text with a wrong label so
often that their updates are as long as the clip lets them be.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.encoders.encoder import Encoder
from engine.model.training import TrainingPlan, train
from federation.audit.accounted import accounted_noise
from federation.audit.finding import Finding, Ground, at_most
from federation.population import generate
from federation.privacy import mechanism
from federation.privacy.stream import SecureStream
from federation.privacy.update import Floats, l2_norm

AUDIT = "membership inference"
EPSILON, DELTA = 2.0, 1e-5
FALSE_POSITIVES, ORDINARY_LIMIT = 0.01, 0.02
PEOPLE, CANARIES, LABELS = 24, 16, 12
_ROWS, _COPIES = 24, 100
_ERRORS = 4.5  # Standard errors that a rate must be above its limit by: 3 in a million by chance.


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Of each device in each release, (releases, devices): its score, and whether it was in."""

    score: npt.NDArray[np.float64]
    inside: npt.NDArray[np.bool_]


def audit(ground: Ground) -> list[Finding]:
    """Return the findings on ordinary people and on canaries."""
    releases = ground.sized(120, 2000)
    updates = _updates(ground.encoder, ground.rng)
    with ground.progress(AUDIT, releases) as tick:
        scores = _scores(updates, releases, ground.rng, tick)
    ordinary, canaries = (_rates(scores, who) for who in (slice(0, PEOPLE), slice(PEOPLE, None)))
    bound = float(np.exp(EPSILON)) * canaries.false_most + DELTA
    about = f"at {FALSE_POSITIVES:.0%} false positives, ε = {EPSILON:g}, {releases} releases; measured"
    return [
        at_most(
            "true positives, ordinary members, at least",
            ordinary.true_least,
            ORDINARY_LIMIT,
            f"{about} {ordinary.true:.3f}",
            audit=AUDIT,
        ),
        at_most(
            "true positives, canaries, at least",
            canaries.true_least,
            round(bound, 4),
            f"{about} {canaries.true:.3f}; limit e^ε·FPR + δ by its interval",
            audit=AUDIT,
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """The share of members found, its lower end, and the upper end of the share of others that is taken for members."""

    true: float
    true_least: float
    false_most: float


def _rates(scores: Scores, who: slice) -> Rates:
    score, inside = scores.score[:, who], scores.inside[:, who]
    away = np.where(inside, np.nan, score)
    standard = (score - np.nanmean(away, axis=0)) / np.nanstd(away, axis=0)
    threshold = float(np.quantile(standard[~inside], 1 - FALSE_POSITIVES))
    found = standard > threshold
    true, true_error = _share(found, inside)
    false, false_error = _share(found, ~inside)
    return Rates(true=true, true_least=max(0.0, true - _ERRORS * true_error), false_most=false + _ERRORS * false_error)


def _share(found: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """A share and its standard error; scores within a release hang together, so releases are what is counted."""
    hits, whole = (found & among).sum(axis=1), among.sum(axis=1)
    share = float(hits.sum() / whole.sum())
    residual = hits - share * whole
    return share, float(np.sqrt((residual**2).sum()) / whole.sum())


def _scores(updates: Floats, releases: int, rng: np.random.Generator, tick: Callable[[], None]) -> Scores:
    """Scores in releases of which each device was in one half, by chance."""
    devices, dimension = updates.shape
    noise, stream = accounted_noise(EPSILON, delta=DELTA, devices=devices, dimension=dimension), SecureStream()
    directions = updates / np.linalg.norm(updates, axis=1, keepdims=True)
    inside = rng.random((releases, devices)) < 0.5
    score = np.zeros((releases, devices))
    for release in range(releases):
        total = np.zeros(dimension, dtype=np.uint32)
        for device in range(devices):
            total += mechanism.privatise(updates[device] * np.float32(inside[release, device]), noise, stream)
        full = mechanism.top_up(total, devices, noise, stream)  # As the server evens out its noise.
        score[release] = directions @ mechanism.decode(full, noise, denominator=float(devices))
        tick()
    return Scores(score=score, inside=inside)


def _updates(encoder: Encoder, rng: np.random.Generator) -> Floats:
    """Updates (devices, d) of ordinary people and then of canaries, as they train."""
    rows = generate(PEOPLE, seed=2, rows_per_device=60).rows
    labels = [label for label, _ in Counter(row.label for row in rows).most_common(LABELS)]
    by_user = {
        user: [row for row in rows if row.user == user and row.label in labels][:_ROWS]
        for user in sorted({row.user for row in rows})
    }
    names = encoder.encode(labels)
    flat = np.concatenate([names, np.zeros((LABELS, 1), dtype=np.float32)], axis=1).reshape(-1)
    people = [
        (encoder.encode([row.text for row in own]), np.array([labels.index(row.label) for row in own]))
        for own in by_user.values()
    ]
    texts = np.concatenate([x for x, _ in people])
    for _ in range(CANARIES):
        x = np.repeat(texts[rng.integers(len(texts), size=1)], _COPIES, axis=0)
        people.append((x, np.full(_COPIES, rng.integers(LABELS))))
    changes = [train(flat, x, y, plan=TrainingPlan(), rng=rng) - flat for x, y in people]
    return np.stack([change * np.float32(_stretch(change, number)) for number, change in enumerate(changes)])


def _stretch(change: Floats, number: int) -> float:
    """A canary's update is made as long as the clip lets it be; people's are as they are."""
    return max(1.0, 1 / l2_norm(change)) if number >= PEOPLE else 1.0
