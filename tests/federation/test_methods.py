"""`tacit evaluate routing --methods … --unseen …`: which methods run, on what rows, and what is said where none can."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import engine.encoders.encoder
import federation
from engine.encoders.encoder import CachedEncoder
from federation.cli import main
from federation.data.dataset import Row
from federation.data.splits import late_users, split_by_user
from federation.errors import ConfigError, DataError
from federation.evaluation.methods import BASELINES, chosen_baselines, client_of
from federation.evaluation.routing import evaluate_routing
from federation.report.results import check_results
from federation.simulation.experiment import Experiment
from federation.simulation.fleet import members

SETTINGS = {"rounds": 3, "local_steps": 2}
LABELS = ("taxi", "pizza", "opera", "salon")
FIGURES = {"accuracy", "accuracy_at_5", "mrr", "interval", "hurt", "hurt_significant", "worst_tenth"}


def evaluate(rows: list[Row], toy: Any, **changed: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {"seeds": 1, "devices": None, "alphas": (), "baselines": BASELINES, "settings": SETTINGS}
    return evaluate_routing(rows, title="made-up rows", command="-", encoder=CachedEncoder(toy), **(plain | changed))


def with_own_label(rows: list[Row]) -> list[Row]:
    """Every fourth request of a person goes to a place that nobody else has."""
    return [
        dataclasses.replace(row, text=f"home {row.user} again", label=f"place of {row.user}") if n % 4 == 0 else row
        for n, row in enumerate(rows)
    ]


# --- the names


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), ()),
        (("ours",), ()),
        (("all",), BASELINES),
        (("ours,all",), BASELINES),
        (("ditto", "fedavg"), ("fedavg", "ditto")),
        (("ditto, fedavg", "ditto"), ("fedavg", "ditto")),
    ],
)
def test_names_and_comma_lists_choose_methods(given: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert chosen_baselines(given) == expected


@pytest.mark.parametrize("given", ["dito", "", "ours,", "ditto;fedavg", "ALL"])
def test_unknown_method_is_one_line_with_the_known_ones(given: str) -> None:
    with pytest.raises(ConfigError, match=r"Unknown method .* Known: ours, local, .* knn_per, or all") as error:
        chosen_baselines([given])
    assert "\n" not in str(error.value)


def test_the_names_are_those_of_the_package() -> None:
    from benchmarks.baselines.run import METHODS

    assert tuple(METHODS) == BASELINES


# --- the figures


def test_all_methods_stand_beside_ours_on_the_same_rows(rows: Any, toy: Any) -> None:
    made = rows(users=4, each=24)
    result, ours = evaluate(made, toy), evaluate(made, toy, baselines=())
    check_results(result)
    assert set(result["methods"]) == {"global", "personal", "cautious", "no_rounds", *BASELINES}
    for name, one in result["methods"].items():
        assert set(one) == FIGURES | (
            {"ece", "nll"} if name in ("global", "personal", "cautious", "no_rounds") else set()
        )
    # What others do changes nothing of ours; the most frequent label is the same, whoever counts.
    for name in ("global", "personal", "cautious", "no_rounds", "most_frequent"):
        assert result["methods"][name] == ours["methods"][name]
    assert "versus_best_baseline" not in ours
    best = result["versus_best_baseline"]
    accuracies = {name: result["methods"][name]["accuracy"] for name in BASELINES}
    assert accuracies[best["name"]] == max(accuracies.values())
    mean, low, high = best["accuracy"]
    assert low <= mean <= high
    assert mean == pytest.approx(result["methods"]["personal"]["accuracy"] - max(accuracies.values()))
    chosen = result["blocks"][0]["chosen"]
    assert [set(one) for one in chosen] == [set(BASELINES)]
    json.loads(json.dumps(result, allow_nan=False))
    assert evaluate(made, toy) == result


def test_several_accepted_answers_are_counted_for_all_methods(rows: Any, toy: Any) -> None:
    made = rows(users=4, each=24)
    # Another label would do, and one that is no row's label, which nothing could learn, does not count.
    both = [
        dataclasses.replace(row, labels=(row.label, "opera" if row.label != "opera" else "taxi", "nowhere"))
        for row in made
    ]
    result, plain = evaluate(both, toy), evaluate(made, toy)
    for name, one in result["methods"].items():
        assert one["accuracy"] == plain["methods"][name]["accuracy"]
        assert one["accuracy"] <= one["accuracy_any"] <= 1
        assert 0 < one["ndcg_at_5"] <= 1
        assert "accuracy_any" not in plain["methods"][name]
    # Where any label will do, only labels that are not ranked are wrong.
    every = [
        dataclasses.replace(row, labels=(row.label, *(name for name in LABELS if name != row.label))) for row in made
    ]
    found = evaluate(every, toy)["methods"]
    assert [found[name]["accuracy_any"] for name in ("global", "personal", "fedavg", "ditto")] == [1, 1, 1, 1]


def test_only_the_methods_that_were_asked_for_run(rows: Any, toy: Any) -> None:
    result = evaluate(rows(users=4, each=24), toy, baselines=("knn_per",))
    ours = {"global", "personal", "cautious", "no_rounds", "most_frequent", "local"}
    assert set(result["methods"]) == ours | {"knn_per"}
    assert result["versus_best_baseline"]["name"] == "knn_per"


def test_a_label_of_ones_own_is_a_miss_for_shared_models_and_not_for_personal_ones(rows: Any, toy: Any) -> None:
    made = with_own_label(rows(users=5, each=40))
    result = evaluate(made, toy, settings={"rounds": 6, "local_steps": 2})["methods"]
    # A quarter of the requests, of which a shared model gets none at any rank.
    assert result["fedavg"]["accuracy_at_5"] <= 0.8
    assert result["global"]["accuracy_at_5"] <= 0.8
    for name in ("personal", "local", "most_frequent", "fedavg_finetuned", "fedrep", "ditto", "knn_per"):
        assert result[name]["accuracy_at_5"] > 0.9, name


def test_clients_hold_what_the_device_holds(rows: Any, toy: Any) -> None:
    split = split_by_user(with_own_label(rows(users=4, each=24)), seed=0)
    experiment = Experiment.of(split, title="made-up", late=frozenset({split[1][0]}))
    people = members(experiment.split, late=experiment.late)
    clients = [client_of(member, experiment, toy, toy.dimension) for member in people]
    assert [one.late for one in clients] == [False, True, False, False]
    for member, one in zip(people, clients, strict=True):
        names = [*experiment.catalogue.names, f"place of {member.user}"]
        assert (one.x == toy.encode([row.text for row in member.train])).all()
        assert (one.names == toy.encode(names)).all()
        assert [names[label] for label in one.y] == [row.label for row in member.train]
        assert [names[label] for label in one.truth] == [row.label for row in member.test]
        assert one.public == len(experiment.catalogue)


# --- devices that join late


def test_unseen_devices_have_figures_of_their_own_and_leave_the_rounds_to_the_others(rows: Any, toy: Any) -> None:
    made = rows(users=6, each=24)
    result = evaluate(made, toy, unseen=0.34)
    check_results(result)
    late = late_users(split_by_user(made, seed=0), share=0.34, seed=0)
    assert {one["device"] for one in result["unseen"]["devices"]} == late
    assert (result["users"], result["unseen"]["users"]) == (4, 2)
    assert set(result["unseen"]["methods"]) == set(result["methods"])
    assert result["unseen"]["versus_best_baseline"]["name"] in BASELINES
    # The rounds are those of the four alone: without the two there is the same model, and the same figures.
    alone = evaluate([row for row in made if row.user not in late], toy)
    for name in ("global", "personal", "cautious", "local", "fedavg"):
        assert result["methods"][name] == alone["methods"][name]


def test_late_users_are_a_share_of_those_measured_and_of_the_others(rows: Any) -> None:
    made = rows(users=10, each=24) + [
        dataclasses.replace(row, user=f"small {row.user}") for row in rows(users=10, each=5)
    ]
    split = split_by_user(made, seed=0)
    for seed in range(5):
        late = late_users(split, share=0.2, seed=seed)
        assert sum(user.startswith("small") for user in late) == 2
        assert len(late) == 4
        assert late == late_users(split, share=0.2, seed=seed)
    assert len({late_users(split, share=0.2, seed=seed) for seed in range(5)}) > 1


@pytest.mark.parametrize("share", [0.0, 1.0, -0.2, 1.5, float("nan"), float("inf")])
def test_a_share_that_is_none_is_refused(rows: Any, share: float) -> None:
    with pytest.raises(ConfigError, match="unseen"):
        late_users(split_by_user(rows(users=4, each=24), seed=0), share=share, seed=0)


@pytest.mark.parametrize(("users", "each", "share"), [(2, 24, 0.5), (4, 5, 0.2), (3, 24, 0.9)])
def test_too_few_devices_for_rounds_are_a_clear_error(rows: Any, users: int, each: int, share: float) -> None:
    with pytest.raises(DataError, match="too few for rounds"):
        late_users(split_by_user(rows(users=users, each=each), seed=0), share=share, seed=0)


# --- the command


@pytest.fixture
def file(tmp_path: Path, rows: Any) -> Path:
    path = tmp_path / "rows.jsonl"
    made = [{"user": row.user, "order": row.order, "text": row.text, "label": row.label} for row in rows(4, 24)]
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return path


def test_command_prints_the_table_with_the_methods(
    file: Path, toy: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(engine.encoders.encoder, "load_encoder", lambda name: toy)
    asked = ["--methods", "ditto,fedavg", "--methods", "knn_per", "--unseen", "0.3", "--rounds", "2", "--seeds", "1"]
    main(["evaluate", "routing", str(file), *asked, "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    for expected in ("Ditto", "FedAvg", "kNN-Per", "Personalized − ", "joined"):
        assert expected in printed
    written = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert {"ditto", "fedavg", "knn_per"} <= set(written["unseen"]["methods"])
    assert "Accuracy by method" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--methods", "dito"], "Unknown method 'dito'. Known: ours, local"),
        (["--unseen", "2"], "Expected unseen=2.0 to be between 0 and 1"),
        (["--unseen", "0.99"], "too few for rounds"),
    ],
)
def test_command_bad_input_is_one_line(
    file: Path,
    toy: Any,
    given: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(engine.encoders.encoder, "load_encoder", lambda name: toy)
    with pytest.raises(SystemExit) as left:
        main(["evaluate", "routing", str(file), "--seeds", "1", *given])
    assert left.value.code not in (0, None)
    captured = capsys.readouterr()
    assert not captured.out
    [line] = [line for line in captured.err.splitlines() if line.startswith("Error: ")]
    assert said in line


def test_without_the_source_checkout_the_command_says_where_to_run_it(
    file: Path, tmp_path: Path, program: str, clean_env: dict[str, str]
) -> None:
    root = Path(federation.__file__).resolve().parents[1]
    for package in ("store", "engine", "federation"):
        shutil.copytree(root / package, tmp_path / "installed" / package, ignore=shutil.ignore_patterns("__pycache__"))
    script = "import sys; from federation.cli import main; main(sys.argv[1:])"
    env = clean_env | {"PYTHONPATH": str(tmp_path / "installed"), "PYTHONSAFEPATH": "1"}
    call = [program, "-c", script, "evaluate", "routing", str(file), "--methods", "all", "--seeds", "1"]
    done = subprocess.run(call, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == ConfigError.exit_code
    assert done.stderr.splitlines() == [
        "Error: The methods beside ours are not in the installed package: run from a source checkout, or leave out "
        "--methods."
    ]
