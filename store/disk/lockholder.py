"""Who holds a store's write lock, so that an error can name the process.

SQLite's write lock of a file in WAL mode is a POSIX lock on byte 120 of its shared memory file, which is named like the
database with ``-shm`` after it (https://sqlite.org/walformat.html, section 2.3.3). Linux lists such locks in
``/proc/locks`` (proc_locks(5)); elsewhere, and for a process that this one may not see, the answer is unknown.
"""

from __future__ import annotations

import os
from pathlib import Path

WRITE_LOCK_BYTE = 120
_PROC = Path("/proc")


def holder_of(path: Path) -> str:
    """The process that writes to the database ``path`` now, in words; "another process" where that is not known."""
    pid = _writer(Path(f"{path}-shm"))
    if pid is None:
        return "another process"
    if pid == os.getpid():
        return "another connection of this process"
    name = _name(pid)
    return f"process {pid} ({name})" if name else f"process {pid}"


def _writer(shared_memory: Path) -> int | None:
    try:
        status = shared_memory.stat()
        lines = (_PROC / "locks").read_text("ascii").splitlines()
    except (OSError, ValueError):
        return None
    device = os.major(status.st_dev), os.minor(status.st_dev)
    for line in lines:
        fields = line.split()  # 1: POSIX ADVISORY WRITE 1234 08:01:5678 120 120
        if len(fields) != 8 or fields[1] != "POSIX" or fields[3] != "WRITE":
            continue
        major, minor, inode = fields[5].split(":")
        its_device = int(major, 16), int(minor, 16)
        covers = int(fields[6]) <= WRITE_LOCK_BYTE and (fields[7] == "EOF" or int(fields[7]) >= WRITE_LOCK_BYTE)
        # Some layered file systems show another device in a file's status than in the list.
        if covers and int(inode) == status.st_ino and (its_device == device or not device[0]):
            pid = int(fields[4])
            return pid if pid > 0 else None
    return None


def _name(pid: int) -> str:
    try:
        comm = (_PROC / str(pid) / "comm").read_text("utf-8", "replace")
    except OSError:
        return ""
    return "".join(character for character in comm.strip() if character.isprintable())
