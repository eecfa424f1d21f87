"""What a run of rounds costs in (ε, δ), always as two figures: against the server, and of the released model.

The server sees who takes part, so only the number of a device's participations counts against it, and sampling hides
nothing. Whoever sees the models alone does not know when a device took part: Poisson sampling makes their ε smaller.
That figure assumes a server that keeps cohorts to itself and evens out their noise (`mechanism.top_up`); the first
assumes nothing of it. In central mode the server is trusted and sees every update: there the first is infinite.

Neighbours are two fleets of which one device's update is replaced by zeros. Gaussian noise is accounted by its privacy
loss distribution (`dp_accounting`, PLD, whose discretisation errs upwards), less the variance that makes this hold for
the discrete one (`noise`). Skellam noise is accounted by its own Rényi bound (`rdp`).

>>> plan = PrivacyPlan(devices=1000, cohort=100, rounds=10, participations=4, delta=1e-5, dimension=10_000)
>>> print(guarantee(plan, 2.2).text)
ε = 3.93 against the server (4 participations), ε = 0.69 of the released model (10 rounds, q = 0.1), δ = 1e-05, \
discrete Gaussian noise z = 2.2 by PLD
"""

import math
from dataclasses import dataclass
from typing import Any

from engine.owner.modes import CENTRAL, PRIVATE
from federation.errors import PrivacyError
from federation.privacy.noise import DISCRETE_GAUSSIAN, NOISES, SKELLAM, SMOOTHING_VARIANCE
from federation.privacy.quantise import scale_for, squared_norm_bound
from federation.privacy.rdp import (
    SAMPLED_ORDERS,
    epsilon_of,
    gaussian_rdp,
    gaussian_rho,
    sampled_rdp,
    skellam_rdp,
    skellam_rho,
)
from federation.privacy.sampling import sampling_rate

PROVED_MODES = (PRIVATE, CENTRAL)
_PLD_STEP = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyPlan:
    """What is known of a run before its noise.

    ``rounds`` rounds draw ``cohort`` of ``devices`` devices each, on average; a device takes part at most
    ``participations`` times. All that a device sends in a round counts as one update of ``dimension`` numbers. Raises
    `PrivacyError` for values out of range.
    """

    devices: int
    cohort: int
    rounds: int
    participations: int
    delta: float
    dimension: int
    noise: str = DISCRETE_GAUSSIAN
    mode: str = PRIVATE

    def __post_init__(self) -> None:
        for name in ("devices", "cohort", "rounds", "participations", "dimension"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise PrivacyError(f"Expected {name}={value!r} to be a whole number of at least 1.")
        sampling_rate(self.devices, self.cohort)
        if self.participations > self.rounds:
            raise PrivacyError(f"Expected participations={self.participations} to be at most rounds={self.rounds}.")
        if not 0 < self.delta < 1:
            raise PrivacyError(f"Expected delta={self.delta} in (0, 1).")
        if self.noise not in NOISES or self.mode not in PROVED_MODES:
            raise PrivacyError(f"Expected noise={self.noise!r} in {NOISES} and mode={self.mode!r} in {PROVED_MODES}.")
        scale_for(self.dimension)

    @property
    def q(self) -> float:
        """The probability with which a device draws itself into a round."""
        return self.cohort / self.devices


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyGuarantee:
    """What holds for each device: (``eps_server``, ``delta``) and (``eps_released``, ``delta``), user-level.

    ``rho`` is what one participation takes from a device's lifetime budget (zCDP). ``method`` names the accounting.
    """

    eps_server: float
    eps_released: float
    delta: float
    mechanism: str
    method: str
    participations: int
    q: float
    rounds: int
    z: float
    rho: float

    @property
    def text(self) -> str:
        """The guarantee in one line."""
        if math.isinf(self.eps_server):
            server = "nothing against the server, which is trusted with each update"
        else:
            count = _counted(self.participations, "participation")
            server = f"ε = {in_words(self.eps_server)} against the server ({count})"
        return (
            f"{server}, ε = {in_words(self.eps_released)} of the released model ({_counted(self.rounds, 'round')}, "
            f"q = {self.q:g}), δ = {self.delta:g}, {self.mechanism} noise z = {self.z:g} by {self.method}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values; an infinite ε is ``null``."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {**values, "eps_server": None if math.isinf(self.eps_server) else self.eps_server}


def guarantee(plan: PrivacyPlan, noise_multiplier: float) -> PrivacyGuarantee:
    """Return both figures of ``plan`` with noise of ``noise_multiplier`` (z). Takes seconds where it needs PLD."""
    unamplified = unamplified_epsilon(plan, noise_multiplier)
    return PrivacyGuarantee(
        eps_server=math.inf if plan.mode == CENTRAL else unamplified,
        # The released model follows from what the server sees, so both bound it.
        eps_released=min(unamplified, amplified_epsilon(plan, noise_multiplier)),
        delta=plan.delta,
        mechanism=plan.noise,
        method="RDP" if plan.noise == SKELLAM else "PLD",
        participations=plan.participations,
        q=plan.q,
        rounds=plan.rounds,
        z=noise_multiplier,
        rho=participation_rho(plan, noise_multiplier),
    )


def unamplified_epsilon(plan: PrivacyPlan, noise_multiplier: float) -> float:
    """Return ε at the plan's δ of a device's participations, to one who knows which rounds they were."""
    if plan.noise == SKELLAM:
        return epsilon_of(plan.participations * skellam_rdp(*_skellam(plan, noise_multiplier)), plan.delta)
    return _gaussian_epsilon(plan, noise_multiplier, count=plan.participations)


def amplified_epsilon(plan: PrivacyPlan, noise_multiplier: float) -> float:
    """Return ε at the plan's δ of all rounds, to one who does not know which of them a device took part in."""
    if plan.noise == SKELLAM:
        curve = skellam_rdp(*_skellam(plan, noise_multiplier), SAMPLED_ORDERS)
        return epsilon_of(plan.rounds * sampled_rdp(curve, plan.q), plan.delta, SAMPLED_ORDERS)
    if plan.q == 1:
        return _gaussian_epsilon(plan, noise_multiplier, count=plan.rounds)
    return _sampled_gaussian_epsilon(plan, noise_multiplier)


def amplified_bound(plan: PrivacyPlan, noise_multiplier: float) -> float:
    """Return a looser `amplified_epsilon`, by Rényi divergences: in milliseconds, where to begin a search."""
    if plan.noise == SKELLAM:
        return amplified_epsilon(plan, noise_multiplier)
    curve = gaussian_rdp(_continuous(plan, noise_multiplier), SAMPLED_ORDERS)
    return epsilon_of(plan.rounds * sampled_rdp(curve, plan.q), plan.delta, SAMPLED_ORDERS)


def participation_rho(plan: PrivacyPlan, noise_multiplier: float) -> float:
    """Return ρ of one participation: what a device's lifetime budget is charged, whatever it is drawn with."""
    if plan.noise == SKELLAM:
        return skellam_rho(*_skellam(plan, noise_multiplier))
    return gaussian_rho(_continuous(plan, noise_multiplier))


def _skellam(plan: PrivacyPlan, noise_multiplier: float) -> tuple[float, float, float]:
    """The squared L2 sensitivity, the L1 sensitivity and the variance, of integers."""
    _refuse_unusable(noise_multiplier)
    squared = squared_norm_bound(scale_for(plan.dimension), plan.dimension)
    # Of integers, |x| ≤ x², so that the squared L2 norm bounds the L1 norm too.
    return squared, min(math.sqrt(plan.dimension * squared), squared), noise_multiplier**2 * squared


def _continuous(plan: PrivacyPlan, noise_multiplier: float) -> float:
    """The noise multiplier of the continuous Gaussian that the discrete one is at least as private as."""
    _refuse_unusable(noise_multiplier)
    squared = squared_norm_bound(scale_for(plan.dimension), plan.dimension)
    left = noise_multiplier**2 - SMOOTHING_VARIANCE / squared
    if left <= 0:
        raise PrivacyError(f"Expected noise_multiplier={noise_multiplier} to be larger: it hides nothing.")
    return math.sqrt(left)


def _gaussian_epsilon(plan: PrivacyPlan, noise_multiplier: float, *, count: int) -> float:
    """Of ``count`` Gaussians, which are one of z/√count: in closed form (Balle and Wang 2018, Theorem 8)."""
    from dp_accounting import get_epsilon_gaussian

    return float(get_epsilon_gaussian(_continuous(plan, noise_multiplier) / math.sqrt(count), plan.delta))


def _sampled_gaussian_epsilon(plan: PrivacyPlan, noise_multiplier: float) -> float:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
    from dp_accounting.pld import PLDAccountant

    at_most = amplified_bound(plan, noise_multiplier)
    # A fixed step would need gigabytes where ε is in the hundreds. A wider one only errs further upwards.
    accountant = PLDAccountant(value_discretization_interval=_PLD_STEP * max(1.0, at_most / 10))
    event = PoissonSampledDpEvent(plan.q, GaussianDpEvent(_continuous(plan, noise_multiplier)))
    accountant.compose(SelfComposedDpEvent(event, plan.rounds))
    return min(at_most, float(accountant.get_epsilon(plan.delta)))


def _refuse_unusable(noise_multiplier: float) -> None:
    if not 0 < noise_multiplier < float("inf"):
        raise PrivacyError(f"Expected noise_multiplier={noise_multiplier} to be positive and finite.")


def in_words(epsilon: float) -> str:
    """Return ``epsilon`` to two places, rounded up: what is printed holds too."""
    return f"{math.ceil(epsilon * 100) / 100:.2f}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
