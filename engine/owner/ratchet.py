"""What a device may give to federated rounds and has given, as the store's ratchet holds it.

A ratchet is what an older copy of the store does not win back: a witness outside the folder knows it. Contributions are
counted, and their ρ (`engine.owner.rho`) adds up in whole units; what nothing bounds, as in open mode, counts apart.

    format (u8, 2) ‖ given in all, latest week, given in it ‖ contributions allowed in all, a week
      ‖ units charged in all, in the latest week ‖ units allowed in all, a week ‖ given without a bound   — 11 × u64

A limit of 2⁶⁴ − 1 is none. Format 1 ends after the sixth number; all that was given then was without a bound.

>>> Spent(lifetime=3, week=2957, in_week=1).plus_one(now=2957 * 604800.0, rho=0.25).rho
0.25
"""

import struct
from dataclasses import dataclass

from engine.errors import BudgetError
from engine.owner.rho import DELTA, MOST_RHO, allowed_units, charged_units, epsilon_of, rho_of_units

WEEK_S = 604_800
_FORMAT = 2
_RATCHET = struct.Struct(">B10Q")
_FORMAT_1 = struct.Struct(">B5Q")
_NO_LIMIT = 2**64 - 1
_MOST = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the owner allows, in all and in a week: contributions, and their ρ; ``None`` is any.

    With a limit of ρ, nothing leaves that has no bound. Raises ValueError.
    """

    lifetime: int | None = None
    week: int | None = None
    rho: float | None = None
    rho_week: float | None = None

    def __post_init__(self) -> None:
        for name in ("lifetime", "week"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < _MOST:
                raise ValueError(f"Expected {name}={value} to be at least 0, or None for any number.")
        for name in ("rho", "rho_week"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= MOST_RHO:
                raise ValueError(f"Expected {name}={value} from 0 to {MOST_RHO:g}, or None for any.")

    @property
    def bound_rho(self) -> bool:
        """Whether ρ has a limit."""
        return self.rho is not None or self.rho_week is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What was given: contributions in all, and in the latest week with one, by its number; and what they cost.

    ``units`` of ρ were charged in all, and ``units_in_week`` in that week; ``unbounded`` contributions had no bound.
    """

    lifetime: int = 0
    week: int = 0
    in_week: int = 0
    units: int = 0
    units_in_week: int = 0
    unbounded: int = 0

    @property
    def rho(self) -> float:
        """ρ of all contributions that have a bound."""
        return rho_of_units(self.units)

    def plus_one(self, now: float, rho: float | None = 0.0) -> "Spent":
        """What is spent after one more at ``now`` (Unix seconds); ``rho`` is ``None`` where nothing bounds it."""
        week = max(self.week, _week_of(now))
        same, units = week == self.week, 0 if rho is None else charged_units(rho)
        return Spent(
            lifetime=self.lifetime + 1,
            week=week,
            in_week=(self.in_week if same else 0) + 1,
            units=self.units + units,
            units_in_week=(self.units_in_week if same else 0) + units,
            unbounded=self.unbounded + (rho is None),
        )

    def in_week_at(self, now: float) -> int:
        """How many were made in the week of ``now`` (Unix seconds), as the limits count it."""
        return self.in_week if self.week >= _week_of(now) else 0

    def rho_in_week_at(self, now: float) -> float:
        """ρ of what was made in the week of ``now`` (Unix seconds), as the limits count it."""
        return rho_of_units(self.units_in_week) if self.week >= _week_of(now) else 0.0


def _week_of(now: float) -> int:
    return int(max(now, 0) // WEEK_S)


def require_within(limits: Limits, spent: Spent, *, rho: float | None) -> None:
    """Raise `BudgetError` if more was ``spent`` than the limits allow, or its last one's ``rho`` is no bound."""
    for limit, number, term in ((limits.lifetime, spent.lifetime, "in all"), (limits.week, spent.in_week, "a week")):
        if limit is not None and number > limit:
            raise BudgetError(f"This device has reached its owner's limit of contributions: {limit} {term}.")
    if limits.bound_rho and rho is None:
        raise BudgetError(
            "This device's owner has set a limit of ε, and nothing bounds what a round in this mode costs."
        )
    for allowed, units, term in (
        (limits.rho, spent.units, "in all"),
        (limits.rho_week, spent.units_in_week, "a week"),
    ):
        if allowed is not None and units > allowed_units(allowed):
            raise BudgetError(
                f"One more contribution would pass its owner's limit of ε = {epsilon_of(allowed):.3g} at "
                f"δ = {DELTA:g} {term}."
            )


def packed(spent: Spent, limits: Limits) -> bytes:
    """What the store's ratchet holds. Raises `BudgetError` for more than it can."""
    counts = (spent.lifetime, spent.week, spent.in_week)
    units = (spent.units, spent.units_in_week)
    if max(*counts, *units, spent.unbounded) >= _MOST:
        raise BudgetError("This contribution costs more than a device can keep an account of.")
    numbers = (_NO_LIMIT if limit is None else limit for limit in (limits.lifetime, limits.week))
    rhos = (_NO_LIMIT if limit is None else allowed_units(limit) for limit in (limits.rho, limits.rho_week))
    return _RATCHET.pack(_FORMAT, *counts, *numbers, *units, *rhos, spent.unbounded)


def unpacked(ratchet: bytes) -> tuple[Spent, Limits]:
    """What a ratchet of this format or the first says. Raises `BudgetError`."""
    if len(ratchet) == _FORMAT_1.size and ratchet[0] == 1:
        numbers = list(_FORMAT_1.unpack(ratchet)[1:])
        numbers += [0, 0, _NO_LIMIT, _NO_LIMIT, numbers[0]]
    elif len(ratchet) == _RATCHET.size and ratchet[0] == _FORMAT:
        numbers = list(_RATCHET.unpack(ratchet)[1:])
    else:
        raise BudgetError("What this device has spent was written by another release, or by an app: use that one.")
    lifetime, week, in_week, *allowed, units, units_in_week, rho, rho_week, unbounded = numbers
    spent = Spent(
        lifetime=lifetime, week=week, in_week=in_week, units=units, units_in_week=units_in_week, unbounded=unbounded
    )
    most, most_in_week = (None if limit == _NO_LIMIT else limit for limit in allowed)
    rhos = [None if limit == _NO_LIMIT else rho_of_units(limit) for limit in (rho, rho_week)]
    try:
        if max(lifetime, week, in_week, units, units_in_week, unbounded) >= _MOST:
            raise ValueError
        return spent, Limits(lifetime=most, week=most_in_week, rho=rhos[0], rho_week=rhos[1])
    except ValueError:
        raise BudgetError("What this device has spent was written by an app: it is no number that was spent.") from None
