"""A run of rounds whose model is differentially private: from the ε that was set to the noise, round by round.

In **private** mode devices add the noise and mask (`private_rounds`); in **central** mode they send clipped updates and
the server, which is trusted, adds it. In both each device draws itself with q = K/N, N being the roster's length, and
the mean is the sum over the fixed q·N, so the server's step is the same: the mean, shrunk towards no change as far as
the known noise explains it (James and Stein 1961, positive part), or the strategy's own step.
"""

# isort: off
import federation.rounds.flower_env  # noqa: F401 - before Flower
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

# isort: on
import dataclasses
import json
import math
import secrets
from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine.model.checkpoint import Checkpoint
from engine.model.summary import SummaryPlan
from engine.owner.modes import CENTRAL, PRIVATE
from federation.agent.cohorts import DROPOUT, honest_share, steady_share
from federation.agent.limits import LEAST_COHORT
from federation.agent.names import CENTRAL_MESSAGE, TERMS
from federation.agent.terms import SUMMARY, TRAIN, NoisyTerms
from federation.agent.update import pack_plan
from federation.errors import ConfigError, RefusedRoundError, RoundError, UpdateError
from federation.privacy.accounting import PrivacyGuarantee, PrivacyPlan, guarantee
from federation.privacy.bound import check_mean
from federation.privacy.calibration import RELEASED, SERVER, calibrate
from federation.privacy.excess import on_rung, rung_of
from federation.privacy.mechanism import central_mean
from federation.privacy.parameters import NoiseParameters
from federation.privacy.sampling import cohort_bounds, participation_limit
from federation.privacy.stream import SecureStream
from federation.privacy.update import Floats, l2_norm
from federation.rounds.config import RunSettings
from federation.rounds.nodes import connected
from federation.rounds.private_rounds import PrivateRounds, SignedRoster
from federation.rounds.public_inputs import public_inputs
from federation.rounds.records import ARRAYS, CONFIG, as_arrays, reply_array
from federation.rounds.strategy import TacitStrategy
from federation.rounds.summary_model import plan_summary, summary_model
from federation.secagg import ParameterError, RosterError, unsigned_roster

PRIVACY, RUN = "privacy", "run"  # Notes of a checkpoint: what holds for its model, and the run's name.
_Means = Callable[[NoisyTerms, Floats], tuple[Floats, NoiseParameters]]  # A round's mean update, and its noise.


def noisy_plan(settings: RunSettings, *, devices: int, dimension: int) -> PrivacyPlan:
    """What accounting needs to know of a run over ``devices`` devices of a model of ``dimension`` numbers.

    Raises `PrivacyError` and `ConfigError`.
    """
    if settings.cohort > devices:
        raise ConfigError(f"Expected cohort={settings.cohort} to be at most the {devices} devices on the roster.")
    q = settings.cohort / devices
    most = settings.participations or max(1, participation_limit(rounds=settings.rounds, q=q))
    return PrivacyPlan(
        devices=devices,
        cohort=settings.cohort,
        rounds=settings.rounds,
        participations=min(most, settings.rounds),
        delta=settings.delta,
        dimension=dimension,
        noise=settings.noise,
        mode=settings.mode,
    )


def check_enough(settings: RunSettings, *, devices: int) -> None:
    """Raise `ConfigError` where so few devices make no private round."""
    if settings.mode == PRIVATE:
        try:
            _share_counted_on(devices, settings.cohort)
        except ParameterError as error:
            raise ConfigError(
                f"{devices} devices are too few for private mode. {error} Or take another mode."
            ) from None


def first_terms(
    settings: RunSettings, model: Checkpoint, *, devices: int, run: str, asked: SummaryPlan | None = None
) -> NoisyTerms:
    """The terms of the first round, its noise calibrated to the settings' ε; ``asked`` is a summary's plan.

    Raises as `noisy_plan`.
    """
    dimension = model.flat.size if asked is None else asked.length
    plan = noisy_plan(settings, devices=devices, dimension=dimension)
    central = settings.mode == CENTRAL
    share = 1.0 if central else _share_counted_on(devices, settings.cohort)
    return NoisyTerms(
        run=run,
        mode=settings.mode,
        server_round=1,
        rounds=plan.rounds,
        participations=plan.participations,
        devices=devices,
        cohort=plan.cohort,
        dimension=plan.dimension,
        catalogue=model.catalogue.fingerprint,
        task=TRAIN if asked is None else SUMMARY,
        directions=0 if asked is None else asked.directions,
        scatter=0 if asked is None else asked.scatter,
        hold_back=settings.hold_back(1),
        local_steps=settings.local_steps,
        learning_rate=float(settings.learning_rate),
        proximal_mu=float(settings.proximal_mu) if settings.strategy == "fedprox" else 0.0,
        seed=settings.seed,
        clip_norm=float(settings.clip_norm),
        noise=plan.noise,
        noise_multiplier=calibrate(plan, settings.epsilon, against=RELEASED if central else SERVER),
        honest_share=share,
        delta=plan.delta,
    )


def whole_rho(settings: RunSettings, model: Checkpoint, *, devices: int) -> float:
    """What a run may take of a device's lifetime budget (zCDP), if it takes part as often as it may."""
    terms = first_terms(settings, model, devices=devices, run="0")
    return terms.rho * terms.participations


def learn_with_noise(
    grid: Grid,
    strategy: TacitStrategy,
    settings: RunSettings,
    model: Checkpoint,
    roster: SignedRoster,
    keep: Callable[[Checkpoint], None],
) -> Checkpoint:
    """Run the rounds that are left after ``model`` and ``keep`` a checkpoint after each; the last one.

    Raises `RoundError` where a round fails, and what `first_terms` raises.
    """
    run, devices = model.notes.get(RUN) or secrets.token_hex(16), len(roster.roster.keys)
    means, terms = _means(grid, settings, roster), first_terms(settings, model, devices=devices, run=run)
    if settings.strategy == SUMMARY:
        if model.round == model.begun:
            model = _summarised(means, strategy, model, terms)
            keep(model)
        return model
    notes = _notes(terms)
    if model.round > model.begun:
        strategy.restore(model.tensors, next_round=model.round + 1, begun=model.begun)
    else:
        strategy.hold_to(model)
    for number in range(model.round - model.begun + 1, settings.rounds + 1):
        here = dataclasses.replace(terms, server_round=number, hold_back=settings.hold_back(number))
        current, moments = model.begun + number, strategy.moments()
        try:
            mean, noise = means(here, model.flat)
            flat, std = _stepped(strategy, current, model.flat, mean, noise_std(noise, here))
            flat = strategy.accepted(current, model.flat, flat, moments=moments, noise_std=std)
        except RefusedRoundError as error:
            flat = strategy.undone(current, model.flat, str(error), moments=moments)
        told = notes | strategy.notes()
        model = dataclasses.replace(model, flat=flat, round=current, tensors=strategy.state(), notes=told)
        keep(model)
    return model


def _summarised(means: _Means, strategy: TacitStrategy, start: Checkpoint, rough: NoisyTerms) -> Checkpoint:
    """One release: what is asked follows from the noise there will be, and the model from what is released.

    A release of nothing is the start, and that is what the gate compares with; where it refuses, the start stays.
    """
    settings, current = strategy.settings, start.round + 1
    public = public_inputs(settings.public, start)
    asked = plan_summary(start, public, noise_std=noise_std(likely_noise(rough), rough))
    terms = first_terms(settings, start, devices=rough.devices, run=rough.run, asked=asked)
    try:
        mean, noise = means(terms, pack_plan(asked))
        learned = summary_model(start, asked, mean, noise_std=noise_std(noise, terms))
        flat = strategy.accepted(current, start.flat, learned.flat, moments={})
    except RefusedRoundError as error:
        flat = strategy.undone(current, start.flat, str(error), moments={})
    return dataclasses.replace(start, flat=flat, round=current, notes=_notes(terms) | strategy.notes())


def _notes(terms: NoisyTerms) -> dict[str, str]:
    given = guarantee(terms.plan, terms.noise_multiplier)
    return {RUN: terms.run, PRIVACY: json.dumps(given.to_json(), sort_keys=True)}


def _stepped(strategy: TacitStrategy, current: int, flat: Floats, mean: Floats, std: float) -> tuple[Floats, float]:
    """The model after ``flat`` and a mean update with noise of ``std`` a number, both (d,), and that on the step."""
    if strategy.settings.strategy not in ("fedavg", "fedprox"):
        after = strategy.apply(current, flat, mean)
        # Steps by moments bring each number to a size of its own: all of it may be noise.
        return after, l2_norm(after - flat) / math.sqrt(len(flat))
    less = shrunk(mean, std)
    share = l2_norm(less) / (l2_norm(mean) or 1.0)
    return strategy.apply(current, flat, less), std * share


def noise_std(noise: NoiseParameters, terms: NoisyTerms) -> float:
    """The standard deviation of ``noise`` on a number of a round's mean update, evened out to its full cohort."""
    return noise.step * math.sqrt(noise.share_variance * noise.cohort) / (terms.q * terms.devices)


def likely_noise(terms: NoisyTerms) -> NoiseParameters:
    """The noise of a round of as many devices as are drawn on average, if few or none drop out."""
    noise = terms.noise_of(terms.cohort)
    if terms.mode == CENTRAL:
        return noise
    steady = steady_share(*cohort_bounds(terms.devices, terms.cohort))
    return on_rung(noise, rung_of(noise, steady * terms.cohort))


def shrunk(mean: Floats, std: float) -> Floats:
    """Return ``mean`` (d,) times the share of its squared norm that noise of ``std`` a number does not explain, or 0.

    It is never farther from the truth in expectation than the mean is, or, for much noise, than no change (James and
    Stein 1961; Baranchik 1964). It needs no learning rate.
    """
    squared = l2_norm(mean) ** 2
    explained = max(0, len(mean) - 2) * std**2
    share = max(0.0, 1.0 - explained / squared) if squared > 0 else 0.0
    return (mean * np.float32(share)).astype(np.float32)


def load_roster(settings: RunSettings) -> SignedRoster:
    """The roster that the settings name. The server does not vouch for it: devices check who signed it.

    Raises `ConfigError` where it is missing or no roster.
    """
    if not settings.roster:
        raise ConfigError(f"Expected roster to name the publisher's signed roster: mode={settings.mode!r} needs one.")
    try:
        signed = Path(settings.roster).read_bytes()
    except OSError as error:
        raise ConfigError(f"The roster {settings.roster} cannot be read: {error.strerror}.") from None
    try:
        return SignedRoster(signed=signed, roster=unsigned_roster(signed))
    except RosterError as error:
        raise ConfigError(f"{settings.roster}: {error}") from None


def privacy_of(model: Checkpoint) -> PrivacyGuarantee | None:
    """What the notes of a run's checkpoint say holds for its devices; ``None`` in open mode."""
    told = model.notes.get(PRIVACY)
    if told is None:
        return None
    values = json.loads(told)
    return PrivacyGuarantee(
        **{**values, "eps_server": math.inf if values["eps_server"] is None else values["eps_server"]}
    )


def _share_counted_on(devices: int, cohort: int) -> float:
    """The share of a cohort that is counted on where as many of those that are drawn abstain as may drop out."""
    floor, ceiling = cohort_bounds(devices, cohort)
    there = floor - math.ceil(DROPOUT * floor)
    return honest_share(max(there, min(LEAST_COHORT, floor)), ceiling)


def _means(grid: Grid, settings: RunSettings, roster: SignedRoster) -> _Means:
    stream = SecureStream()
    if settings.mode != CENTRAL:
        return PrivateRounds(grid, roster, deadline_s=settings.deadline_s, stream=stream).mean

    def mean(terms: NoisyTerms, flat: Floats) -> tuple[Floats, NoiseParameters]:
        told = ConfigRecord({"server-round": terms.server_round, TERMS: terms.to_bytes()})
        sent = [
            Message(
                RecordDict({CONFIG: told, ARRAYS: as_arrays(flat)}),
                node,
                CENTRAL_MESSAGE,
                group_id=str(terms.server_round),
            )
            for node in connected(grid, least=settings.needed, within_s=settings.deadline_s)
        ]
        replies = grid.send_and_receive(sent, timeout=settings.deadline_s)
        updates = [update for reply in replies if (update := _update(reply, terms.dimension)) is not None]
        if len(updates) < settings.needed:
            raise RoundError(
                f"Round {terms.server_round} failed: {len(updates)} valid replies, at least {settings.needed} needed. "
                "The model of the round before is kept; continue with --resume."
            )
        noise, q_n = terms.noise_of(terms.cohort), terms.q * terms.devices
        found = central_mean(updates, noise, stream, denominator=q_n)
        check_mean(found, noise, devices=len(updates), denominator=q_n)
        return found, noise

    return mean


def _update(reply: Message, length: int) -> Floats | None:
    """What a device gave, float32 (length,); ``None`` where it abstained or sent anything else."""
    if reply.has_error():
        return None
    try:
        return reply_array(reply.content, length=length)
    except UpdateError:
        return None
