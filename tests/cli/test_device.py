"""Transcripts of `tacit device`: what each command prints, keeps and ends with."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.encoders.encoder import Encoder, default_encoder_path
from engine.model.catalogue import Catalogue
from engine.model.checkpoint import Checkpoint, start_checkpoint

Call = Callable[..., Any]


def as_json(outcome: Any) -> Any:
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


# create


def test_create_says_what_it_made_and_makes_a_key_of_mode_0600(tacit: Call, tmp_path: Path) -> None:
    folder, key = tmp_path / "new" / "phone", tmp_path / "key"
    made = tacit(["device", "create", folder, "--key-file", key])
    assert made.code == 0
    assert made.err == ""
    assert made.out == (
        f"Made a device in {folder}: 32 labels (built-in services), encoder all-MiniLM-L6-v2.\n"
        f"Its new key is in {key}: nobody can open it without.\n"
        "Federated rounds: none allowed.\n"
    )
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(key.read_bytes()) == 32


def test_create_with_a_key_that_is_there_keeps_it(tacit: Call, home: Path) -> None:
    before = (home / "key").read_bytes()
    made = tacit(["device", "create", home / "tablet", "--key-file", home / "key", "--allow-rounds", "open"])
    assert made.code == 0
    assert f"Its key is in {home / 'key'}: nobody can open it without.\n" in made.out
    assert made.out.endswith("Federated rounds: allowed (open: updates visible to the server).\n")
    assert (home / "key").read_bytes() == before


def test_create_takes_a_catalogue_and_prints_json(tacit: Call, tmp_path: Path) -> None:
    catalogue = tmp_path / "labels.json"
    catalogue.write_text('{"title": "two", "labels": [{"name": "taxi"}, {"name": "pizza"}]}', encoding="utf-8")
    args = ["device", "create", tmp_path / "phone", "--catalogue", catalogue, "--key-file", tmp_path / "key", "--json"]
    assert as_json(tacit(args)) == {
        "device": str(tmp_path / "phone"),
        "catalogue": "two",
        "labels": 2,
        "encoder": "all-MiniLM-L6-v2",
        "allowed_rounds": None,
        "key_file": str(tmp_path / "key"),
    }


def test_create_refuses_a_key_inside_the_folder(tacit: Call, one_line: Call, tmp_path: Path) -> None:
    made = tacit(["device", "create", tmp_path / "phone", "--key-file", tmp_path / "phone" / "key"])
    assert made.code == 18
    assert "inside the store's folder" in one_line(made)
    assert not (tmp_path / "phone").exists()


def test_create_on_a_device_is_refused_and_leaves_no_key(tacit: Call, one_line: Call, home: Path) -> None:
    made = tacit(["device", "create", home / "phone", "--key-file", home / "other key"])
    assert made.code == 14
    assert "There is a device at" in one_line(made)
    assert not (home / "other key").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{not json", "Not JSON"),
        ("[]", 'Expected an object with a list "labels".'),
        ('{"labels": [{"name": "taxi"}]}', "at least 2 labels"),
        ('{"labels": [{"name": "taxi"}, {"nome": "pizza"}]}', "Label 2"),
        (None, "Cannot read the catalogue"),
    ],
)
def test_create_with_a_malformed_catalogue_makes_nothing(
    tacit: Call, one_line: Call, tmp_path: Path, content: str | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / "labels.json").write_text(content, encoding="utf-8")
    args = ["--catalogue", tmp_path / "labels.json", "--key-file", tmp_path / "key"]
    made = tacit(["device", "create", tmp_path / "phone", *args])
    assert made.code == 22
    assert expected in one_line(made)
    assert not (tmp_path / "phone").exists()
    assert not (tmp_path / "key").exists()


def test_create_with_an_unknown_encoder_leaves_neither_device_nor_key(
    tacit: Call, one_line: Call, tmp_path: Path
) -> None:
    made = tacit(["device", "create", tmp_path / "phone", "--encoder", "./no such", "--key-file", tmp_path / "key"])
    assert made.code == 20
    assert "There is no encoder at ./no such." in one_line(made)
    assert not (tmp_path / "phone").exists()
    assert not (tmp_path / "key").exists()


# remember


def test_remember_with_a_public_label_says_the_id(device: Call) -> None:
    kept = device("remember", "a bowl of rice", "--label", "Lantern asian food delivery")
    assert (kept.code, kept.out, kept.err) == (0, "Remembered 1 memory: id 4.\n", "")


def test_remember_with_a_private_label_says_that_it_stays(device: Call) -> None:
    kept = device("remember", "feed the cat", "--label", "Tom next door")
    assert kept.out == (
        "Remembered 1 memory: id 4.\n'Tom next door' is not in the catalogue: it stays on this device.\n"
    )
    assert as_json(device("remember", "feed it again", "--label", "Tom next door", "--json")) == {
        "ids": [5],
        "private_labels": ["Tom next door"],
    }


def test_remember_file_keeps_what_its_lines_say_and_the_options_for_the_rest(device: Call, home: Path) -> None:
    lines = home / "more.jsonl"
    lines.write_text(
        '{"text": "one", "label": "Melody music", "user": "u", "order": 3, "labels": [], "split": "train"}\n\n'
        '{"text": "two", "label": null, "time": 5, "scope": "work", "purpose": "notes", "source": "import"}\n',
        encoding="utf-8",
    )
    kept = device("remember", "--file", lines, "--label", "Tom", "--scope", "home")
    assert kept.out == ("Remembered 2 memories: ids 4 to 5.\n'Tom' is not in the catalogue: it stays on this device.\n")
    first, second = as_json(device("show", "--memories", "--json"))["listed"][3:]
    assert (first["label"], first["scope"], first["purpose"], first["source"]) == (
        "Melody music",
        "home",
        "personalization",
        "user",
    )
    assert second == {
        "id": 5,
        "text": "two",
        "label": "Tom",
        "time": 5.0,
        "scope": "work",
        "purpose": "notes",
        "source": "import",
    }


def test_remember_a_long_file_shows_progress_on_standard_error(device: Call, home: Path) -> None:
    lines = home / "long.jsonl"
    lines.write_text("".join(f'{{"text": "note {i}", "label": "own {i % 12}"}}\n' for i in range(70)), "utf-8")
    kept = device("remember", "--file", lines)
    assert kept.err == "Encoding 70 texts …\n"
    told = kept.out.splitlines()
    assert told[0] == "Remembered 70 memories: ids 4 to 73."
    assert told[-1] == "2 more labels of this kind: they stay on this device."
    assert len(told) == 12


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ('{"text": "b", ', "Line 2: Not JSON"),
        ("[1]", "Line 2: Expected a JSON object, got list."),
        ('{"label": "x"}', "Line 2: Expected a string in 'text'."),
        ('{"text": "  "}', "Line 2: Expected 'text' as text that is not empty."),
        ('{"text": 5}', "Line 2: Expected 'text' as text"),
        ('{"text": "b", "label": 7}', "Line 2: Expected 'label' as text"),
        ('{"text": "b", "lable": "x"}', "Line 2: Unknown field 'lable'"),
        ('{"text": "b", "time": "now"}', "Line 2: Expected time as finite Unix seconds"),
        ('{"text": "b", "time": true}', "Line 2: Expected time as finite Unix seconds"),
        ('{"text": "b", "time": 1e999}', "Line 2: Expected time as finite Unix seconds"),
        ('{"text": "b", "time": ' + "9" * 5000 + "}", "Line 2: Not JSON that can be read"),
        ("[" * 100_000, "Line 2: Not JSON that can be read"),
        ('{"text": "\\ud800"}', "Line 2: Expected text in valid Unicode"),
        ('{"text": "b", "label": "' + "x" * 1001 + '"}', "Line 2: Expected label as text of 1 to 1000 characters"),
        (b'{"text": "\xff"}', "Line 2: Not UTF-8 text."),
    ],
)
def test_remember_file_names_a_malformed_line_and_keeps_none(
    device: Call, one_line: Call, home: Path, bad: str | bytes, expected: str
) -> None:
    lines = home / "bad.jsonl"
    second = bad if isinstance(bad, bytes) else bad.encode()
    lines.write_bytes(b'{"text": "a fine line"}\n' + second + b'\n{"text": "another"}\n')
    kept = device("remember", "--file", lines)
    assert kept.code == 3
    assert expected in one_line(kept)
    assert one_line(kept).endswith("Nothing was remembered.")
    assert as_json(device("show", "--json"))["memories"] == 3


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_remember_an_empty_file_is_an_error(device: Call, one_line: Call, home: Path, content: str) -> None:
    (home / "empty.jsonl").write_text(content, encoding="utf-8")
    kept = device("remember", "--file", home / "empty.jsonl")
    assert kept.code == 3
    assert "holds no memories" in one_line(kept)


def test_remember_a_missing_file_is_an_error(device: Call, one_line: Call, home: Path) -> None:
    kept = device("remember", "--file", home / "none.jsonl")
    assert kept.code == 3
    assert "No such file" in one_line(kept)


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["a text", "--file", "x.jsonl"],
        ["   "],
        ["a\udcff text"],
        ["a text", "--label", ""],
        ["a text", "--label", "x" * 1001],
        ["a text", "--colour", "red"],
        ["a text", "--passphrase", "secret"],
    ],
)
def test_remember_called_wrongly_is_status_2(device: Call, one_line: Call, args: list[str]) -> None:
    kept = device("remember", *args)
    assert kept.code == 2
    one_line(kept)


# suggest and search


def test_suggest_shows_label_probability_source_and_the_memories_behind(device: Call) -> None:
    shown = device("suggest", "salad at my desk", "-k", "2")
    assert shown.code == 0
    assert shown.err == ""
    heads, first = [line for line in shown.out.splitlines() if line.strip(" ─")][:2]
    assert heads.split() == ["label", "probability", "source", "because", "of"]
    assert first.startswith(" Greenbowl healthy meals")
    assert "%" in first
    assert "1: two salads to the office please" in first


def test_suggest_cautious_ranks_the_shared_answer_higher(device: Call) -> None:
    def asked(text: str, *options: str) -> list[tuple[str, float]]:
        shown = json.loads(device("suggest", text, "-k", "99", "--json", *options).out)
        return [(one["label"], one["probability"]) for one in shown["suggestions"]]

    differ = []
    for text in ("something for lunch", "my desk", "the office", "please", "two of them"):
        free, cautious = asked(text), asked(text, "--cautious")
        assert dict(free) == dict(cautious)  # The same probabilities, in another order.
        differ.append(free != cautious)
    assert any(differ)


def test_suggest_says_plainly_that_it_does_not_know(device: Call) -> None:
    fresh = as_json(device("suggest", "asdf jkl", "--json"))
    assert (fresh["known"], fresh["scope"]["threshold"]) == (True, None)  # Too few memories to refuse anything.
    for text in ("two salads to the office", "a salad for lunch", "a light lunch at my desk", "salad again", "a salad"):
        device("remember", text, "--label", "Greenbowl healthy meals")
    shown, answer = device("suggest", "asdf jkl"), as_json(device("suggest", "asdf jkl", "--json"))
    assert shown.code == 0
    assert shown.out.splitlines()[0].startswith("I do not know: ")
    assert answer["known"] is False
    assert answer["scope"]["score"] < answer["scope"]["threshold"]
    assert len(answer["suggestions"]) == 3
    known = device("suggest", "a salad for lunch")
    assert "I do not know" not in known.out
    assert as_json(device("suggest", "a salad for lunch", "--json"))["known"] is True


def test_suggest_json_marks_private_labels(device: Call) -> None:
    device("remember", "corner table on friday again", "--label", "Luigi's [bold]table[/bold]")
    answer = as_json(device("suggest", "the corner table on friday", "-k", "3", "--json"))
    assert [suggestion["private"] for suggestion in answer["suggestions"]].count(True) == 1
    private = next(suggestion for suggestion in answer["suggestions"] if suggestion["private"])
    assert private["label"] == "Luigi's [bold]table[/bold]"
    assert private["source"] == "personal"
    assert {memory["id"] for memory in private["because"]} == {2, 4}
    assert all(0 <= suggestion["probability"] <= 1 for suggestion in answer["suggestions"])
    assert answer["model"]["round"] == 0


def test_tables_show_markup_and_control_characters_as_plain_text(device: Call) -> None:
    device("remember", "red \x1b[31m [red]alert[/red]", "--label", "Tom\x07")
    shown = device("show", "--memories")
    assert "[bold]table[/bold]" in shown.out
    assert "[red]alert[/red]" in shown.out
    assert not set(shown.out) & {"\x1b", "\x07"}


def test_search_finds_by_meaning_scope_and_purpose(device: Call) -> None:
    found = as_json(device("search", "where is the key to the door?", "-k", "2", "--json"))["memories"]
    assert found[0]["id"] == 3
    assert len(found) == 2
    assert found[0]["time"] == 1700000000.0
    only = as_json(device("search", "lunch", "--scope", "home", "--json"))["memories"]
    assert [memory["id"] for memory in only] == [3]
    assert device("search", "lunch", "--purpose", "nothing").out == "No memory found.\n"
    shown = device("search", "where is the key to the door?")
    assert "the spare key lies under the blue pot" in shown.out


@pytest.mark.parametrize("name", ["suggest", "search"])
@pytest.mark.parametrize("args", [["text", "-k", "0"], ["text", "-k", "many"], [" "], [], ["a\udcff"]])
def test_suggest_and_search_called_wrongly_are_status_2(
    device: Call, one_line: Call, name: str, args: list[str]
) -> None:
    asked = device(name, *args)
    assert asked.code == 2
    one_line(asked)


# forget


def test_forget_asks_and_forgets(device: Call) -> None:
    gone = device("forget", "1", "3", "1", input="y\n", terminal=True)
    assert gone.code == 0
    assert gone.out == "Forgot 2 memories; 1 left.\n"
    assert "two salads to the office please" in gone.err
    assert "Forget 2 memories for good?" in gone.err
    found = as_json(device("search", "salad", "--json"))["memories"]
    assert [memory["id"] for memory in found] == [2]


def test_forget_with_the_answer_no_forgets_nothing(device: Call) -> None:
    kept = device("forget", "1", input="n\n", terminal=True)
    assert kept.code == 1
    assert kept.err.endswith("Error: Not confirmed: nothing was forgotten.\n")
    assert as_json(device("show", "--json"))["memories"] == 3


def test_forget_where_nobody_can_be_asked_needs_yes(device: Call, one_line: Call) -> None:
    kept = device("forget", "1", input="y\n")
    assert kept.code == 2
    assert "--yes" in one_line(kept)
    assert as_json(device("forget", "1", "--yes", "--json")) == {"forgotten": [1], "memories": 2}


@pytest.mark.parametrize(("more", "terminal"), [(["--yes"], False), ([], True)])
def test_forget_with_a_missing_id_forgets_none(device: Call, one_line: Call, more: list[str], terminal: bool) -> None:
    kept = device("forget", "99", "1", *more, terminal=terminal)
    assert kept.code == 17
    assert "99" in one_line(kept)
    assert as_json(device("show", "--json"))["memories"] == 3


@pytest.mark.parametrize("args", [[], ["0"], ["one"]])
def test_forget_called_wrongly_is_status_2(device: Call, one_line: Call, args: list[str]) -> None:
    kept = device("forget", *args, "--yes")
    assert kept.code == 2
    one_line(kept)


# show, allow-rounds


def test_show_counts_memories_labels_and_private_ones(device: Call, home: Path) -> None:
    shown = device("show")
    assert shown.out.startswith(
        f"Device:   {home / 'phone'}\n"
        "Memories: 3, 2 of them with a label\n"
        "Labels:   2 used, 1 of them private; 32 in the catalogue\n"
        "Encoder:  all-MiniLM-L6-v2\n"
        "Model:    from the label names, no round yet, 32 labels (built-in services)\n"
        "Rounds:   none allowed\n"
    )
    assert "the spare key" not in shown.out
    listed = device("show", "--memories")
    assert "the spare key lies under the blue pot" in listed.out
    assert "home" in listed.out


def test_show_json_lists_labels_by_count(device: Call) -> None:
    device("remember", "another salad", "--label", "Greenbowl healthy meals")
    shown = as_json(device("show", "--json"))
    assert shown["labels"] == [
        {"label": "Greenbowl healthy meals", "memories": 2, "private": False},
        {"label": "Luigi's [bold]table[/bold]", "memories": 1, "private": True},
    ]
    assert shown["allowed_rounds"] is None
    assert "listed" not in shown


def test_allow_rounds_is_kept_and_taken_back(device: Call, one_line: Call) -> None:
    allowed = device("allow-rounds", "open")
    assert allowed.out == "Federated rounds: allowed (open: updates visible to the server).\n"
    assert as_json(device("show", "--json"))["allowed_rounds"] == "open"
    assert as_json(device("allow-rounds", "none", "--json")) == {"allowed_rounds": None}
    assert as_json(device("show", "--json"))["allowed_rounds"] is None
    wrong = device("allow-rounds", "secret")
    assert wrong.code == 2
    one_line(wrong)


# model


@pytest.fixture
def trained(home: Path, encoder: Encoder) -> Path:
    """A checkpoint of round 7 that always answers its first label."""
    start = start_checkpoint(Catalogue.from_names(["taxi", "pizza"], title="two"), encoder)
    flat = start.flat.reshape(2, -1).copy()
    flat[:, -1] = (50, 0)
    checkpoint = Checkpoint(
        flat=np.ascontiguousarray(flat.reshape(-1)),
        dimension=start.dimension,
        encoder=start.encoder,
        catalogue=start.catalogue,
        round=7,
        title="generated population",
    )
    checkpoint.save(home / "round-7.safetensors")
    return home / "round-7.safetensors"


def test_model_use_is_what_suggest_uses_and_previous_goes_back(device: Call, trained: Path) -> None:
    assert device("model").out == "In use: from the label names, no round yet, 32 labels (built-in services).\n"
    used = device("model", "--use", trained)
    assert used.out == "Now in use: after round 7 (generated population), 2 labels (two).\n"
    suggested = device("suggest", "anything at all")
    assert suggested.out.endswith("The model is of a generated population.\n")
    first = as_json(device("suggest", "anything at all", "-k", "1", "--json"))
    assert first["suggestions"][0]["label"] == "taxi"
    assert first["model"]["generated_population"] is True
    back = as_json(device("model", "--previous", "--json"))
    assert back == {
        "changed": True,
        "round": 0,
        "title": "",
        "generated_population": False,
        "catalogue": "built-in services",
        "labels": 32,
        "catalogue_version": 1,
    }
    assert as_json(device("model", "--json"))["changed"] is False


def test_model_previous_without_one_is_an_error(device: Call, one_line: Call) -> None:
    back = device("model", "--previous")
    assert back.code == 23
    assert "no earlier model" in one_line(back)


def test_model_use_and_previous_exclude_each_other(device: Call, one_line: Call, trained: Path) -> None:
    both = device("model", "--use", trained, "--previous")
    assert both.code == 2
    one_line(both)


def test_model_use_refuses_what_is_missing_damaged_or_of_another_encoder(
    device: Call, one_line: Call, home: Path, trained: Path, toy: Encoder
) -> None:
    missing = device("model", "--use", home / "none")
    assert missing.code == 23
    one_line(missing)
    content = bytearray(trained.read_bytes())
    content[-5] ^= 1
    trained.write_bytes(bytes(content))
    damaged = device("model", "--use", trained)
    assert damaged.code == 23
    assert "damaged" in one_line(damaged)
    start_checkpoint(Catalogue.from_names(["a", "b"]), toy).save(trained)
    other = device("model", "--use", trained)
    assert other.code == 21
    one_line(other)
    assert as_json(device("model", "--json"))["round"] == 0


# evaluate


def test_evaluate_prints_both_accuracies_and_what_flatters_them(device: Call, home: Path) -> None:
    rows = home / "rows.jsonl"
    rows.write_text(
        '{"text": "two salads to the office please", "label": "Greenbowl healthy meals"}\n'
        '{"text": "play my favourite songs", "label": "Melody music"}\n'
        '{"text": "water the plants", "label": "Nobody knows this"}\n',
        encoding="utf-8",
    )
    measured = as_json(device("evaluate", rows, "--json"))
    assert measured["rows"] == 3
    assert measured["rows_in_memory"] == 1
    assert measured["rows_with_unknown_label"] == 1
    assert measured["global"]["accuracy"] == pytest.approx(2 / 3)
    assert measured["personal"]["accuracy"] == pytest.approx(2 / 3)
    shown = device("evaluate", rows)
    assert "3 rows of rows.jsonl" in shown.out
    assert shown.out.count("0.667") == 2
    assert "In memory word for word: 1 row; that flatters the personalized figure." in shown.out
    assert "does not know: 1 row, counted as wrong." in shown.out


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"text": "a", "label": "b"}\n{"text": "a"}\n', "Line 2"),
        ("", "holds no rows"),
        (None, "No such file"),
        ('{"text": "\\ud800", "label": "b"}\n', "valid Unicode"),
    ],
)
def test_evaluate_refuses_a_bad_file(
    device: Call, one_line: Call, home: Path, content: str | None, expected: str
) -> None:
    if content is not None:
        (home / "rows.jsonl").write_text(content, encoding="utf-8")
    measured = device("evaluate", home / "rows.jsonl")
    assert measured.code == 3
    assert expected in one_line(measured)


# reencode


def test_reencode_gives_all_memories_new_vectors_and_the_device_opens_with_them(device: Call, home: Path) -> None:
    # The same encoder named as a folder: to Tacit another one, with a fingerprint of its own.
    folder = default_encoder_path()
    done = device("reencode", "--encoder", folder)
    assert done.out == (
        f"Encoded 3 memories again with {folder.resolve()}. The model starts again from the label names.\n"
    )
    found = as_json(device("search", "salad for lunch", "-k", "1", "--json"))["memories"]
    assert found[0]["id"] == 1
    assert as_json(device("show", "--json"))["encoder"] == str(folder.resolve())


def test_reencode_with_an_unknown_encoder_changes_nothing(device: Call, one_line: Call) -> None:
    done = device("reencode", "--encoder", "./no such")
    assert done.code == 20
    one_line(done)
    assert as_json(device("show", "--json"))["encoder"] == "all-MiniLM-L6-v2"


# What holds for each command


EVERY = [
    ("remember", ["text"]),
    ("suggest", ["text"]),
    ("search", ["text"]),
    ("forget", ["1", "--yes"]),
    ("show", []),
    ("model", []),
    ("evaluate", ["lines.jsonl"]),
    ("reencode", ["--encoder", "all-MiniLM-L6-v2"]),
    ("allow-rounds", ["none"]),
]


@pytest.mark.parametrize(("name", "args"), EVERY)
def test_every_command_says_in_one_line_that_there_is_no_device(
    tacit: Call, one_line: Call, filled: Path, tmp_path: Path, name: str, args: list[str]
) -> None:
    rows = tmp_path / "lines.jsonl"
    rows.write_text('{"text": "a", "label": "b"}\n', encoding="utf-8")
    given = [str(rows) if arg == "lines.jsonl" else arg for arg in args]
    asked = tacit(["device", name, tmp_path / "nothing", *given, "--key-file", filled / "key"])
    assert asked.code == 15
    assert "There is no device at" in one_line(asked)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(("name", "args"), [("create", []), *EVERY])
def test_every_command_refuses_an_empty_path_and_an_unknown_option(
    tacit: Call, one_line: Call, tmp_path: Path, name: str, args: list[str]
) -> None:
    empty = tacit(["device", name, "", *args, "--key-file", tmp_path / "key"])
    assert empty.code == 2
    assert "PATH" in one_line(empty)
    unknown = tacit(["device", name, tmp_path, *args, "--no-such-option"])
    assert unknown.code == 2
    assert "--no-such-option" in one_line(unknown)


def test_a_file_in_the_place_of_the_folder_is_no_device(tacit: Call, one_line: Call, home: Path) -> None:
    asked = tacit(["device", "show", home / "key", "--key-file", home / "key"])
    assert asked.code == 15
    one_line(asked)


@pytest.mark.parametrize("keep", [0, 0.3, 0.6])
def test_a_truncated_store_is_an_error_of_its_own(device: Call, one_line: Call, home: Path, keep: float) -> None:
    store = home / "phone" / "memory.tacit"
    content = store.read_bytes()
    store.write_bytes(content[: int(len(content) * keep)])
    shown = device("show", "--memories")
    assert shown.code == 11
    assert "restore it from a backup" in one_line(shown)


def test_a_file_that_is_no_store_is_an_error_of_its_own(device: Call, one_line: Call, home: Path) -> None:
    (home / "phone" / "memory.tacit").write_bytes(b"not a database, and long enough to tell\n" * 99)
    shown = device("show")
    assert shown.code == 13
    one_line(shown)


def test_an_error_after_debug_shows_where_it_came_from(tacit: Call, tmp_path: Path) -> None:
    shown = tacit(["--debug", "device", "show", tmp_path])
    assert shown.code == 15
    assert "Traceback (most recent call last)" in shown.err
    assert shown.err.splitlines()[-1].startswith("Error: There is no device at")


def test_two_copies_of_a_device_open_with_the_same_key(device: Call, tacit: Call, home: Path) -> None:
    shutil.copytree(home / "phone", home / "copy")
    assert as_json(tacit(["device", "show", home / "copy", "--key-file", home / "key", "--json"]))["memories"] == 3


THREADS = """
import os, sys
from federation.cli.device import command
assert "numpy" not in sys.modules  # The number is read when a matrix library is loaded, so it has to stand before.
try:
    command(["show", sys.argv[1]], standalone_mode=False)
except Exception:
    pass
print(os.environ["OMP_NUM_THREADS"])
"""


@pytest.mark.parametrize(("given", "wanted"), [(None, "1"), ("3", "3")])
def test_arrays_of_one_person_are_reckoned_on_one_thread_unless_the_environment_says_otherwise(
    tmp_path: Path, given: str | None, wanted: str
) -> None:
    here = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    here |= {} if given is None else {"OMP_NUM_THREADS": given}
    asked = [sys.executable, "-c", THREADS, str(tmp_path / "none")]
    done = subprocess.run(asked, env=here, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    assert done.stdout.split()[-1] == wanted
