"""Rounds about choices: what devices give, what the server makes of it, and who refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.choices.factors import BLOCKS, examples, gram, orthonormal, power_block, solve, target_block
from engine.choices.habits import PUBLIC_HABITS, device_statistics, newton_step
from engine.choices.history import CHOICE, ChoiceHistory
from engine.choices.model import ChoiceModel
from engine.device.chooses import POWER, reply_length
from engine.errors import ModelError
from engine.model.catalogue import Catalogue
from engine.owner.account import Limits
from federation.agent.agent import Agent
from federation.agent.choice_request import ChoiceRequest
from federation.agent.pool import DevicePool
from federation.data.choices import ChoiceRow, ChoiceSplit
from federation.errors import CheckpointError, RoundError, UpdateError
from federation.privacy.update import l2_norm
from federation.rounds.choice_rounds import CHOICE_FILE, CHOICE_MESSAGE, all_choice_rounds, check_start, learn_choices
from federation.rounds.config import RunSettings
from federation.simulation.choice_fleet import ChoiceFleet
from federation.simulation.grid import RoundTraffic, Watch, run_rounds

ITEMS = tuple(f"film {letter}" for letter in "abcdefgh")
FACTORS = 3


def people(count: int = 4, each: int = 14, *, seed: int = 0) -> list[ChoiceSplit]:
    rng = np.random.default_rng(seed)
    split = []
    for number in range(count):
        likes = rng.dirichlet(np.full(len(ITEMS), 0.5))
        rows = [
            ChoiceRow(
                user=f"user {number}",
                item=str(rng.choice(ITEMS, p=likes)),
                ts=float(t),
                context={"at": ("home", "out")[int(rng.integers(2))]},
            )
            for t in range(each)
        ]
        split.append(ChoiceSplit(user=f"user {number}", train=tuple(rows), test=()))
    return split


@dataclasses.dataclass
class Cinema:
    fleet: ChoiceFleet
    start: ChoiceModel
    out: Path
    traffic: list[RoundTraffic] = dataclasses.field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [member.name for member in self.fleet.people]

    def run(self, *, watch: Watch | None = None, **given: Any) -> ChoiceModel:
        out = given.pop("out", self.out)
        out.mkdir(parents=True, exist_ok=True)
        self.start.save(self.out / "start.safetensors")
        plain: dict[str, Any] = {"rounds": 2, "strategy": "fedavg", "cohort": len(self.names), "choice_clip": 1e6}
        settings = RunSettings(**(plain | given), choice=str(self.out / "start.safetensors"), out=str(out))
        self.traffic = []
        with self.fleet.pool() as pool:
            self.traffic = run_rounds(settings, self.names, pool, watch=watch)
        return ChoiceModel.load(out / CHOICE_FILE)


@pytest.fixture
def cinema_of(tmp_path: Path) -> Callable[..., Cinema]:
    def make(split: list[ChoiceSplit]) -> Cinema:
        start = ChoiceModel.start(Catalogue.from_names(ITEMS), factors=FACTORS)
        fleet = ChoiceFleet(tmp_path / "fleet", split, model=start)
        fleet.fill()
        (tmp_path / "out").mkdir()
        return Cinema(fleet=fleet, start=start, out=tmp_path / "out")

    return make


@pytest.fixture
def cinema(cinema_of: Callable[..., Cinema]) -> Cinema:
    return cinema_of(people())


@pytest.fixture
def agent(cinema: Cinema) -> Iterator[Agent]:
    with DevicePool(cinema.fleet.open) as pool:
        yield pool.agent(cinema.names[0])


def request(model: ChoiceModel, **changed: Any) -> ChoiceRequest:
    plain: dict[str, Any] = {
        "run": "Flower run 1",
        "basis": model.basis,
        "items": model.items.fingerprint,
        "step": POWER,
        "weights": PUBLIC_HABITS,
        "server_round": 1,
        "mode": "open",
        "clip_norm": 1e6,
    }
    return ChoiceRequest(**(plain | changed))


def centralised(split: list[ChoiceSplit], start: ChoiceModel, *, power_steps: int) -> ChoiceModel:
    """The same in one place, with everyone's choices at hand."""
    histories = [ChoiceHistory.of([(row.item, row.context, row.ts or 0.0) for row in one.train]) for one in split]
    items = [history.items_in(start.items) for history in histories]
    basis, weights = start.basis, PUBLIC_HABITS
    for _ in range(power_steps):
        basis = orthonormal(sum(power_block(own, basis) for own in items))
    for _ in range(power_steps + BLOCKS):
        weights = newton_step(weights, sum(device_statistics(history, weights)[0] for history in histories))
    rows, new = [], []
    for history, own in zip(histories, items, strict=True):
        targets, before = examples(own, history.contexts, basis, ordered=history.ordered)
        rows.append(before)
        new.append(targets)
    z, y = np.concatenate(rows), np.concatenate(new)
    targets = target_block(y, z, (len(ITEMS), z.shape[1]))
    repeats = [device_statistics(history, weights)[1][0] for history in histories]
    scores, shares = solve(gram(z), targets)
    return dataclasses.replace(
        start,
        basis=basis,
        weights=scores,
        shares=shares,
        habits=weights,
        repeat_rate=(sum(repeats) + 1) / (len(repeats) + 2),
        round=power_steps + BLOCKS,
    )


def test_rounds_learn_what_one_place_with_all_choices_would(cinema: Cinema) -> None:
    learned = cinema.run(rounds=2)
    exact = centralised(people(), cinema.start, power_steps=2)
    assert learned.round == exact.round == all_choice_rounds(RunSettings(rounds=2))
    np.testing.assert_allclose(learned.basis @ learned.basis.T, exact.basis @ exact.basis.T, atol=1e-4)
    np.testing.assert_allclose(learned.basis, exact.basis, atol=1e-4)
    assert learned.weights is not None
    assert exact.weights is not None
    assert np.abs(exact.weights).max() > 0.05
    np.testing.assert_allclose(learned.weights, exact.weights, atol=1e-4)
    np.testing.assert_allclose(learned.habits, exact.habits, atol=1e-4)
    assert not np.allclose(learned.habits, PUBLIC_HABITS, atol=1e-3)
    assert learned.repeat_rate == pytest.approx(exact.repeat_rate, abs=1e-5)


def test_every_answer_of_every_step_has_the_same_size(cinema: Cinema, wire: Any) -> None:
    cinema.run(rounds=2)
    sent = [proto for proto in wire.protos if proto.metadata.message_type == CHOICE_MESSAGE]
    assert len(sent) == 6 * len(cinema.names)
    assert len({proto.ByteSize() for proto in sent}) <= 2  # Times are written in more bytes or fewer.
    assert [one.replies for one in cinema.traffic] == [4] * 6


def test_item_that_one_user_alone_has_reaches_no_message(cinema_of: Callable[..., Cinema], wire: Any) -> None:
    secret = "the film of my wedding"
    split = people(3)
    own = [dataclasses.replace(row, item=secret, context={"at": "the chapel"}) for row in split[0].train[:5]]
    mixed = dataclasses.replace(split[0], train=(*split[0].train, *own))
    cinema = cinema_of([mixed, *split[1:]])
    learned = cinema.run(rounds=1)
    assert not any(b"wedding" in message for message in [*wire.requests, *wire.replies])
    with cinema.fleet.open(cinema.names[0]) as device:
        assert secret in {one.item for one in device.choose(k=99)}
        with_it = Agent(device).choices(request(cinema.start, step=0, server_round=9))
    assert secret not in learned.items
    assert secret.encode() not in learned.to_bytes()
    history = ChoiceHistory.of([(row.item, row.context, row.ts or 0.0) for row in split[0].train])
    habits, repeats = device_statistics(history, PUBLIC_HABITS)
    np.testing.assert_allclose(with_it[-len(habits) - 2 :], np.concatenate([habits, repeats]), rtol=1e-5)


@pytest.mark.parametrize("step", [POWER, 0, BLOCKS - 1])
def test_sums_leave_clipped_in_two_parts_of_fixed_length(cinema: Cinema, agent: Agent, step: int) -> None:
    whole = agent.choices(request(cinema.start, step=step, server_round=1))
    small = agent.choices(request(cinema.start, step=step, server_round=2, clip_norm=0.5))
    assert whole.shape == small.shape == (reply_length(len(ITEMS), FACTORS),)
    assert small.dtype == np.float32
    cut = len(whole) - 22
    assert small[-2:].tolist() == whole[-2:].tolist()  # Scaled down, another share would stand there.
    assert whole[-1] == 1
    for part in (slice(None, cut), slice(cut, -2)):
        assert l2_norm(whole[part]) > 0.5 >= l2_norm(small[part])
        np.testing.assert_allclose(small[part] / l2_norm(small[part]), whole[part] / l2_norm(whole[part]), atol=1e-5)


@pytest.mark.parametrize("lie", [(-99.0, 1.0), (2.0, 1.0), (0.5, 3.0), (1.0, 0.0)])
def test_a_share_of_repeats_that_is_none_has_no_say(lie: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    start = ChoiceModel.start(Catalogue.from_names(ITEMS), factors=FACTORS, seed=0)
    honest = np.zeros(reply_length(len(ITEMS), FACTORS))
    honest[-2:] = 1.0, 1.0
    liar = honest.copy()
    liar[-2:] = lie

    class Still:
        def valid_arrays(self, *_: object, **__: object) -> list[np.ndarray]:
            return [honest, honest, liar]

    monkeypatch.setattr("federation.rounds.choice_rounds._invitations", lambda *_, **__: [])
    grid = SimpleNamespace(send_and_receive=lambda *_, **__: [])
    kept: list[ChoiceModel] = []
    settings = RunSettings(rounds=1, cohort=3, min_replies=1)
    learn_choices(grid, Still(), settings, start, kept.append)  # type: ignore[arg-type]
    assert kept[0].repeat_rate == pytest.approx(3 / 4)  # Two honest ones, and the two that stand for nobody.


def test_ledger_has_the_sums_under_their_purpose_and_the_same_request_the_same_answer(
    cinema: Cinema, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(cinema.start)
    sent = agent.choices(asked)
    agent.device.note_choice(ITEMS[0])
    monkeypatch.setattr(type(agent.device), "choice_statistics", lambda *_, **__: pytest.fail("counted again"))
    np.testing.assert_array_equal(agent.choices(asked), sent)
    told = agent.device.account.contributions()
    size = 4 * reply_length(len(ITEMS), FACTORS)
    assert [(its.purpose, its.size_bytes, its.again) for its in told] == [(CHOICE, size, False), (CHOICE, size, True)]


@pytest.mark.parametrize(
    "changed",
    [
        {"run": "2"},
        {"server_round": 5},
        {"clip_norm": 1.0},
        {"step": 0},
        {"items": "ab"},
        {"weights": PUBLIC_HABITS + 1e-9},
        {"basis": np.zeros((8, 3), dtype=np.float32)},
        {"basis": ChoiceModel.start(Catalogue.from_names(ITEMS), factors=FACTORS).basis.reshape(12, 2)},
    ],
    ids=lambda changed: str(next(iter(changed))),
)
def test_whatever_is_asked_otherwise_is_another_request(changed: dict[str, Any]) -> None:
    model = ChoiceModel.start(Catalogue.from_names(ITEMS), factors=FACTORS)
    assert request(model).digest() == request(model, basis=model.basis.copy()).digest()
    assert request(model, **changed).digest() != request(model).digest()


def test_device_gives_nothing_where_its_owner_has_not_allowed_it(cinema: Cinema, agent: Agent) -> None:
    device = agent.device
    with pytest.raises(UpdateError, match="private"):
        agent.choices(request(cinema.start, mode="private"))
    device.withdraw_purpose(CHOICE)
    with pytest.raises(UpdateError, match="withdrawn"):
        agent.choices(request(cinema.start))
    device.allow_purpose(CHOICE)
    device.account.limit(Limits(lifetime=0), now=0.0)
    with pytest.raises(UpdateError, match="limit"):
        agent.choices(request(cinema.start))
    device.account.limit(Limits(), now=0.0)
    device.allow_rounds(None)
    with pytest.raises(UpdateError, match="allowed"):
        agent.choices(request(cinema.start))
    assert not device.account.contributions()


def test_consent_to_choices_and_to_personalization_are_two(cinema: Cinema, agent: Agent) -> None:
    agent.device.withdraw_purpose("personalization")
    assert agent.choices(request(cinema.start)).any()


def test_forgotten_choice_leaves_no_more(cinema: Cinema, agent: Agent) -> None:
    asked = request(cinema.start)
    first = agent.choices(asked)
    ids = [memory.id for memory in agent.device.memories() if memory.label == ITEMS[0]]
    others = [memory.id for memory in agent.device.memories() if memory.label != ITEMS[0]]
    agent.device.forget(ids or others[:3])
    again = agent.choices(asked)
    assert not np.array_equal(first, again)
    agent.device.forget([memory.id for memory in agent.device.memories()])
    assert not agent.choices(asked).any()


@pytest.mark.parametrize(
    "changed",
    [
        {"items": "of another list"},
        {"basis": np.zeros((3, 3), dtype=np.float32)},
        {"basis": np.full((8, 3), np.nan, dtype=np.float32)},
        {"step": 4},
        {"weights": np.full(5, np.inf)},
        {"clip_norm": 0.0},
    ],
    ids=lambda changed: str(next(iter(changed))),
)
def test_request_that_is_none_is_refused_and_nothing_is_noted(
    cinema: Cinema, agent: Agent, changed: dict[str, Any]
) -> None:
    with pytest.raises((UpdateError, ModelError)):
        agent.choices(request(cinema.start, **changed))
    assert not agent.device.account.contributions()


def test_round_with_too_few_answers_fails_and_resumes_to_the_same_bits(cinema: Cinema) -> None:
    straight = cinema.run(rounds=1, out=cinema.out / "straight")

    def break_at(number: int, _: np.ndarray) -> None:
        for name in cinema.names[:3] if number == 4 else ():
            with cinema.fleet.open(name) as device:
                device.allow_rounds(None)

    with pytest.raises(RoundError, match=r"Round 4 failed: 1 valid replies of 4"):
        cinema.run(rounds=1, watch=Watch(on_round=break_at))
    kept = ChoiceModel.load(cinema.out / CHOICE_FILE)
    assert kept.round == 3
    assert kept.weights is None
    for name in cinema.names:
        with cinema.fleet.open(name) as device:
            device.allow_rounds("open")
    with pytest.raises(CheckpointError, match="rounds"):
        cinema.run(rounds=2, resume=True)
    resumed = cinema.run(rounds=1, resume=True)
    assert resumed.weights is not None
    np.testing.assert_array_equal(resumed.weights, straight.weights)
    np.testing.assert_array_equal(resumed.habits, straight.habits)


def test_nothing_to_resume_is_said(cinema: Cinema) -> None:
    with pytest.raises(CheckpointError, match="nothing to resume"):
        cinema.run(rounds=1, resume=True, out=cinema.out / "nowhere")


def test_sums_that_were_not_clipped_are_dropped(cinema: Cinema, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Agent.choices
    with cinema.fleet.open(cinema.names[0]) as device:
        first = device.store.store_id

    def greedy(self: Agent, asked: ChoiceRequest) -> np.ndarray:
        given = real(self, asked)
        return given if self.device.store.store_id != first else given * np.float32(1e6)

    monkeypatch.setattr(Agent, "choices", greedy)
    cinema.run(rounds=1, choice_clip=100.0, min_replies=3, out=cinema.out / "greedy")
    with pytest.raises(RoundError, match="3 valid replies of 4"):
        cinema.run(rounds=1, choice_clip=100.0, min_replies=4, out=cinema.out / "all")


def test_half_the_devices_teach_nearly_the_same_and_one_that_joins_later_chooses_at_once(
    cinema_of: Callable[..., Cinema],
) -> None:
    cinema = cinema_of(people(12, 30))
    all_of_them, half = cinema.run(rounds=2), cinema.run(rounds=2, cohort=6, out=cinema.out / "half")
    assert all_of_them.weights is not None
    assert half.weights is not None
    popular = [model.weights[:, -1].astype(float) for model in (all_of_them, half)]  # type: ignore[index]
    assert np.corrcoef(popular)[0, 1] > 0.5
    with cinema.fleet.open(cinema.names[0]) as device:
        device.load_choice_model(half)
        assert len(device.choose({"at": "home"}, k=8)) == 8


def test_start_of_a_run_holds_nothing_of_another(cinema: Cinema) -> None:
    before = cinema.run(rounds=1)
    fresh = check_start(before)
    assert (fresh.round, fresh.weights, fresh.repeat_rate) == (0, None, 0.5)
    np.testing.assert_array_equal(fresh.habits, PUBLIC_HABITS)
    with pytest.raises(ModelError, match="at least as many items"):
        ChoiceModel.start(Catalogue.from_names(["a", "b"]), factors=3)
