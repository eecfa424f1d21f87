"""Caution: how many times as likely as the shared model's first answer another one must be to take its place.

To change an answer pays where memories know better, and costs where they only seem to. How often they do differs much
between populations, and a device's few judged memories hardly show it. So each device counts, on its own evidence, how
many more right first answers its population's weights give than the shared model, at several cautions; only sums over
devices are looked at. From these follow the gain per judged memory, to which a device shrinks its own, and the caution
of *cautious* answers: the highest that keeps half of what all devices gain. Sources: Efron and Morris 1975 (shrinking
many estimates by what their ensemble shows); Chow 1970 (a decision only where it is sure enough).

>>> summed = np.array([100.0, 10.0, 9.0, 7.0, 5.0, 4.0, 1.0])
>>> gain_of(summed), cautious_of(summed)
(0.1, 10.0)
>>> own_caution(judged=20, gained=-3, gain=0.1), own_caution(judged=20, gained=-6, gain=0.1)
(1.0, 1.5)
"""

import numpy as np

from engine.errors import ModelError
from engine.personal.rescorer import Floats, Judged

CAUTIONS = (4.0, 6.0, 10.0, 20.0, 40.0)
"""What cautious answers may ask for; the first where no more is known."""
CAUTION_MARKS = 2 + len(CAUTIONS)
"""Floats of a device's marks: judged memories, what is gained without caution, and at each of `CAUTIONS`."""
# The caution of a device whose gain, its own shrunk to that of all, is below this share of its memories.
UNPROVEN_CAUTION, LEAST_GAIN = 1.5, 0.01
# Judged memories that the gain of all devices counts as.
GAIN_ROWS = 50.0
# The gain of all devices where no more is known.
PUBLIC_GAIN = 0.02
# Of the gain of all devices, what cautious answers must keep.
KEPT = 0.5


def raised(scores: Floats, first: np.ndarray[tuple[int], np.dtype[np.intp]], caution: float) -> Floats:
    """Return log probabilities (n, C) with those of the labels ``first`` (n,) counted ``caution`` times."""
    ranking = scores.copy()
    ranking[np.arange(len(ranking)), first] += np.log(caution)
    return ranking


def caution_marks(judged: Judged, weights: Floats, *, public: int, cautions: tuple[float, ...] = CAUTIONS) -> Floats:
    """Return the marks (2 + len(cautions),) of a device's evidence at ``weights`` (K,), where some labels are public.

    Counts, so sums over devices are too.
    """
    if not len(judged.y) or not public:
        return np.zeros(2 + len(cautions))
    shared = judged.phi[:, :public, 0].argmax(axis=1)
    before, scores = int((shared == judged.y).sum()), judged.phi @ weights
    right = [int((raised(scores, shared, one).argmax(axis=1) == judged.y).sum()) for one in (1.0, *cautions)]
    return np.array([len(judged.y), *(one - before for one in right)], dtype=np.float64)


def gain_of(summed: Floats) -> float:
    """Return the right answers gained per judged memory, from -1 to 1, of summed marks (CAUTION_MARKS,)."""
    _check(summed)
    return float(np.clip(summed[1] / summed[0], -1.0, 1.0)) if summed[0] > 0 else PUBLIC_GAIN


def cautious_of(summed: Floats) -> float:
    """Return the caution of cautious answers: the highest that keeps `KEPT` of what is gained without."""
    _check(summed)
    kept = [one for one, gained in zip(CAUTIONS, summed[2:], strict=True) if gained >= KEPT * summed[1]]
    return max(kept, default=CAUTIONS[0]) if summed[1] > 0 else CAUTIONS[0]


def own_caution(*, judged: int, gained: int, gain: float) -> float:
    """Return a device's own caution (1 is none): of ``gained`` right answers in ``judged``, and the ``gain`` of all."""
    return UNPROVEN_CAUTION if gained + GAIN_ROWS * gain < LEAST_GAIN * (judged + GAIN_ROWS) else 1.0


def _check(summed: Floats) -> None:
    if summed.shape != (CAUTION_MARKS,) or not np.isfinite(summed).all():
        raise ModelError(f"Expected {CAUTION_MARKS} finite sums of marks.")
