"""Reading is strict: the first bad line is named by its number, and nothing half-read looks whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.data.dataset import Row, parse_row, read_rows
from federation.errors import DataError

GOOD: dict[str, Any] = {
    "user": "u1", "order": 0, "text": "a taxi", "label": "taxi", "labels": ["taxi"], "split": "train",
}  # fmt: skip


def written(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


def line(**changed: Any) -> str:
    return json.dumps(GOOD | changed)


MALFORMED: dict[str, tuple[str, str]] = {
    "not JSON": ("{", "is not JSON"),
    "a cut line": (line()[:-5], "is not JSON"),
    "two objects": (line() + line(), "is not JSON"),
    "a list": ("[1]", "expected a JSON object, got list"),
    "a string": ('"a"', "expected a JSON object, got str"),
    "null": ("null", "expected a JSON object, got NoneType"),
    "no text": ('{"label": "a"}', "expected a string in 'text'"),
    "no label": ('{"text": "a"}', "expected a string in 'label'"),
    "text is a number": (line(text=3), "expected a string in 'text'"),
    "label is null": (line(label=None), "expected a string in 'label'"),
    "empty text": (line(text="  "), "text that is not empty"),
    "empty label": (line(label=""), "label that is not empty"),
    "labels is a string": (line(labels="taxi"), "list of strings in 'labels'"),
    "labels holds a number": (line(labels=["taxi", 1]), "list of strings in 'labels'"),
    "order is a text": (line(order="1"), "whole number in 'order'"),
    "order is a fraction": (line(order=1.5), "whole number in 'order'"),
    "order is true": (line(order=True), "whole number in 'order'"),
    "time is a text": (line(time="noon"), "Unix seconds or null in 'time'"),
    "time is true": (line(time=True), "Unix seconds or null in 'time'"),
    "time is NaN": (line(time=float("nan")), "time"),
    "time is infinite": (line(time=float("inf")), "time"),
    "unknown split": (line(split="dev"), "train, valid, test"),
    "split is a number": (line(split=1), "train, valid, test|'split'"),
    "user is a list": (line(user=["u1"]), "'user'"),
    "user is true": (line(user=True), "'user'"),
    "nested too deeply": ("[" * 100_000, "Line"),
    "a number too long": ('{"text": "a", "label": "b", "order": ' + "1" * 5000 + "}", "Line"),
    "a lone surrogate": ('{"text": "a \\ud800", "label": "b"}', "Line"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_line_is_named_by_its_number(tmp_path: Path, name: str) -> None:
    bad, says = MALFORMED[name]
    path = written(tmp_path / "rows.jsonl", line(), "", line(order=1), bad, line(order=2))
    with pytest.raises(DataError, match=says) as error:
        read_rows(path)
    said = str(error.value)
    assert f"{path}: Line 4" in said
    assert "\n" not in said
    assert len(said) < len(str(path)) + 200


@pytest.mark.parametrize("content", [b"", b"\n\n", b"   \n"])
def test_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match="holds no rows"):
        read_rows(written(tmp_path / "empty.jsonl", content))


def test_missing_file_and_folder_are_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(DataError, match="Cannot read") as error:
            read_rows(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b'{"text": "caf\xe9", "label": "a"}', b"\xff\xfe{\x00", b"PK\x03\x04\x9c\xff"])
def test_file_that_is_not_utf8_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match="UTF-8"):
        read_rows(written(tmp_path / "rows.jsonl", content))


def test_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", b"\xef\xbb\xbf" + line().encode())
    assert read_rows(path) == [parse_row(line(), line=1)]


def test_fields_have_defaults_and_unknown_ones_are_ignored() -> None:
    row = parse_row('{"text": "a taxi", "label": "taxi", "origin": "generated population"}', line=3)
    assert row == Row(user="", order=2, text="a taxi", label="taxi", labels=("taxi",), split="", time=None)


@pytest.mark.parametrize("value", [None, ""])
def test_user_may_be_nobody(value: Any) -> None:
    assert parse_row(line(user=value), line=1).user == ""


@pytest.mark.parametrize(("value", "user"), [(0, "0"), (7, "7"), ("u 7", "u 7")])
def test_user_may_be_a_number(value: Any, user: str) -> None:
    assert parse_row(line(user=value), line=1).user == user


def test_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes((line() + "\r\n" + line(order=1) + "\r\n").encode())
    assert [row.order for row in read_rows(path)] == [0, 1]


# No surrogates: they are no text. Line separators of Unicode are, and must not end a line.
TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(lambda text: text.strip())


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(TEXT, TEXT, st.integers(-5, 10**9), st.booleans()), min_size=1, max_size=5))
def test_any_text_survives_the_file(tmp_path_factory: Any, made: list[tuple[str, str, int, bool]]) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows = [Row(user="u", order=o, text=t, label=n, labels=(n,), time=float(o)) for t, n, o, _ in made]
    path.write_text(
        "\n".join(
            json.dumps(
                {"user": row.user, "order": row.order, "text": row.text, "label": row.label, "time": row.time},
                ensure_ascii=escaped,
            )
            for row, (_, _, _, escaped) in zip(rows, made, strict=True)
        ),
        encoding="utf-8",
        newline="\n",
    )
    assert read_rows(path) == rows
