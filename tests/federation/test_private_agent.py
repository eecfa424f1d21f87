"""The device's side of a private round: processes come and go, a server asks twice or lies, an owner changes mind."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from engine.device.device import Device
from federation.agent import answers
from federation.agent.asked import Asked
from federation.agent.private import ADVERT, AGREE, INPUT, REVEAL, SHARES, STAGES, UNMASK, PrivateAgent, _unpacked
from federation.agent.terms import NoisyTerms
from federation.errors import RoundError, UpdateError
from federation.secagg import Roster, SigningKey, sign_roster
from federation.secagg.terms import Announcement

PLAN = {"rounds": 1, "local_steps": 2, "epsilon": 3.0}
Answer = Callable[[Any, Asked], Any]


def between(monkeypatch: pytest.MonkeyPatch, change: Callable[[Answer, Any, Asked], Any]) -> None:
    """Let ``change`` stand between node and agent: it gets the way to the agent, the agent and what was asked."""
    plain = answers.answer
    monkeypatch.setattr(answers, "answer", lambda agent, asked: change(plain, agent, asked))


def first(asked: Asked, stage: str) -> bool:
    return asked.node_id == 2 and asked.values["stage"] == stage


def test_stages_may_be_processes_of_their_own_and_asked_twice_say_the_same(
    village: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def twice(plain: Answer, agent: Any, asked: Asked) -> Any:
        reply = plain(agent, asked)
        if asked.values["stage"] == UNMASK:
            with pytest.raises(UpdateError, match="in no round"):
                plain(agent, asked)
        else:
            assert plain(agent, asked) == reply
            seen.append(str(asked.values["stage"]))
        return reply

    between(monkeypatch, twice)
    # Each device is closed when the next one is asked.
    monkeypatch.setattr("federation.agent.pool.most_open", lambda: 1)
    assert village.run(**PLAN).round == 1
    assert sorted(set(seen)) == sorted(set(STAGES) - {UNMASK})
    with village.fleet.open("device-0001") as device:
        told = device.account.contributions()
        assert [(its.again, its.sent) for its in told] == [(False, told[0].sent), (True, told[0].sent)]
        assert device.account.spent.rho == pytest.approx(told[0].rho, rel=1e-6)
        assert device.stage.state is None


def test_ledger_reconciles_with_the_wire_byte_for_byte(village: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[int, bytes] = {}

    def listening(plain: Answer, agent: Any, asked: Asked) -> Any:
        reply = plain(agent, asked)
        if asked.values["stage"] == INPUT:
            sent[asked.node_id] = reply
        return reply

    between(monkeypatch, listening)
    village.run(**PLAN)
    assert len(sent) == 16
    for node, name in enumerate(village.names, start=2):
        with village.fleet.open(name) as device:
            (its,) = device.account.contributions()
            assert (its.sent, its.size_bytes) == (hashlib.sha256(sent[node]).hexdigest(), len(sent[node]))


def test_all_devices_send_the_same_size_at_every_stage_and_one_abstain(village: Any, wire: Any) -> None:
    with village.pool() as pool:
        some = [pool.agent(name).device for name in village.names[:3]]
        some[0].allow_rounds(None)
        some[1].withdraw_purpose("personalization")
        some[2].remember("ride ride ride", label="taxi")
    village.run(**PLAN)
    sizes: dict[int, set[int]] = {}
    abstains = set()
    for proto in wire.protos:
        if proto.HasField("error"):
            abstains.add(proto.error.SerializeToString())
        else:
            for item in proto.content.items:
                assert item.key == "config"
                (entry,) = item.config_record.items
                assert entry.key == "message"
                sizes.setdefault(len(entry.value.bytes), set()).add(proto.metadata.src_node_id)
    assert len(abstains) == 1
    assert len(sizes) == len(STAGES)
    assert {size: len(nodes) for size, nodes in sizes.items()} == dict.fromkeys(sizes, 14)


ACTS: dict[int, Callable[[Device], Any]] = {  # by node
    2: lambda device: device.forget(1),
    3: lambda device: device.withdraw_purpose("personalization"),
    4: lambda device: device.allow_rounds(None),
}


@pytest.mark.parametrize(
    "stage", [SHARES, AGREE, *(pytest.param(stage, marks=pytest.mark.slow) for stage in (INPUT, UNMASK))]
)
def test_what_an_owner_takes_back_in_the_middle_of_a_round_leaves_nothing_to_send(
    village: Any, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    # Of 16 devices one may be missing before shares are out.
    acts = {2: ACTS[2]} if stage == SHARES else ACTS
    gone: list[tuple[int, str]] = []

    def acting(plain: Answer, agent: Any, asked: Asked) -> Any:
        if asked.node_id in acts and asked.values["stage"] == stage:
            acts[asked.node_id](agent.device)
            assert agent.device.stage.state is None
        try:
            return plain(agent, asked)
        except UpdateError:
            gone.append((asked.node_id, str(asked.values["stage"])))
            raise

    between(monkeypatch, acting)
    village.run(**PLAN)
    assert gone == [(node, stage) for node in acts]
    for node in acts:
        with village.fleet.open(village.names[node - 2]) as device:
            assert len(device.account.contributions()) == (stage in (AGREE, UNMASK))


def test_forgotten_between_two_deliveries_the_update_does_not_leave_again(
    village: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(plain: Answer, agent: Any, asked: Asked) -> Any:
        reply = plain(agent, asked)
        if first(asked, INPUT):
            agent.device.forget(1)
            with pytest.raises(UpdateError):
                plain(agent, asked)
        return reply

    between(monkeypatch, again)
    village.run(**PLAN)
    with village.fleet.open("device-0001") as device:
        assert [its.again for its in device.account.contributions()] == [False]


def another_model(asked: Asked) -> Asked:
    return dataclasses.replace(asked, arrays={"model": asked.arrays["model"] + np.float32(1)})


def other_terms(**changed: Any) -> Callable[[Asked], Asked]:
    def lie(asked: Asked) -> Asked:
        terms = json.loads(asked.values["terms"]) | changed  # type: ignore[arg-type]
        told = json.dumps(terms, sort_keys=True, separators=(",", ":")).encode()
        return dataclasses.replace(asked, values={**asked.values, "terms": told})

    return lie


def own_roster(asked: Asked) -> Asked:
    """The same devices, signed by the server."""
    keys = tuple(SigningKey.generate().public for _ in range(16))
    signed = sign_roster(Roster(version=1, keys=keys), SigningKey.generate())
    return dataclasses.replace(asked, values={**asked.values, "roster": signed})


def old_number(asked: Asked) -> Asked:
    announcement = Announcement.decode(asked.values["message"])  # type: ignore[arg-type]
    told = dataclasses.replace(announcement, number=0).encode()
    return dataclasses.replace(asked, values={**asked.values, "message": told})


def next_century(asked: Asked) -> Asked:
    announcement = Announcement.decode(asked.values["message"])  # type: ignore[arg-type]
    told = dataclasses.replace(announcement, number=4 * 10**12).encode()
    return dataclasses.replace(asked, values={**asked.values, "message": told})


def other_stage(stage: str) -> Callable[[Asked], Asked]:
    return lambda asked: dataclasses.replace(asked, values={**asked.values, "stage": stage})


LIES = [
    (INPUT, another_model, "another than the round announced"),
    (ADVERT, own_roster, "not signed by the pinned publisher"),
    (ADVERT, other_terms(devices=12, cohort=12), "the roster has 16"),
    (ADVERT, other_terms(dimension=3), "another version of the catalogue"),
    (ADVERT, other_terms(catalogue="0" * 32), "another version of the catalogue"),
    (ADVERT, other_terms(noise_multiplier=0.2), "limit"),
    (ADVERT, other_terms(noise_multiplier=0.0), "do not make a private round"),
    (ADVERT, other_terms(noise_multiplier=-4.0), "do not make a private round"),
    (ADVERT, other_terms(noise="none"), "do not make a private round"),
    (ADVERT, other_terms(extra=1), "malformed"),
    (ADVERT, other_terms(local_steps=10**6), "local_steps"),
    (ADVERT, other_terms(mode="open"), "name a mode"),
    (ADVERT, other_terms(mode="central"), "of another mode"),
    (ADVERT, other_terms(noise_multiplier=1e200), "below"),
    (ADVERT, other_terms(clip_norm=10**400), "below"),
    (ADVERT, other_terms(run="a b"), "letters and digits"),
    (ADVERT, next_century, "another day"),
    (ADVERT, old_number, "not new"),
    (SHARES, other_stage(REVEAL), "the last answered was"),
    (SHARES, other_stage(UNMASK), "the last answered was"),
    (AGREE, other_stage(INPUT), "lacks"),
    (AGREE, other_stage("key"), "no stage 'key'"),
]


def test_device_refuses_what_a_lying_server_asks_and_the_round_is_as_if_it_had_not(
    village: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str]] = []

    def lying(plain: Answer, agent: Any, asked: Asked) -> Any:
        for stage, lie, _ in LIES:
            if first(asked, stage):
                with pytest.raises(UpdateError) as caught:
                    plain(agent, lie(asked))
                told.append((stage, str(caught.value)))
        return plain(agent, asked)

    between(monkeypatch, lying)
    village.run(**PLAN)
    wanted = sorted(((stage, text) for stage, _, text in LIES), key=lambda lie: STAGES.index(lie[0]))
    assert [stage for stage, _ in told] == [stage for stage, _ in wanted]
    for (_, text), (_, part) in zip(told, wanted, strict=True):
        assert part in text
    for name in village.names:
        with village.fleet.open(name) as device:
            assert len(device.account.contributions()) == 1


def test_a_model_that_makes_nan_of_some_memories_tells_nothing_of_who_has_them(
    village: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server learns of a memory where only those abstain that have it, and for free."""
    plain = Device.train

    def train(self: Device, flat: np.ndarray, **given: Any) -> np.ndarray:
        trained = plain(self, flat, **given)
        if self.round_identity()[0] % 2:  # Some, by what they hold.
            trained[0] = np.nan
        return trained

    monkeypatch.setattr(Device, "train", train)
    village.run(**PLAN)
    for name in village.names:
        with village.fleet.open(name) as device:
            assert len(device.account.contributions()) == 1


def test_two_processes_send_one_input(village: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that read the round before another sent its input must not send a second one under the same masks."""
    inputs: list[bytes] = []
    secrets: list[bytes] = []
    plain = PrivateAgent._update

    def racing(self: PrivateAgent, terms: NoisyTerms, held: Any, flat: np.ndarray, excess: bytes) -> Any:
        secrets.append(excess)
        if held.index == 0 and not inputs:
            inputs.append(b"")
            with village.fleet.open("device-0001") as other:  # Another process, quicker.
                inputs.append(PrivateAgent(other).input(asked[0], flat=flat))
        return plain(self, terms, held, flat, excess)

    asked: list[bytes] = []

    def noting(plain_answer: Answer, agent: Any, what: Asked) -> Any:
        if first(what, INPUT):
            asked.append(what.values["message"])  # type: ignore[arg-type]
            reply = plain_answer(agent, what)
            inputs.append(reply)
            return reply
        return plain_answer(agent, what)

    monkeypatch.setattr(PrivateAgent, "_update", racing)
    between(monkeypatch, noting)
    village.run(**PLAN)
    assert len(set(inputs[1:])) == 1
    assert len(set(secrets)) == len(secrets) == len(village.names) + 1  # Two, of one state: nothing known gives them.
    with village.fleet.open("device-0001") as device:
        assert len({its.sent for its in device.account.contributions()}) == 1


def test_a_round_that_was_kept_by_another_release_or_is_damaged_is_given_up_for_the_next(
    village: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[bytes] = []

    def stopping(plain: Answer, agent: Any, asked: Asked) -> Any:
        plain(agent, asked)
        kept.append(agent.device.stage.state)
        raise UpdateError("gone")

    with monkeypatch.context() as patched:
        between(patched, stopping)
        with pytest.raises(RoundError):
            village.run(**PLAN)
    told, _, blob = _unpacked(kept[0])
    older = len(told).to_bytes(4, "little") + told + blob  # As it was kept before noise was in pieces.
    states = {2: older, 3: kept[1][:50], 4: b"", 5: bytes(80)}

    def damaged(plain: Answer, agent: Any, asked: Asked) -> Any:
        if asked.values["stage"] == ADVERT and asked.node_id in states:
            agent.device.stage.keep(states[asked.node_id])
        return plain(agent, asked)

    between(monkeypatch, damaged)
    village.run(**PLAN)
    for node in (*states, 6):
        with village.fleet.open(village.names[node - 2]) as device:
            assert len(device.account.contributions()) == 1


@pytest.mark.parametrize(("gone", "given"), [(0, 2), (2, 0)])
def test_noise_is_given_back_as_far_as_the_survivors_that_were_agreed_on_allow(
    village: Any, monkeypatch: pytest.MonkeyPatch, gone: int, given: int
) -> None:
    answers: list[list[bytes]] = []

    def noting(plain: Answer, agent: Any, asked: Asked) -> Any:
        if asked.node_id - 2 < gone and asked.values["stage"] in (INPUT, AGREE, UNMASK):
            raise UpdateError("gone")
        reply = plain(agent, asked)
        if asked.values["stage"] == UNMASK:
            answers.append([reply[at - 32 : at] if at else reply[-32:] for at in (-96, -64, -32, 0)])
        return reply

    between(monkeypatch, noting)
    rounds = 1 if gone else 2
    village.run(**(PLAN | {"rounds": rounds}))
    assert len(answers) == rounds * (len(village.names) - gone)
    for keys in answers:  # 16 devices hold 13 honest ones, 0.81 of all: two of four pieces are too much.
        assert [any(key) for key in keys] == [True] * given + [False] * (4 - given)
    told = [key for keys in answers for key in keys[:given]]
    assert len(set(told)) == len(told)  # Nor is one used in two rounds.


def test_too_little_noise_for_what_a_sum_may_hold_is_refused_by_all(
    village: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("federation.rounds.noisy_rounds.honest_share", lambda *_: 1.0)
    with pytest.raises(RoundError, match="0 devices answered"):
        village.run(**PLAN)
    with village.fleet.open("device-0001") as device:
        assert device.account.contributions() == []


def test_device_draws_itself_once_a_round_and_at_the_rate_that_was_told(
    village: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []

    def coin(q: float, _stream: Any) -> bool:
        drawn.append(q)
        return len(drawn) != 1

    def asking(plain: Answer, agent: Any, asked: Asked) -> Any:
        if first(asked, ADVERT):
            for _ in range(3):  # Until it is drawn, a server would like.
                with pytest.raises(UpdateError):
                    plain(agent, asked)
            raise UpdateError("not drawn")
        return plain(agent, asked)

    monkeypatch.setattr("federation.agent.private.drawn", coin)
    between(monkeypatch, asking)
    village.run(**PLAN, cohort=15)
    assert drawn == [15 / 16] * 16


def test_terms_have_one_form() -> None:
    terms = NoisyTerms(
        run="r", mode="private", server_round=1, rounds=2, participations=1, devices=100, cohort=50, dimension=10,
        catalogue="c", task="train", directions=0, scatter=0, hold_back=False, local_steps=1,
        learning_rate=0.5, proximal_mu=0.0, seed=0, clip_norm=1.0, noise="discrete Gaussian", noise_multiplier=2.0,
        honest_share=0.4, delta=1e-5,
    )  # fmt: skip
    told = terms.to_bytes()
    assert NoisyTerms.from_bytes(told) == terms
    for other in (b"", told[:-1], told + b" ", told.replace(b":", b": ", 1), b"[" * 5000, b"null", b"{}"):
        with pytest.raises(UpdateError):
            NoisyTerms.from_bytes(other)
