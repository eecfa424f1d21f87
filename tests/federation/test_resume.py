"""A run that was cut off continues to the same bits; anything else than that run is refused in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.encoders.encoder import CachedEncoder
from engine.errors import ModelError
from engine.model.checkpoint import Checkpoint
from federation.errors import CheckpointError
from federation.rounds.config import STRATEGIES, SUMMARY, RunSettings
from federation.simulation.experiment import Experiment, run_experiment
from federation.simulation.history import History

ROUNDS, DEVICES = 6, 4
NAME = "checkpoint.safetensors"
START_S = 900  # For a command that hangs: on a busy machine its imports alone take minutes.


def settings(**changed: Any) -> RunSettings:
    plain: dict[str, Any] = {"rounds": ROUNDS, "cohort": 3, "strategy": "fedadam", "seed": 3, "local_steps": 2}
    return RunSettings(**(plain | changed))


@pytest.fixture
def experiment(rows: Any) -> Experiment:
    made = rows(users=DEVICES)
    users = sorted({row.user for row in made})
    split = []
    for user in users:
        own = [row for row in made if row.user == user]
        split.append((user, own[:9], own[9:]))
    return Experiment.of(split, title="four made-up people")


def stop_at(step: str, ticks: int) -> Any:
    """A progress that interrupts, as Ctrl-C would, at the given tick of a step."""

    @contextlib.contextmanager
    def progress(title: str, total: int) -> Iterator[Callable[[], None]]:
        seen = 0

        def tick() -> None:
            nonlocal seen
            seen += 1
            if title.startswith(step) and seen == ticks:
                raise KeyboardInterrupt

        yield tick

    return progress


def same(a: Checkpoint, b: Checkpoint) -> bool:
    """Whether model and state are the same bits."""

    def bits(one: Checkpoint) -> Any:
        population = None if one.learned is None else one.learned.weights.tobytes()
        return one.round, one.flat.tobytes(), population, {key: its.tobytes() for key, its in one.tensors.items()}

    return bool(bits(a) == bits(b))


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != SUMMARY])  # One release has no middle.
def test_run_cut_off_in_the_middle_of_a_round_resumes_to_the_same_bits(
    tmp_path: Path, experiment: Experiment, toy: Any, strategy: str
) -> None:
    straight = run_experiment(experiment, settings(strategy=strategy), tmp_path / "a", CachedEncoder(toy))
    # In round 4: after 3 rounds of 3 answers, and one more.
    with pytest.raises(KeyboardInterrupt):
        run_experiment(
            experiment, settings(strategy=strategy), tmp_path / "b", CachedEncoder(toy), stop_at("Federated", 3 * 3 + 1)
        )
    assert Checkpoint.load(tmp_path / "b" / NAME).round == 3
    resumed = run_experiment(experiment, settings(strategy=strategy, resume=True), tmp_path / "b", CachedEncoder(toy))
    whole, continued = Checkpoint.load(tmp_path / "a" / NAME), Checkpoint.load(tmp_path / "b" / NAME)
    assert same(whole, continued)
    moments = {"m_t", "v_t"} if strategy in ("fedadam", "fedyogi") else set()
    assert set(whole.tensors) == {"anchor", *moments}
    # The history is complete, each round once, with the same figures.
    assert [one["round"] for one in resumed.history] == list(range(ROUNDS + 4))  # Three Newton steps end a run.
    assert [one["accuracy"] for one in resumed.history] == [one["accuracy"] for one in straight.history]
    assert [one["replies"] for one in resumed.history] == [0] + [3] * (ROUNDS + 3)
    # And so is what the devices make of it.
    assert resumed.measured == straight.measured


@pytest.mark.parametrize("ticks", [1, 3])
def test_run_cut_off_before_its_first_checkpoint_resumes_to_the_same_bits(
    tmp_path: Path, experiment: Experiment, toy: Any, ticks: int
) -> None:
    run_experiment(experiment, settings(), tmp_path / "a", CachedEncoder(toy))
    with pytest.raises(KeyboardInterrupt):
        run_experiment(experiment, settings(), tmp_path / "b", CachedEncoder(toy), stop_at("Federated", ticks))
    assert not (tmp_path / "b" / NAME).exists()
    run_experiment(experiment, settings(resume=True), tmp_path / "b", CachedEncoder(toy))
    assert same(Checkpoint.load(tmp_path / "a" / NAME), Checkpoint.load(tmp_path / "b" / NAME))


@pytest.mark.parametrize("step", ["Filling", "Personalizing", "Encoding"])
def test_run_cut_off_outside_the_rounds_resumes_to_the_same_bits(
    tmp_path: Path, experiment: Experiment, toy: Any, step: str
) -> None:
    straight = run_experiment(experiment, settings(), tmp_path / "a", CachedEncoder(toy))
    with pytest.raises(KeyboardInterrupt):
        run_experiment(experiment, settings(), tmp_path / "b", CachedEncoder(toy), stop_at(step, 2))
    started = (tmp_path / "b" / "run.json").exists()
    again = run_experiment(experiment, settings(resume=started), tmp_path / "b", CachedEncoder(toy))
    assert same(Checkpoint.load(tmp_path / "a" / NAME), Checkpoint.load(tmp_path / "b" / NAME))
    assert again.measured == straight.measured


def test_run_cut_off_at_every_round_resumes_to_the_same_bits(tmp_path: Path, experiment: Experiment, toy: Any) -> None:
    run_experiment(experiment, settings(), tmp_path / "a", CachedEncoder(toy))
    for resume in [False, *[True] * (ROUNDS - 1)]:
        # One whole round, and then the first answer of the next.
        with pytest.raises(KeyboardInterrupt):
            run_experiment(
                experiment, settings(resume=resume), tmp_path / "b", CachedEncoder(toy), stop_at("Federated", 4)
            )
        if Checkpoint.load(tmp_path / "b" / NAME).round == ROUNDS - 1:
            break
    run_experiment(experiment, settings(resume=True), tmp_path / "b", CachedEncoder(toy))
    assert same(Checkpoint.load(tmp_path / "a" / NAME), Checkpoint.load(tmp_path / "b" / NAME))


def refused(call: Callable[[], Any], *, says: str, kind: type[Exception] = CheckpointError) -> None:
    with pytest.raises(kind, match=says) as error:
        call()
    assert "\n" not in str(error.value)


def test_resume_with_nothing_there_is_refused_and_leaves_no_run(
    tmp_path: Path, experiment: Experiment, toy: Any
) -> None:
    refused(
        lambda: run_experiment(experiment, settings(resume=True), tmp_path / "a", CachedEncoder(toy)),
        says="no run to resume",
    )
    run_experiment(experiment, settings(rounds=1), tmp_path / "a", CachedEncoder(toy))


@pytest.fixture
def done(tmp_path: Path, experiment: Experiment, toy: Any) -> Path:
    """A finished run of two rounds."""
    run_experiment(experiment, settings(rounds=2), tmp_path / "done", CachedEncoder(toy))
    return tmp_path / "done"


def test_resume_of_a_finished_run_changes_nothing(done: Path, experiment: Experiment, toy: Any) -> None:
    before = (done / NAME).read_bytes()
    again = run_experiment(experiment, settings(rounds=2, resume=True), done, CachedEncoder(toy))
    assert (done / NAME).read_bytes() == before
    assert [one["round"] for one in again.history] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "changed",
    [
        {"rounds": 4},
        {"strategy": "fedyogi"},
        {"cohort": 2},
        {"seed": 4},
        {"local_steps": 3},
        {"learning_rate": 0.1},
        {"server_learning_rate": 0.1},
        {"clip_norm": 0.5},
        {"min_replies": 1},
    ],
)
def test_resume_with_other_settings_is_refused(
    done: Path, experiment: Experiment, toy: Any, changed: dict[str, Any]
) -> None:
    before = (done / NAME).read_bytes()
    other = settings(**({"rounds": 2} | changed), resume=True)
    refused(lambda: run_experiment(experiment, other, done, CachedEncoder(toy)), says="other data or settings")
    assert (done / NAME).read_bytes() == before


def test_resume_with_another_deadline_is_allowed(done: Path, experiment: Experiment, toy: Any) -> None:
    run_experiment(experiment, settings(rounds=2, resume=True, deadline_s=99.0), done, CachedEncoder(toy))


def test_resume_with_other_data_is_refused(done: Path, experiment: Experiment, toy: Any) -> None:
    user, train, test = experiment.split[0]
    changed = dataclasses.replace(train[0], text="another text")
    other = dataclasses.replace(experiment, split=[(user, [changed, *train[1:]], test), *experiment.split[1:]])
    refused(
        lambda: run_experiment(other, settings(rounds=2, resume=True), done, CachedEncoder(toy)),
        says="other data or settings",
    )


def test_resume_with_another_encoder_is_refused(done: Path, experiment: Experiment, toy_class: Any) -> None:
    other = CachedEncoder(toy_class(seed=9))
    refused(
        lambda: run_experiment(experiment, settings(rounds=2, resume=True), done, other), says="other data or settings"
    )


def test_second_run_into_the_same_folder_is_refused(done: Path, experiment: Experiment, toy: Any) -> None:
    before = (done / NAME).read_bytes()
    refused(
        lambda: run_experiment(experiment, settings(rounds=2), done, CachedEncoder(toy)), says="holds a run already"
    )
    assert (done / NAME).read_bytes() == before


@pytest.mark.parametrize("damage", ["cut short", "empty", "a flipped bit", "text"])
def test_damaged_checkpoint_is_a_clear_error(done: Path, experiment: Experiment, toy: Any, damage: str) -> None:
    content = (done / NAME).read_bytes()
    flipped = bytearray(content)
    flipped[-5] ^= 1
    new = {"cut short": content[:-100], "empty": b"", "a flipped bit": bytes(flipped), "text": b"hello" * 99}[damage]
    (done / NAME).write_bytes(new)
    refused(
        lambda: run_experiment(experiment, settings(rounds=2, resume=True), done, CachedEncoder(toy)),
        says="checkpoint|damaged",
        kind=ModelError,
    )


def test_half_a_line_at_the_end_of_the_history_is_skipped(done: Path, experiment: Experiment, toy: Any) -> None:
    with (done / "rounds.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"round": 2, "accu')
    again = run_experiment(experiment, settings(rounds=2, resume=True), done, CachedEncoder(toy))
    assert [one["round"] for one in again.history] == [0, 1, 2, 3, 4, 5]


def test_note_after_half_a_line_is_found_by_the_next_resume(tmp_path: Path) -> None:
    History(tmp_path, continued=False).model(0, 0.25)
    with (tmp_path / "rounds.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"round": 1, "accu')
    History(tmp_path, continued=True).model(1, 0.5)
    History(tmp_path, continued=True).model(2, float("nan"))
    found = History(tmp_path, continued=True).rounds()
    assert [(one["round"], one["accuracy"]) for one in found] == [(0, 0.25), (1, 0.5), (2, None)]


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_damaged_run_file_is_a_clear_error(done: Path, experiment: Experiment, toy: Any, content: str) -> None:
    (done / "run.json").write_text(content, encoding="utf-8")
    refused(
        lambda: run_experiment(experiment, settings(rounds=2, resume=True), done, CachedEncoder(toy)),
        says="run",
    )


# The command, in a process of its own


def command(out: Path, data: Path, *more: str, rounds: int) -> list[str]:
    return [
        "-m", "tacit", "simulate", "--mode", "open", "--data", str(data), "--rounds", str(rounds), "--local-steps", "1",
        "--out", str(out), *more,
    ]  # fmt: skip


@pytest.fixture
def data(tmp_path: Path, rows: Any) -> Path:
    path = tmp_path / "people.jsonl"
    fields = ("user", "order", "text", "label", "split")
    lines = [json.dumps({name: getattr(row, name) for name in fields}) for row in rows(users=DEVICES, each=22)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def cut_off(program: str, arguments: list[str], env: dict[str, str], out: Path, sign: int) -> tuple[int, str]:
    """Start the command, send it ``sign`` some rounds later, and return its status and its standard error."""
    history = out / "rounds.jsonl"
    before = history.read_text(encoding="utf-8").count("replies") if history.is_file() else 0
    with subprocess.Popen(
        [program, *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            give_up = time.monotonic() + START_S
            while not (history.is_file() and history.read_text(encoding="utf-8").count("replies") >= before + 5):
                assert process.poll() is None, f"ended before the signal: {process.communicate()[1]}"
                assert time.monotonic() < give_up, f"no five rounds within {START_S} s"
                time.sleep(0.005)
            os.kill(process.pid, sign)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, errors


def test_command_killed_and_then_interrupted_resumes_to_the_same_bits(
    tmp_path: Path, data: Path, clean_env: dict[str, str], program: str, encoder: Any
) -> None:
    rounds = 100  # So many that the signals come in the middle.
    out = tmp_path / "out"
    status, _ = cut_off(program, command(out, data, rounds=rounds), clean_env, out, signal.SIGKILL)
    assert status == -signal.SIGKILL
    killed_at = Checkpoint.load(out / NAME).round
    assert 0 < killed_at < rounds
    status, errors = cut_off(program, command(out, data, "--resume", rounds=rounds), clean_env, out, signal.SIGINT)
    assert status == 130
    assert errors.strip().splitlines()[-1] == "Interrupted. What was acknowledged is kept."
    assert "Traceback" not in errors
    assert killed_at < Checkpoint.load(out / NAME).round < rounds
    # Resumed, and run without a break, in this process, to spare two more imports of the encoder.
    from federation.cli.simulate import load_experiment

    people = load_experiment(str(data), devices=None, alpha=0.3, seed=0)
    plain: dict[str, Any] = {"rounds": rounds, "local_steps": 1, "cohort": DEVICES}
    cached = CachedEncoder(encoder)
    resumed = run_experiment(people, RunSettings(**plain, resume=True), out, cached)
    straight = run_experiment(people, RunSettings(**plain), tmp_path / "straight", cached)
    assert same(Checkpoint.load(out / NAME), Checkpoint.load(tmp_path / "straight" / NAME))
    assert [one["round"] for one in resumed.history] == list(range(rounds + 4))
    assert resumed.measured == straight.measured
