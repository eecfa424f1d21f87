"""Who can open the store: adding, replacing and removing key slots. None of it touches data.

Adding a slot wraps the store key once more. Replacing or removing one gives the store a new store key, wrapped anew for
every slot that stays (their keys lie sealed in the root), and begins a new epoch: so what the removed slot opened, an
older copy of the file included, stays closed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from store.errors import SlotError, StoreError, TamperedError
from store.format.receipts import Receipt
from store.keys.crypto import KEY_BYTES
from store.keys.root import Root
from store.keys.slots import MAX_SLOTS, Slot, make_slot_with_key, read_slots, write_slots
from store.keys.unlock import Unlock
from store.tables.commit import Commits
from store.tables.core import Core


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotInfo:
    """``kind``: passphrase, device-key, recovery-key or keychain. ``used``: whether it opened this store now."""

    number: int
    kind: str
    used: bool


class Access:
    """The key slots of one open store."""

    def __init__(self, core: Core, commits: Commits) -> None:
        self._core, self._commits = core, commits

    def slots(self) -> list[SlotInfo]:
        """The slots by number."""
        used = self._core.keys.slot
        return [
            SlotInfo(number=slot.number, kind=slot.kind, used=used is not None and slot.number == used[0])
            for slot in read_slots(self._core.database)
        ]

    def add(self, unlock: Unlock) -> int:
        """Let ``unlock`` open the store too; the slot's number. Raises ``SlotError``."""
        core = self._core
        with self._commits.transaction() as work:
            self._require_alone()
            slots = self._known_slots(dict(core.keys.root.slot_keys))
            if len(slots) >= MAX_SLOTS:
                raise SlotError(f"A store has at most {MAX_SLOTS} key slots: remove one first.")
            number = max(slot.number for slot in slots) + 1
            slot, kek = self._made(number, unlock)
            write_slots(core.database, [*slots, slot])
            root = replace(core.keys.root, slot_keys=(*core.keys.root.slot_keys, (number, kek)))
            self.reseal(root)
            work.touched = True
        return number

    def replace(self, number: int, unlock: Unlock) -> Receipt:
        """Let ``unlock`` open the slot ``number`` in place of what opened it: a new passphrase. O(slots)."""
        return self._change(number, unlock)

    def remove(self, number: int) -> Receipt:
        """Take a slot away. Raises ``SlotError`` if it is the last one."""
        return self._change(number, None)

    def rewrap(self, root: Root) -> Root:
        """Give the store a new store key, wrapped for every slot; call inside a transaction that forgets."""
        core = self._core
        core.keys.store_key = os.urandom(KEY_BYTES)
        keks = dict(root.slot_keys)
        slots = self._known_slots(keks)
        write_slots(
            core.database,
            [slot.rewrapped(keks[slot.number], core.keys.store_key, core.store_id) for slot in slots],
        )
        return root

    def _change(self, number: int, unlock: Unlock | None) -> Receipt:
        core = self._core
        with self._commits.transaction() as work:
            self._require_alone()
            keks = dict(core.keys.root.slot_keys)
            slots = self._known_slots(keks)
            if number not in {slot.number for slot in slots}:
                raise SlotError(f"There is no key slot {number}: `slots` lists them.")
            if unlock is None and len(slots) == 1:
                raise SlotError(
                    "This is the only key slot, and nobody could open the store without: add another first."
                )
            slots = [slot for slot in slots if slot.number != number]
            del keks[number]
            if unlock is not None:
                slot, keks[number] = self._made(number, unlock)
                slots.append(slot)
                if core.keys.slot is not None and core.keys.slot[0] == number:
                    work.new_slot = (number, keks[number])
            write_slots(core.database, slots)
            root_keys = tuple(sorted(keks.items()))
            work.touched = work.forgets = True
            work.reason = "slots"
            work.change_root = lambda root: self.rewrap(replace(root, slot_keys=root_keys))
        assert work.receipt is not None
        return work.receipt

    def _known_slots(self, keks: Mapping[int, bytes]) -> list[Slot]:
        """All slots. Raises ``TamperedError`` unless they are those of ``keks`` (number to key-encryption key)."""
        slots, store_id = read_slots(self._core.database), self._core.store_id
        if {slot.number for slot in slots} != keks.keys() or not all(
            slot.belongs_to(keks[slot.number], store_id) for slot in slots
        ):
            raise TamperedError("The key slots are not those that the root knows: restore the store from a backup.")
        return slots

    def _require_alone(self) -> None:
        """Refuse to run inside a caller's transaction: what a block did to the keys could not be undone alone."""
        if self._core.database.depth > 1:
            raise StoreError("Key slots do not change inside a transaction: leave the block first.")

    def _made(self, number: int, unlock: Unlock) -> tuple[Slot, bytes]:
        return make_slot_with_key(number, unlock, store_key=self._core.keys.store_key, store_id=self._core.store_id)

    def reseal(self, root: Root) -> None:
        """Write the root of the present epoch anew; call inside a transaction."""
        core = self._core
        sealed = root.seal(core.keys.store_key, core.secret.read()[root.epoch], core.store_id)
        core.database.run("UPDATE root SET sealed = ?", (sealed,))
        core.keys.adopt(root)
