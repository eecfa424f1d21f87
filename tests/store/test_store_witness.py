"""A witness shows nothing of what it holds, gives it back unchanged or not at all, and survives a crash whole."""

from __future__ import annotations

import base64
import errno
import hashlib
import hmac
import os
import struct
from collections.abc import Callable
from pathlib import Path

import keyring
import keyring.errors
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from keychains import MemoryKeychain

from store.errors import DeviceSecretError, KeyFileError, StoreError, TamperedError
from store.outside.witness import (
    WITNESS_BYTES,
    AnchorFile,
    KeychainWitness,
    MemoryWitness,
    Sighting,
    Witness,
    _seal_with_salt,
    default_anchor,
    open_sighting,
    seal_sighting,
)

KEY, STORE_ID = bytes(range(32)), bytes(range(16))
SIGHTING = Sighting(counter=7, root=bytes(range(32)), ratchet=b"spent")
GOLDEN = "2426717f0c6c36e9dc5797a1f86e2ed2c0742ce523975085221732bc09e3e64a"
SIGHTINGS = st.builds(
    Sighting,
    counter=st.integers(0, 2**64 - 1),
    root=st.binary(min_size=32, max_size=32),
    ratchet=st.binary(max_size=192),
)


def lp(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def outside_open(key: bytes, store_id: bytes, data: bytes) -> tuple[int, bytes, bytes]:
    """A sighting by the description in witness.py, sharing no code with it."""
    salt, commitment, sealed = data[:16], data[16:48], data[48:]
    extracted = hmac.digest(salt, key, "sha512")
    info = lp(b"tacit", struct.pack(">I", 2), store_id, b"witness")
    derived = hmac.digest(extracted, info + b"\x01", "sha512")
    assert derived[32:] == commitment
    plain = AESGCM(derived[:32]).decrypt(bytes(12), sealed, None)
    assert len(plain) == 320
    length = int.from_bytes(plain[40:42], "big")
    assert plain[42 + length :] == bytes(320 - 42 - length)
    return int.from_bytes(plain[:8], "big"), plain[8:40], plain[42 : 42 + length]


def test_the_seal_stays_as_it_was_first_defined() -> None:
    sealed = _seal_with_salt(bytes(range(16)), KEY, STORE_ID, SIGHTING)
    assert hashlib.sha256(sealed).hexdigest() == GOLDEN
    assert sealed[16:48].hex() == "3a09f4eadeb18f843c7a07e9e182a119cb8263287d6672a92559ec4b19957675"


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16), SIGHTINGS)
def test_a_sighting_reads_back_and_follows_its_description(key: bytes, store_id: bytes, sighting: Sighting) -> None:
    data = seal_sighting(key, store_id, sighting)
    assert len(data) == WITNESS_BYTES
    assert open_sighting(key, store_id, data) == sighting
    assert outside_open(key, store_id, data) == (sighting.counter, sighting.root, sighting.ratchet)


def test_the_same_sighting_never_looks_the_same() -> None:
    seals = [seal_sighting(KEY, STORE_ID, SIGHTING) for _ in range(20)]
    for size, start in ((16, 0), (32, 16), (16, 48), (16, WITNESS_BYTES - 16)):
        assert len({seal[start : start + size] for seal in seals}) == len(seals)


def test_every_changed_byte_is_found() -> None:
    good = seal_sighting(KEY, STORE_ID, SIGHTING)
    for at in range(WITNESS_BYTES):
        bad = bytearray(good)
        bad[at] ^= 1 + at % 255
        with pytest.raises(TamperedError):
            open_sighting(KEY, STORE_ID, bytes(bad))


def test_another_key_store_or_length_is_found() -> None:
    data = seal_sighting(KEY, STORE_ID, SIGHTING)
    for key, store_id, given_data in (
        (bytes(32), STORE_ID, data),
        (KEY, bytes(16), data),
        (KEY, STORE_ID, data[:-1]),
        (KEY, STORE_ID, data + b"\0"),
        (KEY, STORE_ID, b""),
        (KEY, STORE_ID, None),
        (KEY, STORE_ID, data.hex()),
    ):
        with pytest.raises(TamperedError) as caught:
            open_sighting(key, store_id, given_data)
        assert "\n" not in str(caught.value)


@given(st.binary(max_size=500) | st.binary(min_size=WITNESS_BYTES, max_size=WITNESS_BYTES))
@settings(max_examples=50)
def test_any_other_bytes_are_no_sighting(data: bytes) -> None:
    with pytest.raises(TamperedError):
        open_sighting(KEY, STORE_ID, data)


@pytest.mark.parametrize(
    "plain",
    [
        struct.pack(">Q32sH", 1, bytes(32), 193).ljust(320, b"\0"),
        struct.pack(">Q32sH", 1, bytes(32), 65535).ljust(320, b"\0"),
        struct.pack(">Q32sH", 1, bytes(32), 3).ljust(319, b"\0") + b"x",
    ],
)
def test_what_opens_but_was_never_written_is_refused(plain: bytes) -> None:
    data = bytearray(seal_sighting(KEY, STORE_ID, SIGHTING))
    extracted = hmac.digest(bytes(data[:16]), KEY, "sha512")
    info = lp(b"tacit", struct.pack(">I", 2), STORE_ID, b"witness")
    data[48:] = AESGCM(hmac.digest(extracted, info + b"\x01", "sha512")[:32]).encrypt(bytes(12), plain, None)
    with pytest.raises(TamperedError):
        open_sighting(KEY, STORE_ID, bytes(data))


@pytest.mark.parametrize(
    "wrong", [{"counter": -1}, {"counter": 2**64}, {"root": b""}, {"root": bytes(33)}, {"ratchet": bytes(193)}]
)
def test_a_sighting_that_would_not_fit_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        Sighting(**{"counter": 1, "root": bytes(32), "ratchet": b"", **wrong})  # type: ignore[arg-type]


# Where it is kept


@pytest.fixture(params=["file", "keychain", "memory"])
def witness(request: pytest.FixtureRequest, tmp_path: Path, keychain: MemoryKeychain) -> Witness:
    makers: dict[str, Callable[[], Witness]] = {
        "file": lambda: AnchorFile(tmp_path / "new" / "home.anchor"),
        "keychain": lambda: KeychainWitness("home"),
        "memory": MemoryWitness,
    }
    return makers[request.param]()


def test_a_witness_gives_back_what_was_written_last(witness: Witness) -> None:
    assert witness.read() is None
    for sighting in (SIGHTING, Sighting(counter=8, root=bytes(32), ratchet=b"")):
        data = seal_sighting(KEY, STORE_ID, sighting)
        witness.write(data)
        assert witness.read() == data
        assert open_sighting(KEY, STORE_ID, witness.read()) == sighting


def test_the_caller_carries_a_memory_witness() -> None:
    witness = MemoryWitness()
    witness.write(b"sealed")
    assert MemoryWitness(witness.value).read() == b"sealed"


def test_an_anchor_is_for_its_owner_alone_and_alone_in_its_folder(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        anchor = AnchorFile(tmp_path / "made" / "home.anchor")
        anchor.write(bytes(WITNESS_BYTES))
        anchor.write(bytes(WITNESS_BYTES))
    finally:
        os.umask(before)
    assert anchor.path.stat().st_mode & 0o777 == 0o600
    assert anchor.path.parent.stat().st_mode & 0o777 == 0o700
    assert [entry.name for entry in anchor.path.parent.iterdir()] == ["home.anchor"]


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_write_that_fails_leaves_the_earlier_sighting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    anchor = AnchorFile(tmp_path / "home.anchor")
    anchor.write(b"earlier")

    def fail(*_args: object, **_options: object) -> object:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StoreError, match="No space left"):
        anchor.write(b"later")
    assert anchor.read() == b"earlier"
    assert [entry.name for entry in tmp_path.iterdir()] == ["home.anchor"]


def test_a_crash_at_any_call_leaves_the_earlier_or_the_later_sighting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anchor, seen = AnchorFile(tmp_path / "home.anchor"), []
    anchor.write(b"earlier")
    calls: list[str] = []

    def watched(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def watch(*args: object, **options: object) -> object:
            seen.append(anchor.path.read_bytes())
            result = call(*args, **options)
            calls.append(name)
            seen.append(anchor.path.read_bytes())
            return result

        return watch

    for name in ("write", "fsync", "rename", "unlink"):
        monkeypatch.setattr(os, name, watched(name, getattr(os, name)))
    anchor.write(b"later")
    assert set(seen) == {b"earlier", b"later"}
    assert calls == ["write", "fsync", "rename", "fsync"], "the file is synced before the rename, the folder after it"


def test_a_link_a_folder_or_a_pipe_in_its_place_is_refused(tmp_path: Path) -> None:
    AnchorFile(tmp_path / "real").write(b"sealed")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "folder", "pipe"):
        with pytest.raises(StoreError) as caught:
            AnchorFile(tmp_path / name).read()
        assert "\n" not in str(caught.value)
    AnchorFile(tmp_path / "link").write(b"other")
    assert (tmp_path / "real").read_bytes() == b"sealed", "a link is replaced, not followed"


def test_an_anchor_of_any_length_reads_as_something_that_no_store_sealed(tmp_path: Path) -> None:
    anchor = AnchorFile(tmp_path / "home.anchor")
    for size in (0, 1, WITNESS_BYTES - 1, WITNESS_BYTES + 1, 100_000):
        anchor.path.write_bytes(bytes(size))
        with pytest.raises(TamperedError):
            open_sighting(KEY, STORE_ID, anchor.read())


def test_an_anchor_inside_the_stores_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="keep it elsewhere"):
        AnchorFile(tmp_path / "home" / "x.anchor").refuse_inside(tmp_path / "home")
    AnchorFile(tmp_path / "x.anchor").refuse_inside(tmp_path / "home")


def test_the_default_anchor_lies_in_the_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACIT_STATE_DIR", str(tmp_path / "state"))
    assert default_anchor(STORE_ID).path == tmp_path / "state" / f"{STORE_ID.hex()}.anchor"


def test_the_keychain_holds_base64_under_its_name(keychain: MemoryKeychain) -> None:
    KeychainWitness("home").write(b"sealed")
    assert keychain.entries == {("tacit", "witness home"): base64.b64encode(b"sealed").decode()}
    keychain.entries["tacit", "witness home"] = "no base64!"
    with pytest.raises(TamperedError):
        open_sighting(KEY, STORE_ID, KeychainWitness("home").read())


def test_a_failing_keychain_is_a_store_error(keychain: MemoryKeychain, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_args: object) -> str:
        raise keyring.errors.KeyringLocked("locked")

    monkeypatch.setattr(MemoryKeychain, "get_password", locked)
    with pytest.raises(DeviceSecretError, match="KeyringLocked"):
        KeychainWitness("home").read()
