"""The device: one user's sealed memory and the model it personalizes, behind one façade for an app.

Everything derived from the user lies sealed in the device's folder, nothing leaves through this class, and one
`Device` may be shared by several threads.

>>> import tempfile
>>> from store import DeviceKey
>>> folder, key = tempfile.mkdtemp() + "/phone", DeviceKey.generate()
>>> with Device.create(folder, key) as device:
...     number = device.remember("two salads to the office please", label="Greenbowl healthy meals")
...     device.suggest("salad at my desk", k=1)[0].label
'Greenbowl healthy meals'
"""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from engine.catalogue import Catalogue
from engine.checkpoint import Checkpoint, check_encoder, start_checkpoint
from engine.chooses import Chooses
from engine.encoder import Encoder, check_vectors, load_encoder
from engine.errors import EncoderMismatchError
from engine.keeper import Memory
from engine.kept import Kept, first_values
from engine.suggestion import Evaluation, Suggestion, found, ranks_of
from store import AcceptRollback, DeviceSecret, EncryptedStore, Unlock, Witness

__all__ = ["Device", "Memory"]

_EXPLAINED_BY = 3


class Device(Chooses):
    """An open device. Made by `create` or `open`; close it, or use it in a ``with`` statement."""

    @classmethod
    def create(
        cls,
        path: Path | str,
        unlock: Unlock,
        *,
        catalogue: Catalogue | None = None,
        encoder: Encoder | None = None,
        model: Checkpoint | None = None,
        secret: DeviceSecret | None = None,
        witness: Witness | None = None,
    ) -> "Device":
        """Make a device in the folder ``path`` (made if missing; one that holds a store is refused).

        Its first model is ``model``, or the encoded label names of ``catalogue`` (the built-in services by
        default). The device secret and the witness lie outside the folder, by default in the user's state folder.
        Raises `StoreError` and `EngineError`; a call that fails leaves no device behind.
        """
        encoder = encoder or load_encoder()
        if model is None:
            model = start_checkpoint(catalogue or Catalogue.builtin(), encoder)
        check_encoder(model, encoder)
        values = first_values(model, encoder)
        store = EncryptedStore.create(
            path, unlock, dimension=encoder.dimension, values=values, secret=secret, witness=witness
        )
        return cls(store, encoder)

    @classmethod
    def open(
        cls,
        path: Path | str,
        unlock: Unlock,
        *,
        encoder: Encoder | None = None,
        secret: DeviceSecret | None = None,
        witness: Witness | None = None,
        accept: AcceptRollback | None = None,
    ) -> "Device":
        """Open the device in ``path`` with the encoder it was made with, or raise `EncoderMismatchError`.

        Raises what `EncryptedStore.open` raises, `WrongKeyError`, `TamperedError`, `RolledBackError` and others.
        """
        store = EncryptedStore.open(path, unlock, secret=secret, witness=witness, accept=accept)
        try:
            name, fingerprint = Kept(store).encoder()
            encoder = encoder or load_encoder(name)
            if encoder.fingerprint != fingerprint:
                raise EncoderMismatchError(
                    f"The memory in {path} was encoded with {name}; {encoder.name} gives other vectors. Open it with "
                    "the first, or encode it again: `tacit device reencode PATH --encoder NAME`."
                )
            return cls(store, encoder)
        except BaseException:
            store.close()
            raise

    @classmethod
    def reencode(
        cls,
        path: Path | str,
        unlock: Unlock,
        *,
        encoder: Encoder,
        secret: DeviceSecret | None = None,
        witness: Witness | None = None,
    ) -> "Device":
        """Open the device in ``path`` and give all memories new vectors of ``encoder``, in one transaction.

        Its model starts again from the label names, since models do not carry over between encoders.
        """
        store = EncryptedStore.open(path, unlock, secret=secret, witness=witness)
        try:
            catalogue = Kept(store).model().catalogue
            stored = list(store.iter(history=True))
            vectors = check_vectors(encoder.encode([s.record.text for s in stored]), count=len(stored), encoder=encoder)
            with store.transaction():
                store.replace_vectors([s.id for s in stored], vectors, encoder.dimension)
                Kept(store).start_over(start_checkpoint(catalogue, encoder), encoder)
            return cls(store, encoder)
        except BaseException:
            store.close()
            raise

    # Answers

    def suggest(self, text: str, k: int = 3, *, cautious: bool = False) -> list[Suggestion]:
        """Return the ``k`` best labels for ``text``, the most probable first, with the memories that explain them.

        The shared model's first answer stays first unless another label is three times as probable, if ``cautious``;
        one and a half times, where this device's memories have not shown that personalizing them helps.
        """
        if k < 1:
            raise ValueError(f"Expected k={k} to be at least 1.")
        x = self._encode([text])
        with self._lock:
            view = self._viewed()
            global_log = view.global_log([text], x)
            personal_log = view.personalizer.predict(global_log, x)
            ranking = view.personalizer.ranking(global_log, personal_log, cautious=cautious)
            personal, shared = np.exp(personal_log[0]), np.exp(global_log[0])
            order = np.argsort(-ranking[0], kind="stable")[:k]
            return [
                Suggestion(
                    label=view.labels[label],
                    score=float(personal[label]),
                    source="personal" if label >= view.public or personal[label] > shared[label] else "global",
                    private=bool(label >= view.public),
                    because=tuple(
                        found(id, view.records[id], similarity)
                        for id, similarity in view.nearest(x[0], int(label), _EXPLAINED_BY)
                    ),
                )
                for label in order
            ]

    def shared_answer(self, text: str) -> str:
        """Return the label that the shared model alone would suggest first."""
        x = self._encode([text])
        with self._lock:
            view = self._viewed()
            return view.labels[int(view.global_log([text], x)[0, : view.public].argmax())]

    def evaluate(self, rows: Sequence[tuple[str, str]]) -> Evaluation:
        """Rank the true labels of (text, label) rows by the global and by the personal model.

        The global model ranks the public labels only; a label that it does not know has rank 0.
        """
        texts = [text for text, _ in rows]
        x = self._encode(texts)
        with self._lock:
            view, catalogue = self._viewed(), self.model.catalogue
            place = {name: index for index, name in enumerate(view.labels)}
            global_log, rank = view.global_log(texts, x), view.personalizer.ranking
            personal_log = view.personalizer.predict(global_log, x)
            shared, personal = global_log[:, : view.public], rank(global_log, personal_log)
            cautious = rank(global_log, personal_log, cautious=True)
        truth = [place.get(catalogue.current(label), -1) for _, label in rows]
        return Evaluation(
            global_ranks=ranks_of(shared, truth),
            personal_ranks=ranks_of(personal, truth),
            cautious_ranks=ranks_of(cautious, truth),
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels this device knows, public ones first."""
        with self._lock:
            return self._viewed().labels

    @property
    def private_labels(self) -> tuple[str, ...]:
        """The labels that only this device knows."""
        with self._lock:
            return self._viewed().private_labels

    # The device as a whole

    @property
    def encoder(self) -> Encoder:
        """The encoder in use."""
        return self._encoder

    def close(self) -> None:
        """Close the device; calling it again has no effect."""
        with self._lock:
            self._drop_cached()
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
