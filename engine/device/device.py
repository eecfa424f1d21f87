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
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from engine.device.chooses import Chooses
from engine.device.evaluation import Answers, Evaluation
from engine.device.keeper import Memory
from engine.device.kept import Kept, first_values
from engine.device.memory_view import MemoryView
from engine.device.suggestion import Suggestion, Suggestions, found
from engine.encoders.encoder import Encoder, Vectors, check_vectors, load_encoder
from engine.errors import EncoderMismatchError
from engine.model.catalogue import Catalogue
from engine.model.checkpoint import Checkpoint, check_encoder, start_checkpoint
from engine.owner.account import Account
from engine.personal.rescorer import Floats, log_softmax
from engine.personal.scope import FALSE_REFUSALS, Scope, Signs, threshold
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

        Raises what `EncryptedStore.open` raises, `WrongKeyError`, `TamperedError`, `RolledBackError` and others. With
        ``accept`` an older copy opens without the federated round that it may have been in.
        """
        store = EncryptedStore.open(path, unlock, secret=secret, witness=witness, accept=accept)
        try:
            if accept is not None:
                Account(store).drop_queued()  # Its masks may have been used since: they are single-use.
            name, fingerprint = Kept(store).encoder()
            encoder = encoder or load_encoder(name)
            if encoder.fingerprint != fingerprint:
                raise EncoderMismatchError(
                    f"The memory in {path} was encoded with {name}; {encoder.name} gives other vectors. Open it with "
                    "the first, or encode it again: `tacit device reencode PATH --encoder NAME`."
                )
            Kept(store).renew(encoder)
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
            kept = Kept(store)
            catalogue = kept.catalogue()
            stored = list(store.iter(history=True))
            vectors = check_vectors(encoder.encode([s.record.text for s in stored]), count=len(stored), encoder=encoder)
            with store.transaction():
                store.replace_vectors([s.id for s in stored], vectors, encoder.dimension)
                kept.start_over(start_checkpoint(catalogue, encoder), encoder)
            return cls(store, encoder)
        except BaseException:
            store.close()
            raise

    # Answers

    def suggest(
        self, text: str, k: int = 3, *, cautious: bool = False, false_refusals: float = FALSE_REFUSALS
    ) -> Suggestions:
        """Return the ``k`` best labels for ``text``, the most probable first, with the memories that explain them.

        The shared model's first answer stays first unless another label is several times as probable, if ``cautious``;
        one and a half times, where this device's memories have not shown that personalizing them helps.

        The answer's ``known`` is ``False`` where the text looks like nothing that the device can answer: less so than
        all but a share ``false_refusals`` of its own labelled memories do, each seen from the others.
        """
        if k < 1:
            raise ValueError(f"Expected k={k} to be at least 1.")
        x = self._encode([text])
        with self._lock:
            view = self._viewed()
            logits = view.logits([text], x)
            global_log = log_softmax(logits)
            personal_log = view.personalizer.predict(global_log, x)
            ranking = view.personalizer.ranking(global_log, personal_log, cautious=cautious)
            scope = Scope(
                score=float(view.signs(logits, personal_log, x).scores[0]),
                threshold=threshold(self._own_signs().scores, share=false_refusals),
            )
            order = np.argsort(-ranking[0], kind="stable")[:k]
            of = _Explained(view=view, x=x[0], personal=np.exp(personal_log[0]), shared=np.exp(global_log[0]))
            return Suggestions([of.suggestion(int(label)) for label in order], scope=scope)

    def scope_signs(self, texts: Sequence[str]) -> tuple[Signs, Signs]:
        """Return what tells whether texts are in scope, and the same of the memories that set the threshold.

        For measuring how well the two are told apart: `suggest` says what follows from it.
        """
        x = self._encode(texts)
        with self._lock:
            view = self._viewed()
            logits = view.logits(texts, x)
            return view.signs(logits, view.personalizer.predict(log_softmax(logits), x), x), self._own_signs()

    def _own_signs(self) -> Signs:
        return self._kept.once("own signs", lambda: self._viewed().own_signs())

    def shared_answer(self, text: str) -> str:
        """Return the label that the shared model alone would suggest first."""
        x = self._encode([text])
        with self._lock:
            view = self._viewed()
            return view.labels[int(view.global_log([text], x)[0, : view.public].argmax())]

    def evaluate(
        self,
        rows: Sequence[tuple[str, str]],
        *,
        accepted: Sequence[Sequence[str]] | None = None,
        untrained: Checkpoint | None = None,
    ) -> Evaluation:
        """Rank the true labels of (text, label) rows by the global and by the personal model.

        ``accepted`` are all labels that each row's user would take, best first; by default the row's own. The global
        model ranks the public labels only; a label that it does not know has rank 0. With ``untrained``, a model that
        nothing of this device has trained, as if the device had that one. Raises `EncoderMismatchError` for one of
        another encoder.
        """
        texts = [text for text, _ in rows]
        x = self._encode(texts)
        with self._lock:
            view = self._viewed() if untrained is None else self._view_of_untrained(untrained)
            catalogue = (untrained or self.model).catalogue
            place = {name: index for index, name in enumerate(view.labels)}
            global_log, rank = view.global_log(texts, x), view.personalizer.ranking
            personal_log = view.personalizer.predict(global_log, x)
        truth = [place.get(catalogue.current(label), -1) for _, label in rows]
        if accepted is None:
            accepted = [(label,) for _, label in rows]
        known = [[place.get(catalogue.current(label), -1) for label in labels] for labels in accepted]
        judged = [0 <= label < view.public for label in truth]

        def answers(ranking: Floats, log_probability: Floats) -> Answers:
            return Answers.of(
                ranking,
                log_probability,
                truth=truth,
                accepted=known,
                judged=judged,
            )

        public_log = log_softmax(global_log[:, : view.public])
        return Evaluation(
            shared=answers(global_log[:, : view.public], public_log),
            personal=answers(rank(global_log, personal_log), personal_log),
            cautious=answers(rank(global_log, personal_log, cautious=True), personal_log),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Explained:
    """A request's vector (d,) and the probabilities (C,) of all labels, personal and shared."""

    view: MemoryView
    x: Vectors
    personal: Floats
    shared: Floats

    def suggestion(self, label: int) -> Suggestion:
        private = label >= self.view.public
        return Suggestion(
            label=self.view.labels[label],
            score=float(self.personal[label]),
            source="personal" if private or self.personal[label] > self.shared[label] else "global",
            private=private,
            because=tuple(
                found(id, self.view.records[id], similarity)
                for id, similarity in self.view.nearest(self.x, label, _EXPLAINED_BY)
            ),
        )
