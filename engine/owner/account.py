"""What a device gave to federated rounds and may still give: its contributions, the owner's limits, what is queued.

A contribution is noted before its bytes leave: one durable transaction holds the ledger entry, the bytes, sealed, and,
once the owner has set limits, the charge. So a crash after it costs a contribution and never hides one. It is refused
where anything was forgotten, or consent changed, since the memory was read for it. Who asks again for the same gets the
same bytes, noted again and free of charge, a few times and while the limits hold; not once a memory that they may rest
on was forgotten or expired, or consent was withdrawn.

Limits and what was spent then lie in the store's ratchet (`engine.owner.ratchet`), which a witness outside the file
knows: an older copy of the device gets nothing back. What is charged is a count and, where something bounds what a
contribution costs, ρ, from the first such contribution on. What nothing bounds is past every limit of ρ. Weeks are
counted from Unix time 0, and a clock that is set back stays in the latest one.

>>> Spent(lifetime=3, week=2957, in_week=1).plus_one(now=2957 * 604800.0).in_week
2
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from engine.errors import BudgetError, ChangedMeanwhileError
from engine.owner.ratchet import WEEK_S, Limits, Spent, packed, require_within, unpacked
from engine.owner.rho import DELTA, epsilon_of, rho_of
from engine.owner.stage import Stage
from store import EncryptedStore

__all__ = ["WEEK_S", "Account", "Contribution", "Limits", "Spent", "Standing", "digest"]

DEFAULT_EPSILON = 8.0
"""The limit in all, at `DELTA`, of a device whose owner allows rounds with a bound and sets no limit."""

_KIND = "sent"
_QUEUED = "queued update"
_MOST_REPEATS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What left the device in answer to one request; hashes are SHA-256 in hex, ``time`` is in Unix seconds.

    ``asked`` hashes all that the request said, ``model`` the model that it brought, ``sent`` the bytes that left;
    ``again`` is true where the same request was answered before, with the same bytes, which then costs nothing.

    ``rho`` is what it costs, in ρ (`engine.owner.rho`): of what the server learns in private mode, of what it releases
    in central mode, and ``None`` where nothing bounds it, in open mode. The account adds ``rho_spent``, the total once
    it had left, and ``rho_left``, what the owner's limit in all then allowed still; ``None`` where there was none.
    Raises ValueError unless ``rho`` is at least 0 and finite.
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
    rho_spent: float | None = field(default=None, compare=False)
    rho_left: float | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name in ("rho", "rho_spent", "rho_left"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not 0 <= value < math.inf):
                raise ValueError(f"Expected {name}={value} to be at least 0 and finite, or None.")

    def epsilon_alone(self, delta: float = DELTA) -> float | None:
        """What it costs by itself, as ε; ``None`` where nothing bounds it."""
        return None if self.rho is None else epsilon_of(self.rho, delta)

    def epsilon_spent(self, delta: float = DELTA) -> float | None:
        """ε of all that the device had given then; ``None`` where no account of it was kept."""
        return None if self.rho_spent is None else epsilon_of(self.rho_spent, delta)

    def epsilon_left(self, delta: float = DELTA) -> float | None:
        """By how much ε of all that it gives could grow then; ``None`` where it had no limit."""
        if self.rho_spent is None or self.rho_left is None:
            return None
        return epsilon_of(self.rho_spent + self.rho_left, delta) - epsilon_of(self.rho_spent, delta)

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
        return unpacked(ratchet)[1] if ratchet else Limits()

    def limit(self, limits: Limits, *, now: float) -> None:
        """Set all the limits, and note it in the ledger. What was given before counts towards them.

        ``replace(account.limits, week=3)`` is one changed and the others as they are.
        """
        with self._store.transaction():
            self._store.charge(packed(self.spent, limits))
            self._store.append("limits", json.dumps({**asdict(limits), "time": now}).encode())

    def limit_by_default(self, *, now: float) -> None:
        """Limit ε in all to `DEFAULT_EPSILON` at `DELTA`, unless the owner has limited it, in all or by the week."""
        with self._store.transaction():
            limits = self.limits
            if not limits.bound_rho:
                self.limit(replace(limits, rho=rho_of(DEFAULT_EPSILON)), now=now)

    def standing(self) -> Standing:
        """What the device stands by now: to take before the memory is read, and to give with what comes of it."""
        with self._store.lock:
            return Standing(epoch=self._store.epoch, entries=self._store.ledger_count)

    @property
    def spent(self) -> Spent:
        """What was spent: as it was charged, or, where no limit was ever set, as the ledger tells."""
        ratchet, told = self._store.ratchet, Spent()
        if ratchet:
            return unpacked(ratchet)[0]
        for contribution in self.contributions():
            if not contribution.again:
                told = told.plus_one(contribution.time, contribution.rho)
        return told

    def require_left(self, *, now: float, rho: float | None = 0.0) -> None:
        """Raise `BudgetError` if the owner's limits forbid one more contribution at ``now`` (Unix seconds).

        ``rho`` is what it would cost, ``None`` where nothing bounds it.
        """
        ratchet = self._store.ratchet
        if ratchet:
            _after(*unpacked(ratchet), now, rho)

    def _charged(self, contribution: Contribution) -> Contribution:
        """Charge it and return it with what was spent and is left; raise `BudgetError`. Call inside a transaction.

        A device that was never limited and has given nothing of a known cost keeps no account but its ledger.
        """
        if not self._store.ratchet and contribution.rho is None:
            return contribution
        limits = self.limits
        after = _after(self.spent, limits, contribution.time, contribution.rho)
        self._store.charge(packed(after, limits))
        return _told(contribution, after, limits)

    def send_again(self, asked: str, *, now: float) -> bytes | None:
        """Return the bytes that were given for this request already, once that they leave again is noted.

        ``None`` if none were, or others were given since, or they may not leave any more. Raises `BudgetError` where
        more was spent than the owner allows, or the same was asked for too often.
        """
        with self._store.transaction():
            terms, payload = self._queued()
            if terms.get("asked") != asked or now >= terms["expires"] or self._forgot_since(terms["entry"]):
                return None
            given, limits, spent = Contribution(**terms["contribution"]), self.limits, self.spent
            require_within(limits, spent, rho=given.rho)
            if terms["repeats"] >= _MOST_REPEATS:
                raise BudgetError(f"The same contribution was asked for more than {_MOST_REPEATS} times.")
            self._queue(terms | {"repeats": terms["repeats"] + 1}, payload)
            if given.rho_spent is not None:
                given = _told(given, spent, limits)
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
            contribution = self._charged(contribution)
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


def _after(spent: Spent, limits: Limits, now: float, rho: float | None) -> Spent:
    """What is spent after one more contribution at ``now``. Raises `BudgetError` past a limit."""
    after = spent.plus_one(now, rho)
    require_within(limits, after, rho=rho)
    return after


def _told(contribution: Contribution, spent: Spent, limits: Limits) -> Contribution:
    """The contribution with what was spent once it had left, and what the limit in all then left."""
    left = None if limits.rho is None else max(0.0, round(limits.rho - spent.rho, 9))
    return replace(contribution, rho_spent=spent.rho, rho_left=left)
