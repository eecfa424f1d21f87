"""The file of an archive, sealed or plain, appears whole or not at all; a plain one says which line is wrong."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.errors import ArchiveError, StoreError, StoreFullError, TamperedError, UnknownFormatError
from store.keys.recovery import RecoveryKey
from store.outside import archive
from store.outside.archive import read_archive, read_plain, write_archive, write_plain

KEY = RecoveryKey(bytes(range(32)))
HEADER = {"kind": "test", "version": 1}
RELAXED = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "backup.tacit-archive"


# Plain archives

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ROWS = st.lists(st.dictionaries(st.text(max_size=9), JSON, max_size=4), max_size=8)


@given(ROWS)
@RELAXED
def test_a_plain_archive_reads_back(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = tmp_path / "drawn"
    path.unlink(missing_ok=True)
    assert write_plain(path, HEADER, iter(rows)) == len(rows)
    header, found = read_plain(path)
    assert (header, list(found)) == (HEADER, rows)
    assert [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] == [HEADER, *rows]


@pytest.mark.parametrize(
    "line",
    [
        b"secret words",
        b'["secret words"]',
        b'"secret words"',
        b'{"secret words": ',
        b'{"secret words": NaN}',
        b'{"secret words": -Infinity}',
        b'{"secret words": "\\ud800"}',
        b'{"secret words": "\xff"}',
        b'{"secret words": "\xed\xa0\x80"}',
        b'{"secret words": ' + b"9" * 5000 + b"}",
        b'{"secret words": ' + b"[" * 100_000,
        b"\0",
    ],
)
def test_a_malformed_line_is_named_and_not_quoted(path: Path, line: bytes) -> None:
    path.write_bytes(b'{"kind": "test"}\n{"a": 1}\n\n' + line + b"\n")
    header, rows = read_plain(path)
    assert header == {"kind": "test"}
    assert next(rows) == {"a": 1}
    with pytest.raises(ArchiveError, match="Line 4 ") as caught:
        list(rows)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    path.write_bytes(line)
    with pytest.raises(ArchiveError, match="Line 1 "):
        read_plain(path)


def test_a_plain_archive_edited_by_hand_is_read(path: Path) -> None:
    path.write_bytes(b'\xef\xbb\xbf{"kind":"test"}\r\n\r\n  {"a": "\\ud83d\\ude00"}  \r\n{"b":2}')
    header, rows = read_plain(path)
    assert (header, list(rows)) == ({"kind": "test"}, [{"a": "😀"}, {"b": 2}])


def test_an_endless_line_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_MAX_LINE_BYTES", 100)
    path.write_bytes(b'{"a": "' + b"x" * 1000 + b'"}')
    with pytest.raises(ArchiveError, match=r"Line 1 .* longer than 100"):
        read_plain(path)


def test_the_two_kinds_are_told_apart(path: Path) -> None:
    write_archive(path, KEY, HEADER, [])
    with pytest.raises(ArchiveError, match="recovery key"):
        read_plain(path)
    path.unlink()
    write_plain(path, HEADER, [])
    with pytest.raises(UnknownFormatError, match="no sealed archive"):
        read_archive(path, KEY)
    path.write_bytes(b"")
    with pytest.raises(ArchiveError, match="empty"):
        read_plain(path)
    with pytest.raises(TamperedError):
        read_archive(path, KEY)


@given(st.binary(max_size=300))
@RELAXED
def test_any_bytes_read_as_rows_or_give_a_typed_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fuzzed"
    path.write_bytes(b'{"kind": "test"}\n' + content)
    header, rows = read_plain(path)
    try:
        found = list(rows)
    except ArchiveError as error:
        message = str(error)
        found = []
    else:
        message = ""
    assert header == {"kind": "test"}
    assert all(isinstance(row, dict) for row in found)
    assert "\n" not in message


# The file

Write = Callable[[Path], int]
WRITERS = {
    "sealed": lambda path: write_archive(path, KEY, HEADER, [b"item"]),
    "plain": lambda path: write_plain(path, HEADER, [{"a": 1}]),
}


@pytest.fixture(params=sorted(WRITERS))
def write(request: pytest.FixtureRequest) -> Write:
    return WRITERS[request.param]


def test_an_archive_is_for_its_owner_alone_and_alone_in_its_folder(path: Path, write: Write) -> None:
    before = os.umask(0)
    try:
        assert write(path) == 1
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_nothing_in_the_way_is_ever_replaced(path: Path, write: Write) -> None:
    path.write_bytes(b"mine")
    with pytest.raises(ArchiveError, match="exists and is not overwritten"):
        write(path)
    assert path.read_bytes() == b"mine"
    path.unlink()
    path.symlink_to(path.parent / "nowhere")
    with pytest.raises(ArchiveError, match="exists and is not overwritten"):
        write(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ArchiveError, match="is a folder"):
        write(path)
    assert list(path.parent.iterdir()) == [path]


def test_one_that_appears_meanwhile_is_not_replaced(path: Path) -> None:
    def items() -> Iterator[bytes]:
        yield b"item"
        path.write_bytes(b"faster")

    with pytest.raises(ArchiveError, match="exists and is not overwritten"):
        write_archive(path, KEY, HEADER, items())
    assert path.read_bytes() == b"faster"
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_folder_is_told(path: Path, write: Write) -> None:
    with pytest.raises(ArchiveError, match=r"There is no folder .*nowhere: make it first"):
        write(path.parent / "nowhere" / "backup")
    path.write_bytes(b"")
    with pytest.raises(ArchiveError, match="There is no folder"):
        write(path / "backup")


@pytest.mark.parametrize("call", ["write", "fsync", "link"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_fails_leaves_no_file(
    path: Path, write: Write, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def fail(*_args: object) -> object:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(ArchiveError if number == errno.EIO else StoreFullError) as caught:
        write(path)
    assert "\n" not in str(caught.value)
    assert list(path.parent.iterdir()) == []


def test_a_folder_that_cannot_be_made_durable_leaves_no_file(
    path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_folder: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(archive, "sync_folder", fail)
    with pytest.raises(ArchiveError, match="check the folder"):
        write(path)
    assert list(path.parent.iterdir()) == []


def test_a_file_system_without_hard_links_is_served(path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_args: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    write(path)
    assert list(path.parent.iterdir()) == [path]


def test_an_error_of_the_source_passes_and_leaves_no_file(path: Path) -> None:
    def items() -> Iterator[Any]:
        yield {"a": 1}
        raise StoreError("The source failed.")

    with pytest.raises(StoreError, match="The source failed"):
        write_archive(path, KEY, HEADER, (b"" for _ in items()))
    with pytest.raises(StoreError, match="The source failed"):
        write_plain(path, HEADER, items())
    with pytest.raises(ValueError, match="JSON"):
        write_plain(path, HEADER, [{"a": float("nan")}])
    assert list(path.parent.iterdir()) == []


def test_a_crash_at_any_call_leaves_the_whole_archive_or_none(
    path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*args: Any, **options: Any) -> Any:
            result = call(*args, **options)
            seen.append((name, path.read_bytes() if path.exists() else None))
            return result

        return watch

    for name in ("write", "fsync", "link", "unlink"):
        monkeypatch.setattr(os, name, watched(name, getattr(os, name)))
    write(path)
    names = [name for name, _ in seen]
    assert names[-4:] == ["fsync", "link", "fsync", "unlink"]
    assert {content for _, content in seen} == {None, path.read_bytes()}


@pytest.mark.parametrize("read", [lambda path: read_archive(path, KEY), read_plain], ids=["sealed", "plain"])
def test_what_cannot_be_read_is_told(path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(ArchiveError, match="There is no archive"):
        read(path)
    path.mkdir()
    with pytest.raises(ArchiveError, match="no regular file"):
        read(path)
    with pytest.raises(ArchiveError, match="no regular file"):
        read(Path(os.devnull))
    os.mkfifo(path / "pipe")
    with pytest.raises(ArchiveError, match="no regular file"):
        read(path / "pipe")
