"""Each strategy computes what its paper says, from valid replies alone, in an order of its own."""

from __future__ import annotations

import math
import os
import random
import time
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict

from engine.model.model import BIAS_GAIN, SCALE
from federation.errors import CheckpointError, ConfigError, RoundError
from federation.privacy.update import clip
from federation.rounds import client_app
from federation.rounds.config import STRATEGIES, SUMMARY, RunSettings
from federation.rounds.strategy import make_strategy
from federation.simulation import grid as simulation
from federation.simulation.grid import InProcessGrid, Watch

STEPS, RATE, CLIP = 3, 5.0, 0.2
OF_ROUNDS = [name for name in STRATEGIES if name != SUMMARY]  # The other is one release: test_private_rounds.py.
LOCAL: dict[str, Any] = {"local_steps": STEPS, "learning_rate": RATE, "clip_norm": CLIP, "ridge": 0.0}


# Oracles, written for reading: float64, one row at a time, no torch and no Flower.


def naive_training(flat: np.ndarray, x: np.ndarray, y: np.ndarray, *, mu: float = 0.0) -> np.ndarray:
    """Gradient descent on the summed cross-entropy over 300, and FedProx's pull of mu (w - w0)."""
    dimension = x.shape[1]
    start = flat.astype(np.float64).reshape(-1, dimension + 1)
    w = start.copy()
    for _ in range(STEPS):
        gradient = np.zeros_like(w)
        for row, label in zip(x.astype(np.float64), y, strict=True):
            inputs = np.append(row, BIAS_GAIN)
            logits = SCALE * (w @ inputs)
            p = np.exp(logits - logits.max())
            p /= p.sum()
            p[label] -= 1
            gradient += SCALE * np.outer(p, inputs)
        w = w - RATE * (gradient / 300 + mu * (w - start))
    return w.reshape(-1)


def naive_replies(town: Any, flat: np.ndarray, *, held_back: bool, mu: float = 0.0) -> np.ndarray:
    """Global + clipped delta of each device."""
    replies = []
    catalogue = town.fleet.start.catalogue
    for member in town.fleet.people:
        # Ids count from 1 in the order of remembering; the odd ones wait in the first two thirds of a run.
        kept = [row for id, row in enumerate(member.train, start=1) if not (held_back and id % 2 == 1)]
        kept = [row for row in kept if row.label in catalogue]
        texts = [row.text for row in kept]
        x = town.fleet.inputs(texts)
        y = np.array([catalogue.index(row.label) for row in kept])
        delta = naive_training(flat, x, y, mu=mu) - flat
        norm = math.sqrt(float((delta**2).sum()))
        replies.append(flat + delta * min(1.0, CLIP / norm))
    return np.array(replies)


def naive_middle(name: str, replies: np.ndarray) -> np.ndarray:
    """What a strategy makes of replies that all count the same. Each of four devices may be the one that lies."""
    if name == "fedmedian":
        return np.sort(replies, axis=0)[1:3].mean(axis=0)
    if name == "fedtrimmedavg":
        return np.sort(replies, axis=0)[1:3].mean(axis=0)
    if name == "krum":  # With one that lies, the one reply nearest to its single nearest neighbour.
        apart = [[float(((one - other) ** 2).sum()) for other in replies] for one in replies]
        return replies[int(np.argmin([sorted(row)[1] for row in apart]))]
    return replies.mean(axis=0)


class NaiveServer:
    """The server's step of Reddi et al. 2021, algorithm 2, with Flower's constants."""

    def __init__(self, name: str, eta: float) -> None:
        self.name, self.eta, self.m, self.v, self.t = name, eta, 0.0, 0.0, 0

    def step(self, current: np.ndarray, mean: np.ndarray) -> np.ndarray:
        if self.name not in ("fedadam", "fedyogi"):
            return mean
        self.t += 1
        delta, eta = mean - current, self.eta
        self.m = 0.9 * self.m + 0.1 * delta
        if self.name == "fedadam":
            self.v = 0.99 * self.v + 0.01 * delta**2
            # Kingma and Ba's correction, with Flower's count, which is one ahead of theirs.
            eta *= math.sqrt(1 - 0.99 ** (self.t + 1)) / (1 - 0.9 ** (self.t + 1))
        else:
            self.v = self.v - 0.01 * delta**2 * np.sign(self.v - delta**2)
        return current + eta * self.m / (np.sqrt(self.v) + 1e-3)


@pytest.mark.parametrize("name", OF_ROUNDS)
def test_rounds_agree_with_the_oracle_of_the_paper(town: Any, name: str) -> None:
    rounds, mu, ridge = 4, 0.05, 2.0
    more = {"proximal_mu": mu, "server_learning_rate": 0.02, "ridge": ridge, "byzantine": 0.25}
    result = town.run(rounds=rounds, strategy=name, **LOCAL | more)
    server, flat = NaiveServer(name, 0.02), town.fleet.start.flat.astype(np.float64)
    half = flat.reshape(len(town.fleet.start.catalogue), -1) / 2
    for number in range(1, rounds + 1):
        held_back = number <= rounds * 2 // 3
        replies = naive_replies(town, flat, held_back=held_back, mu=mu if name == "fedprox" else 0.0)
        mean = naive_middle(name, replies)
        pull = ridge * (flat.reshape(half.shape) - half)
        pull[:, -1] = 0.0  # of the biases
        flat = server.step(flat, mean - STEPS * RATE / 300 * pull.reshape(-1))
    np.testing.assert_allclose(result.flat, flat, atol=2e-4 if name in ("fedadam", "fedyogi") else 2e-6)
    assert np.abs(flat - town.fleet.start.flat).max() > 0.01  # and the rounds did something
    assert result.flat.dtype == np.float32
    assert result.round == rounds


def test_fedavg_is_the_plain_mean_of_what_the_devices_sent(town: Any, wire: Any) -> None:
    result = town.run(**LOCAL)
    sent = [np.array(decoded(proto)) for proto in wire.protos]
    assert len(sent) == 4
    for one in sent:
        assert np.linalg.norm((one - town.fleet.start.flat).astype(np.float64)) <= CLIP * (1 + 1e-5)
    np.testing.assert_allclose(result.flat, np.mean(np.array(sent, dtype=np.float64), axis=0), atol=1e-7)


def test_device_with_many_memories_weighs_no_more_than_one_with_few(town_of: Any, rows: Any) -> None:
    mine = [row for row in rows(users=2, each=40) if row.user == "user-0"]
    theirs = [row for row in rows(users=2, each=40) if row.user == "user-1"]
    town = town_of([("much", mine, []), ("little", theirs[:5], [])])
    result = town.run(local_steps=STEPS, learning_rate=200.0, clip_norm=CLIP, ridge=0.0)
    # Both updates are clipped to the same length, so their mean has both at half.
    oracle = np.mean(
        [
            town.fleet.start.flat + clip(trained - town.fleet.start.flat, CLIP)
            for trained in (train_alone(town, name, rate=200.0) for name in town.names)
        ],
        axis=0,
    )
    np.testing.assert_allclose(result.flat, oracle, atol=1e-6)


def train_alone(town: Any, name: str, *, rate: float) -> np.ndarray:
    from engine.model.training import TrainingPlan

    plan = TrainingPlan(steps=STEPS, learning_rate=rate)
    with town.fleet.open(name) as device:
        trained: np.ndarray = device.train(
            town.fleet.start.flat, plan=plan, hold_back=False, rng=np.random.default_rng(0)
        )
    return trained


def decoded(proto: Any) -> np.ndarray:
    from flwr.common.serde import message_from_proto

    return message_from_proto(proto).content.array_records["arrays"]["model"].numpy()


# Who is asked


def cohorts(wire: Any) -> dict[int, list[int]]:
    asked: dict[int, list[int]] = {}
    for number, node in wire.asked:
        asked.setdefault(number, []).append(node)
    wire.asked.clear()
    return asked


@pytest.fixture
def eight(town_of: Any, rows: Any) -> Any:
    made = rows(users=8, each=4)
    return town_of([(f"user-{n}", [row for row in made if row.user == f"user-{n}"], []) for n in range(8)])


def test_sampling_is_a_function_of_seed_and_round_only(eight: Any, wire: Any) -> None:
    random.seed(1)
    eight.run(rounds=5, cohort=3, out=eight.out / "a")
    first = cohorts(wire)
    random.seed(2)
    random.random()
    eight.run(rounds=5, cohort=3, out=eight.out / "b", strategy="fedadam", local_steps=1)
    assert cohorts(wire) == first
    # Later rounds do not depend on there having been earlier ones in this process.
    eight.run(rounds=5, cohort=3, resume=True, out=eight.out / "a")
    assert cohorts(wire) == {}
    eight.run(rounds=5, cohort=3, seed=1, out=eight.out / "c")
    assert cohorts(wire) != first
    assert all(len(set(nodes)) == 3 for nodes in first.values())
    assert len({tuple(sorted(nodes)) for nodes in first.values()}) > 1


def test_run_leaves_the_process_wide_random_state_alone(eight: Any) -> None:
    random.seed(7)
    np.random.seed(7)
    before, numpy_before = random.getstate(), np.random.get_state()
    eight.run(rounds=2, cohort=3)
    assert random.getstate() == before
    assert all(np.array_equal(a, b) for a, b in zip(numpy_before, np.random.get_state(), strict=True))


@pytest.mark.parametrize("name", OF_ROUNDS)
def test_same_seed_gives_the_same_bits(town_of: Any, split: Any, name: str) -> None:
    first, second = town_of(split, name="one"), town_of(split, name="two")
    a = first.run(rounds=3, strategy=name, cohort=3, seed=5)
    b = second.run(rounds=3, strategy=name, cohort=3, seed=5)
    assert a.flat.tobytes() == b.flat.tobytes()
    assert {key: value.tobytes() for key, value in a.tensors.items()} == {
        key: value.tobytes() for key, value in b.tensors.items()
    }
    assert first.run(rounds=3, strategy=name, cohort=3, seed=6, out=first.out / "x").flat.tobytes() != a.flat.tobytes()


@pytest.mark.parametrize("name", OF_ROUNDS)
def test_order_of_answers_does_not_change_a_bit(town: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    plain = town.run(rounds=3, strategy=name, out=town.out / "plain")
    pull, shuffler = InProcessGrid.pull_messages, random.Random(0)

    def shuffled(self: InProcessGrid, ids: Any) -> list[Message]:
        replies = list(pull(self, ids))
        shuffler.shuffle(replies)
        return replies

    monkeypatch.setattr(InProcessGrid, "pull_messages", shuffled)
    assert town.run(rounds=3, strategy=name, out=town.out / "mixed").flat.tobytes() == plain.flat.tobytes()


# What may go wrong in a round


def corrupt(town: Any, name: str) -> None:
    for file in (town.fleet.folder / "devices" / name).iterdir():
        file.write_bytes(b"not a store any more")


def test_failed_device_does_not_stop_the_round(town: Any, town_of: Any, split: Any) -> None:
    corrupt(town, "device-0002")
    result = town.run(rounds=2, **LOCAL)
    assert [(one.asked, one.replies, one.failures) for one in town.traffic] == [(4, 3, 1), (4, 3, 1)]
    # The others count as if it had never been asked.
    whole = town_of(split, name="whole")
    with whole.fleet.open("device-0002") as device:
        device.allow_rounds(None)
    assert whole.run(rounds=2, **LOCAL).flat.tobytes() == result.flat.tobytes()


def test_too_few_replies_name_the_round_and_the_numbers(town: Any) -> None:
    for name in ("device-0001", "device-0003", "device-0004"):
        corrupt(town, name)
    with pytest.raises(RoundError, match=r"Round 1 failed: 1 valid replies of 4, at least 2 needed") as failed:
        town.run(rounds=2)
    assert "\n" not in str(failed.value)
    assert "--resume" in str(failed.value)
    town.run(rounds=1, min_replies=1)


def test_round_that_fails_later_keeps_the_checkpoint_of_the_one_before(town: Any) -> None:
    town.run(rounds=1, out=town.out / "one")

    def break_after_first(number: int, _: np.ndarray) -> None:
        if number == 2:
            for name in town.names[:3]:
                with town.fleet.open(name) as device:
                    device.allow_rounds(None)

    with pytest.raises(RoundError, match=r"Round 2 failed: 1 valid replies of 4"):
        town.run(rounds=3, watch=Watch(on_round=break_after_first))
    from engine.model.checkpoint import Checkpoint

    kept = Checkpoint.load(town.out / "checkpoint.safetensors")
    assert kept.round == 1
    for name in town.names:
        with town.fleet.open(name) as device:
            device.allow_rounds("open")
    assert town.run(rounds=3, resume=True).round == 3


def test_deadline_passed_with_too_few_replies_is_a_round_error(town: Any) -> None:
    with pytest.raises(RoundError, match=r"1 valid replies of 4, at least 4 needed before the deadline of 0\.4 s"):
        town.run(deadline_s=0.4, min_replies=4, watch=Watch(on_reply=lambda: time.sleep(0.5)))


def test_deadline_passed_with_enough_replies_counts_the_rest_as_failures(town: Any) -> None:
    town.run(deadline_s=0.4, min_replies=1, watch=Watch(on_reply=lambda: time.sleep(0.5)))
    assert [(one.asked, one.replies, one.failures) for one in town.traffic] == [(4, 1, 3)]


def test_cohort_larger_than_the_fleet_is_refused_instead_of_waiting_for_ever(town: Any) -> None:
    with pytest.raises(ConfigError, match="cohort=5 to be at most the 4 devices"):
        town.run(cohort=5)


def malformed(kind: str, flat: np.ndarray) -> RecordDict:
    metrics = MetricRecord({"weight": 1.0})
    array = Array(flat)
    if kind == "NaN":
        array = Array(np.full_like(flat, np.nan))
    elif kind == "float64":
        array = Array(flat.astype(np.float64))
    elif kind == "short":
        array = Array(flat[:-1])
    elif kind == "heavy":
        metrics = MetricRecord({"weight": 1000.0})
    elif kind == "garbage":
        array.data = b"\x93NUMPY" + os.urandom(100)
    elif kind == "absurd header":
        # A header that claims a petabyte must not make the server reserve one.
        array.data = array.data[:10] + array.data[10:128].replace(str(flat.size).encode(), b"9" * 15) + array.data[128:]
    elif kind == "another encoding":
        array.stype = "pickle"
    records = {"arrays": ArrayRecord({"model": array}), "metrics": metrics}
    return RecordDict(records | ({"note": MetricRecord({"x": 1})} if kind == "extra" else {}))


@pytest.mark.parametrize(
    "kind",
    ["NaN", "float64", "short", "heavy", "garbage", "absurd header", "another encoding", "extra", "error", "crash"],
)
def test_malformed_reply_is_dropped_and_the_others_count(
    town: Any, monkeypatch: pytest.MonkeyPatch, town_of: Any, split: Any, kind: str
) -> None:
    # The device's own mod is not there to help: this one lies.
    honest = client_app.app

    def lying(message: Message, context: Any) -> Message:
        reply = honest(message, context)
        if context.node_config["device"] != "device-0003":
            return reply
        if kind == "crash":
            raise OSError("quotes a secret")
        if kind == "error":
            return Message(Error(code=1, reason="quotes a secret"), reply_to=message)
        flat = reply.content.array_records["arrays"]["model"].numpy()
        return Message(malformed(kind, flat), reply_to=message)

    whole = town_of(split, name="whole")
    with whole.fleet.open("device-0003") as device:
        device.allow_rounds(None)
    expected = whole.run(rounds=2, strategy="fedadam")
    monkeypatch.setattr(simulation.client_app, "app", lying)
    assert town.run(rounds=2, strategy="fedadam").flat.tobytes() == expected.flat.tobytes()


# State


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategy_asks_no_device_for_metrics(name: str) -> None:
    noisy: dict[str, Any] = {"mode": "private", "rounds": 1, "rescorer_steps": 0} if name == SUMMARY else {}
    strategy = make_strategy(RunSettings(strategy=name, **noisy))
    assert strategy.fraction_evaluate == 0.0
    assert strategy.min_evaluate_nodes == 0
    assert strategy.weighted_by_key == "weight"


@pytest.mark.parametrize(
    ("name", "state"), [("fedadam", {}), ("fedavg", {"m_t": np.zeros(2)}), ("fedyogi", {"m_t": np.zeros(2)})]
)
def test_state_of_another_strategy_is_refused(name: str, state: dict[str, np.ndarray]) -> None:
    with pytest.raises(CheckpointError, match="does not fit strategy"):
        make_strategy(RunSettings(strategy=name)).restore(state, next_round=3)
