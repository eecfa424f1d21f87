"""What opens a store: a passphrase, or a device key of 32 bytes.

A passphrase is stretched with Argon2id (RFC 9106; 64 MiB, 3 passes, 1 lane by default). A device key is
uniformly random already, so one HKDF is enough, which is what lets a simulation open 300 stores in a
second. Neither object prints, pickles or copies its secret.

>>> Passphrase("correct horse battery staple")
Passphrase(***)
>>> DeviceKey.generate()
DeviceKey(***)
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from store.disk.folders import sync_folder
from store.errors import DeviceSecretError, KeyFileError, TamperedError
from store.keys.crypto import KEY_BYTES, Secret, hkdf
from store.keys.keychain import drop_entry, get_entry, put_entry
from store.keys.recovery import RecoveryKey

SLOT_SALT_BYTES = 16
MAX_PASSPHRASE_BYTES = 4096


class Passphrase(Secret):
    """A passphrase, compared in Unicode's composed form (NFC) so that every keyboard gives the same key."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"Expected the passphrase as text, got {type(text).__name__}.")
        try:
            encoded = unicodedata.normalize("NFC", text).encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("Expected the passphrase in valid Unicode: type it again.") from None
        if not 1 <= len(encoded) <= MAX_PASSPHRASE_BYTES:
            raise ValueError(f"Expected a passphrase of 1 to {MAX_PASSPHRASE_BYTES} bytes, got {len(encoded)}.")
        self._text = encoded


class DeviceKey(Secret):
    """A random key of exactly 32 bytes, held by the caller or in a file that only its owner can read."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if not isinstance(key, bytes) or len(key) != KEY_BYTES:
            size = f"{len(key)}" if isinstance(key, bytes) else type(key).__name__
            raise ValueError(f"Expected a device key of {KEY_BYTES} bytes, got {size}: use DeviceKey.generate().")
        self._key = key

    @classmethod
    def generate(cls) -> DeviceKey:
        """A fresh key from the operating system's random source."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def from_file(cls, path: Path | str) -> DeviceKey:
        """The key in the regular file ``path``: 32 raw bytes, mode 0600 or stricter. Raises ``KeyFileError``."""
        return cls(read_key_file(path))

    def write(self, path: Path | str) -> None:
        """Write the key to the new file ``path``, mode 0600, durably. Raises ``KeyFileError``; never overwrites."""
        write_key_file(path, self._key)


def read_key_file(path: Path | str) -> bytes:
    """The 32 bytes of the regular file ``path``, mode 0600 or stricter. Raises ``KeyFileError``."""
    try:
        # Non-blocking, so that a pipe in the file's place is refused below instead of waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise KeyFileError(f"The key file {path} cannot be read ({error.strerror}): check the path.") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileError(f"{path} is no regular file: name a file that holds {KEY_BYTES} bytes.")
        if status.st_mode & 0o177 or not status.st_mode & stat.S_IRUSR:
            mode = stat.S_IMODE(status.st_mode)
            raise KeyFileError(f"The key file {path} has mode {mode:04o}, not 0600: run chmod 600 {path}")
        key = os.read(descriptor, KEY_BYTES + 1)
    finally:
        os.close(descriptor)
    if status.st_size != KEY_BYTES or len(key) != KEY_BYTES:
        raise KeyFileError(
            f"The key file {path} holds {status.st_size} bytes, not {KEY_BYTES}: name a file that holds a key."
        )
    return key


def write_key_file(path: Path | str, key: bytes) -> None:
    """Write ``key`` (32 bytes) to the new file ``path``, mode 0600, durably, or none. Raises ``KeyFileError``."""
    path = Path(path)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise KeyFileError(f"{path} exists and is not overwritten: choose another name.") from None
    except OSError as error:
        raise KeyFileError(f"The key file {path} cannot be written ({error.strerror}): check the path.") from None
    try:
        try:
            os.fchmod(descriptor, 0o600)  # Whatever the umask left of it.
            if os.write(descriptor, key) != KEY_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(path.parent)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise KeyFileError(f"The key file {path} cannot be written ({error.strerror}): free some space.") from None


class KeychainKey(DeviceKey):
    """A device key that lies in the operating system's keychain, under the service ``tacit`` and a name.

    Needs the package ``keyring``: ``pip install 'tacit[keychain]'``.
    """

    __slots__ = ()

    @classmethod
    def create(cls, name: str) -> KeychainKey:
        """A fresh key, put into the keychain under ``name``. Raises ``KeyFileError``; never overwrites."""
        with _keychain_errors():
            if get_entry(f"key {name}") is not None:
                raise KeyFileError(f"The keychain holds a key named {name!r} already: choose another name.")
            key = cls(secrets.token_bytes(KEY_BYTES))
            put_entry(f"key {name}", key._key.hex())
            return key

    @classmethod
    def load(cls, name: str) -> KeychainKey:
        """The key under ``name``. Raises ``KeyFileError``."""
        with _keychain_errors():
            text = get_entry(f"key {name}")
        if text is None:
            raise KeyFileError(f"The keychain holds no key named {name!r}: check the name, or use another slot.")
        try:
            return cls(bytes.fromhex(text))
        except ValueError:
            raise KeyFileError(f"What the keychain holds under {name!r} is no key of 32 bytes: check it.") from None

    @classmethod
    def discard(cls, name: str) -> None:
        """Delete the key under ``name`` from the keychain."""
        with _keychain_errors():
            drop_entry(f"key {name}")


@contextmanager
def _keychain_errors() -> Iterator[None]:
    """What the keychain refuses as an error about a key; the keychain itself is ``keychain.py``'s."""
    try:
        yield
    except DeviceSecretError as error:
        raise KeyFileError(str(error)) from None


Unlock = Passphrase | DeviceKey | RecoveryKey


def kind_of(unlock: Unlock) -> str:
    """The kind of slot that ``unlock`` opens. Raises ``TypeError`` for anything else than an unlock."""
    kinds = {Passphrase: "passphrase", KeychainKey: "keychain", DeviceKey: "device-key", RecoveryKey: "recovery-key"}
    for kind, name in kinds.items():
        if isinstance(unlock, kind):
            return name
    raise TypeError(f"Expected a Passphrase, DeviceKey or RecoveryKey, got {type(unlock).__name__}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Argon2:
    """Cost of Argon2id. The bounds keep a forged header from asking for a terabyte or for an hour."""

    memory_kib: int = 64 * 1024
    passes: int = 3
    lanes: int = 1

    def __post_init__(self) -> None:
        bounds = {"memory_kib": (8 * 1024, 512 * 1024), "passes": (1, 16), "lanes": (1, 4)}
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise TamperedError(
                    f"The header asks for Argon2id with {name} outside {low} to {high}: restore the store "
                    "from a backup."
                )


def stretch(unlock: Unlock, salt: bytes, cost: Argon2) -> bytes:
    """The 32-byte key-encryption key that ``unlock`` stands for; ``cost`` counts for passphrases only."""
    if isinstance(unlock, (DeviceKey, RecoveryKey)):
        return hkdf(unlock._key, "tacit/2/device-key", salt=salt)
    argon2 = Argon2id(
        salt=salt, length=KEY_BYTES, iterations=cost.passes, lanes=cost.lanes, memory_cost=cost.memory_kib
    )
    return argon2.derive(unlock._text)


def refuse_key_inside(key_path: Path | str, store_folder: Path | str) -> None:
    """Raise ``KeyFileError`` if the key file lies in the store's folder: whoever copies one would get both."""
    folder = Path(store_folder).resolve()
    if Path(key_path).resolve().is_relative_to(folder):
        raise KeyFileError(f"The key file {key_path} lies inside the store's folder {folder}: keep it elsewhere.")
