"""Rounds, then another catalogue, then rounds again: to the same bits each time, and never two versions in one sum."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.encoders.encoder import CachedEncoder
from engine.model.catalogue import Catalogue, Label
from engine.model.checkpoint import Checkpoint
from engine.model.inputs import encode_inputs
from engine.model.migration import migrate
from engine.model.model import Model
from federation.agent.agent import Agent, TrainRequest
from federation.data.dataset import Row
from federation.errors import CheckpointError
from federation.rounds.client_app import ABSTAIN
from federation.rounds.config import RunSettings
from federation.simulation.experiment import Experiment, Outcome, run_experiment
from federation.simulation.grid import Watch

NAME = "checkpoint.safetensors"
ROUNDS, MORE, STEPS = 4, 6, 2


@pytest.fixture
def experiment(rows: Any) -> Experiment:
    """Four people with four public labels; one of them also asks for a vet, whom nobody else knows."""
    made = rows(each=16)
    split = []
    for user in sorted({row.user for row in made}):
        own = [row for row in made if row.user == user]
        if user == "user-0":
            own = [Row(user=user, order=n, text=f"limping cat number{n}", label="vet") for n in range(6)] + own
        split.append((user, own[:13], own[13:]))
    return Experiment.of(split, title="four made-up people")


def settings(**changed: Any) -> RunSettings:
    plain = {"rounds": ROUNDS, "cohort": 4, "strategy": "fedadam", "local_steps": 2, "rescorer_steps": STEPS}
    return RunSettings(**(plain | changed))


@pytest.fixture
def wanted() -> Catalogue:
    """Opera is gone, taxi has another name, the vet, a spa and golf are new."""
    names = ("golf", "pizza", "salon", "vet", "spa")
    return Catalogue(labels=(Label(name="cab", was=("taxi",)), *(Label(name=name) for name in names)), title="next")


def moved(folder: Path, wanted: Catalogue, toy: Any) -> tuple[Checkpoint, Checkpoint]:
    """Migrate the checkpoint in a run's folder: the one before and the one after."""
    before = Checkpoint.load(folder / NAME)
    after = migrate(before, wanted, toy)
    after.save(folder / NAME)
    return before, after


@pytest.fixture
def folder(tmp_path: Path, experiment: Experiment, toy: Any) -> Path:
    """A finished run."""
    run_experiment(experiment, settings(), tmp_path / "run", CachedEncoder(toy))
    return tmp_path / "run"


def go_on(folder: Path, experiment: Experiment, toy: Any, progress: Any = None, **changed: Any) -> Outcome:
    more = settings(**({"rounds": MORE, "resume": True} | changed))
    return run_experiment(experiment, more, folder, CachedEncoder(toy), *([progress] if progress else []))


def stop_at(ticks: int) -> Any:
    """A progress that interrupts, as Ctrl-C would, at the given answer of the rounds."""

    @contextlib.contextmanager
    def progress(title: str, total: int) -> Iterator[Callable[[], None]]:
        seen = 0

        def tick() -> None:
            nonlocal seen
            seen += 1
            if title.startswith("Federated") and seen == ticks:
                raise KeyboardInterrupt

        yield tick

    return progress


def bits(model: Checkpoint) -> Any:
    """Model, weights and state; the notes name the folder."""
    population = None if model.learned is None else model.learned.weights.tobytes()
    state = {name: value.tobytes() for name, value in model.tensors.items()}
    return model.round, model.begun, model.catalogue, model.flat.tobytes(), population, state


def test_run_goes_on_after_a_migration_to_the_same_bits_interrupted_or_not(
    tmp_path: Path, folder: Path, experiment: Experiment, wanted: Catalogue, toy: Any
) -> None:
    before, after = moved(folder, wanted, toy)
    assert len(after.catalogue) == len(before.catalogue) + 2
    for name in ("again", "cut off"):
        shutil.copytree(folder, tmp_path / name)
    straight = go_on(folder, experiment, toy)
    assert all(one["accuracy"] is not None for one in straight.history)
    assert (straight.model.round, straight.model.begun) == (ROUNDS + 2 * STEPS + MORE, ROUNDS + STEPS)
    assert straight.model.catalogue == after.catalogue
    again = go_on(tmp_path / "again", experiment, toy)
    assert bits(again.model) == bits(straight.model)
    assert again.measured == straight.measured
    # In the third round after it, after the last round of the model, and in the second Newton step.
    for ticks in (4 * 2 + 1, 4 * 4 + 1, 4 + 1):
        with pytest.raises(KeyboardInterrupt):
            go_on(tmp_path / "cut off", experiment, toy, stop_at(ticks))
    cut = go_on(tmp_path / "cut off", experiment, toy)
    assert bits(cut.model) == bits(straight.model)
    assert cut.measured == straight.measured
    rounds = [one["round"] for one in cut.history]
    assert rounds == list(range(straight.model.round + 1))
    assert all(one["replies"] == 4 and not one["failures"] for one in cut.history[1:])


def test_labels_that_stay_lose_nothing_and_the_private_one_that_is_public_now_trains(
    folder: Path, experiment: Experiment, wanted: Catalogue, toy: Any
) -> None:
    before, after = moved(folder, wanted, toy)
    texts = [row.text for _, train, test in experiment.split for row in (*train, *test)]
    x = encode_inputs(texts, toy, before.dimension)
    old, new = (
        Model.from_flat(one.flat, classes=len(one.catalogue), dimension=one.dimension).scores(x)
        for one in (before, after)
    )
    for name in ("pizza", "salon", "taxi"):
        assert new[:, after.catalogue.index(name)].tobytes() == old[:, before.catalogue.index(name)].tobytes()
    done = go_on(folder, experiment, toy)
    vet = after.catalogue.index("vet")
    start, end = (one.flat.reshape(len(one.catalogue), -1)[vet] for one in (after, done.model))
    assert np.linalg.norm(end - start) > 0.1
    # Users' rows with the former name count for the label.
    found = [
        (row.label, rank)
        for member, one in zip(done.people, done.measured, strict=True)
        for row, rank in zip(member.test, one.by_method["global"], strict=True)
    ]
    assert {label for label, _ in found} == {"pizza", "salon", "taxi", "opera"}
    assert {label for label, rank in found if not rank} == {"opera"}


def test_rounds_hold_memories_back_in_the_first_two_thirds_of_what_follows_a_migration(
    folder: Path, experiment: Experiment, wanted: Catalogue, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, after = moved(folder, wanted, toy)
    asked: dict[int, tuple[bool, str]] = {}
    real = Agent.train

    def seen(self: Agent, request: TrainRequest, *, node_id: int) -> np.ndarray:
        asked[request.server_round] = request.hold_back, request.catalogue
        return real(self, request, node_id=node_id)

    monkeypatch.setattr(Agent, "train", seen)
    go_on(folder, experiment, toy)
    assert sorted(asked) == list(range(after.round + 1, after.round + MORE + 1))
    assert [asked[number][0] for number in sorted(asked)] == [True] * 4 + [False] * 2
    assert {catalogue for _, catalogue in asked.values()} == {after.catalogue.fingerprint}


@pytest.mark.parametrize("strategy", ["fedavg", "fedyogi"])
def test_every_strategy_goes_on_with_its_own_state(
    tmp_path: Path, experiment: Experiment, wanted: Catalogue, toy: Any, strategy: str
) -> None:
    run_experiment(experiment, settings(strategy=strategy), tmp_path / "run", CachedEncoder(toy))
    _, after = moved(tmp_path / "run", wanted, toy)
    done = go_on(tmp_path / "run", experiment, toy, strategy=strategy, rescorer_steps=0)
    moments = {"m_t", "v_t"} if strategy == "fedyogi" else set()
    assert set(done.model.tensors) == set(after.tensors) == {"anchor", *moments}
    assert done.model.learned is not None
    assert done.model.learned.weights.tobytes() == after.learned.weights.tobytes()  # type: ignore[union-attr]
    assert done.model.round == after.round + MORE


def test_what_follows_a_migration_has_settings_of_its_own_until_it_has_begun(
    folder: Path, experiment: Experiment, wanted: Catalogue, toy: Any
) -> None:
    moved(folder, wanted, toy)
    with pytest.raises(CheckpointError, match="does not fit strategy 'fedavg'"):
        go_on(folder, experiment, toy, strategy="fedavg")
    with pytest.raises(KeyboardInterrupt):
        go_on(folder, experiment, toy, stop_at(5), local_steps=3)
    with pytest.raises(CheckpointError, match="other data or settings"):
        go_on(folder, experiment, toy)
    assert go_on(folder, experiment, toy, local_steps=3).model.begun == ROUNDS + STEPS


def test_other_data_after_a_migration_are_refused(
    folder: Path, experiment: Experiment, wanted: Catalogue, toy: Any
) -> None:
    moved(folder, wanted, toy)
    user, train, test = experiment.split[0]
    changed = [dataclasses.replace(train[0], text="another text"), *train[1:]]
    other = dataclasses.replace(experiment, split=[(user, changed, test), *experiment.split[1:]])
    with pytest.raises(CheckpointError, match="other data or settings"):
        go_on(folder, other, toy)


# Two versions in one round


@pytest.fixture
def next_version(town: Any, toy: Any) -> Checkpoint:
    """As many labels as before, so that only what the round pins tells the arrays apart."""
    start = town.fleet.start
    wanted = Catalogue.from_names(["pizza", "opera", "taxi", "spa"], title="next")
    assert len(wanted) == len(start.catalogue)
    model = migrate(start, wanted, toy)
    model.save(town.fleet.folder / "next.safetensors")
    with town.pool() as pool:
        for name in town.names[1:]:
            pool.agent(name).device.load_model(model)
    return model


def test_device_with_an_older_catalogue_abstains_and_adds_to_no_sum(
    town: Any, wire: Any, next_version: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = town.run(rounds=2, rescorer_steps=1, model=str(town.fleet.folder / "next.safetensors"))
    assert [(one.replies, one.failures) for one in town.traffic] == [(3, 1)] * 3
    errors = [proto for proto in wire.protos if proto.HasField("error")]
    assert {(proto.error.code, proto.error.reason, proto.metadata.src_node_id) for proto in errors} == {
        (ABSTAIN, "", 2)
    }
    with town.fleet.open(town.names[0]) as device:
        assert not device.account.contributions()
    # Were it asked as if it had the version, it would have added to the sum.
    monkeypatch.setattr(Agent, "_require_same_catalogue", lambda *_: None)
    path = str(town.fleet.folder / "next.safetensors")
    wrong = town.run(rounds=2, rescorer_steps=1, model=path, out=town.out / "wrong")
    assert [(one.replies, one.failures) for one in town.traffic] == [(4, 0)] * 3
    assert wrong.flat.tobytes() != both.flat.tobytes()


def test_device_takes_part_again_once_it_has_the_version(town: Any, next_version: Checkpoint) -> None:
    path = str(town.fleet.folder / "next.safetensors")

    def catch_up(number: int, _: Any) -> None:
        if number == 2:
            with town.fleet.open(town.names[0]) as device:
                device.load_model(next_version)

    town.run(rounds=2, model=path, watch=Watch(on_round=catch_up))
    assert [(one.replies, one.failures) for one in town.traffic] == [(3, 1), (4, 0)]


def test_device_with_a_newer_catalogue_abstains_from_rounds_of_the_old_one(town: Any, next_version: Checkpoint) -> None:
    town.run(rounds=1, min_replies=1)
    assert [(one.replies, one.failures) for one in town.traffic] == [(1, 3)]
