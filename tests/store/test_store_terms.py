"""Terms of texts, and a record's lexical entry."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.errors import TamperedError
from store.index import terms as module
from store.index.terms import clear_cache, decode_terms, encode_terms, entry_of, terms_of

TERMS = st.dictionaries(st.integers(0, 2**64 - 1), st.integers(1, 255), max_size=20)
GOLDEN = "4240403b7a754326ff4013cb030d3d980201"  # The hashes of "fish" and "book", ascending; their counts.


def hash_of(term: str) -> int:
    """The documented hash, the plain way."""
    return int.from_bytes(hashlib.blake2b(term.encode(), person=b"tacit-term").digest()[:8], "little")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("...  \n\t !", []),
        ("What was that, and who did it to them?", []),
        ("Booking booked BOOKS", ["book"]),
        ("Ada's flight", ["ada", "flight"]),
        ("don't can't I'll we've", []),
        ("Room 42 at 10:30", ["room", "42", "10", "30"]),
        ("snake_case", ["snake", "case"]),
        ("ＡＤＡ ﬁsh", ["ada", "fish"]),
        ("Straße STRASSE", ["strass"]),
        ("cafe\u0301 café", ["café"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("Привет, мир", ["привет", "мир"]),
        ("שָׁלוֹם", ["שָׁלוֹם"]),
        ("我喜欢猫", ["我喜", "喜欢", "欢猫"]),
        ("茶", ["茶"]),
        ("茶 and tea", ["茶", "tea"]),
        ("東京タワーへ", ["東京", "京タ", "タワ", "ワー", "ーへ"]),
        ("ｶﾀ", ["カタ"]),
        ("예약 확인했", ["예약", "확인", "인했"]),
        ("iPhone15を買う", ["iphone15", "を買", "買う"]),
        ("\ud800 broken \udfff", ["broken"]),
    ],
)
def test_terms_of_text(text: str, expected: list[str]) -> None:
    assert set(terms_of(text)) == {hash_of(term) for term in expected}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("window seat, window", ["window", "seat"]),
        ("我喜欢猫", ["我喜", "喜欢", "欢猫", "我", "喜", "欢", "猫"]),
        ("茶", ["茶"]),
        ("ｶﾀ and tea", ["カタ", "カ", "タ", "tea"]),
        ("茶 茶茶", ["茶", "茶茶"]),
    ],
)
def test_a_record_has_each_character_of_a_run_besides_its_pairs(text: str, expected: list[str]) -> None:
    assert decode_terms(entry_of(text)).keys() == {hash_of(term) for term in expected}


def test_terms_count_each_word_and_stop_at_255() -> None:
    assert terms_of("fish Fish fishes") == {hash_of("fish"): 3}
    assert terms_of("fish " * 300 + "fishes " * 200) == {hash_of("fish"): 255}


@pytest.mark.parametrize("seed", ["1", "2"])
def test_terms_are_the_same_in_another_process(seed: str) -> None:
    text = "Booked a café in 東京"
    code = f"from store.index.terms import encode_terms, terms_of; print(encode_terms(terms_of({text!r})).hex())"
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONUTF8": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert other.stdout.strip() == encode_terms(terms_of(text)).hex()


def test_clear_cache_leaves_nothing_of_a_word_in_memory() -> None:
    terms_of("zyzzyva in the garden")
    assert module._vocabulary.known() >= 4
    clear_cache()
    assert module._vocabulary.known() == 0
    assert not module._vocabulary._terms.any()
    assert module._stemmer.maxCacheSize == 0
    assert terms_of("zyzzyvas") == {hash_of("zyzzyva"): 1}


def test_words_that_push_each_other_out_keep_their_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"word{number}" for number in range(100)]
    expected = {hash_of(word): 1 for word in words}
    monkeypatch.setattr(module, "_PLACES", 8)
    clear_cache()
    for _ in range(3):
        assert terms_of(" ".join(words) + " the and of") == expected
    monkeypatch.undo()
    clear_cache()
    terms_of("zebra zebra Zebra")
    assert module._vocabulary.known() == 1
    clear_cache()


def test_a_character_is_not_taken_for_the_two_letters_that_have_its_bytes() -> None:
    clear_cache()  # U+6161 lies in memory as the letters "aa" do, so that Python's hashes of both are equal.
    assert terms_of("aa") == {hash_of("aa"): 1}
    assert terms_of("\u6161") == {hash_of("\u6161"): 1}


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=200))
def test_terms_of_any_text_encode(text: str) -> None:
    terms, entry = terms_of(text), decode_terms(entry_of(text))
    assert decode_terms(encode_terms(terms)) == terms
    assert all(entry[term] >= count for term, count in terms.items())  # What a text looks for, its record has.
    clear_cache()
    assert terms_of(text) == terms
    clear_cache()
    assert decode_terms(entry_of(text)) == entry


def test_encode_terms_golden() -> None:
    assert encode_terms(terms_of("Booked fish, one fish")).hex() == GOLDEN
    assert decode_terms(bytes.fromhex(GOLDEN)) == {hash_of("fish"): 2, hash_of("book"): 1}


@given(terms=TERMS)
def test_entry_round_trip_is_nine_bytes_a_term(terms: dict[int, int]) -> None:
    data = encode_terms(terms)
    assert decode_terms(data) == terms
    assert len(data) == 9 * len(terms)
    assert encode_terms(dict(reversed(terms.items()))) == data


@settings(max_examples=300)
@given(data=st.binary(max_size=64) | st.integers(0, 5).flatmap(lambda n: st.binary(min_size=9 * n, max_size=9 * n)))
def test_any_bytes_round_trip_or_are_refused(data: bytes) -> None:
    try:
        terms = decode_terms(data)
    except TamperedError:
        return
    assert encode_terms(terms) == data


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        bytes(8) + b"\0",  # A count of 0.
        bytes(16) + b"\1\1",  # The same hash twice.
        (2).to_bytes(8, "little") + (1).to_bytes(8, "little") + b"\1\1",  # Descending.
        encode_terms({1: 1}) + b"\1",
    ],
)
def test_malformed_entry_is_refused(data: bytes) -> None:
    with pytest.raises(TamperedError, match="format 2"):
        decode_terms(data)


@pytest.mark.parametrize("terms", [{1: 0}, {1: 256}, {-1: 1}, {2**64: 1}])
def test_encode_refuses_what_does_not_fit(terms: dict[int, int]) -> None:
    with pytest.raises(ValueError, match="64-bit"):
        encode_terms(terms)
