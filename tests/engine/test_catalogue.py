"""Catalogues: what is refused and how the refusal names it, and what the fingerprint notices."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import CatalogueError
from engine.model.catalogue import Catalogue, Label

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda name: bool(name.strip()))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "Not JSON"),
        ("{", "Not JSON"),
        ('{\n"labels": [\n,]}', "line 3"),
        ("[]", 'a list "labels"'),
        ("null", 'a list "labels"'),
        ("{}", 'a list "labels"'),
        ('{"labels": {"name": "a"}}', 'a list "labels"'),
        ('{"labels": []}', "at least 2 labels"),
        ('{"labels": [{"name": "a"}]}', "at least 2 labels"),
        ('{"labels": [{"name": "a"}, "b"]}', "Label 2"),
        ('{"labels": [{"name": "a"}, {}]}', "Label 2"),
        ('{"labels": [{"name": 1}, {"name": "b"}]}', "Label 1"),
        ('{"labels": [{"name": "a"}, {"name": null}]}', "Label 2"),
        ('{"labels": [{"name": "a"}, {"name": "b", "description": 3}]}', "'description'"),
        ('{"labels": [{"name": "a"}, {"name": "b", "domain": []}]}', "'domain'"),
        ('{"labels": [{"name": "a"}, {"name": "b", "colour": "red"}]}', "'colour'"),
        ('{"labels": [{"name": "a"}, {"name": " "}]}', "not empty"),
        ('{"labels": [{"name": "a"}, {"name": ""}]}', "not empty"),
        ('{"labels": [{"name": "a"}, {"name": "\\ud800"}]}', "lone surrogate"),
        ('{"labels": [{"name": "a"}, {"name": "b", "was": 3}]}', "Label 2"),
        ('{"labels": [{"name": "a"}, {"name": "b", "was": ["c", 3]}]}', "former names"),
        ('{"labels": [{"name": "a"}, {"name": "b", "was": " "}]}', "not empty"),
        ('{"labels": [{"name": "a"}, {"name": "b", "was": "\\ud800"}]}', "lone surrogate"),
        ('{"labels": [{"name": "a"}, {"name": "b", "was": "a"}]}', "'a', a former name of 'b', is also a name of 'a'"),
        ('{"labels": [{"name": "a", "was": "c"}, {"name": "b", "was": "c"}]}', "'c', a former name of 'b'"),
        ('{"version": 0, "labels": [{"name": "a"}, {"name": "b"}]}', '"version", got 0'),
        ('{"version": "2", "labels": [{"name": "a"}, {"name": "b"}]}', '"version", got "2"'),
        ('{"version": true, "labels": [{"name": "a"}, {"name": "b"}]}', '"version", got true'),
        ('{"parent": 3, "labels": [{"name": "a"}, {"name": "b"}]}', '"parent"'),
        ('{"origin": "x", "labels": [{"name": "a"}, {"name": "b"}]}', "32 hexadecimal digits"),
        ("[" * 100_000, "nested too deeply"),
        ("1" * 5_000, "number too long"),
        ('{"labels": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}', "'a' stands twice"),
    ],
)
def test_malformed_file_is_refused_and_file_and_fault_are_named(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "services.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CatalogueError) as refusal:
        Catalogue.from_file(path)
    assert "services.json" in str(refusal.value)
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"nothing\.json.*No such file"):
        Catalogue.from_file(tmp_path / "nothing.json")
    with pytest.raises(CatalogueError, match="directory"):
        Catalogue.from_file(tmp_path)


def test_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "latin.json"
    path.write_bytes(b'{"labels": [{"name": "caf\xe9"}, {"name": "bar"}]}')
    with pytest.raises(CatalogueError, match=r"latin\.json is not UTF-8"):
        Catalogue.from_file(path)


@pytest.mark.parametrize("names", [[], ["alone"]])
def test_fewer_than_two_labels_are_refused(names: list[str]) -> None:
    with pytest.raises(CatalogueError, match="at least 2"):
        Catalogue.from_names(names)


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(CatalogueError, match="'taxi' stands twice"):
        Catalogue.from_names(["taxi", "pizza", "taxi"])


@given(
    st.lists(st.builds(Label, name=NAMES, description=TEXTS, domain=TEXTS), min_size=2, unique_by=lambda x: x.name),
    TEXTS,
)
def test_catalogue_survives_its_file(labels: list[Label], title: str) -> None:
    catalogue = Catalogue(labels=tuple(labels), title=title)
    again = Catalogue.from_json(catalogue.to_json())
    assert again == catalogue
    assert again.fingerprint == catalogue.fingerprint
    assert [again.index(label.name) for label in labels] == list(range(len(labels)))


def test_fingerprint_is_pinned(catalogue: Catalogue) -> None:
    assert catalogue.fingerprint == Catalogue.from_json(catalogue.to_json()).fingerprint
    # Written down, so that a change of it (every model would be refused) cannot slip in.
    assert Catalogue.from_names(["a", "b"]).fingerprint == "75c149bb989d3709828a8b6df22507d8"


def test_fingerprint_changes_with_every_field_and_with_the_order(catalogue: Catalogue) -> None:
    first, *rest = catalogue.labels
    others = [
        Catalogue(labels=(*rest, first), title=catalogue.title),
        Catalogue(labels=tuple(rest), title=catalogue.title),
        Catalogue(labels=(dataclasses.replace(first, name="cab"), *rest), title=catalogue.title),
        Catalogue(labels=(dataclasses.replace(first, description="x"), *rest), title=catalogue.title),
        Catalogue(labels=(dataclasses.replace(first, domain="x"), *rest), title=catalogue.title),
    ]
    assert len({catalogue.fingerprint, *(other.fingerprint for other in others)}) == len(others) + 1


def test_index_of_an_unknown_label_is_an_error(catalogue: Catalogue) -> None:
    assert catalogue.index("pizza") == 2
    assert "pizza" in catalogue
    assert "piz" not in catalogue
    assert None not in catalogue
    with pytest.raises(CatalogueError, match="'cinema' is not in the catalogue"):
        catalogue.index("cinema")


def test_meaning_reads_as_words_and_description() -> None:
    assert Label(name="night_bus").meaning == "night bus"
    assert Label(name="night_bus", description="rides at night").meaning == "night bus: rides at night"


def test_builtin_services_have_rivals_in_each_domain() -> None:
    catalogue = Catalogue.builtin()
    domains = [label.domain for label in catalogue.labels]
    assert len(catalogue) == len(set(catalogue.names)) >= 24
    assert all(label.description for label in catalogue.labels)
    assert min(domains.count(domain) for domain in set(domains)) >= 2
    assert json.loads(catalogue.to_json())["title"] == "built-in services"
