"""Caution: how many times as likely as the shared model's first answer another one must be to take its place.

To change an answer pays where memories know better, and costs where they only seem to. How often they do differs much
between populations, and a device's few judged memories hardly show it. So each device counts, on its own evidence, how
many more right first answers its population's weights give than the shared model, at several cautions; only sums over
devices are looked at, and of what they gain one standard error is taken off, so that chance alone changes nothing. A
device's own gain at each caution is shrunk to that of all, and the caution with the highest is the device's: nearly the
shared model's own answers where nothing is gained. *Cautious* answers take the highest caution that keeps half of what
all devices gain, or three times where that is more. Sources: Efron and Morris 1975 (shrinking many estimates by what
their ensemble shows); Breiman et al. 1984 (the rule of one standard error); Chow 1970 (a decision only where it is sure
enough).

>>> gained, changed = [10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 2.0, 0.0], [16.0, 9.0, 9.0, 9.0, 4.0, 4.0, 4.0, 4.0, 0.0]
>>> gains = gains_of(np.array([100.0, *gained, *changed]))
>>> gains[:3].tolist(), cautious_of(gains)
([0.06, 0.06, 0.05], 6.0)
>>> own_caution(np.zeros(CAUTION_MARKS), gains), own_caution(np.array([9.0, -2.0, *[0.0] * 17]), gains)
(1.5, 1.5)
"""

import numpy as np

from engine.errors import ModelError
from engine.personal.rescorer import Floats, Judged

CAUTIONS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0, 20.0, 40.0)
"""What may be asked for; the first is none."""
CAUTION_MARKS = 1 + 2 * len(CAUTIONS)
"""Floats of a device's marks: judged memories, what is gained at each of `CAUTIONS`, and how many answers turn from
right to wrong or the other way."""
PUBLIC_GAINS = (0.064, 0.06, 0.054, 0.046, 0.041, 0.032, 0.023, 0.012, 0.004)
"""The gains of all devices where no more is known: those of generated people, by ``benchmarks/public_weights.py``."""
# Judged memories that the gains of all devices count as.
GAIN_ROWS = 200.0
# Of the gain of all devices, what cautious answers must keep; and what they ask for at least.
KEPT, LEAST_CAUTIOUS = 0.5, 3.0


def raised(scores: Floats, first: np.ndarray[tuple[int], np.dtype[np.intp]], caution: float) -> Floats:
    """Return log probabilities (n, C) with those of the labels ``first`` (n,) counted ``caution`` times."""
    ranking = scores.copy()
    ranking[np.arange(len(ranking)), first] += np.log(caution)
    return ranking


def caution_marks(judged: Judged, weights: Floats, *, public: int) -> Floats:
    """Return the marks (CAUTION_MARKS,) of a device's evidence at ``weights`` (K,), where some labels are public.

    Counts, so sums over devices are too.
    """
    if not len(judged.y) or not public:
        return np.zeros(CAUTION_MARKS)
    shared, rows = judged.phi[:, :public, 0].argmax(axis=1), np.arange(len(judged.y))
    scores = judged.phi @ weights
    asked = scores[rows, shared, None] + np.log(CAUTIONS)  # (e, len(CAUTIONS)): what another label must have.
    scores[rows, shared] = -np.inf
    other = scores.argmax(axis=1)
    best = scores[rows, other, None]
    changes = (best > asked) | ((best == asked) & (other < shared)[:, None])  # As `raised` ranks equal ones.
    turns = changes * ((other == judged.y).astype(np.float64) - (shared == judged.y))[:, None]
    return np.concatenate([[len(judged.y)], turns.sum(axis=0), np.abs(turns).sum(axis=0)])


def gains_of(summed: Floats) -> Floats:
    """Return the right answers gained per judged memory at each of `CAUTIONS`, less one standard error, from -1 to 1.

    Of summed marks (CAUTION_MARKS,); public ones where no memory was judged. Raises `ModelError` for other sums.
    """
    if summed.shape != (CAUTION_MARKS,) or not np.isfinite(summed).all():
        raise ModelError(f"Expected {CAUTION_MARKS} finite sums of marks.")
    if summed[0] <= 0:
        return np.array(PUBLIC_GAINS)
    gained, changed = np.split(summed[1:], 2)
    gains: Floats = np.clip((gained - np.sqrt(np.maximum(changed, 0.0))) / summed[0], -1.0, 1.0)
    return gains


def check_gains(gains: Floats) -> None:
    """Raise `ModelError` unless ``gains`` are shares of memories (len(CAUTIONS),), from -1 to 1."""
    if gains.shape != (len(CAUTIONS),) or gains.dtype != np.float64 or not np.abs(gains).max() <= 1:
        raise ModelError(f"Expected gains at {len(CAUTIONS)} cautions, each a share of the memories from -1 to 1.")


def cautious_of(gains: Floats) -> float:
    """Return the caution of cautious answers: the highest that keeps `KEPT` of the most that all devices gain.

    Between two of `CAUTIONS` gains fall as straight lines over the logarithm. At least `LEAST_CAUTIOUS`: what cautious
    answers promise holds where that keeps less, too.
    """
    most = gains.max()
    least = min(KEPT * most, most)
    last = int(np.flatnonzero(gains >= least)[-1])
    caution = CAUTIONS[last]
    if last + 1 < len(CAUTIONS):
        share = (gains[last] - least) / (gains[last] - gains[last + 1])
        caution *= (CAUTIONS[last + 1] / caution) ** float(share)
    return max(caution, LEAST_CAUTIOUS)


def own_caution(marks: Floats, gains: Floats) -> float:
    """Return a device's own caution by its marks (CAUTION_MARKS,) and the ``gains`` of all; of equal ones the higher.

    Few judged memories tell little, so the gains of all count as `GAIN_ROWS` more.
    """
    shrunk = marks[1 : 1 + len(CAUTIONS)] + GAIN_ROWS * gains
    return CAUTIONS[int(np.flatnonzero(shrunk >= shrunk.max())[-1])]
