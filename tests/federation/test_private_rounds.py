"""Private rounds over the wire: the sum is right, drop-outs cost nothing but themselves, what was refused is gone."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.model.checkpoint import Checkpoint
from engine.model.inputs import encode_inputs
from engine.model.training import TrainingPlan
from engine.owner.ratchet import Limits
from federation.agent import answers
from federation.agent.cohorts import steady_share
from federation.agent.private import AGREE, INPUT, REVEAL, SHARES, STAGES, UNMASK
from federation.agent.terms import NoisyTerms
from federation.errors import ConfigError, RoundError, UpdateError
from federation.privacy import excess, mechanism
from federation.privacy.excess import rung_of
from federation.privacy.parameters import NoiseParameters
from federation.privacy.sampling import cohort_bounds
from federation.privacy.stream import SecureStream
from federation.privacy.update import clip
from federation.rounds.noisy_rounds import likely_noise, noise_std, privacy_of, shrunk
from federation.rounds.private_rounds import PrivateRounds, evened_out, taken_off
from federation.rounds.summary_model import summary_model
from federation.secagg.agreed import honest_in_sum
from federation.secagg.parameters import parameters

DEVICES = 16  # of a village
PLAN = {"local_steps": 2, "learning_rate": 0.3, "clip_norm": 0.5, "ridge": 0.0, "epsilon": 6.0}


TERMS: dict[str, Any] = {
    **{"run": "ab", "mode": "private", "server_round": 1, "rounds": 4, "participations": 4, "devices": 1000},
    **{"cohort": 100, "dimension": 10, "catalogue": "cd", "task": "train", "directions": 0, "scatter": 0},
    **{"hold_back": True, "local_steps": 5, "learning_rate": 0.3, "proximal_mu": 0.0},
    **{"seed": 0, "clip_norm": 1.0, "noise": "discrete Gaussian", "noise_multiplier": 4.0, "honest_share": 0.45},
    "delta": 1e-5,
}


@pytest.fixture
def no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sum is without noise, to compare with: nothing else of the mechanism changes."""
    for module in (mechanism, excess):
        monkeypatch.setattr(module, "share", lambda _noise, count, *_: np.zeros(count, dtype=np.int64))
    monkeypatch.setattr("federation.rounds.noisy_rounds.shrunk", lambda mean, _std: mean)


def updates_of(village: Any, flat: np.ndarray) -> dict[str, np.ndarray]:
    """What each device changes in the first round, clipped."""
    found = {}
    plan = TrainingPlan(steps=PLAN["local_steps"], learning_rate=PLAN["learning_rate"])
    with village.pool() as pool:
        for name in village.names:
            device = pool.agent(name).device
            trained = device.train(flat, plan=plan, hold_back=False, rng=np.random.default_rng(0))
            found[name] = clip(trained - flat, PLAN["clip_norm"])
    return found


def missing(monkeypatch: pytest.MonkeyPatch, gone: dict[int, str]) -> None:
    """Devices, by their number from 0, vanish at a stage and stay away."""
    plain = answers.answer

    def answer(agent: Any, asked: Any) -> Any:
        number = asked.node_id - 2  # Of the first device's node.
        if number in gone and STAGES.index(asked.values["stage"]) >= STAGES.index(gone[number]):
            raise UpdateError("gone")
        return plain(agent, asked)

    monkeypatch.setattr(answers, "answer", answer)


def test_private_rounds_give_a_model_and_what_holds_for_its_devices(village: Any) -> None:
    model = village.run(rounds=2, epsilon=6.0)
    given = privacy_of(model)
    assert model.round == 2
    assert given is not None
    assert (given.participations, given.q, given.rounds) == (2, 1.0, 2)
    assert 5.9 < given.eps_server <= 6.0
    with village.fleet.open("device-0005") as device:
        account = device.account
        assert [(its.round, its.mode, its.rho) for its in account.contributions()] == [
            (1, "private", given.rho),
            (2, "private", given.rho),
        ]
        assert account.spent.rho == pytest.approx(2 * given.rho, rel=1e-6)


@pytest.mark.usefixtures("no_noise")
def test_sum_is_the_mean_of_what_the_devices_change(village: Any) -> None:
    start = village.fleet.start.flat
    model = village.run(rounds=1, **PLAN)
    wanted = np.mean(list(updates_of(village, start).values()), axis=0)
    assert np.linalg.norm(wanted) > 0.05
    # Each number is rounded to one of some thousand steps of the clip.
    np.testing.assert_allclose(model.flat - start, wanted, atol=PLAN["clip_norm"] / 256)


@pytest.mark.usefixtures("no_noise")
@pytest.mark.parametrize(
    "stage",
    [REVEAL, INPUT, *(pytest.param(stage, marks=pytest.mark.slow) for stage in (SHARES, AGREE, UNMASK))],
)
def test_devices_that_vanish_leave_the_sum_of_those_that_gave(
    village: Any, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    start = village.fleet.start.flat
    # Before shares are out the graph bears a twentieth, and after that three tenths.
    gone = range(1) if stage in (REVEAL, SHARES) else range(3)
    with monkeypatch.context() as patched:
        missing(patched, dict.fromkeys(gone, stage))
        model = village.run(rounds=1, **PLAN)
    updates = list(updates_of(village, start).values())
    wanted = np.sum(updates if stage in (AGREE, UNMASK) else updates[len(gone) :], axis=0) / DEVICES
    np.testing.assert_allclose(model.flat - start, wanted, atol=PLAN["clip_norm"] / 256)


def test_too_few_devices_are_an_error_and_the_run_goes_on_from_the_round_before(
    village: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, mean = PLAN | {"rounds": 3, "epsilon": 3.0}, PrivateRounds.mean
    with monkeypatch.context() as patched:
        rounds = iter([{}, dict.fromkeys(range(3), SHARES)])

        def failing(self: PrivateRounds, terms: Any, flat: np.ndarray) -> tuple[np.ndarray, NoiseParameters]:
            missing(patched, next(rounds))
            return mean(self, terms, flat)

        patched.setattr(PrivateRounds, "mean", failing)
        with pytest.raises(RoundError, match="Round 2 failed: 13 devices answered, at least 15 are needed"):
            village.run(**plain)
    kept = Checkpoint.load(village.out / "checkpoint.safetensors")
    assert kept.round == 1
    model = village.run(**plain, resume=True)
    assert model.round == 3
    assert model.notes["run"] == kept.notes["run"]
    with village.pool() as pool:
        given = [[its.round for its in pool.agent(name).device.account.contributions()] for name in village.names]
    assert given == [[1, 2, 3]] * DEVICES


def test_round_that_fails_after_updates_left_is_charged(village: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        missing(patched, dict.fromkeys(range(7), INPUT))
        with pytest.raises(RoundError, match="Round 1 failed: 9 devices answered, at least 10 are needed"):
            village.run(rounds=1, **PLAN)
    assert not (village.out / "checkpoint.safetensors").exists()
    with village.pool() as pool:
        spent = [pool.agent(name).device.account.spent.rho for name in village.names]
    assert spent[:7] == [0.0] * 7
    assert min(spent[7:]) > 0.0


@pytest.mark.parametrize(
    ("gone", "stage", "share", "whole"),
    [
        (0, "", 0.75, 0),
        # 13 survivors: 9 of them honest at least, too few for a rung above the 5 that are counted on.
        pytest.param(3, INPUT, None, 0, marks=pytest.mark.slow),
        # All survive, so the others give back, and the noise of two stays whole.
        pytest.param(2, UNMASK, 0.75, 2, marks=pytest.mark.slow),
    ],
)
def test_noise_of_the_sum_is_what_is_accounted_for_those_who_stayed(
    village: Any, monkeypatch: pytest.MonkeyPatch, gone: int, stage: str, share: float | None, whole: int
) -> None:
    seen: list[tuple[Any, np.ndarray, NoiseParameters]] = []
    plain = PrivateRounds.mean

    def mean(self: PrivateRounds, terms: Any, flat: np.ndarray) -> tuple[np.ndarray, NoiseParameters]:
        seen.append((terms, *plain(self, terms, flat)))
        return seen[-1][1:]

    monkeypatch.setattr(PrivateRounds, "mean", mean)
    with monkeypatch.context() as patched:
        missing(patched, dict.fromkeys(range(gone), stage))
        village.run(rounds=1, **(PLAN | {"epsilon": 1.0}))
    ((terms, noised, found),) = seen
    updates = list(updates_of(village, village.fleet.start.flat).values())
    clean = np.sum(updates[gone:] if stage == INPUT else updates, axis=0) / DEVICES
    noise, std = (noised - clean).astype(np.float64), noise_std(found, terms)
    # Chi-square with d degrees of freedom: within 6 of its standard deviations.
    assert abs(float((noise**2).mean()) / std**2 - 1) < 6 * math.sqrt(2 / noise.size)
    assert abs(float(noise.mean())) < 6 * std / math.sqrt(noise.size)
    # Honest devices that no server can tell apart hold z·C in it, and never less; the others add theirs.
    counted_on = terms.noise_multiplier * terms.clip_norm
    least = terms.honest_share if share is None else share
    variance = (DEVICES - whole) / least + whole / terms.honest_share
    assert std * DEVICES == pytest.approx(counted_on * math.sqrt(variance / DEVICES), rel=0.01)
    assert share is None or share > 2 * terms.honest_share


def test_noise_that_is_taken_off_does_not_tell_how_many_were_drawn() -> None:
    """Amplification by sampling: with one device more or less, and nobody gone, as much noise is in the sum."""
    floor, ceiling = cohort_bounds(1000, 100)
    steady, taken, could = steady_share(floor, ceiling), set(), set()
    for size in range(floor, ceiling + 1):
        full = NoiseParameters(dimension=50, clip_norm=1.0, noise_multiplier=2.0, cohort=size, honest_share=0.45)
        honest = honest_in_sum(parameters(size, 0.3, 0.1), size)
        taken.add(taken_off(full, honest, devices=1000, cohort=100))
        could.add(rung_of(full, honest))
        assert rung_of(full, steady * size) <= rung_of(full, honest)
    assert taken == {3}
    assert could == {3, 4}  # A round of 60 could spare more than one of 61: a tenth is rounded up.


def test_noise_of_those_gone_and_of_those_who_gave_none_back_is_reckoned_with() -> None:
    full = NoiseParameters(dimension=20_000, clip_norm=1.0, noise_multiplier=1.0, cohort=20, honest_share=0.3)
    secrets = [bytes([number]) * 32 for number in range(18)]  # Two are gone.
    nothing = np.zeros(full.dimension, dtype=np.float32)
    sent = [mechanism.privatise(nothing, full, SecureStream(), excess=secret) for secret in secrets]
    keys = [excess.piece_keys(secret, full) for secret in secrets[3:]]  # Three gave none.
    for rung in range(5):
        total = np.sum(sent, axis=0, dtype=np.uint32)
        left, noise = evened_out(total, keys, full, rung, survivors=18, stream=SecureStream())
        spread = float((left.view(np.int32).astype(np.float64) ** 2).mean())
        # A variance that is estimated from so many numbers has a standard error of 1%.
        assert spread == pytest.approx(noise.share_variance * 20, rel=0.06)
        there = [full.share_variance] * 3 + [excess.on_rung(full, rung).share_variance] * 17
        assert noise.share_variance * 20 == pytest.approx(sum(there))


def test_the_server_takes_off_no_more_than_any_size_of_a_cohort_could_spare(
    village: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[NoiseParameters] = []
    plain = PrivateRounds.mean

    def mean(self: PrivateRounds, terms: Any, flat: np.ndarray) -> tuple[np.ndarray, NoiseParameters]:
        given, noise = plain(self, terms, flat)
        found.append(noise)
        return given, noise

    monkeypatch.setattr(PrivateRounds, "mean", mean)
    monkeypatch.setattr("federation.rounds.private_rounds.steady_share", lambda *_: 0.7)
    checked: list[NoiseParameters] = []
    monkeypatch.setattr("federation.rounds.private_rounds.check_mean", lambda _, noise, **__: checked.append(noise))
    village.run(rounds=1, **PLAN)
    assert [noise.honest_share for noise in found] == [pytest.approx(0.65)]
    assert checked == found  # What a mean may be long by is the noise that is left.


def test_who_may_not_or_will_not_abstains_and_the_round_goes_on(village: Any) -> None:
    with village.pool() as pool:
        never, withdrawn, spent = (pool.agent(name).device for name in village.names[:3])
        never.allow_rounds(None)
        withdrawn.withdraw_purpose("personalization")
        spent.account.limit(Limits(rho=1e-6), now=0.0)
    model = village.run(rounds=1, **PLAN)
    assert model.round == 1
    with village.pool() as pool:
        given = [len(pool.agent(name).device.account.contributions()) for name in village.names]
    assert given == [0, 0, 0] + [1] * (DEVICES - 3)


def test_run_takes_no_device_more_often_than_it_counts_on(village: Any) -> None:
    with pytest.raises(RoundError, match="Round 2 failed"):
        village.run(rounds=2, participations=1, **PLAN)
    with village.fleet.open("device-0001") as device:
        assert [its.round for its in device.account.contributions()] == [1]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"strategy": "krum"}, "krum needs to see single updates"),
        ({"strategy": "fedmedian"}, "fedmedian needs to see single updates"),
        ({"rescorer_steps": 1}, "rescorer-steps=0"),
        ({"cohort": 17}, "at most the 16 devices"),
        ({"roster": "/nowhere/roster"}, "/nowhere/roster cannot be read"),
    ],
)
def test_settings_that_make_no_private_run_are_refused(village: Any, given: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        village.run(rounds=1, **given)


@pytest.mark.parametrize("mode", ["private", "central"])
def test_one_release_is_the_model_of_the_mean_of_summaries(
    village_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str
) -> None:
    village, asked, told, stds, rounds = village_of(mode), [], [], [], []
    start, texts = village.fleet.start, [row.text for member in village.fleet.people for row in member.train]
    np.save(tmp_path / "public.npy", encode_inputs(texts[:40], village.fleet._encoder, start.dimension))
    for module in (mechanism, excess):
        monkeypatch.setattr(module, "share", lambda _noise, count, *_: np.zeros(count, dtype=np.int64))

    def model(start: Any, plan: Any, mean: np.ndarray, *, noise_std: float) -> Any:
        asked.append(plan)
        told.append(mean)
        stds.append(noise_std)
        return summary_model(start, plan, mean, noise_std=0.0)

    def mean(self: PrivateRounds, terms: Any, flat: np.ndarray) -> tuple[np.ndarray, NoiseParameters]:
        rounds.append((terms, *plain(self, terms, flat)))
        return rounds[-1][1:]

    plain = PrivateRounds.mean
    monkeypatch.setattr(PrivateRounds, "mean", mean)
    monkeypatch.setattr("federation.rounds.private_rounds.steady_share", lambda *_: 0.7)  # More noise than is likely.
    monkeypatch.setattr("federation.rounds.noisy_rounds.summary_model", model)
    learned = village.run(strategy="summary", epsilon=3.0, public=str(tmp_path / "public.npy"))
    with village.pool() as pool:
        summaries = [pool.agent(name).device.summarise(asked[0]) for name in village.names]
    np.testing.assert_allclose(told[0], np.mean(summaries, axis=0), atol=1 / 256)
    np.testing.assert_array_equal(learned.flat, summary_model(start, asked[0], told[0], noise_std=0.0).flat)
    assert learned.round == 1
    assert privacy_of(learned).eps_released <= 3.0
    assert stds == [noise_std(noise, terms) for terms, _, noise in rounds] or mode == "central"


def test_likely_noise_is_that_of_a_round_that_nobody_leaves_whatever_its_size() -> None:
    terms = NoisyTerms.from_bytes(NoisyTerms(**TERMS).to_bytes())
    assert likely_noise(terms).honest_share == 0.83
    assert likely_noise(dataclasses.replace(terms, devices=100)).honest_share == 0.89  # All are drawn.
    central = dataclasses.replace(terms, mode="central", honest_share=1.0)
    assert likely_noise(central) == central.noise_of(100)


def test_central_mode_adds_the_noise_on_the_server(village_of: Callable[..., Any]) -> None:
    village = village_of("central")
    model = village.run(rounds=2, **PLAN)
    given = privacy_of(model)
    assert given is not None
    assert math.isinf(given.eps_server)
    assert 5.9 < given.eps_released <= 6.0
    assert json.loads(model.notes["privacy"])["eps_server"] is None
    with village.fleet.open("device-0001") as device:
        told = device.account.contributions()
        assert [(its.mode, its.rho) for its in told] == [("central", given.rho)] * 2


def test_in_central_mode_a_device_that_did_not_draw_itself_is_not_asked_until_it_does(
    village_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    village, tossed = village_of("central"), []
    plain = answers.answer

    def asking(agent: Any, asked: Any) -> Any:
        if asked.node_id == 2:
            for _ in range(3):
                with pytest.raises(UpdateError):
                    plain(agent, asked)
        return plain(agent, asked)

    monkeypatch.setattr("federation.agent.agent.drawn", lambda q, _stream: tossed.append(q) or len(tossed) > 1)
    monkeypatch.setattr(answers, "answer", asking)
    village.run(rounds=1, **PLAN)
    assert len(tossed) == DEVICES


@pytest.mark.parametrize("allowed", ["private", "central"])
def test_device_takes_part_in_no_weaker_mode_than_its_owner_allows(
    village_of: Callable[..., Any], allowed: str
) -> None:
    village = village_of(allowed)
    weaker = {"private": "central", "central": "open"}[allowed]
    with pytest.raises(RoundError):
        village.run(rounds=1, mode=weaker, min_replies=1)
    with village.fleet.open("device-0001") as device:
        assert device.account.contributions() == []


def test_shrunk_is_between_nothing_and_the_mean_and_needs_no_rate() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=1000).astype(np.float32)
    for std in (0.1, 1.0, 10.0):
        noised = truth + rng.normal(size=1000, scale=std).astype(np.float32)
        near = shrunk(noised, std)
        assert np.linalg.norm(near - truth) <= min(np.linalg.norm(noised - truth), 1.1 * np.linalg.norm(truth))
    np.testing.assert_array_equal(shrunk(truth, 0.0), truth)
    np.testing.assert_array_equal(shrunk(truth, 1e6), np.zeros(1000))
    np.testing.assert_array_equal(shrunk(np.zeros(5, dtype=np.float32), 1.0), np.zeros(5))
