"""Forgetting and rounds: what a device gives after a forget is what one gives that never saw the record, byte for byte.

What an earlier round already carried away is not taken back: there the (ε, δ) of the rounds is what bounds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.choices.habits import PUBLIC_HABITS
from engine.choices.model import ChoiceModel
from engine.device.chooses import POWER
from engine.device.device import Device, Memory
from engine.model.catalogue import Catalogue
from engine.model.training import TrainingPlan
from engine.owner.account import Contribution, digest
from engine.personal.rescorer import PUBLIC_WEIGHTS
from store import DeviceKey, Where

PLAN = TrainingPlan(steps=3, learning_rate=0.1, reference_rows=4)
KEPT = [
    Memory(text=text, label=label, time=float(number))
    for number, (text, label) in enumerate(
        [
            ("get me something warm", "opera"),
            ("a ride to the station", "taxi"),
            ("dinner for two at home", "pizza"),
            ("something warm tonight", "opera"),
            ("a late ride home", "night_bus"),
            ("feed the parrot", "parrot_care"),
        ]
    )
]
SECRET = Memory(text="a ride to the clinic", label="taxi", time=99.0)
DERIVED = "rides to the clinic are by taxi"
ITEMS = Catalogue.from_names(["tea", "coffee", "milk"])


@pytest.fixture
def twin(tmp_path: Path, key: DeviceKey, catalogue: Catalogue, toy: Any) -> Iterator[Device]:
    """Another device like the first."""
    with Device.create(tmp_path / "twin", key, catalogue=catalogue, encoder=toy) as opened:
        yield opened


def forget_one(device: Device, id: int) -> None:
    device.forget(id)


def erase_its_scope(device: Device, id: int) -> None:
    device.erase(Where(scope="clinic"))


def round_of(device: Device, flat: np.ndarray, *, hold_back: bool, number: int) -> bytes:
    trained = device.train(flat, plan=PLAN, hold_back=hold_back, rng=np.random.default_rng(number))
    return trained.tobytes()


def given_in_rounds(device: Device) -> list[bytes]:
    """All that a device gives in the second half of a run: an update of each kind."""
    flat = device.model.flat
    model = ChoiceModel.start(ITEMS, factors=2, seed=0)
    device.load_choice_model(model)
    terms = {"items": ITEMS.fingerprint, "weights": PUBLIC_HABITS}
    choices = [device.choice_statistics(model.basis, step=step, **terms) for step in (POWER, 0)]
    return [
        round_of(device, flat, hold_back=True, number=2),
        round_of(device, flat, hold_back=False, number=3),
        device.rescorer_statistics(flat, np.asarray(PUBLIC_WEIGHTS, dtype=np.float64)).tobytes(),
        *(part.tobytes() for sums in choices for part in sums),
    ]


@pytest.mark.parametrize("forget", [forget_one, erase_its_scope])
def test_rounds_after_a_forget_are_those_of_a_device_that_never_saw_the_record(
    device: Device, twin: Device, forget: Callable[[Device, int], None]
) -> None:
    for one in (device, twin):
        one.remember_many(KEPT)
        one.note_choices([("tea", {"at": "home"}, 1.0), ("coffee", {"at": "work"}, 2.0)])
    id = device.remember(SECRET.text, label=SECRET.label, time=SECRET.time, scope="clinic")
    device.remember(DERIVED, label="taxi", time=100.0, scope="clinic", derived_from=[id])
    flat = device.model.flat
    first = [round_of(one, flat, hold_back=False, number=1) for one in (device, twin)]
    assert first[0] != first[1]  # While it is there, it trains.
    device.suggest("a ride"), twin.suggest("a ride")
    forget(device, id)
    assert given_in_rounds(device) == given_in_rounds(twin)
    for text in ("a ride to the clinic", "something warm"):
        assert [(its.label, its.score) for its in device.suggest(text, k=5)] == [
            (its.label, its.score) for its in twin.suggest(text, k=5)
        ]


def test_forgotten_choice_is_in_no_round(device: Device, twin: Device) -> None:
    for one in (device, twin):
        one.note_choices([("tea", {"at": "home"}, 1.0), ("coffee", {"at": "work"}, 2.0)])
    id = device.note_choice("milk", {"at": "home"}, 3.0)
    assert given_in_rounds(device) != given_in_rounds(twin)
    device.forget(id)
    assert given_in_rounds(device) == given_in_rounds(twin)


@pytest.mark.parametrize("forget", [forget_one, erase_its_scope])
def test_queued_update_of_a_private_round_goes_with_the_record(
    device: Device, forget: Callable[[Device, int], None]
) -> None:
    payload = b"masked, charged, not yet acknowledged"
    device.allow_rounds("private")
    id = device.remember(SECRET.text, label=SECRET.label, scope="clinic")
    asked = digest(b"request")
    contribution = Contribution(
        time=1.0,
        to="run",
        round=1,
        mode="private",
        purpose="personalization",
        asked=asked,
        model=digest(b"model"),
        sent=digest(payload),
        size_bytes=len(payload),
        rho=0.25,
    )
    keep = device.stage.keep
    device.contribute(contribution, payload, standing=device.account.standing(), also=lambda: keep(b"secrets of it"))
    terms = {"mode": "private", "purpose": "personalization"}
    assert device.contribute_again(asked, **terms) == payload
    forget(device, id)
    assert (device.account.answered(asked), device.stage.state) == (False, None)  # Gone, and not merely held back.
    assert device.contribute_again(asked, **terms) is None
    # It was charged before it could leave, and stays charged: nobody can know that it did not.
    assert device.account.spent.rho == 0.25
