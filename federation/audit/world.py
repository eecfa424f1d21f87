"""A few devices full of secrets, in a folder of their own: what the audits of wire, agent and store work on.

Each secret is a word that stands nowhere else. They lie in memories' texts, private labels, scopes, sources and
purposes, in folders' and files' names, and in the texts of exceptions.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engine.choices.history import Context, context_text
from engine.choices.model import Basis, ChoiceModel
from engine.device.device import Device, Memory
from engine.encoders.encoder import Encoder, Vectors
from engine.model.catalogue import Catalogue
from engine.model.checkpoint import Checkpoint, start_checkpoint
from engine.model.inputs import encode_inputs
from engine.model.summary import SummaryPlan
from engine.model.training import TrainingPlan
from engine.owner.account import Limits
from engine.owner.modes import OPEN
from engine.owner.rho import rho_of
from engine.personal.rescorer import Floats
from federation.secagg import Roster, SigningKey, sign_roster
from store import AcceptRollback, AnchorFile, DeviceKey, FileSecret

SERVICES = ("taxi rides", "pizza delivery", "opera tickets", "hair salon")
_ASKED = ("a ride to {} at six", "one more {} please", "two seats near {}", "an hour with {} on friday")
_EACH = 4
FILMS = ("a western", "a comedy", "a thriller", "a musical", "a cartoon")
_FACTORS, _CHOSEN, _APART_S = 2, 8, 3600.0
OTHER_PURPOSE = "health"


class Failing(Device):
    """A device that fails in a round, with its user's words and its folder in the text of the exception."""

    told = ""

    def train(self, flat: Vectors, *, plan: TrainingPlan, hold_back: bool, rng: np.random.Generator) -> Vectors:
        """Raise."""
        raise RuntimeError(f"Cannot train on {self.told}.")

    def summarise(self, plan: SummaryPlan) -> Vectors:
        """Raise."""
        raise ValueError(f"Cannot summarise {self.told}.")

    def rescorer_statistics(self, flat: Vectors, weights: np.ndarray) -> np.ndarray:
        """Raise."""
        raise FileNotFoundError(f"There is no {self.told}.")

    def choice_statistics(self, basis: Basis, *, items: str, step: int, weights: Floats) -> tuple[Floats, Floats]:
        """Raise."""
        raise LookupError(f"Cannot add up {self.told}.")


class Leaving(Device):
    """A device that calls ``leave`` once it has summarised, before its answer is charged and sent."""

    leave: Callable[[], None] = staticmethod(lambda: None)

    def summarise(self, plan: SummaryPlan) -> Vectors:
        """As a `Device`, and leave."""
        summary = super().summarise(plan)
        self.leave()
        return summary


@dataclass(kw_only=True)
class World:
    """Devices in ``folder``: `healthy`, `lost` ones whose folder is gone, `failing` and `leaving` ones.

    Where it ``chooses`` their users have chosen items too: some of the list that all know, some of their own. Their
    owners let them give an ``epsilon`` in one run, or as much as owners do by default (0).
    """

    folder: Path
    encoder: Encoder
    rng: np.random.Generator
    mode: str = OPEN
    chooses: bool = False
    epsilon: float = 0.0
    healthy: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    failing: list[str] = field(default_factory=list)
    leaving: list[str] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.publisher = SigningKey.generate()
        self.start: Checkpoint = start_checkpoint(Catalogue.from_names(SERVICES), self.encoder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.start.save(self.folder / "start.safetensors")
        self.films = ChoiceModel.start(Catalogue.from_names(FILMS), factors=_FACTORS)
        self.films.save(self.folder / "films.safetensors")
        # What a server of private rounds knows of texts, in place of the public ones, which take seconds to encode.
        public = [asked.format(service) for asked in _ASKED for service in SERVICES]
        np.save(self.folder / "public.npy", encode_inputs(public, self.encoder, self.start.dimension))

    def sign_roster(self, devices: Iterable[Device]) -> Path:
        """Write the roster of these devices, signed by the publisher that they trust; the file."""
        keys = tuple(SigningKey(device.round_identity()).public for device in devices)
        path = self.folder / "roster"
        path.write_bytes(sign_roster(Roster(version=1, keys=keys), self.publisher))
        return path

    @property
    def names(self) -> list[str]:
        """All devices."""
        return [*self.healthy, *self.lost, *self.failing, *self.leaving]

    def secret(self, what: str) -> str:
        """A new word that stands nowhere else."""
        word = f"{what}{self.rng.bytes(6).hex()}"
        self.secrets.append(word)
        return word

    def add(self, count: int, *, kind: str = "healthy") -> list[str]:
        """Make devices of a kind, `healthy`, `lost`, `failing` or `leaving`; their names."""
        made = [self._add(kind) for _ in range(count)]
        getattr(self, kind).extend(made)
        return made

    def open(self, name: str) -> Device:
        """Open a device by its name; raises what a store raises, with its path."""
        kind = Failing if name in self.failing else Leaving if name in self.leaving else Device
        device = kind.open(
            self.folder / name, self.key(name), encoder=self.encoder, secret=FileSecret(self.secret_file(name))
        )
        if isinstance(device, Failing):
            device.told = f"{self.folder / name}: {[(found.text, found.label) for found in device.memories()]}"
        return device

    def key(self, name: str) -> DeviceKey:
        """The key of a device."""
        return DeviceKey.from_file(self.key_file(name))

    def key_file(self, name: str) -> Path:
        """Where the key of a device lies."""
        return self.folder / f"{name}.key"

    def secret_file(self, name: str) -> Path:
        """Where the device secret of a device lies."""
        return self.folder / f"{name}.secret"

    def settle(self, name: str, state: Path) -> None:
        """Put what lies outside a device's folder into ``state``, as where its user keeps it, for a process there."""
        state.mkdir(exist_ok=True)
        with self.open(name) as device:
            place = state / device.store.store_id.hex()
        os.link(self.secret_file(name), place.with_suffix(".secret"))
        secret, anchor = FileSecret(self.secret_file(name)), AnchorFile(place.with_suffix(".anchor"))
        with Device.open(
            self.folder / name, self.key(name), encoder=self.encoder, secret=secret, witness=anchor,
            accept=AcceptRollback(),
        ):  # fmt: skip
            pass  # From now on it is the witness.

    def without_secrets(self, text: str) -> str:
        """``text`` as one would ask for it who does not know the secret."""
        return " ".join(word for word in text.split() if word not in self.secrets)

    def vectors(self) -> Vectors:
        """Unit vectors (n, d) of all texts that hold a secret."""
        return self.encoder.encode(self.texts)

    def _add(self, kind: str) -> str:
        name = self.secret("folder")
        key = DeviceKey.generate()
        key.write(self.key_file(name))
        if kind == "lost":
            return name
        memories = list(self._memories())
        self.texts += [memory.text for memory in memories]
        with Device.create(
            self.folder / name,
            key,
            model=self.start,
            encoder=self.encoder,
            secret=FileSecret(self.secret_file(name)),
        ) as device:
            device.allow_rounds(self.mode)
            if self.mode != OPEN:
                device.trust_publisher(self.publisher.public)
                if self.epsilon:
                    device.account.limit(Limits(rho=rho_of(2 * self.epsilon)), now=time.time())
            device.remember_many(memories)
            if self.chooses:
                device.load_choice_model(self.films)
                choices = self._choices()
                device.note_choices(choices, scope=self.secret("scope"))
                self.texts += [context_text(context) for _, context, _ in choices]
        return name

    def _choices(self) -> list[tuple[str, Context, float]]:
        """Items of the list, in contexts of the user's own; and an item of the user's own, between them."""
        chosen = [FILMS[int(self.rng.integers(len(FILMS)))] for _ in range(_CHOSEN)]
        chosen[_CHOSEN // 2] = self.secret("film")
        contexts = [{"with": self.secret("friend"), "at": ("home", "out")[number % 2]} for number in range(_CHOSEN)]
        began = time.time() - _CHOSEN * _APART_S
        return [
            (item, context, began + number * _APART_S)
            for number, (item, context) in enumerate(zip(chosen, contexts, strict=True))
        ]

    def _memories(self) -> Sequence[Memory]:
        """Some with public labels, one with a label of the user's own, one for another purpose."""
        places = self.rng.permutation(len(SERVICES))
        public = [
            Memory(text=_ASKED[place].format(self.secret("text")), label=SERVICES[place])
            for place in (int(places[number % len(places)]) for number in range(_EACH))
        ]
        private = Memory(
            text=f"take {self.secret('text')} to the vet",
            label=self.secret("label"),
            scope=self.secret("scope"),
            source=self.secret("source"),
        )
        other = Memory(
            text=f"tablets against {self.secret('other')}", label=self.secret("other"), purpose=OTHER_PURPOSE
        )
        return [*public, private, other]
