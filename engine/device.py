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

import contextlib
import json
import time as clock
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from engine.account import Account, Contribution, Standing
from engine.backup import BackedUpKeeper
from engine.catalogue import Catalogue
from engine.checkpoint import Checkpoint, check_encoder, start_checkpoint
from engine.consent import PERSONALIZATION
from engine.encoder import Encoder, Vectors, check_vectors, load_encoder
from engine.errors import ConsentError, EncoderMismatchError, ModelError
from engine.evidence import held_back
from engine.keeper import Memory
from engine.kept import Kept, first_values
from engine.memory_view import MemoryView, build_view
from engine.personalizer import device_statistics
from engine.rescorer import Floats, Integers
from engine.suggestion import Evaluation, Suggestion, found, ranks_of
from engine.training import TrainingPlan, train
from store import AcceptRollback, DeviceSecret, EncryptedStore, StoreError, Unlock, Where, Witness

__all__ = ["Device", "Memory"]

_EXPLAINED_BY = 3


class Device(BackedUpKeeper):
    """An open device. Made by `create` or `open`; close it, or use it in a ``with`` statement."""

    def __init__(self, store: EncryptedStore, encoder: Encoder) -> None:
        """Internal: use `create` or `open`."""
        super().__init__(store, encoder)
        self._private_vectors: dict[str, Vectors] = {}  # Of the labels that were in use when last looked at.

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
            global_log = view.global_log(x)
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
            return view.labels[int(view.global_log(x)[0, : view.public].argmax())]

    def evaluate(self, rows: Sequence[tuple[str, str]]) -> Evaluation:
        """Rank the true labels of (text, label) rows by the global and by the personal model.

        The global model ranks the public labels only; a label that it does not know has rank 0.
        """
        x = self._encode([text for text, _ in rows])
        with self._lock:
            view = self._viewed()
            place = {name: index for index, name in enumerate(view.labels)}
            global_log, rank = view.global_log(x), view.personalizer.ranking
            personal_log = view.personalizer.predict(global_log, x)
            shared, personal = global_log[:, : view.public], rank(global_log, personal_log)
            cautious = rank(global_log, personal_log, cautious=True)
        truth = [place.get(label, -1) for _, label in rows]
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

    # The shared model

    @property
    def model(self) -> Checkpoint:
        """The shared model in use, with its catalogue and round."""
        with self._lock:
            return self._kept.model()

    def load_model(self, checkpoint: Checkpoint | Path | str) -> None:
        """Use another shared model from now on; the one before stays for `previous_model`."""
        if not isinstance(checkpoint, Checkpoint):
            checkpoint = Checkpoint.load(Path(checkpoint))
        check_encoder(checkpoint, self._encoder)
        # What continues a run on the server is of no use here.
        bare = replace(checkpoint, tensors={}, notes={})
        with self._lock:
            self._kept.use_model(bare)

    def previous_model(self) -> None:
        """Swap the model in use with the one before it. Raises `ModelError` if there is none."""
        with self._lock:
            self._kept.swap_models()

    def train(self, flat: Vectors, *, plan: TrainingPlan, hold_back: bool, rng: np.random.Generator) -> Vectors:
        """Return the shared model ``flat`` (C·(d+1),) after local training on labelled memories.

        Memories with private labels never train. With ``hold_back``, every other memory waits; the first time it may
        train, its scores by the incoming model are kept as evidence for the personalization. ``flat`` must be of
        this device's catalogue; raises `ModelError` otherwise.
        """
        with self._lock:
            catalogue = self.model.catalogue
            if flat.shape != self.model.flat.shape or not np.isfinite(flat).all():
                raise ModelError(f"Expected {self.model.flat.size} finite model numbers, got {flat.shape}.")
            ids, x, y = self._kept.once("trainable", self._trainable)
            trained = self._kept.evidence().trained
            chosen = ~held_back(ids) if hold_back else np.ones(len(ids), dtype=bool)
            new = [row for row in np.flatnonzero(chosen) if int(ids[row]) not in trained]
            if new:
                evidence = self._kept.evidence_to_change()
                evidence.restart(catalogue.fingerprint)
                # Only a model that has trained is worth keeping as evidence: before, it knows the names alone.
                if not hold_back:
                    kept = _public_logits(flat, x[new], len(catalogue))
                    evidence.scores.update((int(ids[row]), logits) for row, logits in zip(new, kept, strict=True))
                evidence.mark_trained(int(ids[row]) for row in new)
                self._kept.put_evidence(evidence)
        return train(flat, x[chosen], y[chosen], plan=plan, rng=rng)

    def rescorer_statistics(self, flat: Vectors, weights: Floats) -> Floats:
        """Return what this device gives to a Newton step of the re-scorer's population weights (K,) at ``weights``.

        Packed as `Statistics.packed` does it, of the leave-one-out likelihood of the memories that the shared model
        ``flat`` has not trained on, or had not when it scored them. Raises `ModelError` for another catalogue's model.
        """
        with self._lock:
            model = self.model
            if flat.shape != model.flat.shape or not np.isfinite(flat).all():
                raise ModelError(f"Expected {model.flat.size} finite model numbers, got {flat.shape}.")
            view = self._view_of(replace(model, flat=flat))  # Asked for three times in a run, so not kept.
            return device_statistics(view.memory, view.evidence, weights).packed()

    @property
    def allowed_rounds(self) -> str | None:
        """The mode of federated rounds that the owner has allowed; ``None``, the default, is none."""
        with self._lock:
            return self._kept.allowed_rounds()

    def allow_rounds(self, mode: str | None) -> None:
        """Allow federated rounds in this mode ("open": the server sees this device's updates), or, with None, none.

        Noted in the ledger. With None, no update waits to leave any more.
        """
        if mode not in (None, "open"):
            raise ValueError(f"Expected mode={mode!r} to be 'open' or None: this release has no other.")
        word = json.dumps({"mode": mode, "time": clock.time()}).encode()
        with self._lock, self._store.transaction(witness=True):
            self._kept.allow_rounds(mode)
            self._store.append("rounds", word)
            if mode is None:
                self._account.drop_queued()

    @property
    def account(self) -> Account:
        """What this device gave to rounds, and the owner's limits."""
        return self._account

    def contribute(self, contribution: Contribution, payload: bytes, *, standing: Standing) -> None:
        """Note, durably, that ``payload`` is about to leave: see `Account.send`.

        Raises `ConsentError` where the owner has not allowed rounds in its mode or has withdrawn consent to its
        purpose, `ChangedMeanwhileError` where the device stands otherwise than before the memory was read, and
        `BudgetError` at a limit. Not inside a transaction, which could still undo the note.
        """
        with self._noting(contribution.mode, contribution.purpose):
            self._account.send(contribution, payload, standing=standing, expires=self._kept.expires)

    def contribute_again(self, asked: str, *, mode: str, purpose: str) -> bytes | None:
        """Return the bytes that this request was answered with before, or ``None``: see `Account.send_again`.

        Raises `ConsentError` and `BudgetError`. Not inside a transaction.
        """
        with self._lock:
            if not self._account.answered(asked):  # As good as always, and then nothing need be written.
                self._require_allowed(mode, purpose)
                return None
            with self._noting(mode, purpose):
                return self._account.send_again(asked, now=clock.time())

    @contextlib.contextmanager
    def _noting(self, mode: str, purpose: str) -> Iterator[None]:
        with self._lock:
            if self._store.in_transaction:
                raise StoreError("A contribution is not made inside a transaction: leave the block first.")
            with self._kept.untouched(), self._store.transaction():
                self._require_allowed(mode, purpose)
                yield

    def _require_allowed(self, mode: str, purpose: str) -> None:
        if self._kept.allowed_rounds() != mode:
            raise ConsentError("This device's owner has not allowed rounds in this mode.")
        self._consents.require(purpose)

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

    # Inside

    def _drop_cached(self) -> None:
        super()._drop_cached()
        self._private_vectors = {}

    def _viewed(self) -> MemoryView:
        return self._kept.once("view", lambda: self._view_of(self.model))

    def _view_of(self, model: Checkpoint) -> MemoryView:
        self._check_encoder_is_current()
        readable = self._consents.granted(PERSONALIZATION)
        view = build_view(
            self._store,
            self._encoder,
            model,
            self._kept.evidence(),
            readable=readable,
            known=self._private_vectors,
        )
        self._private_vectors = view.private_vectors
        self._kept.rests_on(view.records.values())
        return view

    def _trainable(self) -> tuple[Integers, Vectors, Integers]:
        """Ids (n,), vectors (n, d) and public labels (n,) of the memories that may train."""
        self._check_encoder_is_current()
        catalogue = self.model.catalogue
        if not self._consents.granted(PERSONALIZATION):
            return (
                np.zeros(0, dtype=np.int64),
                np.zeros((0, self._encoder.dimension), dtype=np.float32),
                np.zeros(0, dtype=np.int64),
            )
        ids, vectors = self._store.vectors(Where(purpose=PERSONALIZATION))
        records = {stored.id: stored.record for stored in self._store.iter(purpose=PERSONALIZATION)}
        self._kept.rests_on(records.values())
        rows = [row for row, id in enumerate(ids) if id in records and records[id].label in catalogue]
        y = np.array([catalogue.index(str(records[ids[row]].label)) for row in rows], dtype=np.int64)
        return np.array(ids, dtype=np.int64)[rows], vectors[rows], y


def _public_logits(flat: Vectors, x: Vectors, classes: int) -> Vectors:
    from engine.model import Model

    return Model.from_flat(flat, classes=classes, dimension=x.shape[1]).scores(x)
