"""The clip bounds every update, strictly, and only finite float32 of the right length is a reply."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from federation.errors import UpdateError
from federation.privacy.update import check_reply, clip, l2_norm

FLOAT32_MAX = float(np.finfo(np.float32).max)
FLOAT32_TINY = float(np.finfo(np.float32).smallest_subnormal)


def f32(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def naive_norm(values: np.ndarray) -> float:
    """For reading: the square root of the exactly rounded sum of squares."""
    return math.sqrt(math.fsum(float(value) ** 2 for value in values))


def naive_clip(delta: np.ndarray, clip_norm: float) -> np.ndarray:
    """For reading: scale by min(1, C / norm)."""
    norm = naive_norm(delta)
    factor = 1.0 if norm == 0 else min(1.0, clip_norm / norm)
    return np.array([float(value) * factor for value in delta])


@pytest.mark.parametrize(
    ("delta", "clip_norm", "expected"),
    [
        pytest.param(f32(0, 0, 0), 1.0, f32(0, 0, 0), id="zero"),
        pytest.param(f32(), 1.0, f32(), id="empty"),
        pytest.param(f32(3, 4), 5.0, f32(3, 4), id="exactly at the bound"),
        pytest.param(f32(3, 4), 10.0, f32(3, 4), id="inside"),
        pytest.param(f32(3, 4), 1.0, f32(0.6, 0.8), id="outside"),
        pytest.param(f32(-7), 2.0, f32(-2), id="one number"),
        pytest.param(f32(FLOAT32_MAX, 0), 1.0, f32(1, 0), id="huge: its square overflows float32"),
        pytest.param(f32(FLOAT32_TINY), 1.0, f32(FLOAT32_TINY), id="subnormal: its square underflows float32"),
        pytest.param(f32(1, 0), 1e-50, f32(0, 0), id="a bound below float32"),
        pytest.param(f32(-0.0), 1.0, f32(-0.0), id="minus zero"),
    ],
)
def test_clip_edge_case_gives_the_table_value(delta: np.ndarray, clip_norm: float, expected: np.ndarray) -> None:
    clipped = clip(delta, clip_norm)
    assert clipped.dtype == np.float32
    assert clipped.shape == delta.shape
    np.testing.assert_allclose(clipped, expected, rtol=2e-7)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_clip_update_that_no_norm_bounds_is_refused(bad: float) -> None:
    with pytest.raises(UpdateError, match="NaN or infinity"):
        clip(f32(0, bad, 1), 1.0)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf])
def test_clip_bound_that_bounds_nothing_is_refused(bound: float) -> None:
    with pytest.raises(UpdateError, match="clip_norm"):
        clip(f32(1, 2), bound)


@pytest.mark.parametrize("fill", [1.0, 1e-3, 1e20, 1e38])
def test_clip_many_equal_numbers_stay_strictly_within_the_bound(fill: float) -> None:
    # Where every coordinate rounds the same way, the errors add up instead of cancelling.
    for size in (3, 1000, 10_007):
        assert naive_norm(clip(np.full(size, fill, dtype=np.float32), 0.1)) <= 0.1


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(deadline=None)
@given(arrays(np.float32, st.integers(0, 50), elements=FINITE), st.floats(1e-30, 1e30))
def test_clip_result_is_never_longer_than_the_bound_in_float64(delta: np.ndarray, clip_norm: float) -> None:
    before = delta.copy()
    clipped = clip(delta, clip_norm)
    assert l2_norm(clipped) <= clip_norm
    assert np.array_equal(delta, before)  # the caller's array is not touched


@settings(deadline=None)
@given(arrays(np.float32, st.integers(1, 50), elements=st.floats(-1e6, 1e6, width=32)), st.floats(1e-3, 1e3))
def test_clip_keeps_the_direction_and_agrees_with_the_oracle(delta: np.ndarray, clip_norm: float) -> None:
    clipped, expected = clip(delta, clip_norm), naive_clip(delta, clip_norm)
    np.testing.assert_allclose(clipped, expected, rtol=1e-5, atol=1e-30 + 1e-6 * clip_norm)
    assert (clipped * np.sign(delta) >= 0).all()
    if naive_norm(delta) <= clip_norm * (1 - 1e-12):
        assert np.array_equal(clipped, delta)


@settings(deadline=None)
@given(arrays(np.float32, st.integers(0, 50), elements=FINITE))
def test_l2_norm_agrees_with_the_oracle(values: np.ndarray) -> None:
    assert l2_norm(values) == pytest.approx(naive_norm(values), rel=1e-12)


def test_check_reply_accepts_finite_float32_of_the_length() -> None:
    values = f32(1, -2, 3)
    assert check_reply(values, 3) is values


@pytest.mark.parametrize(
    ("values", "length"),
    [
        pytest.param(f32(1, 2), 3, id="short"),
        pytest.param(f32(1, 2, 3, 4), 3, id="long"),
        pytest.param(f32(), 3, id="empty"),
        pytest.param(np.zeros(3), 3, id="float64"),
        pytest.param(np.zeros(3, dtype=np.float16), 3, id="float16"),
        pytest.param(np.zeros(3, dtype=np.int32), 3, id="int32"),
        pytest.param(np.zeros(3, dtype=">f4"), 3, id="big-endian"),
        pytest.param(np.zeros((3, 1), dtype=np.float32), 3, id="two-dimensional"),
        pytest.param(np.zeros((), dtype=np.float32), 1, id="scalar"),
        pytest.param(f32(1, math.nan, 3), 3, id="NaN"),
        pytest.param(f32(1, math.inf, 3), 3, id="infinity"),
        pytest.param(f32(1, -math.inf, 3), 3, id="minus infinity"),
    ],
)
def test_check_reply_refuses_anything_else(values: np.ndarray, length: int) -> None:
    with pytest.raises(UpdateError):
        check_reply(values, length)
