"""The keys of an open store: the root of the current epoch and the key trees below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from store.disk.database import Database
from store.errors import TamperedError
from store.format.head import Head
from store.keys.crypto import Place, Secret
from store.keys.keytree import Branch, KeyTree
from store.keys.root import Root

ROWS, PAGES = "row", "page"
Trees = dict[int, tuple[KeyTree, KeyTree]]  # By generation: of rows, of pages.


class TableNodes:
    """The sealed nodes of one tree, in the table ``node``."""

    def __init__(self, database: Database, tree: str, generation: int) -> None:
        self._database, self._where = database, (tree, generation)

    def read(self, level: int, position: int) -> object:
        """The sealed node, or ``None``."""
        sql = "SELECT sealed FROM node WHERE tree = ? AND generation = ? AND level = ? AND position = ?"
        rows = self._database.rows(sql, (*self._where, level, position))
        return rows[0][0] if rows else None

    def write(self, level: int, position: int, sealed: bytes) -> None:
        """Store a node in place of the earlier one."""
        self._database.run(
            "INSERT OR REPLACE INTO node VALUES (?, ?, ?, ?, ?)", (*self._where, level, position, sealed)
        )

    def delete(self, level: int, position: int) -> None:
        """Delete a node."""
        sql = "DELETE FROM node WHERE tree = ? AND generation = ? AND level = ? AND position = ?"
        self._database.run(sql, (*self._where, level, position))


class Keyring(Secret):
    """Keys for rows and pages by their number. ``root`` may be replaced as epochs change."""

    __slots__ = ("_database", "_head_key", "_trees", "root", "slot", "store_id", "store_key")

    def __init__(
        self, database: Database, store_id: bytes, store_key: bytes, root: Root, slot: tuple[int, bytes] | None = None
    ) -> None:
        self._database = database
        self.store_id = store_id
        self.store_key = store_key
        self._trees: Trees = {}
        self.slot = slot  # The slot that opened the store, and its key: the store key may be replaced meanwhile.
        self.adopt(root)

    def adopt(self, root: Root) -> None:
        """Use ``root`` from now on; derived keys that it does not hold are dropped."""
        self.root, before = root, self._trees
        self._trees, self._head_key = {}, (b"", b"")
        for generation in root.generations:
            rows, pages = before.get(generation.number, (None, None))
            self._trees[generation.number] = (
                self._tree(ROWS, generation.number, generation.rows, rows),
                self._tree(PAGES, generation.number, generation.pages, pages),
            )

    def forget_cached(self) -> None:
        """Drop all derived keys from memory, so that the nodes are read again."""
        for trees in self._trees.values():
            for tree in trees:
                tree.forget_cached()

    @property
    def head_key(self) -> bytes:
        """The key that seals the head; every commit asks for it."""
        if self._head_key[0] is not self.root.key:
            self._head_key = self.root.key, self.root.head_key(self.store_id)
        return self._head_key[1]

    def row(self, slot: int, head: Head) -> bytes:
        """The key of the record row in ``slot``."""
        old = head.old_generation and head.rotated_to <= slot < head.rotation_slot
        return self._trees_of(head.old_generation if old else head.generation)[0].key(slot)

    def rows(self, slots: Sequence[int], head: Head) -> list[bytes]:
        """The keys of the record rows in ``slots``."""
        if head.old_generation:
            return [self.row(slot, head) for slot in slots]
        return self._trees_of(head.generation)[0].keys(slots)

    def page(self, page: int, head: Head) -> bytes:
        """The key of a page."""
        old = head.old_generation and page < head.rotation_page
        return self._trees_of(head.old_generation if old else head.generation)[1].key(page)

    def punctured(self, slots: list[int], pages: list[int]) -> Root:
        """A root one epoch on in which these keys are gone, in every generation. Call inside a transaction."""
        generations = tuple(
            replace(generation, rows=rows.puncture(slots), pages=pages_tree.puncture(pages))
            for generation, (rows, pages_tree) in zip(self.root.generations, self._trees.values(), strict=True)
        )
        return replace(self.root.next_epoch(), generations=generations)

    def drop_generation(self, number: int) -> None:
        """Delete the stored nodes of a generation that no row uses any more. Call inside a transaction."""
        self._database.run("DELETE FROM node WHERE generation = ?", (number,))

    def _trees_of(self, generation: int) -> tuple[KeyTree, KeyTree]:
        try:
            return self._trees[generation]
        except KeyError:
            raise TamperedError("The head names keys that the root does not hold: restore from a backup.") from None

    def _tree(self, name: str, generation: int, top: Branch, before: KeyTree | None) -> KeyTree:
        """The tree below ``top``: the one before, with what it derived, if no puncture has drawn a fresh top since."""
        if before is not None and before.top == top:
            return before
        nodes = TableNodes(self._database, name, generation)
        return KeyTree(nodes, Place(self.store_id, f"{name} tree {generation}", 0), top)
