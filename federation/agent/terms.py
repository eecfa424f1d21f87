"""What a round with noise asks of every device: one line of public terms, the same bytes for all of them.

Masks are bound to these bytes and to the model, so a server that shows two devices different terms gets noise. What
follows from them each side derives for itself: the rate q = K/N, what a participation costs, a cohort's noise.

>>> terms = NoisyTerms(run="ab", mode="private", server_round=1, rounds=4, participations=4, devices=100, cohort=100,
...                    dimension=10, catalogue="cd", task="train", directions=0, scatter=0,
...                    hold_back=True, local_steps=5, learning_rate=0.3,
...                    proximal_mu=0.0, seed=0, clip_norm=1.0, noise="discrete Gaussian", noise_multiplier=4.0,
...                    honest_share=0.4, delta=1e-5)
>>> NoisyTerms.from_bytes(terms.to_bytes()) == terms, terms.q, round(terms.rho, 4)
(True, 1.0, 0.0313)
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields

from engine.model.training import TrainingPlan
from engine.owner.consent import PERSONALIZATION
from engine.owner.modes import CENTRAL, PRIVATE
from federation.agent.entry import WIRE
from federation.agent.limits import MOST_LOCAL_STEPS
from federation.errors import PrivacyError, UpdateError
from federation.privacy.accounting import PrivacyPlan, participation_rho
from federation.privacy.parameters import NoiseParameters
from federation.privacy.update import Floats

TRAIN, SUMMARY = TASKS = ("train", "summary")
_ASKED = b"tacit/rounds/1/asked\0"
_MOST_BYTES = 4096
_MOST = 2**40  # Of any number in the terms.


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisyTerms:
    """The terms of one round in private or central mode.

    ``run`` names the run; it has ``rounds`` rounds, of which a device takes part in at most ``participations``. Of
    N = ``devices`` on the roster each draws itself with q = ``cohort``/N. What it gives by ``task`` (`TASKS`) has
    ``dimension`` numbers, clipped to ``clip_norm``; ``directions`` and ``scatter`` are those of a
    summary's plan. z = ``noise_multiplier`` is reached by ``honest_share`` of a cohort (`NoiseParameters`). ``delta``
    is what ε is told for. Raises `UpdateError` for terms that no round may have.
    """

    run: str
    mode: str
    server_round: int
    rounds: int
    participations: int
    devices: int
    cohort: int
    dimension: int
    catalogue: str
    task: str
    directions: int
    scatter: int
    hold_back: bool
    local_steps: int
    learning_rate: float
    proximal_mu: float
    seed: int
    clip_norm: float
    noise: str
    noise_multiplier: float
    honest_share: float
    delta: float

    purpose = PERSONALIZATION

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not field.type and not (field.type is float and type(value) is int):
                raise UpdateError(f"Expected {field.name} of the terms to be {field.type}, got {value!r}.")
            if isinstance(value, int | float) and not abs(value) < _MOST:
                raise UpdateError(f"Expected {field.name} of the terms to be below {_MOST:g}.")
        if not re.fullmatch("[0-9a-zA-Z]{1,64}", self.run):  # It is what the owner's ledger names.
            raise UpdateError("Expected the run of the terms to be 1 to 64 letters and digits.")
        if self.mode not in (PRIVATE, CENTRAL) or not 1 <= self.server_round <= self.rounds or self.seed < 0:
            raise UpdateError("The terms name a mode, a round or a seed that there is none of.")
        if self.task not in TASKS or min(self.directions, self.scatter) < 0:
            raise UpdateError(f"Expected the task of the terms to be one of {', '.join(TASKS)}.")
        if not 1 <= self.local_steps <= MOST_LOCAL_STEPS or not self.learning_rate > 0 or self.proximal_mu < 0:
            raise UpdateError(f"Expected local_steps={self.local_steps} in 1 to {MOST_LOCAL_STEPS} at a positive rate.")
        try:
            self.plan  # noqa: B018 - it checks what it is made of
            self.noise_of(self.cohort)
        except (PrivacyError, OverflowError) as error:
            raise UpdateError(f"The terms do not make a private round: {error}") from None

    @property
    def q(self) -> float:
        """The probability with which a device draws itself."""
        return self.cohort / self.devices

    @property
    def plan(self) -> PrivacyPlan:
        """The run as accounting knows it."""
        return PrivacyPlan(
            devices=self.devices,
            cohort=self.cohort,
            rounds=self.rounds,
            participations=self.participations,
            delta=self.delta,
            dimension=self.dimension,
            noise=self.noise,
            mode=self.mode,
        )

    @property
    def rho(self) -> float:
        """What one participation costs (zCDP)."""
        return participation_rho(self.plan, self.noise_multiplier)

    @property
    def training(self) -> TrainingPlan:
        """How a device trains."""
        return TrainingPlan(steps=self.local_steps, learning_rate=self.learning_rate, proximal_mu=self.proximal_mu)

    def noise_of(self, cohort: int) -> NoiseParameters:
        """The mechanism of a round whose cohort has ``cohort`` devices. Raises `PrivacyError`."""
        return NoiseParameters(
            dimension=self.dimension,
            clip_norm=self.clip_norm,
            noise_multiplier=self.noise_multiplier,
            cohort=cohort,
            honest_share=self.honest_share,
            noise=self.noise,
        )

    def to_bytes(self) -> bytes:
        """The terms as all devices get them."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, told: bytes) -> "NoisyTerms":
        """What :meth:`to_bytes` gave, and nothing else. Raises `UpdateError`."""
        try:
            terms = cls(**json.loads(told[:_MOST_BYTES]))
        except (ValueError, TypeError, RecursionError, OverflowError):
            raise UpdateError("The terms of a round are malformed.") from None
        if terms.to_bytes() != told:
            raise UpdateError("The terms of a round are not in their one form.")
        return terms


def asked_hash(terms: bytes, flat: Floats) -> bytes:
    """SHA-256 over ``terms`` and the model ``flat`` (d,): what a round's announcement names, and masks are bound to."""
    parts = (hashlib.sha256(terms).digest(), hashlib.sha256(flat.astype(WIRE).tobytes()).digest())
    return hashlib.sha256(_ASKED + b"".join(parts)).digest()
