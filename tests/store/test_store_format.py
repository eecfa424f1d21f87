"""The format stays what FORMAT.md says: fixed vectors, and a reader that shares no code with the store.

The reader below was written from FORMAT.md. It uses sqlite3, hashlib, hmac, json and AES-GCM only.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import sqlite3
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from store import DeviceKey, EncryptedStore, Passphrase, Record, Unlock
from store.crypto import SealKey, StoreKeys, hkdf, row_id
from store.records import encode_record

VECTORS = Path(__file__).resolve().parents[1] / "vectors"


def load(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


def outside_hkdf(key: bytes, salt: bytes, info: str) -> bytes:
    extracted = hmac.new(salt or bytes(32), key, hashlib.sha256).digest()
    return hmac.new(extracted, info.encode() + b"\x01", hashlib.sha256).digest()


def lp(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def outside_open(key: bytes, sealed: bytes, store_id: bytes, kind: str, object_id: bytes, version: int) -> bytes:
    assert sealed[0] == 1
    associated = lp(b"tacit", struct.pack(">I", 1), store_id, kind.encode(), object_id, struct.pack(">Q", version))
    return AESGCM(key).decrypt(sealed[1:13], sealed[13:], associated)


def outside_unpad(padded: bytes) -> bytes:
    return padded[4 : 4 + int.from_bytes(padded[:4], "big")]


def outside_read(path: Path, unlock: Unlock) -> dict[str, Any]:
    """Everything in the store at ``path``, by FORMAT.md alone."""
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA application_id").fetchone() == (0x54414349,)
    assert db.execute("PRAGMA user_version").fetchone() == (1,)
    (form, store_id, how, salt, memory_kib, passes, lanes, check, wrapped, digest) = db.execute(
        "SELECT format, store_id, unlock, salt, memory_kib, passes, lanes, key_check, wrapped_key, digest FROM header"
    ).fetchone()
    binding = lp(how.encode(), salt, struct.pack(">III", memory_kib, passes, lanes), check)
    assert digest == hashlib.sha256(lp(b"tacit", struct.pack(">I", form), store_id, binding, wrapped)).digest()
    if isinstance(unlock, DeviceKey):
        root = outside_hkdf(unlock._key, salt, "tacit/1/device-key")
    else:
        root = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory_kib).derive(
            unlock._text
        )
    assert check == outside_hkdf(root, store_id, "tacit/1/key-check")
    data_key = outside_open(outside_hkdf(root, store_id, "tacit/1/wrap"), wrapped, store_id, "key", binding, 1)

    def opened(kind: str, sealed: bytes, object_id: bytes, version: int) -> bytes:
        key = outside_hkdf(data_key, store_id, f"tacit/1/{kind}")
        return outside_open(key, sealed, store_id, kind, object_id, version)

    version, sealed = db.execute("SELECT version, sealed FROM state WHERE id = 1").fetchone()
    content: dict[str, Any] = {
        "state": json.loads(outside_unpad(opened("state", sealed, (1).to_bytes(8, "big"), version))),
        "memory": {},
        "named": {},
    }
    for number, version, vector, record in db.execute("SELECT id, version, vector, record FROM memory"):
        object_id = number.to_bytes(8, "big")
        floats = opened("vector", vector, object_id, version)
        content["memory"][number] = (
            version,
            json.loads(outside_unpad(opened("record", record, object_id, version))),
            list(struct.unpack(f"<{len(floats) // 4}f", floats)),
        )
    for lookup, version, title, value in db.execute("SELECT lookup, version, title, value FROM named"):
        names = outside_unpad(opened("title", title, lookup, version))
        assert lookup == hmac.new(outside_hkdf(data_key, store_id, "tacit/1/lookup"), names, hashlib.sha256).digest()
        size = int.from_bytes(names[:4], "big")
        kind, name = names[4 : 4 + size].decode(), names[8 + size :].decode()
        content["named"][kind, name] = outside_unpad(opened("value", value, lookup, version))
    db.close()
    return content


@pytest.mark.parametrize("case", load("store_aead.json")["seal"], ids=lambda case: case["kind"])
def test_sealed_bytes_equal_the_golden_vector(case: dict[str, Any]) -> None:
    key = SealKey(bytes.fromhex(case["key"]), store_id=bytes.fromhex(case["store_id"]), kind=case["kind"])
    what = {"object_id": bytes.fromhex(case["object_id"]), "version": case["version"]}
    plaintext, nonce = bytes.fromhex(case["plaintext"]), bytes.fromhex(case["nonce"])
    sealed = key._seal_with_nonce(nonce, plaintext, **what)
    assert sealed.hex() == case["sealed"]
    assert key._associated(**what).hex() == case["associated_data"]
    assert key.open(sealed, **what) == plaintext
    # The public cipher, put together by hand.
    by_hand = AESGCM(bytes.fromhex(case["key"])).encrypt(nonce, plaintext, bytes.fromhex(case["associated_data"]))
    assert (b"\x01" + nonce + by_hand).hex() == case["sealed"]


def test_derived_keys_and_record_bytes_equal_the_golden_vector() -> None:
    golden = load("store_aead.json")
    derived = golden["derive"]
    data_key, store_id = bytes.fromhex(derived["data_key"]), bytes.fromhex(derived["store_id"])
    for info, expected in derived["keys"].items():
        assert hkdf(data_key, info, salt=store_id).hex() == expected
        assert outside_hkdf(data_key, store_id, info).hex() == expected
    assert StoreKeys(data_key, store_id).lookup("kind", "name").hex() == derived["lookup of kind/name"]
    assert encode_record(Record(**golden["record"]["fields"])).hex() == golden["record"]["padded"]


def test_hkdf_equals_rfc_5869_case_1_cut_to_32_bytes() -> None:
    # The info of the RFC's case is not ASCII text, so only the reader here can run it; the store's own is compared
    # with the reader's above.
    extracted = hmac.new(bytes(range(13)), b"\x0b" * 22, hashlib.sha256).digest()
    block = hmac.new(extracted, bytes(range(0xF0, 0xFA)) + b"\x01", hashlib.sha256).hexdigest()
    assert block == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"


@pytest.mark.parametrize("unlock", [DeviceKey(bytes(range(32))), Passphrase("correct horse")], ids=["key", "phrase"])
def test_a_reader_written_from_the_format_page_reads_everything(folder: Path, unlock: Unlock) -> None:
    record = Record(text="caf\u00e9 \u4f60\u597d", label=None, time=1.25, scope="work")
    with EncryptedStore.create(folder, unlock, dimension=3) as memory:
        memory.add_many([record, record], np.array([[1, 2, 3], [-1, 0.5, 0]], dtype=np.float32))
        memory.update(2, Record(text="new", label="l", time=2.0, purpose="p", source="s"))
        memory.put("kind", "n\u00e4me", b"value")
    content = outside_read(folder / "memory.tacit", unlock)
    assert content["state"] == {"dimension": 3}
    user = {"label": None, "purpose": "personalization", "scope": "work", "source": "user"}
    assert content["memory"] == {
        1: (1, {**user, "text": "caf\u00e9 \u4f60\u597d", "time": 1.25}, [1, 2, 3]),
        2: (
            2,
            {"label": "l", "purpose": "p", "scope": "default", "source": "s", "text": "new", "time": 2.0},
            [-1, 0.5, 0],
        ),
    }
    assert content["named"] == {("kind", "n\u00e4me"): b"value"}


def test_golden_store_of_format_1_opens_and_goes_on(folder: Path) -> None:
    golden = load("store_format1.json")
    folder.mkdir()
    (folder / "memory.tacit").write_bytes(zlib.decompress(base64.b64decode(golden["file"])))
    with EncryptedStore.open(folder, DeviceKey(bytes.fromhex(golden["device_key"]))) as memory:
        assert memory.store_id.hex() == golden["store_id"]
        assert memory.verify() == 7
        got = [[s.id, s.version, s.record.text, s.record.label, s.record.time] for s in memory.iter()]
        assert got == golden["records"]
        assert memory.vectors()[1].tolist() == golden["vectors"]
        assert memory.fetch("kind", "name") == bytes.fromhex(golden["named"])
        assert memory.add(Record(text="more", time=0.0), np.ones(4, dtype=np.float32)) == 4


def test_row_ids_are_eight_bytes_big_endian() -> None:
    assert row_id(258).hex() == "0000000000000102"
