"""Tacit's encrypted memory: sealed records with their vectors, exact search, sealed named values.

Nothing derived from the user lies on the disk unsealed, and what was acknowledged survives a crash.
``FORMAT.md`` gives the layout of the file.

>>> import tempfile, numpy as np
>>> folder = tempfile.mkdtemp()
>>> with EncryptedStore.create(folder, DeviceKey.generate(), dimension=2) as store:
...     store.add(Record(text="aisle seat", label="book_train", time=0.0), np.array([0, 1], dtype=np.float32))
1
"""

from store.errors import (
    BusyError,
    DimensionError,
    KeyFileError,
    RecordMissingError,
    StoreError,
    StoreExistsError,
    StoreFullError,
    StoreMissingError,
    TamperedError,
    UnknownFormatError,
    WrongKeyError,
)
from store.keys import DeviceKey, Passphrase, Unlock, refuse_key_inside
from store.memory import EncryptedStore
from store.records import Record, StoredRecord

__all__ = [
    "BusyError",
    "DeviceKey",
    "DimensionError",
    "EncryptedStore",
    "KeyFileError",
    "Passphrase",
    "Record",
    "RecordMissingError",
    "StoreError",
    "StoreExistsError",
    "StoreFullError",
    "StoreMissingError",
    "StoredRecord",
    "TamperedError",
    "UnknownFormatError",
    "Unlock",
    "WrongKeyError",
    "refuse_key_inside",
]
