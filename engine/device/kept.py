"""What a device keeps in its store beside memories: its models, its encoder's name, evidence and consent, all sealed.

Reads are kept in memory until this or another process writes to the store, or a memory that they rest on expires.
"""

import contextlib
import hashlib
import logging
import math
import time as clock
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar, cast

from engine.choices.model import ChoiceModel
from engine.device.evidence import EvidenceRecord
from engine.encoders.encoder import Encoder
from engine.errors import ModelError
from engine.model.catalogue import Catalogue
from engine.model.checkpoint import Checkpoint, earlier_catalogue, start_checkpoint
from store import EncryptedStore, Record

_T = TypeVar("_T")
_log = logging.getLogger("tacit.engine")
_KIND = "engine"
_MODEL, _MODEL_BEFORE, _EVIDENCE, _ENCODER, _ROUNDS = "model", "model before", "evidence", "encoder", "rounds allowed"
_CHOICE_MODEL, _PUBLISHER = "choice model", "publisher"


def first_values(model: Checkpoint, encoder: Encoder) -> dict[tuple[str, str], bytes]:
    """Return what a new device's store must hold from its first moment."""
    return {(_KIND, _MODEL): model.to_bytes(), (_KIND, _ENCODER): _encoder_bytes(encoder)}


class Kept:
    """Typed access to the sealed values of one open store."""

    def __init__(self, store: EncryptedStore) -> None:
        self._store = store
        self._computed: dict[str, object] = {}
        self._computed_at = -1
        self._expires = math.inf
        self._model: tuple[bytes, Checkpoint] | None = None  # With the SHA-256 of the bytes that it was read from.

    def once(self, name: str, compute: Callable[[], _T]) -> _T:
        """Return ``compute()``, kept until the store changes or what it rests on expires; not inside a transaction."""
        if self._store.in_transaction:
            return compute()  # What is read now may be undone, or not be what the block ends with.
        version = self._store.data_version()
        if version != self._computed_at or clock.time() >= self._expires:
            self._computed.clear()
            self._computed_at, self._expires = version, math.inf
        if name not in self._computed:
            value = compute()
            if self._computed_at != version:  # Another process wrote meanwhile, and what was read may be mixed.
                return value
            self._computed[name] = value
        return cast(_T, self._computed[name])

    @contextlib.contextmanager
    def untouched(self) -> Iterator[None]:
        """A block with one commit of this process at most, which changes nothing of what is kept in memory."""
        before = self._store.data_version()
        yield
        # By two or more where another process wrote too, and then all is read again.
        if before == self._computed_at and self._store.data_version() == before + 1:
            self._computed_at = before + 1

    @property
    def expires(self) -> float:
        """The first time (Unix seconds) at which a memory expires that what is kept rests on, or infinity."""
        return self._expires

    def rests_on(self, records: Iterable[Record]) -> None:
        """Drop what is being computed, and all else, when one of these expires."""
        self._expires = min([self._expires, *(record.expires for record in records if record.expires is not None)])

    def clear(self) -> None:
        """Drop what is in memory."""
        self._computed.clear()

    def encoder(self) -> tuple[str, str]:
        """Return the name and the fingerprint of the encoder that made the vectors."""

        def read() -> tuple[str, str]:
            name, fingerprint = self._required(_ENCODER).decode().rsplit("\n", 1)
            return name, fingerprint

        return self.once(_ENCODER, read)

    def model(self) -> Checkpoint:
        """Return the shared model in use."""

        def read() -> Checkpoint:
            content = self._required(_MODEL)
            digest = hashlib.sha256(content).digest()
            if self._model is None or self._model[0] != digest:
                self._model = digest, Checkpoint.from_bytes(content, name="the device's model")
            return self._model[1]

        return self.once(_MODEL, read)

    def catalogue(self) -> Catalogue:
        """Return the catalogue of the model in use, also where that is of an earlier release."""
        return earlier_catalogue(self._required(_MODEL)) or self.model().catalogue

    def renew(self, encoder: Encoder) -> None:
        """Start over from the label names where the model is of an earlier release, whose inputs were others."""
        catalogue = earlier_catalogue(self._required(_MODEL))
        if catalogue is not None:
            _log.warning(
                "This device's shared model is of an earlier release, which this one cannot use: the device starts "
                "again from the label names. Its memories stay; load the next model when there is one."
            )
            self.start_over(start_checkpoint(catalogue, encoder), encoder)

    def use_model(self, model: Checkpoint) -> None:
        """Replace the model in use, which becomes the one before."""
        with self._store.transaction():
            self._store.put(_KIND, _MODEL_BEFORE, self._required(_MODEL))
            self._store.put(_KIND, _MODEL, model.to_bytes())

    def swap_models(self) -> None:
        """Use the model before, and keep the present one in its place; raise `ModelError` if there is none."""
        with self._store.transaction():
            before = self._store.fetch(_KIND, _MODEL_BEFORE)
            if before is None:
                raise ModelError("This device has no earlier model to go back to.")
            self._store.put(_KIND, _MODEL_BEFORE, self._required(_MODEL))
            self._store.put(_KIND, _MODEL, before)

    def start_over(self, model: Checkpoint, encoder: Encoder) -> None:
        """Note another encoder and the model that goes with it; earlier models and evidence no longer apply."""
        with self._store.transaction():
            self._store.put(_KIND, _MODEL, model.to_bytes())
            self._store.put(_KIND, _ENCODER, _encoder_bytes(encoder))
            self._store.discard(_KIND, _MODEL_BEFORE)
            self._store.discard(_KIND, _EVIDENCE)

    def choice_model(self) -> ChoiceModel | None:
        """Return the shared model of choices, if there is one."""

        def read() -> ChoiceModel | None:
            content = self._store.fetch(_KIND, _CHOICE_MODEL)
            return None if content is None else ChoiceModel.from_bytes(content, name="the device's model of choices")

        return self.once(_CHOICE_MODEL, read)

    def use_choice_model(self, model: ChoiceModel) -> None:
        """Store another shared model of choices."""
        self._store.put(_KIND, _CHOICE_MODEL, model.to_bytes(), purges=False)

    def evidence(self) -> EvidenceRecord:
        """Return the evidence, to read."""
        return self.once(_EVIDENCE, self.evidence_to_change)

    def evidence_to_change(self) -> EvidenceRecord:
        """Return a copy of one's own, so that a change that fails to be stored does not stay behind in memory."""
        return EvidenceRecord.from_bytes(self._store.fetch(_KIND, _EVIDENCE))

    def put_evidence(self, evidence: EvidenceRecord) -> None:
        """Store the evidence."""
        self._store.put(_KIND, _EVIDENCE, evidence.to_bytes())

    def allowed_rounds(self) -> str | None:
        """Return the mode of rounds that the owner has allowed."""
        mode = self._store.fetch(_KIND, _ROUNDS)
        return None if mode is None else mode.decode()

    def allow_rounds(self, mode: str | None) -> None:
        """Store the mode of rounds that the owner allows."""
        if mode is None:
            self._store.discard(_KIND, _ROUNDS)
        else:
            self._store.put(_KIND, _ROUNDS, mode.encode())

    def publisher(self) -> bytes | None:
        """Return the public key of the publisher that the owner trusts."""
        return self._store.fetch(_KIND, _PUBLISHER)

    def trust_publisher(self, key: bytes) -> None:
        """Store the public key of the publisher that the owner trusts."""
        self._store.put(_KIND, _PUBLISHER, key)

    def _required(self, name: str) -> bytes:
        value = self._store.fetch(_KIND, name)
        if value is None:
            raise ModelError(f"This store holds no {name}: it was not made by Device.create.")
        return value


def _encoder_bytes(encoder: Encoder) -> bytes:
    return f"{encoder.name}\n{encoder.fingerprint}".encode()
