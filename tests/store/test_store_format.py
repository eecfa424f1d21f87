"""The format stays what FORMAT.md says: a reader that shares no code with the store reads all that a store writes."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import outside
import pytest
from outside import Outside, secrets_in

from store import (
    AnchorFile,
    DeviceKey,
    EncryptedStore,
    FileSecret,
    KeychainKey,
    Passphrase,
    Record,
    RecoveryKey,
    TamperedError,
)
from store.index.quantizer import Quantizer
from store.index.terms import decode_terms, entry_of

VECTORS = Path(__file__).resolve().parents[1] / "vectors"


def read(memory: EncryptedStore, folder: Path, state: Path, kind: str = "device-key", unlock: bytes = b"") -> Outside:
    """What the reader finds; by default with the key of the fixture ``key``."""
    secrets = secrets_in(state / f"{memory.store_id.hex()}.secret")
    return Outside(folder / "memory.tacit", kind, unlock or bytes(range(32)), secrets)


def as_fields(memory: EncryptedStore) -> dict[int, dict[str, Any]]:
    """What the store itself says of each record, in the reader's terms."""
    found = {}
    for stored in memory.iter(history=True):
        record = stored.record
        found[stored.id] = {
            "id": stored.id,
            "version": stored.version,
            "time": record.time,
            "expires": math.inf if record.expires is None else record.expires,
            "supersedes": record.supersedes or 0,
            "scope": record.scope,
            "purpose": record.purpose,
            "source": record.source,
            "derived_from": list(record.derived_from),
            "terms": decode_terms(entry_of(record.text)),
            "vector": memory.vector(stored.id).tolist(),
            "text": record.text,
            "label": record.label,
        }
    return found


def check_same(memory: EncryptedStore, found: Outside) -> None:
    """The reader found what the store holds, no more and no less."""
    expected, quantizer = as_fields(memory), Quantizer(memory.dimension)
    assert found.records.keys() == expected.keys()
    for id, fields in expected.items():
        seen = found.records[id]
        text, label = fields.pop("text"), fields.pop("label")
        assert {name: seen[name] for name in fields} == fields
        assert (seen["record"]["text"], seen["record"]["label"]) == (text, label)
        code = quantizer.encode(np.array([fields["vector"]], dtype=np.float32))[0].tobytes()
        assert seen["code"][: quantizer.sign_bytes] == code[: quantizer.sign_bytes]
        factors = [struct.unpack("<f", c[quantizer.sign_bytes :])[0] for c in (seen["code"], code)]
        assert factors[0] == pytest.approx(factors[1], rel=1e-5)
    assert [(n, k, c) for n, k, c in found.ledger] == memory.entries()
    assert [receipt["ids"] for receipt in found.receipts] == [list(receipt.ids) for receipt in memory.receipts()]
    ids = {found.records[id]["slot"]: id for id in found.records}
    assert {ids[slot] for slot in found.superseded} == {f["supersedes"] for f in expected.values()} & expected.keys()


@pytest.fixture
def rich(folder: Path, key: DeviceKey) -> Iterator[EncryptedStore]:
    """Two segments and a tail with forgotten, changed, superseding, derived and expiring records; named values."""
    rng = np.random.default_rng(3)
    count = 2 * 1024 + 70
    with EncryptedStore.create(folder, key, dimension=3, clock=lambda: 0.0) as memory:
        words = ["caf\u00e9 window", "aisle seat aisle", "\u4f60\u597d\u4e16\u754c", "the of", "train 7"]
        records = [
            Record(text=f"{words[i % 5]} {i % 11}", time=i / 4, scope=f"s{i % 3}", label=None if i % 2 else f"l{i}")
            for i in range(count)
        ]
        # Rounding is the same everywhere where no coordinate is near zero; `verify` and this file's check allow for it.
        memory.add_many(records, rng.standard_normal((count, 3)).astype(np.float32))
        memory.put("kind", "n\u00e4me", b"value")
        memory.put("kind", "big", bytes(5000))
        memory.put("kind", "big", b"\1" * 6000)
        memory.append("charge", b"spent")
        more = Record(text="more", time=1.0, expires=50.0, source="w\u00f6rld")
        memory.add(more, np.ones(3, dtype=np.float32))
        memory.add(Record(text="newer", time=2.0, supersedes=5), np.ones(3, dtype=np.float32))
        memory.add(Record(text="note", time=2.0, derived_from=(1, 1500), purpose="p"), np.ones(3, dtype=np.float32))
        memory.forget([7, 1030, 2060])
        memory.update(9, Record(text="changed", time=3.0))
        memory.update(2070, Record(text="changed too", time=3.0))
        memory.charge(b"ratchet")
        yield memory


def test_a_reader_written_from_the_format_page_reads_everything(
    rich: EncryptedStore, folder: Path, state: Path
) -> None:
    found = read(rich, folder, state)
    check_same(rich, found)
    assert found.named == {("kind", "n\u00e4me"): b"value", ("kind", "big"): b"\1" * 6000}
    assert found.ledger[1][:2] == (2, "receipt")
    assert found.ledger[0] == (1, "charge", b"spent")
    assert found.ratchet == b"ratchet"
    assert found.head["dimension"] == 3
    assert found.epoch == 2
    assert found.segments.keys() == {0, 1}
    assert [found.segments[n]["live"] for n in (0, 1)] == [1023, 1023]
    assert found.pending == [9]
    sighting = AnchorFile(state / f"{rich.store_id.hex()}.anchor").read()
    assert sighting is not None
    assert outside.open_sighting(found.anchor_key, found.id, sighting) == (
        found.head["counter"],
        found.root_hash,
        b"ratchet",
    )
    server = rich.sighting()
    assert outside.open_sighting(found.anchor_key, found.id, server)[1] == found.root_hash


def test_punctured_keys_are_gone_and_all_others_are_there(rich: EncryptedStore, folder: Path, state: Path) -> None:
    found = read(rich, folder, state)
    gone = {slot for slot in range(1, found.head["allocated"] + 1) if found.leaf("row", 1, slot) is None}
    assert gone == {7, 1030, 2060}
    rich.purge()
    found = read(rich, folder, state)
    gone = {slot for slot in range(1, found.head["allocated"] + 1) if found.leaf("row", 1, slot) is None}
    assert gone == {7, 9, 1030, 2060, 2070}
    pages = {page for page in range(found.head["next_page"]) if found.leaf("page", 1, page) is not None}
    in_use = {ref[1] for ref in found.refs} | {page for _, page, _ in found.values}
    assert pages == in_use | {found.head["manifest_page"], found.head["registry_page"]}
    assert found.pending == found.garbage == []


def test_a_segment_that_was_forgotten_whole_is_gone(rich: EncryptedStore, folder: Path, state: Path) -> None:
    rich.forget([id for id in range(1, 1025) if id not in (7, 9)])
    found = read(rich, folder, state)
    assert found.segments.keys() == {1}
    check_same(rich, found)
    rich.verify()


class StoppedError(Exception):
    pass


def test_both_generations_are_read_in_the_middle_of_a_rotation(rich: EncryptedStore, folder: Path, state: Path) -> None:
    def stop_after(steps: int) -> None:
        def progress(done: int, total: int) -> None:
            nonlocal steps
            steps -= 1
            if steps <= 0:
                raise StoppedError

        with pytest.raises(StoppedError):
            rich.rotate(progress)

    stop_after(1)
    assert rich.rotating
    found = read(rich, folder, state)
    assert found.trees.keys() == {1, 2}
    assert found.head["rotated_to"] == 1025
    check_same(rich, found)
    rich.add(Record(text="meanwhile", time=1.0), np.ones(3, dtype=np.float32))
    rich.forget([3, 1100])
    rich.update(1200, Record(text="meanwhile changed", time=1.0))
    check_same(rich, read(rich, folder, state))
    stop_after(1)
    check_same(rich, read(rich, folder, state))
    rich.rotate()
    found = read(rich, folder, state)
    assert found.trees.keys() == {2}
    assert {generation for (generation,) in rich._database.rows("SELECT DISTINCT generation FROM node")} <= {2}
    check_same(rich, found)
    assert found.named["kind", "n\u00e4me"] == b"value"


def test_a_slot_of_each_kind_opens_the_same_store_key(folder: Path, key: DeviceKey, state: Path) -> None:
    recovery, keychain = RecoveryKey(bytes(range(1, 33))), KeychainKey(bytes(range(2, 34)))
    with EncryptedStore.create(folder, key, dimension=2) as memory:
        memory.put("a", "b", b"c")
        for unlock in (Passphrase("cafe\u0301"), recovery, keychain):
            memory.access.add(unlock)
        owners = {
            "device-key": key._key,
            "passphrase": "caf\u00e9".encode(),
            "recovery-key": recovery._key,
            "keychain": keychain._key,
        }
        for kind, secret in owners.items():
            assert read(memory, folder, state, kind, secret).named == {("a", "b"): b"c"}
        before = read(memory, folder, state)
        memory.access.remove(3)
        for kind in ("device-key", "passphrase", "keychain"):
            found = read(memory, folder, state, kind, owners[kind])
            assert (found.epoch, [slot[0] for slot in found.slots]) == (before.epoch + 1, [1, 2, 4])
        assert found.receipts[-1]["what"] == "slots"


def test_the_text_of_a_recovery_key_is_what_the_page_says() -> None:
    key = bytes(range(100, 132))
    check = int.from_bytes(hashlib.sha256(b"tacit/2/recovery-key" + key).digest(), "big") >> 256 - 39
    number, digits = int.from_bytes(key, "big") << 39 | check, ""
    for _ in range(59):
        digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"[number % 32] + digits
        number //= 32
    text = "T" + digits
    assert RecoveryKey(key).text() == "-".join(text[at : at + 5] for at in range(0, 60, 5))


@pytest.mark.parametrize("dimension", [1, 3, 8, 13])
def test_a_code_is_what_the_page_says(dimension: int) -> None:
    """The rotation and the code, in plain Python."""
    rng = np.random.default_rng(dimension)
    vector = rng.standard_normal(dimension).astype(np.float32)
    power = 2 ** int(math.log2(dimension))

    def transformed(part: list[float]) -> list[float]:
        signs = [[(-1) ** (i & j).bit_count() for j in range(power)] for i in range(power)]
        return [sum(s * x for s, x in zip(row, part, strict=True)) / math.sqrt(power) for row in signs]

    turned = [float(x) for x in vector]
    for number in range(3):
        seed = b"tacit codes 1" + struct.pack("<I", dimension) + bytes([number])
        words = struct.unpack(f"<{dimension}Q", hashlib.shake_256(seed).digest(8 * dimension))
        turned = [-x if word & 1 else x for x, word in zip(turned, words, strict=True)]
        turned = [turned[at] for at in sorted(range(dimension), key=lambda at: words[at])]
        turned[:power] = transformed(turned[:power])
        if power < dimension:
            turned[-power:] = transformed(turned[-power:])
    bits = sum((y > 0) << j for j, y in enumerate(turned))
    factor = math.sqrt(dimension) * sum(y * y for y in turned) / sum(map(abs, turned))
    code = Quantizer(dimension).encode(vector[None])[0].tobytes()
    assert code[:-4] == bits.to_bytes((dimension + 7) // 8, "little")
    assert struct.unpack("<f", code[-4:])[0] == pytest.approx(factor, rel=1e-5)


def test_noise_rows_are_told_by_nothing_that_the_page_lists(folder: Path, key: DeviceKey) -> None:
    with EncryptedStore.create(folder, key, dimension=3) as memory:
        memory.add_many([Record(text="x", time=0.0)] * 20, np.ones((20, 3), dtype=np.float32))
        memory.forget([4, 5])
        memory.update(7, Record(text="y", time=0.0))
        memory.replace_vectors([stored.id for stored in memory.iter()], np.ones((18, 5), dtype=np.float32), 5)
        memory.add_many([Record(text="x", time=0.0)] * 3, np.ones((3, 5), dtype=np.float32))
        rows = memory._database.rows("SELECT slot, m.stamp, t.stamp, length(vector), length(record), length(entry) "
                                     "FROM memory m JOIN tail t USING (slot) ORDER BY slot")  # fmt: skip
        assert [row[0] for row in rows] == list(range(1, 65))
        assert all(row[1] == row[2] and len(row[1]) == 49 and row[1][0] == 2 for row in rows)
        assert len({row[3:] for row in rows}) == 1
        assert len({row[1] for row in rows}) == 64


def _golden(folder: Path, state: Path) -> tuple[dict[str, Any], DeviceKey]:
    """Put the golden store of format 2, its device secret and its witness in their places."""
    golden = json.loads((VECTORS / "store_format2.json").read_text())
    folder.mkdir(mode=0o700)
    state.mkdir(exist_ok=True)
    places = {
        "file": folder / "memory.tacit",
        "secret": state / f"{golden['store_id']}.secret",
        "anchor": state / f"{golden['store_id']}.anchor",
    }
    for name, path in places.items():
        path.write_bytes(zlib.decompress(base64.b64decode(golden[name])))
        path.chmod(0o600)
    return golden, DeviceKey(bytes.fromhex(golden["device_key"]))


def test_golden_store_of_format_2_opens_verifies_and_goes_on(folder: Path, state: Path) -> None:
    golden, key = _golden(folder, state)
    with EncryptedStore.open(folder, key, clock=lambda: 0.0) as memory:
        assert memory.store_id.hex() == golden["store_id"]
        assert memory.verify() == golden["verified"]
        got = [[s.id, s.version, s.record.text, s.record.label, s.record.time] for s in memory.iter(history=True)]
        assert got == golden["records"]
        assert [memory.vector(row[0]).tolist() for row in got] == golden["vectors"]
        assert {name: memory.fetch("kind", name) for name in memory.names("kind")} == {
            name: bytes.fromhex(value) for name, value in golden["named"].items()
        }
        assert [receipt.as_json() for receipt in memory.receipts()] == golden["receipts"]
        assert memory.ratchet.hex() == golden["ratchet"]
        assert memory.search_text("golden", 9)
        number = memory.add(Record(text="more", time=0.0), np.ones(4, dtype=np.float32))
        assert number == golden["next_id"]
        assert memory.forget([number]) is not None
        assert memory.verify() > 0


def test_golden_store_of_format_2_is_read_from_outside(folder: Path, state: Path) -> None:
    golden, key = _golden(folder, state)
    secrets = secrets_in(state / f"{golden['store_id']}.secret")
    found = Outside(folder / "memory.tacit", "device-key", key._key, secrets)
    got = [[id, r["version"], r["record"]["text"], r["record"]["label"], r["time"]] for id, r in found.records.items()]
    assert sorted(got) == golden["records"]
    assert {name: value.hex() for (_, name), value in found.named.items()} == golden["named"]
    assert found.receipts == golden["receipts"]
    assert secrets.keys() == {found.epoch}


def test_golden_store_of_format_2_stays_closed_with_another_secret(folder: Path, state: Path) -> None:
    golden, key = _golden(folder, state)
    path = state / f"{golden['store_id']}.secret"
    (epoch,) = secrets_in(path)
    path.unlink()
    FileSecret(path).create(epoch, bytes(32))
    with pytest.raises(TamperedError):
        EncryptedStore.open(folder, key)
