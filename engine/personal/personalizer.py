"""The personalizer: the stacked re-scorer (``rescorer.py``) over one device's memory, and the rule of never worse.

A device starts from weights that devices learned together, or from public ones, and moves its own away from them as
far as its own evidence outweighs the distance. Without memories, or where the evidence speaks against the personal
answers by 2 nats or more, the global model answers alone. *Cautious* rankings keep the global first answer among the
public labels unless another one is three times as likely. Sources: see ``rescorer.py``; Kass and Raftery 1995 (§3.2:
what a Bayes factor says).

>>> x = np.eye(2, dtype=np.float32)[[0, 0, 1, 0, 0, 1]]
>>> y = np.array([1, 1, 0, 1, 1, 0])
>>> undecided = np.log(np.full((6, 2), 0.5))
>>> memory = LabelledMemory(x=x, y=y, expected=np.array([0.5, 0.5]), global_log=undecided, public=2)
>>> personal = Personalizer.fit(memory, Evidence(rows=np.arange(6), global_log=undecided))
>>> personal.predict(undecided[:1], x[:1]).argmax(axis=1)
array([1])
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.personal.rescorer import (
    KAPPA,
    PUBLIC_WEIGHTS,
    Floats,
    Integers,
    Judged,
    LabelledMemory,
    check_weights,
    evidence_features,
    local_weights,
    log_softmax,
    query_features,
    statistics,
)
from engine.personal.shrinkage import marks

# Evidence against the personal answers, in nats, from which the global model answers alone: a Bayes factor of about 7.
AGAINST_NATS = 2.0
# How many times as likely as the global first answer another one must be: when cautious, and on a device whose own
# evidence shows no gain by the weights that it started from.
CAUTION, UNPROVEN_CAUTION = 3.0, 1.5
# Fewer judged memories show nothing either way: no other one can vouch for one of two.
LEAST_EVIDENCE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Rows of the memory that may judge: their positions (e,) in it and their out-of-sample global logs (e, C)."""

    rows: Integers
    global_log: Floats


class Personalizer:
    """A memory with the weights (K,) and the caution (1 is none) that its evidence chose.

    The weights are ``None`` where the global model answers alone.
    """

    def __init__(self, memory: LabelledMemory, weights: Floats | None, *, caution: float = 1.0) -> None:
        if weights is not None:
            check_weights(weights)
        self.memory, self.weights, self.caution = memory, weights, caution

    @property
    def is_global(self) -> bool:
        """Whether the global model answers alone."""
        return self.weights is None

    @classmethod
    def fit(
        cls,
        memory: LabelledMemory,
        evidence: Evidence,
        *,
        population: Floats | None = None,
        kappa: float = KAPPA,
    ) -> "Personalizer":
        """Choose the weights by leave-one-out, starting from those of the ``population`` (K,), or from public ones.

        ``kappa`` says how strongly they are held to these: see `engine.personal.shrinkage`.
        The caution is judged by the weights to start from, which the device's few rows cannot have been fitted to.
        """
        if not len(memory.y):
            return cls(memory, None)
        start = PUBLIC_WEIGHTS if population is None else population
        judged = evidence_features(memory, evidence.rows, evidence.global_log)
        weights = local_weights(judged, start, kappa=kappa)
        if _speaks_against(judged, weights):
            return cls(memory, None)
        tried = len(judged.y) >= LEAST_EVIDENCE
        unproven = tried and _hits_gained(judged, start, public=memory.public) <= 0
        return cls(memory, weights, caution=UNPROVEN_CAUTION if unproven else 1.0)

    def predict(self, global_log: Floats, x: npt.NDArray[np.float32]) -> Floats:
        """Return personal log probabilities (q, C) for queries x (q, d) with global log probabilities (q, C)."""
        if self.weights is None:
            return global_log  # To the bit, so that nothing looks as if the memory had raised it.
        return log_softmax(query_features(self.memory, x, global_log) @ self.weights)

    def ranking(self, global_log: Floats, personal_log: Floats, *, cautious: bool = False) -> Floats:
        """Return scores (q, C) to rank labels by: the log probabilities of `predict`, with its caution.

        The global first answer among the public labels counts as so many times more probable as the caution says: the
        device's own, or three times if ``cautious``.
        """
        caution = CAUTION if cautious else self.caution
        if caution == 1 or not self.memory.public:
            return personal_log
        scores, first = personal_log.copy(), global_log[:, : self.memory.public].argmax(axis=1)
        scores[np.arange(len(scores)), first] += np.log(caution)
        return scores


def device_answer(memory: LabelledMemory, evidence: Evidence, weights: Floats) -> Floats:
    """Return what a device gives to a Newton step of the population weights at ``weights`` (K,): (ANSWER_LENGTH,).

    Packed statistics, then the marks of `engine.personal.shrinkage`; as if it had no private labels and none of their
    memories, so that they say nothing of these.
    """
    check_weights(weights)
    public, own = _public_part(memory, evidence)
    judged = evidence_features(public, own.rows, own.global_log)
    return np.concatenate([statistics(judged, weights).packed(), marks(judged, weights)])


def _public_part(memory: LabelledMemory, evidence: Evidence) -> tuple[LabelledMemory, Evidence]:
    """Return the memory and the evidence of a device that knows the public labels alone."""
    public = memory.public
    kept, judges = np.flatnonzero(memory.y < public), memory.y[evidence.rows] < public
    logs = log_softmax(memory.global_log[kept, :public])
    expected = np.exp(logs).mean(axis=0) if len(kept) else np.full(public, 1 / public)
    part = LabelledMemory(x=memory.x[kept], y=memory.y[kept], expected=expected, global_log=logs, public=public)
    rows = np.searchsorted(kept, evidence.rows[judges])
    return part, Evidence(rows=rows, global_log=log_softmax(evidence.global_log[judges, :public]))


def _hits_gained(judged: Judged, weights: Floats, *, public: int) -> int:
    """Return how many more of the judged rows have the right first answer by ``weights`` than by the global model."""
    if not len(judged.y) or not public:
        return 0
    personal = (judged.phi @ weights).argmax(axis=1) == judged.y
    shared = judged.phi[:, :public, 0].argmax(axis=1) == judged.y
    return int(personal.sum()) - int(shared.sum())


def _speaks_against(judged: Judged, weights: Floats) -> bool:
    """Whether the global model alone predicts the evidence better, by more than chance would have it."""
    alone = judged.phi[np.arange(len(judged.y)), judged.y, 0].sum()
    return bool(statistics(judged, weights).value < alone - AGAINST_NATS)
