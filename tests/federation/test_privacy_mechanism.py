"""The way of an update under noise: integers of an enforced norm, shares that add up, sums that decode to the mean."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import federation
from federation.errors import PrivacyError, UpdateError
from federation.privacy.mechanism import central_mean, decode, privatise, quantise, top_up
from federation.privacy.noise import DISCRETE_GAUSSIAN, NOISES, SKELLAM
from federation.privacy.parameters import NoiseParameters
from federation.privacy.quantise import REDRAW_PROBABILITY, round_unbiased, scale_for, squared_norm_bound
from federation.privacy.stream import SecureStream, stream_of_key

ROOT = Path(federation.__file__).resolve().parents[1]
STREAM = stream_of_key(bytes(32))


def settings_of(dimension: int = 8, **changed: object) -> NoiseParameters:
    given = {"clip_norm": 1.0, "noise_multiplier": 0.5, "cohort": 10, "honest_share": 0.6, **changed}
    return NoiseParameters(dimension=dimension, **given)  # type: ignore[arg-type]


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


@pytest.mark.parametrize(
    ("update", "expected"),
    [
        (floats(0.0, 0.0), [0, 0]),
        (floats(1.0, 0.0), [1, 0]),
        (floats(-3.0, 4.0), [-0.6, 0.8]),
        (floats(3e38, 0.0), [1, 0]),
        (floats(1e-45, 0.0), [0, 0]),
        (floats(0.3, -0.3), [0.3, -0.3]),
    ],
)
def test_edges_become_integers_next_to_the_clipped_update(update: np.ndarray, expected: list[float]) -> None:
    parameters = settings_of(2)
    integers = quantise(update, parameters, STREAM)
    assert integers.dtype == np.int64
    assert np.abs(integers - np.array(expected) * parameters.scale).max() < 1.001


@pytest.mark.parametrize(
    ("update", "error"),
    [
        (floats(math.nan, 0.0), "NaN or infinity"),
        (floats(0.0, math.inf), "NaN or infinity"),
        (floats(0.0, -math.inf), "NaN or infinity"),
        (floats(), "2 float32"),
        (floats(1.0), "2 float32"),
        (np.zeros(2), "2 float32"),
        (np.zeros((2, 1), dtype=np.float32), "2 float32"),
    ],
)
def test_what_is_no_update_is_refused(update: np.ndarray, error: str) -> None:
    for refuse in (quantise, privatise):
        with pytest.raises(UpdateError, match=error):
            refuse(update, settings_of(2), STREAM)
    with pytest.raises(UpdateError, match=error):
        central_mean([update], settings_of(2), STREAM, denominator=1.0)


def test_one_number_is_enough() -> None:
    one = settings_of(1)
    assert abs(int(quantise(floats(0.25), one, STREAM)[0]) - one.scale // 4) <= 1
    assert privatise(floats(0.25), one, STREAM).shape == (1,)


@settings(max_examples=60, deadline=None)
@given(
    dimension=st.sampled_from([1, 2, 7, 300, 5000]),
    clip_norm=st.floats(1e-3, 1e3),
    spread=st.sampled_from(["one", "even", "random", "halves"]),
    length=st.floats(0, 100),
    seed=st.integers(0, 2**32 - 1),
)
def test_integers_never_exceed_the_norm_that_is_accounted(
    dimension: int, clip_norm: float, spread: str, length: float, seed: int
) -> None:
    parameters = settings_of(dimension, clip_norm=clip_norm)
    rng = np.random.default_rng(seed)
    update = {
        "one": np.eye(1, dimension)[0],
        "even": np.ones(dimension),
        "random": rng.standard_normal(dimension),
        # Each coordinate half way between two integers: where rounding adds most.
        "halves": (rng.integers(-3, 3, dimension) + 0.5) / parameters.scale,
    }[spread]
    integers = quantise((update * length * clip_norm).astype(np.float32), parameters, STREAM)
    assert sum(int(value) ** 2 for value in integers) <= parameters.squared_bound
    assert np.abs(integers).sum() <= min(math.sqrt(dimension * parameters.squared_bound), parameters.squared_bound)


def test_a_vector_that_was_not_clipped_does_not_leave() -> None:
    for values in ([6000.0, 0.0], [1e300, 0.0], [math.nan, 0.0], [math.inf, 0.0], [-1e19, 1e19]):
        with pytest.raises(PrivacyError, match="not clipped"), np.errstate(invalid="ignore", over="ignore"):
            round_unbiased(np.array(values), squared_norm_bound(4096, 2), STREAM)


def test_a_draw_beyond_the_bound_is_drawn_again() -> None:
    # Halves are 0 or 1: of 40 of them 20 are 1 on average, and a bound of 18 refuses two draws of three.
    stream = stream_of_key(bytes(32))  # Of 16 draws all are refused once in 500 times: not by this stream.
    for _ in range(5):
        assert np.square(round_unbiased(np.full(40, 0.5), 18, stream)).sum() <= 18


@pytest.mark.parametrize("value", [0.0, 0.1, 0.5, -0.3, 7.999, -2.0])
def test_rounding_keeps_the_mean(value: float) -> None:
    count = 40_000
    rounded = round_unbiased(np.full(count, value), count * 100, STREAM)
    assert set(np.unique(rounded)) <= {math.floor(value), math.floor(value) + 1}
    assert abs(rounded.mean() - value) <= 5 * 0.5 / math.sqrt(count)


@pytest.mark.parametrize("dimension", [1, 30, 10_000, 1_000_000])
def test_scale_keeps_the_inflation_of_the_norm_within_a_thousandth(dimension: int) -> None:
    scale = scale_for(dimension)
    assert scale**2 <= squared_norm_bound(scale, dimension) <= (1.001 * scale) ** 2
    assert scale >= 8 * math.sqrt(dimension)


@pytest.mark.parametrize("beta", [math.exp(-0.5), math.exp(-2.0)])
def test_formula_of_the_bound_is_exceeded_as_seldom_as_it_says(beta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # At a β that can be counted, on a vector of halves, which rounding inflates most.
    monkeypatch.setattr("federation.privacy.quantise.REDRAW_PROBABILITY", beta)
    values = np.repeat([2.5, 3.0], 200)
    scale = math.ceil(np.linalg.norm(values))
    bound = squared_norm_bound(scale, 400)
    beyond = [np.square(round_unbiased(values, 10**9, STREAM)).sum() > bound for _ in range(2000)]
    assert np.mean(beyond) <= beta


def test_a_vector_is_drawn_again_less_than_once_in_2_to_40() -> None:
    assert REDRAW_PROBABILITY <= 2**-40


@pytest.mark.parametrize("noise", NOISES)
def test_sum_of_a_cohort_decodes_to_the_mean_with_the_variance_that_is_accounted(noise: str) -> None:
    parameters = settings_of(4000, cohort=20, noise_multiplier=1.5, noise=noise, clip_norm=2.0)
    rng = np.random.default_rng(5)
    updates = (rng.standard_normal((20, 4000)) / 20).astype(np.float32)
    total = np.zeros(4000, dtype=np.uint32)
    for update in updates:
        total += privatise(update, parameters, STREAM)
    decoded = decode(total, parameters, denominator=25.0)
    assert decoded.dtype == np.float32
    clipped = [update * min(1.0, 2.0 / np.linalg.norm(update)) for update in updates]
    error = decoded - np.sum(clipped, axis=0) / 25
    # All 20 bring noise of which 12 would be enough; the norm that it is measured by is inflated by rounding.
    expected = 1.5 * 2.0 * math.sqrt(parameters.squared_bound) / parameters.scale * math.sqrt(20 / 12) / 25
    assert abs(error.std() / expected - 1) < 5 / math.sqrt(2 * 4000) + 0.001
    assert abs(error.mean()) < 5 * expected / math.sqrt(4000)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("survivors", [6, 8, 10])
def test_noise_is_enough_with_the_fewest_honest_survivors_and_the_same_for_all_after_topping_up(
    noise: str, survivors: int
) -> None:
    count = 20_000
    parameters = settings_of(count, cohort=10, noise=noise, noise_multiplier=2.0)
    total = np.zeros(count, dtype=np.uint32)
    for _ in range(survivors):
        total += privatise(np.zeros(count, dtype=np.float32), parameters, STREAM)
    slack = 5 / math.sqrt(2 * count)
    seen = total.view(np.int32).astype(float).std() / math.sqrt(parameters.squared_bound)
    assert seen == pytest.approx(2.0 * math.sqrt(survivors / 6), rel=slack)
    assert seen > 2.0 * (1 - slack)
    topped = top_up(total, survivors, parameters, STREAM)
    seen = topped.view(np.int32).astype(float).std() / math.sqrt(parameters.squared_bound)
    assert seen == pytest.approx(2.0 * math.sqrt(10 / 6), rel=slack)


@pytest.mark.parametrize("survivors", [0, 5, 11])
def test_a_round_of_too_few_or_too_many_is_not_used(survivors: int) -> None:
    with pytest.raises(PrivacyError, match="not used"):
        top_up(np.zeros(8, dtype=np.uint32), survivors, settings_of(), STREAM)


def test_sums_of_either_sign_are_read_back_centred() -> None:
    parameters = settings_of(3)
    total = np.array([parameters.scale, 2**32 - parameters.scale, 2**31], dtype=np.uint32)
    assert decode(total, parameters, denominator=2.0)[:2].tolist() == [0.5, -0.5]
    assert decode(total, parameters, denominator=2.0)[2] == -(2.0**31) / parameters.scale / 2


@pytest.mark.parametrize("denominator", [0.0, -1.0, math.nan, math.inf])
def test_a_denominator_that_is_none_is_refused(denominator: float) -> None:
    with pytest.raises(PrivacyError, match="denominator"):
        decode(np.zeros(8, dtype=np.uint32), settings_of(), denominator=denominator)


@pytest.mark.parametrize("total", [np.zeros(7, dtype=np.uint32), np.zeros(8, dtype=np.int64)])
def test_a_sum_of_another_form_is_refused(total: np.ndarray) -> None:
    with pytest.raises(PrivacyError, match="8 uint32"):
        decode(total, settings_of(), denominator=1.0)


def test_masks_modulo_2_to_32_cancel_in_the_sum() -> None:
    parameters = settings_of(50, cohort=2, honest_share=1.0)
    update, mask = np.full(50, 0.1, dtype=np.float32), np.random.default_rng(1).integers(0, 2**32, 50, dtype=np.uint32)
    sent = [privatise(update, parameters, stream_of_key(bytes([n]) * 32)) for n in (1, 2)]
    assert ((sent[0] + mask) + (sent[1] - mask)).tolist() == (sent[0] + sent[1]).tolist()


def test_a_full_cohort_on_one_coordinate_does_not_wrap() -> None:
    parameters = settings_of(4, cohort=200, honest_share=0.05, noise_multiplier=4.0)
    total = np.zeros(4, dtype=np.uint32)
    for _ in range(200):
        total += privatise(floats(1.0, 0.0, 0.0, -0.0), parameters, STREAM)
    assert decode(total, parameters, denominator=200.0)[0] == pytest.approx(1.0, abs=1.0)


def test_wrap_probability_is_no_less_than_a_gaussian_tail_and_no_more_than_ten_thousand_of_it() -> None:
    # Noise so large that the tail can be computed; the Skellam's own is a little heavier.
    parameters = settings_of(100, cohort=1000, noise_multiplier=1.5e3, honest_share=0.01, noise=SKELLAM)
    room = 2.0**31 - 1 - 1000 * math.sqrt(parameters.squared_bound)
    stddev = math.sqrt(parameters.share_variance * 1000)
    exact = 100 * math.erfc(room / stddev / math.sqrt(2))
    assert 0 < exact <= parameters.wrap_probability() <= 1e4 * exact < 2**-40


@pytest.mark.parametrize(
    "changed",
    [{"cohort": 2**20, "noise": SKELLAM}, {"noise_multiplier": 2.0e5}, {"cohort": 10**6, "noise_multiplier": 20.0}],
)
def test_settings_under_which_a_sum_could_wrap_are_refused(changed: dict[str, object]) -> None:
    with pytest.raises(PrivacyError, match="wrap"):
        settings_of(100, **changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"dimension": 0},
        {"dimension": True},
        {"dimension": 2**60},
        {"clip_norm": 0.0},
        {"clip_norm": math.nan},
        {"clip_norm": math.inf},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": -1.0},
        {"noise_multiplier": math.nan},
        {"noise_multiplier": 1e-3},  # Shares of a discrete Gaussian that would not add up to one.
        {"cohort": 0},
        {"cohort": 2.0},
        {"honest_share": 0.0},
        {"honest_share": 1.5},
        {"noise": "none"},
    ],
)
def test_settings_out_of_range_are_refused(changed: dict[str, object]) -> None:
    good: dict[str, object] = {
        "dimension": 8, "clip_norm": 1.0, "noise_multiplier": 0.5, "cohort": 10, "honest_share": 0.6,
    }  # fmt: skip
    NoiseParameters(**good)  # type: ignore[arg-type]
    with pytest.raises(PrivacyError):
        NoiseParameters(**(good | changed))  # type: ignore[arg-type]


def test_central_mean_clips_again_and_adds_one_noise() -> None:
    parameters = settings_of(4000, cohort=3, honest_share=1.0, noise_multiplier=1.0)
    update = np.full(4000, 1.0, dtype=np.float32)  # Norm 63: a device that did not clip.
    mean = central_mean([update, update, update], parameters, STREAM, denominator=3.0)
    noise = mean - 1 / math.sqrt(4000)
    assert abs(noise.std() * 3 - math.sqrt(parameters.squared_bound) / parameters.scale) < 5 / math.sqrt(8000)
    assert abs(noise.mean()) < 5 * noise.std() / math.sqrt(4000)


def test_a_round_of_nobody_is_noise() -> None:
    parameters = settings_of(2000, honest_share=1.0, noise_multiplier=1.0, noise=DISCRETE_GAUSSIAN)
    assert central_mean([], parameters, SecureStream(), denominator=1.0).std() == pytest.approx(1.0, rel=0.1)


def test_the_devices_side_needs_neither_the_accountant_nor_flower() -> None:
    code = (
        "import sys, federation.privacy.mechanism, federation.privacy.sampling, federation.privacy.rdp\n"
        "print(sorted({'dp_accounting', 'scipy', 'flwr', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
