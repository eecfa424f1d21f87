"""Texts and labels out of updates: what a server that attacks the rounds' own gradients recovers.

The server sends a model of zeros and a learning rate so large that each update is as long as the clip lets it be: a
label's row is then a sum of the vectors of the texts with that label, less what all labels have in common, and its bias
tells how many. Rows are looked for in single updates, in sums of 20 without noise, and in sums with the noise of
private mode, as the fewest devices that a lying server can unmask together leave it. A label is guessed, for a device
of which nothing else is known, by what the server knows of texts with each label. Sources: Zhu, Liu and Han 2019, "Deep
Leakage from Gradients"; Phong et al. 2018 (a row over its bias); Wainakh et al. 2022 (labels).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.encoders.encoder import Vectors
from engine.model.scoring import BIAS_GAIN
from engine.model.training import TrainingPlan, train
from federation.audit.crowd import DEVICES, EPSILON, LABELS, POINTS, TEXTS, Texts, noise_within, texts_of
from federation.audit.finding import Finding, Ground, at_most, reported
from federation.audit.summaries import summary_findings
from federation.privacy import mechanism, update
from federation.privacy.parameters import NoiseParameters
from federation.privacy.stream import SecureStream

AUDIT = "gradient inversion"
COSINE = 0.95
ROUNDS = 4  # Of a run of training.
FEW, TARGETS = 12, 100
_GREEDY = TrainingPlan(steps=1, learning_rate=300.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """What 20 devices add up to, (LABELS, d + 1), and what they hold: vectors (n, d), labels (n,), and whose (n,)."""

    seen: npt.NDArray[np.float64]
    x: Vectors
    y: npt.NDArray[np.int64]
    whose: npt.NDArray[np.int64]


def audit(ground: Ground) -> list[Finding]:
    """Return the findings on texts and on labels."""
    sums = ground.sized(120, 1000)
    texts = texts_of(ground.encoder)
    with ground.progress(AUDIT, 4 + sums + sums // 2 + sums // 4) as tick:
        found = _rows(texts, ground.rng, tick)
        configured = _label_rate(texts, _noise(texts, ROUNDS), sums, ground.rng, tick)
        # A server that adds up the same devices' sums of a whole run sees as much as one of a single round at this ε.
        at_once = _label_rate(texts, _noise(texts, 1), sums // 2, ground.rng, tick)
        bare = _label_rate(texts, None, sums // 4, ground.rng, tick)
        summaries = summary_findings(texts, ground, audit=AUDIT)
        tick()
    note = f"of one device of {DEVICES}; chance {1 / LABELS:.2f}; ε = {EPSILON:g}"
    return [
        *found,
        at_most(
            "label rate, private sums of training",
            configured,
            1 / LABELS + POINTS,
            f"{note} over {ROUNDS} rounds, of which the server sees one; {sums} sums",
            audit=AUDIT,
        ),
        reported("label rate, private sums of training, a whole run", at_once, f"{note} in one round", audit=AUDIT),
        reported("label rate, sums without noise", bare, note.rsplit(";", 1)[0], audit=AUDIT),
        *summaries,
    ]


def _rows(texts: Texts, rng: np.random.Generator, tick: Callable[[], None]) -> list[Finding]:
    """Rows recovered of 100, by what the server sees."""
    each = TARGETS // DEVICES
    alone = [_sum(texts, 1, None, rng, devices=1) for _ in range(TARGETS)]
    tick()
    bare = {count: [_sum(texts, count, None, rng) for _ in range(each)] for count in (1, FEW)}
    tick()
    private = [_sum(texts, 1, _noise(texts, ROUNDS), rng) for _ in range(each)]
    tick()
    one = "of 100; devices with one memory"
    return [
        reported("texts recovered, single updates", _recovered(alone, rng), one, audit=AUDIT),
        reported("texts recovered, sums without noise, one memory", _recovered(bare[1], rng), one, audit=AUDIT),
        at_most(
            "texts recovered, sums without noise",
            _recovered(bare[FEW], rng),
            0,
            f"of 100; {DEVICES} devices with {FEW} memories",
            audit=AUDIT,
        ),
        at_most("texts recovered, private sums", _recovered(private, rng), 0, f"{one}, ε = {EPSILON:g}", audit=AUDIT),
    ]


def _recovered(sums: Sequence[Sum], rng: np.random.Generator) -> int:
    """How many of one memory a device, taken by chance, the server has with a cosine above 0.95."""
    count = 0
    for one in sums:
        guesses = recovered_rows(one.seen)
        for device in np.unique(one.whose):
            target = one.x[rng.choice(np.flatnonzero(one.whose == device))]
            count += bool((guesses @ target).max() > COSINE)
    return count


def recovered_rows(seen: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the server's guesses (g, d) at texts' vectors, at unit length, from a sum of updates (C, d + 1).

    A label's row; the row without what rows of labels that nobody has (their bias fell) have in common, its mean or its
    direction.
    """
    rows, bias = seen[:, :-1], seen[:, -1]
    guesses = [rows]
    absent = rows[bias < 0]
    if len(absent):
        common = absent.mean(axis=0)
        along = common / max(float(np.linalg.norm(common)), 1e-12)
        guesses += [rows - common, rows - (rows @ along)[:, None] * along]
    stacked = np.concatenate(guesses)
    lengths = np.linalg.norm(stacked, axis=1, keepdims=True)
    whole: npt.NDArray[np.float64] = stacked / np.maximum(lengths, 1e-12)
    return whole


def _label_rate(
    texts: Texts, noise: NoiseParameters | None, sums: int, rng: np.random.Generator, tick: Callable[[], None]
) -> float:
    """How often the server guesses the label of one device's memory right, by the best match in the sum."""
    hits, known = 0.0, texts.known
    for _ in range(sums):
        one = _sum(texts, 1, noise, rng)
        match = (one.seen[:, :-1] * known).sum(axis=1) + BIAS_GAIN * one.seen[:, -1]
        hits += float((one.y == match.argmax()).mean())
        tick()
    return hits / sums


def _sum(
    texts: Texts, memories: int, noise: NoiseParameters | None, rng: np.random.Generator, *, devices: int = DEVICES
) -> Sum:
    """The sum of the updates of devices with so many ``memories`` each, their labels skewed where it is several."""
    flat = np.zeros(LABELS * (texts.dimension + 1), dtype=np.float32)
    stream, xs, ys = SecureStream(), [], []
    bare, total = np.zeros(flat.size), np.zeros(flat.size, dtype=np.uint32)
    for _ in range(devices):
        skew = rng.dirichlet(np.full(LABELS, 0.3)) if memories > 1 else np.full(LABELS, 1 / LABELS)
        y = rng.choice(LABELS, size=memories, p=skew)
        x = texts.held[y, rng.integers(TEXTS, size=memories)]
        delta = train(flat, x, y, plan=_GREEDY, rng=rng) - flat
        if noise is None:
            bare += update.clip(delta, 1.0)
        else:
            total += mechanism.privatise(delta, noise, stream)
        xs.append(x)
        ys.append(y)
    seen = bare if noise is None else mechanism.decode(total, noise, denominator=1.0).astype(np.float64)
    return Sum(
        seen=seen.reshape(LABELS, -1),
        x=np.concatenate(xs),
        y=np.concatenate(ys),
        whose=np.repeat(np.arange(devices), memories),
    )


def _noise(texts: Texts, rounds: int) -> NoiseParameters:
    return noise_within(LABELS * (texts.dimension + 1), rounds)
