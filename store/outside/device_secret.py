"""The device secret: the part of a store's keys that lies outside its folder and can be destroyed.

The root of epoch e opens only with the secret of epoch e. A forget prepares the next secret beside the current one,
commits the store to it, and then destroys the current one. So a provider holds one secret, or two with epochs that
follow each other, and keeps these promises:

- each change is durable when it returns; a crash at any point leaves the current or the next secret readable;
- ``prepare`` never touches the secret before it, ``commit`` never one after it, so that processes that share a store
  cannot take each other's secret away.

What is out of reach: a copy of the secret made before a forget, and what a file system or a flash drive keeps of
overwritten blocks (Wei et al. 2011, "Reliably Erasing Data From Flash-Based Solid State Drives"). A keychain backed by
hardware does better than a file.

>>> import tempfile
>>> secret = FileSecret(Path(tempfile.mkdtemp()) / "home.secret")
>>> secret.create(1, bytes(32)); secret.prepare(2, bytes(32)); sorted(secret.read())
[1, 2]
>>> secret.commit(2); sorted(secret.read())
[2]
"""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from store.disk.folders import make_folder, new_file, refuse_inside, state_folder, sync_folder
from store.errors import DeviceSecretError
from store.keys.crypto import KEY_BYTES
from store.keys.keychain import check_name, drop_entry, get_entry, put_entry

PAGE_BYTES = 4096
_MAGIC = b"TACITSEC"
_VERSION = 1
_HEAD = struct.Struct(">8sIQ32s")
ENTRY_BYTES = _HEAD.size + 32
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class DeviceSecret(Protocol):
    """Where the secrets are kept, by epoch (1 or more), 32 bytes each. All raise ``DeviceSecretError``."""

    def read(self) -> dict[int, bytes]:
        """The secrets by epoch: the current one and, while a forget runs, the one beside it."""
        ...

    def exists(self) -> bool:
        """Whether anything lies in this place, readable or not."""
        ...

    def create(self, epoch: int, secret: bytes) -> None:
        """Keep the first secret; refuses where one exists."""
        ...

    def prepare(self, epoch: int, secret: bytes) -> None:
        """Keep this one beside that of ``epoch - 1``, which must be there; replaces an earlier prepared one."""
        ...

    def commit(self, epoch: int) -> None:
        """Destroy the secrets of earlier epochs. Does nothing if a later epoch has taken over already."""
        ...

    def destroy(self) -> None:
        """Destroy all secrets, and forget the place. Does nothing where there is none."""
        ...


class FileSecret:
    """Secrets in a file outside the store's folder, mode 0600: two pages of 4,096 bytes that are overwritten in place.

    Epoch e lies in page e mod 2, within one disk sector: magic "TACITSEC" ‖ version 1 (u32) ‖ epoch (u64) ‖ secret (32)
    ‖ SHA-256 over what is before it (32), big-endian, then zeros. A page of anything else counts as empty, so a torn
    write is never taken for a secret. Symbolic links, and files that others can read, are refused.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"FileSecret({str(self.path)!r})"

    def read(self) -> dict[int, bytes]:
        """See :class:`DeviceSecret`."""
        with self._opened(change=False) as descriptor:
            found = _entries(descriptor)
        if not found:
            raise DeviceSecretError(
                f"The device secret {self.path} is damaged: put its latest copy back, or import an archive."
            )
        return found

    def exists(self) -> bool:
        """See :class:`DeviceSecret`."""
        return os.path.lexists(self.path)

    def create(self, epoch: int, secret: bytes) -> None:
        """See :class:`DeviceSecret`. Makes missing folders, mode 0700."""
        entry = encode_entry(epoch, secret)
        pages = [bytes(PAGE_BYTES), bytes(PAGE_BYTES)]
        pages[epoch % 2] = entry.ljust(PAGE_BYTES, b"\0")
        with _typed(self.path):
            make_folder(self.path.parent)
            with new_file(self.path, b"".join(pages)) as new:
                try:
                    os.link(new, self.path)
                except OSError as error:
                    if error.errno not in _NO_LINKS or self.exists():
                        raise
                    # A file system without hard links.
                    new.rename(self.path)
            sync_folder(self.path.parent)

    def prepare(self, epoch: int, secret: bytes) -> None:
        """See :class:`DeviceSecret`."""
        entry = encode_entry(epoch, secret)
        with self._opened(change=True) as descriptor:
            _require_earlier(_entries(descriptor), epoch)
            _write_page(descriptor, epoch % 2, entry)

    def commit(self, epoch: int) -> None:
        """See :class:`DeviceSecret`."""
        with self._opened(change=True) as descriptor:
            if _replaces_earlier(_entries(descriptor), epoch):
                # Even if it reads as empty: an earlier sync may have failed.
                _write_page(descriptor, (epoch + 1) % 2, b"")

    def destroy(self) -> None:
        """See :class:`DeviceSecret`. The pages are overwritten before the file is deleted."""
        if not self.exists():
            return
        with self._opened(change=True) as descriptor:
            for page in range(2):
                _write_page(descriptor, page, b"")
            self.path.unlink(missing_ok=True)
            sync_folder(self.path.parent)

    def refuse_inside(self, folder: Path | str) -> None:
        """Raise ``KeyFileError`` if the file lies in the store's folder: whoever copies that would get both."""
        refuse_inside(self.path, folder, "device secret")

    @contextmanager
    def _opened(self, *, change: bool) -> Iterator[int]:
        """A descriptor of the checked file, locked against changes by others."""
        flags = os.O_RDWR if change else os.O_RDONLY
        with _typed(self.path):
            # Non-blocking, so that a pipe in the file's place is refused instead of waited for.
            descriptor = os.open(self.path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                self._check(os.fstat(descriptor))
                fcntl.flock(descriptor, fcntl.LOCK_EX if change else fcntl.LOCK_SH)
                yield descriptor
            finally:
                os.close(descriptor)

    def _check(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise DeviceSecretError(f"{self.path} is no regular file: name the file of the device secret.")
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise DeviceSecretError(f"The device secret {self.path} has mode {mode:04o}: run chmod 600 {self.path}")
        if status.st_size != 2 * PAGE_BYTES:
            raise DeviceSecretError(
                f"The device secret {self.path} holds {status.st_size} bytes, not {2 * PAGE_BYTES}: put its latest "
                "copy back, or import an archive into a new store."
            )


class KeychainSecret:
    """Secrets in the operating system's keychain: service "tacit", entries "secret NAME even" and "secret NAME odd".

    ``name`` is the caller's, one for each store. Epoch e lies in the entry of its parity, as base64 of what
    :class:`FileSecret` keeps in a page. A lock file in the state folder keeps processes apart.
    Needs the package ``keyring``: ``pip install 'tacit[keychain]'``.
    """

    def __init__(self, name: str) -> None:
        self._name = check_name(name)

    def __repr__(self) -> str:
        return f"KeychainSecret({self._name!r})"

    def read(self) -> dict[int, bytes]:
        """See :class:`DeviceSecret`."""
        with self._locked(change=False):
            found = self._found()
        if not found:
            raise DeviceSecretError(
                f"The keychain holds no device secret named {self._name!r}: check the name, and whose keychain it is."
            )
        return found

    def exists(self) -> bool:
        """See :class:`DeviceSecret`."""
        return any(get_entry(self._entry(parity)) is not None for parity in range(2))

    def create(self, epoch: int, secret: bytes) -> None:
        """See :class:`DeviceSecret`."""
        with self._locked(change=True):
            if self.exists():
                raise DeviceSecretError(f"The keychain has a device secret named {self._name!r}: choose another name.")
            self._put(epoch, secret)

    def prepare(self, epoch: int, secret: bytes) -> None:
        """See :class:`DeviceSecret`."""
        with self._locked(change=True):
            _require_earlier(self._found(), epoch)
            self._put(epoch, secret)

    def commit(self, epoch: int) -> None:
        """See :class:`DeviceSecret`."""
        with self._locked(change=True):
            if _replaces_earlier(self._found(), epoch):
                drop_entry(self._entry(epoch + 1))

    def destroy(self) -> None:
        """See :class:`DeviceSecret`."""
        with self._locked(change=True):
            for parity in range(2):
                drop_entry(self._entry(parity))

    def _entry(self, epoch: int) -> str:
        return f"secret {self._name} {'odd' if epoch % 2 else 'even'}"

    def _put(self, epoch: int, secret: bytes) -> None:
        put_entry(self._entry(epoch), base64.b64encode(encode_entry(epoch, secret)).decode("ascii"))

    def _found(self) -> dict[int, bytes]:
        found = {}
        for parity in range(2):
            try:
                entry = base64.b64decode(get_entry(self._entry(parity)) or "", validate=True)
            except ValueError:
                continue
            found.update(_decode_entry(entry, parity))
        return found

    @contextmanager
    def _locked(self, *, change: bool) -> Iterator[None]:
        path = state_folder() / f"{hashlib.sha256(self._name.encode()).hexdigest()[:32]}.lock"
        with _typed(path):
            make_folder(path.parent)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX if change else fcntl.LOCK_SH)
                yield
            finally:
                os.close(descriptor)


def default_secret(store_id: bytes) -> FileSecret:
    """The device secret of this store in the state folder."""
    return FileSecret(state_folder() / f"{store_id.hex()}.secret")


def encode_entry(epoch: int, secret: bytes) -> bytes:
    """The 84 bytes that stand for a secret. Raises ``ValueError`` for an epoch or secret that none has."""
    if not 1 <= epoch < 2**63 or not isinstance(secret, bytes) or len(secret) != KEY_BYTES:
        raise ValueError(f"Expected an epoch from 1 on and a secret of {KEY_BYTES} bytes.")
    head = _HEAD.pack(_MAGIC, _VERSION, epoch, secret)
    return head + hashlib.sha256(head).digest()


def _decode_entry(entry: bytes, parity: int) -> dict[int, bytes]:
    """The secret in ``entry`` by its epoch; nothing if it is not whole, or not of this parity."""
    head = entry[: _HEAD.size]
    if len(entry) != ENTRY_BYTES or hashlib.sha256(head).digest() != entry[_HEAD.size :]:
        return {}
    magic, version, epoch, secret = _HEAD.unpack(head)
    if magic != _MAGIC or version != _VERSION or not 1 <= epoch < 2**63 or epoch % 2 != parity:
        return {}
    return {epoch: secret}


def _entries(descriptor: int) -> dict[int, bytes]:
    found = {}
    for page in range(2):
        found.update(_decode_entry(os.pread(descriptor, ENTRY_BYTES, page * PAGE_BYTES), page))
    return found


def _write_page(descriptor: int, page: int, entry: bytes) -> None:
    """Overwrite a page in place, durably: renaming would leave the old bytes in freed blocks."""
    content, at = entry.ljust(PAGE_BYTES, b"\0"), page * PAGE_BYTES
    while content:
        written = os.pwrite(descriptor, content, at)
        content, at = content[written:], at + written
    os.fdatasync(descriptor)


def _require_earlier(found: Mapping[int, bytes], epoch: int) -> None:
    if epoch - 1 not in found:
        raise DeviceSecretError(
            f"The device secret of epoch {epoch - 1} is not there, so no next one is prepared: open the store again."
        )


def _replaces_earlier(found: Mapping[int, bytes], epoch: int) -> bool:
    """Whether ``epoch`` is the latest there, so that the other place is to be emptied."""
    if max(found, default=0) > epoch:
        return False
    if epoch not in found:
        raise DeviceSecretError(f"The device secret of epoch {epoch} is not there: nothing was destroyed.")
    return True


@contextmanager
def _typed(path: Path) -> Iterator[None]:
    """Errors of the file system as ``DeviceSecretError``."""
    try:
        yield
    except FileNotFoundError:
        raise DeviceSecretError(
            f"The device secret {path} is missing, and without it the store stays closed: put it back there."
        ) from None
    except FileExistsError:
        raise DeviceSecretError(
            f"{path} exists and is not overwritten: choose another name for the device secret."
        ) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DeviceSecretError(f"{path} is a symbolic link: name the file of the device secret itself.") from None
        raise DeviceSecretError(
            f"The device secret {path} cannot be read or changed ({error.strerror}): check the folder and the disk."
        ) from None
