"""What a run of rounds is set to: one flat table of scalars, the same in a simulation and in deployment.

>>> settings = RunSettings.from_config({"rounds": 3, "strategy": "fedavg", "local-steps": 2})
>>> settings.rounds, settings.local_steps, settings.hold_back(2), settings.hold_back(3)
(3, 2, True, False)
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from engine.owner.modes import CENTRAL, MODES, OPEN, PRIVATE
from federation.agent.limits import MOST_LOCAL_STEPS
from federation.errors import ConfigError

if TYPE_CHECKING:
    from engine.model.training import TrainingPlan

CATALOGUE_CANARIES, NO_CANARIES = "catalogue", "none"
OPEN_STRATEGIES = ("fedmedian", "fedtrimmedavg", "krum")  # They need single updates.
SUMMARY = "summary"  # One release of what devices remember, in place of rounds of training.
STRATEGIES = ("fedavg", "fedprox", "fedadam", "fedyogi", *OPEN_STRATEGIES, SUMMARY)

MOST_RESCORER_STEPS = 3  # Newton's steps converge in two or three, and each is a contribution of every device.
# Where a run lies and how long it may wait do not change a bit of its result.
_FREE = ("resume", "out", "deadline-s", "model", "choice", "roster", "public")
MODE_NOTICES = {
    OPEN: "open: updates visible to the server",
    CENTRAL: "central: updates visible to a trusted server, which adds noise",
    PRIVATE: "private: the server sees sums, with noise from the devices",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """The settings of a run; in a configuration file the names carry hyphens.

    ``cohort`` devices are invited a round, and at least ``min_replies`` valid answers are needed (0 means half of the
    cohort, rounded up). Each device takes ``local_steps`` steps of ``learning_rate`` and clips its update to an L2
    norm of ``clip_norm``. ``server_learning_rate`` is that of fedadam and fedyogi, ``proximal_mu`` that of fedprox,
    ``byzantine`` the share of a cohort that fedtrimmedavg leaves out on either side and that krum takes for lying.
    The server adds to each mean update what ``ridge``/2·‖W − W₀‖² in every device's loss would, W₀ being half of the
    start model without its biases.
    After these ``rounds`` come ``rescorer_steps`` Newton steps, at most 3, of the re-scorer's population weights, for
    which each device's statistics are clipped to ``rescorer_clip``. ``deadline_s`` bounds a round in seconds.
    Where ``choice`` names a model of choices to start from, the run is about choices instead: ``rounds`` steps for the
    basis of its factors and four for the rest, each device's sums clipped to ``choice_clip``.
    In ``mode`` "private" or "central" each of the devices on the signed ``roster`` (a file) draws itself at a rate by
    which they are ``cohort`` on average, and the noise, of the kind ``noise``, keeps the run within ``epsilon`` at
    ``delta``: against the server in private mode, of the released model in central mode. A device takes part at most
    ``participations`` times (0: what one in a hundred would exceed). ``public`` is a file of inputs of public texts for
    the strategy "summary"; without it built-in texts are encoded.
    After each round of the model the server tries it on public texts, ``canary``: "catalogue" (pieces of its names and
    descriptions), a file of public rows beside these, or "none". A round that makes it worse there by more than the
    share ``gate_margin`` (of the catalogue's pieces, in a run of few rounds, half over their number) is undone
    (`federation/rounds/gate.py`).
    ``model`` is the checkpoint to start from and ``out`` the folder for the checkpoint after each round; with
    ``resume`` the run continues from the latter.
    """

    rounds: int = 90
    strategy: str = "fedadam"
    cohort: int = 2
    min_replies: int = 0
    local_steps: int = 5
    learning_rate: float = 0.3
    server_learning_rate: float = 0.05
    proximal_mu: float = 0.1
    ridge: float = 0.16
    byzantine: float = 0.2
    clip_norm: float = 1.0
    rescorer_steps: int = 3
    rescorer_clip: float = 1000.0
    canary: str = CATALOGUE_CANARIES
    gate_margin: float = 0.1
    seed: int = 0
    deadline_s: float = 3600.0
    mode: str = OPEN
    epsilon: float = 4.0
    delta: float = 1e-5
    noise: str = "discrete Gaussian"
    participations: int = 0
    roster: str = ""
    public: str = ""
    model: str = ""
    choice: str = ""
    choice_clip: float = 100.0
    out: str = ""
    resume: bool = False

    def __post_init__(self) -> None:
        self._check_counts()
        self._check_amounts()
        if not isinstance(self.canary, str) or not self.canary:
            raise ConfigError(
                f"Expected canary={self.canary!r} to be {CATALOGUE_CANARIES!r}, {NO_CANARIES!r} or a file of rows."
            )
        if self.strategy not in STRATEGIES:
            raise ConfigError(f"Expected strategy={self.strategy!r} to be one of {', '.join(STRATEGIES)}.")
        self._check_mode()
        if self.min_replies > self.cohort:
            raise ConfigError(f"Expected min-replies={self.min_replies} to be at most cohort={self.cohort}.")

    def _check_counts(self) -> None:
        for name, least in (
            ("rounds", 1),
            ("cohort", 1),
            ("min_replies", 0),
            ("local_steps", 1),
            ("rescorer_steps", 0),
            ("seed", 0),
            ("participations", 0),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"Expected {_hyphens(name)}={value!r} to be a whole number of at least {least}.")
        if self.local_steps > MOST_LOCAL_STEPS:
            raise ConfigError(f"Expected local-steps={self.local_steps} to be at most {MOST_LOCAL_STEPS}.")
        if self.rescorer_steps > MOST_RESCORER_STEPS:
            raise ConfigError(f"Expected rescorer-steps={self.rescorer_steps} to be at most {MOST_RESCORER_STEPS}.")

    def _check_amounts(self) -> None:
        for name in (
            "learning_rate",
            "server_learning_rate",
            "clip_norm",
            "rescorer_clip",
            "choice_clip",
            "deadline_s",
            "epsilon",
        ):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ConfigError(f"Expected {_hyphens(name)}={value!r} to be positive and finite.")
        if not isinstance(self.byzantine, int | float) or not 0 <= self.byzantine < 0.5:
            raise ConfigError(f"Expected byzantine={self.byzantine!r} in [0, 0.5).")
        if not isinstance(self.gate_margin, int | float) or not 0 < self.gate_margin < 1:
            raise ConfigError(f"Expected gate-margin={self.gate_margin!r} in (0, 1).")
        for name in ("proximal_mu", "ridge"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise ConfigError(f"Expected {_hyphens(name)}={value!r} to be at least 0 and finite.")

    def _check_mode(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"Expected mode={self.mode!r} to be one of {', '.join(MODES)}.")
        if not isinstance(self.delta, int | float) or not 0 < self.delta < 1:
            raise ConfigError(f"Expected delta={self.delta!r} in (0, 1).")
        if self.strategy == SUMMARY and (self.mode == OPEN or self.rounds != 1):
            raise ConfigError(f"Expected strategy={SUMMARY!r} with rounds=1, and in another mode than {OPEN!r}.")
        if self.mode == OPEN:
            return
        if self.strategy in OPEN_STRATEGIES:
            raise ConfigError(
                f"Expected mode={self.mode!r} with another strategy: {self.strategy} needs to see single updates."
            )
        if self.rescorer_steps or self.choice:
            raise ConfigError(
                f"Expected rescorer-steps=0 and no choice in mode={self.mode!r}: its rounds learn the model alone."
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "RunSettings":
        """Read a flat configuration with hyphened names; an unknown name raises `ConfigError`."""
        known = {_hyphens(field.name): field.name for field in fields(cls)}
        unknown = sorted(set(config) - set(known))
        if unknown:
            raise ConfigError(f"Unknown setting {unknown[0]!r}. Known: {', '.join(known)}.")
        return cls(**{known[name]: value for name, value in config.items()})

    def to_config(self) -> dict[str, bool | int | float | str]:
        """Return the flat configuration that `from_config` reads."""
        return {_hyphens(field.name): getattr(self, field.name) for field in fields(self)}

    def identity(self) -> dict[str, bool | int | float | str]:
        """Return the part of `to_config` that decides the result: what a resumed run may not change."""
        return {name: value for name, value in self.to_config().items() if name not in _FREE}

    def plan(self) -> "TrainingPlan":
        """How each device trains in a round."""
        from engine.model.training import TrainingPlan  # Not at the top: `tacit --help` needs no arrays.

        return TrainingPlan(steps=self.local_steps, learning_rate=self.learning_rate)

    @property
    def all_rounds(self) -> int:
        """The rounds of the model and the Newton steps after them."""
        return self.rounds + self.rescorer_steps

    @property
    def needed(self) -> int:
        """How many valid replies a round needs."""
        return self.min_replies or -(-self.cohort // 2)

    def hold_back(self, server_round: int) -> bool:
        """Whether devices hold every other memory back in this round (from 1): in the first two thirds.

        What is held back gives devices evidence for their personalization, scored by a model that is nearly
        done and has not trained on it.
        """
        return server_round <= self.rounds * 2 // 3


def _hyphens(name: str) -> str:
    return name.replace("_", "-")


DEFAULTS = {field.name: field.default for field in fields(RunSettings)}
# Every round with noise costs ε, so there are few, and they learn the model alone.
NOISY_DEFAULTS = {"rounds": 1, "strategy": SUMMARY, "rescorer_steps": 0}


def default(name: str, mode: str) -> Any:
    """The default of a setting for a command that runs in ``mode``."""
    return DEFAULTS[name] if mode == OPEN else NOISY_DEFAULTS.get(name, DEFAULTS[name])
