"""The forms in which a secret could lie in bytes: plain, base64, hexadecimal, compressed, as numbers, as a vector.

>>> forms = Forms(["quillfeather"], [])
>>> import base64, zlib
>>> forms.found(b"x" + base64.b64encode(b"an owl, quillfeather, sat")), forms.found(b"an owl sat")
({'quillfeather in base64'}, set())
>>> forms.found(b"\\0\\0" + zlib.compress(b"an owl, quillfeather, sat") + b"\\0")
{'quillfeather in plain, compressed'}
"""

import base64
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

_WINDOW = 4  # Numbers of a vector in a row that nobody else has.
_EVERY = 32
_TYPES = ("<f4", ">f4", "<f2", ">f2", "<f8")
_MOST_UNPACKED = 2**22
_DEPTH = 3
_HEAD, _SLOT_BITS = 4, 20


class Forms:
    """What to look for: ``secrets``, words of their own, and ``vectors`` (n, d) of texts that hold them."""

    def __init__(self, secrets: Sequence[str], vectors: npt.ArrayLike) -> None:
        needles: dict[bytes, str] = {}
        self._words = {secret.lower().encode(): secret for secret in secrets}
        for secret in secrets:
            needles.update((needle, f"{secret} {how}") for needle, how in _forms_of(secret.encode()))
        for number, vector in enumerate(np.atleast_2d(np.asarray(vectors, dtype=np.float64))):
            needles.update((needle, f"vector {number} {how}") for needle, how in _windows(vector))
        self._needles = _Needles(needles)

    def found(self, data: bytes) -> set[str]:
        """Return each secret that lies in ``data``, with the form it has there."""
        return self._found(data, _DEPTH)

    def _found(self, data: bytes, depth: int) -> set[str]:
        lower = data.lower()
        found = {f"{secret} in plain" for word, secret in self._words.items() if word in lower}
        found |= self._needles.found(data)
        if depth:
            for unpacked in _unpacked(data):
                found |= {f"{told}, compressed" for told in self._found(unpacked, depth - 1)}
        return found


class _Needles:
    """Tens of thousands of byte strings to look for at once, in one pass: by a table of how they begin."""

    def __init__(self, needles: Mapping[bytes, str]) -> None:
        """``needles`` are what to look for, and what to say of each. Raises ValueError for one of under 4 bytes."""
        if any(len(needle) < _HEAD for needle in needles):
            raise ValueError(f"Expected all that is looked for to have {_HEAD} bytes or more: less is there by chance.")
        self._by_head = defaultdict[bytes, list[bytes]](list)
        self._told = needles
        for needle in needles:
            self._by_head[needle[:_HEAD]].append(needle)
        self._begins = np.zeros(2**_SLOT_BITS, dtype=np.bool_)
        self._begins[_slots(np.frombuffer(b"".join(self._by_head), dtype="<u4"))] = True

    def found(self, data: bytes) -> set[str]:
        """What there is to say of those that lie in ``data``."""
        found = set()
        for shift in range(min(_HEAD, len(data) - _HEAD + 1)):
            heads = np.frombuffer(data, dtype="<u4", offset=shift, count=(len(data) - shift) // _HEAD)
            for place in np.flatnonzero(self._begins[_slots(heads)]).tolist():
                at = shift + _HEAD * place
                for needle in self._by_head.get(data[at : at + _HEAD], ()):
                    if data.startswith(needle, at):
                        found.add(self._told[needle])
        return found


def _slots(heads: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """A place in the table for each 4 bytes (Knuth's multiplicative hash)."""
    return (heads * np.uint32(2654435761)) >> np.uint32(32 - _SLOT_BITS)


def _forms_of(text: bytes) -> Iterator[tuple[bytes, str]]:
    """Each form of a text with what it is called; the plain one is looked for apart."""
    for name in ("utf-16-le", "utf-16-be", "utf-32-le"):
        yield text.decode().encode(name), f"in {name}"
    yield text[::-1], "backwards"
    yield text.hex().encode(), "in hexadecimal"
    yield text.hex().upper().encode(), "in hexadecimal"
    for before in range(3):
        # Three alignments; the ends depend on what stands around.
        encoded = base64.b64encode(bytes(before) + text)
        core = encoded[(0, 2, 3)[before] : len(encoded) - (4 if encoded.endswith(b"=") else 0)]
        yield core, "in base64"
        yield core.translate(bytes.maketrans(b"+/", b"-_")), "in base64"
        encoded32 = base64.b32encode(text)
        yield encoded32[: len(encoded32) - 8], "in base32"
    for level in (1, 6, 9):
        # Its own block, without the header and checksum around it.
        yield zlib.compress(text, level)[2:-4], "compressed"
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.float64)
    for kind in _TYPES:
        for scale in (1.0, 1 / 255, 1 / 256, 1 / 127, 1 / 128):
            yield (codes * scale).astype(kind).tobytes(), f"as {kind[1:]} numbers"


def _windows(vector: npt.NDArray[np.float64]) -> Iterator[tuple[bytes, str]]:
    """Runs of numbers of a vector, as it is and at unit length, in each type of number."""
    norm = float(np.linalg.norm(vector)) or 1.0
    for start in range(0, len(vector) - _WINDOW + 1, min(_EVERY, max(1, len(vector) // 4))):
        window = vector[start : start + _WINDOW]
        if len(set(window.tolist())) < _WINDOW or 0.0 in window:  # Zeros are nobody's own.
            continue
        for kind in _TYPES:
            for scaled in (window, window / norm):
                yield scaled.astype(kind).tobytes(), f"as {kind[1:]} numbers"


def _unpacked(data: bytes) -> Iterator[bytes]:
    """What each zlib or gzip stream in ``data`` holds, as far as it can be read."""
    for head in (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda", b"\x1f\x8b\x08"):
        at = data.find(head)
        while at >= 0:
            try:
                held = zlib.decompressobj(wbits=47).decompress(memoryview(data)[at:], _MOST_UNPACKED)
            except zlib.error:
                held = b""
            if len(held) > 8:
                yield held
            at = data.find(head, at + 1)
