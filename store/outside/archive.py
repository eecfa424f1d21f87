"""Archives: what a store exports as a whole, sealed under a recovery key of the archive's own, or plain for its owner.

A sealed archive is a head and chunks (STREAM, Hoang, Reyhanitabar, Rogaway and Vizár 2015, "Online Authenticated-
Encryption and its Nonce-Reuse Misuse-Resistance"):

    head  = "TACITARC" ‖ version 1 (u32) ‖ salt (32) ‖ commitment (32) ‖ SHA-256 over what is before it (32)
    cipher key (32) ‖ commitment (32) = HKDF-SHA512(recovery key, salt, lp("TACITARC", u32(1), "archive"))
    chunk = AES-256-GCM(cipher key, nonce, 65,536 bytes) ‖ tag (16)
    nonce = 7 zeros ‖ the chunk's number from 0 (u32) ‖ 1 for the last chunk, 0 for the others
    plain = u32(length) ‖ header as JSON ‖ (u32(length) ‖ item)… ‖ u32(2^32 - 1) ‖ zeros

All chunks are full: ``plain`` is padded to its size class (``format/padding.py``) and then to whole chunks, so that the
file's size tells the size of what is inside to an eighth at best. A chunk that is changed, moved, missing or added
fails, and nothing of a chunk is handed out before it was authenticated. That a file was cut is known at its last chunk
only: take all of an archive in, or nothing.

A plain archive is JSON lines in UTF-8: the header, then a row a line. Nothing protects it.

Files appear under their names whole, durable, mode 0600, and never replace one.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from store.disk.folders import sync_folder
from store.errors import ArchiveError, StoreFullError, TamperedError, UnknownFormatError, WrongKeyError
from store.format.padding import size_class
from store.format.parts import prefixed
from store.keys.crypto import TAG_BYTES
from store.keys.recovery import RecoveryKey

MAGIC = b"TACITARC"
VERSION = 1
CHUNK_BYTES = 65_536
MAX_ITEM_BYTES = 16 * 1024 * 1024
_SALT_BYTES = 32
_HEAD = struct.Struct(">8sI32s32s")
HEAD_BYTES = _HEAD.size + 32
_LENGTH = struct.Struct(">I")
_END = 2**32 - 1
_NONCE = struct.Struct(">7xIB")
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MAX_LINE_BYTES = 2 * MAX_ITEM_BYTES
_SURROGATE = re.compile("[\ud800-\udfff]")
_Value = TypeVar("_Value")


def write_archive(path: Path, key: RecoveryKey, header: Mapping[str, object], items: Iterable[bytes]) -> int:
    """Seal ``header`` and ``items`` (each at most 16 MiB) into the new file ``path``; how many items.

    Raises ``ArchiveError`` if the file exists or cannot be made, ``StoreFullError`` if the disk is full; an error of
    ``items`` passes through. Then there is no file.
    """
    count = 0

    def counted() -> Iterator[bytes]:
        nonlocal count
        for item in items:
            count += 1
            yield item

    with _new_file(path) as append:
        for part in _sealed(os.urandom(_SALT_BYTES), key, header, counted()):
            append(part)
    return count


def read_archive(path: Path, key: RecoveryKey) -> tuple[dict[str, Any], Iterator[bytes]]:
    """The header of the archive at ``path``, and its items, which are read as they are asked for.

    Both raise ``TamperedError`` for what is not as it was written; the items do so at the end if the archive was cut,
    so use none before all are there. Raises ``WrongKeyError``, ``UnknownFormatError`` if the file is no archive or one
    of a newer version, ``ArchiveError`` if it cannot be read.
    """
    items = _items(path, key)
    try:
        header = json.loads(next(items, b""))
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise _tampered(path)
    return header, items


def write_plain(path: Path, header: Mapping[str, object], rows: Iterable[Mapping[str, object]]) -> int:
    """Write ``header`` and ``rows`` into the new file ``path``, one JSON object a line, unsealed; how many rows.

    Raises as :func:`write_archive` does.
    """
    lines = -1
    with _new_file(path) as append:
        for row in chain([header], rows):
            text = json.dumps(dict(row), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            append(text.encode() + b"\n")
            lines += 1
    return lines


def write_new(path: Path, content: bytes) -> None:
    """Write ``content`` into the new file ``path``, unsealed, mode 0600. Raises as :func:`write_archive` does."""
    with _new_file(path) as append:
        append(content)


def read_plain(path: Path) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """The header of the plain archive at ``path``, and its rows, which are read as they are asked for.

    Both raise ``ArchiveError``, which names the line and quotes nothing of it. Empty lines are passed over.
    """
    rows = _rows(path)
    header = next(rows, None)
    if header is None:
        raise ArchiveError(f"{path} is empty: export it again.")
    return header, rows


# Sealing


def _sealed(salt: bytes, key: RecoveryKey, header: Mapping[str, object], items: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes of an archive, in parts. Deterministic, for test vectors: a salt used twice breaks the cipher."""
    cipher_key, commitment = _derive(key, salt)
    head = _HEAD.pack(MAGIC, VERSION, salt, commitment)
    yield head + hashlib.sha256(head).digest()
    aead = AESGCM(cipher_key)
    first = json.dumps(dict(header), ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    chunks = _chunks(chain([first.encode()], items))
    for number, (chunk, is_last) in enumerate(_with_last(chunks)):
        yield aead.encrypt(_NONCE.pack(number, is_last), chunk, None)


def _chunks(items: Iterable[bytes]) -> Iterator[bytes]:
    """``items`` one after the other, the end mark and the padding, in chunks of 65,536 bytes."""
    buffer, total = bytearray(), 0
    for part in chain(map(_framed, items), [_LENGTH.pack(_END)]):
        buffer += part
        total += len(part)
        while len(buffer) >= CHUNK_BYTES:
            yield bytes(buffer[:CHUNK_BYTES])
            del buffer[:CHUNK_BYTES]
    if buffer:
        yield bytes(buffer.ljust(CHUNK_BYTES, b"\0"))
    for _ in range(-(-total // CHUNK_BYTES), _chunk_count(total)):
        yield bytes(CHUNK_BYTES)


def _framed(item: bytes) -> bytes:
    if not isinstance(item, bytes) or len(item) > MAX_ITEM_BYTES:
        raise ValueError(f"Expected items of at most {MAX_ITEM_BYTES} bytes for the archive.")
    return _LENGTH.pack(len(item)) + item


def _chunk_count(total: int) -> int:
    """How many chunks carry ``total`` bytes once they are padded."""
    return -(-size_class(total) // CHUNK_BYTES)


def _derive(key: RecoveryKey, salt: bytes) -> tuple[bytes, bytes]:
    """Cipher key and commitment."""
    info = prefixed(MAGIC, struct.pack(">I", VERSION), b"archive")
    derived = HKDF(algorithm=SHA512(), length=64, salt=salt, info=info).derive(key._key)
    return derived[:32], derived[32:]


def _with_last(values: Iterable[_Value]) -> Iterator[tuple[_Value, bool]]:
    """Each value, and whether it is the last."""
    waiting = iter(values)
    try:
        value = next(waiting)
    except StopIteration:
        return
    for after in waiting:
        yield value, False
        value = after
    yield value, True


# Opening


def _items(path: Path, key: RecoveryKey) -> Iterator[bytes]:
    """The header's JSON, then the items."""
    with _existing_file(path) as file:
        aead = _open_head(path, key, file.read(HEAD_BYTES))
        buffer, ended, count, total = bytearray(), False, 0, 0
        for chunk in _opened(path, aead, file):
            count += 1
            buffer += chunk
            while not ended and len(buffer) >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(buffer)
                if length == _END:
                    ended, total = True, count * CHUNK_BYTES - len(buffer) + _LENGTH.size
                    del buffer[: _LENGTH.size]
                elif length > MAX_ITEM_BYTES:
                    raise _tampered(path)
                elif len(buffer) < _LENGTH.size + length:
                    break
                else:
                    item = bytes(buffer[_LENGTH.size : _LENGTH.size + length])
                    del buffer[: _LENGTH.size + length]
                    yield item
            if ended:
                if any(buffer):
                    raise _tampered(path)
                buffer.clear()
        if not ended or count != _chunk_count(total):
            raise _tampered(path)


def _open_head(path: Path, key: RecoveryKey, head: bytes) -> AESGCM:
    """The cipher of the archive that begins with ``head``. Raises what :func:`read_archive` does."""
    if not head.startswith(MAGIC[: len(head)]):
        raise UnknownFormatError(f"{path} is no sealed archive of Tacit: check the path.")
    if len(head) < HEAD_BYTES:
        raise _tampered(path)
    _magic, version, salt, commitment = _HEAD.unpack_from(head)
    if version > VERSION:
        raise UnknownFormatError(f"{path} is an archive of version {version}, not {VERSION}: install a newer Tacit.")
    if version != VERSION or hashlib.sha256(head[: _HEAD.size]).digest() != head[_HEAD.size :]:
        raise _tampered(path)
    cipher_key, own = _derive(key, salt)
    if not hmac.compare_digest(own, commitment):
        raise WrongKeyError(f"This recovery key does not open {path}: give the one that was shown at its export.")
    return AESGCM(cipher_key)


def _opened(path: Path, aead: AESGCM, file: BinaryIO) -> Iterator[bytes]:
    """The chunks, each authenticated. Raises ``TamperedError``."""
    sealed_chunks = iter(lambda: file.read(CHUNK_BYTES + TAG_BYTES), b"")
    for number, (sealed, is_last) in enumerate(_with_last(sealed_chunks)):
        if len(sealed) != CHUNK_BYTES + TAG_BYTES or number >= 2**32:
            raise _tampered(path)
        try:
            chunk = aead.decrypt(_NONCE.pack(number, is_last), sealed, None)
        except InvalidTag:
            raise _tampered(path) from None
        yield chunk


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with _existing_file(path) as file:
        lines = iter(lambda: file.readline(_MAX_LINE_BYTES + 1), b"")
        for number, line in enumerate(lines, 1):
            if number == 1 and line.startswith(MAGIC):
                raise ArchiveError(f"{path} is a sealed archive: read it with its recovery key.")
            if len(line) > _MAX_LINE_BYTES:
                raise ArchiveError(f"Line {number} of {path} is longer than {_MAX_LINE_BYTES} bytes: split it.")
            if not line.strip():
                continue
            yield _row(path, number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_refuse)
        if b"\\" in line and _SURROGATE.search(json.dumps(row, ensure_ascii=False)):
            raise ValueError  # Half of a character, which no text can hold.
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise ArchiveError(f"Line {number} of {path} is no JSON object in UTF-8: correct the line, or export again.")
    return row


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON.")


def _tampered(path: Path) -> TamperedError:
    return TamperedError(f"The archive {path} was changed or cut since it was written: use another copy of it.")


# Files


@contextmanager
def _new_file(path: Path) -> Iterator[Callable[[bytes], None]]:
    """A function that appends to a file under construction, which becomes ``path`` if the block ends well."""
    if os.path.lexists(path):
        raise _in_the_way(path)
    new = path.parent / f".tacit-{secrets.token_hex(8)}.new"
    with _typed(path):
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def append(content: bytes) -> None:
        with _typed(path):
            while content:
                content = content[os.write(descriptor, content) :]

    try:
        try:
            with _typed(path):
                os.fchmod(descriptor, 0o600)  # Whatever the umask left of it.
            yield append
            with _typed(path):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with _typed(path):
            _publish(new, path)
    finally:
        new.unlink(missing_ok=True)


def _publish(new: Path, path: Path) -> None:
    """Give the finished file its name, durably, or leave none."""
    try:
        os.link(new, path)
    except OSError as error:
        if error.errno not in _NO_LINKS or os.path.lexists(path):
            raise
        # A file system without hard links: here two writers at the same instant are not kept apart.
        new.rename(path)
    try:
        sync_folder(path.parent)
    except OSError:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def _existing_file(path: Path) -> Iterator[BinaryIO]:
    """The regular file ``path``, to be read from its beginning."""
    try:
        # Non-blocking, so that a pipe in the file's place is refused instead of waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ArchiveError(f"{path} is no regular file: name an archive that export made.")
        with os.fdopen(descriptor, "rb") as file:
            yield file
    except (FileNotFoundError, NotADirectoryError):
        raise ArchiveError(f"There is no archive at {path}: check the path.") from None
    except OSError as error:
        raise ArchiveError(f"The archive {path} cannot be read ({error.strerror}): check its mode and disk.") from None


@contextmanager
def _typed(path: Path) -> Iterator[None]:
    """Errors of the file system, where an archive is written, as this package's own."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise ArchiveError(f"There is no folder {path.parent}: make it first, or choose another path.") from None
    except FileExistsError:
        raise _in_the_way(path) from None
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFullError(f"The disk is full, {path} was not made: free some space, then repeat.") from None
        raise ArchiveError(f"{path} cannot be written ({error.strerror}): check the folder and the disk.") from None


def _in_the_way(path: Path) -> ArchiveError:
    if path.is_dir():
        return ArchiveError(f"{path} is a folder: name a file in it that does not exist yet.")
    return ArchiveError(f"{path} exists and is not overwritten: choose another name.")
