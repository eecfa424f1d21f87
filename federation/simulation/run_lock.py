"""One process at a time in a run's folder: two would write the same devices, history and checkpoint.

The lock is the operating system's, so one that was killed leaves none behind.

>>> import tempfile
>>> folder = Path(tempfile.mkdtemp())
>>> with only_run(folder):  # doctest: +ELLIPSIS
...     with only_run(folder):
...         pass
Traceback (most recent call last):
...
federation.errors.RunBusyError: ...
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from federation.errors import RunBusyError

LOCK_FILE = ".lock"


@contextlib.contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold the folder (made if missing) while the block runs; raise `RunBusyError` if another process does."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunBusyError(
                f"Another tacit process is running in {folder}. Wait for it, or name another --out."
            ) from None
        yield
    finally:
        os.close(descriptor)
