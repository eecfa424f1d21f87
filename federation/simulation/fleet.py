"""A fleet of simulated devices on disk, one for each user of a data set: filled, opened by name, measured.

A fleet lies in a folder: ``devices/device-0001`` holds one sealed store, ``keys/device-0001.key`` its key, ``.secret``
its device secret and ``.anchor`` its witness (mode 0600, outside the store's folder). Measuring happens here, by the
owner of all devices; no device sends a figure.
"""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engine.device.device import Device, Memory
from engine.device.evaluation import Answers, ranks_of
from engine.encoders.encoder import Encoder, Vectors
from engine.model.checkpoint import Checkpoint, write_atomically
from engine.model.inputs import encode_inputs
from engine.owner.modes import OPEN
from engine.owner.publisher import signed_text
from engine.owner.ratchet import Limits
from engine.personal.personalizer import Personalizer
from engine.personal.rescorer import Evidence, Floats, LabelledMemory
from federation.agent.pool import DevicePool
from federation.data.dataset import Row
from federation.errors import DataError
from federation.secagg import Roster, SigningKey, sign_roster
from store import DeviceKey, EncryptedStore, FileSecret, StoreError


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A device of a fleet: its folder's name, its user, that user's rows, and whether it joins after the rounds."""

    name: str
    user: str
    train: tuple[Row, ...]
    test: tuple[Row, ...]
    late: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Ranks (from 1, 0 for not ranked) of the true labels of a member's test rows, by each method.

    ``accepted`` are those of all accepted answers of each row, best first, by the methods that tell; ``answers`` is
    all that the global and the personal model said.
    """

    user: str
    memories: int
    by_method: dict[str, tuple[int, ...]]
    late: bool = False
    accepted: dict[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    answers: dict[str, Answers] = field(default_factory=dict)


def members(split: Sequence[tuple[str, Sequence[Row], Sequence[Row]]], *, late: Collection[str] = ()) -> list[Member]:
    """Name the devices of (user, train rows, test rows) in order; raise `DataError` if there are fewer than two.

    Those of the ``late`` users join after the rounds.
    """
    if len(split) < 2:
        raise DataError(f"Expected rows of at least 2 users or devices, got {len(split)}.")
    return [
        Member(name=f"device-{number:04d}", user=user, train=tuple(train), test=tuple(test), late=user in late)
        for number, (user, train, test) in enumerate(split, start=1)
    ]


class Fleet:
    """The devices of ``members`` in ``folder``, made from the start model ``start`` with one encoder."""

    def __init__(
        self,
        folder: Path,
        people: Sequence[Member],
        *,
        start: Checkpoint,
        encoder: Encoder,
        mode: str = OPEN,
        rho: float | None = None,
    ) -> None:
        """Their owners allow rounds in ``mode``, and with ``rho`` (zCDP) so much in all in place of the default."""
        self.folder, self.people, self.start, self.mode, self._rho = folder, list(people), start, mode, rho
        self._encoder = encoder

    def fill(self, *, tick: Callable[[], None] = lambda: None) -> None:
        """Make each device and let it remember its train rows; those that are whole already stay as they are."""
        for part in ("devices", "keys"):
            (self.folder / part).mkdir(parents=True, exist_ok=True, mode=0o700)
        for member in self.people:
            if not self._is_whole(member):
                self._make(member)
            tick()

    def sign_roster(self, pool: DevicePool) -> Path:
        """Write the roster of the devices of the rounds, signed by the fleet's publisher; the file."""
        names = [member.name for member in self.people if not member.late]
        keys = tuple(SigningKey(pool.agent(name).device.round_identity()).public for name in names)
        path = self.folder / "roster"
        write_atomically(path, sign_roster(Roster(version=1, keys=keys), self._publisher()))
        return path

    def inputs(self, texts: Sequence[str]) -> Vectors:
        """Return what the shared model sees of texts, (n, D)."""
        return encode_inputs(texts, self._encoder, self.start.dimension)

    def open(self, name: str) -> Device:
        """Open a device by its name."""
        key = DeviceKey.from_file(self._key(name))
        return Device.open(self._store(name), key, encoder=self._encoder, secret=self._secret(name))

    def pool(self) -> DevicePool:
        """Return a pool that opens these devices; close it, or use it in a ``with`` statement."""
        return DevicePool(self.open, encoder=self._encoder)

    def give(self, model: Checkpoint, pool: DevicePool) -> None:
        """Give the devices of the rounds a model of the next version of their catalogue, where they do not have it."""
        for member in self.people:
            device = pool.agent(member.name).device
            if not member.late and device.model.catalogue != model.catalogue:
                self._load(device, model)

    def measure(
        self, model: Checkpoint, pool: DevicePool, *, tick: Callable[[], None] = lambda: None
    ) -> list[Measured]:
        """Give every device the final model, and rank the test rows of those that have any."""
        measured = []
        for member in self.people:
            device = pool.agent(member.name).device
            self._load(device, model)
            if member.test:
                measured.append(measure_device(device, member, self.start))
            tick()
        return measured

    def _store(self, name: str) -> Path:
        return self.folder / "devices" / name

    def _key(self, name: str) -> Path:
        return self.folder / "keys" / f"{name}.key"

    def _secret(self, name: str) -> FileSecret:
        return FileSecret(self.folder / "keys" / f"{name}.secret")

    def _load(self, device: Device, model: Checkpoint) -> None:
        signed = device.publisher is not None
        signature = self._publisher().sign(signed_text(model.bare().content_hash())) if signed else None
        device.load_model(model, signature=signature)

    def _publisher(self) -> SigningKey:
        """The key that vouches for this fleet's devices, made at its first use (mode 0600)."""
        path = self.folder / "keys" / "publisher.key"
        if not path.is_file():
            write_atomically(path, SigningKey.generate().private_bytes())
        return SigningKey(path.read_bytes())

    def _is_whole(self, member: Member) -> bool:
        if not self._key(member.name).is_file() or not self._store(member.name).is_dir():
            return False
        try:
            with self.open(member.name) as device:
                return device.count() == len(member.train)
        except StoreError:
            return False

    def _make(self, member: Member) -> None:
        # What an interrupted run left of this device is made again: its rows are still in the data file.
        shutil.rmtree(self._store(member.name), ignore_errors=True)
        for left in (self.folder / "keys").glob(f"{member.name}.*"):
            left.unlink()
        key = DeviceKey.generate()
        key.write(self._key(member.name))
        with Device.create(
            self._store(member.name), key, model=self.start, encoder=self._encoder, secret=self._secret(member.name)
        ) as device:
            if self._rho is not None:
                device.account.limit(Limits(rho=self._rho), now=time.time())
            device.allow_rounds(self.mode)
            if self.mode != OPEN:  # Noisy rounds count the devices that a publisher vouches for.
                device.trust_publisher(self._publisher().public)
            device.remember_many([Memory(text=row.text, label=row.label, time=row.time) for row in member.train])


def open_store(folder: Path, name: str) -> EncryptedStore:
    """Open the sealed store of a fleet's device, for its ledger: no model and no encoder is loaded."""
    keys = folder / "keys"
    key = DeviceKey.from_file(keys / f"{name}.key")
    return EncryptedStore.open(folder / "devices" / name, key, secret=FileSecret(keys / f"{name}.secret"))


def measure_device(device: Device, member: Member, start: Checkpoint) -> Measured:
    """Rank a member's test rows by the global and the personal model, by memory alone, and by frequency.

    And by the personal model over ``start``, the one before the rounds: what a device has without any federation.
    """
    rows, accepted = [(row.text, row.label) for row in member.test], [accepted_of(row) for row in member.test]
    evaluation = device.evaluate(rows, accepted=accepted)
    answers = {"global": evaluation.shared, "personal": evaluation.personal, "cautious": evaluation.cautious}
    answers["no_rounds"] = device.evaluate(rows, accepted=accepted, untrained=start).personal
    plain = {"most_frequent": most_frequent_scores(member), "local": local_scores(device.encoder, member)}
    truth = [(row.label,) for row in member.test]
    return Measured(
        user=member.user,
        memories=len(member.train),
        late=member.late,
        by_method={
            name: tuple(ranks for (ranks,) in label_ranks(names, by, truth)) for name, (names, by) in plain.items()
        }
        | {name: its.ranks for name, its in answers.items()},
        accepted={name: label_ranks(names, by, accepted) for name, (names, by) in plain.items()}
        | {name: its.accepted_ranks for name, its in answers.items()},
        answers=answers,
    )


def accepted_of(row: Row) -> tuple[str, ...]:
    """Return the accepted answers of a row, each once and best first, its label among them."""
    return tuple(dict.fromkeys(row.labels if row.label in row.labels else (row.label, *row.labels)))


def label_ranks(names: Sequence[str], scores: Floats, wanted: Sequence[Sequence[str]]) -> tuple[tuple[int, ...], ...]:
    """Return the ranks (from 1) of each row's wanted labels by scores (q, C) of these names; 0 where it is none."""
    place = {name: number for number, name in enumerate(names)}
    return tuple(
        ranks_of(np.repeat(row[None], len(labels), axis=0), [place.get(label, -1) for label in labels])
        for row, labels in zip(scores, wanted, strict=True)
    )


def most_frequent_scores(member: Member) -> tuple[list[str], Floats]:
    """Return labels (C,) and scores (q, C) by how often the user's own train rows have them, earlier first on a tie."""
    order = [label for label, _ in Counter(row.label for row in member.train).most_common()]
    return order, np.tile(-np.arange(len(order), dtype=np.float64), (len(member.test), 1))


def local_scores(encoder: Encoder, member: Member) -> tuple[list[str], Floats]:
    """Return labels (C,) and scores (q, C) by the device's memory alone: the re-scorer with public weights, over a
    global model that knows nothing."""
    labels = sorted({row.label for row in member.train})
    x = encoder.encode([row.text for row in member.train])
    y = np.array([labels.index(row.label) for row in member.train], dtype=np.int64)
    uniform = np.full((len(member.train), len(labels)), -np.log(len(labels)))
    evidence = Evidence(rows=np.arange(len(member.train)), global_log=uniform)
    memory = LabelledMemory(x=x, y=y, global_log=uniform, public=len(labels))
    personalizer = Personalizer.fit(memory, evidence)
    queries = encoder.encode([row.text for row in member.test])
    blank = np.full((len(member.test), len(labels)), -np.log(len(labels)))
    return labels, personalizer.predict(blank, queries)
