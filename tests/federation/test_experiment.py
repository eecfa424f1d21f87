"""From rows to figures, and from a simulation to a suggestion on a new device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from engine.device.device import Device
from engine.encoders.encoder import CachedEncoder
from engine.encoders.spelling import SPELLING, spelling
from engine.model.catalogue import Catalogue
from engine.model.checkpoint import Checkpoint
from engine.personal.together import ANSWER_LENGTH
from federation.cli import demo
from federation.data.dataset import Row
from federation.data.splits import split_by_user
from federation.errors import FederationError, RoundError, RunBusyError
from federation.evaluation.results import run_results
from federation.rounds.config import RunSettings
from federation.simulation.experiment import Experiment, run_experiment
from federation.simulation.run_lock import only_run
from store import DeviceKey


def experiment_of(rows: list[Row]) -> Experiment:
    return Experiment.of(split_by_user(rows, seed=0), title="made-up people")


@pytest.fixture
def experiment(rows: Any) -> Experiment:
    return experiment_of(rows(users=5, each=25))


def settings(**changed: Any) -> RunSettings:
    return RunSettings(**({"rounds": 6, "cohort": 5, "local_steps": 3} | changed))


@pytest.fixture
def run(tmp_path: Path, experiment: Experiment, toy: Any) -> Any:
    return run_experiment(experiment, settings(), tmp_path / "run", CachedEncoder(toy))


def test_history_has_every_round_and_the_accuracy_before_the_first(run: Any, experiment: Experiment) -> None:
    assert [one["round"] for one in run.history] == list(range(10))  # Six rounds of the model, three Newton steps.
    assert all(0 <= one["accuracy"] <= 1 for one in run.history)
    assert [one["replies"] for one in run.history] == [0, *[5] * 9]
    assert all(one["failures"] == 0 for one in run.history)
    assert all(one["sent_bytes"] > 4 * run.model.flat.size * 5 for one in run.history[1:7])
    assert len({one["sent_bytes"] for one in run.history[7:]}) == 1
    assert all(4 * ANSWER_LENGTH * 5 < one["sent_bytes"] < 4000 * 5 for one in run.history[7:])
    assert len({one["accuracy"] for one in run.history[6:]}) == 1  # Newton steps leave the model as it is.


def test_accuracy_in_the_history_is_that_of_the_shared_model(run: Any, toy: Any) -> None:
    # The last entry, counted again by hand: the class whose vector and bias score highest.
    tests = [row for member in run.people for row in member.test]
    table = run.model.flat.reshape(-1, toy.dimension + SPELLING + 1).astype(np.float64)
    names = run.model.catalogue.names
    texts = [row.text for row in tests]
    x = np.concatenate([toy.encode(texts), spelling(texts)], axis=1).astype(np.float64)
    answers = (x @ table[:, :-1].T + 0.3 * table[:, -1]).argmax(axis=1)
    hits = [names[answer] == row.label for answer, row in zip(answers, tests, strict=True)]
    assert run.history[-1]["accuracy"] == pytest.approx(np.mean(hits))


def test_global_ranks_of_the_devices_agree_with_the_history(run: Any) -> None:
    ranks = [rank for one in run.measured for rank in one.by_method["global"]]
    assert np.mean([rank == 1 for rank in ranks]) == pytest.approx(run.history[-1]["accuracy"])


def test_rounds_lift_the_shared_model_above_the_label_names(tmp_path: Path, rows: Any, toy: Any) -> None:
    run = run_experiment(
        experiment_of(rows(users=8, each=30)),
        settings(rounds=15, cohort=8, server_learning_rate=0.2),
        tmp_path / "run",
        CachedEncoder(toy),
    )
    # The toy encoder knows no meanings: label names are chance, training is what helps.
    assert run.history[-1]["accuracy"] > run.history[0]["accuracy"] + 0.2


def test_results_of_a_run_are_whole(run: Any, experiment: Experiment, tmp_path: Path) -> None:
    from federation.report.results import check_results

    results = run_results(experiment, settings(), run, command="tacit simulate …")
    check_results(results)
    assert results["mode"] == "open: updates visible to the server"
    assert results["generated"] is False
    assert set(results["methods"]) == {"global", "personal", "cautious", "no_rounds", "most_frequent", "local"}
    assert results["users"] == 5
    assert results["rows"] == sum(len(member.test) for member in run.people)
    sent = sum(one["sent_bytes"] for one in run.history)
    assert results["bytes"]["sent_per_device"] == pytest.approx(sent / 5)
    assert str(tmp_path) not in str(results)


def test_generated_people_use_the_built_in_services_and_say_so(tmp_path: Path, toy: Any) -> None:
    from federation.data.splits import split_as_marked
    from federation.population import generate

    population = generate(3, seed=0)
    experiment = Experiment.of(split_as_marked(population.rows), title=population.title, generated=True)
    assert experiment.catalogue == Catalogue.builtin()
    run = run_experiment(experiment, settings(rounds=2, cohort=3), tmp_path / "run", CachedEncoder(toy))
    results = run_results(experiment, settings(rounds=2, cohort=3), run, command="tacit demo")
    assert results["generated"] is True
    assert "generated population" in results["title"]
    assert "generated population" in run.model.title
    for example in results["examples"]:
        first = example["suggestions"][0]
        assert first["label"] == example["truth"] != example["global"]
        assert first["because"]


def test_failed_round_is_an_error_and_not_a_result(tmp_path: Path, experiment: Experiment, toy: Any) -> None:
    with pytest.raises(RoundError, match="Round 1 failed"):
        run_experiment(experiment, settings(deadline_s=1e-9, min_replies=5), tmp_path / "run", CachedEncoder(toy))
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
    run_experiment(experiment, settings(min_replies=5, resume=True), tmp_path / "run", CachedEncoder(toy))


def test_cohort_above_the_fleet_is_the_whole_fleet(tmp_path: Path, experiment: Experiment, toy: Any) -> None:
    run = run_experiment(experiment, settings(rounds=1, cohort=99), tmp_path / "run", CachedEncoder(toy))
    assert run.history[1]["replies"] == 5


def test_rows_without_a_label_that_two_users_share_are_a_clear_error() -> None:
    rows = [Row(user=f"u{n % 4}", order=n, text=f"t {n}", label=f"label {n % 4}") for n in range(80)]
    with pytest.raises(Exception, match="at least 2 labels") as error:
        experiment_of(rows)
    assert getattr(error.value, "exit_code", 0)


def test_experiments_differ_where_rows_labels_or_split_differ(rows: Any, experiment: Experiment) -> None:
    same = experiment_of(rows(users=5, each=25))
    other_rows = experiment_of(rows(users=5, each=25, seed=1))
    other_split = Experiment.of(split_by_user(rows(users=5, each=25), seed=1), title="made-up people")
    assert same.fingerprint == experiment.fingerprint
    assert len({experiment.fingerprint, other_rows.fingerprint, other_split.fingerprint}) == 3


# From `simulate` to `suggest`


def scores(device: Device, text: str) -> dict[str, float]:
    return {one.label: one.score for one in device.suggest(text, k=4)}


def test_what_rounds_trained_is_what_a_new_device_suggests(run: Any, tmp_path: Path, toy: Any) -> None:
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    key = DeviceKey.generate()
    with Device.create(tmp_path / "new", key, catalogue=run.model.catalogue, encoder=toy) as device:
        before = scores(device, "cab airport")
        device.load_model(checkpoint)
        after = scores(device, "cab airport")
        assert after != before
        # Nothing is remembered here, so what it suggests is the trained model's own answer: softmax of its scores.
        table = run.model.flat.reshape(-1, toy.dimension + SPELLING + 1).astype(np.float64)
        x = np.concatenate([toy.encode(["cab airport"]), spelling(["cab airport"])], axis=1)[0].astype(np.float64)
        logits = 10 * (x @ table[:, :-1].T + 0.3 * table[:, -1])
        expected = np.exp(logits - logits.max())
        expected /= expected.sum()
        for label, score in after.items():
            assert score == pytest.approx(expected[run.model.catalogue.index(label)], abs=1e-5)
        device.previous_model()
        assert scores(device, "cab airport") == before
        device.previous_model()
        assert scores(device, "cab airport") == after
    with Device.open(tmp_path / "new", key, encoder=toy) as device:
        assert scores(device, "cab airport") == after  # and it is still there the next day
        assert device.model.round == run.model.round


def test_checkpoint_of_another_encoder_is_refused_by_the_device(run: Any, tmp_path: Path, toy_class: Any) -> None:
    other = toy_class(seed=4)
    with Device.create(tmp_path / "new", DeviceKey.generate(), catalogue=run.model.catalogue, encoder=other) as device:
        before = scores(device, "cab airport")
        with pytest.raises(Exception, match="encoder"):
            device.load_model(tmp_path / "run" / "checkpoint.safetensors")
        assert scores(device, "cab airport") == before


def test_checkpoint_that_is_cut_short_leaves_the_devices_model(run: Any, tmp_path: Path, toy: Any) -> None:
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-50])
    with Device.create(tmp_path / "new", DeviceKey.generate(), catalogue=run.model.catalogue, encoder=toy) as device:
        before = scores(device, "cab airport")
        with pytest.raises(Exception, match="checkpoint"):
            device.load_model(checkpoint)
        assert scores(device, "cab airport") == before


def test_private_labels_of_a_device_survive_a_new_model(run: Any, tmp_path: Path, toy: Any) -> None:
    with Device.create(tmp_path / "new", DeviceKey.generate(), catalogue=run.model.catalogue, encoder=toy) as device:
        for number in range(4):
            device.remember(f"moonlit garden walk {number}", label="my own place")
        device.load_model(tmp_path / "run" / "checkpoint.safetensors")
        assert device.private_labels == ("my own place",)
        assert device.suggest("moonlit garden walk", k=1)[0].label == "my own place"


def test_run_folder_is_closed_to_other_users_of_the_machine(run: Any, tmp_path: Path) -> None:
    for part in ("devices", "keys"):
        assert (tmp_path / "run" / part).stat().st_mode & 0o077 == 0


def test_outcome_is_the_checkpoint_on_disk(run: Any, tmp_path: Path) -> None:
    kept = Checkpoint.load(tmp_path / "run" / "checkpoint.safetensors")
    assert kept.flat.tobytes() == run.model.flat.tobytes()
    assert kept.round == 9
    assert kept.learned is not None
    np.testing.assert_array_equal(kept.learned.weights, run.model.learned.weights)
    assert FederationError.exit_code == 1


# Two processes at once, and what a killed one left


def test_folder_in_which_another_process_runs_is_refused_and_left_alone(
    tmp_path: Path, experiment: Experiment, toy: Any
) -> None:
    with only_run(tmp_path / "run"):
        before = sorted(path.name for path in (tmp_path / "run").iterdir())
        with pytest.raises(RunBusyError, match="name another --out"):
            run_experiment(experiment, settings(), tmp_path / "run", CachedEncoder(toy))
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before
    run_experiment(experiment, settings(), tmp_path / "run", CachedEncoder(toy))


def test_demo_replaces_what_a_demo_left_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "report"
    # What this demo leaves, and what one of an earlier release did.
    for run in (out / "private", out / "open", out):
        (run / "devices" / "device-0001").mkdir(parents=True)
        (run / "keys").mkdir()
        for name in ("results.json", ".report.html.x1y2", "rounds.jsonl", "roster", ".lock"):
            (run / name).write_text("old")
    (out / "ledger.json").write_text("old")
    demo.check_is_ours(out)
    demo.clear_earlier(out)
    assert [path.name for path in out.iterdir()] == [".lock"]
    for mine in ("thesis.tex", "private/thesis.tex"):
        (out / "private").mkdir(exist_ok=True)
        (out / mine).write_text("mine")
        with pytest.raises(click.UsageError, match=rf"'{mine}', which no demo wrote"):
            demo.check_is_ours(out)
        assert (out / mine).read_text() == "mine"
        (out / mine).unlink()
