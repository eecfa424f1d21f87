"""What devices learn together for the re-scorer: one array from each, of which only the sum is looked at.

A device's answer holds the statistics of its leave-one-out likelihood, for a Newton step of the population's weights
(``rescorer.py``), its marks of κ (``shrinkage.py``), of cautions (``caution.py``) and of changed habits (``drift.py``).
It is that of a device with no private labels and none of their memories, so that it says nothing of these.

>>> learned = Learned().after(np.zeros(ANSWER_LENGTH))
>>> bool((learned.weights == PUBLIC_WEIGHTS).all()), learned.kappa, learned.gains[:2].tolist(), learned.cautious
(True, 100.0, [0.064, 0.06], 6.0)
"""

from dataclasses import dataclass, field

import numpy as np

from engine.errors import ModelError
from engine.personal.caution import CAUTION_MARKS, PUBLIC_GAINS, caution_marks, cautious_of, check_gains, gains_of
from engine.personal.drift import DRIFT_MARKS, NEVER, PUBLIC_CHANCE, drift_marks, least_chance_of, recency_from
from engine.personal.recency import LEAST_CHANCE, Recency
from engine.personal.rescorer import (
    KAPPA,
    PUBLIC_WEIGHTS,
    STATISTICS_LENGTH,
    Evidence,
    Floats,
    LabelledMemory,
    check_weights,
    evidence_features,
    log_softmax,
    newton_step,
    statistics,
)
from engine.personal.shrinkage import KAPPAS, chosen, marks

ANSWER_LENGTH = STATISTICS_LENGTH + len(KAPPAS) + CAUTION_MARKS + DRIFT_MARKS
"""Floats of a device's answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What all devices start from: the population's weights (K,), public ones before devices have learned any.

    ``kappa`` says how strongly devices hold their own weights to these, and ``gains`` (len(CAUTIONS),) how many more
    right first answers they give per judged memory than the shared model, at each caution: see `gains_of`. From the
    probability ``least_chance`` on, a changed habit counts as one. Raises `ModelError` for numbers that none of them
    can be.
    """

    weights: Floats = field(default_factory=PUBLIC_WEIGHTS.copy)
    kappa: float = KAPPA
    gains: Floats = field(default_factory=lambda: np.array(PUBLIC_GAINS))
    least_chance: float = PUBLIC_CHANCE

    def __post_init__(self) -> None:
        check_weights(self.weights)
        check_gains(self.gains)
        if not 0 < self.kappa < float("inf"):
            raise ModelError(f"Expected kappa={self.kappa} to be positive and finite.")
        if not LEAST_CHANCE <= self.least_chance <= NEVER:
            raise ModelError(f"Expected least_chance={self.least_chance} from {LEAST_CHANCE} to {NEVER}.")

    @property
    def cautious(self) -> float:
        """The caution of cautious answers."""
        return cautious_of(self.gains)

    @property
    def recency(self) -> Recency | None:
        """How far older memories still count; ``None``: fully."""
        return recency_from(self.least_chance)

    def after(self, total: Floats) -> "Learned":
        """Return what is learned from the summed answers (ANSWER_LENGTH,) at these weights. Raises `ModelError`."""
        if total.shape != (ANSWER_LENGTH,):
            raise ModelError(f"Expected {ANSWER_LENGTH} summed numbers, got {total.shape}.")
        ends = np.cumsum([STATISTICS_LENGTH, len(KAPPAS), CAUTION_MARKS])
        likelihood, kappas, cautions, drift = np.split(total, ends)
        return Learned(
            weights=newton_step(self.weights, likelihood),
            kappa=chosen(kappas),
            gains=gains_of(cautions),
            least_chance=least_chance_of(drift),
        )


def device_answer(memory: LabelledMemory, evidence: Evidence, weights: Floats) -> Floats:
    """Return what a device gives to a step at ``weights`` (K,): (ANSWER_LENGTH,). Raises `ModelError`."""
    check_weights(weights)
    public, own = _public_part(memory, evidence)
    judged = evidence_features(public, own.rows, own.global_log)
    cautions = caution_marks(judged, weights, public=public.public)
    drift = drift_marks(public, own, weights)
    return np.concatenate([statistics(judged, weights).packed(), marks(judged, weights), cautions, drift])


def _public_part(memory: LabelledMemory, evidence: Evidence) -> tuple[LabelledMemory, Evidence]:
    """Return the memory and the evidence of a device that knows the public labels alone."""
    public = memory.public
    kept, judges = np.flatnonzero(memory.y < public), memory.y[evidence.rows] < public
    logs = log_softmax(memory.global_log[kept, :public])
    part = LabelledMemory(x=memory.x[kept], y=memory.y[kept], global_log=logs, public=public)
    rows = np.searchsorted(kept, evidence.rows[judges])
    return part, Evidence(rows=rows, global_log=log_softmax(evidence.global_log[judges, :public]))
