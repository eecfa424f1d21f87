"""A text whose label nobody else has is recovered from a sum without noise: what the attack on gradients can do."""

from __future__ import annotations

import numpy as np
import pytest

from federation.audit import inversion


@pytest.mark.parametrize("others", [0, 3, 19])
def test_a_text_whose_label_nobody_else_has_is_recovered_from_a_sum_without_noise(others: int) -> None:
    """By a model of zeros the row of label c is Σ over its texts, less 1/C of all texts."""
    rng, classes = np.random.default_rng(0), 40
    x = rng.standard_normal((1 + others, 32))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    errors = np.eye(classes)[np.arange(1 + others)] - 1 / classes
    seen = np.concatenate([errors.T @ x, errors.sum(axis=0)[:, None]], axis=1)
    assert (inversion.recovered_rows(seen) @ x[0]).max() > 0.95
