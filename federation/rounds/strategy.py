"""Flower's strategies by name, made repeatable, resumable and strict.

Each is a subclass of Flower's own class: sampling is drawn from the run's seed and the round, rounds can start at any
number with the state of an earlier run, replies that are malformed or longer than the clip are dropped before
aggregation, a round with too few valid ones raises `RoundError`, and one whose model the gate refuses is undone. The
aggregation itself is Flower's; the server alone adds the pull of a ridge to the mean, towards half of the model that
the run began with, since a few rows a label do not say more. Sources: McMahan et al. 2017 (fedavg); Li et al. 2020
(fedprox); Reddi et al. 2021 (fedadam, fedyogi); Yin et al. 2018 (fedmedian, fedtrimmedavg); Blanchard et al. 2017
(krum); Hoerl and Kennard 1970 (ridge).
"""

# isort: off
import federation.rounds.flower_env  # noqa: F401 - before Flower
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, FedProx, FedTrimmedAvg, FedYogi, Krum

# isort: on
import logging
import random
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.model.anchor import ANCHOR, anchor_of
from engine.model.checkpoint import Checkpoint
from federation.agent.names import ARRAY
from federation.errors import CheckpointError, RoundError, UpdateError
from federation.privacy.update import Floats, l2_norm
from federation.rounds.config import RunSettings
from federation.rounds.gate import CANARIES, Gate, refused_note
from federation.rounds.records import ARRAYS, CONFIG, METRICS, WEIGHT, as_arrays, reply_array

_MOMENTS = ("m_t", "v_t")
_HALF_ULP = 2.0**-24  # Of a float32, as a share of it.
_log = logging.getLogger("tacit.federation")


class _Ridge(FedAvg):
    """FedAvg whose mean is pulled towards an anchor; the classes that build on FedAvg see the pulled mean."""

    settings: RunSettings
    anchor: Floats | None = None  # (d,); NaN where nothing is pulled
    _current: Floats | None = None  # (d,), the model of the round

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the mean of the replies, less the ridge's share of the way from the anchor to the present model."""
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is None or self.anchor is None or self._current is None:
            return arrays, metrics
        plan = self.settings.plan()
        share = min(1.0, self.settings.ridge * plan.learning_rate * plan.steps / plan.reference_rows)
        away = np.nan_to_num(self._current - self.anchor, nan=0.0)
        return as_arrays(np.asarray(arrays[ARRAY].numpy(), dtype=np.float32) - np.float32(share) * away), metrics


class StrictRounds:
    """Mixed in before a Flower strategy, and `_Ridge` after it; see the module."""

    settings: RunSettings
    anchor: Floats | None
    _current: Floats | None
    first_round: int
    begun: int = 0
    gate: Gate | None = None
    refused: Mapping[int, str] = {}
    _length: int = 0
    _asked: int = 0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Invite this round's cohort to train."""
        current = server_round + self.first_round - 1
        self._length = int(arrays[ARRAY].shape[0])
        self._current = np.asarray(arrays[ARRAY].numpy(), dtype=np.float32)
        config["hold-back"] = self.settings.hold_back(current - self.begun)
        return self.invite(current, arrays, config, grid)

    def invite(
        self, current: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid, *, function: str | None = None
    ) -> list[Message]:
        """Return the messages to the cohort of a round, which is drawn from the seed and the round alone.

        They go to the app's ``train``, or to another ``function`` of it.
        """
        # Flower draws from the process's random state: lend it one that depends on this round only.
        before = random.getstate()
        random.seed(f"{self.settings.seed}:{current}")
        try:
            messages = list(super().configure_train(current, arrays, config, grid))  # type: ignore[misc]
        finally:
            random.setstate(before)
        self._asked = len(messages)
        return messages if function is None else [_addressed(message, function) for message in messages]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate the valid replies; raise `RoundError` if they are too few."""
        current = server_round + self.first_round - 1
        before, moments = self._current, self.moments()
        valid = self._valid(
            current, replies, length=self._length, most_norm=float(self.settings.clip_norm), around=before
        )
        result: tuple[ArrayRecord | None, MetricRecord | None] = super().aggregate_train(current, valid)  # type: ignore[misc]
        arrays, metrics = result
        if arrays is not None and before is not None:
            # Flower averages in float64 where moments are involved; a model is float32 everywhere.
            after = np.asarray(arrays[ARRAY].numpy(), dtype=np.float32)
            arrays = as_arrays(self.accepted(current, before, after, moments=moments))
        return arrays, metrics

    def accepted(
        self,
        current: int,
        before: Floats,
        after: Floats,
        *,
        moments: Mapping[str, npt.NDArray[Any] | None],
        noise_std: float = 0.0,
    ) -> Floats:
        """Return the model that round ``current`` leaves: ``after`` (d,), or ``before`` (d,) where the gate refuses it.

        Then the strategy is as before the round, with the ``moments`` of then. ``noise_std`` is that of the noise on
        the step's numbers.
        """
        gate = self.gate
        why = None if gate is None else gate.refusal(before, after, server_round=current, noise_std=noise_std)
        return after if why is None else self.undone(current, before, why, moments=moments)

    def undone(
        self, current: int, before: Floats, why: str, *, moments: Mapping[str, npt.NDArray[Any] | None]
    ) -> Floats:
        """Note that round ``current`` is undone and why; return the model ``before``, with its ``moments``."""
        _log.warning("Round %d is undone, and the model of the round before stays: %s.", current, why)
        self.refused = {**self.refused, current: why}
        for name, moment in moments.items():
            # Where there was none yet, zeros are what the strategy begins with.
            setattr(self, name, {ARRAY: np.zeros_like(before) if moment is None else moment})
        return before

    def moments(self) -> dict[str, npt.NDArray[Any] | None]:
        """Return the strategy's moments (d,), ``None`` before its first round; empty where it keeps none."""
        return {name: _copied(getattr(self, name)) for name in _MOMENTS if hasattr(self, name)}

    def notes(self) -> dict[str, str]:
        """Return what a checkpoint says of the gate: on which texts it tries models, and the rounds it undid."""
        return ({} if self.gate is None else {CANARIES: self.gate.fingerprint}) | refused_note(self.refused)

    def valid_arrays(self, current: int, replies: Iterable[Message], *, length: int, most_norm: float) -> list[Floats]:
        """Return the arrays (length,) of the valid replies; raise `RoundError` if they are too few.

        One whose L2 norm is above ``most_norm`` was not clipped as asked, and is none.
        """
        valid = self._valid(current, replies, length=length, most_norm=most_norm)
        return [reply_array(reply.content, length=length) for reply in valid]

    def _valid(
        self,
        current: int,
        replies: Iterable[Message],
        *,
        length: int,
        most_norm: float,
        around: Floats | None = None,
    ) -> list[Message]:
        answers = [reply for reply in replies if not reply.has_error()]
        valid = [reply for reply in answers if _is_valid(reply, length, most_norm, around)]
        if len(valid) < len(answers):
            _log.warning(
                "Round %d: %d of %d replies are malformed or longer than the clip, and left out.",
                current,
                len(answers) - len(valid),
                len(answers),
            )
        if len(valid) < self.settings.needed:
            raise RoundError(
                f"Round {current} failed: {len(valid)} valid replies of {self._asked}, at least "
                f"{self.settings.needed} needed before the deadline of {self.settings.deadline_s:g} s. The model of "
                "the round before is kept; continue with --resume."
            )
        # In an order of their own, so that the sum does not depend on who answered first.
        return sorted(valid, key=lambda reply: reply.metadata.src_node_id)

    def apply(self, current: int, flat: Floats, mean: Floats) -> Floats:
        """Return the model (d,) after ``flat`` (d,) and the mean update ``mean`` (d,) of round ``current``.

        It is the strategy's own step, on one update that nobody sent alone.
        """
        arrays = as_arrays(flat)
        self._current = flat
        if hasattr(self, "current_arrays"):  # Of those that step by moments.
            vars(self)["current_arrays"] = {ARRAY: arrays[ARRAY].numpy()}
        one = Message(RecordDict({ARRAYS: as_arrays(flat + mean), METRICS: MetricRecord({WEIGHT: 1.0})}), 1, "train")
        result: tuple[ArrayRecord | None, MetricRecord | None] = super().aggregate_train(current, [one])  # type: ignore[misc]
        after, _ = result
        if after is None:
            raise RoundError(f"Round {current} failed: the strategy made no model of the sum.")
        return np.asarray(after[ARRAY].numpy(), dtype=np.float32)

    def hold_to(self, start: Checkpoint) -> None:
        """Pull the rounds' model towards half of ``start``, its biases excepted, as far as the settings' ridge says."""
        if self.settings.ridge:
            self.anchor = anchor_of(start.flat.reshape(len(start.catalogue), start.dimension + 1)).reshape(-1)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return what a later run needs to continue to the same bits: anchor and moments, if there are any."""
        found = {} if self.anchor is None else {ANCHOR: np.asarray(self.anchor)}
        for name in _MOMENTS:
            moment = getattr(self, name, None)
            if moment:
                found[name] = np.asarray(moment[ARRAY])
        return found

    def restore(self, state: Mapping[str, npt.NDArray[Any]], *, next_round: int, begun: int = 0) -> None:
        """Continue from ``state`` at ``next_round``; raise `CheckpointError` if it is of another strategy.

        The run's own first two thirds count from the round after ``begun``.
        """
        moments = {name: moment for name, moment in state.items() if name != ANCHOR}
        if set(moments) != (set(_MOMENTS) if hasattr(self, "m_t") and next_round > 1 else set()):
            raise CheckpointError(f"The checkpoint's state does not fit strategy {self.settings.strategy!r}.")
        for name, moment in moments.items():
            setattr(self, name, {ARRAY: np.array(moment)})
        self.anchor = np.array(state[ANCHOR], dtype=np.float32) if ANCHOR in state else None
        self.first_round, self.begun = next_round, begun


def _addressed(message: Message, function: str) -> Message:
    """The same invitation, to another function of the app."""
    to, group = message.metadata.dst_node_id, message.metadata.group_id
    return Message(message.content, to, function, group_id=group)


def _is_valid(reply: Message, length: int, most_norm: float, around: Floats | None) -> bool:
    """Whether a reply holds one array within ``most_norm`` of ``around`` (d,), or of zero."""
    try:
        values = reply_array(reply.content, length=length)
    except UpdateError:
        return False
    if around is None:
        return l2_norm(values) <= most_norm
    # A device clips its change and adds the model, which rounds each number once more.
    away = values.astype(np.float64) - around
    return float(np.sqrt(np.square(away).sum())) <= most_norm + _HALF_ULP * l2_norm(values)


def _copied(moment: Mapping[str, npt.NDArray[Any]] | None) -> npt.NDArray[Any] | None:
    return np.array(moment[ARRAY]) if moment else None


class TacitFedAvg(StrictRounds, _Ridge):
    """Flower's FedAvg with strict rounds."""


class TacitFedProx(StrictRounds, FedProx, _Ridge):
    """Flower's FedProx with strict rounds."""


class TacitFedAdam(StrictRounds, FedAdam, _Ridge):
    """Flower's FedAdam with strict rounds."""


class TacitFedYogi(StrictRounds, FedYogi, _Ridge):
    """Flower's FedYogi with strict rounds."""


class TacitFedMedian(StrictRounds, _Ridge, FedMedian):
    """Flower's median of each number, pulled by the ridge, with strict rounds."""


class TacitFedTrimmedAvg(StrictRounds, _Ridge, FedTrimmedAvg):
    """Flower's mean without the outermost of each number, pulled by the ridge, with strict rounds."""


class TacitKrum(StrictRounds, _Ridge, Krum):
    """Flower's choice of the update that is nearest to others, pulled by the ridge, with strict rounds."""


TacitStrategy = (
    TacitFedAvg | TacitFedProx | TacitFedAdam | TacitFedYogi | TacitFedMedian | TacitFedTrimmedAvg | TacitKrum
)


def make_strategy(settings: RunSettings) -> TacitStrategy:
    """Return the strategy that ``settings`` name: the whole cohort is trained, nobody is asked for metrics."""
    common: dict[str, Any] = {
        # Of the devices that are there, exactly the cohort: the fraction only rounds down, the minimum decides.
        "fraction_train": 1e-9,
        "min_train_nodes": settings.cohort,
        "min_available_nodes": settings.cohort,
        "fraction_evaluate": 0.0,
        "weighted_by_key": WEIGHT,
        "arrayrecord_key": ARRAYS,
        "configrecord_key": CONFIG,
    }
    strategy: TacitStrategy
    if settings.strategy == "fedavg":
        strategy = TacitFedAvg(**common)
    elif settings.strategy == "fedprox":
        strategy = TacitFedProx(**common, proximal_mu=settings.proximal_mu)
    elif settings.strategy == "fedadam":
        strategy = TacitFedAdam(**common, eta=settings.server_learning_rate)
    elif settings.strategy == "fedyogi":
        strategy = TacitFedYogi(**common, eta=settings.server_learning_rate)
    elif settings.strategy == "fedmedian":
        strategy = TacitFedMedian(**common)
    elif settings.strategy == "fedtrimmedavg":
        strategy = TacitFedTrimmedAvg(**common, beta=settings.byzantine)
    else:
        strategy = TacitKrum(**common, num_malicious_nodes=int(settings.byzantine * settings.cohort))
    strategy.settings, strategy.first_round = settings, 1
    return strategy
