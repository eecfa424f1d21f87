"""Keeping memories: the half of a `Device` that remembers, finds, exports and forgets.

Texts become vectors by the device's encoder and lie sealed in its store; consent is asked at reading.
"""

import contextlib
import math
import time as clock
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from engine.device.kept import Kept
from engine.device.suggestion import Found, found
from engine.encoders.encoder import Encoder, Vectors, check_vectors
from engine.encoders.word_vectors import word_vectors
from engine.errors import EncoderMismatchError
from engine.owner.account import Account
from engine.owner.consent import Consents
from engine.recall.query import Query
from engine.recall.ranking import find, recall, shared_words
from engine.text import is_unicode
from store import EncryptedStore, Receipt, Record, RecordMissingError, Where

EVERYTHING = Where()


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Something to remember: a text, the label it belongs to (or none), and the terms it is kept under.

    ``time`` is in Unix seconds; ``None`` is now. From ``expires`` (Unix seconds) on it is not read any more.
    ``supersedes`` is the id of a memory that this one replaces and that stays as history; ``derived_from`` are ids of
    memories that it was made from, and with which it is forgotten.
    """

    text: str
    label: str | None = None
    time: float | None = None
    scope: str = "default"
    purpose: str = "personalization"
    source: str = "user"
    expires: float | None = None
    supersedes: int | None = None
    derived_from: tuple[int, ...] = ()

    def record(self, now: float) -> Record:
        """Return the store's record of it. Raises ValueError."""
        return Record(
            text=self.text,
            label=self.label,
            time=now if self.time is None else self.time,
            scope=self.scope,
            purpose=self.purpose,
            source=self.source,
            expires=self.expires,
            supersedes=self.supersedes,
            derived_from=self.derived_from,
        )


class MemoryKeeper:
    """An open store with the encoder that fills it. Use `Device`."""

    def __init__(self, store: EncryptedStore, encoder: Encoder) -> None:
        """Internal: use `Device.create` or `Device.open`."""
        self._store, self._encoder = store, encoder
        self._lock = store.lock  # Not one of its own: two locks taken in either order wait for each other.
        self._kept = Kept(store)
        self._consents = Consents(store)
        self._account = Account(store)

    @property
    def store(self) -> EncryptedStore:
        """The sealed store, for its slots, ledger, receipts, rotation and checks."""
        return self._store

    def remember(
        self,
        text: str,
        *,
        label: str | None = None,
        time: float | None = None,
        scope: str = "default",
        purpose: str = "personalization",
        source: str = "user",
        expires: float | None = None,
        supersedes: int | None = None,
        derived_from: Sequence[int] = (),
    ) -> int:
        """Keep a memory, sealed; the id given to it, once it is durable. Terms as in `Memory`.

        A ``label`` outside the catalogue becomes a private label that never leaves the device.
        """
        memory = Memory(
            text=text,
            label=label,
            time=time,
            scope=scope,
            purpose=purpose,
            source=source,
            expires=expires,
            supersedes=supersedes,
            derived_from=tuple(derived_from),
        )
        return self.remember_many([memory])[0]

    def remember_many(self, memories: Sequence[Memory]) -> list[int]:
        """Keep all memories or, if one is refused, none; their ids, in order."""
        now = clock.time()
        records = [memory.record(now) for memory in memories]
        vectors = self._encode([record.text for record in records])
        with self._lock, self._store.transaction():
            self._check_encoder_is_current()
            return self._store.add_many(records, vectors)

    def feedback(self, text: str, label: str) -> int:
        """Remember what the user chose for ``text``; the id of the memory."""
        return self.remember(text, label=label, source="feedback")

    def forget(self, ids: int | Iterable[int]) -> Receipt | None:
        """Forget these memories for good, what was derived from them, and all that was kept about them.

        The receipt says what is gone; ``None`` if ``ids`` is empty. Raises `RecordMissingError` and forgets none if one
        is missing, `ForgetPending` if another process holds back the last step.
        """
        wanted = list(ids) if isinstance(ids, Iterable) else [ids]
        with self._lock:
            with self._store.transaction() as work:
                self._store.forget(wanted)
                self._drop_evidence(work.what)
            self._drop_cached()
            return work.receipt

    def erase(self, where: Where) -> Receipt | None:
        """Forget all memories of a scope, purpose, source or time; ``None`` if there is none."""
        with self._lock:
            with self._store.transaction() as work:
                self._store.erase(where)
                self._drop_evidence(work.what)
            self._drop_cached()
            return work.receipt

    def expire(self) -> Receipt | None:
        """Forget the memories whose time is over; ``None`` if there is none."""
        with self._lock:
            with self._store.transaction() as work:
                self._store.expire()
                self._drop_evidence(work.what)
            self._drop_cached()
            return work.receipt

    def _drop_cached(self) -> None:
        """Drop what is kept in memory of memories, some of which were just forgotten."""
        self._kept.clear()

    def count(self) -> int:
        """The number of memories that may be read now."""
        with self._lock:
            return self._store.count()

    def search(
        self,
        query: str,
        k: int = 5,
        *,
        scope: str | None = None,
        purpose: str | None = None,
        source: str | None = None,
        since: float | None = None,
        until: float | None = None,
        by: str = "both",
        now: float | None = None,
    ) -> list[Found]:
        """Return the ``k`` memories that answer ``query`` best, best first, each with the reasons why it is there.

        ``by`` "meaning" sorts by the cosine alone, which is each one's ``similarity``, "words" by BM25 alone, and
        "both" ranks what the two find together by `engine.recall.ranking`; dates in words are seen from ``now`` (Unix
        seconds, by default the clock's). Only memories of this scope, purpose, source and time (Unix seconds,
        ``until`` excluded) are found or lend a neighbour their score, if given; how rare a word is, the whole store
        says. Raises `ConsentError` if consent to ``purpose`` was withdrawn.
        """
        where = Where(scope=scope, purpose=purpose, source=source, after=since, before=until)
        return self._search(query, k, where, by=by, purpose=purpose, now=now)

    def find_to_erase(self, text: str, k: int = 5, where: Where = EVERYTHING) -> list[Found]:
        """Return what `search` finds by both, to look at before it is forgotten: for that nobody's consent is asked."""
        return self._search(text, k, where, by="both", purpose=None, now=None)

    def history(self, id: int) -> list[Found]:
        """Return a memory and those that it superseded, newest first; similarity is 1."""
        with self._lock:
            return [found(stored.id, stored.record, 1.0) for stored in self._store.history(id)]

    def memories(self) -> list[Found]:
        """Return all memories in the order they were kept; similarity is 1."""
        with self._lock:
            return [found(stored.id, stored.record, 1.0) for stored in self._store.iter()]

    def allow_purpose(self, purpose: str) -> None:
        """Give consent (again) to reading memories of this purpose for it."""
        with self._lock:
            self._consents.set(purpose, True, time=clock.time())

    def withdraw_purpose(self, purpose: str) -> None:
        """Withdraw consent to this purpose: from now on no memory is read for it, and no update waits to leave."""
        with self._lock, self._store.transaction(witness=True):
            self._consents.set(purpose, False, time=clock.time())
            self._account.drop_queued()

    @property
    def withdrawn_purposes(self) -> list[str]:
        """The purposes whose consent was withdrawn."""
        with self._lock:
            return self._consents.withdrawn()

    # Inside

    def _search(
        self, text: str, k: int, where: Where, *, by: str, purpose: str | None, now: float | None
    ) -> list[Found]:
        if k < 1:
            raise ValueError(f"Expected k={k} to be at least 1.")
        if by not in ("meaning", "words", "both"):
            raise ValueError(f"Expected by={by!r} to be 'meaning', 'words' or 'both'.")
        if now is not None and not math.isfinite(now):
            raise ValueError(f"Expected now={now} as finite Unix seconds.")
        _check_unicode([text])
        query = Query.read(text, self._encoder, now=clock.time() if now is None else now)
        words = word_vectors(self._encoder) if by == "both" else None
        with self._lock:
            self._check_encoder_is_current()
            if purpose is not None:
                self._consents.require(purpose)
            if by == "both":
                among = find(self._store, query, words=words, k=k, where=where)
                return [
                    found(among.records[at].id, among.records[at].record, float(among.products[at]), because)
                    for at, because in recall(query, among, k, words=words)
                ]
            read = self._by_one(by, query.vector, text, k, where)
            # Under the lock, since a forget drops the words that were seen before it.
            reasons = shared_words(text, [one.text for one in read])
            return [replace(one, because=because) for one, because in zip(read, reasons, strict=True)]

    def _by_one(self, by: str, query: Vectors, text: str, k: int, where: Where) -> list[Found]:
        """What the search by meaning or by words alone finds."""
        store, read = self._store, []
        hits = store.search(query, k, where=where) if by == "meaning" else store.search_text(text, k, where=where)
        for id, _ in hits:
            # Another process may have forgotten it meanwhile.
            with contextlib.suppress(RecordMissingError):
                read.append(found(id, store.get(id).record, float(store.vector(id) @ query)))
        return read

    def _drop_evidence(self, ids: Iterable[int]) -> None:
        """Drop what was kept about these memories or made from them; call inside the transaction that forgets them."""
        gone = list(ids)
        if gone:
            self._account.drop_queued()
            evidence = self._kept.evidence_to_change()
            evidence.forget(gone)
            self._kept.put_evidence(evidence)

    def _encode(self, texts: Sequence[str]) -> Vectors:
        _check_unicode(texts)
        return check_vectors(self._encoder.encode(texts), count=len(texts), encoder=self._encoder)

    def _check_encoder_is_current(self) -> None:
        name, fingerprint = self._kept.encoder()
        if fingerprint != self._encoder.fingerprint:
            raise EncoderMismatchError(f"This memory was meanwhile encoded again, with {name}. Open the device again.")


def _check_unicode(texts: Iterable[str]) -> None:
    if not all(map(is_unicode, texts)):
        raise ValueError("Expected text in valid Unicode, got a lone surrogate.")
