"""What a record accepts, and that its bytes before sealing come back."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import Record, TamperedError
from store.format.padding import count_class, pad, pad_to, size_class, unpad
from store.format.records import decode_record, encode_record

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=2000),
    label=st.none() | words,
    time=st.floats(allow_nan=False, allow_infinity=False),
    scope=words,
    purpose=words,
    source=words,
    expires=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    supersedes=st.none() | st.integers(1, 2**63 - 1),
    derived_from=st.lists(st.integers(1, 2**63 - 1), max_size=5).map(tuple),
)
def test_record_round_trip_returns_equal_record(**fields: object) -> None:
    record = Record(**fields)  # type: ignore[arg-type]
    assert decode_record(encode_record(record)) == record


@given(st.binary(max_size=5000))
def test_padding_round_trip_and_size_is_a_class(content: bytes) -> None:
    padded = pad(content)
    assert unpad(padded) == content
    assert len(padded) == size_class(len(padded))
    assert len(content) + 4 <= len(padded) <= max(256, math.ceil(1.125 * (len(content) + 4)))


def test_size_classes_are_eight_in_each_doubling_and_are_checked() -> None:
    classes = sorted({size_class(size) for size in range(1, 4097)})
    assert classes[:9] == [256, 288, 320, 352, 384, 416, 448, 480, 512]
    assert [len([c for c in classes if low < c <= 2 * low]) for low in (256, 512, 1024, 2048)] == [8, 8, 8, 8]
    for bad in (pad(b"x" * 300)[:-1], pad(b"x") + bytes(32), pad(b"x")[:-1] + b"\1", b"\xff" * 256, b"", bytes(300)):
        with pytest.raises(ValueError, match="padded"):
            unpad(bad)
    assert unpad(pad_to(b"x", 1024), 1024) == b"x"
    with pytest.raises(ValueError, match="padded"):
        unpad(pad_to(b"x", 1024))
    with pytest.raises(ValueError, match="at most"):
        pad_to(bytes(1021), 1024)


def test_count_classes_rise_and_hold_what_they_are_for() -> None:
    classes = [count_class(count) for count in range(3000)]
    assert sorted(classes) == classes
    assert all(count_class(count) >= count for count in range(3000))
    assert sorted(set(classes)) == [16, 32, 64, 128, *range(256, 3073, 256)]


def test_texts_of_one_class_have_one_size() -> None:
    sizes = {len(encode_record(Record(text="x" * n, time=0.0))) for n in range(1, 120)}
    assert sizes == {256}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text", ""),
        ("text", None),
        ("text", b"bytes"),
        ("text", "x" * 1_000_001),
        ("text", "lone \ud800 surrogate"),
        ("label", ""),
        ("label", 3),
        ("time", math.nan),
        ("time", math.inf),
        ("time", "1.0"),
        ("time", True),
        ("time", 10**400),
        ("scope", ""),
        ("purpose", None),
        ("source", "y" * 1001),
        ("scope", "with\0nul"),
        ("source", "\0"),
        ("expires", math.nan),
        ("expires", "soon"),
        ("supersedes", 0),
        ("supersedes", -1),
        ("supersedes", True),
        ("supersedes", 2**63),
        ("derived_from", (1, 0)),
        ("derived_from", ("1",)),
    ],
)
def test_record_refuses_bad_field_and_names_it(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        Record(**{"text": "fine", "time": 0.0, field: value})  # type: ignore[arg-type]


def test_error_does_not_quote_what_the_user_said() -> None:
    with pytest.raises(ValueError, match="surrogate") as caught:
        Record(text="my secret plan \ud800", time=0.0)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_record_is_frozen_and_turns_whole_seconds_to_float() -> None:
    record = Record(text="a", time=5)
    assert type(record.time) is float
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.text = "b"  # type: ignore[misc]


@pytest.mark.parametrize(
    "padded",
    [
        b"",
        pad(b"not json"),
        pad(b"[]"),
        pad(b'{"text":"a"}'),
        pad(b'{"text":"a","time":0,"extra":1}'),
        pad(b'{"text":"","time":0}'),
        pad(b'{"text":"a","time":0}')[:-1],
        pad(b'{"text":"a","time":0}')[:-1] + b"x",
    ],
)
def test_malformed_plaintext_raises_tampered(padded: bytes) -> None:
    with pytest.raises(TamperedError):
        decode_record(padded)
