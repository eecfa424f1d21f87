"""What every key and signature of a round is bound to: four digests in a chain, and the texts that are signed.

H0 is the round, H1 adds the cohort, H2 the sharers, H3 the survivors (``PROTOCOL.md``, "What is bound").
"""

from __future__ import annotations

import hashlib
import struct

from federation.secagg.terms import Announcement

_NAME = b"tacit/secagg/1/"


def digest(name: str, *parts: bytes) -> bytes:
    """SHA-256 of ``parts``, each with its length before it, under a name of its own."""
    text = _NAME + name.encode("ascii") + b"\0"
    return hashlib.sha256(text + b"".join(struct.pack("<I", len(part)) + part for part in parts)).digest()


def round_hash(announcement: Announcement) -> bytes:
    """H0."""
    return digest("round", announcement.encode())


def next_hash(name: str, before: bytes, bitmap: bytes) -> bytes:
    """H1, H2 or H3 (``name`` is "cohort", "sharers", "survivors") from the digest before it."""
    return digest(name, before, bitmap)


def commitment(h0: bytes, index: int, revealed: bytes) -> bytes:
    """What a device commits to before it knows its cohort."""
    return digest("commitment", h0, struct.pack("<I", index), revealed)


def advert_text(h0: bytes, index: int, share_key: bytes, mask_key: bytes, committed: bytes) -> bytes:
    """What a device signs when it adverts its keys."""
    return digest("advert", h0, struct.pack("<I", index), share_key, mask_key, committed)


def input_text(h2: bytes) -> bytes:
    """What a device signs with its input: the sharers it masked with. Nobody opens its b without."""
    return digest("input", h2)


def agreement_text(h3: bytes) -> bytes:
    """What survivors sign before they unmask."""
    return digest("agreement", h3)


def secret_commitment(h2: bytes, position: int, secret: bytes) -> bytes:
    """By which the server knows the right b when it has recovered it."""
    return digest("self", h2, struct.pack("<I", position), secret)


def pair_info(first: int, second: int) -> bytes:
    """The positions of two devices, for the info of a key: sender and receiver, or lower and higher."""
    return struct.pack("<II", first, second)
