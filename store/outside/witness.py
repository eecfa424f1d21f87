"""Witnesses: values outside the store by which it notices that it was put back to an earlier state.

A witness keeps one sighting: the counter of the store's commits, a hash of its state, and the ratchet (what a budget
has spent). It is sealed, always 384 bytes, and new each time, so whoever holds it, such as a server, learns not even
whether anything changed:

    salt (16, random) ‖ commitment (32) ‖ AES-256-GCM under the cipher key, nonce zero, of 320 bytes ‖ tag (16)
    cipher key (32) ‖ commitment (32) = HKDF-SHA512(key, salt, lp("tacit", u32(2), store id, "witness"))
    320 bytes = counter (u64) ‖ root (32) ‖ length of the ratchet (u16) ‖ ratchet ‖ zeros

>>> sighting = Sighting(counter=7, root=bytes(32), ratchet=b"spent")
>>> open_sighting(bytes(32), bytes(16), seal_sighting(bytes(32), bytes(16), sighting)) == sighting
True

That the commitment comes from the same HKDF as the cipher key follows Bellare and Hoang 2022, as in ``keys/crypto.py``.
"""

from __future__ import annotations

import base64
import hmac
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from store.disk.folders import make_folder, new_file, refuse_inside, state_folder, sync_folder
from store.errors import StoreError, TamperedError
from store.format.head import MAX_RATCHET_BYTES
from store.format.parts import prefixed
from store.keys.crypto import FORMAT, MAGIC, SALT_BYTES, TAG_BYTES
from store.keys.keychain import check_name, get_entry, put_entry

WITNESS_BYTES = 384
_HASH_BYTES = 32
_HEAD = struct.Struct(">Q32sH")
_PLAIN_BYTES = WITNESS_BYTES - SALT_BYTES - 32 - TAG_BYTES
_NONCE = bytes(12)  # Each salt gives a key of its own, which seals once.


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """How far a store has come: ``counter`` of commits, ``root`` a hash (32 bytes), ``ratchet`` (at most 192 bytes)."""

    counter: int
    root: bytes
    ratchet: bytes

    def __post_init__(self) -> None:
        """Refuse what does not fit. Raises ``ValueError``."""
        if not 0 <= self.counter < 2**64 or len(self.root) != _HASH_BYTES or len(self.ratchet) > MAX_RATCHET_BYTES:
            raise ValueError(
                f"Expected a counter of 64 bits, a root of {_HASH_BYTES} bytes and a ratchet of at most "
                f"{MAX_RATCHET_BYTES}, got a root of {len(self.root)} and a ratchet of {len(self.ratchet)}."
            )


def seal_sighting(key: bytes, store_id: bytes, sighting: Sighting) -> bytes:
    """The sighting sealed under ``key`` for this store: 384 bytes, different each time."""
    return _seal_with_salt(os.urandom(SALT_BYTES), key, store_id, sighting)


def _seal_with_salt(salt: bytes, key: bytes, store_id: bytes, sighting: Sighting) -> bytes:
    """The deterministic half of :func:`seal_sighting`, for test vectors only: a salt used twice breaks the cipher."""
    cipher_key, commitment = _derive(key, salt, store_id)
    head = _HEAD.pack(sighting.counter, sighting.root, len(sighting.ratchet))
    plain = (head + sighting.ratchet).ljust(_PLAIN_BYTES, b"\0")
    return salt + commitment + AESGCM(cipher_key).encrypt(_NONCE, plain, None)


def open_sighting(key: bytes, store_id: bytes, data: object) -> Sighting:
    """The sighting in ``data``. Raises ``TamperedError`` unless it was sealed under ``key`` for this store."""
    if not isinstance(data, bytes) or len(data) != WITNESS_BYTES:
        raise _tampered()
    salt, given, sealed = data[:SALT_BYTES], data[SALT_BYTES : SALT_BYTES + 32], data[SALT_BYTES + 32 :]
    cipher_key, commitment = _derive(key, salt, store_id)
    if not hmac.compare_digest(commitment, given):
        raise _tampered()
    try:
        plain = AESGCM(cipher_key).decrypt(_NONCE, sealed, None)
    except InvalidTag:
        raise _tampered() from None
    counter, root, length = _HEAD.unpack_from(plain)
    ratchet, rest = plain[_HEAD.size : _HEAD.size + length], plain[_HEAD.size + length :]
    if length > MAX_RATCHET_BYTES or any(rest):
        raise _tampered()
    return Sighting(counter=counter, root=root, ratchet=ratchet)


class Witness(Protocol):
    """Where a sealed sighting is kept, outside the store. Both raise ``StoreError``."""

    def read(self) -> bytes | None:
        """What was written last, or ``None`` if nothing was."""
        ...

    def write(self, data: bytes) -> None:
        """Keep ``data`` in place of what was there; durable when it returns, never half of it."""
        ...


class AnchorFile:
    """A sighting in a file of its own, mode 0600. In the store's folder it would be put back along with the store."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"AnchorFile({str(self.path)!r})"

    def read(self) -> bytes | None:
        """See :class:`Witness`. Symbolic links are refused."""
        with self._typed("read"):
            try:
                # Non-blocking, so that a pipe in the file's place is refused instead of waited for.
                descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                return None
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise StoreError(f"The witness {self.path} is no regular file: name the file that a store wrote.")
                return os.read(descriptor, WITNESS_BYTES + 1)
            finally:
                os.close(descriptor)

    def write(self, data: bytes) -> None:
        """See :class:`Witness`. Makes missing folders, mode 0700."""
        with self._typed("written"):
            make_folder(self.path.parent)
            with new_file(self.path, data) as new:
                new.rename(self.path)
            sync_folder(self.path.parent)

    def refuse_inside(self, folder: Path | str) -> None:
        """Raise ``KeyFileError`` if the file lies in the store's folder."""
        refuse_inside(self.path, folder, "witness")

    @contextmanager
    def _typed(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"The witness {self.path} cannot be {done} ({error.strerror}): check the folder and the disk."
            ) from None


class KeychainWitness:
    """A sighting in the operating system's keychain, under the service "tacit" and the entry "witness NAME", in base64.

    ``name`` is the caller's, one for each store. Needs the package ``keyring``: ``pip install 'tacit[keychain]'``.
    """

    def __init__(self, name: str) -> None:
        self._entry = f"witness {check_name(name)}"

    def read(self) -> bytes | None:
        """See :class:`Witness`. What is no base64 reads as no bytes at all, which no store has sealed."""
        text = get_entry(self._entry)
        try:
            return None if text is None else base64.b64decode(text, validate=True)
        except ValueError:
            return b""

    def write(self, data: bytes) -> None:
        """See :class:`Witness`."""
        put_entry(self._entry, base64.b64encode(data).decode("ascii"))


class MemoryWitness:
    """A sighting that the caller carries elsewhere, such as to a server: ``value``."""

    def __init__(self, value: bytes | None = None) -> None:
        self.value = value

    def read(self) -> bytes | None:
        """See :class:`Witness`."""
        return self.value

    def write(self, data: bytes) -> None:
        """See :class:`Witness`."""
        self.value = data


def default_anchor(store_id: bytes) -> AnchorFile:
    """The witness of this store in the state folder."""
    return AnchorFile(state_folder() / f"{store_id.hex()}.anchor")


def _derive(key: bytes, salt: bytes, store_id: bytes) -> tuple[bytes, bytes]:
    """Cipher key and commitment."""
    info = prefixed(MAGIC, struct.pack(">I", FORMAT), store_id, b"witness")
    derived = HKDF(algorithm=SHA512(), length=64, salt=salt, info=info).derive(key)
    return derived[:32], derived[32:]


def _tampered() -> TamperedError:
    return TamperedError("The witness was changed, or is another store's: put back the one that this store wrote.")
