"""The Newton steps after a run's rounds: what devices give, what becomes of it, and who refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.model.catalogue import Catalogue
from engine.model.checkpoint import Checkpoint
from engine.personal.caution import CAUTION_MARKS, CAUTIONS, gains_of
from engine.personal.drift import CHANCES, least_chance_of
from engine.personal.rescorer import PUBLIC_WEIGHTS, STATISTICS_LENGTH, K, Statistics, newton_step
from engine.personal.shrinkage import KAPPAS, chosen
from engine.personal.together import ANSWER_LENGTH, Learned
from federation.agent.agent import Agent, StatisticsRequest
from federation.data.dataset import Row
from federation.errors import RoundError, UpdateError
from federation.privacy.update import l2_norm
from federation.rounds.rescorer_rounds import RESCORER_MESSAGE
from federation.simulation.grid import Watch

# Of the town, whose people have these.
LABELS = Catalogue.from_names(["opera", "pizza", "salon", "taxi"])


def request(flat: np.ndarray, **changed: Any) -> StatisticsRequest:
    plain: dict[str, Any] = {
        "run": "Flower run 1",
        "flat": flat,
        "catalogue": LABELS.fingerprint,
        "weights": PUBLIC_WEIGHTS,
        "server_round": 4,
        "mode": "open",
        "clip_norm": 100.0,
    }
    return StatisticsRequest(**(plain | changed))


@pytest.mark.parametrize("steps", [1, 3])
def test_population_weights_are_newtons_on_the_sum_of_what_devices_hold(town: Any, steps: int) -> None:
    trained = town.run(rounds=3, rescorer_steps=steps, rescorer_clip=1e6)
    learned = Learned()
    for _ in range(steps):
        total = np.zeros(ANSWER_LENGTH)
        for name in town.names:
            with town.fleet.open(name) as device:
                own = device.rescorer_statistics(trained.flat, learned.weights)
            assert np.abs(own).max() > 0
            total += own.astype(np.float32)
        weights = newton_step(learned.weights, total[:STATISTICS_LENGTH])
        learned = learned.after(total)
    assert trained.round == 3 + steps
    assert not np.allclose(weights, PUBLIC_WEIGHTS, atol=1e-3)
    np.testing.assert_allclose(trained.learned.weights, weights, rtol=1e-6)
    assert trained.learned.kappa == chosen(total[STATISTICS_LENGTH:][: len(KAPPAS)])
    marks, drift = np.split(total[STATISTICS_LENGTH + len(KAPPAS) :], [CAUTION_MARKS])
    np.testing.assert_allclose(trained.learned.gains, gains_of(marks), rtol=1e-6)
    assert trained.learned.least_chance == least_chance_of(drift)


def test_without_steps_the_model_carries_no_weights_and_devices_use_the_public_ones(town: Any) -> None:
    trained = town.run(rounds=2, rescorer_steps=0)
    assert trained.learned is None
    with town.fleet.open(town.names[0]) as device:
        device.load_model(trained)
        assert device.evaluate([("taxi", "taxi")])


def test_device_starts_from_the_weights_that_came_with_the_model(town: Any, toy: Any) -> None:
    import dataclasses

    pulled = dataclasses.replace(town.fleet.start, learned=Learned(weights=PUBLIC_WEIGHTS + 1.0))
    with town.fleet.open(town.names[0]) as device:
        before = device.suggest("taxi number own", k=1)[0].score
        device.load_model(pulled)
        assert device.model.learned is not None
        assert device.model.content_hash() == pulled.content_hash()
        assert device.suggest("taxi number own", k=1)[0].score != before


def test_statistics_leave_clipped_as_one_array_of_fixed_length(town: Any) -> None:
    flat = town.fleet.start.flat
    with town.fleet.open(town.names[0]) as device:
        whole = Agent(device).statistics(request(flat, clip_norm=1e6))
        np.testing.assert_allclose(whole, device.rescorer_statistics(flat, PUBLIC_WEIGHTS), rtol=1e-6)
        marks = len(KAPPAS) + 1 + 2 * len(CAUTIONS) + 2 * len(CHANCES)
        assert whole.shape == (ANSWER_LENGTH,) == (K + K * (K + 1) // 2 + marks,)
        small = Agent(device).statistics(request(flat, clip_norm=0.5))
    assert small.dtype == np.float32
    assert l2_norm(whole) > 0.5 >= l2_norm(small)
    np.testing.assert_allclose(small / l2_norm(small), whole / l2_norm(whole), atol=1e-5)
    # A share of a clipped sum is still that of a concave likelihood.
    assert np.linalg.eigvalsh(Statistics.unpacked(small[:STATISTICS_LENGTH].astype(np.float64)).curvature).min() > -1e-5


def test_ledger_has_the_statistics_and_the_same_request_the_same_answer(
    town: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(town.fleet.start.flat)
    with town.fleet.open(town.names[0]) as device:
        sent = Agent(device).statistics(asked)
        device.remember("a taxi, now", label="taxi")
        monkeypatch.setattr(type(device), "rescorer_statistics", lambda *_: pytest.fail("counted again"))
        np.testing.assert_array_equal(Agent(device).statistics(asked), sent)
        told = device.account.contributions()
    assert [(its.round, its.size_bytes, its.again) for its in told] == [
        (4, 4 * ANSWER_LENGTH, False),
        (4, 4 * ANSWER_LENGTH, True),
    ]


@pytest.mark.parametrize(
    "changed", [{"run": "2"}, {"server_round": 5}, {"clip_norm": 1.0}, {"weights": PUBLIC_WEIGHTS + 1e-9}], ids=str
)
def test_whatever_is_asked_otherwise_is_another_request(town: Any, changed: dict[str, Any]) -> None:
    flat = town.fleet.start.flat
    assert request(flat).digest() == request(flat.copy(), weights=PUBLIC_WEIGHTS.copy()).digest()
    assert request(flat, **changed).digest() != request(flat).digest()


def test_device_gives_no_statistics_where_its_owner_has_not_allowed_it(town: Any) -> None:
    flat = town.fleet.start.flat
    with town.fleet.open(town.names[0]) as device:
        with pytest.raises(UpdateError, match="private"):
            Agent(device).statistics(request(flat, mode="private"))
        device.withdraw_purpose("personalization")
        with pytest.raises(UpdateError):
            Agent(device).statistics(request(flat))
        device.allow_purpose("personalization")
        device.allow_rounds(None)
        with pytest.raises(UpdateError):
            Agent(device).statistics(request(flat))
        assert not device.account.contributions()


@pytest.mark.parametrize(
    "weights", [np.zeros(K + 1), np.full(K, np.nan), np.full(K, 1e9), np.zeros(K, dtype=np.float32)]
)
def test_weights_that_are_none_are_refused_and_nothing_is_noted(town: Any, weights: np.ndarray) -> None:
    from engine.errors import ModelError

    with town.fleet.open(town.names[0]) as device:
        with pytest.raises(ModelError):
            Agent(device).statistics(request(town.fleet.start.flat, weights=weights))
        assert not device.account.contributions()


def test_memories_with_private_labels_give_nothing(town_of: Any, split: Any, wire: Any) -> None:
    alone = [Row(user="hermit", order=n, text=f"own {n % 3} words", label=f"mine {n % 2}", labels=()) for n in range(9)]
    town = town_of([*split, ("hermit", alone, [])])
    with town.fleet.open("device-0005") as device:
        assert not device.rescorer_statistics(town.fleet.start.flat, PUBLIC_WEIGHTS).any()


def test_every_answer_to_a_step_has_the_same_size(town: Any, wire: Any) -> None:
    town.run(rounds=1, rescorer_steps=3)
    steps = [proto for proto in wire.protos if proto.metadata.message_type == RESCORER_MESSAGE]
    assert len(steps) == 3 * len(town.names)
    assert len({proto.ByteSize() for proto in steps}) <= 2  # Times are written in more bytes or fewer.
    assert [one.replies for one in town.traffic] == [4, 4, 4, 4]


def test_step_with_too_few_answers_fails_and_the_one_before_is_kept(town: Any) -> None:
    straight = town.run(rounds=1, rescorer_steps=3, out=town.out / "straight")

    def break_at(number: int, _: np.ndarray) -> None:
        if number == 3:
            for name in town.names[:3]:
                with town.fleet.open(name) as device:
                    device.allow_rounds(None)

    with pytest.raises(RoundError, match=r"Round 3 failed: 1 valid replies of 4"):
        town.run(rounds=1, rescorer_steps=3, watch=Watch(on_round=break_at))
    kept = Checkpoint.load(town.out / "checkpoint.safetensors")
    assert kept.round == 2
    assert kept.learned is not None
    for name in town.names:
        with town.fleet.open(name) as device:
            device.allow_rounds("open")
    resumed = town.run(rounds=1, rescorer_steps=3, resume=True)
    assert resumed.bare().content_hash() == straight.bare().content_hash()
    assert resumed.flat.tobytes() == straight.flat.tobytes()


def test_statistics_that_were_not_clipped_are_dropped(town: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Agent.statistics
    honest = town.run(rounds=1, rescorer_steps=1, cohort=3, min_replies=2, out=town.out / "honest")

    def greedy(self: Agent, asked: StatisticsRequest) -> np.ndarray:
        given = real(self, asked)
        return given if self.device.store.store_id != first else given * np.float32(1e6)

    with town.fleet.open(town.names[0]) as device:
        first = device.store.store_id
    monkeypatch.setattr(Agent, "statistics", greedy)
    town.run(rounds=1, rescorer_steps=1, min_replies=3, out=town.out / "greedy")
    with pytest.raises(RoundError, match="Round 2 failed: 3 valid replies of 4"):
        town.run(rounds=1, rescorer_steps=1, min_replies=4, out=town.out / "all")
    assert honest.learned is not None


def test_model_of_another_run_brings_no_weights_along(town: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = town.run(rounds=1, rescorer_steps=1)
    before.save(town.out / "start.safetensors")
    asked, real = [], Agent.statistics

    def seen(self: Agent, request: StatisticsRequest) -> np.ndarray:
        asked.append(request.weights)
        return real(self, request)

    monkeypatch.setattr(Agent, "statistics", seen)
    town.run(rounds=1, rescorer_steps=1, model=str(town.out / "start.safetensors"), out=town.out / "next")
    np.testing.assert_array_equal(asked[0], PUBLIC_WEIGHTS)


def test_run_with_other_steps_is_not_resumed(town: Any) -> None:
    from federation.errors import CheckpointError

    town.run(rounds=1, rescorer_steps=1)
    with pytest.raises(CheckpointError, match="rescorer-steps"):
        town.run(rounds=1, rescorer_steps=2, resume=True)
