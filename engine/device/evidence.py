"""Which memories may judge a personalization: those that the scores in question had not been trained on.

A shared model that trained on a row looks better on it than it is, and would talk the device out of personalizing.
So each device keeps, sealed, which of its memories have entered training, and the global scores of held-back ones as
they were before they did. A memory that never trained is judged by the model in use.

>>> record = EvidenceRecord.from_bytes(None)
>>> record.mark_trained([1, 3])
>>> sorted(EvidenceRecord.from_bytes(record.to_bytes()).trained)
[1, 3]
"""

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from engine.errors import ModelError
from engine.model.migration import LabelMap


def held_back(ids: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Return which memories wait for the second phase of a run: every other one, by id."""
    back: npt.NDArray[np.bool_] = np.asarray(ids, dtype=np.int64) % 2 == 1
    return back


class EvidenceRecord:
    """Ids that trained, and logits (C,) of the public labels of the ids that were scored before they trained."""

    def __init__(self, *, catalogue: str, trained: set[int], scores: dict[int, npt.NDArray[np.float32]]) -> None:
        self.catalogue = catalogue
        self.trained = trained
        self.scores = scores

    def mark_trained(self, ids: Iterable[int]) -> None:
        """Note that these memories have entered training."""
        self.trained.update(ids)

    def forget(self, ids: Iterable[int]) -> None:
        """Drop all that is kept of these memories."""
        for id in ids:
            self.trained.discard(id)
            self.scores.pop(id, None)

    def restart(self, catalogue: str) -> None:
        """Drop scores of another catalogue's labels; what has trained stays known."""
        if catalogue != self.catalogue:
            self.catalogue, self.scores = catalogue, {}

    def move(self, moves: LabelMap, fresh: Mapping[int, npt.NDArray[np.float32]]) -> None:
        """Keep the scores under another version of the catalogue: those of labels that stay, to the bit.

        ``fresh`` are the logits (new,) of new labels by id, from class vectors that have not trained; scores of other
        ids are dropped.
        """
        self.catalogue = moves.after.fingerprint
        self.scores = {id: moves.rows(self.scores[id], new) for id, new in fresh.items() if id in self.scores}

    def to_bytes(self) -> bytes:
        """Return a form that `from_bytes` reads, the same for equal records."""
        from safetensors.numpy import save

        ids = sorted(self.scores)
        tensors = {"trained": np.array(sorted(self.trained), dtype=np.int64), "ids": np.array(ids, dtype=np.int64)}
        if ids:
            tensors["scores"] = np.stack([self.scores[id] for id in ids]).astype(np.float32)
        return bytes(save(tensors, metadata={"catalogue": self.catalogue}))

    @classmethod
    def from_bytes(cls, content: bytes | None) -> "EvidenceRecord":
        """Read the sealed form; ``None`` gives an empty record. Raises `ModelError` for a malformed one."""
        if content is None:
            return cls(catalogue="", trained=set(), scores={})
        import json

        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            tensors = load(content)
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        except (SafetensorError, ValueError) as error:
            raise ModelError(f"The evidence kept on this device is malformed: {error}") from None
        ids = tensors["ids"].tolist()
        return cls(
            catalogue=str(header["__metadata__"]["catalogue"]),
            trained=set(tensors["trained"].tolist()),
            scores=dict(zip(ids, tensors["scores"], strict=True)) if ids else {},
        )
