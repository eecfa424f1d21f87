"""Transcripts of `tacit model migrate`, and what a device and a run make of its file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.model.catalogue import Catalogue, Label
from engine.model.checkpoint import Checkpoint, start_checkpoint

Call = Callable[..., Any]


@pytest.fixture
def old(tmp_path: Path, encoder: Any) -> Path:
    """A model of three labels."""
    catalogue = Catalogue.from_names(["taxi", "pizza", "opera"], title="town")
    start_checkpoint(catalogue, encoder).save(tmp_path / "old.safetensors")
    return tmp_path / "old.safetensors"


@pytest.fixture
def wanted(tmp_path: Path) -> Path:
    """Taxi has another name, opera is gone, a spa is new."""
    path = tmp_path / "next.json"
    labels = [
        {"name": "spa", "description": "massage [bold]and sauna"},
        {"name": "cab", "was": "taxi"},
        {"name": "pizza"},
    ]
    path.write_text(json.dumps({"title": "town 2", "labels": labels}), encoding="utf-8")
    return path


def test_table_says_what_became_of_each_label(tacit: Call, old: Path, wanted: Path, tmp_path: Path) -> None:
    done = tacit(["model", "migrate", old, "--catalogue", wanted, "--out", tmp_path / "new"])
    assert done.code == 0, done.err
    lines = [re.sub(r"\s+", " ", line).strip() for line in done.out.splitlines() if line.strip(" ─")]
    assert lines == [
        "label before",
        "spa new",
        "cab renamed taxi",
        "pizza kept",
        "removed opera",
        "Version 1 to 2: 1 kept, 1 renamed, 1 new, 1 removed.",
        f"Wrote {tmp_path / 'new'}: from the label names, no round yet, 3 labels (town 2, version 2).",
    ]
    new = Checkpoint.load(tmp_path / "new")
    assert new.catalogue.names == ("spa", "cab", "pizza")
    assert new.catalogue.labels[1] == Label(name="cab", was=("taxi",))


def test_json_says_the_same(tacit: Call, old: Path, wanted: Path, tmp_path: Path) -> None:
    done = tacit(["model", "migrate", old, "--catalogue", wanted, "--out", tmp_path / "new", "--json"])
    told = json.loads(done.out)
    assert told.pop("model")["catalogue_version"] == 2
    assert told == {
        "version_before": 1,
        "renamed": [{"name": "cab", "was": "taxi"}],
        "new": ["spa"],
        "removed": ["opera"],
    }


def test_checkpoint_is_replaced_where_it_is_named_itself_and_no_other_file_is(
    tacit: Call, old: Path, wanted: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_text("mine", encoding="utf-8")
    refused = tacit(["model", "migrate", old, "--catalogue", wanted, "--out", other])
    assert refused.code == 2
    assert "There is a file at" in refused.err
    assert other.read_text(encoding="utf-8") == "mine"
    assert tacit(["model", "migrate", old, "--catalogue", wanted, "--out", old]).code == 0
    assert Checkpoint.load(old).catalogue.version == 2
    content = old.read_bytes()
    again = tacit(["model", "migrate", old, "--catalogue", wanted, "--out", old])
    assert (again.code, again.out) == (22, "")
    assert again.err.count("\n") == 1
    assert "nothing to migrate" in again.err
    assert old.read_bytes() == content


@pytest.mark.parametrize(
    ("catalogue", "says"),
    [
        (None, "Cannot read the catalogue"),
        ("{", "Not JSON"),
        ('{"labels": [{"name": "taxi"}, {"name": "cab", "was": "taxi"}]}', "'taxi', a former name of 'cab'"),
        ('{"labels": [{"name": "spa"}, {"name": "cab", "was": "tuk-tuk"}]}', "'cab' says that it was 'tuk-tuk'"),
        (
            '{"labels": [{"name": "spa"}, {"name": "cab", "was": ["taxi", "opera"]}]}',
            "would be both 'taxi' and 'opera'",
        ),
    ],
)
def test_catalogue_that_does_not_do_is_one_line(
    tacit: Call, old: Path, tmp_path: Path, catalogue: str | None, says: str
) -> None:
    path = tmp_path / "bad.json"
    if catalogue is not None:
        path.write_text(catalogue, encoding="utf-8")
    done = tacit(["model", "migrate", old, "--catalogue", path, "--out", tmp_path / "new"])
    assert (done.code, done.out, done.err.count("\n")) == (22, "", 1)
    assert says in done.err
    assert not (tmp_path / "new").exists()


def test_checkpoint_that_does_not_do_is_one_line(tacit: Call, old: Path, wanted: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_bytes(old.read_bytes()[:-3])
    for path in (damaged, tmp_path / "nothing", tmp_path):
        done = tacit(["model", "migrate", path, "--catalogue", wanted, "--out", tmp_path / "new"])
        assert (done.code, done.out, done.err.count("\n")) == (23, "", 1)
        assert path.name in done.err
    assert not (tmp_path / "new").exists()
    done = tacit(["model", "migrate", old, "--catalogue", wanted, "--out", tmp_path / "no folder" / "new"])
    assert (done.code, done.err.count("\n")) == (23, 1)
    assert "Cannot write" in done.err


def test_device_goes_forward_and_back_and_refuses_an_older_version(
    tacit: Call, device: Call, home: Path, encoder: Any, tmp_path: Path
) -> None:
    first = start_checkpoint(Catalogue.builtin(), encoder)
    first.save(tmp_path / "first")
    labels = [{"name": name} for name in Catalogue.builtin().names if name != "Curio museums"]
    labels.append({"name": "Luigi's [bold]table[/bold]"})  # Of a memory on the device: private so far.
    (tmp_path / "next.json").write_text(json.dumps({"title": "next", "labels": labels}), encoding="utf-8")
    done = tacit(
        ["model", "migrate", tmp_path / "first", "--catalogue", tmp_path / "next.json", "--out", tmp_path / "new"]
    )
    assert done.code == 0, done.err
    assert "1 of them private" in device("show").out
    used = device("model", "--use", tmp_path / "new")
    assert used.out == "Now in use: from the label names, no round yet, 32 labels (next, version 2).\n"
    assert "0 of them private" in device("show").out
    refused = device("model", "--use", tmp_path / "first")
    assert (refused.code, refused.out, refused.err.count("\n")) == (23, "", 1)
    assert "version 1 of the catalogue" in refused.err
    assert "--previous" in refused.err
    assert device("model", "--previous").code == 0
    assert "1 of them private" in device("show").out


@pytest.mark.slow
def test_simulation_goes_on_from_a_migrated_checkpoint(tacit: Call, tmp_path: Path) -> None:
    lines = [
        {"user": f"user-{n % 3}", "order": n, "text": f"{label} number {n}", "label": label}
        for n in range(75)
        for label in [("taxi", "pizza", "opera")[n % 7 % 3]]
    ]
    data, out = tmp_path / "people.jsonl", tmp_path / "run"
    data.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    labels = [{"name": "cab", "was": "taxi"}, {"name": "pizza"}, {"name": "opera"}, {"name": "spa"}]
    (tmp_path / "next.json").write_text(json.dumps({"labels": labels}), encoding="utf-8")
    run = ["simulate", "--mode", "open", "--data", data, "--out", out, "--rescorer-steps", "1"]
    checkpoint = out / "checkpoint.safetensors"
    assert tacit([*run, "--rounds", "2"]).code == 0
    done = tacit(["model", "migrate", checkpoint, "--catalogue", tmp_path / "next.json", "--out", checkpoint])
    assert done.code == 0, done.err
    went_on = tacit([*run, "--rounds", "3", "--resume", "--json"])
    assert went_on.code == 0, went_on.err
    rounds = json.loads(went_on.out)["rounds"]
    assert [one["round"] for one in rounds] == list(range(8))
    assert all(one["replies"] == 3 for one in rounds[1:])
    model = Checkpoint.load(checkpoint)
    assert (model.round, model.begun, model.catalogue.version) == (7, 3, 2)
    refused = tacit([*run, "--rounds", "4", "--resume"])
    assert refused.code == 5
    assert "other data or settings" in refused.err
