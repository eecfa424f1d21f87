"""The publisher whom an owner trusts: a device loads no other shared models than those that it signed.

The publisher's Ed25519 key (RFC 8032) is not the server's: who runs the rounds cannot put a model of its own on the
devices. It signs the hash of what a model holds (`Checkpoint.content_hash`), after a label that no other text begins
with that the same key signs, such as a roster of devices. A file's signature lies beside it, FILE.sig: one line of 128
hexadecimal digits.

>>> from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
>>> key = Ed25519PrivateKey.from_private_bytes(bytes(32))
>>> signature = key.sign(signed_text(b"h" * 32))
>>> require_signed(lambda: b"h" * 32, signature, None, publisher=key.public_key().public_bytes_raw())
"""

from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from engine.errors import PublisherError

KEY_BYTES, SIGNATURE_BYTES = 32, 64
_LABEL = b"tacit/publisher/1/model\0"


def signed_text(content_hash: bytes) -> bytes:
    """What is signed for a model with this hash (32 bytes)."""
    return _LABEL + content_hash


def require_signed(
    content_hash: Callable[[], bytes], signature: bytes | None, file: Path | None, *, publisher: bytes | None
) -> None:
    """Raise `PublisherError` unless a model is signed by ``publisher``, or there is none.

    ``signature`` may be ``None`` where the model is that of ``file``, beside which it lies then.
    """
    if publisher is None:
        if signature is not None:
            raise PublisherError("This device trusts no publisher, so it checks no signature: name its key first.")
        return
    if signature is None:
        if file is None:
            raise PublisherError("This model is not signed, and this device takes signed ones only: get the signature.")
        signature = read_signature(file)
    try:
        Ed25519PublicKey.from_public_bytes(publisher).verify(signature, signed_text(content_hash()))
    except (InvalidSignature, ValueError):
        raise PublisherError(
            "This model's signature is not that of the publisher whom this device trusts: do not use it."
        ) from None


def signature_file(model: Path) -> Path:
    """Where the signature of a model's file lies."""
    return model.with_name(model.name + ".sig")


def read_signature(model: Path) -> bytes:
    """Return the signature beside a model's file (64 bytes). Raises `PublisherError`."""
    path = signature_file(model)
    try:
        line = path.read_bytes()
    except FileNotFoundError:
        raise PublisherError(
            f"There is no signature at {path}, and this device takes signed models only: get it from the publisher."
        ) from None
    except OSError as error:
        raise PublisherError(f"Cannot read the signature {path}: {error.strerror}.") from None
    try:
        signature = bytes.fromhex(line.decode("ascii").strip())
        if len(signature) != SIGNATURE_BYTES:
            raise ValueError
    except ValueError:
        raise PublisherError(f"{path} is no signature of {2 * SIGNATURE_BYTES} digits: get it again.") from None
    return signature


def check_key(key: bytes) -> None:
    """Raise ValueError unless ``key`` can be an Ed25519 public key."""
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        raise ValueError(f"Expected a publisher's key of {KEY_BYTES} bytes.")
