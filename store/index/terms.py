"""What the lexical search knows of a text: for each term a 64-bit hash and how often it occurs.

The same text gives the same terms in every process and on every platform. Text is brought to NFKC and case-folded. A
word is a run of letters, digits and the marks that belong to them; English function words are left out, and the others
are stemmed (Porter 2, which leaves words of other alphabets as they are). Han, Kana and Hangul stand without spaces
between words, so a run of them gives its pairs of neighbouring characters; in a record each character too, so that a
search for one finds it inside a longer run. A term's hash is the first 8 bytes of BLAKE2b (RFC 7693) with the
personalisation ``tacit-term``, little-endian.

Sources: Porter 2001 (Snowball, https://snowballstem.org/algorithms/english/stemmer.html); Unicode Standard Annex 15.

>>> terms_of("Booked the flight") == terms_of("a FLIGHT, booking")
True
>>> decode_terms(entry_of("one fish, two fish")) == terms_of("one fish, two fish")
True
"""

from __future__ import annotations

import hashlib
import re
import threading
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from store.errors import TamperedError

MAX_COUNT = 255
TERM_BYTES = 9
_PLACES = 1 << 17  # Of the vocabulary: 2 MB.
# For ASCII text, where it is far faster than a regular expression: small letters and digits stay, the rest is a space.
_ASCII = bytes(ord(chr(code).lower()) if code < 128 and chr(code).isalnum() else 32 for code in range(256))
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

Hashes = npt.NDArray[np.uint64]


class _Vocabulary:
    """The terms of the words that were seen lately, without the words: kept by Python's hash of the word.

    A word lies in one of two places that its hash names; where both are taken, it takes the first. A dictionary of the
    words themselves would be read all over memory, which takes twice as long where the processor has cached none of it.
    Two words that share all 64 bits of Python's keyed hash would be taken for one, as they would for the same term if
    they shared the 64 bits of a term's hash. Not safe for several threads.
    """

    __slots__ = ("_keys", "_terms")

    def __init__(self) -> None:
        self._keys = np.zeros(_PLACES, dtype=np.int64)  # A word's is ~hash(word), never 0: no hash is -1 in Python.
        self._terms: Hashes = np.zeros(_PLACES, dtype=np.uint64)  # Function words have 0.

    def hashes(self, words: Sequence[bytes]) -> Hashes:
        """The hashes (n,) of the words' terms, 0 for those that are none."""
        keys = ~np.fromiter(map(hash, words), dtype=np.int64, count=len(words))
        places = keys & (_PLACES - 1)
        strange = (self._keys.take(places) != keys).nonzero()[0]
        places[strange] = _second(keys[strange])
        unknown = strange[self._keys.take(places[strange]) != keys[strange]]
        hashes: Hashes = self._terms.take(places)
        for row in unknown.tolist():  # Only now: a new word may take the place of another one of these.
            hashes[row] = self._learnt(words[row], keys[row])
        return hashes

    def known(self) -> int:
        """How many words are kept."""
        return int(np.count_nonzero(self._keys))

    def _learnt(self, word: bytes, key: np.int64) -> int:
        first, second = key & (_PLACES - 1), _second(key)
        for place in (first, second):  # The same word may stand twice in one text.
            if self._keys[place] == key:
                return int(self._terms[place])
        place = second if self._keys[first] and not self._keys[second] else first
        self._keys[place], self._terms[place] = key, _hash_of(word)
        return int(self._terms[place])


def _second(key: Any) -> Any:
    return key >> 40 & (_PLACES - 1)


_vocabulary = _Vocabulary()
_lock = threading.Lock()
_stemmer: Any = None


def terms_of(text: str) -> dict[int, int]:
    """What to look for, for ``text``: hash to count, which stops at 255. Empty if it has only function words."""
    hashes, counts = _counted(_words(text, characters=False))
    return dict(zip(hashes.tolist(), counts.tolist(), strict=True))


def entry_of(text: str) -> bytes:
    """The terms of a record's ``text``, as :func:`encode_terms` lays them out."""
    hashes, counts = _counted(_words(text, characters=True))
    return hashes.astype("<u8", copy=False).tobytes() + counts.tobytes()


def words_of(texts: Sequence[str], *, characters: bool = False) -> tuple[list[bytes], Hashes, npt.NDArray[np.int64]]:
    """The words of all ``texts``, one text after the other: each in UTF-8 (n,), its term's hash (n,), sizes.

    A function word has hash 0. Sizes (len(texts),) say how many words each text has. With ``characters`` also those of
    Han, Kana and Hangul alone, as a record's entry has them.
    """
    parts = [_words(text, characters=characters) for text in texts]
    words = [word for part in parts for word in part]
    sizes = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
    with _lock:
        return words, _vocabulary.hashes(words), sizes


def clear_cache() -> None:
    """Drop what is kept in memory of the words that were seen: part of every forget."""
    global _vocabulary
    with _lock:
        _vocabulary = _Vocabulary()


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


def _counted(words: Sequence[bytes]) -> tuple[Hashes, npt.NDArray[np.uint8]]:
    """The terms of ``words``: hashes (t,), ascending, and how often each occurs (t,)."""
    with _lock:
        hashes = _vocabulary.hashes(words)
    hashes = hashes[hashes > 0]
    if not len(hashes):
        return hashes, np.zeros(0, dtype=np.uint8)
    hashes.sort()
    changes = (hashes[1:] != hashes[:-1]).nonzero()[0]
    limits = np.empty(len(changes) + 2, dtype=np.intp)  # Of the runs of equal hashes.
    limits[0], limits[1:-1], limits[-1] = 0, changes + 1, len(hashes)
    counts = np.minimum(limits[1:] - limits[:-1], MAX_COUNT)
    return hashes[limits[:-1]], counts.astype(np.uint8)


def _words(text: str, *, characters: bool) -> Sequence[bytes]:
    if text.isascii():
        return text.encode("ascii").translate(_ASCII).split()
    # Folding can undo the normal form ("ǰ" gives two characters), so it is followed by another normalisation.
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return [word.encode("utf-8") for word in _pairs_and_words(_runs(text), characters)]


def _runs(text: str) -> list[str]:
    """The longest runs of one kind, paired or not. Marks, such as the vowel signs of Devanagari, stay in their run."""
    marks = "".join(sorted({mark for mark in set(text) if unicodedata.category(mark)[0] == "M"}))
    if not marks:
        return _RUN.findall(text)
    inside = f"[{re.escape(marks)}]*"
    return re.findall(f"(?:[{_PAIRED}]{inside})+|(?:[^\\W_{_PAIRED}]{inside})+", text)


def _pairs_and_words(runs: Iterable[str], characters: bool) -> Iterable[str]:
    for run in runs:
        if _STARTS_PAIRED.match(run) and len(run) > 1:
            yield from (run[at : at + 2] for at in range(len(run) - 1))
            if characters:
                yield from run
        else:
            yield run


def _hash_of(word: bytes) -> int:
    """The hash of a word's stem; 0 for a function word. Call under the lock: the stemmer serves one thread."""
    global _stemmer
    plain = word.decode("utf-8")
    if plain in _STOP_WORDS:
        return 0
    if _stemmer is None:
        import Stemmer

        _stemmer = Stemmer.Stemmer("english", 0)  # It keeps no words of its own: clear_cache could not reach them.
    stem = _stemmer.stemWord(plain)
    return int.from_bytes(hashlib.blake2b(stem.encode("utf-8"), person=b"tacit-term").digest()[:8], "little")
