"""The device's part in rounds: the shared model it uses, its training, and what it may give, each time noted.

The half of a `Device` that the federation's agent talks to. Nothing leaves through this class but what the agent asks
for, and the owner's consent and limits are asked first.
"""

import contextlib
import json
import time as clock
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.device.backup import BackedUpKeeper
from engine.device.evidence import EvidenceRecord, held_back
from engine.device.memory_view import MemoryView, build_view
from engine.encoders.encoder import Encoder, Vectors
from engine.errors import CatalogueError, ConsentError, ModelError, PublisherError
from engine.model.catalogue import Catalogue
from engine.model.checkpoint import Checkpoint, check_encoder
from engine.model.inputs import model_inputs
from engine.model.migration import LabelMap, fresh_rows, label_map
from engine.model.scoring import logits
from engine.model.summary import SummaryPlan, summary
from engine.model.training import TrainingPlan, train
from engine.owner.account import Account, Contribution, Standing
from engine.owner.consent import PERSONALIZATION
from engine.owner.modes import CENTRAL, MODES, PRIVATE, suffices
from engine.owner.publisher import check_key, require_signed
from engine.owner.stage import Stage
from engine.personal.rescorer import Floats, Integers
from engine.personal.together import device_answer
from store import EncryptedStore, StoreError, Where


class Participant(BackedUpKeeper):
    """An open store with its encoder and the shared model. Use `Device`."""

    def __init__(self, store: EncryptedStore, encoder: Encoder) -> None:
        """Internal: use `Device.create` or `Device.open`."""
        super().__init__(store, encoder)
        self._stage = Stage(store)
        # Of the labels and texts that were in use when last looked at.
        self._private_vectors: Mapping[str, Vectors] = {}
        self._wordings: Mapping[str, Vectors] = {}

    # The shared model

    @property
    def model(self) -> Checkpoint:
        """The shared model in use, with its catalogue and round."""
        with self._lock:
            return self._kept.model()

    def load_model(self, checkpoint: Checkpoint | Path | str, *, signature: bytes | None = None) -> None:
        """Use another shared model from now on; the one before stays for `previous_model`.

        Where the owner trusts a publisher it must be signed by that one: ``signature`` (64 bytes), by default what the
        file FILE.sig beside a model's FILE holds. Raises `PublisherError`.

        Where it has another version of the catalogue, memories keep the label they were given: one that only this
        device knew and that is public now takes part in training, one that was removed does not any more. Raises
        `ModelError` for an earlier version than the device has.
        """
        file = None if isinstance(checkpoint, Checkpoint) else Path(checkpoint)
        bare = (checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.load(Path(checkpoint))).bare()
        check_encoder(bare, self._encoder)
        with self._lock, self._store.transaction():
            require_signed(bare.content_hash, signature, file, publisher=self._kept.publisher())
            before = self._kept.model().catalogue
            if bare.catalogue.is_older_than(before):
                raise ModelError(
                    f"This model has version {bare.catalogue.version} of the catalogue, and this device has "
                    f"{before.version}: use a model that is as new, or go back to the one before with "
                    "`tacit device model PATH --previous`."
                )
            self._kept.use_model(bare)
            self._move_evidence(before, bare)

    def previous_model(self) -> None:
        """Swap the model in use with the one before it, whoever signed that. Raises `ModelError` if there is none."""
        with self._lock, self._store.transaction():
            before = self._kept.model().catalogue
            self._kept.swap_models()
            self._move_evidence(before, self._kept.model())

    @property
    def publisher(self) -> bytes | None:
        """The Ed25519 public key (32 bytes) of the publisher that the owner trusts; ``None``, the default, is none."""
        with self._lock:
            return self._kept.publisher()

    def trust_publisher(self, key: bytes, *, replacing: bytes | None = None) -> None:
        """Load no other models from now on than those signed by ``key``, an Ed25519 public key of 32 bytes.

        Noted in the ledger. The model in use stays, and so does the one before it. Who trusts another publisher already
        names that one's key as ``replacing``; raises `PublisherError` otherwise, and ValueError for what is no key.
        """
        check_key(key)
        with self._lock, self._store.transaction(witness=True):
            before = self._kept.publisher()
            if before == key and replacing in (None, key):
                return
            if before != replacing:
                raise PublisherError(
                    "This device trusts no publisher yet: name none to replace."
                    if before is None
                    else f"This device trusts the publisher {before.hex()}: to trust another one, say that it replaces "
                    "this one."
                )
            word = {"key": key.hex(), "before": None if before is None else before.hex(), "time": clock.time()}
            self._kept.trust_publisher(key)
            self._store.append("publisher", json.dumps(word).encode())

    def _move_evidence(self, before: Catalogue, model: Checkpoint) -> None:
        """Keep the scores of labels that both catalogues have, where one is a version of the other.

        Labels that are new are scored as they were before anything had trained, by their encoded meanings.
        """
        evidence = self._kept.evidence_to_change()
        after = model.catalogue
        if before.line != after.line or evidence.catalogue != before.fingerprint or before == after:
            return
        try:
            moves = label_map(before, after)
        except CatalogueError:  # Versions apart, a name may have gone from one label to another.
            evidence.restart(after.fingerprint)
        else:
            evidence.move(moves, self._fresh_logits(sorted(evidence.scores), moves, model.dimension))
        self._kept.put_evidence(evidence)

    def _fresh_logits(self, ids: Sequence[int], moves: LabelMap, dimension: int) -> dict[int, Vectors]:
        """Logits (new,) of the new labels by id, for those memories that may be read; untrained."""
        if not len(moves.new):
            return dict.fromkeys(ids, np.zeros(0, dtype=np.float32))
        if not ids or not self._consents.granted(PERSONALIZATION):
            return {}
        stored, vectors = self._store.read(Where(purpose=PERSONALIZATION))
        asked = set(ids)
        rows = [row for row, one in enumerate(stored) if one.id in asked]
        if not rows:
            return {}
        x = model_inputs([stored[row].record.text for row in rows], vectors[rows], dimension, self._encoder)
        fresh = fresh_rows(moves, self._encoder, dimension)
        new = logits(x, fresh, np.zeros(len(fresh), dtype=np.float32)).astype(np.float32)
        return dict(zip([stored[row].id for row in rows], new, strict=True))

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

        See `device_answer`: of the leave-one-out likelihood of the memories that the shared model ``flat`` has not
        trained on, or had not when it scored them. Raises `ModelError` for another catalogue's model.
        """
        with self._lock:
            model = self.model
            if flat.shape != model.flat.shape or not np.isfinite(flat).all():
                raise ModelError(f"Expected {model.flat.size} finite model numbers, got {flat.shape}.")
            view = self._view_of(replace(model, flat=flat))  # Asked for three times in a run, so not kept.
            return device_answer(view.memory, view.evidence, weights)

    def summarise(self, plan: SummaryPlan) -> Vectors:
        """Return what one private release needs of this device, float32 (plan.length,): see `engine.model.summary`.

        Of all labelled memories with public labels. They still judge the personalization afterwards: what a released
        model shows of one device is bounded by the release's (ε, δ). Raises `ModelError` for another model's plan.
        """
        with self._lock:
            model = self.model
            if plan.classes != len(model.catalogue) or plan.basis.shape[1] != model.dimension:
                raise ModelError(
                    f"Expected a plan for {len(model.catalogue)} labels and {model.dimension} inputs, got one for "
                    f"{plan.classes} and {plan.basis.shape[1]}."
                )
            _, x, y = self._kept.once("trainable", self._trainable)
        return summary(plan, x, y)

    @property
    def allowed_rounds(self) -> str | None:
        """The weakest mode of rounds that the owner has allowed; ``None``, the default, is no rounds."""
        with self._lock:
            return self._kept.allowed_rounds()

    def allow_rounds(self, mode: str | None) -> None:
        """Allow federated rounds in this mode (`engine.owner.modes`) and in stronger ones, or, with None, none.

        Noted in the ledger. An update that was made in a mode that is too weak now does not wait to leave any more.
        Where "central" or "private" is allowed and ρ has no limit, it gets one: ε = 8 at δ = 1e-5 in all.
        """
        if mode is not None and mode not in MODES:
            raise ValueError(f"Expected mode={mode!r} to be one of {', '.join(MODES)}, or None.")
        now = clock.time()
        with self._lock, self._store.transaction(witness=True):
            before = self._kept.allowed_rounds()
            self._kept.allow_rounds(mode)
            self._store.append("rounds", json.dumps({"mode": mode, "time": now}).encode())
            if before is None or not suffices(mode, before):
                self._account.drop_queued()
            if mode in (CENTRAL, PRIVATE):
                self._account.limit_by_default(now=now)

    @property
    def account(self) -> Account:
        """What this device gave to rounds, and the owner's limits."""
        return self._account

    @property
    def stage(self) -> Stage:
        """What this device keeps for secure sums."""
        return self._stage

    def round_identity(self) -> bytes:
        """Return the private half of this device's identity in secure rounds, 32 bytes, made at its first use."""
        with self._lock:
            return self._stage.identity()

    def contribute(
        self,
        contribution: Contribution,
        payload: bytes,
        *,
        standing: Standing,
        also: Callable[[], None] | None = None,
    ) -> None:
        """Note, durably, that ``payload`` is about to leave: see `Account.send`.

        Raises `ConsentError` where the owner has not allowed rounds in its mode or has withdrawn consent to its
        purpose, `ChangedMeanwhileError` where the device stands otherwise than before the memory was read, and
        `BudgetError` at a limit. Not inside a transaction, which could still undo the note.
        """
        with self._noting(contribution.mode, contribution.purpose):
            self._account.send(contribution, payload, standing=standing, expires=self._kept.expires, also=also)

    def contribute_again(self, asked: str, *, mode: str, purpose: str) -> bytes | None:
        """Return the bytes that this request was answered with before, or ``None``: see `Account.send_again`.

        Raises `ConsentError` and `BudgetError`. Not inside a transaction.
        """
        with self._lock:
            if not self._account.answered(asked):  # As good as always, and then nothing need be written.
                self.require_allowed(mode, purpose)
                return None
            with self._noting(mode, purpose):
                return self._account.send_again(asked, now=clock.time())

    @contextlib.contextmanager
    def _noting(self, mode: str, purpose: str) -> Iterator[None]:
        with self._lock:
            if self._store.in_transaction:
                raise StoreError("A contribution is not made inside a transaction: leave the block first.")
            with self._kept.untouched(), self._store.transaction():
                self.require_allowed(mode, purpose)
                yield

    def require_allowed(self, mode: str, purpose: str) -> None:
        """Raise `ConsentError` unless the owner allows rounds in ``mode`` and the use of memories for ``purpose``."""
        if not suffices(self._kept.allowed_rounds(), mode):
            raise ConsentError("This device's owner has not allowed rounds in this mode.")
        self._consents.require(purpose)

    # Inside

    def _drop_cached(self) -> None:
        super()._drop_cached()
        self._private_vectors, self._wordings = {}, {}

    def _viewed(self) -> MemoryView:
        return self._kept.once("view", lambda: self._view_of(self.model))

    def _view_of_untrained(self, model: Checkpoint) -> MemoryView:
        """The view on a model for which every memory is fresh; it is not kept."""
        check_encoder(model, self._encoder)
        return self._view_of(model, EvidenceRecord.from_bytes(None))

    def _view_of(self, model: Checkpoint, evidence: EvidenceRecord | None = None) -> MemoryView:
        self._check_encoder_is_current()
        readable = self._consents.granted(PERSONALIZATION)
        view = build_view(
            self._store,
            self._encoder,
            model,
            self._kept.evidence() if evidence is None else evidence,
            readable=readable,
            known=self._private_vectors,
            wordings=self._wordings,
        )
        self._private_vectors, self._wordings = view.private_vectors, view.wordings
        self._kept.rests_on(view.records.values())
        return view

    def _trainable(self) -> tuple[Integers, Vectors, Integers]:
        """Ids (n,), model inputs (n, D) and public labels (n,) of the memories that may train."""
        self._check_encoder_is_current()
        catalogue, dimension = self.model.catalogue, self.model.dimension
        if not self._consents.granted(PERSONALIZATION):
            return (
                np.zeros(0, dtype=np.int64),
                np.zeros((0, dimension), dtype=np.float32),
                np.zeros(0, dtype=np.int64),
            )
        stored, vectors = self._store.read(Where(purpose=PERSONALIZATION))
        self._kept.rests_on(one.record for one in stored)
        rows = [row for row, one in enumerate(stored) if one.record.label in catalogue]
        kept = [stored[row].record for row in rows]
        y = np.array([catalogue.index(str(record.label)) for record in kept], dtype=np.int64)
        x = model_inputs([record.text for record in kept], vectors[rows], dimension, self._encoder)
        return np.array([stored[row].id for row in rows], dtype=np.int64), x, y


def _public_logits(flat: Vectors, x: Vectors, classes: int) -> Vectors:
    from engine.model.model import Model

    return Model.from_flat(flat, classes=classes, dimension=x.shape[1]).scores(x)
