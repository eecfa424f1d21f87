"""What the lexical search knows of a text: for each term a 64-bit hash and how often it occurs.

The same text gives the same terms in every process and on every platform. Text is brought to NFKC and case-folded. A
word is a run of letters, digits and the marks that belong to them; English function words are left out, and the others
are stemmed (Porter 2, which leaves words of other alphabets as they are). Han, Kana and Hangul stand without spaces
between words, so a run of them gives its pairs of neighbouring characters, and one that stands alone gives itself. A
term's hash is the first 8 bytes of BLAKE2b (RFC 7693) with the personalisation ``tacit-term``, little-endian.

Sources: Porter 2001 (Snowball, https://snowballstem.org/algorithms/english/stemmer.html); Unicode Standard Annex 15.

>>> terms_of("Booked the flight") == terms_of("a FLIGHT, booking")
True
>>> decode_terms(encode_terms(terms_of("one fish, two fish"))) == terms_of("one fish, two fish")
True
"""

from __future__ import annotations

import hashlib
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from store.errors import TamperedError

MAX_COUNT = 255
TERM_BYTES = 9
_CACHED_WORDS = 50_000
_CACHED_LENGTH = 40
_NO_TERM = -1  # What a stop word has in place of a hash.
# For ASCII text, where it is three times as fast as a regular expression: what is no letter or digit becomes a space.
_ASCII = {code: " " for code in range(128) if not chr(code).isalnum()}
# Han with its iteration mark and zero, Hiragana, Katakana with its length mark, Hangul syllables and letters.
_PAIRED = (
    "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
    "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
    "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb"
)
_RUN = re.compile(f"[{_PAIRED}]+|[^\\W_{_PAIRED}]+")
_STARTS_PAIRED = re.compile(f"[{_PAIRED}]")

# Pronouns, articles, prepositions, conjunctions, auxiliaries, question words, and what an apostrophe leaves behind.
_STOP = """
i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers herself
it its itself they them their theirs themselves one ones
a an the this that these those such some any each every either neither both all another other others
of in on at by for with about against between among into onto through during before after above below to from up down
out off over under upon within without across along around behind beside besides beyond near per since till until
toward towards via
and or but nor so yet if then else than as because while although though unless whereas whether
am is are was were be been being have has had having do does did doing done can could may might must shall should will
would ought cannot get gets got getting
what which who whom whose when where why how whatever whichever whoever whenever wherever
not no only own same too very just also again further once here there now ever even still already almost quite rather
really much many more most less least few
s t d m ll re ve don didn doesn isn aren wasn weren hasn haven hadn won wouldn couldn shouldn mustn needn shan ain
let lets im ive ill id youre youve hes shes theyre thats whats dont didnt doesnt isnt wasnt cant wont
yes ok okay oh um uh hmm
"""
_STOP_WORDS = frozenset(_STOP.split())

_cache: dict[str, int] = {}
_lock = threading.Lock()
_stemmer: Any = None


def terms_of(text: str) -> dict[int, int]:
    """The terms of ``text``: hash to count, which stops at 255. Empty if the text has no words but function words."""
    words = _words(text)
    counts = Counter(map(_cache.get, words))
    if None in counts:
        counts = Counter(map(_term, words))
    return {term: min(count, MAX_COUNT) for term, count in counts.items() if term is not None and term >= 0}


def clear_cache() -> None:
    """Drop the words that were seen, which are kept in memory for speed: part of every forget."""
    with _lock:
        _cache.clear()


def encode_terms(terms: Mapping[int, int]) -> bytes:
    """A record's lexical entry, 9 bytes a term: all hashes ascending (8 bytes each), then the count of each (1 byte).

    Numbers are little-endian. Raises ``ValueError`` for a hash out of 64 bits or a count outside 1 to 255.
    """
    hashes = sorted(terms)
    counts = [terms[term] for term in hashes]
    if hashes and not (hashes[0] >= 0 and hashes[-1] < 1 << 64 and min(counts) >= 1 and max(counts) <= MAX_COUNT):
        raise ValueError("Expected 64-bit hashes with counts from 1 to 255. Pass what terms_of returns.")
    return np.array(hashes, dtype="<u8").tobytes() + bytes(counts)


def decode_terms(data: bytes) -> dict[int, int]:
    """The terms in ``data``. Raises ``TamperedError`` unless :func:`encode_terms` made exactly these bytes."""
    count, rest = divmod(len(data), TERM_BYTES)
    hashes = np.frombuffer(data, dtype="<u8", count=count)
    counts = data[8 * count :]
    if rest or (hashes[1:] <= hashes[:-1]).any() or 0 in counts:
        raise TamperedError("A sealed entry's terms are not laid out as in format 2: restore the store from a backup.")
    return dict(zip(hashes.tolist(), counts, strict=True))


def _words(text: str) -> list[str]:
    if text.isascii():
        return text.lower().translate(_ASCII).split()
    # Folding can undo the normal form ("ǰ" gives two characters), so it is followed by another normalisation.
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return list(_pairs_and_words(_runs(text)))


def _runs(text: str) -> list[str]:
    """The longest runs of one kind, paired or not. Marks, such as the vowel signs of Devanagari, stay in their run."""
    marks = "".join(sorted({mark for mark in set(text) if unicodedata.category(mark)[0] == "M"}))
    if not marks:
        return _RUN.findall(text)
    inside = f"[{re.escape(marks)}]*"
    return re.findall(f"(?:[{_PAIRED}]{inside})+|(?:[^\\W_{_PAIRED}]{inside})+", text)


def _pairs_and_words(runs: Iterable[str]) -> Iterable[str]:
    for run in runs:
        if _STARTS_PAIRED.match(run) and len(run) > 1:
            yield from (run[at : at + 2] for at in range(len(run) - 1))
        else:
            yield run


def _term(word: str) -> int | None:
    """The hash of a word's stem, or ``_NO_TERM`` for a function word; kept for the next time."""
    global _stemmer
    term = _cache.get(word)
    if term is not None:
        return term
    with _lock:
        if _stemmer is None:
            import Stemmer

            _stemmer = Stemmer.Stemmer("english", 0)  # It keeps no words of its own: clear_cache could not reach them.
        term = _NO_TERM if word in _STOP_WORDS else _hash(_stemmer.stemWord(word))
        if len(word) <= _CACHED_LENGTH:
            if len(_cache) >= _CACHED_WORDS:
                _cache.clear()
            _cache[word] = term
    return term


def _hash(term: str) -> int:
    return int.from_bytes(hashlib.blake2b(term.encode("utf-8"), person=b"tacit-term").digest()[:8], "little")
