"""Entries of the operating system's keychain under the service "tacit", through the package ``keyring``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from store.errors import DeviceSecretError

_SERVICE = "tacit"
_LONGEST_NAME = 128


def check_name(name: str) -> str:
    """``name`` if it can name entries. Raises ``ValueError``."""
    if not isinstance(name, str) or not 1 <= len(name) <= _LONGEST_NAME or not name.isprintable():
        raise ValueError(f"Expected a name of 1 to {_LONGEST_NAME} printable characters for the keychain.")
    return name


def get_entry(entry: str) -> str | None:
    """The text under ``entry``, or ``None``. Raises ``DeviceSecretError``, as all of this module do."""
    with _typed() as keyring:
        value = keyring.get_password(_SERVICE, entry)
    return value if isinstance(value, str) else None


def put_entry(entry: str, value: str) -> None:
    """Keep ``value`` under ``entry``, and make sure that it is there: some keychains drop what they are given."""
    with _typed() as keyring:
        keyring.set_password(_SERVICE, entry, value)
    if get_entry(entry) != value:
        raise DeviceSecretError("The keychain did not keep what was put into it: choose a file instead.")


def drop_entry(entry: str) -> None:
    """Delete ``entry``, if it is there, and make sure that it is gone."""
    if get_entry(entry) is None:
        return
    with _typed() as keyring:
        keyring.delete_password(_SERVICE, entry)
    if get_entry(entry) is not None:
        raise DeviceSecretError("The keychain did not delete an entry: delete it there by hand.")


@contextmanager
def _typed() -> Iterator[ModuleType]:
    """The package, its errors as ``DeviceSecretError`` that names their type: their texts could quote an entry."""
    try:
        import keyring
        import keyring.errors
    except ImportError:
        raise DeviceSecretError("The keychain needs the package keyring: pip install 'tacit[keychain]'.") from None
    # The Secret Service backend lets errors of its own library through.
    library = getattr(sys.modules.get("secretstorage"), "SecretStorageException", keyring.errors.KeyringError)
    try:
        yield keyring
    except (keyring.errors.KeyringError, library, OSError, RuntimeError) as error:
        raise DeviceSecretError(
            f"The keychain refused ({type(error).__name__}): unlock it, or keep the secret in a file."
        ) from None
