"""The key tree: one key for each number, and a way to take a key away for good.

Guarantees: the key of a number that was punctured cannot be computed from the tree's new top and everything stored,
nor from any older copy of the stored nodes, once the older tops are gone. An untouched tree is one 32-byte seed: keys
are derived from it, so that adding a record writes no key at all. Puncturing writes the nodes on the way down, four of
8 kB at most, each sealed under a fresh key that only its parent knows.

The tree has four levels of 256 branches. A branch is one of: nothing (punctured), a seed (everything below is derived),
or the key of a sealed node in the table ``node``, which lists 256 branches.

>>> tree = KeyTree(no_nodes(), Place(bytes(16), "row", 0), Branch.seed(bytes(32)))
>>> len(tree.key(7)), tree.key(7) == tree.key(8)
(32, False)

Sources: the derivation is the tree PRF of Goldreich, Goldwasser and Micali 1986 with 256 branches, puncturing as in
Boneh and Waters 2013; keys along a path replaced on deletion as in Reardon, Ritzdorf, Basin and Capkun 2013, "Secure
Data Deletion from Persistent Media".
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from store.errors import StoreFullError, TamperedError
from store.keys.crypto import KEY_BYTES, Place, Secret, open_one, seal_one

LEVELS = 4
FAN_OUT = 256
MAX_NUMBER = FAN_OUT**LEVELS - 1
_PERSON = b"tacit/2/tree"
_GONE, _SEED, _NODE = 0, 1, 2
_BRANCH_BYTES = 1 + KEY_BYTES
_CACHED_LEAVES = 4096
_CACHED_UPPER = 64  # Of 8 kB each.
_BYTE = tuple(bytes((i,)) for i in range(FAN_OUT))
_SEED_BYTE = bytes((_SEED,))


@dataclass(frozen=True, slots=True)
class Branch(Secret):
    """One branch: its kind (nothing, seed, node), and the seed or node key. Prints without it."""

    kind: int
    secret: bytes

    @classmethod
    def seed(cls, secret: bytes) -> Branch:
        """A branch below which everything is derived from ``secret``."""
        return cls(_SEED, secret)

    def to_bytes(self) -> bytes:
        """33 bytes: kind, secret."""
        return bytes((self.kind,)) + self.secret

    @classmethod
    def from_bytes(cls, data: bytes) -> Branch:
        """The branch in 33 bytes. Raises ``TamperedError``."""
        if len(data) != _BRANCH_BYTES or data[0] > _NODE or (data[0] == _GONE and any(data)):
            raise TamperedError("A node of the key tree is not laid out as in format 2: restore it from a backup.")
        return cls(data[0], data[1:])

    def __repr__(self) -> str:
        return "Branch(***)"


GONE = Branch(_GONE, bytes(KEY_BYTES))


class Nodes(Protocol):
    """Where sealed nodes lie, by level (3 is the top) and position within it."""

    def read(self, level: int, position: int) -> object:
        """The sealed node, or ``None``."""

    def write(self, level: int, position: int, sealed: bytes) -> None:
        """Store a node in place of the earlier one."""

    def delete(self, level: int, position: int) -> None:
        """Delete a node."""


class KeyTree(Secret):
    """The keys of one numbered table. Not safe for several threads; ``top`` is kept, sealed, by the caller."""

    __slots__ = ("_leaves", "_nodes", "_place", "_upper", "top")

    def __init__(self, nodes: Nodes, place: Place, top: Branch) -> None:
        self._nodes = nodes
        self._place = place  # Its space names the tree; the number is not used.
        self.top = top
        self._leaves: OrderedDict[int, Branch | bytes] = OrderedDict()
        # Opened nodes above the lowest level, each with its key: a node that was sealed anew has another.
        self._upper: OrderedDict[tuple[int, int], tuple[bytes, bytes]] = OrderedDict()

    def key(self, number: int) -> bytes:
        """The 32-byte key of ``number``. Raises ``TamperedError`` if it was punctured: no live row has such a key."""
        leaf = self._leaves.get(number >> 8)
        if leaf is None:
            leaf = self._load_leaf(number)
        if isinstance(leaf, bytes):
            branch = _listed(leaf, number & 255)
            if branch.kind != _SEED:
                raise TamperedError("A row points to a key that was forgotten: restore the store from a backup.")
            return branch.secret
        return _derived(leaf.secret, number & 255)

    def keys(self, numbers: Sequence[int]) -> list[bytes]:
        """The keys of ``numbers``, as :meth:`key` gives each; fastest if they ascend. Raises ``TamperedError``."""
        found: list[bytes] = []
        for position, group in groupby(numbers, key=_leaf_of):
            some = list(group)
            leaf = self._leaves.get(position) or self._load_leaf(some[0])
            if isinstance(leaf, Branch):
                secret = leaf.secret
                found += [_derived(secret, number & 255) for number in some]
            else:
                found += map(self.key, some)
        return found

    def has(self, number: int) -> bool:
        """Whether the key of ``number`` is still there."""
        try:
            self.key(number)
        except TamperedError:
            return False
        return True

    def puncture(self, numbers: Iterable[int]) -> Branch:
        """Take these keys away; the new top, which the caller must seal in place of the old. Numbers may be gone.

        Call inside a transaction: nodes are written.
        """
        wanted = sorted(set(numbers))
        if wanted:
            _check(wanted[0])
            _check(wanted[-1])
            for number in wanted:
                self._leaves.pop(number >> 8, None)
            self.top = self._without(self.top, LEVELS - 1, 0, wanted)
        return self.top

    def forget_cached(self) -> None:
        """Drop all derived keys from memory."""
        self._leaves.clear()
        self._upper.clear()

    def _load_leaf(self, number: int) -> Branch | bytes:
        """What stands on the lowest level for ``number``: a seed for 256 keys, or their list."""
        _check(number)
        branch = self.top
        leaf: Branch | bytes = branch
        for level in range(LEVELS - 1, -1, -1):
            if branch.kind == _GONE:
                raise TamperedError("A row points to a key that was forgotten: restore the store from a backup.")
            if level == 0:
                leaf = self._open(0, number >> 8, branch) if branch.kind == _NODE else branch
                break
            index = (number >> (8 * level)) & 255
            if branch.kind == _NODE:
                branch = _listed(self._open(level, number >> (8 * (level + 1)), branch), index)
            else:
                branch = _child(branch, index)
        self._keep(number >> 8, leaf)
        return leaf

    def _without(self, branch: Branch, level: int, position: int, numbers: list[int]) -> Branch:
        """The branch for this node once ``numbers``, sorted and all below it, are gone."""
        if branch.kind == _GONE:
            return branch
        if branch.kind == _NODE:
            content = bytearray(self._open(level, position, branch))
        else:
            content = bytearray(_SEED_BYTE + _SEED_BYTE.join(_all_derived(branch.secret)))
        for index, group in groupby(numbers, key=lambda number: (number >> (8 * level)) & 255):
            below = GONE
            if level > 0:
                child = _listed(bytes(content[index * _BRANCH_BYTES : (index + 1) * _BRANCH_BYTES]), 0)
                below = self._without(child, level - 1, position * FAN_OUT + index, list(group))
            content[index * _BRANCH_BYTES : (index + 1) * _BRANCH_BYTES] = below.to_bytes()
        if not any(content[::_BRANCH_BYTES]):
            self._upper.pop((level, position), None)
            self._nodes.delete(level, position)
            return GONE
        fresh, listed = os.urandom(KEY_BYTES), bytes(content)
        self._nodes.write(level, position, seal_one(fresh, self._node_place(level, position), listed))
        if level == 0:
            self._keep(position, listed)
        else:
            self._keep_upper(level, position, fresh, listed)
        return Branch(_NODE, fresh)

    def _keep(self, position: int, leaf: Branch | bytes) -> None:
        self._leaves[position] = leaf
        if len(self._leaves) > _CACHED_LEAVES:
            self._leaves.popitem(last=False)

    def _keep_upper(self, level: int, position: int, secret: bytes, content: bytes) -> None:
        self._upper[level, position] = (secret, content)
        if len(self._upper) > _CACHED_UPPER:
            self._upper.popitem(last=False)

    def _open(self, level: int, position: int, branch: Branch) -> bytes:
        """The 256 branches of a node, 33 bytes each. Raises ``TamperedError``."""
        secret, content = self._upper.get((level, position), (b"", b""))
        if secret == branch.secret:
            return content
        sealed = self._nodes.read(level, position)
        content = open_one(branch.secret, self._node_place(level, position), sealed)
        if len(content) != FAN_OUT * _BRANCH_BYTES:
            raise TamperedError("A node of the key tree is not laid out as in format 2: restore it from a backup.")
        if level > 0:
            self._keep_upper(level, position, branch.secret, content)
        return content

    def _node_place(self, level: int, position: int) -> Place:
        return Place(self._place.store_id, f"{self._place.space} node", level << 32 | position)


def _listed(content: bytes, index: int) -> Branch:
    return Branch.from_bytes(content[index * _BRANCH_BYTES : (index + 1) * _BRANCH_BYTES])


def _child(branch: Branch, index: int) -> Branch:
    return Branch(_SEED, _derived(branch.secret, index))


def _derived(secret: bytes, index: int) -> bytes:
    return hashlib.blake2b(_BYTE[index], key=secret, digest_size=KEY_BYTES, person=_PERSON).digest()


def _all_derived(secret: bytes) -> list[bytes]:
    """What :func:`_derived` gives for each index; begun once for all, which takes a third off."""
    begun, keys = hashlib.blake2b(key=secret, digest_size=KEY_BYTES, person=_PERSON), []
    for byte in _BYTE:
        each = begun.copy()
        each.update(byte)
        keys.append(each.digest())
    return keys


def _leaf_of(number: int) -> int:
    return number >> 8


def _check(number: int) -> None:
    if not 0 <= number <= MAX_NUMBER:
        raise StoreFullError(f"A store holds at most {MAX_NUMBER} versions of records: export it into a new one.")


def no_nodes() -> Nodes:
    """Nodes in memory, for examples and tests."""

    class InMemory(dict[tuple[int, int], bytes]):
        def read(self, level: int, position: int) -> object:
            return self.get((level, position))

        def write(self, level: int, position: int, sealed: bytes) -> None:
            self[level, position] = sealed

        def delete(self, level: int, position: int) -> None:
            self.pop((level, position), None)

    return InMemory()
