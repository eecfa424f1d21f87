"""The root of an epoch: all keys of the store, sealed under the store key and the device secret together.

The store key comes from a slot, the device secret from outside the store (``outside/device_secret.py``). A forget
gives the root a new key, seals it under the next secret, and destroys the old secret: whatever an older copy holds
then stays closed, whoever knows the passphrase.

>>> root = Root.fresh()
>>> Root.from_bytes(root.to_bytes()) == root
True
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, replace

from store.errors import TamperedError
from store.format.padding import pad_to, unpad
from store.keys.crypto import KEY_BYTES, Place, Secret, hkdf, open_one, seal_one
from store.keys.keytree import Branch

ROOT_BYTES = 1024
_HEAD = struct.Struct(">Q32s32s32s32sB")
_GENERATION = struct.Struct(">I33s33s")
_SLOT_KEY = struct.Struct(">I32s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation(Secret):
    """The two key trees of one generation: for record rows, and for pages (segments, manifest, registry, values)."""

    number: int
    rows: Branch
    pages: Branch

    @classmethod
    def fresh(cls, number: int) -> Generation:
        """Untouched trees from new seeds."""
        return cls(number=number, rows=Branch.seed(os.urandom(KEY_BYTES)), pages=Branch.seed(os.urandom(KEY_BYTES)))

    def __repr__(self) -> str:
        return "Generation(***)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Root(Secret):
    """``generations`` are one, or two while a rotation runs; ``slot_keys`` are (slot number, key-encryption key)."""

    epoch: int
    key: bytes
    anchor_key: bytes
    log_key: bytes
    lookup_key: bytes
    generations: tuple[Generation, ...]
    slot_keys: tuple[tuple[int, bytes], ...]

    @classmethod
    def fresh(cls) -> Root:
        """The root of a new store: epoch 1, generation 1, no slots yet."""
        key, anchor_key, log_key, lookup_key = (os.urandom(KEY_BYTES) for _ in range(4))
        return cls(
            epoch=1,
            key=key,
            anchor_key=anchor_key,
            log_key=log_key,
            lookup_key=lookup_key,
            generations=(Generation.fresh(1),),
            slot_keys=(),
        )

    def next_epoch(self) -> Root:
        """The same root one epoch on, under a fresh key."""
        return replace(self, epoch=self.epoch + 1, key=os.urandom(KEY_BYTES))

    def commitment(self, store_id: bytes) -> bytes:
        """32 bytes that stand for this epoch's root in a receipt and show nothing of it."""
        return hkdf(self.key, "tacit/2/commitment", salt=store_id)

    def head_key(self, store_id: bytes) -> bytes:
        """The key that seals the head."""
        return hkdf(self.key, "tacit/2/head", salt=store_id)

    def to_bytes(self) -> bytes:
        """1,024 bytes, the plaintext of the table ``root``."""
        parts = [
            _HEAD.pack(self.epoch, self.key, self.anchor_key, self.log_key, self.lookup_key, len(self.generations))
        ]
        parts += [_GENERATION.pack(g.number, g.rows.to_bytes(), g.pages.to_bytes()) for g in self.generations]
        parts.append(bytes((len(self.slot_keys),)))
        parts += [_SLOT_KEY.pack(number, key) for number, key in self.slot_keys]
        return pad_to(b"".join(parts), ROOT_BYTES)

    @classmethod
    def from_bytes(cls, padded: bytes) -> Root:
        """The root in 1,024 bytes. Raises ``TamperedError``."""
        try:
            content = unpad(padded, ROOT_BYTES)
            epoch, key, anchor_key, log_key, lookup_key, count = _HEAD.unpack_from(content)
            at = _HEAD.size
            generations = []
            for _ in range(count):
                number, rows, pages = _GENERATION.unpack_from(content, at)
                generations.append(
                    Generation(number=number, rows=Branch.from_bytes(rows), pages=Branch.from_bytes(pages))
                )
                at += _GENERATION.size
            slots = content[at + 1 :]
            if len(slots) != content[at] * _SLOT_KEY.size or not 1 <= count <= 2:
                raise ValueError
        except (ValueError, IndexError, struct.error):
            raise TamperedError(
                "The root opened but is not laid out as in format 2: restore it from a backup."
            ) from None
        return cls(
            epoch=epoch,
            key=key,
            anchor_key=anchor_key,
            log_key=log_key,
            lookup_key=lookup_key,
            generations=tuple(generations),
            slot_keys=tuple(_SLOT_KEY.iter_unpack(slots)),
        )

    def seal(self, store_key: bytes, secret: bytes, store_id: bytes) -> bytes:
        """The root sealed for its epoch."""
        return seal_one(_epoch_key(store_key, secret, store_id), Place(store_id, "root", self.epoch), self.to_bytes())

    def __repr__(self) -> str:
        return f"Root(epoch={self.epoch}, ***)"


def open_root(sealed: object, epoch: int, *, store_key: bytes, secret: bytes, store_id: bytes) -> Root:
    """The root of ``epoch``. Raises ``TamperedError``."""
    key = _epoch_key(store_key, secret, store_id)
    root = Root.from_bytes(open_one(key, Place(store_id, "root", epoch), sealed))
    if root.epoch != epoch:
        raise TamperedError("The root names another epoch than its row: restore the store from a backup.")
    return root


def _epoch_key(store_key: bytes, secret: bytes, store_id: bytes) -> bytes:
    return hkdf(store_key + secret, "tacit/2/epoch", salt=store_id)
