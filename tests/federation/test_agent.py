"""The agent alone opens stores: consent first, the bound always, and no path from the server."""

from __future__ import annotations

import hashlib
import resource
from typing import Any

import numpy as np
import pytest

from engine.model.catalogue import Catalogue
from engine.model.training import TrainingPlan
from engine.owner.account import Limits
from federation.agent import pool as agents
from federation.agent.agent import Agent, TrainRequest
from federation.agent.pool import DevicePool, most_open, serving, socket_of
from federation.errors import UpdateError
from store import StoreError, StoreFullError, Where

# Of the town, whose people have these.
LABELS = Catalogue.from_names(["opera", "pizza", "salon", "taxi"])


def request(flat: np.ndarray, **changed: Any) -> TrainRequest:
    plain: dict[str, Any] = {
        "run": "Flower run 1",
        "flat": flat,
        "catalogue": LABELS.fingerprint,
        "server_round": 1,
        "mode": "open",
        "hold_back": False,
        "plan": TrainingPlan(steps=5),
        "clip_norm": 0.01,
        "seed": 0,
    }
    return TrainRequest(**(plain | changed))


def test_update_is_the_global_model_plus_a_clipped_delta(town: Any) -> None:
    flat = town.fleet.start.flat
    with town.fleet.open("device-0001") as device:
        sent = Agent(device).train(request(flat), node_id=2)
        trained = device.train(flat, plan=TrainingPlan(steps=5), hold_back=False, rng=np.random.default_rng(0))
    delta = (trained - flat).astype(np.float64)
    assert sent.dtype == np.float32
    assert np.linalg.norm(delta) > 0.01
    np.testing.assert_allclose(sent - flat, delta * (0.01 / np.linalg.norm(delta)), atol=1e-6)


def test_ledger_has_what_left(town: Any) -> None:
    flat = town.fleet.start.flat
    with town.fleet.open("device-0001") as device:
        first = Agent(device).train(request(flat), node_id=2)
        second = Agent(device).train(request(first, server_round=2), node_id=2)
        told = device.account.contributions()
    assert [(its.to, its.round, its.mode) for its in told] == [("Flower run 1", 1, "open"), ("Flower run 1", 2, "open")]
    for its, model, sent in zip(told, (flat, first), (first, second), strict=True):
        assert its.model == hashlib.sha256(model.astype("<f4").tobytes()).hexdigest()
        assert its.sent == hashlib.sha256(sent.astype("<f4").tobytes()).hexdigest()
        assert its.size_bytes == 4 * len(flat)


def test_asked_again_it_is_the_same_and_nothing_is_trained(town: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = request(town.fleet.start.flat)
    with town.fleet.open("device-0001") as device:
        sent = Agent(device).train(asked, node_id=2)
    with town.fleet.open("device-0001") as device:
        device.remember("a taxi, now", label="taxi")
        monkeypatch.setattr(type(device), "train", lambda *_, **__: pytest.fail("trained again"))
        assert np.array_equal(Agent(device).train(asked, node_id=2), sent)
        assert [its.again for its in device.account.contributions()] == [False, True]


@pytest.mark.parametrize(
    "changed",
    [
        {"run": "Flower run 2"},
        {"server_round": 2},
        {"hold_back": True},
        {"plan": TrainingPlan(steps=4)},
        {"clip_norm": 0.02},
        {"seed": 1},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_whatever_is_asked_otherwise_is_another_request(town: Any, changed: dict[str, Any]) -> None:
    flat = town.fleet.start.flat
    assert request(flat).digest() == request(flat.copy()).digest()
    assert request(flat, **changed).digest() != request(flat).digest()
    assert request(flat + np.float32(1e-3)).digest() != request(flat).digest()


def test_memory_forgotten_while_it_trains_does_not_leave(town: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    flat, real, asked = town.fleet.start.flat, Agent._trained, list[int]()

    def slow(self: Agent, request: TrainRequest, node_id: int) -> np.ndarray:
        update = real(self, request, node_id)
        asked.append(1)
        if len(asked) == 1:
            with town.fleet.open("device-0001") as other:
                other.erase(Where())
        return update

    monkeypatch.setattr(Agent, "_trained", slow)
    with town.fleet.open("device-0001") as device:
        sent = Agent(device).train(request(flat), node_id=2)
        assert len(device.account.contributions()) == 1
    assert len(asked) == 2
    assert np.array_equal(sent, flat)


def test_device_that_changes_all_the_while_does_not_take_part(town: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Agent._trained

    def slow(self: Agent, request: TrainRequest, node_id: int) -> np.ndarray:
        self.device.allow_rounds("open")
        return real(self, request, node_id)

    monkeypatch.setattr(Agent, "_trained", slow)
    with town.fleet.open("device-0001") as device:
        with pytest.raises(UpdateError, match="all the while"):
            Agent(device).train(request(town.fleet.start.flat), node_id=2)
        assert device.account.contributions() == []


def test_two_deliveries_at_once_get_the_same_bytes_and_one_charge(town: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, real = request(town.fleet.start.flat), Agent._trained
    others: list[np.ndarray] = []

    def slow(self: Agent, request: TrainRequest, node_id: int) -> np.ndarray:
        update = real(self, request, node_id)
        if not others:
            others.append(update)
            with town.fleet.open("device-0001") as device:
                device.remember("a taxi, now", label="taxi")
                others[0] = Agent(device).train(request, node_id=node_id)
        return update

    monkeypatch.setattr(Agent, "_trained", slow)
    with town.fleet.open("device-0001") as device:
        sent = Agent(device).train(asked, node_id=2)
        assert [its.again for its in device.account.contributions()] == [False, True]
    assert np.array_equal(sent, others[0])


def test_device_at_its_limit_does_not_take_part_nor_train(town: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    flat = town.fleet.start.flat
    with town.fleet.open("device-0001") as device:
        device.account.limit(Limits(lifetime=1), now=0.0)
        Agent(device).train(request(flat), node_id=2)
        monkeypatch.setattr(type(device), "train", lambda *_, **__: pytest.fail("trained in vain"))
        with pytest.raises(UpdateError, match="1 in all"):
            Agent(device).train(request(flat, server_round=2), node_id=2)


def test_device_with_a_limit_of_epsilon_takes_no_part_in_open_rounds_nor_trains(
    town: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with town.fleet.open("device-0001") as device:
        device.account.limit(Limits(rho=1e6), now=0.0)
        monkeypatch.setattr(type(device), "train", lambda *_, **__: pytest.fail("trained in vain"))
        with pytest.raises(UpdateError, match="nothing bounds"):
            Agent(device).train(request(town.fleet.start.flat), node_id=2)
        assert device.account.contributions() == []


def test_device_abstains_where_consent_to_personalization_is_withdrawn(town: Any) -> None:
    with town.fleet.open("device-0001") as device:
        device.withdraw_purpose("personalization")
        with pytest.raises(UpdateError, match="withdrawn"):
            Agent(device).train(request(town.fleet.start.flat), node_id=2)
        assert device.account.contributions() == []


def test_nothing_leaves_where_the_ledger_cannot_be_written(town: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise StoreFullError("The disk is full.")

    with town.fleet.open("device-0001") as device:
        monkeypatch.setattr(type(device.store), "append", full)
        with pytest.raises(StoreFullError):
            Agent(device).train(request(town.fleet.start.flat), node_id=2)


def test_device_without_labelled_memories_sends_the_model_back(town_of: Any, rows: Any) -> None:
    own = [row for row in rows(users=1) if row.user == "user-0"]
    town = town_of([("a", own, []), ("b", own, []), ("c", [], [])])
    with town.fleet.open("device-0003") as device:
        sent = Agent(device).train(request(town.fleet.start.flat), node_id=4)
    assert np.array_equal(sent, town.fleet.start.flat)


def test_device_is_not_trained_before_its_owner_allows_it(town: Any) -> None:
    with town.fleet.open("device-0001") as device:
        device.allow_rounds(None)
        with pytest.raises(UpdateError, match="not allowed"):
            Agent(device).train(request(town.fleet.start.flat), node_id=2)
        device.allow_rounds("open")
        Agent(device).train(request(town.fleet.start.flat), node_id=2)


def test_device_refuses_to_be_kept_busy(town: Any) -> None:
    with town.fleet.open("device-0001") as device, pytest.raises(UpdateError, match="201 local steps, at most 200"):
        Agent(device).train(request(town.fleet.start.flat, plan=TrainingPlan(steps=201)), node_id=2)


def test_consent_withdrawn_between_rounds_holds_at_once(town: Any) -> None:
    with town.fleet.pool() as pool:
        trainer = pool.agent("device-0001")
        trainer.train(request(town.fleet.start.flat), node_id=2)
        # Another process of the same owner takes the permission back.
        with town.fleet.open("device-0001") as same:
            same.allow_rounds(None)
        with pytest.raises(UpdateError):
            trainer.train(request(town.fleet.start.flat, server_round=2), node_id=2)


def test_pool_closes_the_device_that_was_used_longest_ago(town: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "most_open", lambda: 2)
    opened: list[str] = []

    def open_(name: str) -> Any:
        opened.append(name)
        return town.fleet.open(name)

    with DevicePool(open_) as pool:
        first = pool.agent("device-0001")
        pool.agent("device-0002")
        assert pool.agent("device-0001") is first
        pool.agent("device-0003")  # closes device 2
        assert pool.agent("device-0001") is first
        assert first.device.count() > 0
        pool.agent("device-0002")
    assert opened == ["device-0001", "device-0002", "device-0003", "device-0002"]
    with pytest.raises((StoreError, ValueError, RuntimeError)):
        first.device.count()


def test_most_open_leaves_descriptors_to_others() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert 1 <= most_open() * 4 + 256 <= max(soft, 8192) + 4


def test_two_simulations_at_once_in_a_process_are_refused(town: Any) -> None:
    with (
        town.fleet.pool() as pool,
        serving(pool),
        pytest.raises(RuntimeError, match="running in this process already"),
        serving(pool),
    ):
        pass
    with town.fleet.pool() as pool, serving(pool):  # and afterwards it is free again
        pass


@pytest.mark.parametrize("config", [{}, {"device": "x"}, {"agent": 1}])
def test_node_without_an_agent_is_told_how_to_start(config: dict[str, Any]) -> None:
    with pytest.raises(UpdateError, match="--node-config"):
        socket_of(config)
