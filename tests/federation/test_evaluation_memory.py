"""`tacit evaluate memory` on invented conversations: figures counted by hand, and files that are read strictly."""

from __future__ import annotations

import json
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from engine.recall.features import FEATURES
from engine.recall.fit import RankedList
from federation.cli.app import cli
from federation.data.conversations import parse_conversation, read_conversations, time_of
from federation.errors import DataError
from federation.evaluation.memory import PARTS, Asked, evaluate_memory, figures_of, leave_one_out
from federation.report.memory import write_memory_report

TURNS: list[dict[str, Any]] = [
    {"id": "D1", "speaker": "Ada", "time": "1:56 pm on 8 May, 2023", "text": "I baked rye bread yesterday 🍞"},
    {"id": "D2", "speaker": "Bo", "time": "1:57 pm on 8 May, 2023", "text": "Nice! What did you eat it with?"},
    {"id": "D3", "speaker": "Ada", "time": "2023-05-08T13:58:00", "text": "Salted butter and honey"},
    {"id": "D4", "speaker": "Bo", "time": 1_690_000_000, "text": "My canoe has a hole"},
]
QUERIES: list[dict[str, Any]] = [
    {"q": "When did Ada bake bread?", "answer": "7 May", "evidence": ["D1"], "category": 2},
    {"q": "What is wrong with the canoe of Bo?", "answer": "a hole", "evidence": ["D4", "gone"], "category": 4},
    {"q": "What about the moon?", "answer": None, "evidence": [], "category": 1},
    {"q": "What did Bo bake?", "answer": None, "evidence": ["D1"], "category": 5},
]


def line(**changed: Any) -> str:
    return json.dumps({"conv": "a", "memory": TURNS, "queries": QUERIES} | changed)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    other = [{"id": 7, "speaker": None, "time": None, "text": "Une fête à Zürich 你好"}]
    path = tmp_path / "talks.jsonl"
    one = line(conv="b", memory=other, queries=[{"q": "the fête?", "evidence": [7], "category": 1}])
    path.write_text(f"{line()}\n\n{one}\n", encoding="utf-8")
    return path


def results_of(file: Path, toy: Any, most: int | None = None) -> dict[str, Any]:
    return evaluate_memory(read_conversations(file)[:most], title=file.name, encoder=toy, command="tacit")


def test_every_method_has_every_figure_with_its_interval(file: Path, toy: Any) -> None:
    results = results_of(file, toy)
    assert (results["conversations"], results["memories"], results["questions"]) == (2, 5, 3)
    assert results["evidence_missing"] == 1
    for name in ("bm25", "embedding", "fusion", "fusion_bm25", "hybrid", "hybrid_shipped"):
        its = results["methods"][name]
        # Five memories in all: the first five hold all evidence but what is missing, which counts as not found.
        if name not in ("bm25",):
            assert its["recall_at_5"] == its["recall_at_10"] == pytest.approx((1 + 0.5 + 1) / 3)
            assert its["hit_at_5"] == its["hit_at_10"] == 1
        for figure, (low, high) in its["intervals"].items():
            assert 0 <= low <= its[figure] <= high <= 1
    assert results["weights"]["hybrid"] == "fitted on the other conversations"
    json.dumps(results, allow_nan=False)


def test_no_mode_of_rounds_is_claimed_where_there_are_none(file: Path, toy: Any) -> None:
    results = results_of(file, toy)
    assert results["mode"] == "no rounds: nothing leaves a device"
    assert "privacy" not in results


def test_one_conversation_uses_the_shipped_weights(file: Path, toy: Any) -> None:
    results = results_of(file, toy, 1)
    assert results["weights"]["hybrid"] == "shipped"
    assert results["methods"]["hybrid"] == results["methods"]["hybrid_shipped"]


def test_a_part_that_is_left_out_has_no_weight(file: Path, toy: Any) -> None:
    results = evaluate_memory(read_conversations(file), title="talks", encoder=toy, command="tacit", ablate=True)
    assert list(results["without"]) == list(PARTS)
    asked = [[_question(seed) for seed in range(5)], [_question(9)]]
    weights = leave_one_out(asked, [0, 1], without=PARTS["dates"])
    for its in weights:
        assert {FEATURES[at] for at in np.flatnonzero(its == 0)} == set(PARTS["dates"])


def _question(seed: int) -> Asked:
    features = np.random.default_rng(seed).normal(size=(4, len(FEATURES))).astype(np.float32)
    return Asked(evidence=frozenset({2}), missing=0, ranked={}, ids=np.arange(1, 5), features=features)


def test_results_repeat(file: Path, toy: Any) -> None:
    assert results_of(file, toy) == results_of(file, toy)


def test_weights_are_not_fitted_on_the_conversation_that_they_rank(
    file: Path, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import federation.evaluation.memory as module

    seen: list[int] = []

    def spy(lists: list[RankedList], *, prior: np.ndarray) -> np.ndarray:
        seen.append(len(lists))
        return prior

    monkeypatch.setattr(module, "fit_weights", spy)
    results_of(file, toy)
    assert seen == [1, 2]  # The other has one question, and two.


def test_the_harness_ranks_as_the_device_does(file: Path, toy: Any, tmp_path: Path) -> None:
    from engine.device.device import Device, Memory
    from federation.evaluation.memory import _searched
    from store import DeviceKey

    conversation = read_conversations(file)[0]
    texts = [turn.as_text for turn in conversation.memory] + [q.text for q in conversation.scored]
    vectors = dict(zip(texts, toy.encode(texts), strict=True))
    asked = _searched(conversation, toy, vectors, lambda: None)
    times = conversation.times()
    with Device.create(tmp_path / "phone", DeviceKey.generate(), encoder=toy) as device:
        device.remember_many(
            [Memory(text=turn.as_text, time=time) for turn, time in zip(conversation.memory, times, strict=True)]
        )
        for question, its in zip(conversation.scored, asked, strict=True):
            found = [one.id for one in device.search(question.text, k=4, now=max(times))]
            assert found == its.ranked["hybrid_shipped"][:4]


@pytest.mark.parametrize(
    ("evidence", "missing", "ranked", "expected"),
    [
        ({1}, 0, [1, 2], [1, 1, 1, 1, 1]),
        ({2}, 0, [1, 2], [1, 1, 1, 1, 0.5]),
        ({1, 6}, 0, [9, 8, 7, 5, 4, 6], [0, 0.5, 0, 1, 1 / 6]),
        ({3}, 1, [3], [0.5, 0.5, 1, 1, 1]),
        (set(), 1, [3], [0, 0, 0, 0, 0]),
        ({3}, 0, [], [0, 0, 0, 0, 0]),
    ],
)
def test_figures_of_a_question(evidence: set[int], missing: int, ranked: list[int], expected: list[float]) -> None:
    question = Asked(
        evidence=frozenset(evidence),
        missing=missing,
        ranked={"x": ranked},
        ids=np.zeros(0, dtype=np.int64),
        features=np.zeros((0, 1), dtype=np.float32),
    )
    assert figures_of(question, "x") == pytest.approx(expected)
    assert question.list() is None


def test_questions_without_evidence_and_of_category_5_are_left_out() -> None:
    conversation = parse_conversation(line(), line=1)
    assert [question.text for question in conversation.scored] == [QUERIES[0]["q"], QUERIES[1]["q"]]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (1_700_000_000, 1_700_000_000.0),
        ("1:56 pm on 8 May, 2023", datetime(2023, 5, 8, 13, 56).timestamp()),
        ("12:05 am on 1 January 2022", datetime(2022, 1, 1, 0, 5).timestamp()),
        ("8 May 2023", datetime(2023, 5, 8).timestamp()),
        ("2023-05-08", datetime(2023, 5, 8).timestamp()),
        ("2023-05-08T13:56:00Z", 1_683_554_160.0),
        ("some day", None),
        ("", None),
    ],
)
def test_a_time_is_read(value: object, expected: float | None) -> None:
    assert time_of(value) == expected


def test_unknown_times_are_those_of_the_turn_before() -> None:
    turns = [{**turn, "time": time} for turn, time in zip(TURNS, (None, 5, None, 9), strict=True)]
    assert parse_conversation(line(memory=turns), line=1).times() == [5, 5, 5, 9]
    turns = [{**turn, "time": None} for turn in TURNS]
    assert parse_conversation(line(memory=turns), line=1).times() == [0, 0, 0, 0]


MALFORMED: dict[str, tuple[str, str]] = {
    "not JSON": ("{", "is not JSON"),
    "a list": ("[]", "expected the line as a JSON object, got list"),
    "no memory": ('{"queries": []}', "expected a list in 'memory'"),
    "no queries": ('{"memory": []}', "expected a list in 'queries'"),
    "a turn is a string": (line(memory=["x"]), "expected memory 0 as a JSON object"),
    "no text": (line(memory=[{"id": "1"}]), "expected a string in 'text' of memory 0"),
    "no id": (line(memory=[{"text": "x"}]), "expected 'id' in memory 0"),
    "an id twice": (line(memory=[TURNS[0], TURNS[0]]), "expected each memory's 'id' once"),
    "an empty turn": (line(memory=[{"id": "1", "text": " "}]), "not to be empty"),
    "time is a list": (line(memory=[TURNS[0] | {"time": []}]), "expected a number, a string or null in 'time'"),
    "time is infinite": (line(memory=[TURNS[0] | {"time": float("inf")}]), "to be finite"),
    "a lone surrogate": (line(memory=[TURNS[0] | {"text": "\ud800"}]), "a lone surrogate"),
    "no question": (line(queries=[{"evidence": []}]), "expected a string in 'q' of query 0"),
    "evidence is a string": (line(queries=[{"q": "x", "evidence": "D1"}]), "expected a list of ids in 'evidence'"),
    "evidence of lists": (line(queries=[{"q": "x", "evidence": [["D1"]]}]), "expected a string in 'evidence'"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_line_is_named(tmp_path: Path, name: str) -> None:
    bad, what = MALFORMED[name]
    path = tmp_path / "talks.jsonl"
    path.write_text(f"{line()}\n{bad}\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        read_conversations(path)
    told = str(error.value)
    assert "Line 2" in told
    assert what in told
    assert "\n" not in told


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_file_without_conversations_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "talks.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match="no conversations"):
        read_conversations(path)


def test_conversations_without_questions_to_score_are_refused(toy: Any) -> None:
    empty = parse_conversation(line(queries=[]), line=1)
    with pytest.raises(DataError, match="no question has evidence"):
        evaluate_memory([empty], title="talks", encoder=toy, command="tacit")


def test_the_report_is_one_page_that_loads_nothing(file: Path, toy: Any, tmp_path: Path) -> None:
    page = write_memory_report(results_of(file, toy) | {"title": "<script>"}, tmp_path / "out")
    html = page.read_text(encoding="utf-8")
    assert "soft fusion" in html
    assert "<script" not in html
    assert "http" not in html.replace("http-equiv", "")
    assert json.loads((tmp_path / "out" / "results.json").read_text())["methods"]["hybrid"]["recall_at_5"] > 0


def test_the_command_prints_a_table_and_json(file: Path) -> None:
    shown = CliRunner().invoke(cli, ["evaluate", "memory", str(file)])
    assert shown.exit_code == 0, shown.output
    assert "soft fusion" in shown.output
    machine = CliRunner().invoke(cli, ["evaluate", "memory", str(file), "--conversations", "1", "--json"])
    assert json.loads(machine.stdout)["conversations"] == 1


def test_the_command_names_what_is_wrong(tmp_path: Path) -> None:
    missing = CliRunner().invoke(cli, ["evaluate", "memory", str(tmp_path / "none.jsonl")])
    assert missing.exit_code != 0
    wrong = CliRunner().invoke(cli, ["evaluate", "memory", "x", "--conversations", "0"])
    assert wrong.exit_code == 2


def test_lines_of_one_conversation_are_never_fitted_on_for_each_other(file: Path, toy: Any) -> None:
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    same = [lines[0] | {"queries": [query], "conv": "same"} for query in lines[0]["queries"]]
    one = file.with_name("same.jsonl")
    one.write_text("\n".join(json.dumps(line) for line in [*same, *same]), encoding="utf-8")
    results = evaluate_memory(read_conversations(one), title="same", encoder=toy, command="tacit")
    assert results["conversations"] == 1
    assert results["weights"]["hybrid"] == "shipped"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (1683554160, "2023-05-08"),
        (1683554160000, "2023-05-08"),
        ("1683554160", "2023-05-08"),
        ("2023/05/08 (Mon) 13:56", "2023-05-08"),
        ("2023/05/08", "2023-05-08"),
        ("8.5.2023", "2023-05-08"),
        ("Mon May  8 13:56:00 2023", "2023-05-08"),
        ("2023-05-08T13:56:00 UTC", "2023-05-08"),
        ("1:56 pm on 8 May, 2023", "2023-05-08"),
        ("Saturday", None),
        ("8 May", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_times_of_other_people_are_read_or_not_known(written: object, expected: str | None) -> None:
    time = time_of(written)
    assert (None if time is None else date.fromtimestamp(time).isoformat()) == expected
