"""What an agent lets out beside its update, off the protocol or past its ledger is a breach."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import federation
from engine.choices.factors import BLOCKS
from engine.choices.history import CHOICE
from engine.device.participant import Participant
from engine.model.checkpoint import Checkpoint
from engine.owner.modes import CENTRAL, OPEN, PRIVATE
from federation.agent import agent
from federation.agent.agent import Agent
from federation.agent.private import PrivateAgent
from federation.audit import wire, wire_schema
from federation.audit.deployment import run_deployed
from federation.audit.finding import Finding, Ground
from federation.audit.world import FILMS, World
from federation.rounds import choice_rounds, noisy_rounds
from federation.rounds.noisy_rounds import privacy_of
from federation.rounds.strategy import StrictRounds
from federation.secagg import device

Find = Callable[[Sequence[Finding], str], Finding]
trained, invite = Agent._trained, StrictRounds.invite
PROTOCOL = (Path(federation.__file__).parent / "PROTOCOL.md").read_text(encoding="utf-8")


@pytest.fixture
def world_of(ground: Ground, tmp_path: Path) -> Callable[[str], World]:
    return lambda mode: wire.deployed_world(tmp_path / "devices", mode, encoder=ground.encoder, rng=ground.rng)


@pytest.fixture
def open_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LANES", [wire.Lane(mode=OPEN, quick=2, full=2)])


@pytest.fixture
def private_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LANES", [wire.Lane(mode=PRIVATE, quick=12, full=12)])


@pytest.fixture
def choices_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LANES", [wire.Lane(mode=OPEN, chooses=True, quick=2, full=2)])


@pytest.fixture
def central_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LANES", [wire.Lane(mode=CENTRAL, quick=2, full=2)])


def text_as_numbers(self: Agent, request: Any, node_id: int) -> np.ndarray:
    sent = trained(self, request, node_id)
    codes = np.frombuffer(self.device.memories()[0].text.encode(), dtype=np.uint8)
    sent[: len(codes)] = codes
    return sent


def text_as_bytes(self: Agent, request: Any, node_id: int) -> np.ndarray:
    sent = trained(self, request, node_id)
    text = self.device.memories()[0].text.encode()
    codes = np.frombuffer(text[: len(text) // 4 * 4], dtype="<f4")
    sent[: len(codes)] = codes
    return sent


def a_vector_as_it_is(self: Agent, request: Any, node_id: int) -> np.ndarray:
    sent = trained(self, request, node_id)
    [vector] = self.device.encoder.encode([self.device.memories()[0].text])
    sent[: len(vector)] = vector
    return sent


@pytest.mark.usefixtures("open_alone")
@pytest.mark.parametrize("defect", [text_as_numbers, text_as_bytes, a_vector_as_it_is])
def test_a_text_or_its_vector_among_the_numbers_is_a_breach(
    monkeypatch: pytest.MonkeyPatch, ground: Ground, one: Find, defect: Any
) -> None:
    monkeypatch.setattr(Agent, "_trained", defect)
    assert one(wire.audit(ground), "secrets in frames").verdict == "breach"


@pytest.mark.usefixtures("open_alone")
def test_a_ledger_of_other_bytes_is_a_breach(monkeypatch: pytest.MonkeyPatch, ground: Ground, one: Find) -> None:
    given = Agent._given
    monkeypatch.setattr(Agent, "_given", lambda self, *args: given(self, *args) + np.float32(1))
    assert one(wire.audit(ground), "updates that no ledger has").verdict == "breach"


@pytest.mark.usefixtures("open_alone")
def test_terms_that_the_protocol_does_not_list_are_a_breach(
    monkeypatch: pytest.MonkeyPatch, ground: Ground, one: Find
) -> None:
    def asking_for_more(self: Any, current: int, arrays: Any, config: Any, grid: Any, **given: Any) -> Any:
        config["num-examples"] = 1
        return invite(self, current, arrays, config, grid, **given)

    monkeypatch.setattr(StrictRounds, "invite", asking_for_more)
    assert one(wire.audit(ground), "frames off the protocol").verdict == "breach"


@pytest.mark.slow
@pytest.mark.usefixtures("private_alone")
def test_an_input_without_a_mask_is_a_breach(monkeypatch: pytest.MonkeyPatch, ground: Ground, one: Find) -> None:
    monkeypatch.setattr(device, "_masked", lambda vector, *_: vector)
    finding = one(wire.audit(ground), "masked inputs that do not look like noise")
    assert finding.verdict == "breach"
    assert finding.figure == 12


@pytest.mark.slow
@pytest.mark.usefixtures("private_alone")
def test_an_answer_longer_than_others_is_a_breach(monkeypatch: pytest.MonkeyPatch, ground: Ground, one: Find) -> None:
    """A size that follows from what a device holds tells of it; the server would only drop the device."""
    agree = PrivateAgent.agree

    def telling(self: PrivateAgent, message: bytes) -> bytes:
        return agree(self, message) + bytes(len(self._device.memories()[0].text) % 5)

    monkeypatch.setattr(PrivateAgent, "agree", telling)
    assert one(wire.audit(ground), "frames off the protocol").verdict == "breach"


@pytest.mark.usefixtures("choices_alone")
@pytest.mark.parametrize("kept", ["an item of the list, and with whom", "an item of the user's own"])
def test_a_choice_among_the_sums_is_a_breach(
    monkeypatch: pytest.MonkeyPatch, ground: Ground, one: Find, kept: str
) -> None:
    """Sums know nothing of whom it was chosen with, and of no item that the list does not hold."""

    def telling(device: Any, request: Any) -> np.ndarray:
        sent = sums(device, request)
        own = "own" in kept
        choices = [one.record for one in device.store.iter(purpose=CHOICE)]
        told = next(choice for choice in choices if (choice.label not in FILMS) == own)
        codes = np.frombuffer((str(told.label) if own else told.text).encode(), dtype=np.uint8)
        sent[: len(codes)] = codes / 255
        return sent

    sums = agent.choice_answer
    monkeypatch.setattr(agent, "choice_answer", telling)
    assert one(wire.audit(ground), "secrets in frames").verdict == "breach"


@pytest.mark.usefixtures("choices_alone")
def test_choices_that_no_ledger_has_are_a_breach(monkeypatch: pytest.MonkeyPatch, ground: Ground, one: Find) -> None:
    contribute = Participant.contribute

    def noting_all_but_choices(self: Any, its: Any, *args: Any, **given: Any) -> Any:
        return None if its.purpose == CHOICE else contribute(self, its, *args, **given)

    monkeypatch.setattr(Participant, "contribute", noting_all_but_choices)
    assert one(wire.audit(ground), "updates that no ledger has").figure == 2 * (1 + BLOCKS)


@pytest.mark.usefixtures("choices_alone")
def test_a_request_about_choices_for_other_terms_is_a_breach(
    monkeypatch: pytest.MonkeyPatch, ground: Ground, one: Find
) -> None:
    def asking_for_more(*args: Any, **given: Any) -> list[Any]:
        asked = invitations(*args, **given)
        for message in asked:
            message.content["config"]["contexts"] = True
        return asked

    invitations = choice_rounds._invitations
    monkeypatch.setattr(choice_rounds, "_invitations", asking_for_more)
    finding = one(wire.audit(ground), "frames off the protocol")
    assert (finding.verdict, "contexts" in finding.note) == ("breach", True)


@pytest.mark.usefixtures("central_alone")
def test_a_text_in_the_part_that_a_trusted_server_gets_is_a_breach(
    monkeypatch: pytest.MonkeyPatch, ground: Ground, one: Find
) -> None:
    def telling(device: Any, *args: Any, **given: Any) -> np.ndarray:
        part = update_of(device, *args, **given)
        codes = np.frombuffer(device.memories()[0].text.encode(), dtype=np.uint8)
        part[:] = 0.0  # So short that it is not scaled when it is clipped.
        part[: len(codes)] = codes / 255
        return part

    update_of = agent.update_of
    monkeypatch.setattr(agent, "update_of", telling)
    monkeypatch.setattr(agent, "clip", lambda update, _: update)
    assert one(wire.audit(ground), "secrets in frames").verdict == "breach"


@pytest.mark.usefixtures("central_alone")
def test_a_ledger_of_another_part_than_a_trusted_server_got_is_a_breach(
    monkeypatch: pytest.MonkeyPatch, ground: Ground, one: Find
) -> None:
    given = Agent.central
    monkeypatch.setattr(
        Agent, "central", lambda self, request, **more: given(self, request, **more) + np.float32(2.0**-20)
    )
    assert one(wire.audit(ground), "updates that no ledger has").figure == 2 * 2


@pytest.mark.usefixtures("central_alone")
@pytest.mark.parametrize("more", [{"hold-back": True}, {"terms": b" "}], ids=["another term", "a blank in the terms"])
def test_a_request_of_central_mode_with_more_in_it_is_a_breach(
    monkeypatch: pytest.MonkeyPatch, ground: Ground, one: Find, more: dict[str, Any]
) -> None:
    """A server could tell devices apart by it."""

    record = noisy_rounds.ConfigRecord

    def asking_for_more(told: dict[str, Any]) -> Any:
        return record({**told, **{name: told.get(name, type(value)()) + value for name, value in more.items()}})

    monkeypatch.setattr(noisy_rounds, "ConfigRecord", asking_for_more)
    finding = one(wire.audit(ground), "frames off the protocol")
    assert (finding.verdict, next(iter(more)) in finding.note) == ("breach", True)


@pytest.mark.parametrize("kind", wire_schema.REQUESTS)
def test_the_schema_is_the_page_of_the_protocol(kind: str) -> None:
    """Every term and array that the audit lets pass stands in the table of its message, and the other way round."""
    section = PROTOCOL.split(f"## Server to device: `{kind}`\n", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    names = {name for row in rows for name in re.findall(r"`([a-z-]+)`", row.split("|")[2])}
    assert names == {*wire_schema.REQUESTS[kind], *wire_schema.OPTIONAL[kind], *wire_schema.ARRAYS[kind]}


def test_the_schema_of_private_rounds_is_the_page_of_the_protocol() -> None:
    section = PROTOCOL.split("# Private mode\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    told = {re.findall(r"`([a-z-]+)`", row[1])[0]: row[3].strip() for row in rows}
    for stage, (more, arrays) in wire_schema.STAGES.items():
        assert {name for name, where in told.items() if where in ("all", stage)} == {*wire_schema._STAGE, *more}
        assert bool(arrays) == (stage == "input")
    stages = next(row[2] for row in rows if "`stage`" in row[1])
    assert set(re.findall(r"`([a-z]+)`", stages)) == set(wire_schema.STAGES)


@pytest.mark.slow
def test_over_supernodes_a_skipped_ledger_is_a_breach_and_no_secret_crosses(
    monkeypatch: pytest.MonkeyPatch, world_of: Callable[[str], World], tmp_path: Path, one: Find
) -> None:
    monkeypatch.setattr(Participant, "contribute", lambda *_, **__: None)
    world = world_of(OPEN)
    found = list(wire._findings([run_deployed(world, tmp_path, apart=())]))
    assert [finding.name for finding in found if finding.verdict == "breach"] == [one(found, "updates that no").name]
    assert one(found, "updates that no ledger has").figure == 2 * 2


@pytest.mark.slow
def test_over_supernodes_a_private_round_ends_well_and_the_one_device_without_a_ledger_is_called(
    monkeypatch: pytest.MonkeyPatch, world_of: Callable[[str], World], tmp_path: Path, one: Find
) -> None:
    """Of 13 devices, whose agents are processes, one fails and one's node is killed after the shares went round."""

    def noted_nowhere(self: Any, *_: Any, also: Callable[[], None], **__: Any) -> None:
        with self.store.transaction():
            also()

    monkeypatch.setattr(Participant, "contribute", noted_nowhere)  # In this process.
    world = world_of(PRIVATE)
    seen = run_deployed(world, tmp_path, apart=world.healthy[1:])
    found = list(wire._findings([seen]))
    assert [finding.name for finding in found if finding.verdict == "breach"] == [one(found, "updates that no").name]
    assert one(found, "updates that no ledger has").figure == 1
    assert set(seen.noted) == {sent for sent in seen.sent() if sent[0] != world.healthy[0]}
    assert {name for name, *_ in seen.sent()} == set(world.healthy)
    given = privacy_of(Checkpoint.load(tmp_path / "out" / "checkpoint.safetensors"))
    assert given is not None
    assert 60 < given.eps_server <= world.epsilon
