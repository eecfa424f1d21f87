"""The device's memory as arrays, for scoring: built from the store at first use, dropped when the store changes.

Private labels are those of memories that the catalogue does not hold. Their class vector is the encoded name, which
never leaves the device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.device.evidence import EvidenceRecord, held_back
from engine.encoders.encoder import Encoder, Vectors
from engine.model.catalogue import Catalogue
from engine.model.checkpoint import Checkpoint
from engine.model.inputs import model_inputs, name_vectors
from engine.model.scoring import logits
from engine.owner.consent import PERSONALIZATION
from engine.personal.personalizer import Personalizer
from engine.personal.rescorer import (
    MOST_EVIDENCE,
    Evidence,
    Floats,
    Integers,
    LabelledMemory,
    judging,
    log_softmax,
)
from engine.personal.scope import Signs, signs
from store import EncryptedStore, Record, Where

# Of more texts the wordings are made anew for each view: kept, they would take as much memory as the vectors.
MOST_WORDINGS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryView:
    """All m memories, the n labelled ones among them, and the C labels this device knows (public ones first)."""

    records: dict[int, Record]
    ids: Integers  # (n,) of labelled memories
    x: Vectors  # (n, d), by the encoder
    y: Integers  # (n,) positions in labels
    labels: tuple[str, ...]
    public: int
    encoder: Encoder
    wordings: Mapping[str, Vectors]  # of the labelled memories' texts, or none
    class_vectors: Vectors  # (C, D), with D inputs of the shared model
    class_bias: Vectors  # (C,)
    memory: LabelledMemory
    evidence: Evidence
    evidence_logits: Floats  # (e, C), out of sample
    personalizer: Personalizer

    @property
    def private_labels(self) -> tuple[str, ...]:
        """Labels that only this device knows."""
        return self.labels[self.public :]

    @property
    def private_vectors(self) -> dict[str, Vectors]:
        """The class vectors (D,) of the private labels, by name."""
        return dict(zip(self.private_labels, self.class_vectors[self.public :], strict=True))

    def logits(self, texts: Sequence[str], x: Vectors) -> npt.NDArray[Any]:
        """Return logits (q, C) of the shared model for texts with vectors x (q, d).

        Private labels stand there by their names.
        """
        inputs = model_inputs(texts, x, self.class_vectors.shape[1], self.encoder)
        return logits(inputs, self.class_vectors, self.class_bias)

    def global_log(self, texts: Sequence[str], x: Vectors) -> Floats:
        """Return the log probabilities (q, C) that belong to `logits`."""
        return log_softmax(self.logits(texts, x))

    def signs(self, logits: npt.NDArray[Any], personal_log: Floats, x: Vectors) -> Signs:
        """Return what tells whether q requests with vectors x (q, d) are in scope, of logits and answers (q, C)."""
        return signs(logits, personal_log, x @ self.x.T)

    def own_signs(self) -> Signs:
        """Return the same of the memories that judge, each without itself: what requests in scope look like here."""
        able = judging(self.memory, self.evidence.rows)
        rows, raw = self.evidence.rows[able][-MOST_EVIDENCE:], self.evidence_logits[able][-MOST_EVIDENCE:]
        own = self.personalizer.own_log
        answers = log_softmax(raw) if own is None else own
        similarity = self.x[rows] @ self.x.T
        similarity[np.arange(len(rows)), rows] = -np.inf
        return signs(raw, answers, similarity)

    def nearest(self, x: Vectors, label: int, most: int) -> list[tuple[int, float]]:
        """Return up to ``most`` (id, cosine) of memories with this label, nearest to x (d,) first."""
        rows = np.flatnonzero(self.y == label)
        similarity = self.x[rows] @ x
        order = np.argsort(-similarity, kind="stable")[:most]
        return [(int(self.ids[rows[i]]), float(similarity[i])) for i in order]


def encode_names(names: Sequence[str], encoder: Encoder, dimension: int) -> Vectors:
    """Return the class vectors (n, dimension) that labels known by name alone start from."""
    return name_vectors([name.replace("_", " ") for name in names], encoder, dimension)


def build_view(
    store: EncryptedStore,
    encoder: Encoder,
    model: Checkpoint,
    evidence: EvidenceRecord,
    *,
    readable: bool,
    known: Mapping[str, Vectors],
    wordings: Mapping[str, Vectors],
) -> MemoryView:
    """Read the store and choose the personalization on the shared ``model``; ``known`` label names are not encoded.

    Nor are texts whose wording is among ``wordings`` worded again.

    Only memories kept for the purpose of personalization are read, and none where they are not ``readable``.
    """
    catalogue = model.catalogue
    records, labelled, x = _read(store) if readable else _nothing(encoder.dimension)
    names = [catalogue.current(str(records[id].label)) for id in labelled]
    private = tuple(sorted({name for name in names if name not in catalogue}))
    labels = catalogue.names + private
    place = {name: index for index, name in enumerate(labels)}
    class_vectors, class_bias = _classes(model, private, known, encoder)
    y = np.array([place[name] for name in names], dtype=np.int64)
    texts = [records[id].text for id in labelled]
    inputs = model_inputs(texts, x, model.dimension, encoder, known=wordings)
    own_logits = logits(inputs, class_vectors, class_bias) if len(labelled) else np.zeros((0, len(labels)))
    rows, raw = _judged_rows(labelled, y, own_logits, evidence, catalogue)
    judges = Evidence(rows=rows, global_log=log_softmax(raw))
    memory = _scored(x, y, own_logits, judges, public=len(catalogue))
    return MemoryView(
        records=records,
        ids=np.array(labelled, dtype=np.int64),
        x=x,
        y=y,
        labels=labels,
        public=len(catalogue),
        encoder=encoder,
        wordings=_kept_wordings(texts, inputs, model),
        class_vectors=class_vectors,
        class_bias=class_bias,
        memory=memory,
        evidence=judges,
        evidence_logits=raw,
        personalizer=Personalizer.fit(memory, judges, learned=model.learned),
    )


def _scored(x: Vectors, y: Integers, own_logits: npt.NDArray[Any], judges: Evidence, *, public: int) -> LabelledMemory:
    """The labelled memories with what the shared model says of them: out of sample where they judge."""
    seen = log_softmax(own_logits)
    seen[judges.rows] = judges.global_log
    return LabelledMemory(x=x, y=y, global_log=seen, public=public)


def _kept_wordings(texts: Sequence[str], inputs: Vectors, model: Checkpoint) -> dict[str, Vectors]:
    """The wordings by text for the next view; none of too many texts, or where the model sees none."""
    if not model.wording or len(texts) > MOST_WORDINGS:
        return {}
    return dict(zip(texts, inputs[:, -model.wording :].copy(), strict=True))


def _nothing(dimension: int) -> tuple[dict[int, Record], list[int], Vectors]:
    """What `_read` gives of a store that holds no memory."""
    return {}, [], np.zeros((0, dimension), dtype=np.float32)


def _read(store: EncryptedStore) -> tuple[dict[int, Record], list[int], Vectors]:
    """All memories kept for personalization, the ids of the n labelled ones in the order of time, their vectors (n, d).

    Recency and the newest evidence go by time.
    """
    stored, vectors = store.read(Where(purpose=PERSONALIZATION))
    rows = [row for row, one in enumerate(stored) if one.record.label is not None]
    rows.sort(key=lambda row: (stored[row].record.time, stored[row].id))
    return {one.id: one.record for one in stored}, [stored[row].id for row in rows], vectors[rows]


def _classes(
    model: Checkpoint, private: Sequence[str], known: Mapping[str, Vectors], encoder: Encoder
) -> tuple[Vectors, Vectors]:
    """Class vectors (C, D) and biases (C,): the shared model's, then the encoded names of private labels, without bias.

    Names that ``known`` has at this model's dimension are not encoded again.
    """
    table = model.flat.reshape(len(model.catalogue), model.dimension + 1)
    new = [name for name in private if name not in known or known[name].shape != (model.dimension,)]
    named = {**known, **dict(zip(new, encode_names(new, encoder, model.dimension), strict=True))} if new else known
    vectors = np.stack([*table[:, :-1], *(named[name] for name in private)])
    bias = np.concatenate([table[:, -1], np.zeros(len(private), dtype=np.float32)])
    return vectors.astype(np.float32), bias.astype(np.float32)


def _judged_rows(
    labelled: list[int],
    y: Integers,
    own_logits: npt.NDArray[Any],
    evidence: EvidenceRecord,
    catalogue: Catalogue,
) -> tuple[Integers, Floats]:
    """Pick the rows (e,) whose scores are out of sample, never trained or scored before they trained; their logits
    (e, C). ``own_logits`` (n, C) are those of today for all labelled memories."""
    usable = evidence.scores if evidence.catalogue == catalogue.fingerprint else {}
    rows, kept = [], []
    back = held_back(labelled)
    for row, id in enumerate(labelled):
        if id not in evidence.trained:
            # Private rows never train: as many of them judge as of the others, or they would count twice.
            if evidence.trained and y[row] >= len(catalogue) and not back[row]:
                continue
            rows.append(row)
            kept.append(own_logits[row])
        elif id in usable:
            # The logits kept are those of public labels; private ones are of today, since they never train.
            rows.append(row)
            kept.append(np.concatenate([usable[id], own_logits[row, len(catalogue) :]]))
    shape = (len(rows), own_logits.shape[1])
    return np.array(rows, dtype=np.int64), np.array(kept, dtype=np.float64).reshape(shape)
