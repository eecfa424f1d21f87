"""Checking a whole store: every sealed value is opened and compared with all that names it."""

from __future__ import annotations

import hmac

import numpy as np

from store.errors import TamperedError
from store.format.receipts import KIND, Receipt
from store.format.vectors import Vectors
from store.index.postings import build_postings
from store.index.quantizer import Quantizer
from store.index.terms import entry_of
from store.keys.crypto import tampered
from store.tables.core import Core
from store.tables.forgetting import all_entries, entries_of
from store.tables.ledger import Ledger
from store.tables.named import NamedValues
from store.tables.rows import Rows

_PAGE_ROWS = 256
_ROUNDING = 1e-4  # Of a vector's length. float32 rounds some hundred times finer than this.


def verify(core: Core, rows: Rows, named: NamedValues, ledger: Ledger) -> int:
    """How many sealed values were opened. Call inside a snapshot. Raises ``TamperedError``.

    Root, head, manifest, registry and the tail's entries were opened when the snapshot began.
    """
    if core.database.rows("PRAGMA integrity_check(1)") != [("ok",)]:
        raise TamperedError(f"{core.database.path} is damaged: restore it from a backup.")
    return (
        4 + len(core.view.tail) + _records(core, rows) + _segments(core, rows) + named.verify() + _ledger(core, ledger)
    )


def _records(core: Core, rows: Rows) -> int:
    """Open every record and vector, and compare what its columns, code and terms say of it."""
    entries = all_entries(core)
    head = core.view.head
    if len(entries) != head.live or core.database.number("SELECT count(*) FROM memory") != head.allocated:
        raise tampered("list of records")
    for start in range(0, len(entries), _PAGE_ROWS):
        page = entries[start : start + _PAGE_ROWS]
        vectors = rows.vectors([entry.slot for entry in page], [entry.mark for entry in page])
        _check_codes(rows.segments.quantizer(), vectors, [entry.code for entry in page])
        for entry, stored in zip(page, rows.records(page), strict=True):
            record = stored.record
            same = (record.time, record.scope, record.purpose, record.source, record.supersedes or 0)
            if same != (entry.time, entry.scope, entry.purpose, entry.source, entry.supersedes):
                raise tampered("record")
            if entry.slot >= head.tail_first and entry.terms != entry_of(record.text):
                raise tampered("entry")
    return 2 * len(entries)


def _segments(core: Core, rows: Rows) -> int:
    """Compare the three parts of every segment with each other and with its records."""
    view = core.view
    if core.database.number("SELECT count(*) FROM segment") != len(view.manifest.segments):
        raise tampered("list of segments")
    for ref in view.manifest.segments.values():
        columns = core.columns(ref)
        slots, codes = rows.segments.codes(ref)
        postings = rows.segments.postings(ref)
        if slots.tolist() != columns.slots.tolist():
            raise tampered("segment")
        if set(slots.tolist()) & view.manifest.pending:
            continue  # Its dead rows are noise already: only a rewrite could be compared.
        entries = sorted(entries_of(core, columns.slots), key=lambda entry: entry.slot)
        vectors = rows.vectors([entry.slot for entry in entries], [entry.mark for entry in entries])
        terms = [entry_of(stored.record.text) for stored in rows.records(entries)]
        _check_codes(rows.segments.quantizer(), vectors, [code.tobytes() for code in codes])
        if build_postings(slots, terms) != postings:
            raise tampered("segment")
    return 3 * len(view.manifest.segments)


def _check_codes(quantizer: Quantizer, vectors: Vectors, codes: list[bytes]) -> None:
    """Raise ``TamperedError`` if one of ``codes`` (empty: not given) is not that of its row of ``vectors`` (n, d).

    Rounding differs between machines and batch sizes, so a sign counts only where its coordinate is not near zero.
    """
    given = [at for at, code in enumerate(codes) if code]
    if not given:
        return
    vectors, width = vectors[given], quantizer.sign_bytes
    if {len(codes[at]) for at in given} != {quantizer.code_bytes}:
        raise tampered("code")
    table = np.frombuffer(b"".join(codes[at] for at in given), dtype=np.uint8).reshape(len(given), -1)
    turned = quantizer.rotate(vectors)
    signs = np.unpackbits(table[:, :width], axis=1, count=quantizer.dimension, bitorder="little")
    near = np.abs(turned) <= _ROUNDING * np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    factors, expected = (np.ascontiguousarray(c[:, width:]).view("<f4") for c in (table, quantizer.encode(vectors)))
    if not (near | ((turned > 0) == signs)).all() or not np.allclose(factors, expected, rtol=_ROUNDING, atol=0):
        raise tampered("code")


def _ledger(core: Core, ledger: Ledger) -> int:
    """Follow the ledger's chain, and that of the receipts in it up to the present root."""
    count, last = 0, None
    ledger.check_rows()
    for _, kind, content in ledger.entries():
        count += 1
        if kind != KIND:
            continue
        receipt = Receipt.from_bytes(content)
        if last is not None and receipt.root_before != last.root_after:
            raise tampered("receipt")
        for id in receipt.ids:
            if core.locate(id) is not None:
                raise tampered("receipt")
        last = receipt
    root = core.keys.root.commitment(core.store_id)
    if last is not None and (last.epoch != core.keys.root.epoch or not hmac.compare_digest(last.root_after, root)):
        raise tampered("receipt")
    return count
