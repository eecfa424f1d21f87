"""Whether probabilities mean what they say: expected calibration error and negative log likelihood.

A method that says 0.8 should be right in eight of ten such answers. The error is taken over 15 bins of equally many
answers, so that no bin rests on a handful; a method that is always as sure as it is right has none.

Sources: Guo et al. 2017, *On Calibration of Modern Neural Networks* (eq. 3: ECE); Nixon et al. 2019, *Measuring
Calibration in Deep Learning* (bins of equal mass).

>>> round(expected_calibration_error([0.5, 0.5, 0.9, 0.9], [True, False, True, True], bins=2), 3)
0.05
"""

import math
from collections.abc import Sequence

import numpy as np

from engine.device.evaluation import Answers

BINS = 15


def expected_calibration_error(confidence: Sequence[float], hits: Sequence[bool], *, bins: int = BINS) -> float:
    """Return Σ over bins of their share times |mean confidence − accuracy|, for n answers sorted by confidence.

    The bins' sizes differ by one at most; equal confidences are sorted by position. Raises ``ValueError`` for none.
    """
    if not len(confidence) or len(confidence) != len(hits):
        raise ValueError(f"Expected as many hits as confidences, and some: {len(hits)} and {len(confidence)}.")
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(hits, dtype=np.float64)
    order = np.argsort(sure, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return float(sum(len(part) * abs(sure[part].mean() - right[part].mean()) for part in parts) / len(sure))


def calibration(answers: Sequence[Answers]) -> dict[str, float]:
    """Return ``{"ece"}`` over all rows of one method, and ``"nll"`` (nats) over those whose label is public, if any."""
    confidence = [sure for one in answers for sure in one.confidence]
    hits = [rank == 1 for one in answers for rank in one.ranks]
    logs = [log for one in answers for log in one.log_likelihood if log is not None]
    found = {"ece": expected_calibration_error(confidence, hits)}
    return found | ({"nll": -math.fsum(logs) / len(logs)} if logs else {})
