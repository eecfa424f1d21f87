"""The personalizer: the stacked re-scorer (``rescorer.py``) over one device's memory, and the rule of never worse.

A device starts from weights that devices learned together, or from public ones, and moves its own away from them as
far as its own evidence outweighs the distance. Without memories, or where the evidence speaks against the personal
answers by 2 nats or more, the global model answers alone. *Cautious* rankings keep the global first answer among the
public labels unless another one is several times as likely (``caution.py``). Sources: see ``rescorer.py``; Kass and
Raftery 1995 (§3.2: what a Bayes factor says).

>>> x = np.eye(2, dtype=np.float32)[[0, 0, 1, 0, 0, 1]]
>>> y = np.array([1, 1, 0, 1, 1, 0])
>>> undecided = np.log(np.full((6, 2), 0.5))
>>> memory = LabelledMemory(x=x, y=y, global_log=undecided, public=2)
>>> personal = Personalizer.fit(memory, Evidence(rows=np.arange(6), global_log=undecided))
>>> personal.predict(undecided[:1], x[:1]).argmax(axis=1)
array([1])
"""

import numpy as np
import numpy.typing as npt

from engine.personal.caution import caution_marks, own_caution, raised
from engine.personal.recency import Recency
from engine.personal.rescorer import (
    Evidence,
    Floats,
    Judged,
    LabelledMemory,
    check_weights,
    evidence_features,
    local_weights,
    log_likelihood,
    log_softmax,
    query_features,
)
from engine.personal.together import Learned

# Evidence against the personal answers, in nats, from which the global model answers alone: a Bayes factor of about 7.
AGAINST_NATS = 2.0


class Personalizer:
    """A memory with the weights (K,) that its evidence chose; ``None`` where the global model answers alone.

    And two cautions (1 is none): its own, and that of cautious mode. ``own_log`` (e, C) is what it answers to the
    memories that judged it, each left out; ``None`` where the global model answers alone. ``recency`` says how far
    older memories still count; ``None``: fully.
    """

    def __init__(
        self,
        memory: LabelledMemory,
        weights: Floats | None,
        *,
        caution: float = 1.0,
        when_cautious: float = Learned().cautious,
        own_log: Floats | None = None,
        recency: Recency | None = None,
    ) -> None:
        if weights is not None:
            check_weights(weights)
        self.memory, self.weights, self.own_log = memory, weights, own_log
        self.caution, self.when_cautious, self.recency = caution, when_cautious, recency

    @property
    def is_global(self) -> bool:
        """Whether the global model answers alone."""
        return self.weights is None

    @classmethod
    def fit(cls, memory: LabelledMemory, evidence: Evidence, *, learned: Learned | None = None) -> "Personalizer":
        """Choose the weights by leave-one-out, starting from what devices ``learned``, or from public ones.

        The caution is judged by the weights to start from, which the device's few rows cannot have been fitted to.
        """
        start = Learned() if learned is None else learned
        if not len(memory.y):
            return cls(memory, None, when_cautious=start.cautious)
        judged = evidence_features(memory, evidence.rows, evidence.global_log)
        weights = local_weights(judged, start.weights, kappa=start.kappa)
        if _speaks_against(judged, weights):
            return cls(memory, None, when_cautious=start.cautious)
        own = own_caution(caution_marks(judged, start.weights, public=memory.public), start.gains)
        return cls(
            memory,
            weights,
            caution=own,
            when_cautious=start.cautious,
            own_log=log_softmax(judged.phi @ weights),
            recency=start.recency,
        )

    def predict(self, global_log: Floats, x: npt.NDArray[np.float32]) -> Floats:
        """Return personal log probabilities (q, C) for queries x (q, d) with global log probabilities (q, C)."""
        if self.weights is None:
            return global_log  # To the bit, so that nothing looks as if the memory had raised it.
        return log_softmax(query_features(self.memory, x, global_log, self.recency) @ self.weights)

    def ranking(self, global_log: Floats, personal_log: Floats, *, cautious: bool = False) -> Floats:
        """Return scores (q, C) to rank labels by: the log probabilities of `predict`, with its caution.

        The global first answer among the public labels counts as so many times more probable as the caution says: the
        device's own, or, if ``cautious``, that of cautious mode where that is higher.
        """
        caution = max(self.caution, self.when_cautious) if cautious else self.caution
        if caution == 1 or not self.memory.public:
            return personal_log
        return raised(personal_log, global_log[:, : self.memory.public].argmax(axis=1), caution)


def _speaks_against(judged: Judged, weights: Floats) -> bool:
    """Whether the global model alone predicts the evidence better, by more than chance would have it."""
    alone = judged.phi[np.arange(len(judged.y)), judged.y, 0].sum()
    return bool(log_likelihood(judged, weights) < alone - AGAINST_NATS)
