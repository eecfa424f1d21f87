"""Where an archive's recovery key comes from: a file, a prompt, or fresh and shown once."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from federation.cli.unlock import UnlockError, first_line

if TYPE_CHECKING:
    from store import RecoveryKey


@contextlib.contextmanager
def key_for_export(file: Path | None) -> Iterator[tuple["RecoveryKey", str | None]]:
    """Give the key for a new archive and, if it is nowhere else, its text to show.

    A file that is missing is made, mode 0600; a block that fails takes it away again.
    """
    from store import RecoveryKey

    if file is None:
        key = RecoveryKey.generate()
        yield key, key.text()
        return
    if os.path.lexists(file):
        yield key_for_import(file), None
        return
    key = RecoveryKey.generate()
    _write(file, key.text())
    try:
        yield key, None
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def key_for_import(file: Path | None) -> "RecoveryKey":
    """Return the key of an archive, from the file or a prompt. Raises `UnlockError`."""
    from store import RecoveryKey

    if file is None and (sys.stdin is None or not sys.stdin.isatty()):
        raise UnlockError("Nothing to open the archive with: give --recovery-file FILE; the prompt needs a terminal.")
    text = click.prompt("Recovery key", hide_input=True, err=True) if file is None else first_line(file, "recovery key")
    try:
        return RecoveryKey.from_text(text)
    except ValueError as error:
        raise UnlockError(f"This is no recovery key. {error}") from None


def _write(file: Path, text: str) -> None:
    from store.disk.folders import sync_folder

    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as out:
                out.write(text + "\n")
                out.flush()
                os.fsync(out.fileno())
            sync_folder(file.parent)
        except BaseException:
            file.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UnlockError(f"Cannot write the recovery key to {file}: {error.strerror}.") from None
