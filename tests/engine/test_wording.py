"""Wording: the words of a text by the encoder's own table, and their spelling, against a reading by loops."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.encoders.encoder import CachedEncoder, Vectors, load_encoder, word_dimension
from engine.encoders.sentence_encoder import SentenceEncoder
from engine.encoders.spelling import SPELLING, spelling
from engine.encoders.word_vectors import word_vectors
from engine.encoders.wording import WORDS_SHARE, wording, wording_size
from engine.errors import EncoderError, ModelError
from engine.model.inputs import encode_inputs, fits, model_inputs, name_vectors

TEXTS = st.lists(st.text(alphabet="abc éß日🎉.,-_ 12", max_size=30), max_size=5)


def unit(vector: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return vector / length if length else vector


def oracle(text: str) -> np.ndarray:
    """The vector of one text, as the module's docstring has it."""
    words = np.zeros(384)
    for word in re.findall(r"\w+", text.casefold()):
        words += word_vectors(load_encoder()).vectors([word])[0]
    both = [np.sqrt(WORDS_SHARE) * unit(words), np.sqrt(1 - WORDS_SHARE) * spelling([text])[0]]
    return unit(np.concatenate(both))


@settings(max_examples=40, deadline=None)
@given(texts=TEXTS)
def test_wording_is_that_of_the_definition(texts: list[str]) -> None:
    vectors = wording(texts, load_encoder())
    assert vectors.shape == (len(texts), wording_size(load_encoder())) == (len(texts), 384 + SPELLING)
    assert vectors.dtype == np.float32
    for vector, text in zip(vectors, texts, strict=True):
        np.testing.assert_allclose(vector, oracle(text), atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(texts=TEXTS.filter(bool), data=st.data())
def test_a_text_has_the_same_wording_whatever_stands_beside_it(texts: list[str], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(texts) - 1))
    np.testing.assert_array_equal(wording(texts, load_encoder())[at], wording([texts[at]], load_encoder())[0])


@pytest.mark.parametrize("text", ["", " ", "\t\n"])
def test_a_text_without_characters_gives_zeros(text: str) -> None:
    assert not wording([text], load_encoder()).any()


@pytest.mark.parametrize("text", ["a", "日本", "🎉", "...", "x" * 60, "word " * 300])
def test_any_other_text_gives_a_vector_of_length_one(text: str) -> None:
    assert np.linalg.norm(wording([text], load_encoder())) == pytest.approx(1.0, abs=1e-5)


def test_words_that_the_encoder_takes_as_like_and_words_that_are_spelt_alike_are_near() -> None:
    asked, meant, spelt, other = wording(["film", "movie", "filmm", "invoice"], load_encoder())
    assert asked @ meant > asked @ other + 0.1
    assert asked @ spelt > asked @ other + 0.1


def test_the_reference_sees_the_same_words_as_the_encoder_that_starts_at_once() -> None:
    texts = ["Play the news", "tiktock", "déjà vu", "日本"]
    np.testing.assert_allclose(
        wording(texts, SentenceEncoder.reference()), wording(texts, CachedEncoder(load_encoder())), atol=1e-6
    )


def test_an_encoder_without_a_table_of_words_has_spelling_alone(toy: Any) -> None:
    assert (word_dimension(toy), wording_size(toy)) == (0, SPELLING)
    np.testing.assert_array_equal(wording(["a", "tea"], toy), spelling(["a", "tea"]))


def test_a_model_whose_vocabulary_is_not_of_word_pieces_has_no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = SentenceEncoder.reference()
    other = SentenceEncoder(reference._folder, name="other", fingerprint="f")
    assert other.word_dimension == 384
    del other._words
    bare = other._model().tokenizer
    monkeypatch.setattr(type(bare), "get_vocab", lambda self: {"▁tea": 0})
    assert other.word_dimension == 0
    with pytest.raises(EncoderError, match="no table of words"):
        other.word_table()


def test_inputs_are_the_vectors_and_the_wording_beside_them() -> None:
    encoder = load_encoder()
    x: Vectors = encoder.encode(["a", "b"])
    assert model_inputs(["a", "b"], x, 384, encoder) is x
    both = model_inputs(["a", "b"], x, 1024, encoder)
    np.testing.assert_array_equal(both[:, :384], x)
    np.testing.assert_array_equal(both[:, 384:], wording(["a", "b"], encoder))
    np.testing.assert_array_equal(both, encode_inputs(["a", "b"], encoder, 1024))
    with pytest.raises(ModelError, match="does not fit"):
        model_inputs(["a", "b"], x, 385, encoder)


def test_a_model_fits_its_encoder_with_wording_and_without(toy_class: type) -> None:
    encoder = toy_class(32)
    assert fits(32, encoder)
    assert fits(32 + SPELLING, encoder)
    assert not fits(33, encoder)
    assert fits(1024, load_encoder())
    assert not fits(384 + SPELLING, load_encoder())


def test_class_vectors_start_from_a_name_with_half_of_its_wording() -> None:
    encoder, names = load_encoder(), ["taxi", "night bus"]
    started, read = name_vectors(names, encoder, 1024), encode_inputs(names, encoder, 1024)
    np.testing.assert_array_equal(started[:, :384], read[:, :384])
    np.testing.assert_allclose(started[:, 384:], read[:, 384:] / 2)
    np.testing.assert_array_equal(name_vectors(names, encoder, 384), encoder.encode(names))
    np.testing.assert_array_equal(encode_inputs(names, encoder, 1024), read)  # What is cached stays as it was.


def test_wordings_that_are_known_are_taken_as_they_are() -> None:
    encoder, texts = load_encoder(), ["a taxi", "a pizza", "a taxi"]
    x = encoder.encode(texts)
    whole = model_inputs(texts, x, 1024, encoder)
    known = {"a pizza": np.full(640, 7, dtype=np.float32)}
    mixed = model_inputs(texts, x, 1024, encoder, known=known)
    np.testing.assert_array_equal(mixed[[0, 2]], whole[[0, 2]])
    assert (mixed[1, 384:] == 7).all()
    assert model_inputs([], x[:0], 1024, encoder, known=known).shape == (0, 1024)
    assert list(known) == ["a pizza"]
