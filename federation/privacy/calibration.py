"""From the ε and δ that a person sets to the noise, by bisection, kept in the cache folder.

The result is the least multiple of 0.001 whose ε is within what was asked, so it is the same on every machine. What the
cache holds is checked before it is used: its digest, and that its noise keeps ε within what was asked. Where it is not
whole, a warning says so and the noise is computed again.

>>> from federation.privacy.accounting import PrivacyPlan
>>> plan = PrivacyPlan(devices=100, cohort=100, rounds=1, participations=1, delta=1e-5, dimension=10_000)
>>> least_multiplier(lambda z: epsilon_at(plan, z, SERVER), 8.0)
0.601
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.owner.modes import CENTRAL
from federation.errors import PrivacyError
from federation.privacy.accounting import (
    PrivacyPlan,
    amplified_bound,
    amplified_epsilon,
    unamplified_epsilon,
)
from store.disk.folders import make_folder, new_file, user_folder

SERVER, RELEASED = "server", "released"
AGAINST = (SERVER, RELEASED)
_ACCOUNTING = 1  # Grows when the same plan and noise get another ε.
_STEPS = 1000  # Of the noise multiplier, to 1.
_INTERPOLATIONS = 6
_MOST = 10**9  # Steps: more noise than any model survives.
_log = logging.getLogger("tacit.federation")


def calibrate(plan: PrivacyPlan, epsilon: float, *, against: str = SERVER) -> float:
    """Return the least noise multiplier z, a multiple of 0.001, that keeps ``plan`` within ``epsilon``.

    ``against`` is the figure to keep: `SERVER` or `RELEASED`. The first result may take half a minute, later ones come
    from the cache. Raises `PrivacyError` for an ε that is not positive and finite, and for `SERVER` in central mode.
    """
    if not 0 < epsilon < float("inf"):
        raise PrivacyError(f"Expected epsilon={epsilon} to be positive and finite.")
    if against not in AGAINST:
        raise PrivacyError(f"Expected against={against!r} to be one of {', '.join(AGAINST)}.")
    if plan.mode == CENTRAL and against == SERVER:
        raise PrivacyError("In central mode nothing is kept from the server: set the epsilon of the released model.")
    key = {"plan": asdict(plan), "epsilon": epsilon, "against": against, "accounting": _ACCOUNTING}
    cached = _cached(key)
    if cached is not None:
        if epsilon_at(plan, cached, against) <= epsilon:
            return cached
        _log.warning("The noise in %s is too little for ε = %g: it is computed again.", _place(key), epsilon)
    guess = least_multiplier(lambda z: _bound_at(plan, z, against), epsilon)
    found = least_multiplier(lambda z: epsilon_at(plan, z, against), epsilon, guess)
    _keep(key, found)
    return found


def epsilon_at(plan: PrivacyPlan, noise_multiplier: float, against: str) -> float:
    """Return the figure of ``plan`` that is to be kept, at this noise."""
    unamplified = unamplified_epsilon(plan, noise_multiplier)
    return unamplified if against == SERVER else min(unamplified, amplified_epsilon(plan, noise_multiplier))


def least_multiplier(epsilon_of: Callable[[float], float], epsilon: float, guess: float = 1.0) -> float:
    """Return the least multiple of 0.001 at which ``epsilon_of``, which never grows with it, is at most ``epsilon``.

    It is bracketed from ``guess``; the bracket is cut by interpolation a few times and then in halves. Raises
    `PrivacyError` if none below a million is.
    """

    def ask(steps: int) -> float:
        try:
            return epsilon_of(steps / _STEPS) if steps else math.inf
        except PrivacyError:  # So little noise that it is none.
            return math.inf

    low, high = _bracket(ask, epsilon, max(1, round(guess * _STEPS)))
    left = _INTERPOLATIONS
    while high[0] - low[0] > 1:
        middle = _between(low, high, epsilon) if left > 0 else (low[0] + high[0]) // 2
        left, value = left - 1, ask(middle)
        low, high = (low, (middle, value)) if value <= epsilon else ((middle, value), high)
    return high[0] / _STEPS


def _bracket(ask: Callable[[int], float], epsilon: float, steps: int) -> tuple[tuple[int, float], tuple[int, float]]:
    """Two numbers of steps, each with its ε, between which ``epsilon`` is crossed."""
    here = steps, ask(steps)
    if here[1] <= epsilon:
        while True:
            less = here[0] - max(1, here[0] // 10)
            low = less, ask(less)
            if low[1] > epsilon:
                return low, here
            here = low
    while True:
        more = 2 * here[0]
        if more > _MOST:
            raise PrivacyError(f"No noise keeps epsilon={epsilon}: allow a larger one, or fewer rounds.")
        high = more, ask(more)
        if high[1] <= epsilon:
            return here, high
        here = high


def _between(low: tuple[int, float], high: tuple[int, float], epsilon: float) -> int:
    """A number of steps strictly between two, where a power law through both reaches ``epsilon``."""
    if not (low[0] > 0 and math.isfinite(low[1]) and 0 < high[1] < low[1]):
        return (low[0] + high[0]) // 2
    share = math.log(low[1] / epsilon) / math.log(low[1] / high[1])
    reached = math.ceil(low[0] * math.pow(high[0] / low[0], share))
    return min(max(reached, low[0] + 1), high[0] - 1)


def cache_folder() -> Path:
    """Return where calibrations lie: $TACIT_CACHE_DIR, else $XDG_CACHE_HOME/tacit or ~/.cache/tacit."""
    try:
        return user_folder("TACIT_CACHE_DIR", "XDG_CACHE_HOME", ".cache")
    except RuntimeError:
        raise PrivacyError("This user has no home folder for calibrations: set TACIT_CACHE_DIR.") from None


def _bound_at(plan: PrivacyPlan, noise_multiplier: float, against: str) -> float:
    unamplified = unamplified_epsilon(plan, noise_multiplier)
    return unamplified if against == SERVER else min(unamplified, amplified_bound(plan, noise_multiplier))


def _place(key: dict[str, Any]) -> Path:
    return cache_folder() / f"noise-{_digest(key)[:32]}.json"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _cached(key: dict[str, Any]) -> float | None:
    """The noise multiplier that is kept for ``key``, or none, with a warning if there is a file that is not whole."""
    place = _place(key)
    try:
        held = json.loads(place.read_text(encoding="utf-8"))
        found = held["noise_multiplier"]
        if held["digest"] != _digest([key, found]) or not (isinstance(found, float) and 0 < found < float("inf")):
            raise ValueError("it was changed or cut off")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        told = error.strerror if isinstance(error, OSError) else "it was changed or cut off"
        _log.warning("The calibration %s cannot be used (%s): it is computed again.", place, told)
        return None
    return float(found)


def _keep(key: dict[str, Any], found: float) -> None:
    """Put the result into the cache, whole or not at all, whoever else does the same."""
    place = _place(key)
    content = json.dumps({**key, "noise_multiplier": found, "digest": _digest([key, found])}, indent=1)
    try:
        make_folder(place.parent)
        with new_file(place, content.encode()) as new:
            new.replace(place)
    except OSError as error:
        _log.warning(
            "The calibration cannot be kept in %s (%s), so each process computes it anew: set TACIT_CACHE_DIR to a "
            "folder that can be written.",
            place.parent,
            error.strerror,
        )
