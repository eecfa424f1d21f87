"""The fit of the weights of recall: half the way, each conversation ranked by what the others gave."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.recall_weights import (
    BY_HAND,
    SHARE_OF_THE_WAY,
    START,
    best_of_the_signs,
    compared,
    fitted,
    line,
    without_each,
)
from engine.recall.features import FEATURES
from engine.recall.fit import PENALTY, RankedList, fit_weights
from engine.recall.weights import WEIGHTS
from federation.evaluation.memory import Asked

LOUD, SILENT = FEATURES.index("tells_number"), FEATURES.index("kept_then")


def question(rng: np.random.Generator, *, sign: float = 1.0) -> Asked:
    """Eight candidates, of which the one with the most of one feature is the evidence."""
    features = rng.normal(size=(8, len(FEATURES))).astype(np.float32)
    features[:, SILENT] = 0
    best = int((sign * features[:, LOUD]).argmax())
    return Asked(evidence=frozenset({best + 1}), missing=0, ranked={}, ids=np.arange(1, 9), features=features)


def worth(lists: list[RankedList], weights: np.ndarray) -> float:
    """What the fit makes greatest."""
    total = 0.0
    for one in lists:
        scores = one.features @ weights
        total += scores[list(one.evidence)].mean() - np.log(np.exp(scores).sum())
    return total - PENALTY / 2 * float(((weights - START)[weights != 0] ** 2).sum())


@pytest.fixture
def asked() -> list[list[Asked]]:
    rng = np.random.default_rng(0)
    return [[question(rng) for _ in range(15)] for _ in range(4)]


def test_every_feature_has_a_weight_by_hand() -> None:
    assert list(BY_HAND) != []
    assert set(BY_HAND) == set(FEATURES) == set(WEIGHTS)


def test_shipped_weights_of_what_scripts_say_nothing_of_are_those_by_hand() -> None:
    for name in ("kept_soon_after", "tells_of_then"):
        assert WEIGHTS[name] == pytest.approx(BY_HAND[name], abs=0.1)


def test_half_the_way_is_gone_to_the_best_and_what_is_silent_stays(asked: list[list[Asked]]) -> None:
    lists = [its for one in asked for its in (q.list() for q in one) if isinstance(its, RankedList)]
    best = fit_weights(lists, prior=START)
    weights = fitted(asked)
    right = best * START >= 0
    assert not right.all()
    assert np.abs(weights[right] - (START + SHARE_OF_THE_WAY * (best - START))[right]).mean() < 0.1
    best = best_of_the_signs(lists)
    assert (best * START >= 0).all()
    np.testing.assert_allclose(weights, START + SHARE_OF_THE_WAY * (best - START), atol=0.0051)
    for at in np.flatnonzero(best):  # What is not 0 is at its best, the rest being as it is.
        for step in (-0.01, 0.01):
            other = best + step * (np.arange(len(best)) == at)
            assert worth(lists, other) < worth(lists, best)
    assert weights[SILENT] == START[SILENT]
    assert weights[LOUD] > START[LOUD] + 0.5


def test_a_conversation_is_not_ranked_by_weights_that_it_gave(asked: list[list[Asked]]) -> None:
    rng = np.random.default_rng(1)
    odd = [question(rng, sign=-1.0) for _ in range(15)]
    of_each = without_each([*asked, odd])
    np.testing.assert_array_equal(of_each[-1], fitted(asked))
    assert not np.array_equal(of_each[0], of_each[-1])


def test_the_gain_is_what_the_new_weights_find_more(asked: list[list[Asked]]) -> None:
    row = compared("made up", asked, [fitted(asked)] * 4)
    assert row["gain"]["mrr"] == pytest.approx(row["fitted"]["mrr"] - row["by_hand"]["mrr"])
    assert row["gain"]["mrr"] > 0.05
    assert line(row).startswith("made up")
    same = compared("same", asked, [START] * 4)
    assert same["gain"]["recall_at_5"] == same["gain"]["intervals"]["recall_at_5"][1] == 0
