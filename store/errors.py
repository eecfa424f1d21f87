"""Every way a store can fail, each with a type of its own.

A caller can tell a wrong key from a tampered file, a busy store from a full disk. Each text is one line
and ends with the next step. No text quotes what the user stored.

>>> try:
...     raise WrongKeyError("This key does not open the store. Check the passphrase and try again.")
... except StoreError as error:
...     error.exit_code
10
"""


class StoreError(Exception):
    """Base of all errors of this package; ``exit_code`` is what a command ends with."""

    exit_code = 1


class WrongKeyError(StoreError):
    """The passphrase or device key is not the one that the store was made with."""

    exit_code = 10


class TamperedError(StoreError):
    """A stored byte is not what was written: damage, a cut, or a forgery."""

    exit_code = 11


class BusyError(StoreError):
    """Another connection held the write lock for longer than the time limit."""

    exit_code = 12


class UnknownFormatError(StoreError):
    """The file is no Tacit store, or one of a newer format."""

    exit_code = 13


class StoreExistsError(StoreError):
    """A store is already there; nothing was overwritten."""

    exit_code = 14


class StoreMissingError(StoreError):
    """No store is there, or the file system does not let this user reach it."""

    exit_code = 15


class StoreFullError(StoreError):
    """The disk refused a write; the transaction was undone as a whole."""

    exit_code = 16


class RecordMissingError(StoreError):
    """No record has this id; it was deleted or never added."""

    exit_code = 17


class KeyFileError(StoreError):
    """A device key file is missing, of the wrong size, or readable by others."""

    exit_code = 18


class DimensionError(StoreError):
    """Vectors whose shape is not the one that the store was made for."""

    exit_code = 19


class DeviceSecretError(StoreError):
    """The device secret, which is kept outside the store, is missing, unreadable or malformed."""

    exit_code = 30


class RolledBackError(StoreError):
    """The store is older than, or forked from, what a witness outside it last saw."""

    exit_code = 31


class ForgottenEpoch(StoreError):  # noqa: N818 - the name that users know it by
    """A copy from before the last forget: the secret that would open it was destroyed."""

    exit_code = 32


class ForgetPending(StoreError):  # noqa: N818 - the name that users know it by
    """The records are gone from the store, but the old secret lives until a reader lets the journal be folded."""

    exit_code = 33


class SlotError(StoreError):
    """A key slot cannot be added or removed: too many, the last one, or no such number."""

    exit_code = 34


class ArchiveError(StoreError):
    """An archive cannot be written or read where it was asked for."""

    exit_code = 35
