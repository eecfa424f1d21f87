"""Noise that is taken off again: what stays is what is accounted, whoever stayed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import PrivacyError
from federation.privacy.excess import (
    LADDER,
    excess_of,
    left_after,
    noise_with_excess,
    on_rung,
    piece_keys,
    rung_of,
    rungs,
)
from federation.privacy.mechanism import privatise, without_excess
from federation.privacy.noise import NOISES, SKELLAM
from federation.privacy.parameters import NoiseParameters
from federation.privacy.stream import SecureStream, stream_of_key

SECRET, NUMBERS = bytes(range(32)), 40_000


def noise_of(cohort: int = 20, share: float = 0.3, z: float = 1.0, **given: object) -> NoiseParameters:
    return NoiseParameters(
        **{"dimension": NUMBERS, "clip_norm": 1.0, **given},  # type: ignore[arg-type]
        noise_multiplier=z,
        cohort=cohort,
        honest_share=share,
    )


def spread(numbers: np.ndarray) -> float:
    return float((numbers.astype(np.float64) ** 2).mean())


@pytest.mark.parametrize("noise", NOISES)
def test_all_pieces_are_one_share_and_without_the_first_less_by_as_much_as_a_rung_says(noise: str) -> None:
    one = noise_of(noise=noise)
    keys = piece_keys(SECRET, one)
    assert len(keys) == len(set(keys)) == len(rungs(one)) == 4
    whole = noise_with_excess(one, SECRET, stream_of_key(bytes(32)))
    for rung in range(5):
        left = whole - excess_of(keys[:rung], one)
        # A variance that is estimated from so many numbers has a standard error of 0.7%.
        assert spread(left) == pytest.approx(on_rung(one, rung).share_variance, rel=0.04)
        assert abs(float(left.mean())) < 6 * math.sqrt(one.share_variance / NUMBERS)
    assert [on_rung(one, rung).honest_share for rung in range(5)] == [0.3, *LADDER]


def test_what_devices_give_back_leaves_the_sum_as_it_was_with_the_core_alone() -> None:
    one = noise_of(dimension=50)
    update = np.linspace(-0.1, 0.1, 50).astype(np.float32)
    secrets = [bytes([number]) * 32 for number in range(3)]
    total = np.zeros(50, dtype=np.uint32)
    for number, secret in enumerate(secrets):
        total += privatise(update, one, stream_of_key(bytes([100 + number]) * 32), excess=secret)
    core = np.zeros(50, dtype=np.uint32)
    for number in range(3):
        core += privatise(update, on_rung(one, 4), stream_of_key(bytes([100 + number]) * 32))
    assert np.array_equal(without_excess(total, [piece_keys(secret, one) for secret in secrets], one), core)
    assert np.array_equal(without_excess(total, [], one), total)


@settings(max_examples=200, deadline=None)
@given(st.integers(3, 20_000), st.floats(0.05, 1.0), st.floats(0.02, 40.0), st.sampled_from(NOISES), st.data())
def test_what_stays_is_never_less_than_what_is_accounted(
    cohort: int, share: float, z: float, noise: str, data: st.DataObject
) -> None:
    try:
        one = noise_of(cohort, share, z, dimension=100, noise=noise)
    except PrivacyError:
        return
    honest = data.draw(st.integers(math.ceil(share * cohort), cohort))
    rung = rung_of(one, honest)
    assert on_rung(one, rung).share_variance * honest >= one.central_variance * (1 - 1e-12)
    assert list(rungs(one)) == sorted(set(rungs(one)) & set(LADDER))
    assert all(step > share for step in rungs(one))
    pieces = [one.share_variance, *(on_rung(one, step).share_variance for step in range(1, len(rungs(one)) + 1))]
    assert noise == SKELLAM or min(-np.diff([*pieces, 0.0])) >= 64 * (1 - 1e-9)
    # With devices that kept theirs there is more; with all of them, all.
    assert left_after(one, rung, whole=0).honest_share == pytest.approx(on_rung(one, rung).honest_share)
    assert left_after(one, rung, whole=cohort).honest_share == pytest.approx(share)
    assert left_after(one, rung, whole=cohort // 2).honest_share <= on_rung(one, rung).honest_share * (1 + 1e-12)


def test_more_keys_than_there_are_pieces_are_refused() -> None:
    one = noise_of(dimension=5)
    with pytest.raises(PrivacyError, match="at most 4 keys"):
        excess_of([bytes(32)] * 5, one)


def test_a_secret_gives_other_pieces_to_each_device_and_none_from_the_others() -> None:
    one, other = noise_of(dimension=1000), bytes(32)
    assert not set(piece_keys(SECRET, one)) & set(piece_keys(other, one))
    left, right = (excess_of(piece_keys(secret, one), one).astype(float) for secret in (SECRET, other))
    assert abs(float(np.corrcoef(left, right)[0, 1])) < 6 / math.sqrt(1000)
    assert not np.array_equal(
        noise_with_excess(one, SECRET, SecureStream()), noise_with_excess(one, SECRET, SecureStream())
    )
