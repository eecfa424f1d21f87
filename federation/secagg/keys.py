"""Keys of a secure sum: Ed25519 to sign, X25519 to agree, HKDF-SHA256 to derive. None prints, pickles or copies.

>>> SigningKey.generate()
SigningKey(***)
>>> one, other = AgreementKey(bytes(31) + b"1"), AgreementKey(bytes(31) + b"2")
>>> one.agree(other.public) == other.agree(one.public)
True

Ed25519 is RFC 8032, X25519 RFC 7748, HKDF RFC 5869.
"""

from __future__ import annotations

import secrets
from typing import NoReturn, SupportsIndex

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from federation.secagg.errors import PeerKeyError

KEY_BYTES = 32
SIGNATURE_BYTES = 64


class Secret:
    """Base of what holds key material: prints as ``Name(***)``, refuses pickling and copying."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***)"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds a secret and cannot be pickled or copied: pass the object.")


class SigningKey(Secret):
    """An Ed25519 key: a device's identity, or the publisher's. Its signatures are deterministic."""

    __slots__ = ("_key", "public")

    def __init__(self, private: bytes) -> None:
        if not isinstance(private, bytes) or len(private) != KEY_BYTES:
            raise ValueError(f"Expected a signing key of {KEY_BYTES} bytes: use SigningKey.generate().")
        self._key = Ed25519PrivateKey.from_private_bytes(private)
        self.public = self._key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> SigningKey:
        """A fresh key from the operating system's random source."""
        return cls(secrets.token_bytes(KEY_BYTES))

    def private_bytes(self) -> bytes:
        """The 32 bytes of the private key, to be sealed by the caller."""
        return self._key.private_bytes_raw()

    def sign(self, text: bytes) -> bytes:
        """The signature of ``text``: 64 bytes."""
        return self._key.sign(text)


def verify(public: bytes, signature: bytes, text: bytes) -> None:
    """Raise ``PeerKeyError`` unless ``signature`` is that of ``text`` under ``public``."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, text)
    except (InvalidSignature, ValueError):
        raise PeerKeyError("A signature is not by the roster's key over what came with it: refuse the round.") from None


class AgreementKey(Secret):
    """An X25519 key. Its private bytes are clamped, so that as a whole number they are below 2^255 − 19."""

    __slots__ = ("_key", "_private", "public")

    def __init__(self, private: bytes) -> None:
        if len(private) != KEY_BYTES:
            raise ValueError(f"Expected an agreement key of {KEY_BYTES} bytes, got {len(private)}.")
        # RFC 7748, section 5: what X25519 does to a scalar anyway.
        self._private = bytes((private[0] & 248,)) + private[1:31] + bytes((private[31] & 127 | 64,))
        self._key = X25519PrivateKey.from_private_bytes(self._private)
        self.public = self._key.public_key().public_bytes_raw()

    def private_bytes(self) -> bytes:
        """The clamped private key: 32 bytes."""
        return self._private

    def agree(self, public: bytes) -> bytes:
        """The secret shared with the holder of ``public``: 32 bytes. Raises ``PeerKeyError`` for a key of low order."""
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise PeerKeyError("A peer's key is of low order, so its masks would hide nothing: refuse it.") from None


def derive_key(secret: bytes, label: str, *, salt: bytes, info: bytes = b"", size: int = KEY_BYTES) -> bytes:
    """``size`` bytes for the purpose named by ``label`` and ``info`` (HKDF-SHA256)."""
    context = b"tacit/secagg/1/" + label.encode("ascii") + b"\0" + info
    return HKDF(algorithm=SHA256(), length=size, salt=salt, info=context).derive(secret)
