"""Models that a publisher signed: a device whose owner trusts one loads no others, from a file or in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engine.choices.model import ChoiceModel
from engine.device.device import Device
from engine.errors import ModelError, PublisherError
from engine.model.catalogue import Catalogue
from engine.model.checkpoint import Checkpoint
from engine.owner.publisher import signature_file, signed_text
from engine.personal.caution import CAUTIONS
from engine.personal.rescorer import PUBLIC_WEIGHTS
from engine.personal.together import Learned
from store import DeviceKey

PRIVATE, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))
KEY, OTHER_KEY = (private.public_key().public_bytes_raw() for private in (PRIVATE, OTHER))


def sign(model: Checkpoint | ChoiceModel, private: Ed25519PrivateKey = PRIVATE) -> bytes:
    return private.sign(signed_text(model.bare().content_hash()))


@pytest.fixture
def model(device: Device) -> Checkpoint:
    """A model of round 7 with weights, and with what continues its run."""
    return replace(
        device.model,
        flat=device.model.flat + np.float32(0.01),
        round=7,
        begun=2,
        title="a run",
        learned=Learned(),
        tensors={"momentum": np.ones(3)},
        notes={"seed": "0"},
    )


@pytest.fixture
def trusting(device: Device, model: Checkpoint) -> Device:
    device.trust_publisher(KEY)
    return device


def test_signed_model_is_used_from_memory_and_from_a_file(trusting: Device, model: Checkpoint, tmp_path: Path) -> None:
    trusting.load_model(model, signature=sign(model))
    assert trusting.model.to_bytes() == model.bare().to_bytes()
    trusting.previous_model()
    path = tmp_path / "model.safetensors"
    model.save(path)
    signature_file(path).write_text(sign(model).hex() + "\n")
    trusting.load_model(str(path))
    assert trusting.model.round == 7


def test_signature_covers_what_a_device_keeps_and_not_the_state_of_the_run(trusting: Device, model: Checkpoint) -> None:
    signature = sign(model)
    trusting.load_model(model.bare(), signature=signature)
    trusting.load_model(replace(model, tensors={"momentum": np.zeros(3)}), signature=signature)
    other = model.flat.copy()
    other[0] = np.nextafter(other[0], np.float32(9))
    for changed in (
        replace(model, flat=other),
        replace(model, round=8),
        replace(model, begun=3),
        replace(model, title="another run"),
        replace(model, learned=Learned(kappa=7.0)),
        replace(model, learned=Learned(gains=np.zeros(len(CAUTIONS)))),
        replace(model, learned=Learned(least_chance=0.65)),
        replace(model, wording=1),
        replace(model, learned=None),
        replace(model, learned=Learned(weights=PUBLIC_WEIGHTS * 2)),
        replace(model, catalogue=Catalogue.from_names(["taxi", "night_bus", "pizza", "circus"])),
    ):
        with pytest.raises(PublisherError, match="is not that of the publisher"):
            trusting.load_model(changed, signature=signature)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda model: sign(model, OTHER),
        lambda model: PRIVATE.sign(model.bare().content_hash()),
        lambda model: PRIVATE.sign(b"tacit/secagg/1/roster\0" + model.bare().content_hash()),
        lambda model: bytes(64),
        lambda model: sign(model)[:-1],
        lambda model: b"",
    ],
    ids=["another key", "no label", "label of a roster", "zeros", "cut", "empty"],
)
def test_wrongly_signed_model_is_refused_and_the_one_in_use_stays(
    trusting: Device, model: Checkpoint, wrong: Callable[[Checkpoint], bytes]
) -> None:
    before = trusting.model.to_bytes()
    with pytest.raises(PublisherError):
        trusting.load_model(model, signature=wrong(model))
    assert trusting.model.to_bytes() == before
    with pytest.raises(ModelError, match="no earlier model"):
        trusting.previous_model()


@pytest.mark.parametrize(
    ("beside", "says"),
    [
        (None, "There is no signature at"),
        (b"", "is no signature of 128 digits"),
        (b"ab" * 63, "is no signature of 128 digits"),
        (b"xy" * 64, "is no signature of 128 digits"),
        (b"\xff" * 64, "is no signature of 128 digits"),
        (b"00" * 64, "is not that of the publisher"),
    ],
)
def test_file_without_a_sound_signature_is_refused(
    trusting: Device, model: Checkpoint, tmp_path: Path, beside: bytes | None, says: str
) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    if beside is not None:
        signature_file(path).write_bytes(beside)
    with pytest.raises(PublisherError, match=says):
        trusting.load_model(path)
    assert trusting.model.round == 0


def test_model_in_memory_without_a_signature_is_refused(trusting: Device, model: Checkpoint) -> None:
    with pytest.raises(PublisherError, match="not signed"):
        trusting.load_model(model)


def test_model_before_comes_back_whoever_signed_it(device: Device, model: Checkpoint) -> None:
    device.load_model(replace(model, round=3))
    device.trust_publisher(KEY)
    device.load_model(model, signature=sign(model))
    device.previous_model()
    assert device.model.round == 3
    device.previous_model()
    assert device.model.round == 7


def test_device_that_trusts_none_loads_any_and_checks_no_signature(
    device: Device, model: Checkpoint, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    signature_file(path).write_bytes(b"of no use here")
    device.load_model(path)
    assert device.model.round == 7
    with pytest.raises(PublisherError, match="trusts no publisher"):
        device.load_model(model, signature=sign(model))


def test_models_of_choices_are_signed_too(trusting: Device, tmp_path: Path) -> None:
    model = ChoiceModel.start(Catalogue.from_names(["tea", "coffee", "milk"]), factors=2, seed=0)
    path = tmp_path / "choices"
    model.save(path)
    for unsigned in (model, path):
        with pytest.raises(PublisherError):
            trusting.load_choice_model(unsigned)
    with pytest.raises(PublisherError):
        trusting.load_choice_model(replace(model, repeat_rate=0.25), signature=sign(model))
    assert trusting.choice_model is None
    trusting.load_choice_model(replace(model, notes={"seed": "0"}), signature=sign(model))
    signature_file(path).write_text(sign(model).hex())
    trusting.load_choice_model(path)
    assert trusting.choice_model is not None


def test_trust_is_kept_and_stands_in_the_ledger(device: Device, folder: Path, key: DeviceKey, toy: Any) -> None:
    assert device.publisher is None
    device.trust_publisher(KEY)
    device.trust_publisher(KEY)
    with Device.open(folder, key, encoder=toy) as same:
        assert same.publisher == KEY
        same.trust_publisher(OTHER_KEY, replacing=KEY)
    assert device.publisher == OTHER_KEY
    told = [json.loads(content) for _, _, content in device.store.entries("publisher")]
    assert [(its["key"], its["before"]) for its in told] == [(KEY.hex(), None), (OTHER_KEY.hex(), KEY.hex())]


def test_another_publisher_is_trusted_only_where_it_says_whom_it_replaces(device: Device) -> None:
    with pytest.raises(PublisherError, match="no publisher yet"):
        device.trust_publisher(KEY, replacing=OTHER_KEY)
    device.trust_publisher(KEY)
    for replacing in (None, OTHER_KEY, bytes(32)):
        with pytest.raises(PublisherError, match=KEY.hex()):
            device.trust_publisher(OTHER_KEY, replacing=replacing)
    assert device.publisher == KEY


@pytest.mark.parametrize("wrong", [b"", bytes(31), bytes(33), "ab" * 32, None])
def test_what_is_no_key_is_trusted_by_nobody(device: Device, wrong: Any) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        device.trust_publisher(wrong)
    assert device.publisher is None


def test_content_hash_is_the_same_for_equal_models_alone(model: Checkpoint) -> None:
    again = Checkpoint.from_bytes(model.to_bytes())
    assert again.content_hash() == model.content_hash() != model.bare().content_hash()
