"""Transcripts of `tacit device consent`, `publisher` and `identity`, and of `tacit publisher`: who vouches for what."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.choices.model import ChoiceModel
from engine.encoders.encoder import Encoder
from engine.model.catalogue import Catalogue
from engine.model.checkpoint import Checkpoint, start_checkpoint
from engine.owner.account import Account, Contribution, digest
from engine.owner.publisher import read_signature, require_signed
from engine.owner.stage import Stage
from federation.secagg.keys import SigningKey
from federation.secagg.roster import open_roster
from store import DeviceKey, EncryptedStore

Call = Callable[..., Any]
OTHER = SigningKey(bytes(32)).public.hex()
DEVICES = [SigningKey(bytes([number]) * 32).public.hex() for number in range(1, 5)]


def as_json(outcome: Any) -> Any:
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


@pytest.fixture
def keyfile(tacit: Call, tmp_path: Path) -> Path:
    assert tacit(["publisher", "create", tmp_path / "publisher.key"]).code == 0
    return tmp_path / "publisher.key"


@pytest.fixture
def key(tacit: Call, keyfile: Path) -> str:
    shown = tacit(["publisher", "show", keyfile])
    return str(shown.out.strip())


@pytest.fixture
def model(home: Path, encoder: Encoder) -> Path:
    """A model's file, with what continues its run."""
    start = start_checkpoint(Catalogue.from_names(["taxi", "pizza"], title="two"), encoder)
    replace(start, round=7, tensors={"momentum": np.ones(2)}).save(home / "round-7.safetensors")
    return home / "round-7.safetensors"


# The publisher's key


def test_key_is_made_once_for_its_owner_alone(tacit: Call, tmp_path: Path, one_line: Call) -> None:
    file = tmp_path / "publisher.key"
    made = as_json(tacit(["publisher", "create", file, "--json"]))
    assert file.stat().st_mode & 0o777 == 0o600
    assert made == as_json(tacit(["publisher", "show", file, "--json"]))
    assert made["key"] == SigningKey(file.read_bytes()).public.hex()
    before = file.read_bytes()
    one_line(tacit(["publisher", "create", file]))
    assert file.read_bytes() == before


@pytest.mark.parametrize("args", [["show"], ["sign", "model"], ["roster", "list", DEVICES[0]]])
def test_key_that_others_can_read_or_that_is_none_is_refused(
    tacit: Call, keyfile: Path, one_line: Call, tmp_path: Path, args: list[str]
) -> None:
    keyfile.chmod(0o640)
    assert "chmod 600" in one_line(tacit(["publisher", args[0], keyfile, *args[1:]]))
    short = tmp_path / "short"
    short.write_bytes(b"x" * 31)
    short.chmod(0o600)
    for file in (short, tmp_path / "missing"):
        one_line(tacit(["publisher", args[0], file, *args[1:]]))
    assert not (tmp_path / "list").exists()


# Models


def test_signed_model_is_used_and_another_is_not(
    tacit: Call, device: Call, keyfile: Path, key: str, model: Path, one_line: Call
) -> None:
    assert device("publisher").out == "No publisher is trusted: models are taken from anybody, and no private rounds.\n"
    assert device("publisher", key).out == f"Trusts models signed by {key}.\n"
    refused = device("model", "--use", model)
    assert (refused.code, "no signature at" in one_line(refused)) == (28, True)
    signed = as_json(tacit(["publisher", "sign", keyfile, model, "--json"]))
    assert (signed["key"], signed["file"]) == (key, f"{model}.sig")
    assert as_json(device("model", "--use", model, "--json"))["round"] == 7
    # Signed, and then another model under its name.
    replace(Checkpoint.load(model), round=8).save(model)
    refused = device("model", "--use", model)
    assert (refused.code, "is not that of the publisher" in one_line(refused)) == (28, True)
    assert as_json(device("model", "--previous", "--json"))["round"] == 0


def test_signature_is_replaced_by_the_next(tacit: Call, keyfile: Path, model: Path) -> None:
    tacit(["publisher", "sign", keyfile, model])
    before = read_signature(model)
    replace(Checkpoint.load(model), round=8).save(model)
    assert tacit(["publisher", "sign", keyfile, model]).code == 0
    assert read_signature(model) != before


def test_model_of_choices_is_signed_whole(tacit: Call, keyfile: Path, key: str, tmp_path: Path) -> None:
    file = tmp_path / "choices"
    model = ChoiceModel.start(Catalogue.from_names(["tea", "coffee", "milk"]), factors=2, seed=0)
    model.save(file)
    assert tacit(["publisher", "sign", keyfile, file]).code == 0
    require_signed(model.content_hash, None, file, publisher=bytes.fromhex(key))


def test_what_is_no_model_is_not_signed(tacit: Call, keyfile: Path, tmp_path: Path, one_line: Call) -> None:
    (tmp_path / "text").write_text("no model")
    for file in (tmp_path / "text", tmp_path / "missing"):
        refused = tacit(["publisher", "sign", keyfile, file])
        assert refused.code == 23
        one_line(refused)
    assert not list(tmp_path.glob("*.sig"))


# Whom a device trusts


def test_another_publisher_needs_the_word_whom_it_replaces(device: Call, key: str, one_line: Call) -> None:
    device("publisher", key)
    refused = device("publisher", OTHER)
    assert (refused.code, key in one_line(refused)) == (28, True)
    one_line(device("publisher", OTHER, "--replaces", OTHER))
    one_line(device("publisher", "--replaces", key))
    assert as_json(device("publisher", "--json")) == {"publisher": key}
    assert as_json(device("publisher", OTHER, "--replaces", key, "--json")) == {"publisher": OTHER}
    shown = device("ledger").out
    assert f"trusts models signed by {key[:12]}…" in shown
    assert f"trusts models signed by {OTHER[:12]}…, before {key[:12]}…" in shown


@pytest.mark.parametrize("wrong", ["", "ab", "x" * 64, "ab" * 33, " " + "ab" * 31 + " "])
def test_what_is_no_public_key_is_a_wrong_call(device: Call, tacit: Call, keyfile: Path, wrong: str) -> None:
    assert device("publisher", wrong).code == 2
    assert tacit(["publisher", "roster", keyfile, keyfile.parent / "list", wrong]).code == 2


def test_identity_is_the_devices_own_and_stays(device: Call, home: Path) -> None:
    first = device("identity").out.strip()
    assert as_json(device("identity", "--json")) == {"identity": first}
    with EncryptedStore.open(home / "phone", DeviceKey.from_file(home / "key")) as store:
        assert SigningKey(Stage(store).identity()).public.hex() == first


# The list of devices


def test_roster_has_the_named_devices_and_a_version_that_grows(tacit: Call, keyfile: Path, key: str) -> None:
    file, lines = keyfile.parent / "roster", keyfile.parent / "identities"
    made = as_json(tacit(["publisher", "roster", keyfile, file, *DEVICES[:2], "--json"]))
    assert (made["version"], made["devices"]) == (1, 2)
    lines.write_text("\n".join([*DEVICES[1:3], "", f"  {DEVICES[3]}\r"]) + "\n")
    assert tacit(["publisher", "roster", keyfile, file, "--from", lines]).out == (
        f"Signed a list of 3 devices, version 2: {file}.\n"
    )
    assert as_json(tacit(["publisher", "roster", keyfile, file, DEVICES[0], "--version", 9, "--json"]))["version"] == 9
    opened = open_roster(file.read_bytes(), publisher=bytes.fromhex(key), seen=9)
    assert (opened.version, [one.hex() for one in opened.keys]) == (9, DEVICES[:1])


def test_refused_roster_leaves_the_one_before(tacit: Call, keyfile: Path, one_line: Call, tmp_path: Path) -> None:
    file, lines, foreign = tmp_path / "roster", tmp_path / "identities", tmp_path / "foreign.key"
    tacit(["publisher", "roster", keyfile, file, *DEVICES])
    tacit(["publisher", "create", foreign])
    before = file.read_bytes()
    lines.write_text(f"{DEVICES[0]}\nnobody\n")
    assert "Line 2 of" in one_line(tacit(["publisher", "roster", keyfile, file, "--from", lines]))
    for args in (
        [keyfile, file],
        [keyfile, file, "--from", tmp_path / "missing"],
        [keyfile, file, DEVICES[0], DEVICES[0]],
        [keyfile, file, DEVICES[0], "--version", 1],
        [foreign, file, DEVICES[0]],
        [keyfile, keyfile, DEVICES[0]],
    ):
        one_line(tacit(["publisher", "roster", *args]))
    assert file.read_bytes() == before
    assert len(keyfile.read_bytes()) == 32


# Consent


def test_consent_is_listed_withdrawn_and_given_again(device: Call, one_line: Call) -> None:
    assert as_json(device("consent", "--json"))["purposes"] == [
        {"purpose": "choice", "consent": True, "memories": 0},
        {"purpose": "personalization", "consent": True, "memories": 3},
    ]
    shown = device("consent", "--withdraw", "personalization", "--withdraw", "ads", "--allow", "choice").out
    assert [line.split() for line in shown.splitlines() if line.strip(" ─")][1:] == [
        ["ads", "withdrawn", "0"],
        ["choice", "given", "0"],
        ["personalization", "withdrawn", "3"],
    ]
    suggested = as_json(device("suggest", "two salads to the office please", "--json"))["suggestions"]
    assert all(one["because"] == [] for one in suggested)
    device("consent", "--allow", "personalization")
    assert as_json(device("suggest", "two salads to the office please", "--json"))["suggestions"] != suggested
    both = device("consent", "--allow", "ads", "--withdraw", "ads")
    assert both.code == 2
    one_line(both)
    assert as_json(device("consent", "--json"))["purposes"][0] == {"purpose": "ads", "consent": False, "memories": 0}


@pytest.mark.parametrize("purpose", ["", " ", "half an emoji \ud83c", "x" * 1001])
def test_what_no_purpose_can_be_called_changes_nothing(device: Call, one_line: Call, purpose: str) -> None:
    one_line(device("consent", "--withdraw", "ads", "--withdraw", purpose))
    assert all(one["consent"] for one in as_json(device("consent", "--json"))["purposes"])


def test_withdrawn_consent_drops_what_waits_to_leave(device: Call, home: Path) -> None:
    payload = b"masked"
    opened = lambda: EncryptedStore.open(home / "phone", DeviceKey.from_file(home / "key"))  # noqa: E731
    device("allow-rounds", "private")
    with opened() as store:
        one = Contribution(
            time=1.0,
            to="run",
            round=1,
            mode="private",
            purpose="personalization",
            asked=digest(b"asked"),
            model=digest(b"model"),
            sent=digest(payload),
            size_bytes=len(payload),
            rho=0.1,
        )
        Account(store).send(one, payload, standing=Account(store).standing(), expires=float("inf"))
        Stage(store).keep(b"the round's secrets")
        assert Account(store).answered(digest(b"asked"))
    device("consent", "--withdraw", "personalization")
    device("consent", "--allow", "personalization")
    with opened() as store:
        assert not Account(store).answered(digest(b"asked"))
        assert Stage(store).state is None
