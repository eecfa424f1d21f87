"""What a crash or a power loss would leave on the disk: a trace of a process's writes, replayed to any point.

``build_shim`` compiles ``shim/fsshim.c``; a process that runs under it appends each operation on the watched folders
to a trace. ``Disk`` replays such a trace in memory. After each operation it can give

- the *crash* state: what a killed process leaves, every operation so far and nothing else;
- *power-loss* states: a file keeps what its last fsync covered, a folder the names that its last fsync covered, and of
  all later operations any part. Names of one folder survive in order; writes of a file in any subset, torn at sectors.

Guarantee: a workload that changes a watched folder behind the shim's back fails ``Disk.require_same``.

Not modelled: a rename between two folders survives as two separate operations; a file system that loses what an fsync
covered; bits that rot; mmap (SQLite's -shm files are left out: a copy recovers without them).
"""

from __future__ import annotations

import functools
import hashlib
import os
import random
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import store

SHIM_SOURCE = Path(__file__).parent / "shim" / "fsshim.c"
SECTOR = 512
_HEADER = struct.Struct("=IIIIqII")
_KINDS = ("", "open", "close", "write", "sync", "truncate", "rename", "link", "unlink", "mkdir", "rmdir", "chmod")
_TRUNCATED, _IS_FOLDER = 1, 2

Content = dict[str, tuple[bytes, int] | None]
"""A folder tree: bytes and mode of each file, ``None`` for each folder, by path relative to the root."""


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a store and its secrets lie, in memory where the system offers that: thousands of copies come here."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        place = Path(folder).resolve() / "root"
        place.mkdir()
        monkeypatch.setenv("TACIT_STATE_DIR", str(place / "device" / "state"))
        monkeypatch.setenv("PYTHONPATH", str(Path(store.__file__).resolve().parents[1]))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        yield place


@functools.cache
def build_shim(folder: Path) -> Path:
    """The compiled shim in ``folder``. Skips the test where there is no C compiler."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        pytest.skip("The crash harness needs a C compiler: install cc, gcc or clang.")
    target = folder / "fsshim.so"
    flags = ["-O1", "-Wall", "-fPIC", "-shared", "-fvisibility=hidden"]
    built = subprocess.run(
        [compiler, *flags, "-o", str(target), str(SHIM_SOURCE), "-lpthread"],
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        pytest.skip(f"The crash harness needs glibc and its headers; {compiler} says: {built.stderr[:300]}")
    return target


def shim_environment(shim: Path, root: Path, trace: Path | None = None) -> dict[str, str]:
    """The environment under which a process is watched below ``root`` and traced to ``trace``."""
    watched = {"LD_PRELOAD": str(shim), "FSSHIM_WATCH": str(root.resolve())}
    return {**os.environ, **watched, **({"FSSHIM_TRACE": str(trace)} if trace else {})}


@dataclass(frozen=True, slots=True)
class Operation:
    """One line of a trace. ``first`` is a path (relative to the root) or the data of a write."""

    kind: str
    pid: int
    fd: int
    mode: int
    marks: int
    offset: int
    first: bytes
    second: bytes

    @property
    def path(self) -> str:
        """The path that an operation on names is about."""
        return self.first.decode()

    @property
    def is_folder(self) -> bool:
        """Whether an open opened a folder."""
        return bool(self.marks & _IS_FOLDER)


def read_trace(path: Path, root: Path) -> list[Operation]:
    """The operations in the trace at ``path``, paths relative to ``root`` (the root itself is "")."""
    raw, place, found = path.read_bytes(), 0, []
    prefix = os.fsencode(root.resolve())

    def relative(name: bytes) -> bytes:
        return name[len(prefix) + 1 :] if name.startswith(prefix) else name

    while place < len(raw):
        number, pid, fd, mode, offset, first_size, second_size = _HEADER.unpack_from(raw, place)
        start = place + _HEADER.size
        middle, place = start + first_size, start + first_size + second_size
        assert place <= len(raw), "the trace was cut off"
        kind, first, second = _KINDS[number], raw[start:middle], raw[middle:place]
        if kind != "write":
            first, second = relative(first), relative(second)
        found.append(Operation(kind, pid, fd, mode & 0o7777, mode >> 16, offset, first, second))
    return found


Write = tuple[int, bytes | None]
"""Data at an offset; ``None`` for a truncation to that size."""


def _apply(content: bytearray, write: Write) -> None:
    offset, data = write
    size = offset if data is None else offset + len(data)
    if data is None:
        del content[size:]
    if len(content) < size:
        content.extend(bytes(size - len(content)))
    if data is not None:
        content[offset:size] = data


@dataclass(slots=True, eq=False)
class File:
    """A file, whatever its names: what a reader sees, what is durable, and the writes between the two."""

    mode: int = 0o600
    live: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    pending: list[Write] = field(default_factory=list)

    def change(self, write: Write) -> None:
        """Apply ``write``, not yet durable."""
        _apply(self.live, write)
        self.pending.append(write)

    def sync(self) -> None:
        """Everything so far is durable."""
        if self.pending:
            self.durable = bytes(self.live)
            self.pending.clear()

    def partial(self, keep: Callable[[Write], Write | None]) -> bytes:
        """The durable content with what ``keep`` leaves of each pending write."""
        content = bytearray(self.durable)
        for write in self.pending:
            kept = keep(write)
            if kept is not None:
                _apply(content, kept)
        return bytes(content)


Node = File | str
Names = dict[str, Node]
"""The names in a folder; a folder inside stands as its own path."""


@dataclass(slots=True)
class Folder:
    """The names in a folder: seen, durable, and the changes between the two (``None`` removes a name)."""

    live: Names = field(default_factory=dict)
    durable: Names = field(default_factory=dict)
    pending: list[dict[str, Node | None]] = field(default_factory=list)

    def change(self, names: dict[str, Node | None]) -> None:
        """Change ``names`` together, not yet durably."""
        self.pending.append(names)
        _rename(self.live, names)

    def sync(self) -> None:
        """Every name so far is durable."""
        self.durable = dict(self.live)
        self.pending.clear()

    def partial(self, count: int) -> Names:
        """The durable names with the first ``count`` pending changes."""
        names = dict(self.durable)
        for change in self.pending[:count]:
            _rename(names, change)
        return names


def _rename(names: Names, change: dict[str, Node | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


class Disk:
    """The files below one root while a trace is replayed. Starts with what lies in ``start``, all of it durable."""

    def __init__(self, start: Content | None = None) -> None:
        self._folders: dict[str, Folder] = {"": Folder()}
        self._open: dict[tuple[int, int], Node] = {}
        self._last: File | None = None
        for path, entry in sorted((start or {}).items()):
            parent, name = _split(path)
            if entry is None:
                self._folders[path] = Folder()
                self._folders[parent].live[name] = path
            else:
                content, mode = entry
                self._folders[parent].live[name] = File(mode, bytearray(content), content)
        for folder in self._folders.values():
            folder.sync()

    def play(self, operation: Operation) -> None:
        """Apply the next operation of the trace."""
        getattr(self, f"_on_{operation.kind}")(operation)

    def _find(self, path: str) -> Node | None:
        if path == "":
            return ""
        parent, name = _split(path)
        return self._folders[parent].live.get(name)

    def _on_open(self, operation: Operation) -> None:
        node = self._find(operation.path)
        if node is None:
            parent, name = _split(operation.path)
            node = File(operation.mode)
            self._folders[parent].change({name: node})
        elif operation.marks & _TRUNCATED and isinstance(node, File) and node.live:
            node.change((0, None))
        assert isinstance(node, str) == operation.is_folder
        self._open[operation.pid, operation.fd] = node

    def _on_close(self, operation: Operation) -> None:
        del self._open[operation.pid, operation.fd]

    def _on_write(self, operation: Operation) -> None:
        node = self._open[operation.pid, operation.fd]
        assert isinstance(node, File)
        node.change((operation.offset, None if operation.kind == "truncate" else operation.first))
        self._last = node

    _on_truncate = _on_write

    def _on_sync(self, operation: Operation) -> None:
        node = self._open[operation.pid, operation.fd]
        (node if isinstance(node, File) else self._folders[node]).sync()

    def _on_rename(self, operation: Operation) -> None:
        assert operation.mode == 0, "renameat2 with flags is not modelled"
        node = self._find(operation.path)
        assert isinstance(node, File), "only files are renamed"
        (old_parent, old), (parent, new) = _split(operation.path), _split(operation.second.decode())
        if parent == old_parent:
            self._folders[parent].change({old: None, new: node})
        else:
            self._folders[parent].change({new: node})
            self._folders[old_parent].change({old: None})

    def _on_link(self, operation: Operation) -> None:
        parent, name = _split(operation.second.decode())
        node = self._find(operation.path)
        assert isinstance(node, File)
        self._folders[parent].change({name: node})

    def _on_unlink(self, operation: Operation) -> None:
        parent, name = _split(operation.path)
        self._folders[parent].change({name: None})

    def _on_mkdir(self, operation: Operation) -> None:
        parent, name = _split(operation.path)
        self._folders[operation.path] = Folder()
        self._folders[parent].change({name: operation.path})

    _on_rmdir = _on_unlink

    def _on_chmod(self, operation: Operation) -> None:
        node = self._find(operation.path) if operation.first else self._open.get((operation.pid, operation.fd))
        if isinstance(node, File):
            node.mode = operation.mode  # Durable at once: no test here is about modes.

    def _tree(self, names: Callable[[Folder], Names], content: Callable[[File], bytes]) -> Content:
        """The state with these names in each folder and this content in each file, as far as the root reaches."""
        found: Content = {}
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            for name, node in names(self._folders[folder]).items():
                path = f"{folder}/{name}" if folder else name
                if isinstance(node, File):
                    found[path] = (content(node), node.mode)
                else:
                    found[path] = None
                    waiting.append(path)
        return found

    def crash(self) -> Content:
        """What a killed process leaves."""
        return self._tree(lambda folder: folder.live, lambda file: bytes(file.live))

    def read(self, path: str) -> bytes:
        """The content of the file at ``path`` now; nothing where there is none."""
        node = self._find(path)
        return bytes(node.live) if isinstance(node, File) else b""

    def power_losses(self, seed: int, variants: int) -> Iterator[tuple[str, Content]]:
        """What a power loss may leave, each with a name: four that are fixed, and ``variants`` picked by ``seed``."""
        last, rng = self._last, random.Random(seed)

        def torn(file: File) -> bytes:
            if file is not last or not file.pending:
                return bytes(file.live)
            *_, (offset, data) = file.pending
            half: Write | None = None if data is None else (offset, data[: len(data) // 2])
            return file.partial(lambda write: half if write is file.pending[-1] else write)

        def some(write: Write) -> Write | None:
            offset, data = write
            if rng.random() < 0.5:
                return None
            if data is None or len(data) <= SECTOR or rng.random() < 0.7:
                return write
            return offset, data[: rng.randrange(1, len(data) // SECTOR + 1) * SECTOR]

        yield "all unsynced lost", self._tree(lambda folder: folder.durable, lambda file: file.durable)
        yield "names kept, data lost", self._tree(lambda folder: folder.live, lambda file: file.durable)
        yield "data kept, names lost", self._tree(lambda folder: folder.durable, lambda file: bytes(file.live))
        yield "last write torn", self._tree(lambda folder: folder.live, torn)
        for number in range(variants):
            yield (
                f"random part {seed}.{number}",
                self._tree(
                    lambda folder: folder.partial(rng.randint(0, len(folder.pending))),
                    lambda file: file.partial(some),
                ),
            )

    def require_same(self, root: Path) -> None:
        """Fail unless the folder ``root`` holds what was replayed: nothing passed by the shim unseen."""
        there, replayed = read_tree(root), self.crash()
        assert there.keys() == replayed.keys()
        assert not [path for path in there if there[path] != replayed[path]]


def _split(path: str) -> tuple[str, str]:
    """The folder and the last name of a relative path."""
    folder, _, name = path.rpartition("/")
    return folder, name


def read_tree(root: Path) -> Content:
    """What lies below ``root``, SQLite's -shm files left out."""
    found: Content = {}
    for path in root.rglob("*"):
        if path.is_dir():
            found[str(path.relative_to(root))] = None
        elif not path.name.endswith("-shm"):
            found[str(path.relative_to(root))] = path.read_bytes(), path.stat().st_mode & 0o7777
    return found


def write_tree(root: Path, content: Content) -> None:
    """Make ``root`` hold ``content`` and nothing else."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for path, entry in sorted(content.items()):
        if entry is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(entry[0])
            (root / path).chmod(entry[1])


def digest(content: Content, *, without: str) -> bytes:
    """A hash of ``content`` but for the file ``without``."""
    state = hashlib.blake2b(digest_size=16)
    for path, entry in sorted(content.items()):
        if path != without:
            data = b"" if entry is None else entry[0]
            state.update(f"{path}\0{entry is None}\0{len(data)}\0".encode() + data)
    return state.digest()
