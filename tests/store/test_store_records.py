"""What a record accepts, and that its bytes before sealing come back."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import Record, TamperedError
from store.crypto import pad, size_class, unpad
from store.records import decode_record, encode_record

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=2000),
    label=st.none() | words,
    time=st.floats(allow_nan=False, allow_infinity=False),
    scope=words,
    purpose=words,
    source=words,
)
def test_record_round_trip_returns_equal_record(**fields: object) -> None:
    record = Record(**fields)  # type: ignore[arg-type]
    assert decode_record(encode_record(record)) == record


@given(st.binary(max_size=5000))
def test_padding_round_trip_and_size_is_a_class(content: bytes) -> None:
    padded = pad(content)
    assert unpad(padded) == content
    assert len(padded) == size_class(len(padded))
    assert len(content) + 4 <= len(padded) <= max(256, math.ceil(1.25 * (len(content) + 4)))


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
