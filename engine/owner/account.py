"""What a device gave to federated rounds and may still give: its contributions, the owner's limits, what is queued.

A contribution is noted before its bytes leave: one durable transaction holds the ledger entry, the bytes, sealed, and,
once the owner has set limits, the charge. So a crash after it costs a contribution and never hides one. It is refused
where anything was forgotten, or consent changed, since the memory was read for it. Who asks again for the same gets the
same bytes, noted again and free of charge, a few times and while the limits hold; not once a memory that they may rest
on was forgotten or expired, or consent was withdrawn.

Limits and what was spent then lie in the store's ratchet, which a witness outside the file knows: an older copy of the
device gets nothing back. Weeks are counted from Unix time 0, and a clock that is set back stays in the latest one.

>>> Spent(lifetime=3, week=2957, in_week=1).plus_one(now=2957 * 604800.0)
Spent(lifetime=4, week=2957, in_week=2)
"""

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from engine.errors import BudgetError, ChangedMeanwhileError
from engine.owner.stage import Stage
from store import EncryptedStore

WEEK_S = 604_800
_KIND = "sent"
_QUEUED = "queued update"
_RATCHET = struct.Struct(">BQQQQQ")  # Format; given in all, latest week, given in it; limits in all and a week.
_FORMAT = 1
_NO_LIMIT = 2**64 - 1
_MOST_REPEATS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What left the device in answer to one request; hashes are SHA-256 in hex, ``time`` is in Unix seconds.

    ``asked`` hashes all that the request said, ``model`` the model that it brought, ``sent`` the bytes that left;
    ``again`` is true where the same request was answered before, with the same bytes.
    """

    time: float
    to: str
    round: int
    mode: str
    purpose: str
    asked: str
    model: str
    sent: str
    size_bytes: int
    again: bool = False
    rho: float | None = None

    def to_bytes(self) -> bytes:
        """The ledger's entry."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Contribution":
        """The contribution that an entry tells of. Raises `BudgetError` for one that this release did not write."""
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError, RecursionError):
            raise BudgetError("A contribution in the ledger was written by another release, or by an app.") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many contributions the owner allows, in all and in a week; ``None`` is any number. Raises ValueError."""

    lifetime: int | None = None
    week: int | None = None

    def __post_init__(self) -> None:
        for name in ("lifetime", "week"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 2**63:
                raise ValueError(f"Expected {name}={value} to be at least 0, or None for any number.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """How many contributions were made: in all, and in the latest week with one, by its number."""

    lifetime: int = 0
    week: int = 0
    in_week: int = 0

    def plus_one(self, now: float) -> "Spent":
        """What is spent after one more at ``now`` (Unix seconds)."""
        week = max(self.week, int(max(now, 0) // WEEK_S))
        return Spent(lifetime=self.lifetime + 1, week=week, in_week=(self.in_week if week == self.week else 0) + 1)

    def in_week_at(self, now: float) -> int:
        """How many were made in the week of ``now`` (Unix seconds), as the limits count it."""
        return self.in_week if self.week >= int(max(now, 0) // WEEK_S) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the device stood by at one moment: it changes when something is forgotten, allowed, withdrawn or given."""

    epoch: int
    entries: int


class Account:
    """The contributions of one device, in the sealed rows of its open store."""

    def __init__(self, store: EncryptedStore) -> None:
        self._store = store

    def contributions(self) -> list[Contribution]:
        """Return all contributions, oldest first. Raises `TamperedError` if the ledger was changed."""
        return [Contribution.from_bytes(content) for _, _, content in self._store.entries(_KIND)]

    @property
    def limits(self) -> Limits:
        """The owner's limits; by default none."""
        ratchet = self._store.ratchet
        return _unpacked(ratchet)[1] if ratchet else Limits()

    def limit(self, limits: Limits, *, now: float) -> None:
        """Set the limits, and note it in the ledger. What was given before counts towards them."""
        with self._store.transaction():
            self._store.charge(_packed(self.spent, limits))
            self._store.append("limits", json.dumps({**asdict(limits), "time": now}).encode())

    def standing(self) -> Standing:
        """What the device stands by now: to take before the memory is read, and to give with what comes of it."""
        with self._store.lock:
            return Standing(epoch=self._store.epoch, entries=self._store.ledger_count)

    @property
    def spent(self) -> Spent:
        """What was spent: as it was charged, or, where no limit was ever set, as the ledger tells."""
        ratchet, told = self._store.ratchet, Spent()
        if ratchet:
            return _unpacked(ratchet)[0]
        for contribution in self.contributions():
            if not contribution.again:
                told = told.plus_one(contribution.time)
        return told

    def require_left(self, *, now: float, rho: float | None = 0.0) -> None:
        """Raise `BudgetError` if the owner's limits forbid one more contribution at ``now`` (Unix seconds)."""
        self._after_one_more(now)

    def _after_one_more(self, now: float) -> bytes | None:
        """The ratchet after one more contribution, or ``None`` if no limit was ever set. Raises `BudgetError`."""
        ratchet = self._store.ratchet
        if not ratchet:
            return None
        spent, limits = _unpacked(ratchet)
        after = spent.plus_one(now)
        _require(limits, after)
        return _packed(after, limits)

    def send_again(self, asked: str, *, now: float) -> bytes | None:
        """Return the bytes that were given for this request already, once that they leave again is noted.

        ``None`` if none were, or others were given since, or they may not leave any more. Raises `BudgetError` where
        more was spent than the owner allows, or the same was asked for too often.
        """
        with self._store.transaction():
            terms, payload = self._queued()
            if terms.get("asked") != asked or now >= terms["expires"] or self._forgot_since(terms["entry"]):
                return None
            _require(self.limits, self.spent)
            if terms["repeats"] >= _MOST_REPEATS:
                raise BudgetError(f"The same contribution was asked for more than {_MOST_REPEATS} times.")
            self._queue(terms | {"repeats": terms["repeats"] + 1}, payload)
            given = Contribution(**terms["contribution"])
            self._store.append(_KIND, replace(given, time=now, again=True).to_bytes())
            return payload

    def answered(self, asked: str) -> bool:
        """Whether bytes are kept that this request was answered with."""
        return bool(self._queued()[0].get("asked") == asked)

    def send(
        self,
        contribution: Contribution,
        payload: bytes,
        *,
        standing: Standing,
        expires: float,
        also: Callable[[], None] | None = None,
    ) -> None:
        """Note that ``payload`` is about to leave; durable when this returns.

        ``standing`` is from before the memory was read for it, and ``expires`` (Unix seconds, or infinity) when it may
        not leave again. What ``also`` writes is durable with it, or neither is. Raises `ChangedMeanwhileError` if the
        device stands otherwise now, `BudgetError` at a limit, and `ValueError` unless ``payload`` is what
        ``contribution`` says it is.
        """
        if digest(payload) != contribution.sent or len(payload) != contribution.size_bytes:
            raise ValueError("Expected the payload that the contribution names: its hash or size is another.")
        with self._store.transaction():
            if self.standing() != standing:
                raise ChangedMeanwhileError("Something was forgotten, allowed or given meanwhile: make it again.")
            after = self._after_one_more(contribution.time)
            if after is not None:
                self._store.charge(after)
            entry = self._store.append(_KIND, contribution.to_bytes())
            told = {"asked": contribution.asked, "contribution": asdict(contribution), "repeats": 0}
            self._queue(told | {"entry": entry, "expires": expires}, payload)
            if also is not None:
                also()

    def _queue(self, terms: dict[str, Any], payload: bytes) -> None:
        """Keep these bytes and their terms for who asks again, in place of earlier ones."""
        told = json.dumps(terms).encode()
        value = len(told).to_bytes(4, "big") + told + payload
        # What it replaces has left the device: there is no haste to make it unrecoverable.
        self._store.put(_KIND, _QUEUED, value, purges=False)

    def _queued(self) -> tuple[dict[str, Any], bytes]:
        value = self._store.fetch(_KIND, _QUEUED)
        if value is None:
            return {}, b""
        end = 4 + int.from_bytes(value[:4], "big")
        return json.loads(value[4:end]), value[end:]

    def _forgot_since(self, entry: int) -> bool:
        """Whether a memory was forgotten after this entry, if only through the store."""
        receipts = self._store.entries("receipt")
        return any(number > entry and json.loads(content)["ids"] for number, _, content in receipts)

    def drop_queued(self) -> None:
        """Drop the bytes that are kept for who asks again, and the secure round that the device is in."""
        self._store.discard(_KIND, _QUEUED)
        Stage(self._store).erase()


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def _require(limits: Limits, spent: Spent) -> None:
    """Raise `BudgetError` if more was spent than the limits allow."""
    for limit, number, term in ((limits.lifetime, spent.lifetime, "in all"), (limits.week, spent.in_week, "a week")):
        if limit is not None and number > limit:
            raise BudgetError(f"This device has reached its owner's limit of contributions: {limit} {term}.")


def _packed(spent: Spent, limits: Limits) -> bytes:
    """What the store's ratchet holds."""
    allowed = (_NO_LIMIT if limit is None else limit for limit in (limits.lifetime, limits.week))
    return _RATCHET.pack(_FORMAT, spent.lifetime, spent.week, spent.in_week, *allowed)


def _unpacked(ratchet: bytes) -> tuple[Spent, Limits]:
    """What a ratchet says. Raises `BudgetError`."""
    if len(ratchet) != _RATCHET.size or ratchet[0] != _FORMAT:
        raise BudgetError("What this device has spent was written by another release, or by an app: use that one.")
    _, *counts, _, _ = numbers = _RATCHET.unpack(ratchet)
    if max(counts) >= 2**63:
        raise BudgetError("What this device has spent was written by an app: it is no number that was spent.")
    lifetime, week, in_week, *allowed = numbers[1:]
    limits = [None if limit == _NO_LIMIT else limit for limit in allowed]
    return Spent(lifetime=lifetime, week=week, in_week=in_week), Limits(lifetime=limits[0], week=limits[1])
