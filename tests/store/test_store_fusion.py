"""Fusion of two rankings, against a plain oracle."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.search.fusion import fuse

LISTS = st.dictionaries(st.integers(1, 12), st.integers(-50, 50), max_size=8)


def arrays(scores: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(list(scores), dtype=np.int64), np.array(list(scores.values()), dtype=np.float64)


def oracle(dense: dict[int, int], lexical: dict[int, int], weight: float) -> dict[int, float]:
    """Standardised scores of the union, a lacking one being the lowest; a constant or empty list gives nothing."""
    total = dict.fromkeys(sorted(dense.keys() | lexical.keys()), 0.0)
    for share, scores in ((weight, dense), (1 - weight, lexical)):
        if len(set(scores.values())) > 1:
            filled = {slot: scores.get(slot, min(scores.values())) for slot in total}
            mean, spread = statistics.fmean(filled.values()), statistics.pstdev(filled.values())
            for slot in total:
                total[slot] += share * (filled[slot] - mean) / spread
    return total


@given(dense=LISTS, lexical=LISTS, k=st.integers(0, 20), weight=st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_fuse_equals_oracle(dense: dict[int, int], lexical: dict[int, int], k: int, weight: float) -> None:
    expected = oracle(dense, lexical, weight)
    found = fuse(arrays(dense), arrays(lexical), k, weight)
    assert len(found) == min(k, len(expected))
    assert [score for _, score in found] == pytest.approx(
        sorted(expected.values(), reverse=True)[: len(found)], abs=1e-9
    )
    assert all(score == pytest.approx(expected[slot], abs=1e-9) for slot, score in found)
    assert found == sorted(found, key=lambda pair: (-pair[1], pair[0]))


@pytest.mark.parametrize(
    ("dense", "lexical", "expected"),
    [
        ({}, {}, []),
        ({1: 0.5, 2: 0.9}, {}, [2, 1]),
        ({}, {1: 3.0, 2: 4.0}, [2, 1]),
        ({5: 0.1 + 0.2, 4: 0.3}, {4: 0.0, 5: 0.0}, [4, 5]),  # Equal but for rounding: by slot.
        ({1: 0.7}, {2: 9.0}, [1, 2]),  # One score has no spread.
        ({1: 1e308, 2: -1e308}, {1: 1.0, 2: 1.0}, [1, 2]),
        ({1: 5e-324, 2: 0.0}, {}, [1, 2]),
        ({1: 0.9, 2: 0.8, 4: 0.1}, {2: 8.0, 3: 1.0}, [2, 1, 3, 4]),
    ],
)
def test_fuse_edges(dense: dict[int, float], lexical: dict[int, float], expected: list[int]) -> None:
    found = fuse(arrays(dense), arrays(lexical), 10)
    assert [slot for slot, _ in found] == expected
    assert np.isfinite([score for _, score in found]).all()


def test_fuse_takes_float32_scores_in_any_order() -> None:
    dense = np.array([3, 1, 2], dtype=np.int64), np.array([0.3, 0.1, 0.2], dtype=np.float32)
    assert [slot for slot, _ in fuse(dense, arrays({}), 2)] == [3, 2]


def test_fuse_does_not_depend_on_unit_or_offset() -> None:
    dense, lexical = {1: 3.0, 2: 1.0, 3: 2.0}, {1: 1.0, 2: 5.0, 3: 3.0}
    moved = {slot: 1000 * score - 7 for slot, score in lexical.items()}
    first, second = fuse(arrays(dense), arrays(lexical), 3, 0.6), fuse(arrays(dense), arrays(moved), 3, 0.6)
    assert [slot for slot, _ in first] == [slot for slot, _ in second]
    assert [score for _, score in first] == pytest.approx([score for _, score in second])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("side", [0, 1])
def test_fuse_refuses_nan_and_infinity(bad: float, side: int) -> None:
    pair = [arrays({1: 1.0}), arrays({1: 1.0})]
    pair[side] = arrays({1: 1.0, 2: bad})
    with pytest.raises(ValueError, match="finite"):
        fuse(pair[0], pair[1], 3)


def test_fuse_refuses_repeated_slots_unequal_lengths_and_weights_out_of_range() -> None:
    one, twice = arrays({1: 1.0}), (np.array([1, 1]), np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="once"):
        fuse(one, twice, 1)
    with pytest.raises(ValueError, match="one dense score a slot"):
        fuse((np.array([1, 2]), np.array([1.0])), one, 1)
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="weight"):
            fuse(one, one, 1, weight)
