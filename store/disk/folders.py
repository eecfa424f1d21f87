"""Folders and new files: where what is kept beside a store lies by default, private to its owner and durable."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from store.errors import DeviceSecretError, KeyFileError


def state_folder() -> Path:
    """Where secrets and witnesses lie by default: $TACIT_STATE_DIR, else $XDG_STATE_HOME/tacit or ~/.local/state/tacit.

    It is made when something is put there, mode 0700.
    """
    try:
        return user_folder("TACIT_STATE_DIR", "XDG_STATE_HOME", ".local/state")
    except RuntimeError:
        raise DeviceSecretError("This user has no home folder for the device secret: set TACIT_STATE_DIR.") from None


def user_folder(own: str, standard: str, below_home: str) -> Path:
    """The folder that the variable ``own`` names, else "tacit" in that of ``standard`` or in ``below_home``.

    Raises ``RuntimeError`` for a user without a home folder.
    """
    chosen = os.environ.get(own)
    if chosen:
        return Path(chosen).absolute()
    base = Path(os.environ.get(standard, ""))
    return (base if base.is_absolute() else Path.home() / below_home) / "tacit"


def refuse_inside(path: Path, folder: Path | str, what: str) -> None:
    """Raise ``KeyFileError`` if ``path``, or what it links to, lies in the store's ``folder``."""
    inside = Path(os.path.realpath(folder))
    for place in (Path(os.path.realpath(path)), Path(os.path.realpath(path.parent)) / path.name):
        if place.is_relative_to(inside):
            raise KeyFileError(f"The {what} {path} lies inside the store's folder {inside}: keep it elsewhere.")


def make_folder(folder: Path) -> None:
    """Make ``folder`` and what is missing above it, mode 0700, durably."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_file(path: Path, content: bytes) -> Iterator[Path]:
    """A durable file of ``content`` beside ``path``, mode 0600, to be linked or renamed; deleted if still there."""
    new = path.parent / f".{path.name}.{secrets.token_hex(8)}.new"
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)  # Whatever the umask left of it.
            while content:
                content = content[os.write(descriptor, content) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        yield new
    finally:
        new.unlink(missing_ok=True)
