"""A secret is found in whatever form it lies, and nothing is found where none does."""

from __future__ import annotations

import base64
import bz2
import gzip
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.audit.forms import Forms, _Needles

SECRET = "quillfeather7f3a"
VECTOR = np.random.default_rng(0).standard_normal(64)
FORMS = Forms([SECRET], [VECTOR])
AROUND = "an owl, {} and a cat of no renown"
WAYS = {
    "plain": lambda text: text.encode(),
    "upper case": lambda text: text.upper().encode(),
    "utf-16": lambda text: text.encode("utf-16-le"),
    "base64": lambda text: base64.b64encode(text.encode()),
    "base64 for addresses": lambda text: base64.urlsafe_b64encode(text.encode()),
    "hexadecimal": lambda text: text.encode().hex().encode(),
    "zlib": lambda text: zlib.compress(text.encode()),
    "gzip": lambda text: gzip.compress(text.encode()),
    "zlib twice": lambda text: zlib.compress(zlib.compress(text.encode() * 3)),
    "backwards": lambda text: text[::-1].encode(),
    "float32": lambda text: np.frombuffer(text.encode(), np.uint8).astype("<f4").tobytes(),
    "float16": lambda text: np.frombuffer(text.encode(), np.uint8).astype("<f2").tobytes(),
    "float32 to 1": lambda text: (np.frombuffer(text.encode(), np.uint8) / 255).astype("<f4").tobytes(),
}


@settings(max_examples=25, deadline=None)
@given(before=st.binary(max_size=40), after=st.binary(max_size=40), words=st.sampled_from(["", "an owl, ", "so: "]))
@pytest.mark.parametrize("way", WAYS)
def test_a_secret_is_found_in_each_form_wherever_it_stands(way: str, before: bytes, after: bytes, words: str) -> None:
    data = before + WAYS[way](f"{words}{SECRET} and so on") + after
    assert FORMS.found(data)


@pytest.mark.parametrize("kind", ["<f4", "<f2", "<f8", ">f4"])
@pytest.mark.parametrize("length", [1.0, float(np.linalg.norm(VECTOR))])
def test_a_vector_is_found_whole_and_in_its_parts(kind: str, length: float) -> None:
    data = (VECTOR / length).astype(kind).tobytes()
    assert FORMS.found(b"abc" + data)
    for part in range(2):
        half = len(data) // 2
        assert FORMS.found(data[part * half :][:half])


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=2000))
def test_nothing_is_found_in_bytes_by_chance(data: bytes) -> None:
    assert FORMS.found(data) == set()


def test_another_text_is_not_taken_for_the_secret_and_what_is_not_looked_for_is_not_found() -> None:
    assert FORMS.found(AROUND.format("quillfeather7f3b").encode()) == set()
    assert FORMS.found(bz2.compress(AROUND.format(SECRET).encode() * 40)) == set()  # docs/audit.md says so.


SHORT = st.binary(min_size=4, max_size=7).map(lambda data: bytes(byte % 3 for byte in data))


@given(st.sets(SHORT, max_size=12), st.lists(SHORT, max_size=12).map(b"".join))
def test_needles_are_found_where_each_alone_would_be(needles: set[bytes], data: bytes) -> None:
    found = _Needles({needle: needle.hex() for needle in needles}).found(data)
    assert found == {needle.hex() for needle in needles if needle in data}


def test_a_needle_too_short_to_tell_from_chance_is_refused() -> None:
    with pytest.raises(ValueError, match="4 bytes or more"):
        _Needles({b"abc": "a word"})
