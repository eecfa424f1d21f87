"""How a command is given what opens a device: three ways, none of which shows in a list of processes.

A file with the passphrase, the environment variable TACIT_PASSPHRASE, or a file with a device key; without any, a
hidden prompt where standard input is a terminal. An option counts more than the environment.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from store import Passphrase, Unlock

VARIABLE = "TACIT_PASSPHRASE"
_MOST_BYTES = 1 << 16


class UnlockError(click.ClickException):
    """What should open the device is missing or unusable: a wrong call."""

    exit_code = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlocking:
    """What the call named; nothing is read before it is asked for."""

    passphrase_file: Path | None
    key_file: Path | None
    recovery_file: Path | None = None
    keychain: str | None = None

    def unlock(self) -> "Unlock":
        """Return what opens an existing device. Raises `UnlockError` and `KeyFileError`."""
        if self.key_file is not None:
            from store import DeviceKey

            return DeviceKey.from_file(self.key_file)
        if self.recovery_file is not None:
            from federation.cli.archive_key import key_for_import

            return key_for_import(self.recovery_file)
        if self.keychain is not None:
            from store import KeychainKey

            return KeychainKey.load(self.keychain)
        return self._passphrase(twice=False)

    @contextlib.contextmanager
    def unlock_new(self, folder: Path, *, keep: bool = True) -> Iterator["Unlock"]:
        """Give what will open the device that the block makes in ``folder``.

        A key file that is missing is made, outside the folder; a block that fails and leaves no store there takes
        the new key file with it, as does, without ``keep``, any that fails.
        """
        if self.key_file is None:
            yield self._passphrase(twice=True)
            return
        from store import DeviceKey, refuse_key_inside

        refuse_key_inside(self.key_file, folder)
        if os.path.lexists(self.key_file):
            yield DeviceKey.from_file(self.key_file)
            return
        key = DeviceKey.generate()
        key.write(self.key_file)
        try:
            yield key
        except BaseException:
            if not keep or not store_file(folder).exists():
                self.key_file.unlink(missing_ok=True)
            raise

    def _passphrase(self, *, twice: bool) -> "Passphrase":
        if self.passphrase_file is not None:
            return passphrase_from(self.passphrase_file)
        if VARIABLE in os.environ:
            return _checked(os.environ[VARIABLE], f"The environment variable {VARIABLE}")
        if sys.stdin is None or not sys.stdin.isatty():
            raise UnlockError(
                f"Nothing to open the device with. Give --passphrase-file FILE or --key-file FILE, or set {VARIABLE}; "
                "the prompt needs a terminal."
            )
        typed = click.prompt("Passphrase", hide_input=True, confirmation_prompt=twice, err=True)
        return _checked(typed, "What you typed")


def unlock_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that open a device; the function gets them as ``unlocking``."""

    @click.option(
        "--passphrase-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"The passphrase is the first line of FILE. Without: {VARIABLE}, or a prompt.",
    )
    @click.option("--key-file", type=click.Path(path_type=Path), metavar="FILE", help="A device key, mode 0600.")
    @click.option("--unlock-recovery", type=click.Path(path_type=Path), metavar="FILE", help="A recovery key, in FILE.")
    @click.option("--unlock-keychain", metavar="NAME", help="A key in the system's keychain.")
    @functools.wraps(function)
    def with_unlocking(
        *args: Any,
        passphrase_file: Path | None,
        key_file: Path | None,
        unlock_recovery: Path | None,
        unlock_keychain: str | None,
        **given: Any,
    ) -> Any:
        if sum(way is not None for way in (passphrase_file, key_file, unlock_recovery, unlock_keychain)) > 1:
            raise click.UsageError("A device opens with a passphrase or a key: give one of the two files.")
        unlocking = Unlocking(
            passphrase_file=passphrase_file, key_file=key_file, recovery_file=unlock_recovery, keychain=unlock_keychain
        )
        return function(*args, unlocking=unlocking, **given)

    return with_unlocking


def store_file(folder: Path) -> Path:
    """Return where the memory of the device in ``folder`` lies."""
    from store.lifecycle.files import FILE_NAME

    return folder / FILE_NAME


def first_line(path: Path, what: str = "passphrase") -> str:
    """Return the first line of a file that holds ``what``, without its end. Raises `UnlockError`."""
    try:
        with path.open("rb") as file:
            line = file.readline(_MOST_BYTES)
    except OSError as error:
        raise UnlockError(f"Cannot read the {what} file {path}: {error.strerror}.") from None
    try:
        return line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError:
        # The codec's error quotes the bytes, so it is not chained.
        raise UnlockError(f"The first line of {path} is not UTF-8 text.") from None


def passphrase_from(file: Path) -> "Passphrase":
    """Return the passphrase on the first line of ``file``. Raises `UnlockError`."""
    return _checked(first_line(file), f"The first line of {file}")


def _checked(text: str, where: str) -> "Passphrase":
    """Return ``text`` as a passphrase; an error names where it came from and never quotes it."""
    from store import Passphrase

    if not text:
        raise UnlockError(f"{where} is empty. A passphrase has at least one character.")
    try:
        return Passphrase(text)
    except ValueError as error:
        raise UnlockError(f"{where} is no passphrase. {error}") from None
