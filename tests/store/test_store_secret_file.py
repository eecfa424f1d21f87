"""The file of a device secret: a crash leaves the current or the next one, a forget no byte of the earlier one."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.disk.folders import state_folder
from store.errors import DeviceSecretError, KeyFileError
from store.outside.device_secret import ENTRY_BYTES, PAGE_BYTES, FileSecret, default_secret, encode_entry

FIRST, SECOND = (hashlib.sha256(bytes((number,))).digest() for number in range(1, 3))
FROM_GOLDEN = (
    "5441434954534543" "00000001" "0000000000000007"
    "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
    "c2b555df187200a1de8c3926f8830e43ece5db12c19fc789a2e35f7f62123b80"
)  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> FileSecret:
    """A file with the secret of epoch 1."""
    secret = FileSecret(tmp_path / "home.secret")
    secret.create(1, FIRST)
    return secret


def test_the_page_stays_as_it_was_first_defined() -> None:
    assert encode_entry(7, bytes(range(32))).hex() == FROM_GOLDEN


def test_the_file_is_laid_out_as_described(file: FileSecret) -> None:
    file.prepare(2, SECOND)
    content = file.path.read_bytes()
    assert len(content) == 2 * PAGE_BYTES
    for epoch, secret in ((1, FIRST), (2, SECOND)):
        head = b"TACITSEC" + struct.pack(">IQ", 1, epoch) + secret
        page = content[epoch % 2 * PAGE_BYTES :][:PAGE_BYTES]
        assert page == (head + hashlib.sha256(head).digest()).ljust(PAGE_BYTES, b"\0")


def test_no_byte_of_a_destroyed_secret_is_left_in_the_file(file: FileSecret) -> None:
    descriptor = os.open(file.path, os.O_RDONLY)
    file.prepare(2, SECOND)
    file.commit(2)
    assert FIRST not in file.path.read_bytes()
    assert SECOND in file.path.read_bytes()
    assert os.fstat(descriptor).st_ino == file.path.stat().st_ino, "overwritten in place, not renamed"
    file.destroy()
    assert os.pread(descriptor, 2 * PAGE_BYTES, 0) == bytes(2 * PAGE_BYTES)
    os.close(descriptor)


def test_every_changed_byte_of_a_page_makes_it_absent_and_leaves_the_other(file: FileSecret) -> None:
    file.prepare(2, SECOND)
    good = file.path.read_bytes()
    for at in range(2 * PAGE_BYTES):
        page, place = divmod(at, PAGE_BYTES)
        if place >= ENTRY_BYTES and place % 251:
            continue  # Padding, which nothing reads.
        bad = bytearray(good)
        bad[at] ^= 1 + at % 255
        file.path.write_bytes(bad)
        expected = {1: FIRST, 2: SECOND}
        if place < ENTRY_BYTES:
            del expected[1 if page else 2]
        assert file.read() == expected
    file.path.write_bytes(good[:PAGE_BYTES] + bytes(PAGE_BYTES))
    assert file.read() == {2: SECOND}


def test_a_page_in_the_other_ones_place_is_absent(file: FileSecret) -> None:
    content = file.path.read_bytes()
    file.path.write_bytes(content[PAGE_BYTES:] + content[:PAGE_BYTES])
    with pytest.raises(DeviceSecretError, match="damaged"):
        file.read()


@given(st.binary(max_size=200), st.integers(0, 1))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_content_is_no_secret(tmp_path: Path, content: bytes, page: int) -> None:
    path = tmp_path / "fuzzed.secret"
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(DeviceSecretError):
        FileSecret(path).read()
    whole = bytearray(2 * PAGE_BYTES)
    whole[page * PAGE_BYTES : page * PAGE_BYTES + len(content)] = content
    path.write_bytes(whole)
    with pytest.raises(DeviceSecretError):
        FileSecret(path).read()


@pytest.mark.parametrize("size", [0, 1, ENTRY_BYTES, PAGE_BYTES, 2 * PAGE_BYTES - 1, 2 * PAGE_BYTES + 1])
def test_a_file_of_another_size_is_refused_and_never_overwritten(file: FileSecret, size: int) -> None:
    content = file.path.read_bytes().ljust(size, b"x")[:size]
    file.path.write_bytes(content)
    for action in (file.read, file.destroy, lambda: file.prepare(2, SECOND), lambda: file.commit(1)):
        with pytest.raises(DeviceSecretError, match=f"holds {size} bytes"):
            action()
    assert file.path.read_bytes() == content


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o777])
def test_a_file_that_others_can_use_is_refused(file: FileSecret, mode: int) -> None:
    file.path.chmod(mode)
    for action in (file.read, file.destroy, lambda: file.prepare(2, SECOND), lambda: file.commit(1)):
        with pytest.raises(DeviceSecretError, match="chmod 600"):
            action()


def test_a_new_file_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        secret = FileSecret(tmp_path / "made" / "for" / "it" / "home.secret")
        secret.create(1, FIRST)
    finally:
        os.umask(before)
    assert secret.path.stat().st_mode & 0o777 == 0o600
    assert {folder.stat().st_mode & 0o777 for folder in secret.path.parents[:3]} == {0o700}
    assert [entry.name for entry in secret.path.parent.iterdir()] == ["home.secret"]


def test_a_link_a_folder_or_a_pipe_in_its_place_is_refused(file: FileSecret, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(file.path)
    (tmp_path / "folder").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "folder", "pipe"):
        other = FileSecret(tmp_path / name)
        assert other.exists()
        for action in (other.read, lambda o=other: o.prepare(2, SECOND), lambda o=other: o.create(1, SECOND)):
            with pytest.raises(DeviceSecretError) as caught:
                action()
            assert "\n" not in str(caught.value)
    assert file.read() == {1: FIRST}


def test_a_missing_file_and_a_missing_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(DeviceSecretError, match="put it back"):
        FileSecret(tmp_path / "none.secret").read()
    (tmp_path / "flat").touch()
    with pytest.raises(DeviceSecretError):
        FileSecret(tmp_path / "flat" / "home.secret").create(1, FIRST)


def test_a_file_inside_the_stores_folder_is_refused_through_links_too(tmp_path: Path) -> None:
    inside, outside = tmp_path / "store", tmp_path / "outside"
    (inside / "deep").mkdir(parents=True)
    outside.mkdir()
    (tmp_path / "alias").symlink_to(inside)
    (outside / "to-file").symlink_to(inside / "home.secret")
    (inside / "away").symlink_to(outside)
    (inside / "file-away").symlink_to(outside / "home.secret")
    for path in (
        inside / "home.secret",
        inside / "deep" / "x",
        inside,
        tmp_path / "alias" / "home.secret",
        outside / "to-file",
        outside / ".." / "store" / "x",
        inside / "file-away",
    ):
        with pytest.raises(KeyFileError, match="keep it elsewhere"):
            FileSecret(path).refuse_inside(inside)
    with pytest.raises(KeyFileError, match="keep it elsewhere"):
        FileSecret(inside / "x").refuse_inside(tmp_path / "alias")
    for path in (outside / "home.secret", tmp_path / "store.secret", inside / "away" / "x", inside / ".." / "x"):
        FileSecret(path).refuse_inside(inside)


def test_a_file_system_without_hard_links_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_args: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    secret = FileSecret(tmp_path / "home.secret")
    secret.create(1, FIRST)
    with pytest.raises(DeviceSecretError):
        secret.create(1, SECOND)
    assert secret.read() == {1: FIRST}
    assert [entry.name for entry in tmp_path.iterdir()] == ["home.secret"]


@pytest.mark.parametrize("call", ["write", "fsync", "link"])
def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.setattr(os, call, failing(errno.ENOSPC))
    with pytest.raises(DeviceSecretError, match="No space left"):
        FileSecret(tmp_path / "home.secret").create(1, FIRST)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_a_failed_change_is_loud_and_keeps_what_it_must(
    file: FileSecret, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing(errno.EIO))
        with pytest.raises(DeviceSecretError, match="check the folder and the disk"):
            file.prepare(2, SECOND)
    assert file.read()[1] == FIRST
    file.prepare(2, SECOND)
    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing(errno.EIO))
        with pytest.raises(DeviceSecretError, match="check the folder and the disk"):
            file.commit(2)
    assert file.read()[2] == SECOND
    calls = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: (calls.append(descriptor), real(descriptor)))
    file.commit(2)
    assert file.read() == {2: SECOND}
    assert calls, "an earlier sync may have failed, so the page is written again even where it reads as empty"


def failing(number: int) -> Callable[..., object]:
    def fail(*_args: object) -> object:
        raise OSError(number, os.strerror(number))

    return fail


def test_short_writes_are_finished(file: FileSecret, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, at: real(descriptor, data[:50], at))
    file.prepare(2, SECOND)
    file.commit(2)
    assert file.read() == {2: SECOND}
    assert FIRST not in file.path.read_bytes()


class CrashPoints:
    """What a crash before, within and after each write of a change would leave: every torn state of the page."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.states: list[bytes] = []
        self.synced = 0
        self._path, self._monkeypatch = path, monkeypatch
        self._pwrite, self._fdatasync = os.pwrite, os.fdatasync

    def of(self, change: Callable[[], None]) -> list[bytes]:
        self.states, self.synced = [self._path.read_bytes()], 0
        with self._monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", self._torn)
            patched.setattr(os, "fdatasync", self._noted)
            change()
        self.states.append(self._path.read_bytes())
        return self.states

    def _torn(self, descriptor: int, data: bytes, at: int) -> int:
        before = self._path.read_bytes()
        ends = [*range(ENTRY_BYTES + 1), *range(512, len(data) + 1, 512)]
        self.states += [before[:at] + data[:end] + before[at + end :] for end in ends]
        # Sectors may reach the disk in another order.
        self.states += [before[: at + start] + data[start:] + before[at + len(data) :] for start in ends]
        written = self._pwrite(descriptor, data, at)
        self.states.append(self._path.read_bytes())
        return written

    def _noted(self, descriptor: int) -> None:
        self._fdatasync(descriptor)
        self.synced += 1
        self.states.append(self._path.read_bytes())


def test_a_crash_at_any_point_leaves_the_current_or_the_next_secret(
    file: FileSecret, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashes, left = CrashPoints(file.path, monkeypatch), FileSecret(tmp_path / "left.secret")
    secrets = {number: hashlib.sha256(bytes((number,))).digest() for number in range(1, 6)}

    def check(states: list[bytes], must: int, may: int | None) -> None:
        for state in states:
            left.path.write_bytes(state)
            left.path.chmod(0o600)
            found = left.read()
            assert found[must] == secrets[must]
            assert set(found) <= {must, may}
            assert all(secrets[epoch] == value for epoch, value in found.items())

    for epoch in (1, 2, 3):
        check(crashes.of(lambda e=epoch: file.prepare(e + 1, secrets[e + 1])), must=epoch, may=epoch + 1)
        assert crashes.synced == 1
        check(crashes.of(lambda e=epoch: file.commit(e + 1)), must=epoch + 1, may=epoch)
        assert crashes.synced == 1
    # The next forget finds one that was committed in the store but not completed here.
    file.prepare(5, secrets[5])
    secrets[6] = SECOND
    for state in crashes.of(lambda: file.prepare(6, SECOND)):
        left.path.write_bytes(state)
        assert left.read()[5] == secrets[5]


def test_a_crash_while_it_is_made_leaves_the_whole_file_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, seen = FileSecret(tmp_path / "home.secret"), []

    def watched(call: Callable[..., object]) -> Callable[..., object]:
        def watch(*args: object, **options: object) -> object:
            seen.append(secret.exists() and secret.read())
            result = call(*args, **options)
            seen.append(secret.exists() and secret.read())
            return result

        return watch

    for name in ("write", "fsync", "link", "unlink"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    secret.create(1, FIRST)
    assert all(state in (False, {1: FIRST}) for state in seen)
    assert {1: FIRST} in seen


def test_a_reader_waits_for_a_change_in_progress(file: FileSecret) -> None:
    descriptor = os.open(file.path, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    found: list[dict[int, bytes]] = []
    reader = threading.Thread(target=lambda: found.append(file.read()))
    reader.start()
    reader.join(0.1)
    assert reader.is_alive()
    os.close(descriptor)
    reader.join(10)
    assert found == [{1: FIRST}]


# Where it lies


def test_the_state_folder_follows_its_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TACIT_STATE_DIR", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert state_folder() == tmp_path / ".local" / "state" / "tacit"
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/ignored")
    assert state_folder() == tmp_path / ".local" / "state" / "tacit"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert state_folder() == tmp_path / "xdg" / "tacit"
    monkeypatch.setenv("TACIT_STATE_DIR", str(tmp_path / "own"))
    assert state_folder() == tmp_path / "own"
    assert not state_folder().exists(), "asking makes nothing"
    secret = default_secret(bytes(range(16)))
    secret.create(1, FIRST)
    assert secret.path == tmp_path / "own" / "000102030405060708090a0b0c0d0e0f.secret"
    assert state_folder().stat().st_mode & 0o777 == 0o700
