"""Each refusal that is left out of a device makes its kind of lie a breach; weak mask keys are one too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from flwr.app import Error

from benchmarks.audit_defects import keys_of_32_bits
from engine.device.participant import Participant
from engine.owner.account import Account
from federation.agent import private
from federation.audit import agent_lies, malicious_server, mask_keys, private_lies
from federation.audit.finding import Finding, Ground
from federation.privacy.excess import rungs
from federation.rounds import client_app
from federation.secagg import checks, device, masks, roster, unsigned_roster
from federation.secagg.terms import History, Policy

Find = Callable[[Sequence[Finding], str], Finding]
start = device.DeviceRound.start.__func__  # type: ignore[attr-defined]
answer, derive_key, pair_mask_key = device.DeviceRound._answer, masks.derive_key, masks.pair_mask_key


def nothing(*_: Any, **__: Any) -> None:
    pass


def any_model(cls: Any, announcement: bytes, *, model_hash: bytes, **given: Any) -> Any:
    """A device that takes the server's word for the model."""
    named = device.Announcement.decode(announcement).model_hash
    return start(cls, announcement, model_hash=named, **given)


def any_round(self: History, announcement: Any, roster: Any) -> History:
    return History(roster_version=roster.version, number=announcement.number)


def out_of_turn(self: Any, stage: int, message: bytes, work: Callable[[], Any]) -> Any:
    """A device that answers whatever comes, whenever it comes."""
    reply, after = work()
    return device.Answer(reply=reply, round=device.DeviceRound(after, self._roster, self._policy, self._identity))


def test_an_abstain_that_tells_why_is_a_breach(monkeypatch: pytest.MonkeyPatch, ground: Ground) -> None:
    for told in ({"code": 101}, {"code": client_app.ABSTAIN, "reason": "no consent"}):
        monkeypatch.setattr(client_app, "Error", lambda code, told=told: Error(**told))
        assert agent_lies.agent_finding(ground, audit="").verdict == "breach"


def any_cohort(self: private.PrivateAgent, message: bytes) -> bytes:
    return self._step(lambda _, held: held.reveal(message))


DEFECTS = [
    ("double unmasking", device, "check_agreement", nothing),
    ("double unmasking", device.DeviceRound, "_answer", out_of_turn),
    ("double unmasking", device, "check_inputs", nothing),
    ("key swap", checks, "check_advert", nothing),
    ("small roster", Policy, "check", nothing),
    ("small roster", roster, "verify", nothing),
    ("inconsistent models", device.DeviceRound, "start", classmethod(any_model)),
    ("inconsistent models", checks, "check_advert", nothing),
    ("replay", History, "after", any_round),
    ("replay", device.DeviceRound, "_answer", out_of_turn),
    ("parameter downgrade", Policy, "check_terms", nothing),
    ("parameter downgrade", Policy, "check", nothing),
    ("lies about dropouts", device, "check_survivors", nothing),
    ("lies about dropouts", device, "check_sharers", nothing),
    ("lies about dropouts", device, "check_agreement", nothing),
]


def found(ground: Ground) -> list[Finding]:
    return malicious_server.secure_sum_findings(ground, nothing)


@pytest.mark.parametrize(("kind", "owner", "name", "defect"), DEFECTS)
def test_a_refusal_that_is_left_out_is_a_breach(
    monkeypatch: pytest.MonkeyPatch, ground: Ground, one: Find, kind: str, owner: Any, name: str, defect: Any
) -> None:
    monkeypatch.setattr(owner, name, defect)
    assert one(found(ground), kind).verdict == "breach"


def test_sound_devices_refuse_all(ground: Ground) -> None:
    assert {finding.verdict for finding in found(ground)} == {"pass"}


def cut(*given: Any) -> bytes:
    return pair_mask_key(*given)[:4] + bytes(28)


def test_mask_keys_that_are_cut_are_a_breach(monkeypatch: pytest.MonkeyPatch, ground: Ground, one: Find) -> None:
    monkeypatch.setattr(device, "pair_mask_key", cut)
    assert one(found(ground), "masks of other").verdict == "breach"


@pytest.mark.slow
def test_two_of_many_mask_keys_of_32_bits_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "derive_key", keys_of_32_bits)
    assert mask_keys._repeats(np.random.default_rng(0)) > 0


def test_few_keys_repeat_by_the_birthday_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same attack on keys of 16 bits, of which a few hundred suffice."""
    monkeypatch.setattr(mask_keys, "_BIRTHDAY_KEYS", 1024)
    assert mask_keys._repeats(np.random.default_rng(0)) == 0
    monkeypatch.setattr(masks, "derive_key", lambda *given, **more: derive_key(*given, **more)[:2])
    assert mask_keys._repeats(np.random.default_rng(0)) > 0


def test_an_agent_that_does_not_ask_its_owner_is_a_breach(monkeypatch: pytest.MonkeyPatch, ground: Ground) -> None:
    monkeypatch.setattr(Participant, "require_allowed", nothing)
    finding = agent_lies.agent_finding(ground, audit="")
    assert finding.verdict == "breach"
    assert "no rounds allowed" in finding.note


PRIVATE_DEFECTS = [
    ("terms", "noise_multiplier = 0.5", Account, "require_left", nothing),
    ("terms", "catalogue", private.PrivateAgent, "_check_terms", nothing),
    ("roster", "a roster of the server's", private, "open_roster", lambda signed, **_: unsigned_roster(signed)),
    ("an older round", "a round that is not new", History, "after", any_round),
    ("noise and model", "less noise than is counted on", private.PrivateAgent, "_reveal", any_cohort),
    ("noise that is needed", "noise given back", private, "rung_of", lambda noise, _: len(rungs(noise))),
    ("the owner", "no rounds allowed", Participant, "require_allowed", nothing),
    ("the owner", "a budget that is spent", Account, "require_left", nothing),
    ("the owner", "oftener than the run counts on", private, "require_participations_left", nothing),
]


@pytest.mark.parametrize(("group", "lie", "owner", "name", "defect"), PRIVATE_DEFECTS)
def test_an_agent_in_a_private_round_without_a_check_is_a_breach(
    monkeypatch: pytest.MonkeyPatch, ground: Ground, group: str, lie: str, owner: Any, name: str, defect: Any
) -> None:
    told: list[str] = []
    tell = private_lies._tell

    def telling(what: str, asked: Any) -> bool:
        was = tell(what, asked)
        told.extend([what] if was else [])
        return was

    monkeypatch.setattr(private_lies, "_tell", telling)
    monkeypatch.setattr(private_lies, "GROUPS", {group: private_lies.GROUPS[group]})
    monkeypatch.setattr(owner, name, defect)
    assert private_lies.private_finding(ground, audit="").verdict == "breach"
    assert any(lie in what for what in told), told
