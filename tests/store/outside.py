"""A reader of format 2 written from FORMAT.md, that shares no code with the store.

It uses sqlite3, hashlib, hmac, json, struct and AES-GCM (and Argon2id) only, and checks everything that the page says a
reader checks, by assertions.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sqlite3
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

NUMBERS = [
    "dimension", "counter", "epoch", "next_slot", "allocated", "live", "next_page", "manifest_page", "registry_page",
    "ledger_count", "generation", "old_generation", "rotated_to", "rotation_slot", "rotation_page", "witnessed",
]  # fmt: skip


def lp(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def parts_of(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = int.from_bytes(data[:4], "big")
        assert len(data) >= 4 + size
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


def hkdf(key: bytes, salt: bytes, info: str) -> bytes:
    extracted = hmac.digest(salt or bytes(32), key, "sha256")
    return hmac.digest(extracted, info.encode() + b"\x01", "sha256")


def size_class(size: int) -> int:
    if size <= 256:
        return 256
    step = 2 ** ((size - 1).bit_length() - 4)
    return (size + step - 1) // step * step


def unpad(padded: bytes, size: int | None = None) -> bytes:
    length = int.from_bytes(padded[:4], "big")
    assert len(padded) == (size or size_class(4 + length))
    assert not any(padded[4 + length :])
    return padded[4 : 4 + length]


def count_class(count: int) -> int:
    return next(n for n in (16, 32, 64, 128, 256, *range(512, count + 512, 256)) if n >= count)


def stamp_keys(key: bytes, salt: bytes, store_id: bytes, space: str, number: int) -> tuple[bytes, bytes]:
    message = lp(salt, b"tacit", struct.pack(">I", 2), store_id, space.encode(), struct.pack(">Q", number))
    derived = hashlib.blake2b(message, digest_size=64, key=key, person=b"tacit/2/seal").digest()
    return derived[:32], derived[32:]


def child_seed(seed: bytes, index: int) -> bytes:
    return hashlib.blake2b(bytes([index]), digest_size=32, key=seed, person=b"tacit/2/tree").digest()


def open_parts(
    key: bytes, store_id: bytes, space: str, number: int, stamp: bytes, *parts: tuple[int, str, bytes]
) -> list[bytes]:
    """The plaintexts of ``parts`` (number, name, ciphertext and tag) under ``stamp``."""
    assert len(stamp) == 49
    assert stamp[0] == 2
    cipher_key, commitment = stamp_keys(key, stamp[1:17], store_id, space, number)
    assert hmac.compare_digest(commitment, stamp[17:])
    aead = AESGCM(cipher_key)
    return [aead.decrypt(part.to_bytes(12, "big"), sealed, name.encode()) for part, name, sealed in parts]


def open_alone(key: bytes, store_id: bytes, space: str, number: int, sealed: bytes) -> bytes:
    return open_parts(key, store_id, space, number, sealed[:49], (0, space, sealed[49:]))[0]


def secrets_in(path: Path) -> dict[int, bytes]:
    """The device secrets in a file, by epoch."""
    data, found = path.read_bytes(), {}
    assert len(data) == 8192
    for page in range(2):
        entry = data[4096 * page : 4096 * (page + 1)]
        head = entry[:52]
        if hashlib.sha256(head).digest() == entry[52:84]:
            magic, version, epoch, secret = struct.unpack(">8sIQ32s", head)
            assert (magic, version, epoch % 2) == (b"TACITSEC", 1, page)
            assert not any(entry[84:])
            found[epoch] = secret
    return found


def open_sighting(anchor_key: bytes, store_id: bytes, data: bytes) -> tuple[int, bytes, bytes]:
    """Counter, root hash and ratchet."""
    assert len(data) == 384
    extracted = hmac.digest(data[:16], anchor_key, "sha512")
    info = lp(b"tacit", struct.pack(">I", 2), store_id, b"witness")
    derived = hmac.digest(extracted, info + b"\x01", "sha512")
    assert derived[32:] == data[16:48]
    plain = AESGCM(derived[:32]).decrypt(bytes(12), data[48:], None)
    size = int.from_bytes(plain[40:42], "big")
    assert not any(plain[42 + size :])
    return int.from_bytes(plain[:8], "big"), plain[8:40], plain[42 : 42 + size]


def key_of(kind: str, secret: bytes, salt: bytes, cost: Sequence[int]) -> bytes:
    """The key-encryption key that a slot's owner holds."""
    if kind == "passphrase":
        argon2 = Argon2id(salt=salt, length=32, memory_cost=cost[0], iterations=cost[1], lanes=cost[2])
        return argon2.derive(secret)
    return hkdf(secret, salt, "tacit/2/device-key")


class Outside:
    """Everything in a store: ``head``, ``records``, ``segments``, ``named``, ``ledger``; all is checked at once."""

    def __init__(self, path: Path, kind: str, unlock: bytes, secrets: dict[int, bytes]) -> None:
        self.db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            assert self.one("PRAGMA application_id") == (0x54414349,)
            assert self.one("PRAGMA user_version") == (2,)
            assert self.one("PRAGMA page_size") in {(8192,), (16384,)}
            form, self.id, digest = self.one("SELECT format, store_id, digest FROM header")
            assert form == 2
            assert digest == hashlib.sha256(lp(b"tacit", struct.pack(">I", form), self.id)).digest()
            rows = self.db.execute("SELECT tree, generation, level, position, sealed FROM node")
            self.nodes = {tuple(where): sealed for *where, sealed in rows}
            self._read_root(self._store_key(kind, unlock), secrets)
            self._read_head()
            self._read_directories()
            self._read_rows()
            self._read_named()
            self._read_ledger()
        finally:
            self.db.close()

    def one(self, sql: str, *parameters: object) -> Any:
        (row,) = self.db.execute(sql, parameters).fetchall()
        return row

    def _store_key(self, kind: str, unlock: bytes) -> bytes:
        columns = "number, kind, salt, memory_kib, passes, lanes, key_check, wrapped, digest"
        self.slots = self.db.execute(f"SELECT {columns} FROM slot ORDER BY number").fetchall()
        keys = []
        for number, its_kind, salt, *cost, check, wrapped, digest in self.slots:
            binding = lp(its_kind.encode(), salt, struct.pack(">III", *cost), check)
            assert digest == hashlib.sha256(lp(b"tacit", struct.pack(">I", number), binding, wrapped)).digest()
            if its_kind != kind:
                continue
            kek = key_of(kind, unlock, salt, cost)
            if check == hkdf(kek, self.id, "tacit/2/key-check"):
                wrap = hkdf(kek, self.id + hashlib.sha256(binding).digest(), "tacit/2/wrap")
                keys.append(open_alone(wrap, self.id, "slot", number, wrapped))
        (key,) = keys
        assert len(key) == 32
        return key

    def _read_root(self, store_key: bytes, secrets: dict[int, bytes]) -> None:
        self.epoch, sealed = self.one("SELECT epoch, sealed FROM root")
        key = hkdf(store_key + secrets[self.epoch], self.id, "tacit/2/epoch")
        content = unpad(open_alone(key, self.id, "root", self.epoch, sealed), 1024)
        epoch, self.root_key, self.anchor_key, self.log_key, self.lookup_key, count = struct.unpack_from(
            ">Q32s32s32s32sB", content
        )
        assert epoch == self.epoch
        at, self.trees = 137, {}
        for _ in range(count):
            number, rows, pages = struct.unpack_from(">I33s33s", content, at)
            self.trees[number] = {"row": rows, "page": pages}
            at += 70
        keks = list(struct.iter_unpack(">I32s", content[at + 1 :]))
        assert content[at] == len(keks)
        assert [number for number, _ in keks] == [slot[0] for slot in self.slots]

    def leaf(self, tree: str, generation: int, number: int) -> bytes | None:
        """The key of a slot or page, or ``None`` where it was punctured."""
        branch = self.trees[generation][tree]
        for level in (3, 2, 1, 0):
            index = number >> 8 * level & 255
            if branch[0] == 0:
                return None
            if branch[0] == 1:
                branch = b"\x01" + child_seed(branch[1:], index)
                continue
            position = number >> 8 * (level + 1)
            sealed = self.nodes[tree, generation, level, position]
            space = f"{tree} tree {generation} node"
            content = open_alone(branch[1:], self.id, space, level << 32 | position, sealed)
            assert len(content) == 256 * 33
            branch = content[33 * index : 33 * index + 33]
        return branch[1:] if branch[0] == 1 else None

    def row_key(self, slot: int) -> bytes | None:
        head = self.head
        old = head["old_generation"] and head["rotated_to"] <= slot < head["rotation_slot"]
        return self.leaf("row", head["old_generation" if old else "generation"], slot)

    def page_key(self, page: int) -> bytes:
        old = self.head["old_generation"] and page < self.head["rotation_page"]
        key = self.leaf("page", self.head["old_generation" if old else "generation"], page)
        assert key is not None
        return key

    def _read_head(self) -> None:
        (sealed,) = self.one("SELECT sealed FROM head")
        padded = open_alone(hkdf(self.root_key, self.id, "tacit/2/head"), self.id, "head", self.epoch, sealed)
        self.root_hash = hashlib.sha256(b"tacit/2/root-hash" + padded).digest()
        self.commitment = hkdf(self.root_key, self.id, "tacit/2/commitment")
        content = unpad(padded, 1024)
        self.head = dict(zip(NUMBERS, struct.unpack_from(">16Q", content), strict=True))
        self.marks = {"manifest": content[128:136], "registry": content[136:144]}
        self.dead, self.pending_tail = content[144:272], content[272:400]
        self.tail_digest, self.ledger_chain = content[400:432], content[432:464]
        self.ratchet = content[466:]
        assert int.from_bytes(content[464:466], "big") == len(self.ratchet)
        assert self.head["epoch"] == self.epoch

    def _directory(self, name: str) -> list[bytes]:
        (sealed,) = self.one(f"SELECT sealed FROM {name}")
        assert sealed[1:9] == self.marks[name]
        page = self.head[f"{name}_page"]
        return parts_of(unpad(open_alone(self.page_key(page), self.id, name, page, sealed)))

    def _read_directories(self) -> None:
        refs, pending, superseded, garbage = self._directory("manifest")
        self.refs = list(struct.iter_unpack(">QQ8sHdB", refs))
        self.pending = [slot for (slot,) in struct.iter_unpack(">Q", pending)]
        self.superseded = [slot for (slot,) in struct.iter_unpack(">Q", superseded)]
        values, more_garbage = self._directory("registry")
        self.values = list(struct.iter_unpack(">32sQ8s", values))
        self.garbage = [*struct.iter_unpack(">QQ", garbage), *struct.iter_unpack(">QQ", more_garbage)]
        assert [ref[0] for ref in self.refs] == [row[0] for row in self.db.execute("SELECT number FROM segment")]

    # Rows

    def _read_rows(self) -> None:
        self.records: dict[int, dict[str, Any]] = {}
        self.segments: dict[int, dict[str, Any]] = {}
        for ref in self.refs:
            self._read_segment(*ref)
        first = (self.head["next_slot"] - 1) // 1024 * 1024 + 1
        digest = bytes(32)
        for slot in range(first, self.head["next_slot"]):
            at = slot - first
            if self.dead[at // 8] >> at % 8 & 1:
                continue
            stamp, sealed = self.one("SELECT stamp, entry FROM tail WHERE slot = ?", slot)
            digest = hashlib.sha256(digest + struct.pack(">Q", slot) + stamp[1:9]).digest()
            key = self.row_key(slot)
            assert key is not None
            (entry,) = open_parts(key, self.id, "row", slot, stamp, (2, "entry", sealed))
            self._keep(slot, stamp[1:9], entry_of(entry))
        assert digest == self.tail_digest
        assert len(self.records) == self.head["live"]
        slots = [slot for (slot,) in self.db.execute("SELECT slot FROM memory ORDER BY slot")]
        assert slots == list(range(1, self.head["allocated"] + 1))

    def _keep(self, slot: int, mark: bytes, entry: dict[str, Any]) -> None:
        """Open the row, and compare it with its columns."""
        stamp, vector, record = self.one("SELECT stamp, vector, record FROM memory WHERE slot = ?", slot)
        assert stamp[1:9] == mark
        key = self.row_key(slot)
        assert key is not None
        floats, text = open_parts(key, self.id, "row", slot, stamp, (0, "vector", vector), (1, "record", record))
        fields = json.loads(unpad(text))
        for name in ("time", "scope", "purpose", "source"):
            assert fields[name] == entry[name]
        assert fields.get("expires", float("inf")) == entry["expires"]
        assert fields.get("supersedes", 0) == entry["supersedes"]
        assert fields.get("derived_from", []) == entry["derived_from"]
        dimension = self.head["dimension"]
        assert entry["id"] not in self.records
        self.records[entry["id"]] = {
            **entry, "slot": slot, "record": fields, "vector": list(struct.unpack(f"<{dimension}f", floats))
        }  # fmt: skip

    def _read_segment(self, number: int, page: int, mark: bytes, live: int, soonest: float, linked: int) -> None:
        stamp, *sealed = self.one("SELECT stamp, codes, columns, postings FROM segment WHERE number = ?", number)
        assert stamp[1:9] == mark
        names = ("codes", "columns", "postings")
        parts = [(part, name, sealed[part]) for part, name in enumerate(names)]
        codes, columns, postings = map(unpad, open_parts(self.page_key(page), self.id, "segment", page, stamp, *parts))
        entries = columns_of(columns)
        code_bytes = (self.head["dimension"] + 7) // 8 + 4
        offsets, signs, factors = parts_of(codes)
        assert list(struct.unpack(f"<{live}H", offsets)) == [entry["offset"] for entry in entries]
        table = codes_of(signs, factors, live, code_bytes - 4)
        words = postings_of(postings, [1024 * number + 1 + entry["offset"] for entry in entries])
        assert (min(entry["expires"] for entry in entries), len(entries)) == (soonest, live)
        assert bool(linked) == any(entry["supersedes"] or entry["derived_from"] for entry in entries)
        for at, entry in enumerate(entries):
            slot = 1024 * number + 1 + entry.pop("offset")
            entry["code"], entry["terms"] = table[at], words[slot]
            if slot not in self.pending:
                self._keep(slot, entry.pop("mark"), entry)
        self.segments[number] = {"page": page, "live": live, "terms": words}

    # Named values and the ledger

    def _read_named(self) -> None:
        self.named = {}
        for lookup, page, mark in self.values:
            stamp, title, value = self.one("SELECT stamp, title, value FROM named WHERE lookup = ?", lookup)
            assert stamp[1:9] == mark
            parts = (0, "title", title), (1, "value", value)
            names, content = map(unpad, open_parts(self.page_key(page), self.id, "value", page, stamp, *parts))
            assert lookup == hmac.digest(self.lookup_key, names, "sha256")
            kind, name = parts_of(names)
            self.named[kind.decode(), name.decode()] = content
        rows = self.one("SELECT count(*) FROM named")[0]
        assert rows == count_class(rows) >= len(self.named)

    def _read_ledger(self) -> None:
        self.ledger, chain = [], bytes(32)
        count = self.head["ledger_count"]
        for number, sealed in self.db.execute(
            "SELECT number, sealed FROM ledger WHERE number <= ? ORDER BY number", (count,)
        ):
            padded = open_alone(self.log_key, self.id, "ledger", number, sealed)
            entry = unpad(padded, (4 + int.from_bytes(padded[:4], "big") + 1023) // 1024 * 1024)
            chain = hashlib.sha256(chain + hashlib.sha256(entry).digest()).digest()
            kind, content = parts_of(entry)
            self.ledger.append((number, kind.decode(), content))
        assert self.one("SELECT count(*), max(number) FROM ledger") == (count_class(count),) * 2
        assert chain == self.ledger_chain
        assert [number for number, _, _ in self.ledger] == list(range(1, self.head["ledger_count"] + 1))
        self.receipts = [json.loads(content) for _, kind, content in self.ledger if kind == "receipt"]
        for before, after in zip(self.receipts, self.receipts[1:], strict=False):
            assert before["root_after"] == after["root_before"]
        if self.receipts:
            assert self.receipts[-1]["root_after"] == self.commitment.hex()
            assert self.receipts[-1]["epoch"] == self.epoch


def codes_of(signs: bytes, factors: bytes, live: int, width: int) -> list[bytes]:
    blocks = (live + 31) // 32
    assert (len(signs), len(factors)) == (blocks * 32 * width, 4 * live)
    rows = [bytearray(width) for _ in range(blocks * 32)]
    order = (0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15)
    for place, value in enumerate(signs):
        block, byte, half, p = place // (32 * width), place // 32 % width, place // 16 % 2, order[place % 16]
        rows[32 * block + p][byte] |= (value & 15) << 4 * half
        rows[32 * block + p + 16][byte] |= (value >> 4) << 4 * half
    assert not any(map(any, rows[live:]))
    return [bytes(row) + factors[4 * at : 4 * at + 4] for at, row in enumerate(rows[:live])]


def entry_of(padded: bytes) -> dict[str, Any]:
    content = unpad(padded)
    id, version, time, expires, supersedes, *sizes = struct.unpack_from(">QIddQ3H2I", content)
    rest, found = content[struct.calcsize(">QIddQ3H2I") :], []
    for size in sizes:
        found.append(rest[:size])
        rest = rest[size:]
    scope, purpose, source = (word.decode() for word in found[:3])
    derived, code, terms = found[3], found[4], rest
    return {
        "id": id, "version": version, "time": time, "expires": expires, "supersedes": supersedes, "scope": scope,
        "purpose": purpose, "source": source, "derived_from": [n for (n,) in struct.iter_unpack(">Q", derived)],
        "code": code, "terms": terms_of(terms),
    }  # fmt: skip


def terms_of(data: bytes) -> dict[int, int]:
    count = len(data) // 9
    hashes = struct.unpack(f"<{count}Q", data[: 8 * count])
    assert list(hashes) == sorted(set(hashes))
    return dict(zip(hashes, data[8 * count :], strict=True))


def columns_of(content: bytes) -> list[dict[str, Any]]:
    parts = parts_of(content)
    count = len(parts[0]) // 2
    kinds = "HQIddQHHH"
    arrays = [struct.unpack(f"<{count}{kind}", part) for kind, part in zip(kinds, parts, strict=False)]
    rows = list(zip(*arrays, strict=True))
    marks, words, derived = parts[9], json.loads(parts[10]), {row[0]: row[1:] for row in json.loads(parts[11])}
    names = ("offset", "id", "version", "time", "expires", "supersedes", "scope", "purpose", "source")
    entries = []
    for at, row in enumerate(rows):
        entry = dict(zip(names, row, strict=True))
        for name in names[6:]:
            assert words[name] == sorted(set(words[name]))
            entry[name] = words[name][entry[name]]
        entries.append({**entry, "mark": marks[8 * at : 8 * at + 8], "derived_from": derived.get(row[0], [])})
    assert [entry["offset"] for entry in entries] == sorted({entry["offset"] for entry in entries})
    return entries


def postings_of(content: bytes, slots: list[int]) -> dict[int, dict[int, int]]:
    """By slot: hash to count, which stops at 63."""
    n, t = struct.unpack_from("<II", content)
    layout = struct.Struct(f"<{n}q{t}Q{t}H")
    values = layout.unpack_from(content, 8)
    postings = [posting for (posting,) in struct.iter_unpack("<H", content[8 + layout.size :])]
    terms, having = values[n : n + t], values[n + t :]
    assert list(values[:n]) == slots
    assert list(terms) == sorted(set(terms))
    assert sum(having) == len(postings)
    found: dict[int, dict[int, int]] = {slot: {} for slot in slots}
    for term, count in zip(terms, having, strict=True):
        its, postings = postings[:count], postings[count:]
        assert its
        assert its == sorted(set(its))
        for posting in its:
            found[slots[posting // 64]][term] = posting % 64
    return found
