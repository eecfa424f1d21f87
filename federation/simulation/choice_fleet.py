"""A fleet of simulated devices whose users choose: each holds its user's train rows, sealed, and the list of items.

Choices are read by item, time and context, never by meaning, so these devices encode nothing: their vectors are
constant.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.choices.model import ChoiceModel
from engine.device.device import Device
from engine.encoders.encoder import Vectors
from engine.model.catalogue import Catalogue
from engine.model.checkpoint import start_checkpoint
from federation.data.choices import ChoiceSplit
from federation.simulation.fleet import Fleet, Member
from store import DeviceKey


class NoEncoder:
    """Gives every text the same vector: for devices that are only asked what comes next."""

    name, dimension, fingerprint = "none", 2, "no encoder"

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return the same unit vector for each text, float32 (len(texts), 2)."""
        return np.tile(np.array([1.0, 0.0], dtype=np.float32), (len(texts), 1))


class ChoiceFleet(Fleet):
    """The devices of people who choose, in ``folder``, each knowing the items of ``model``."""

    def __init__(self, folder: Path, split: Sequence[ChoiceSplit], *, model: ChoiceModel) -> None:
        people = [
            Member(name=f"device-{number:04d}", user=one.user, train=(), test=())
            for number, one in enumerate(split, start=1)
        ]
        encoder = NoEncoder()
        super().__init__(folder, people, start=start_checkpoint(Catalogue.builtin(), encoder), encoder=encoder)
        self._choices = {member.name: one.train for member, one in zip(people, split, strict=True)}
        self._choice_model = model

    def _make(self, member: Member) -> None:
        key = DeviceKey.generate()
        key.write(self._key(member.name))
        folder, secret = self._store(member.name), self._secret(member.name)
        with Device.create(folder, key, model=self.start, encoder=self._encoder, secret=secret) as device:
            device.allow_rounds(self.mode)
            device.load_choice_model(self._choice_model)
            rows = self._choices[member.name]
            # Where one has no ts all have the same time, which says that nothing tells their order.
            told = all(row.ts is not None for row in rows)
            device.note_choices([(row.item, row.context, (row.ts or 0.0) if told else 0.0) for row in rows])
