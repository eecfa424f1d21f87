"""A recovery key survives paper: its text is read back whatever the typing, and a slip is found and never quoted."""

from __future__ import annotations

import copy
import hashlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.keys.recovery import _ALPHABET, TEXT_CHARACTERS, RecoveryKey

KEYS = st.binary(min_size=32, max_size=32)

# Computed with ``by_hand`` when the format was fixed.
GOLDEN = [
    (bytes(32), "T0000-00000-00000-00000-00000-00000-00000-00000-00000-00000-00E7S-6FN8X"),
    (bytes(range(32)), "T000G-40R40-M30E2-09185-GR38E-1W812-4GK2G-AHC5R-R34D1-P70X3-RFWVT-6HTEF"),
]


def by_hand(key: bytes) -> str:
    """The text of a key by the description in recovery.py, bit by bit, sharing no code with it."""
    bits = "".join(f"{byte:08b}" for byte in key)
    bits += "".join(f"{byte:08b}" for byte in hashlib.sha256(b"tacit/2/recovery-key" + key).digest())[:39]
    digits = "".join("0123456789ABCDEFGHJKMNPQRSTVWXYZ"[int(bits[at : at + 5], 2)] for at in range(0, len(bits), 5))
    whole = "T" + digits
    return "-".join(whole[at : at + 5] for at in range(0, len(whole), 5))


@pytest.mark.parametrize(("key", "text"), GOLDEN)
def test_text_stays_as_it_was_first_defined(key: bytes, text: str) -> None:
    assert RecoveryKey(key).text() == text
    assert RecoveryKey.from_text(text)._key == key


@given(KEYS)
def test_text_follows_its_description_and_reads_back(key: bytes) -> None:
    text = RecoveryKey(key).text()
    assert text == by_hand(key)
    assert len(text.replace("-", "")) == TEXT_CHARACTERS
    assert RecoveryKey.from_text(text)._key == key


@given(KEYS, st.randoms(use_true_random=False))
def test_reading_forgives_case_spaces_dashes_and_look_alikes(key: bytes, random: object) -> None:
    typed = ""
    for character in RecoveryKey(key).text():
        choices = {"0": "0oO", "1": "1iIlL", "-": ["", "-", " ", "–", " - ", "\u00a0", "\n", "_", "−"]}
        options = choices.get(character, character + character.lower())
        typed += random.choice(options)  # type: ignore[attr-defined]
        if random.random() < 0.1:  # type: ignore[attr-defined]
            typed += " "
    assert RecoveryKey.from_text(f"\t{typed}\r\n")._key == key


@given(KEYS, st.data())
def test_one_wrong_character_is_found_and_not_quoted(key: bytes, data: st.DataObject) -> None:
    text = RecoveryKey(key).text().replace("-", "")
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from([c for c in _ALPHABET + "U*é" if c != text[at]]))
    refuse(text[:at] + other + text[at + 1 :])


@given(KEYS, st.data())
def test_two_characters_swapped_are_found(key: bytes, data: st.DataObject) -> None:
    text = RecoveryKey(key).text().replace("-", "")
    at = data.draw(st.integers(0, len(text) - 2))
    if text[at] != text[at + 1]:
        refuse(text[:at] + text[at + 1] + text[at] + text[at + 2 :])


@given(KEYS, st.integers(0, TEXT_CHARACTERS - 1))
def test_a_character_too_few_or_too_many_is_found(key: bytes, at: int) -> None:
    text = RecoveryKey(key).text().replace("-", "")
    refuse(text[:at] + text[at + 1 :])
    refuse(text[:at] + "7" + text[at:])


@given(st.text(max_size=200))
def test_any_other_text_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="recovery key") as caught:
        RecoveryKey.from_text(text)
    assert "\n" not in str(caught.value)


def test_a_huge_text_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="60 characters"):
        RecoveryKey.from_text("T" * 50_000_000)


def refuse(text: str) -> None:
    with pytest.raises(ValueError, match="recovery key") as caught:
        RecoveryKey.from_text(text)
    message = str(caught.value)
    assert "\n" not in message
    # The keys here are in upper case and the words of the message are not: four characters in a row mean a quotation.
    assert not any(text[at : at + 4] in message for at in range(len(text) - 3))


def test_two_generated_keys_differ() -> None:
    assert RecoveryKey.generate()._key != RecoveryKey.generate()._key


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33), "x" * 32, bytearray(32)])
def test_recovery_key_refuses_other_than_32_bytes(key: object) -> None:
    with pytest.raises(ValueError, match="32"):
        RecoveryKey(key)  # type: ignore[arg-type]


def test_text_must_be_text() -> None:
    with pytest.raises(TypeError):
        RecoveryKey.from_text(b"T0000")  # type: ignore[arg-type]


def test_recovery_key_prints_pickles_and_copies_nothing() -> None:
    key = RecoveryKey(b"hunter2hunter2hunter2hunter2hunt")
    assert repr(key) == str(key) == f"{key}" == "RecoveryKey(***)"
    assert not hasattr(key, "__dict__")
    for refused in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="secret"):
            refused(key)  # type: ignore[operator]
