"""What lies cannot do to the model: too long is left out or refused, ruin is undone, and honest rounds pass."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.encoders.encoder import CachedEncoder
from engine.encoders.spelling import SPELLING
from engine.encoders.wording import wording_size
from engine.model.catalogue import Catalogue, Label
from engine.model.checkpoint import Checkpoint
from engine.model.inputs import encode_inputs
from engine.model.model import Model
from engine.owner.ratchet import Limits
from federation.agent import answers
from federation.agent.private import PrivateAgent
from federation.data.splits import Split
from federation.errors import CheckpointError, ConfigError, DataError, RefusedRoundError
from federation.privacy.bound import check_mean, longest_mean
from federation.privacy.mechanism import central_mean, decode, privatise
from federation.privacy.noise import DISCRETE_GAUSSIAN, NOISES, SKELLAM
from federation.privacy.parameters import NoiseParameters
from federation.privacy.stream import SecureStream
from federation.rounds.config import SUMMARY, RunSettings
from federation.rounds.gate import Canaries, Gate, catalogue_texts, encoding_by, file_texts, make_gate, refused_rounds
from federation.simulation.experiment import Experiment, run_experiment

STREAM = SecureStream()
DEVICES = 13


# How long a mean may be


def parameters(dimension: int, *, noise: str = DISCRETE_GAUSSIAN, z: float = 1.0, cohort: int = 10) -> NoiseParameters:
    return NoiseParameters(
        dimension=dimension, clip_norm=0.5, noise_multiplier=z, cohort=cohort, honest_share=0.5, noise=noise
    )


@settings(max_examples=40, deadline=None)
@given(
    dimension=st.sampled_from([1, 3, 40, 3000]),
    noise=st.sampled_from(NOISES),
    z=st.sampled_from([0.2, 1.0, 6.0]),
    cohort=st.sampled_from([1, 4, 30]),
    alike=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_mean_of_clipped_updates_is_never_longer_than_the_bound(
    dimension: int, noise: str, z: float, cohort: int, alike: bool, seed: int
) -> None:
    one, rng = parameters(dimension, noise=noise, z=z, cohort=cohort), np.random.default_rng(seed)
    total = np.zeros(dimension, dtype=np.uint32)
    shared = rng.standard_normal(dimension)
    for _ in range(cohort):
        update = shared if alike else rng.standard_normal(dimension)
        total += privatise((1000 * update).astype(np.float32), one, STREAM)  # Each as long as the clip.
    mean = decode(total, one, denominator=float(cohort))
    check_mean(mean, one, devices=cohort, denominator=float(cohort))


@pytest.mark.parametrize("noise", NOISES)
def test_noise_along_a_long_sum_is_allowed_for(noise: str) -> None:
    # Of one number and many devices that agree, what noise adds to the length is along the sum.
    one = parameters(1, noise=noise, z=0.2, cohort=30)
    for _ in range(20):
        total = np.zeros(1, dtype=np.uint32)
        for _ in range(30):
            total += privatise(np.array([9.0], dtype=np.float32), one, STREAM)
        check_mean(decode(total, one, denominator=30.0), one, devices=30, denominator=30.0)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(("dimension", "z"), [(40, 0.3), (3000, 0.3), (3000, 6.0)])
def test_bound_is_close_to_what_honest_devices_reach(noise: str, dimension: int, z: float) -> None:
    one = parameters(dimension, noise=noise, z=z)
    std = math.sqrt(one.share_variance * one.cohort) * one.step / 10
    reached = math.sqrt(one.clip_norm**2 + dimension * std**2)
    # Of few numbers the noise's own tail is what counts, Skellam's by a bound that is not as close.
    tail = 8 if noise == DISCRETE_GAUSSIAN else 30
    assert reached < longest_mean(one, devices=10, denominator=10.0) < 1.35 * reached + tail * std
    # The boundary is where a liar is found: the most that may hide beside the noise.
    allowed = longest_mean(one, devices=10, denominator=10.0)
    direction = np.full(dimension, 1 / math.sqrt(dimension), dtype=np.float32)
    check_mean(0.999 * allowed * direction, one, devices=10, denominator=10.0)
    for length in (1.001 * allowed, 1e30, math.nan, math.inf):
        with pytest.raises(RefusedRoundError, match="the mean update is"):
            check_mean((length * direction).astype(np.float32), one, devices=10, denominator=10.0)


@pytest.mark.parametrize("noise", NOISES)
def test_bound_counts_the_devices_that_stayed_and_the_fixed_denominator(noise: str) -> None:
    one = parameters(100, noise=noise, z=0.2)
    whole, half = (longest_mean(one, devices=devices, denominator=10.0) for devices in (10, 5))
    assert half < whole
    assert longest_mean(one, devices=10, denominator=5.0) == pytest.approx(2 * whole)


def test_skellam_noise_is_given_more_room_for_its_heavier_tail() -> None:
    apart = [
        longest_mean(parameters(3000, z=3.0, noise=noise), devices=10, denominator=10.0)
        for noise in (DISCRETE_GAUSSIAN, SKELLAM)
    ]
    assert apart[0] < apart[1] < 1.2 * apart[0]


def test_central_mean_is_within_the_bound_whatever_devices_sent() -> None:
    one = parameters(200)
    sent = [np.full(200, 1e20, dtype=np.float32)] * 10
    check_mean(central_mean(sent, one, STREAM, denominator=10.0), one, devices=10, denominator=10.0)


# What canaries say


LABELS = 12


def world(rows: int = 20, labels: int = LABELS) -> tuple[np.ndarray, Canaries]:
    """A model of orthogonal labels, and texts near them."""
    rng = np.random.default_rng(0)
    vectors = np.linalg.qr(rng.standard_normal((64, labels)))[0].T
    y = np.repeat(np.arange(labels), rows)
    x = vectors[y] + 0.1 * rng.standard_normal((len(y), 64))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    flat = Model(vectors.astype(np.float32)).flat()
    return flat, Canaries(name="made up", x=x.astype(np.float32), y=y, margin=0.1)


def gate(canaries: Canaries, **given: Any) -> Gate:
    return Gate([dataclasses.replace(canaries, **given)])


def test_marks_are_right_answers_and_log_probabilities() -> None:
    canaries = Canaries(name="two", x=np.eye(2, dtype=np.float32), y=np.array([0, 1]), margin=0.1)
    right, log = canaries.marks(np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    assert right.tolist() == [True, False]
    np.testing.assert_allclose(np.exp(log), [math.e / (math.e + 2), 1 / (math.e + 2)])


def turned(flat: np.ndarray, labels: int) -> np.ndarray:
    """The model after ``labels`` of its labels changed places."""
    table = flat.reshape(LABELS, -1).copy()
    table[:labels] = np.roll(table[:labels], 1, axis=0)
    return table.reshape(-1)


def test_model_that_ruins_a_share_above_the_margin_is_refused() -> None:
    flat, canaries = world(rows=100)
    assert gate(canaries).refusal(flat, flat, server_round=1) is None
    told = gate(canaries).refusal(flat, turned(flat, 4), server_round=1)
    assert told is not None
    assert "of 1200 public texts (made up) it sets 800 right, 1200 before" in told
    assert gate(canaries, margin=0.9).refusal(flat, turned(flat, 4), server_round=1) is None
    # What became right counts against what became wrong, and a better model passes whatever it changed.
    assert gate(canaries).refusal(turned(flat, 4), flat, server_round=1) is None


def test_answers_alone_and_probabilities_alone_are_each_enough() -> None:
    flat, canaries = world(rows=100)
    flatter = flat * np.float32(0.05)  # The same answers, and no longer sure of any.
    told = gate(canaries).refusal(flat, flatter, server_round=1)
    assert told is not None
    assert "1200 right, 1200 before" in told
    # Of the catalogue's pieces, answers alone count.
    assert gate(canaries, sure=False).refusal(flat, flatter, server_round=1) is None
    assert gate(canaries, sure=False).refusal(flat, turned(flat, 4), server_round=1) is not None
    # Much surer of all: the probabilities of two labels in three make up for a third that is wrong now.
    hardly = flat * np.float32(0.01)
    sure = turned(flat, 4).reshape(LABELS, -1) * np.float32(0.1)
    sure = sure.reshape(-1)
    told = gate(canaries).refusal(hardly, sure, server_round=1)
    assert told is not None
    right, before = Gate().refusal(hardly, sure, server_round=1), hardly
    assert right is None
    log = [
        canaries.marks(10 * canaries.x.astype(float) @ model.reshape(LABELS, -1)[:, :-1].T)[1].mean()
        for model in (before, sure)
    ]
    assert log[1] > log[0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e16])
def test_model_of_no_numbers_is_refused_even_without_canaries(value: float) -> None:
    flat, _ = world()
    broken = flat.copy()
    broken[3] = value
    told = Gate().refusal(flat, broken, server_round=1)
    assert told is not None
    assert "NaN" in told
    assert Gate().refusal(flat, -100 * flat, server_round=1) is None


@pytest.mark.parametrize("std", [0.003, 0.03, 0.1, 0.3, 1.0])
def test_known_noise_is_no_reason_to_refuse(std: float) -> None:
    flat, canaries = world()
    rng, tried = np.random.default_rng(1), gate(canaries)
    steps = [flat + rng.normal(size=flat.size, scale=std).astype(np.float32) for _ in range(60)]
    assert [tried.refusal(flat, step, server_round=1, noise_std=std) for step in steps] == [None] * len(steps)
    if std >= 0.3:  # Noise that nobody knows of is as bad as a lie.
        assert all(tried.refusal(flat, step, server_round=1) for step in steps)


def test_more_than_the_known_noise_is_refused() -> None:
    flat, canaries = world(rows=100)
    noise = np.random.default_rng(1).normal(size=flat.size, scale=0.01).astype(np.float32)
    assert gate(canaries).refusal(flat, turned(flat, 6) + noise, server_round=1, noise_std=0.01) is not None


def test_few_canaries_have_to_be_clear() -> None:
    flat, canaries = world(rows=1)
    assert gate(canaries).refusal(flat, turned(flat, 2), server_round=1) is None
    assert gate(canaries).refusal(flat, turned(flat, LABELS), server_round=1) is not None


def test_canaries_are_pieces_that_one_label_alone_has() -> None:
    labels = (
        Label(name="Pronto pizza", description="Delivers pizza and pasta."),
        Label(name="lantern_food", description="Delivers noodles."),
        Label(name="food"),
    )
    found = catalogue_texts(Catalogue(labels=labels))
    assert [text for text, label in found if label == 0] == [
        "pronto pizza", "delivers pizza", "pizza and", "and pasta", "pronto", "pizza", "and", "pasta",
    ]  # fmt: skip
    assert [text for text, label in found if label == 1] == ["lantern food", "delivers noodles", "lantern", "noodles"]
    # "food" says nothing, since two have it; a label of nothing else gives its name all the same.
    assert [text for text, label in found if label == 2] == ["food"]


def test_catalogue_of_the_release_is_tried_on_hundreds_of_texts_that_it_sets_right(encoder: Any) -> None:
    catalogue = Catalogue.builtin()
    found = catalogue_texts(catalogue)
    assert len(found) == len(set(found)) > 300
    assert {label for _, label in found} == set(range(len(catalogue)))
    start = Model.from_catalogue(catalogue, encoder, encoder.dimension + wording_size(encoder))
    x = encode_inputs([text for text, _ in found], encoder, encoder.dimension + wording_size(encoder))
    answers = start.scores(x).argmax(axis=1)
    assert np.mean(answers == np.array([label for _, label in found])) > 0.9


def write_rows(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return path


def test_file_of_public_rows_gives_those_of_the_catalogue_once(tmp_path: Path) -> None:
    catalogue = Catalogue(labels=(Label(name="cab", was=("taxi",)), Label(name="pizza")))
    path = write_rows(tmp_path / "rows", [("a ride", "taxi"), ("a ride", "cab"), ("a slice", "pizza"), ("x", "other")])
    assert file_texts(path, catalogue) == [("a ride", 0), ("a slice", 1)]
    with pytest.raises(ConfigError, match="has a label of the catalogue: give public texts"):
        file_texts(path, Catalogue.from_names(["a", "b"]))


def test_catalogue_has_the_margin_of_a_run_and_rows_that_of_a_round(town: Any, toy: Any, public: Path) -> None:
    def margins(rounds: int) -> list[tuple[str, float, bool]]:
        with encoding_by(toy):
            made = make_gate(town.settings(rounds=rounds, canary=str(public), gate_margin=0.2), town.fleet.start)
        return [(one.name, one.margin, one.sure) for one in made._canaries]

    assert margins(1) == [("catalogue", 0.5, False), ("public.jsonl", 0.2, True)]
    assert margins(5) == [("catalogue", 0.2, False), ("public.jsonl", 0.2, True)]


# Rounds


TRAIN = {"rounds": 4, "learning_rate": 0.3, "ridge": 0.0}


@pytest.mark.parametrize("strategy", ["fedadam", "fedavg", "fedmedian", "krum"])
def test_honest_rounds_pass(town: Any, strategy: str) -> None:
    model = town.run(**TRAIN, strategy=strategy)
    assert refused_rounds(model.notes) == {}
    assert model.notes["canaries"]
    free = town.run(**TRAIN, strategy=strategy, canary="none", out=town.out / "free")
    assert free.flat.tobytes() == model.flat.tobytes()


def lies(monkeypatch: pytest.MonkeyPatch, lie: Callable[[int, np.ndarray, np.ndarray], np.ndarray]) -> None:
    """Replies become what ``lie`` makes of a node's number (from 0), the model it got, and its reply."""
    plain = answers.answer

    def answer(agent: Any, asked: Any) -> Any:
        reply = plain(agent, asked)
        if asked.kind != "train":
            return reply
        return lie(asked.node_id - 2, asked.arrays["model"], reply).astype(np.float32)

    monkeypatch.setattr(answers, "answer", answer)


def test_reply_longer_than_the_clip_is_left_out_and_told(
    town: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"rounds": 1, "clip_norm": 0.01, "learning_rate": 5.0, "ridge": 0.0}
    honest = town.run(**given, out=town.out / "honest")
    flat, sent = town.fleet.start.flat, {}

    def lie(node: int, _: np.ndarray, reply: np.ndarray) -> np.ndarray:
        sent[node] = reply
        return flat + 1.01 * (reply - flat) if node == 1 else reply

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING, logger="tacit.federation"):
        lies(patched, lie)
        model = town.run(**given, out=town.out / "lie")
    assert [record.getMessage() for record in caplog.records] == [
        "Round 1: 1 of 4 replies are malformed or longer than the clip, and left out."
    ]
    # All four were as long as the clip, and accepted for it, when none lied.
    assert [np.linalg.norm(reply.astype(float) - flat) for reply in sent.values()] == pytest.approx(
        [0.01] * 4, rel=1e-3
    )
    np.testing.assert_allclose(honest.flat, np.mean([sent[node] for node in range(4)], axis=0), atol=1e-6)
    np.testing.assert_allclose(model.flat, np.mean([sent[node] for node in (0, 2, 3)], axis=0), atol=1e-6)


def turn_labels(flat: np.ndarray, reply: np.ndarray) -> np.ndarray:
    """A change that makes each label the next one."""
    table = flat.reshape(-1, 32 + SPELLING + 1)
    return (table + 3 * (np.roll(table, 1, axis=0) - table)).reshape(-1)


@pytest.fixture
def public(tmp_path: Path, rows: Any) -> Path:
    """Rows of people who take no part."""
    return write_rows(tmp_path / "public.jsonl", [(row.text, row.label) for row in rows(users=8, seed=9)])


@pytest.mark.parametrize("strategy", ["fedyogi", "fedprox", "fedtrimmedavg"])
def test_round_that_ruins_the_model_is_undone_and_the_run_goes_on(
    town: Any, monkeypatch: pytest.MonkeyPatch, strategy: str, public: Path
) -> None:
    given = {**TRAIN, "strategy": strategy, "clip_norm": 1e6, "server_learning_rate": 0.5, "canary": str(public)}
    rounds: list[int] = []

    def lie(node: int, flat: np.ndarray, reply: np.ndarray) -> np.ndarray:
        rounds.append(node)
        return turn_labels(flat, reply) if (len(rounds) - 1) // 4 == 1 else reply  # All of round 2.

    kept: list[Checkpoint] = []
    save = Checkpoint.save
    monkeypatch.setattr(Checkpoint, "save", lambda self, path: (kept.append(self), save(self, path))[1])
    with monkeypatch.context() as patched:
        lies(patched, lie)
        model = town.run(**given)
    found = refused_rounds(model.notes)
    assert list(found) == [2]
    assert "public texts" in found[2]
    first, second, third = [one for one in kept if one.round in (1, 2, 3)]
    assert second.flat.tobytes() == first.flat.tobytes()
    assert {name: its.tobytes() for name, its in second.tensors.items()} == {
        name: its.tobytes() for name, its in first.tensors.items()
    }
    assert third.flat.tobytes() != second.flat.tobytes()
    assert model.round == 4


def stop_after(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Interrupt a run once the checkpoint of this round is on disk."""
    save = Checkpoint.save

    def saved(self: Checkpoint, path: Path) -> None:
        save(self, path)
        if self.round == number:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", saved)


@pytest.mark.parametrize("ruined", [1, 2])
@pytest.mark.parametrize("strategy", ["fedadam", "fedavg"])
def test_run_resumed_after_an_undone_round_ends_with_the_same_bits(
    town_of: Any, split: Split, monkeypatch: pytest.MonkeyPatch, strategy: str, ruined: int, public: Path
) -> None:
    given = {**TRAIN, "strategy": strategy, "clip_norm": 1e6, "server_learning_rate": 0.5, "canary": str(public)}
    rounds = [0]

    def lie(node: int, flat: np.ndarray, reply: np.ndarray) -> np.ndarray:
        rounds[0] += node == 0
        return turn_labels(flat, reply) if rounds[0] == ruined else reply

    lies(monkeypatch, lie)
    straight = town_of(split, name="straight").run(**given)
    rounds[0], stopped = 0, town_of(split, name="stopped")
    with monkeypatch.context() as patched:
        stop_after(patched, ruined)
        with pytest.raises(KeyboardInterrupt):
            stopped.run(**given)
    assert list(refused_rounds(Checkpoint.load(stopped.out / "checkpoint.safetensors").notes)) == [ruined]
    resumed = stopped.run(**given, resume=True)
    assert straight.flat.tobytes() == resumed.flat.tobytes()
    assert {name: its.tobytes() for name, its in straight.tensors.items()} == {
        name: its.tobytes() for name, its in resumed.tensors.items()
    }
    assert refused_rounds(straight.notes) == refused_rounds(resumed.notes)


def test_run_resumed_on_other_canaries_is_refused(town: Any, tmp_path: Path, rows: Any) -> None:
    path = write_rows(tmp_path / "public", [(row.text, row.label) for row in rows(users=2)])
    town.run(**TRAIN, canary=str(path))
    write_rows(path, [(row.text, row.label) for row in rows(users=3)])
    with pytest.raises(CheckpointError, match="tried on other public texts"):
        town.run(**TRAIN, canary=str(path), resume=True)


@pytest.fixture
def village(town_of: Callable[..., Any], rows: Callable[..., Any]) -> Any:
    """People enough for a secure sum, whose owners allow private rounds."""
    made = rows(users=DEVICES)
    users = sorted({row.user for row in made})
    town = town_of([(user, [row for row in made if row.user == user], []) for user in users], mode="private")
    with town.pool() as pool:
        for name in town.names:
            pool.agent(name).device.account.limit(Limits(rho=1e6), now=0.0)
    return town


def boost(monkeypatch: pytest.MonkeyPatch, length: float, *, rounds: tuple[int, ...]) -> None:
    """The first device adds a vector of this length to what it masks."""
    plain = PrivateAgent._update

    def update(self: PrivateAgent, terms: Any, held: Any, flat: np.ndarray, excess: bytes) -> np.ndarray:
        sent = plain(self, terms, held, flat, excess)
        if held.index or terms.server_round not in rounds:
            return sent
        noise = terms.noise_of(held.found.devices)
        steps = np.rint(np.full(sent.size, length / math.sqrt(sent.size)) / noise.step).astype(np.int64)
        return (sent.astype(np.int64) + steps & 0xFFFFFFFF).astype(np.uint32)

    monkeypatch.setattr(PrivateAgent, "_update", update)


def test_boosted_vector_in_a_masked_sum_is_refused_and_the_model_stays(
    village: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Checkpoint] = []
    save = Checkpoint.save
    monkeypatch.setattr(Checkpoint, "save", lambda self, path: (kept.append(self), save(self, path))[1])
    given = {"rounds": 3, "epsilon": 200.0, "ridge": 0.0, "clip_norm": 0.5}
    with monkeypatch.context() as patched:
        boost(patched, 200.0, rounds=(2,))
        model = village.run(**given)
    found = refused_rounds(model.notes)
    assert list(found) == [2]
    assert "the mean update is 15" in found[2]  # 200 over 13 devices, and the noise.
    first, second, third = [one for one in kept if one.round in (1, 2, 3)]
    assert second.flat.tobytes() == first.flat.tobytes()
    assert third.flat.tobytes() != second.flat.tobytes()
    # What left is charged, whatever became of it.
    with village.fleet.open("device-0002") as device:
        assert [its.round for its in device.account.contributions()] == [1, 2, 3]


@pytest.mark.slow
def test_private_round_resumes_after_an_undone_one(village: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"rounds": 2, "epsilon": 200.0, "ridge": 0.0, "clip_norm": 0.5}
    with monkeypatch.context() as patched:
        boost(patched, 200.0, rounds=(1,))
        stop_after(patched, 1)
        with pytest.raises(KeyboardInterrupt):
            village.run(**given)
    model = village.run(**given, resume=True)
    assert list(refused_rounds(model.notes)) == [1]
    assert model.round == 2
    assert model.flat.tobytes() != village.fleet.start.flat.tobytes()


def test_release_of_summaries_passes_and_one_with_a_boosted_vector_leaves_the_start(
    village: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rows: Any, toy: Any, public: Path
) -> None:
    start, texts = village.fleet.start, [row.text for row in rows(users=20, seed=5)]
    np.save(tmp_path / "inputs.npy", encode_inputs(texts, toy, start.dimension))
    given = {"rounds": 1, "strategy": SUMMARY, "epsilon": 200.0, "public": str(tmp_path / "inputs.npy")}
    honest = village.run(**given, canary=str(public), out=village.out / "honest")
    assert refused_rounds(honest.notes) == {}
    assert honest.flat.tobytes() != start.flat.tobytes()
    boost(monkeypatch, 1000.0, rounds=(1,))
    model = village.run(**given, canary=str(public))
    assert "the mean update is" in refused_rounds(model.notes)[1]
    assert model.flat.tobytes() == start.flat.tobytes()
    assert model.round == 1
    assert model.notes["privacy"] == honest.notes["privacy"]  # What left is charged all the same.


# What a person sees


@pytest.fixture
def experiment(rows: Any) -> Experiment:
    made = rows(users=4)
    users = sorted({row.user for row in made})
    split = [(user, own[:9], own[9:]) for user in users for own in [[row for row in made if row.user == user]]]
    return Experiment.of(split, title="four made-up people")


def test_undone_rounds_stand_in_the_history(
    tmp_path: Path, experiment: Experiment, toy: Any, monkeypatch: pytest.MonkeyPatch, public: Path
) -> None:
    answers = [0]

    def lie(node: int, flat: np.ndarray, reply: np.ndarray) -> np.ndarray:
        answers[0] += 1
        return turn_labels(flat, reply) if 4 < answers[0] <= 8 else reply

    lies(monkeypatch, lie)
    chosen = RunSettings(rounds=3, cohort=4, strategy="fedavg", rescorer_steps=1, clip_norm=1e6, canary=str(public))
    outcome = run_experiment(experiment, chosen, tmp_path / "run", CachedEncoder(toy))
    assert [one["round"] for one in outcome.history if "refused" in one] == [2]
    assert outcome.history[2]["accuracy"] == outcome.history[1]["accuracy"]
    again = run_experiment(experiment, dataclasses.replace(chosen, resume=True), tmp_path / "run", CachedEncoder(toy))
    assert again.history == outcome.history


@pytest.mark.parametrize(
    ("content", "kind", "text"),
    [
        (None, DataError, "Cannot read"),
        ("{}\n", DataError, "Line 1"),
        ('{"text": "a", "label": "b"}\n', ConfigError, "No row"),
    ],
)
def test_bad_file_of_canaries_is_told_before_anything_is_written(
    tmp_path: Path, experiment: Experiment, toy: Any, content: str | None, kind: type[Exception], text: str
) -> None:
    path = tmp_path / "canaries"
    if content is not None:
        path.write_text(content)
    with pytest.raises(kind, match=text) as told:
        run_experiment(experiment, RunSettings(cohort=4, canary=str(path)), tmp_path / "run", CachedEncoder(toy))
    assert "\n" not in str(told.value)
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("gate-margin", 0.0), ("gate-margin", 1.0), ("gate-margin", math.nan), ("canary", "")]
)
def test_setting_of_the_gate_out_of_range_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        RunSettings.from_config({name: value})


def test_server_without_the_models_encoder_says_how_to_run_without_the_gate(town: Any, encoder: Any) -> None:
    with encoding_by(encoder), pytest.raises(ConfigError, match="canary='none' runs without it"):
        make_gate(town.settings(), town.fleet.start)
