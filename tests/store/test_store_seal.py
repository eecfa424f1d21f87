"""Sealing and what is sealed: golden vectors, published vectors of the primitives, and values changed in every way."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import outside
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from store import DeviceKey, Passphrase, Record, TamperedError
from store.format.columns import Columns, Entry, decode_entry, encode_entry
from store.format.head import Head, chained
from store.format.manifest import Manifest
from store.format.parts import prefixed
from store.format.ranges import Ranges
from store.format.receipts import Receipt
from store.format.records import decode_record, encode_record
from store.format.registry import Registry
from store.format.segment_table import NO_SEGMENTS, SegmentRef
from store.index.postings import build_postings
from store.index.terms import encode_terms, terms_of
from store.keys.crypto import (
    STAMP_BYTES,
    TAG_BYTES,
    Place,
    _seal_with_salt,
    hkdf,
    open_each,
    open_one,
    open_stamp,
    seal,
    seal_one,
)
from store.keys.keytree import Branch, KeyTree, no_nodes
from store.keys.root import Generation, Root
from store.keys.slots import Slot
from store.keys.unlock import stretch

GOLDEN = json.loads((Path(__file__).resolve().parents[1] / "vectors" / "store_seal2.json").read_text())
KEY, PLACE = bytes(range(32)), Place(bytes(range(64, 80)), "record", 7)


# Published vectors of the primitives


def test_hkdf_equals_rfc_5869_case_1() -> None:
    info = bytes(range(0xF0, 0xFA))
    derived = HKDF(algorithm=SHA256(), length=42, salt=bytes(range(13)), info=info).derive(b"\x0b" * 22)
    assert derived.hex() == ("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")


def test_hkdf_equals_rfc_5869_case_3_cut_to_32_bytes() -> None:
    # No salt and no info, which are ASCII text: so the store's own function can run it.
    expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
    assert hkdf(b"\x0b" * 22, "").hex() == expected
    assert outside.hkdf(b"\x0b" * 22, b"", "").hex() == expected


def test_keyed_blake2b_equals_the_test_vectors_of_its_authors() -> None:
    """The first two of the keyed ones in https://github.com/BLAKE2/BLAKE2, testvectors/blake2b-kat.txt."""
    key = bytes(range(64))
    assert hashlib.blake2b(b"", key=key).hexdigest() == (
        "10ebb67700b1868efb4417987acf4690ae9d972fb7a590c2f02871799aaa4786"
        "b5e996e8f0f4eb981fc214b005f42d2ff4233499391653df7aefcbc13fc51568"
    )
    assert hashlib.blake2b(b"\0", key=key).hexdigest() == (
        "961f6dd1e4dd30f63901690c512e78e4b45e4742ed197c3c5e45c549fd25f2e4"
        "187b0bc9fe30492b16b0d0bc4ef9b0f34c7003fac09a5ef1532e69430234cebd"
    )


GCM_KEY = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"
GCM_TEXT = (
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
)
GCM_SEALED = (
    "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
    "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
)


@pytest.mark.parametrize(
    ("key", "nonce", "text", "associated", "expected"),
    [
        ("00" * 32, "00" * 12, "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
        ("00" * 32, "00" * 12, "00" * 16, "", "cea7403d4d606b6e074ec5d3baf39d18" + "d0d1c8a799996bf0265b98b5d48ab919"),
        (
            GCM_KEY,
            "cafebabefacedbaddecaf888",
            GCM_TEXT + "1aafd255",
            "",
            GCM_SEALED + "898015ad" + "b094dac5d93471bdec1a502270e3cc6c",
        ),
        (
            GCM_KEY,
            "cafebabefacedbaddecaf888",
            GCM_TEXT,
            "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            GCM_SEALED + "76fc6ece0f4e1768cddf8853bb2d551b",
        ),
    ],
    ids=["13", "14", "15", "16"],
)
def test_aes_256_gcm_equals_the_test_cases_of_its_authors(
    key: str, nonce: str, text: str, associated: str, expected: str
) -> None:
    """McGrew and Viega, "The Galois/Counter Mode of Operation", test cases 13 to 16."""
    aead, more = AESGCM(bytes.fromhex(key)), bytes.fromhex(associated)
    assert aead.encrypt(bytes.fromhex(nonce), bytes.fromhex(text), more).hex() == expected
    buffer = bytearray(len(text) // 2)
    aead.decrypt_into(bytes.fromhex(nonce), bytes.fromhex(expected), more, buffer)
    assert buffer.hex() == text


def test_argon2id_equals_rfc_9106_section_5_3() -> None:
    derived = Argon2id(
        salt=b"\2" * 16, length=32, iterations=3, lanes=4, memory_cost=32, ad=b"\4" * 12, secret=b"\3" * 8
    ).derive(b"\1" * 32)
    assert derived.hex() == "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659"


# Golden vectors of the composed format


@pytest.mark.parametrize("case", GOLDEN["seal"], ids=lambda case: case["space"])
def test_sealed_bytes_equal_the_golden_vector(case: dict[str, Any]) -> None:
    key, store_id, salt = (bytes.fromhex(case[name]) for name in ("key", "store_id", "salt"))
    parts = {name: bytes.fromhex(value) for name, value in case["parts"].items()}
    place = Place(store_id, case["space"], case["number"])
    stamp, sealed = _seal_with_salt(salt, key, place, parts)
    assert stamp.hex() == case["stamp"]
    assert [part.hex() for part in sealed] == case["sealed"]
    lock = open_stamp(key, place, stamp)
    assert [lock.open(at, name, sealed[at]) for at, name in enumerate(parts)] == list(parts.values())
    numbered = [(at, name, sealed[at]) for at, name in enumerate(parts)]
    assert outside.open_parts(key, store_id, case["space"], case["number"], stamp, *numbered) == list(parts.values())


def test_derived_keys_equal_the_golden_vector() -> None:
    golden = GOLDEN["derive"]
    key, salt = bytes.fromhex(golden["key"]), bytes.fromhex(golden["salt"])
    for info, expected in golden["keys"].items():
        assert hkdf(key, info, salt=salt).hex() == expected
        assert outside.hkdf(key, salt, info).hex() == expected
    root = example_root()
    assert root.head_key(salt).hex() == outside.hkdf(root.key, salt, "tacit/2/head").hex()
    assert root.commitment(salt).hex() == golden["keys"]["tacit/2/commitment"]
    assert stretch(DeviceKey(key), salt, None).hex() == golden["keys"]["tacit/2/device-key"]  # type: ignore[arg-type]


def test_keys_of_the_tree_equal_the_golden_vector() -> None:
    golden = GOLDEN["tree"]
    tree = KeyTree(no_nodes(), Place(bytes(16), "row tree 1", 0), Branch.seed(bytes.fromhex(golden["seed"])))
    for number, expected in golden["keys"].items():
        assert tree.key(int(number)).hex() == expected
        by_hand = bytes.fromhex(golden["seed"])
        for level in (3, 2, 1, 0):
            by_hand = outside.child_seed(by_hand, int(number) >> 8 * level & 255)
        assert by_hand.hex() == expected
    tree.puncture([1])
    assert not tree.has(1)
    assert {number: tree.key(int(number)).hex() for number in golden["keys"] if number != "1"} == {
        number: value for number, value in golden["keys"].items() if number != "1"
    }


def test_slot_equals_the_golden_vector() -> None:
    golden = GOLDEN["slot"]
    fields = {name: bytes.fromhex(golden[name]) for name in ("salt", "key_check", "wrapped", "digest")}
    cost = {"memory_kib": 65536, "passes": 3, "lanes": 1}
    slot = Slot(number=golden["number"], kind=golden["kind"], **cost, **fields)
    store_id = bytes.fromhex(golden["store_id"])
    unlock = Passphrase(golden["passphrase"])
    assert slot.open(unlock, store_id) == bytes.fromhex(golden["store_key"])
    assert slot.open(Passphrase(golden["passphrase"] + "!"), store_id) is None
    assert slot.open(DeviceKey(bytes(32)), store_id) is None


def example_root() -> Root:
    keys = [bytes([number]) * 32 for number in range(1, 12)]
    return Root(
        epoch=3,
        key=keys[0],
        anchor_key=keys[1],
        log_key=keys[2],
        lookup_key=keys[3],
        generations=(
            Generation(number=1, rows=Branch(2, keys[4]), pages=Branch.seed(keys[5])),
            Generation(number=2, rows=Branch.seed(keys[6]), pages=Branch.seed(keys[7])),
        ),
        slot_keys=((1, keys[8]), (4, keys[9])),
    )


def example_entries() -> list[Entry]:
    code, terms = bytes(range(5)), encode_terms(terms_of("window seat, window"))
    return [
        Entry(slot=1025, mark=b"markmark", id=1025, version=1, time=1.5, code=code, terms=terms),
        Entry(
            slot=1027,
            mark=b"krammark",
            id=3,
            version=2,
            time=-1.0,
            expires=9.5,
            supersedes=2,
            scope="caf\u00e9",
            purpose="p",
            source="s",
            derived_from=(1, 2**40),
            code=code[::-1],
            terms=b"",
        ),
    ]


def examples() -> Iterator[tuple[str, bytes]]:
    """What is sealed, before it is: name and plaintext."""
    entries = example_entries()
    ref = SegmentRef(number=1, page=9, mark=b"markmark", live=1024, soonest=9.5, linked=True)
    yield "record", encode_record(Record(text="caf\u00e9", label="l", time=1.25, scope="work"))
    yield (
        "record with all fields",
        encode_record(
            Record(text="x", time=0, expires=2.5, supersedes=7, derived_from=(1, 2), purpose="p", source="s")
        ),
    )
    yield "entry", encode_entry(entries[1])
    yield "columns", Columns.of(entries).to_bytes()
    yield "postings", build_postings(np.array([1025, 1027]), [entry.terms for entry in entries])
    yield "terms", entries[0].terms
    yield "head", Head(
        **{name: number for number, name in enumerate(outside.NUMBERS, 1)},
        manifest_mark=b"manifest",
        registry_mark=b"registry",
        dead=b"\1" + bytes(127),
        pending=b"\3" + bytes(127),
        tail_digest=chained(bytes(32), 1025, b"markmark"),
        ledger_chain=bytes(range(32)),
        ratchet=b"ratchet",
    ).to_bytes()  # fmt: skip
    yield (
        "manifest",
        Manifest(
            segments=NO_SEGMENTS.with_ref(ref),
            pending=frozenset({5, 3}),
            superseded=frozenset({8}),
            garbage=Ranges([(1, 3), (7, 8)]),
        ).to_bytes(),
    )
    yield "registry", Registry(values={b"l" * 32: (4, b"markmark")}, garbage=Ranges([(0, 1)])).to_bytes()
    yield "root", example_root().to_bytes()
    yield "receipt", Receipt(
        what="forget", ids=(1, 2), time=1.5, epoch=2, root_before=b"b" * 32, root_after=b"a" * 32
    ).to_bytes()  # fmt: skip


@pytest.mark.parametrize(("name", "plaintext"), list(examples()), ids=[name for name, _ in examples()])
def test_plaintext_equals_the_golden_vector(name: str, plaintext: bytes) -> None:
    expected = bytes.fromhex(GOLDEN["plaintexts"][name])
    assert plaintext.rstrip(b"\0") == expected
    assert not any(plaintext[len(expected) :])


def test_golden_plaintexts_read_back() -> None:
    plain = dict(examples())
    entry = example_entries()[1]
    assert decode_entry(plain["entry"], slot=1027, mark=b"krammark") == entry
    assert Columns.from_bytes(plain["columns"], 1).entry(1).derived_from == (1, 2**40)
    assert Head.from_bytes(plain["head"]).ratchet == b"ratchet"
    assert Manifest.from_bytes(plain["manifest"]).to_bytes() == plain["manifest"]
    assert Registry.from_bytes(plain["registry"]).to_bytes() == plain["registry"]
    assert Root.from_bytes(plain["root"]) == example_root()
    assert decode_record(plain["record with all fields"]).derived_from == (1, 2)


@pytest.mark.parametrize("name", ["entry", "columns", "head", "manifest", "registry", "root", "record", "receipt"])
def test_plaintext_that_no_store_wrote_raises_tampered_or_reads_as_another(name: str) -> None:
    """A value that opens is authentic; still, one cut or laid out otherwise gives the typed error and no other."""
    read = {
        "entry": lambda data: decode_entry(data, slot=1027, mark=b"krammark"),
        "columns": lambda data: Columns.from_bytes(data, 1),
        "head": Head.from_bytes,
        "manifest": Manifest.from_bytes,
        "registry": Registry.from_bytes,
        "root": Root.from_bytes,
        "record": decode_record,
        "receipt": Receipt.from_bytes,
    }[name]
    plaintext = dict(examples())[name]
    for bad in (
        b"",
        plaintext[:-1],
        plaintext + b"\0",
        plaintext[:100],
        bytes(len(plaintext)),
        b"\xff" * len(plaintext),
    ):
        with pytest.raises(TamperedError):
            read(bad)
    for place in range(min(len(plaintext), 700)):
        changed = plaintext[:place] + bytes([plaintext[place] ^ (1 << place % 8)]) + plaintext[place + 1 :]
        try:
            read(changed)
        except TamperedError:
            continue


# Changed in every way


def regions(stamp: bytes, sealed: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Stamp and part with each bit flipped once, cut and extended."""
    whole = stamp + sealed
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed[: len(stamp)]), bytes(changed[len(stamp) :])
    for size in range(len(stamp)):
        yield stamp[:size], sealed
    for size in range(len(sealed)):
        yield stamp, sealed[:size]
    yield stamp + b"\0", sealed
    yield stamp, sealed + b"\0"
    yield stamp, b"\0" + sealed


def opened_together(stamp: object, sealed: object) -> list[bytes]:
    """The part named one, opened as the second of two rows."""
    other, (first, _) = seal(bytes(32), PLACE._replace(number=1), {"one": b"before", "two": b""})
    rows = [(bytes(32), 1, other, first), (KEY, PLACE.number, stamp, sealed)]
    return open_each(PLACE.store_id, PLACE.space, 0, "one", rows)


def test_each_bit_cut_and_extension_of_a_sealed_value_raises_tampered() -> None:
    stamp, (first, second) = seal(KEY, PLACE, {"one": b"first part", "two": b"second"})
    for bad_stamp, bad in regions(stamp, first):
        with pytest.raises(TamperedError):
            open_stamp(KEY, PLACE, bad_stamp).open(0, "one", bad)
        with pytest.raises(TamperedError):
            open_stamp(KEY, PLACE, bad_stamp).open_into(0, "one", bad, memoryview(bytearray(10)))
        with pytest.raises(TamperedError):
            opened_together(bad_stamp, bad)
    lock = open_stamp(KEY, PLACE, stamp)
    for part, name, sealed in [
        (1, "one", first),
        (0, "two", first),
        (0, "one", second),
        (1, "two", first),
        (2, "one", first),
    ]:
        with pytest.raises(TamperedError):
            lock.open(part, name, sealed)
    assert opened_together(stamp, first) == [b"before", b"first part"]
    for wrong in (None, 5, "text", bytearray(first), b""):
        with pytest.raises(TamperedError):
            lock.open(0, "one", wrong)
        with pytest.raises(TamperedError):
            opened_together(stamp, wrong)
        with pytest.raises(TamperedError):
            opened_together(wrong, first)
        with pytest.raises(TamperedError):
            open_stamp(KEY, PLACE, wrong)
        with pytest.raises(TamperedError):
            open_one(KEY, PLACE, wrong)
    with pytest.raises(TamperedError):
        lock.open_into(0, "one", first, memoryview(bytearray(11)))
    buffer = bytearray(10)
    lock.open_into(0, "one", first, memoryview(buffer))
    assert buffer == b"first part"


@given(
    plaintext=st.binary(max_size=300),
    number=st.integers(0, 2**64 - 1),
    place=st.integers(0, 10**6),
    mask=st.integers(1, 255),
)
def test_sealed_value_opens_unchanged_and_not_with_any_byte_changed_or_elsewhere(
    plaintext: bytes, number: int, place: int, mask: int
) -> None:
    where = Place(bytes(16), "record", number)
    sealed = seal_one(bytes(32), where, plaintext)
    assert open_one(bytes(32), where, sealed) == plaintext
    place %= len(sealed)
    bad = sealed[:place] + bytes([sealed[place] ^ mask]) + sealed[place + 1 :]
    with pytest.raises(TamperedError):
        open_one(bytes(32), where, bad)
    for key, other in (
        (bytes(32), Place(bytes(16), "record", number ^ 1)),
        (bytes(32), Place(bytes(16), "vector", number)),
        (bytes(32), Place(bytes(15) + b"\1", "record", number)),
        (bytes(31) + b"\1", where),
    ):
        with pytest.raises(TamperedError):
            open_one(key, other, sealed)


def test_places_do_not_run_together() -> None:
    contexts = [
        Place(bytes(16), "ab", 1).context(),
        Place(bytes(16), "a", 1).context(),
        Place(bytes(16) + b"a", "b", 1).context(),
        Place(bytes(16), "", 1).context(),
    ]
    assert len(set(contexts)) == 4
    assert prefixed(b"a", b"bc") != prefixed(b"ab", b"c")


def test_a_ciphertext_opens_under_one_key_only() -> None:
    """The commitment: a ciphertext made to fit two keys (here: one swapped cipher key) is refused by the second."""
    stamp, (sealed,) = seal(KEY, PLACE, {"x": b"for the first key"})
    forged = stamp[:17] + outside.stamp_keys(bytes(32), stamp[1:17], PLACE.store_id, PLACE.space, PLACE.number)[1]
    with pytest.raises(TamperedError):
        open_stamp(KEY, PLACE, forged)
    with pytest.raises(TamperedError):
        open_stamp(bytes(32), PLACE, forged).open(0, "x", sealed)


def test_at_most_four_parts_are_sealed_and_never_twice_alike() -> None:
    with pytest.raises(ValueError, match="at most 4"):
        seal(KEY, PLACE, {str(at): b"" for at in range(5)})
    sealed = [seal_one(KEY, PLACE, b"the same") for _ in range(200)]
    assert len({value[1:17] for value in sealed}) == 200
    assert len({value[STAMP_BYTES:] for value in sealed}) == 200
    assert {len(value) for value in sealed} == {STAMP_BYTES + len(b"the same") + TAG_BYTES}


def test_digest_of_the_header_is_what_the_page_says() -> None:
    from store.lifecycle.header import digest_of

    body = struct.pack(">I", 5) + b"tacit" + struct.pack(">II", 4, 2) + struct.pack(">I", 16) + bytes(16)
    assert digest_of(2, bytes(16)) == hashlib.sha256(body).digest()
