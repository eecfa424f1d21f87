"""A device's shares, sealed each for one receiver.

    key    = HKDF-SHA256(X25519(share keys), salt = H1, info = "tacit/secagg/1/share" ‖ 0 ‖ sender ‖ receiver)
    sealed = version byte 1 ‖ AES-256-GCM(key, nonce 0, text = share of b ‖ share of the mask key,
                                          associated data = version ‖ H1 ‖ sender ‖ receiver)

A key seals one text only: sender, receiver and cohort give it, and the text follows from the sender's seed and H1. So
the nonce may be zero.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from federation.secagg.binding import pair_info
from federation.secagg.keys import AgreementKey, derive_key
from federation.secagg.shamir import SHARE_BYTES, _split, field_elements

_VERSION = 1
_NONCE = bytes(12)


def make_shares(seed: bytes, h1: bytes, secrets: Sequence[bytes], points: Sequence[int], threshold: int) -> list[bytes]:
    """For each of ``points``, its shares of all ``secrets`` (32 bytes each), one after the other.

    Coefficients follow from ``seed`` (secret, 32 bytes) and H1: the same after a crash, others for another cohort.
    """
    columns = []
    for number, secret in enumerate(secrets):
        size = 48 * (threshold - 1)
        stream = derive_stream(seed, h1, number, size)
        columns.append(_split(int.from_bytes(secret, "little"), points, field_elements(stream)))
    return [b"".join(share.to_bytes(SHARE_BYTES, "little") for share in row) for row in zip(*columns, strict=True)]


def derive_stream(seed: bytes, h1: bytes, number: int, size: int) -> bytes:
    """``size`` secret bytes for the polynomial with this number; HKDF gives 8,160 at a time."""
    parts = [
        derive_key(seed, "polynomial", salt=h1, info=pair_info(number, at), size=min(size - at, 8160))
        for at in range(0, size, 8160)
    ]
    return b"".join(parts)


def seal_share(own: AgreementKey, peer: bytes, h1: bytes, sender: int, receiver: int, share: bytes) -> bytes:
    """``share`` (64 bytes) sealed for the receiver with share key ``peer``: 81 bytes. Raises ``PeerKeyError``."""
    aead = AESGCM(derive_key(own.agree(peer), "share", salt=h1, info=pair_info(sender, receiver)))
    return bytes((_VERSION,)) + aead.encrypt(_NONCE, share, _bound(h1, sender, receiver))


def open_share(own: AgreementKey, peer: bytes, h1: bytes, sender: int, receiver: int, sealed: bytes) -> bytes | None:
    """The share (64 bytes) in ``sealed``, or none where it was not sealed so. Raises ``PeerKeyError``."""
    aead = AESGCM(derive_key(own.agree(peer), "share", salt=h1, info=pair_info(sender, receiver)))
    if sealed[0] != _VERSION:
        return None
    try:
        return aead.decrypt(_NONCE, sealed[1:], _bound(h1, sender, receiver))
    except InvalidTag:
        # Not an error: a colluding sender could make honest devices leave the round with one.
        return None


def _bound(h1: bytes, sender: int, receiver: int) -> bytes:
    return bytes((_VERSION,)) + h1 + pair_info(sender, receiver)
