"""Whether masks hide: each device's masked vector against what the protocol's 256-bit keys make of it.

A key of few bits can be searched through (Flower's SecAgg+ folds it to 32 bits, and a client's update was recovered in
minutes). Devices' masks are computed here a second time, from ``federation/secagg/PROTOCOL.md`` and `cryptography`
alone; a key that is folded, cut or weakened anywhere gives another mask. In a full run a birthday attack follows, which
needs to know nothing of how: of 2¹⁸ keys of 32 bits two are the same but for a chance of 3 in 10⁴.
"""

import struct

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from federation.audit.cohort import AuditedCohort
from federation.audit.finding import Finding, Ground, at_most
from federation.secagg import masks
from federation.secagg.device import _Keys
from federation.secagg.keys import AgreementKey
from federation.secagg.masks import Words
from federation.secagg.messages import decode_input

_BIRTHDAY_KEYS = 2**18
_NAME = b"tacit/secagg/1/"


def mask_findings(cohort: AuditedCohort, ground: Ground, *, audit: str) -> list[Finding]:
    """Return the findings on the masks of a cohort that sent its inputs."""
    senders = [index for index in range(cohort.size) if index not in cohort.late]
    other = sum(not np.array_equal(_masked(cohort, index), _sent(cohort, index)) for index in senders)
    found = [at_most("masks of other than 256-bit keys", other, 0, f"of {len(senders)} devices", audit=audit)]
    if not ground.quick:
        note = f"of {_BIRTHDAY_KEYS} mask keys, two alike"
        found.append(at_most("mask keys that repeat", _repeats(ground.rng), 0, note, audit=audit))
    return found


def _sent(cohort: AuditedCohort, index: int) -> Words:
    return decode_input(cohort.replied["input", index], cohort.dimension)[0]


def _masked(cohort: AuditedCohort, index: int) -> Words:
    """The vector of a device under the masks of the protocol, computed apart from its code."""
    closed, server = cohort.server._closed, cohort.server
    h2 = closed.h2(server._sharers)
    own = _Keys(cohort.before["input", index]._state.seed, closed.h0)
    total: Words = cohort.vectors[index].copy()
    total += _stream(_derived(own.self_secret(closed.h1), "self mask", h2, index, index), cohort.dimension)
    private = X25519PrivateKey.from_private_bytes(own.mask.private_bytes())
    for peer in sorted({*server._chosen[index], *server._choosers[index]}):
        shared = private.exchange(X25519PublicKey.from_public_bytes(server._record(peer).mask_key))
        mask = _stream(_derived(shared, "mask", h2, min(index, peer), max(index, peer)), cohort.dimension)
        total += mask if index < peer else -mask
    return total


def _derived(secret: bytes, label: str, salt: bytes, first: int, second: int) -> bytes:
    info = _NAME + label.encode() + b"\0" + struct.pack("<II", first, second)
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(secret)


def _stream(key: bytes, count: int) -> Words:
    text = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update(bytes(4 * count))
    return np.frombuffer(text, dtype="<u4").astype(np.uint32)


def _repeats(rng: np.random.Generator) -> int:
    """How many of the running code's mask keys were seen before, over many rounds of two devices."""
    own, peer = (AgreementKey(rng.bytes(32)) for _ in range(2))
    salts = (rng.bytes(32) for _ in range(_BIRTHDAY_KEYS))
    return _BIRTHDAY_KEYS - len({masks.pair_mask_key(own, peer.public, salt, 0, 1) for salt in salts})
