"""Transcripts of `tacit evaluate choice`: its table, its JSON, and what it says of files it cannot measure."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from federation.report.choice import render_choices

Call = Callable[..., Any]
METRICS = {"accuracy", "accuracy_at_5", "mrr", "hit_rate_at_10", "ndcg_at_10"}


FIGURES = dict.fromkeys(sorted(METRICS), 0.5) | {"interval": [0.4, 0.6], "hit_rate_interval": [0.4, 0.6], "rows": 3}
RESULTS: dict[str, Any] = {
    "kind": "choice",
    "title": "<b>&",
    "generated": False,
    "mode": "open",
    "command": "tacit",
    "version": "0",
    "methods": {"personalized": FIGURES | {"new_items": None, "not_in_this_context": FIGURES | {"rows": 2}}},
    "users": 3,
    "devices": 3,
    "items": 9,
    "rows": 3,
    "seeds": 5,
    "bytes": {"sent_per_device": 1.0, "received_per_device": 1.0},
}


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """Four people who each open their own two apps by the time of day, 24 times; one app is not in the list."""
    rng = random.Random(0)
    lines = []
    for user in range(4):
        for number in range(24):
            when = rng.choice(("morning", "evening"))
            item = f"app {(user + (when == 'evening') * 3) % 6}" if rng.random() < 0.9 else f"app {rng.randrange(7)}"
            lines.append({"user": f"u{user}", "ts": number, "item": item, "value": 1.0, "context": {"when": when}})
    file = tmp_path / "apps.jsonl"
    file.write_text("".join(json.dumps(line | {"split": "train"}) + "\n" for line in lines))
    (tmp_path / "apps_items.jsonl").write_text("".join(json.dumps({"item": f"app {n}"}) + "\n" for n in range(6)))
    return file


def test_json_has_the_promised_figures(tacit: Call, events: Path, tmp_path: Path) -> None:
    ran = tacit(["evaluate", "choice", events, "--json", "--factors", 3, "--seeds", 2, "--out", tmp_path / "out"])
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert set(result["methods"]) == {"personalized", "most_frequent", "own_context", "popularity"}
    for figures in result["methods"].values():
        assert set(figures) >= METRICS
        assert all(0 <= figures[name] <= 1 for name in METRICS)
    assert (result["users"], result["rows"], result["items"], result["seeds"]) == (4, 4, 7, 2)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == result
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"Report: {tmp_path / 'out' / 'report.html'}" in ran.err
    for words in (
        "apps.jsonl",
        "Personalized, by rounds",
        f"{result['methods']['personalized']['mrr']:.3f}",
        "data:image/png",
        "clipped sums over the device&#x27;s choices of listed items",  # And nothing of a model or its rows.
        "ε = ∞ against the server, ε = ∞ of the released model",
    ):
        assert words in page
    assert "flattened global model" not in page
    assert "<script" not in page
    again = tacit(["report", tmp_path / "out"])
    assert again.code == 0, again.err
    assert "Personalized, by rounds" in again.out
    assert "ε = ∞ against the server" in again.out
    assert (tmp_path / "out" / "report.html").read_text() == page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"users": -1}, "expected a whole number from 0 in 'users'"),
        ({"methods": {}}, "expected 'methods.personalized', which is missing"),
        ({"methods": {"magic": {}}}, "expected a method that this release knows"),
        ({"methods": {"personalized": {"accuracy": 2}}}, "a share from 0 to 1 in 'methods.personalized.accuracy'"),
    ],
)
def test_malformed_results_of_choices_are_one_line(
    tacit: Call, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    (tmp_path / "results.json").write_text(json.dumps(RESULTS | change))
    ran = tacit(["report", tmp_path])
    assert (ran.code, ran.out) == (3, "")
    assert message in ran.err
    assert len(ran.err.strip().splitlines()) == 1


def test_page_escapes_what_came_from_data_and_is_the_same_for_the_same_results() -> None:
    results = RESULTS
    page = render_choices(results)
    assert page == render_choices(results)
    assert "<b>&" not in page
    assert "All: 3 rows" in page
    assert "Not had in this context: 2 rows" in page
    assert "New to the user" not in page


def test_table_names_methods_and_kinds_of_rows(tacit: Call, events: Path) -> None:
    ran = tacit(["evaluate", "choice", events, "--methods", "all", "--factors", 3, "--seeds", 1])
    assert ran.code == 0, ran.err
    for words in ("apps.jsonl", "Personalized, by rounds", "SVD-32, centralised", "EASE", "all: 4 rows", "HR@10"):
        assert words in ran.out
    assert "4 users measured, 4 devices, 7 items, 1 draws of 99." in ran.out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no rows"),
        ('{"user": "u", "item": "a"}\nnot json\n', "Line 2 is not JSON"),
        ('{"user": "u", "item": "a", "ts": 1, "context": {"at": 5}}\n', "Line 1: Expected a context"),
        ('{"user": "u", "item": "a", "ts": 1}\n', "20 rows of a user are needed"),
        ('{"user": "u", "item": "a", "ts": null}\n', "nothing tells what to measure on"),
    ],
)
def test_file_that_cannot_be_measured_is_one_line(tacit: Call, tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(content)
    ran = tacit(["evaluate", "choice", file])
    assert (ran.code, ran.out) == (3, "")
    assert message in ran.err
    assert len(ran.err.strip().splitlines()) == 1


def test_missing_files_are_one_line(tacit: Call, events: Path, tmp_path: Path) -> None:
    for args in ([tmp_path / "none.jsonl"], [events, "--items", tmp_path / "none.jsonl"]):
        ran = tacit(["evaluate", "choice", *args])
        assert (ran.code, ran.out) == (3, "")
        assert "Cannot read" in ran.err


def test_all_methods_away_from_a_checkout_are_one_line(
    tacit: Call, events: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    real = importlib.import_module

    def without(name: str, package: str | None = None) -> Any:
        if name.startswith("benchmarks"):
            raise ModuleNotFoundError(f"No module named {name!r}", name="benchmarks")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", without)
    ran = tacit(["evaluate", "choice", events, "--methods", "all"])
    assert ran.code == 2
    assert "source checkout" in ran.err
