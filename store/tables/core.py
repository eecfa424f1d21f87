"""What the parts of an open store share: its connection, its keys, and a view of the latest commit.

A view is never changed in place but for the tail's dictionaries, which each transaction copies first; so what a block
did is undone by putting the earlier view back. The head, the manifest and the registry are written once, at the end of
the outermost transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from store.disk.database import Database
from store.errors import DeviceSecretError, ForgottenEpoch, RolledBackError, TamperedError, WrongKeyError
from store.format.columns import NEVER, Columns, Entry, decode_entry
from store.format.head import SEGMENT_ROWS, Head, chained
from store.format.manifest import Manifest
from store.format.padding import unpadded
from store.format.receipts import Receipt
from store.format.registry import Registry
from store.format.segment_table import NO_SEGMENTS, SegmentRef, SegmentTable
from store.keys.crypto import KEY_BYTES, STAMP_BYTES, Place, mark, open_each, open_one, open_stamp, seal_one, tampered
from store.keys.keyring import Keyring
from store.keys.root import Root, open_root
from store.keys.slots import read_slots
from store.outside.device_secret import DeviceSecret
from store.outside.witness import Witness

SEGMENT_PARTS = ("codes", "columns", "postings")  # In the order of their nonces.


@dataclass(slots=True)
class View:
    """The store at one commit, or inside a transaction. ``tail`` holds entries by slot, ``tail_ids`` slots by id.

    Before ``soonest`` (Unix seconds) no record expires.
    """

    head: Head
    manifest: Manifest
    registry: Registry
    tail: dict[int, Entry]
    tail_ids: dict[int, int]
    soonest: float

    def copy(self) -> View:
        """A view that shares what is immutable."""
        return View(self.head, self.manifest, self.registry, dict(self.tail), dict(self.tail_ids), self.soonest)


@dataclass(slots=True)
class Work:
    """What the running transaction still owes: see ``commit.py``."""

    touched: bool = False
    forgets: bool = False
    witnesses: bool = False
    what: list[int] = field(default_factory=list)
    reason: str = "forget"
    change_root: Callable[[Root], Root] | None = None
    new_slot: tuple[int, bytes] | None = None
    receipt: Receipt | None = None

    def copy(self) -> Work:
        """What is owed at this point."""
        return replace(self, what=list(self.what))

    def restore(self, before: Work) -> None:
        """Owe again what was owed then."""
        for name in self.__slots__:
            setattr(self, name, getattr(before, name))


class Core:
    """The shared middle of an open store. Not for callers of the package."""

    def __init__(
        self,
        database: Database,
        keys: Keyring,
        *,
        secret: DeviceSecret,
        witness: Witness | None,
        clock: Callable[[], float],
        view: View | None = None,
    ) -> None:
        self.database, self.keys, self.secret, self.witness, self.clock = database, keys, secret, witness, clock
        self.work = Work()
        self.witnessed_at = 0
        self.rollbacks = 0
        self.before_forget: Callable[[], None] = lambda: None  # What the layers above drop from memory.
        self.committed = 0  # The latest commit that this connection knows of.
        self._root_mark = b""
        self._columns: dict[int, tuple[tuple[int, bytes], Columns]] = {}
        self._current: tuple[SegmentTable, dict[int, Columns]] = NO_SEGMENTS, {}  # Those of the view's segments.
        self._seen = database.foreign_changes()
        self.view = self._read() if view is None else view
        self.written = (self.view.manifest, self.view.registry)

    @property
    def store_id(self) -> bytes:
        """16 random bytes that name this store."""
        return self.keys.store_id

    # Reading the latest commit

    @contextmanager
    def snapshot(self) -> Iterator[View]:
        """A block in which all reads see one commit, the latest at its start."""
        with self.database.snapshot():
            self.sync()
            yield self.view

    def sync(self, *, begins: bool = False) -> None:
        """Follow what other connections and processes have committed; inside a transaction only where it begins.

        Under the database's lock: another thread's transaction rests on the view.
        """
        database = self.database
        if database.depth and not begins:
            return
        seen = database.foreign_changes()
        if seen != self._seen:
            self.view = self._read()
            self.written = (self.view.manifest, self.view.registry)
            self._seen = seen

    def reread(self) -> None:
        """Forget what is in memory and read the latest commit again, its root and all entries included."""
        self._seen, self._root_mark = -1, b""
        self.keys.forget_cached()

    def _read(self) -> View:
        head = self._read_head()
        if head.counter < self.committed:
            raise RolledBackError(
                f"The store was put back from commit {self.committed} to {head.counter} while open: use the latest one."
            )
        manifest, registry = self._read_manifest(head), self._read_registry(head)
        tail = self._read_tail(head, {} if self._seen < 0 or self.committed == 0 else self.view.tail)
        self.committed = head.counter
        for number in self._columns.keys() - manifest.segments.keys():
            self.forget_columns(number)
        times = [manifest.segments.soonest(), *(entry.expires for entry in tail.values())]
        tail_ids = {entry.id: slot for slot, entry in tail.items()}
        return View(head, manifest, registry, tail, tail_ids, min(times, default=NEVER))

    def _read_head(self) -> Head:
        epoch, sealed_root = self.one("SELECT epoch, sealed FROM root", 2)
        if not isinstance(sealed_root, bytes) or mark(sealed_root[:STAMP_BYTES]) != self._root_mark:
            self._follow_store_key()
            self.keys.adopt(read_root(epoch, sealed_root, self.keys.store_key, self.secret, self.store_id))
            self._root_mark = mark(bytes(sealed_root[:STAMP_BYTES])) if isinstance(sealed_root, bytes) else b""
        (sealed,) = self.one("SELECT sealed FROM head", 1)
        if type(epoch) is not int:
            raise tampered("root")
        head = Head.from_bytes(open_one(self.keys.head_key, Place(self.store_id, "head", epoch), sealed))
        if head.epoch != epoch:
            raise tampered("head")
        return head

    def _follow_store_key(self) -> None:
        """The store key as this store's own slot holds it now. Raises ``WrongKeyError`` if the slot is gone."""
        if self.keys.slot is None:
            return
        number, kek = self.keys.slot
        for slot in read_slots(self.database):
            if slot.number == number and slot.belongs_to(kek, self.store_id):
                self.keys.store_key = slot.unwrap(kek, self.store_id)
                return
        raise WrongKeyError("The key slot that opened this store was removed meanwhile: open it with another one.")

    def _read_manifest(self, head: Head) -> Manifest:
        return Manifest.from_bytes(self._open_page("manifest", head, head.manifest_page, head.manifest_mark))

    def _read_registry(self, head: Head) -> Registry:
        return Registry.from_bytes(self._open_page("registry", head, head.registry_page, head.registry_mark))

    def _open_page(self, table: str, head: Head, page: int, expected: bytes) -> bytes:
        (sealed,) = self.one(f"SELECT sealed FROM {table}", 1)
        if not isinstance(sealed, bytes) or mark(sealed[:STAMP_BYTES]) != expected:
            raise tampered(table)
        return open_one(self.keys.page(page, head), Place(self.store_id, table, page), sealed)

    def _read_tail(self, head: Head, known: dict[int, Entry]) -> dict[int, Entry]:
        """The entries of the tail. Rows that were read before and carry the same mark are not opened again."""
        live = set(head.tail_slots())
        rows = self.database.rows(
            "SELECT slot, stamp, entry FROM tail WHERE slot >= ? AND slot < ? ORDER BY slot",
            (head.tail_first, head.next_slot),
        )
        rows = [row for row in rows if row[0] in live]
        marks, digest = {}, bytes(32)
        for slot, stamp, _ in rows:
            if not isinstance(stamp, bytes):
                raise tampered("entry")
            its_mark = marks[slot] = mark(stamp)
            digest = chained(digest, slot, its_mark)
        if len(rows) != len(live) or digest != head.tail_digest:
            raise tampered("list of new records")
        fresh = [row for row in rows if (its := known.get(row[0])) is None or its.mark != marks[row[0]]]
        new = [slot for slot, _, _ in fresh]
        sealed = ((key, *row) for key, row in zip(self.keys.rows(new, head), fresh, strict=True))
        opened = zip(new, open_each(self.store_id, "row", 2, "entry", sealed), strict=True)
        entries = {slot: decode_entry(content, slot=slot, mark=marks[slot]) for slot, content in opened}
        return {slot: entries.get(slot) or known[slot] for slot in marks}

    def one(self, sql: str, width: int) -> tuple[object, ...]:
        """The one row that ``sql`` selects. Raises ``TamperedError``."""
        rows = self.database.rows(sql)
        if len(rows) != 1 or len(rows[0]) != width:
            raise TamperedError(f"{self.database.path} lacks a row that every store has: restore it from a backup.")
        return rows[0]

    # Segments and their columns

    def columns(self, ref: SegmentRef) -> Columns:
        """The columns of a segment; kept in memory while the segment stays as it is."""
        known = self._columns.get(ref.number)
        if known is not None and known[0] == ref.identity:
            return known[1]
        columns = Columns.from_bytes(self.open_segment(ref, "columns")[0], ref.number)
        if len(columns) < ref.live:
            raise tampered("segment")
        self._columns[ref.number] = (ref.identity, columns)
        return columns

    def columns_of(self, slot: int) -> Columns:
        """The columns of the segment that ``slot`` belongs to."""
        segments, number = self.view.manifest.segments, (slot - 1) // SEGMENT_ROWS
        if self._current[0] is not segments:
            self._current = segments, {}
        columns = self._current[1].get(number)
        if columns is None:
            columns = self._current[1][number] = self.columns(segments[number])
        return columns

    def holds(self, slot: int) -> bool:
        """Whether ``slot`` holds a record, one that is pending included."""
        if slot in self.view.tail:
            return True
        known = (slot - 1) // SEGMENT_ROWS in self.view.manifest.segments
        return known and self.columns_of(slot).position(slot) is not None

    def keep_columns(self, ref: SegmentRef, columns: Columns) -> None:
        """Keep a segment's columns, which were just sealed, where those of its earlier state are kept."""
        self._current = NO_SEGMENTS, {}
        if ref.number in self._columns:
            self._columns[ref.number] = (ref.identity, columns)

    def forget_columns(self, number: int) -> None:
        """Drop what is kept in memory of a segment's columns."""
        self._columns.pop(number, None)
        self._current = NO_SEGMENTS, {}

    def drop_columns(self) -> None:
        """Drop all columns kept in memory."""
        self._columns.clear()
        self._current = NO_SEGMENTS, {}

    @property
    def columns_bytes(self) -> int:
        """Bytes of the columns kept in memory."""
        return sum(columns.size_bytes for _, columns in self._columns.values())

    def open_segment(self, ref: SegmentRef, *names: str) -> list[bytes]:
        """The named parts of a segment, still padded: codes, columns, postings. Raises ``TamperedError``."""
        (parts,) = self.open_segments([ref], *names)
        return parts

    def open_segments(self, refs: Sequence[SegmentRef], *names: str) -> list[list[bytes]]:
        """As :meth:`open_segment`, of segments with ascending numbers, read by one statement."""
        rows = self.database.rows(
            f"SELECT stamp, {', '.join(names)} FROM segment WHERE number IN ({', '.join('?' * len(refs))})"
            " ORDER BY number",
            [ref.number for ref in refs],
        )
        if len(rows) != len(refs):
            raise tampered("segment")
        if any(not isinstance(row[0], bytes) or mark(row[0]) != ref.mark for ref, row in zip(refs, rows, strict=True)):
            raise tampered("segment")
        if len(names) == 1:
            page_key, head = self.keys.page, self.view.head
            sealed = ((page_key(ref.page, head), ref.page, *row) for ref, row in zip(refs, rows, strict=True))
            part = SEGMENT_PARTS.index(names[0])
            return [[opened] for opened in open_each(self.store_id, "segment", part, names[0], sealed)]
        return [self._open_parts(ref, names, row) for ref, row in zip(refs, rows, strict=True)]

    def _open_parts(self, ref: SegmentRef, names: Sequence[str], row: Sequence[object]) -> list[bytes]:
        stamp, *sealed = row
        place = Place(self.store_id, "segment", ref.page)
        lock = open_stamp(self.keys.page(ref.page, self.view.head), place, stamp)
        return [lock.open(SEGMENT_PARTS.index(name), name, its) for name, its in zip(names, sealed, strict=True)]

    def locate(self, id: int) -> Entry | None:
        """The entry (without code and terms, unless it is in the tail) of the record with this id."""
        view = self.view
        slot = view.tail_ids.get(id)
        if slot is not None:
            return view.tail[slot]
        ref = view.manifest.segments.get((id - 1) // SEGMENT_ROWS)
        if ref is not None and id not in view.manifest.pending:
            columns = self.columns(ref)
            at = columns.position(id)
            if at is not None:
                return columns.entry(at) if columns.ids[at] == id else None
        for ref in view.manifest.segments.values():
            columns = self.columns(ref)
            at = columns.moved.get(id)
            if at is not None and int(columns.slots[at]) not in view.manifest.pending:
                return columns.entry(at)
        return None

    # Pages

    def next_page(self) -> int:
        """A page number that was never used; call inside a transaction."""
        page = self.view.head.next_page
        self.view.head = self.view.head._replace(next_page=page + 1)
        return page

    def seal_page(self, table: str, content: bytes) -> tuple[int, bytes]:
        """Write the one row of ``table`` anew; its page and mark."""
        page = self.next_page()
        sealed = seal_one(self.keys.page(page, self.view.head), Place(self.store_id, table, page), content)
        self.database.run(f"INSERT OR REPLACE INTO {table} (id, sealed) VALUES (1, ?)", (sealed,))
        return page, mark(sealed[:STAMP_BYTES])

    def write_manifest(self) -> None:
        """Seal the manifest of the view, and name it in the view's head."""
        page, its_mark = self.seal_page("manifest", self.view.manifest.to_bytes())
        self.view.head = self.view.head._replace(manifest_page=page, manifest_mark=its_mark)

    def write_registry(self) -> None:
        """Seal the registry of the view, and name it in the view's head."""
        page, its_mark = self.seal_page("registry", self.view.registry.to_bytes())
        self.view.head = self.view.head._replace(registry_page=page, registry_mark=its_mark)

    def write_head(self) -> None:
        """Seal the head of the view."""
        place = Place(self.store_id, "head", self.keys.root.epoch)
        sealed = seal_one(self.keys.head_key, place, self.view.head.to_bytes())
        self.database.run("INSERT OR REPLACE INTO head (id, sealed) VALUES (1, ?)", (sealed,))

    def open_padded(self, content: bytes, what: str) -> memoryview:
        """``content`` without its padding. Raises ``TamperedError``."""
        try:
            return unpadded(content)
        except ValueError:
            raise TamperedError(f"A sealed {what} opened but is not padded as in format 2: restore it.") from None


def read_root(epoch: object, sealed: object, store_key: bytes, secret: DeviceSecret, store_id: bytes) -> Root:
    """The root of ``epoch``, opened with the device secret.

    Raises ``ForgottenEpoch`` if that secret was destroyed, ``DeviceSecretError`` if it never was here.
    """
    secrets = secret.read()
    if type(epoch) is not int or epoch < 1:
        raise tampered("root")
    if epoch not in secrets:
        if epoch < min(secrets):
            raise ForgottenEpoch(
                "This copy of the store is from before the last forget and never opens again: use the store itself, or "
                "import an archive made by export."
            )
        raise DeviceSecretError(
            "The device secret is older than the store: it was put back from a backup. Put the latest one in its place."
        )
    if len(secrets[epoch]) != KEY_BYTES:
        raise DeviceSecretError("The device secret has a wrong size: put the right one in its place.")
    return open_root(sealed, epoch, store_key=store_key, secret=secrets[epoch], store_id=store_id)
