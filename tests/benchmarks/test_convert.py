"""The converters on invented downloads of the same form: what they write is what `tacit evaluate` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.convert import CONVERTERS, Row, main
from federation.data.choices import read_choices, read_items
from federation.data.dataset import read_rows


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_unimobile_labels_are_apps_by_preference_and_one_search_is_one_app(source: Path, out: Path) -> None:
    head = "index,TaskId,WorkerId,Query,SelectedAppCount," + ",".join(f"App{n}" for n in range(9))
    first = "4,1,u9, invented query ,3,google chrome,google search,maps,,,,,,"
    empty = "5,1,u9, ,1,maps,,,,,,,,"
    (source / "mobile_queries.csv").write_text(f"{head}\n{first}\n{empty}\n", encoding="utf-8")
    main(["unimobile", str(source), str(out)])
    [row] = read_rows(out / "unimobile.jsonl")
    assert (row.user, row.order, row.text, row.label) == ("u9", 4, "invented query", "google search")
    assert row.labels == ("google search", "maps")


def test_hwu64_joins_the_folds_test_sets_and_names_labels_by_file(source: Path, out: Path) -> None:
    for fold in (1, 2, 10):
        folder = source / "CrossValidation" / "auto" / "CrossValidation" / f"KFold_{fold}" / "testset" / "csv"
        folder.mkdir(parents=True)
        text = (
            f"answerid;scenario;intent;answer_annotation;answer_from_anno;answer_from_user\n1;a;b;x;invented {fold};y\n"
        )
        (folder / "alarm_set.csv").write_text(text, encoding="utf-8")
    main(["hwu64", str(source), str(out)])
    rows = read_rows(out / "hwu64.jsonl")
    assert [row.text for row in rows] == ["invented 1", "invented 2", "invented 10"]
    assert [row.split for row in rows] == ["test", "train", "train"]
    assert {(row.user, row.label) for row in rows} == {("", "alarm_set")}


def test_sgd_keeps_the_turns_that_open_an_intent(source: Path, out: Path) -> None:
    def turn(speaker: str, said: str, intent: str) -> dict[str, Any]:
        state = {"state": {"active_intent": intent}} if speaker == "USER" else {}
        return {"speaker": speaker, "utterance": said, "frames": [{"service": "Taxis_2"} | state]}

    turns = [
        turn("USER", "one", "Ride"), turn("SYSTEM", "yes?", ""), turn("USER", "two", "Ride"),
        turn("USER", "three", "NONE"), turn("USER", "four", "Ride"), turn("USER", "five", "Share"),
    ]  # fmt: skip
    (source / "dev").mkdir()
    (source / "dev" / "dialogues_001.json").write_text(json.dumps([{"turns": turns}]), encoding="utf-8")
    main(["sgd", str(source), str(out)])
    rows = read_rows(out / "sgd.jsonl")
    assert [(row.text, row.labels) for row in rows] == [
        ("one", ("Taxis", "Ride")), ("four", ("Taxis", "Ride")), ("five", ("Taxis", "Share")),
    ]  # fmt: skip
    assert {row.split for row in rows} == {"valid"}


def test_ml_100k_gives_choices_and_items_with_their_genres(source: Path, out: Path) -> None:
    (source / "u.data").write_text("7\t3\t5\t880000000\n", encoding="ascii")
    flags = "|".join("1" if n in (1, 8) else "0" for n in range(19))
    (source / "u.item").write_bytes(f"3|Café (1990)|01-Jan-1990||http://x|{flags}\n".encode("latin-1"))
    main(["ml-100k", str(source), str(out)])
    assert lines(out / "ml-100k.jsonl") == [
        {"user": "7", "ts": 880000000, "item": "3", "value": 5.0, "context": {}, "split": ""}
    ]
    assert lines(out / "ml-100k_items.jsonl") == [{"item": "3", "text": "Café (1990). Genres: Action, Drama"}]


def test_frappe_gives_choices_in_context_a_fifth_of_them_to_measure_on(source: Path, out: Path) -> None:
    (source / "data" / "frappe").mkdir(parents=True)
    rows = [f"7,{n % 3},{n + 1},evening,friday" for n in range(2000)]
    text = "\n".join(["user,item,cnt,daytime,weekday", *rows])
    (source / "data" / "frappe" / "frappe.csv").write_text(text, encoding="utf-8")
    main(["frappe", str(source), str(out)])
    found = lines(out / "frappe.jsonl")
    context = {"daytime": "evening", "weekday": "friday"}
    assert {**found[4], "split": ""} == {
        "user": "7", "ts": None, "item": "1", "value": 5, "context": context, "split": "",
    }  # fmt: skip
    share = {split: sum(row["split"] == split for row in found) / 2000 for split in ("train", "valid", "test")}
    assert share == pytest.approx({"train": 0.7, "valid": 0.1, "test": 0.2}, abs=0.03)
    assert len(read_choices(out / "frappe.jsonl")) == 2000
    assert read_items(out / "frappe_items.jsonl") == {str(app): f"app {app}" for app in range(3)}
    main(["frappe", str(source), str(out / "again")])
    assert (out / "again" / "frappe.jsonl").read_bytes() == (out / "frappe.jsonl").read_bytes()


def test_locomo_keeps_sessions_in_order_and_only_evidence_that_there_is(source: Path, out: Path) -> None:
    talk = {
        "session_10": [{"speaker": "B", "dia_id": "D10:1", "text": "later"}], "session_10_date_time": "then",
        "session_2": [{"speaker": "A", "dia_id": "D2:1", "text": "look", "blip_caption": "a hat"}],
        "session_2_date_time": "now", "speaker_a": "A",
    }  # fmt: skip
    qa = [{"question": "q?", "answer": 3, "evidence": ["D2:1; D10:1", "D9:9"], "category": 1}]
    (source / "data").mkdir()
    whole = [{"sample_id": "c", "conversation": talk, "qa": qa}]
    (source / "data" / "locomo10.json").write_text(json.dumps(whole), encoding="utf-8")
    main(["locomo", str(source), str(out)])
    [one] = lines(out / "locomo.jsonl")
    assert [turn["id"] for turn in one["memory"]] == ["D2:1", "D10:1"]
    assert one["memory"][0] == {"id": "D2:1", "speaker": "A", "time": "now", "text": "look [image: a hat]"}
    assert one["queries"] == [{"q": "q?", "answer": 3, "evidence": ["D2:1", "D10:1"], "category": 1}]


def test_friendsqa_makes_a_season_a_conversation_and_a_scene_a_session(source: Path, out: Path) -> None:
    def scene(title: str, *said: tuple[str, str], asked: tuple[int, ...] = ()) -> Row:
        utterances = [
            {"uid": n, "speakers": [who] if who else [], "utterance": text} for n, (who, text) in enumerate(said)
        ]
        answers = [{"utterance_id": uid, "answer_text": "it"} for uid in asked]
        qas = [{"question": "Is n't it ?", "answers": answers}]
        return {"title": title, "paragraphs": [{"utterances:": utterances, "qas": qas}]}

    (source / "dat").mkdir()
    late = scene("s02_e22_c02", ("#NOTE#", "[ noise ]"), ("Ada B", " "), ("Ada B", "I 'll go ."), asked=(2, 1))
    scenes = [late, scene("s02_e22_c01", ("Bo C", "Hi !")), scene("s01_e22_c01", ("", "x"))]
    for part, its in (("dev", scenes), ("tst", [scene("s01_e23_c01", ("Bo C", "y"))])):
        (source / "dat" / f"friendsqa_{part}.json").write_text(json.dumps({"data": its}), encoding="utf-8")
    main(["friendsqa", str(source), str(out)])
    one, two, three = lines(out / "friendsqa.jsonl")
    assert [its["conv"] for its in (one, two, three)] == ["dev-s01", "dev-s02", "tst-s01"]
    assert two["memory"] == [
        {"id": "s02_e22_c01:0", "speaker": "Bo", "time": 0, "text": "Hi!"},
        {"id": "s02_e22_c02:0", "speaker": "", "time": 86_400, "text": "[ noise ]"},
        {"id": "s02_e22_c02:2", "speaker": "Ada", "time": 86_440, "text": "I'll go."},
    ]
    assert two["queries"][1] == {"q": "Isn't it?", "answer": "it", "evidence": ["s02_e22_c02:2"], "category": 1}


@pytest.mark.parametrize("name", CONVERTERS)
def test_a_folder_that_is_not_the_download_is_said_so(
    name: str, source: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main([name, str(source), str(out)])
    assert left.value.code == 2
    assert str(source) in capsys.readouterr().err
    assert not out.exists()
