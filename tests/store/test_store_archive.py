"""A sealed archive gives back what was put in, whole, or says what is wrong; it shows its size class only."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.errors import StoreError, TamperedError, UnknownFormatError, WrongKeyError
from store.format.padding import size_class
from store.keys.recovery import RecoveryKey
from store.outside import archive
from store.outside.archive import (
    CHUNK_BYTES,
    HEAD_BYTES,
    MAX_ITEM_BYTES,
    _sealed,
    read_archive,
    write_archive,
)

KEY = RecoveryKey(bytes(range(32)))
HEADER = {"kind": "test", "version": 1}
SEALED_BYTES = CHUNK_BYTES + 16
GOLDEN = {
    "head": (
        "544143495441524300000001000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f1d52371f"
        "9f07dd5b16fabb3daefba6650518642daf1548f51df5211d74874fe51cee378dffaedd0fe9356546d41dea83c9b864f2"
        "76534998ca2dcea9f62e55d2"
    ),
    "first 64 bytes of the chunk": (
        "87c41d2cbfe6ca6802386a630f5521ad53505636425b78600fe03c3efd7bb34905dd8b648490f8de8ada8b50e59c26f4"
        "f16e13bd2a621c16aa97fb2d4cc32317"
    ),
    "SHA-256 of the file": "8505ff28624500379d27eda898a861fc5632d33f82422af56dc96e65df58fdca",
}
RELAXED = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "backup.tacit-archive"


def read_all(path: Path, key: RecoveryKey = KEY) -> tuple[dict[str, Any], list[bytes]]:
    header, items = read_archive(path, key)
    return header, list(items)


def parts(count: int) -> list[bytes]:
    """Items that make an archive of exactly ``count`` chunks."""
    return [bytes((number % 251,)) * (CHUNK_BYTES - 64) for number in range(count)]


def outside_chunks(key: bytes, content: bytes) -> list[bytes]:
    """The plaintext chunks of an archive by the description in archive.py, sharing no code with it."""
    head, body = content[:108], content[108:]
    assert head[:12] == b"TACITARC" + struct.pack(">I", 1)
    assert head[76:] == hashlib.sha256(head[:76]).digest()
    salt, commitment = head[12:44], head[44:76]
    info = b"".join(len(part).to_bytes(4, "big") + part for part in (b"TACITARC", struct.pack(">I", 1), b"archive"))
    derived = hmac.digest(hmac.digest(salt, key, "sha512"), info + b"\x01", "sha512")
    assert derived[32:] == commitment
    assert len(body) % SEALED_BYTES == 0
    count = len(body) // SEALED_BYTES
    return [
        AESGCM(derived[:32]).decrypt(
            bytes(7) + struct.pack(">IB", number, number == count - 1),
            body[number * SEALED_BYTES : (number + 1) * SEALED_BYTES],
            None,
        )
        for number in range(count)
    ]


def outside_read(key: bytes, content: bytes) -> tuple[dict[str, Any], list[bytes]]:
    plain, at, found = b"".join(outside_chunks(key, content)), 0, []
    while (length := int.from_bytes(plain[at : at + 4], "big")) != 2**32 - 1:
        found.append(plain[at + 4 : at + 4 + length])
        at += 4 + length
    assert not any(plain[at + 4 :])
    return json.loads(found[0]), found[1:]


# What is inside


def test_the_archive_stays_as_it_was_first_defined() -> None:
    content = b"".join(_sealed(bytes(range(32)), KEY, {"kind": "golden"}, [b"first", b"", b"third"]))
    assert {
        "head": content[:HEAD_BYTES].hex(),
        "first 64 bytes of the chunk": content[HEAD_BYTES : HEAD_BYTES + 64].hex(),
        "SHA-256 of the file": hashlib.sha256(content).hexdigest(),
    } == GOLDEN


ITEMS = st.lists(st.binary(max_size=300) | st.integers(0, 200_000).map(lambda size: bytes(range(256)) * (size // 256)))


@given(st.binary(min_size=32, max_size=32), st.dictionaries(st.text(max_size=9), st.integers() | st.text()), ITEMS)
@RELAXED
def test_an_archive_reads_back_and_follows_its_description(
    tmp_path: Path, key: bytes, header: dict[str, object], items: list[bytes]
) -> None:
    path = tmp_path / "drawn"
    path.unlink(missing_ok=True)
    assert write_archive(path, RecoveryKey(key), header, iter(items)) == len(items)
    assert read_all(path, RecoveryKey(key)) == (header, items)
    assert outside_read(key, path.read_bytes()) == (header, items)


@pytest.mark.parametrize("short", [-5, -4, -3, -1, 0, 1, 4])
def test_an_item_may_end_anywhere_at_a_chunks_border(path: Path, short: int) -> None:
    first = len(json.dumps(HEADER, separators=(",", ":"))) + 8
    items = [b"x" * (CHUNK_BYTES - first + short), b"", b"tail"]
    write_archive(path, KEY, HEADER, items)
    assert read_all(path) == (HEADER, items)


def test_the_largest_item_fits_and_a_larger_one_leaves_no_file(path: Path) -> None:
    items = [os.urandom(MAX_ITEM_BYTES)]
    write_archive(path, KEY, HEADER, items)
    assert read_all(path) == (HEADER, items)
    path.unlink()
    for wrong in (bytes(MAX_ITEM_BYTES + 1), "text", None):
        with pytest.raises(ValueError, match="at most"):
            write_archive(path, KEY, HEADER, [b"fine", wrong])  # type: ignore[list-item]
    assert list(path.parent.iterdir()) == []


def test_the_size_tells_the_size_class_only(path: Path) -> None:
    sizes = {}
    for size in (0, 1, 1000, 65_000, 66_000, 500_000, 510_000, 2_000_000, 2_090_000):
        path.unlink(missing_ok=True)
        write_archive(path, KEY, {}, [bytes(size)] if size else [])
        sizes[size] = path.stat().st_size
        plain = 4 + 2 + 4 + (4 + size if size else 0)
        assert sizes[size] == HEAD_BYTES + -(-size_class(plain) // CHUNK_BYTES) * SEALED_BYTES
    assert sizes[0] == sizes[1] == sizes[1000] == sizes[65_000]
    assert sizes[500_000] == sizes[510_000]
    assert sizes[2_000_000] == sizes[2_090_000]


def test_the_same_content_never_looks_the_same_and_none_of_it_shows(path: Path) -> None:
    seals = []
    for _ in range(3):
        path.unlink(missing_ok=True)
        write_archive(path, KEY, {"kind": "visible?"}, [b"table for two at Luigi's" * 10])
        seals.append(path.read_bytes())
    assert len({seal[12:44] for seal in seals}) == len({seal[HEAD_BYTES:] for seal in seals}) == 3
    assert not any(b"Luigi" in seal or b"visible" in seal for seal in seals)


def test_items_are_read_as_they_are_asked_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_archive(path, KEY, HEADER, parts(20))
    opened = []
    real = AESGCM.decrypt

    class Counting:
        def __init__(self, key: bytes) -> None:
            self._aead = AESGCM(key)

        def decrypt(self, *args: Any) -> bytes:
            opened.append(1)
            return real(self._aead, *args)

    monkeypatch.setattr(archive, "AESGCM", Counting)
    _, items = read_archive(path, KEY)
    next(items)
    assert len(opened) <= 2
    items.close()  # type: ignore[attr-defined]


# What is wrong with it


def test_every_changed_byte_of_the_head_has_its_error(path: Path) -> None:
    write_archive(path, KEY, HEADER, [b"item"])
    good = path.read_bytes()
    for at in range(HEAD_BYTES):
        bad = bytearray(good)
        bad[at] ^= 1 + at % 255
        path.write_bytes(bad)
        with pytest.raises(UnknownFormatError if at < 12 else TamperedError):
            read_archive(path, KEY)


def test_every_changed_byte_of_a_chunk_is_found_before_its_items_are_given(path: Path) -> None:
    write_archive(path, KEY, HEADER, [b"item"])
    good = path.read_bytes()
    assert len(good) == HEAD_BYTES + SEALED_BYTES
    for at in [
        *range(HEAD_BYTES, HEAD_BYTES + 64),
        *range(HEAD_BYTES, len(good), 127),
        *range(len(good) - 32, len(good)),
    ]:
        path.write_bytes(good[:at] + bytes((good[at] ^ (1 + at % 255),)) + good[at + 1 :])
        with pytest.raises(TamperedError):
            read_archive(path, KEY)


def test_a_head_with_a_renewed_digest_is_a_wrong_key_or_tampered(path: Path) -> None:
    write_archive(path, KEY, HEADER, [b"item"])
    good = path.read_bytes()
    for at in range(12, 76):
        head = bytearray(good[:76])
        head[at] ^= 0x10
        path.write_bytes(bytes(head) + hashlib.sha256(head).digest() + good[HEAD_BYTES:])
        with pytest.raises(WrongKeyError):
            read_archive(path, KEY)


def test_another_key_is_told_from_damage(path: Path) -> None:
    write_archive(path, KEY, HEADER, [b"item"])
    with pytest.raises(WrongKeyError, match="does not open"):
        read_archive(path, RecoveryKey.generate())


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_cut_archive_is_found_wherever_it_was_cut(path: Path, count: int) -> None:
    write_archive(path, KEY, HEADER, parts(count))
    good = path.read_bytes()
    assert len(good) == HEAD_BYTES + count * SEALED_BYTES
    borders = [HEAD_BYTES + number * SEALED_BYTES for number in range(count)]
    cuts = (
        {cut + offset for cut in borders for offset in (-1, 0, 1, 16, 4096)} | set(range(HEAD_BYTES)) | {len(good) - 1}
    )
    for cut in sorted(cuts):
        path.write_bytes(good[:cut])
        with pytest.raises(TamperedError) as caught:
            read_all(path)
        assert "\n" not in str(caught.value)


def test_items_before_a_cut_are_true_and_the_cut_is_raised_at_the_end(path: Path) -> None:
    write_archive(path, KEY, HEADER, parts(5))
    path.write_bytes(path.read_bytes()[: HEAD_BYTES + 3 * SEALED_BYTES])
    header, items = read_archive(path, KEY)
    assert header == HEADER
    assert [next(items), next(items)] == parts(5)[:2]
    with pytest.raises(TamperedError, match="cut"):
        next(items)


def test_chunks_moved_doubled_dropped_or_added_are_found(path: Path) -> None:
    write_archive(path, KEY, HEADER, parts(4))
    content = path.read_bytes()
    head, chunks = content[:HEAD_BYTES], [content[HEAD_BYTES + n * SEALED_BYTES :][:SEALED_BYTES] for n in range(4)]
    a, b, c, d = chunks
    for order in ([b, a, c, d], [a, c, b, d], [a, b, d, c], [a, a, b, c, d], [a, c, d], [b, c, d], [a, b, c, d, d]):
        path.write_bytes(head + b"".join(order))
        with pytest.raises(TamperedError):
            read_all(path)
    for more in (b"\0", a, bytes(SEALED_BYTES), content):
        path.write_bytes(content + more)
        with pytest.raises(TamperedError):
            read_all(path)


def test_chunks_of_another_archive_under_the_same_key_are_found(path: Path) -> None:
    write_archive(path, KEY, HEADER, parts(2))
    other = path.with_name("other")
    write_archive(other, KEY, HEADER, parts(2))
    path.write_bytes(path.read_bytes()[:-SEALED_BYTES] + other.read_bytes()[-SEALED_BYTES:])
    with pytest.raises(TamperedError):
        read_all(path)


@pytest.mark.parametrize(
    "plain",
    [
        b"",  # No header, and no end.
        b"\xff\xff\xff\xff",  # No header.
        struct.pack(">I", 2) + b"[]" + b"\xff\xff\xff\xff",
        struct.pack(">I", 2) + b"{x" + b"\xff\xff\xff\xff",
        struct.pack(">I", 2) + b"{}",  # Empty items to the end of the chunk, and no end.
        struct.pack(">I", 2) + b"{}" + b"\xff\xff\xff\xfe",
        struct.pack(">I", 2) + b"{}" + struct.pack(">I", CHUNK_BYTES) + b"\xff\xff\xff\xff",
        struct.pack(">I", 2) + b"{}" + b"\xff\xff\xff\xff" + b"x",
        struct.pack(">I", 2) + b"{}" + b"\xff\xff\xff\xff" + bytes(2 * CHUNK_BYTES - 10),
    ],
)
def test_what_opens_but_was_never_written_is_refused(path: Path, plain: bytes) -> None:
    salt = bytes(32)
    cipher_key, commitment = archive._derive(KEY, salt)
    head = struct.pack(">8sI32s32s", b"TACITARC", 1, salt, commitment)
    content = head + hashlib.sha256(head).digest()
    chunks = [
        plain[at : at + CHUNK_BYTES].ljust(CHUNK_BYTES, b"\0") for at in range(0, max(len(plain), 1), CHUNK_BYTES)
    ]
    for number, chunk in enumerate(chunks):
        nonce = bytes(7) + struct.pack(">IB", number, number == len(chunks) - 1)
        content += AESGCM(cipher_key).encrypt(nonce, chunk, None)
    path.write_bytes(content)
    with pytest.raises(TamperedError):
        read_all(path)


@given(st.binary(max_size=400), st.booleans())
@RELAXED
def test_any_other_file_is_refused_with_a_typed_error(tmp_path: Path, content: bytes, is_headed: bool) -> None:
    path = tmp_path / "fuzzed"
    path.write_bytes((b"TACITARC\0\0\0\1" if is_headed else b"") + content)
    with pytest.raises((UnknownFormatError, TamperedError)) as caught:
        read_all(path)
    assert "\n" not in str(caught.value)


def test_a_newer_version_is_told(path: Path) -> None:
    write_archive(path, KEY, HEADER, [])
    content = path.read_bytes()
    path.write_bytes(content[:8] + struct.pack(">I", 2) + content[12:])
    with pytest.raises(UnknownFormatError, match="newer Tacit"):
        read_archive(path, KEY)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_no_file_stays_open(path: Path) -> None:
    before = open_files()
    write_archive(path, KEY, HEADER, parts(3))
    read_all(path)
    _, items = read_archive(path, KEY)
    del items
    for wrong in (RecoveryKey.generate(), KEY):
        if wrong is KEY:
            path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(StoreError):
            read_all(path, wrong)
    assert open_files() == before
