"""Tacit's encrypted memory: sealed records with their vectors, search by meaning and by words, sealed values, a ledger.

Nothing derived from the user lies on the disk unsealed, what was acknowledged survives a crash, and what was forgotten
stays closed, in older copies too. ``FORMAT.md`` gives the layout of the file.

>>> import tempfile, numpy as np
>>> folder = tempfile.mkdtemp()
>>> secret = FileSecret(folder + "/home.secret")
>>> with EncryptedStore.create(folder + "/home", DeviceKey.generate(), dimension=2, secret=secret) as store:
...     store.add(Record(text="aisle seat", label="book_train", time=0.0), np.array([0, 1], dtype=np.float32))
1
"""

from store.errors import (
    ArchiveError,
    BusyError,
    DeviceSecretError,
    DimensionError,
    ForgetPending,
    ForgottenEpoch,
    KeyFileError,
    RecordMissingError,
    RolledBackError,
    SlotError,
    StoreError,
    StoreExistsError,
    StoreFullError,
    StoreMissingError,
    TamperedError,
    UnknownFormatError,
    WrongKeyError,
)
from store.format.columns import Span, Where
from store.format.receipts import Receipt
from store.format.records import Record, StoredRecord
from store.keys.recovery import RecoveryKey
from store.keys.unlock import DeviceKey, KeychainKey, Passphrase, Unlock, refuse_key_inside
from store.lifecycle.access import SlotInfo
from store.memory import EncryptedStore
from store.open_store import AcceptRollback
from store.outside.device_secret import DeviceSecret, FileSecret, KeychainSecret
from store.outside.witness import AnchorFile, KeychainWitness, MemoryWitness, Witness
from store.search.candidates import Candidates

__all__ = [
    "AcceptRollback",
    "AnchorFile",
    "ArchiveError",
    "BusyError",
    "Candidates",
    "DeviceKey",
    "DeviceSecret",
    "DeviceSecretError",
    "DimensionError",
    "EncryptedStore",
    "FileSecret",
    "ForgetPending",
    "ForgottenEpoch",
    "KeyFileError",
    "KeychainKey",
    "KeychainSecret",
    "KeychainWitness",
    "MemoryWitness",
    "Passphrase",
    "Receipt",
    "Record",
    "RecordMissingError",
    "RecoveryKey",
    "RolledBackError",
    "SlotError",
    "SlotInfo",
    "Span",
    "StoreError",
    "StoreExistsError",
    "StoreFullError",
    "StoreMissingError",
    "StoredRecord",
    "TamperedError",
    "UnknownFormatError",
    "Unlock",
    "Where",
    "Witness",
    "WrongKeyError",
    "refuse_key_inside",
]
