"""Spelling: a hashed vector of character runs that is the same everywhere, against a reading by loops."""

import os
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.encoders.spelling import RUNS, SPELLING, spelling

U64 = (1 << 64) - 1


def mixed(state: int) -> int:
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & U64
    state = (state ^ state >> 27) * 0x94D049BB133111EB & U64
    return state ^ state >> 31


def oracle(text: str) -> list[float]:
    """The vector of one text, as the module's docstring has it."""
    counts = [0.0] * SPELLING
    for part in unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split():
        padded = f" {part} "
        for length in RUNS:
            for start in range(len(padded) - length + 1):
                state = length
                for character in padded[start : start + length]:
                    state = mixed((state ^ ord(character)) * 0x9E3779B97F4A7C15 & U64)
                counts[state % SPELLING] += 1.0 if state >> 63 else -1.0
    return unit(counts)


def unit(values: list[float]) -> list[float]:
    norm = sum(value * value for value in values) ** 0.5
    return [value / norm if norm else 0.0 for value in values]


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=40), max_size=5))
def test_spelling_is_that_of_the_definition(texts: list[str]) -> None:
    vectors = spelling(texts)
    assert vectors.shape == (len(texts), SPELLING)
    assert vectors.dtype == np.float32
    for vector, text in zip(vectors, texts, strict=True):
        np.testing.assert_allclose(vector, oracle(text), atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=40), min_size=1, max_size=6), data=st.data())
def test_a_text_has_the_same_spelling_whatever_stands_beside_it(texts: list[str], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(texts) - 1))
    np.testing.assert_array_equal(spelling(texts)[at], spelling([texts[at]])[0])


@pytest.mark.parametrize("text", ["", " ", "\t\n", "\u200b"[:0]])
def test_a_text_without_characters_gives_zeros(text: str) -> None:
    assert not spelling([text]).any()


@pytest.mark.parametrize("text", ["a", "日本", "🎉", "ß", "caf\u00e9 " * 300])
def test_any_other_text_gives_a_vector_of_length_one(text: str) -> None:
    assert np.linalg.norm(spelling([text])) == pytest.approx(1.0, abs=1e-6)


def test_case_width_and_white_space_make_no_difference() -> None:
    first, *others = spelling(["open youtube", "  Open\tYouTube ", "ｏｐｅｎ ｙｏｕｔｕｂｅ", "OPEN\u3000YOUTUBE"])
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_a_misspelt_name_is_nearer_to_it_than_to_another() -> None:
    asked, same, other = spelling(["tiktock", "tiktok", "facebook"])
    assert asked @ same > 0.2 > asked @ other


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(ValueError, match="surrogate"):
        spelling(["\ud800"])


def test_spelling_is_the_same_in_another_process() -> None:
    code = "from engine.encoders.spelling import spelling; print(spelling(['déjà vu', 'gmail']).tobytes().hex())"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONUTF8": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert other.stdout.strip() == spelling(["déjà vu", "gmail"]).tobytes().hex()
