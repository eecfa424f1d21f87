"""The scope score and its threshold: signs equal an oracle, memories are judged without themselves."""

from __future__ import annotations

import math
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.device.device import Device, Memory
from engine.device.suggestion import Suggestions
from engine.model.catalogue import Catalogue
from engine.personal import scope
from engine.personal.rescorer import ANCHOR_COSINE, NEAR_SHARPNESS, log_softmax
from engine.personal.scope import LEAST_OWN, SIGNS, Scope, signs, threshold
from store import DeviceKey

SEEDS = st.integers(0, 2**32 - 1)
ENERGY, CERTAIN, NEAR = map(SIGNS.index, ("energy", "certain", "near"))


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, requests=st.integers(0, 4), memories=st.integers(0, 5))
def test_signs_equal_the_oracle(seed: int, requests: int, memories: int) -> None:
    rng = np.random.default_rng(seed)
    logits, answers = rng.normal(0, 5, (2, requests, 3))
    personal, cosines = log_softmax(answers), rng.uniform(-1, 1, (requests, memories))
    cosines[rng.random(cosines.shape) < 0.2] = -np.inf  # Memories that must not count.
    got = signs(logits, personal, cosines)
    for row in range(requests):
        energy = math.log(sum(math.exp(one) for one in logits[row]))
        entropy = -sum(math.exp(one) * one for one in personal[row])
        near = math.exp(NEAR_SHARPNESS * (ANCHOR_COSINE - 1))
        near += sum(math.exp(NEAR_SHARPNESS * (one - 1)) for one in cosines[row] if one > -math.inf)
        np.testing.assert_allclose(got.values[row], [energy, -entropy, math.log(near)], rtol=1e-9, atol=1e-9)
        assert got.highest_log[row] == pytest.approx(max(logits[row]) - energy)
        assert got.scores[row] == pytest.approx(float(np.dot(scope.WEIGHTS, got.values[row])))


def test_a_certain_answer_has_no_entropy_and_no_nan() -> None:
    got = signs(np.array([[800.0, -800.0]]), np.array([[0.0, -np.inf]]), np.zeros((1, 0)))
    assert np.isfinite(got.values).all()
    assert got.values[0, CERTAIN] == pytest.approx(0, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, size=st.integers(LEAST_OWN, 60), scale=st.floats(0.1, 10), shift=st.floats(-50, 50))
def test_threshold_follows_the_scale_of_the_scores_and_not_their_order(
    seed: int, size: int, scale: float, shift: float
) -> None:
    rng = np.random.default_rng(seed)
    own = rng.gamma(2.0, 1.0, size)
    lowest = threshold(own, share=0.05)
    assert threshold(scale * own + shift, share=0.05) == pytest.approx(scale * lowest + shift, abs=1e-6)
    assert threshold(rng.permutation(own), share=0.05) == pytest.approx(lowest, abs=1e-9)
    assert threshold(own, share=0.02) <= lowest <= threshold(own, share=0.2)


def test_threshold_of_many_scores_is_their_quantile_whatever_their_shape() -> None:
    own = np.random.default_rng(0).gamma(0.5, 1.0, 20_000)
    assert threshold(own, share=0.05) == pytest.approx(np.quantile(own, 0.05), abs=0.02)


@pytest.mark.parametrize("size", [6, 12, 25, 60, 200])
@pytest.mark.parametrize("shape", ["normal", "gamma", "uniform"])
def test_about_the_stated_share_of_unseen_requests_in_scope_is_refused(size: int, shape: str) -> None:
    rng = np.random.default_rng(size)
    draw = {"normal": rng.normal, "gamma": lambda size: rng.gamma(3.0, 1.0, size), "uniform": rng.random}[shape]
    refused = [np.mean(draw(size=50) < threshold(draw(size=size), share=0.05)) for _ in range(400)]
    assert 0.005 < np.mean(refused) < 0.09


@pytest.mark.parametrize("size", range(LEAST_OWN))
def test_too_few_memories_refuse_nothing(size: int) -> None:
    assert threshold(np.arange(float(size)), share=0.05) == -np.inf
    assert Scope(score=-1e9, threshold=-np.inf).known


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="false_refusals="):
        threshold(np.zeros(10), share=share)


# --- on a device

WORDS = {
    "taxi": ("ride", "airport", "cab", "office"),
    "pizza": ("cheese", "slice", "dinner", "hungry"),
    "opera": ("seats", "stage", "singer", "evening"),
}
HABITS = {label: [" ".join(pair) for pair in permutations(words, 2)] for label, words in WORDS.items()}
STRANGE = ("quantum zebra parliament", "xylophone glacier tax", "fjord calculus moth")


@pytest.fixture
def remembering(device: Device) -> Device:
    device.remember_many([Memory(text=text, label=label) for label, texts in HABITS.items() for text in texts])
    return device


def test_what_is_like_nothing_is_not_known_and_what_is_like_memories_is(remembering: Device) -> None:
    for text in ("ride cab", "cheese dinner slice", "the stage seats"):
        assert remembering.suggest(text).known
    for text in STRANGE:
        answer = remembering.suggest(text)
        assert not answer.known
        assert answer.scope.score < answer.scope.threshold
        assert len(answer) == 3  # Its guesses stay for whoever wants them.


def test_suggestions_are_a_list_and_how_many_are_asked_for_decides_nothing(remembering: Device) -> None:
    answer = remembering.suggest("ride the cab", k=2)
    assert isinstance(answer, list)
    assert isinstance(answer, Suggestions)
    assert answer == list(answer) == list(remembering.suggest("ride the cab", k=99))[:2]
    assert answer.scope == remembering.suggest("ride the cab", k=1, cautious=True).scope


def test_a_larger_share_refuses_what_a_smaller_one_does(remembering: Device) -> None:
    texts = [*(text for texts in HABITS.values() for text in texts), *STRANGE, "ride", "an evening glacier"]
    refused = [
        {text for text in texts if not remembering.suggest(text, false_refusals=share).known}
        for share in (0.01, 0.05, 0.3, 0.9)
    ]
    for fewer, more in pairwise(refused):
        assert fewer <= more
    assert refused[0] < refused[-1]
    with pytest.raises(ValueError, match=r"false_refusals=1\.5"):
        remembering.suggest("ride", false_refusals=1.5)


def test_a_device_without_memories_refuses_nothing(device: Device) -> None:
    for number in range(LEAST_OWN):
        assert all(device.suggest(text).known for text in STRANGE)
        device.remember("ride to the airport" + " please" * number, label="taxi")
    assert not any(device.suggest(text).known for text in STRANGE)


def test_memories_are_judged_as_if_they_were_not_there(tmp_path: Path, catalogue: Catalogue, toy: Any) -> None:
    memories = [Memory(text=text, label=label, time=1.0) for label, texts in HABITS.items() for text in texts]
    key = DeviceKey(bytes(range(32)))
    with Device.create(tmp_path / "whole", key, catalogue=catalogue, encoder=toy) as whole:
        whole.remember_many(memories)
        _, own = whole.scope_signs(["anything"])
    assert len(own.values) == len(memories)
    for left_out, values in list(zip(memories, own.values, strict=True))[::9]:
        folder = tmp_path / left_out.text.replace(" ", "-")
        with Device.create(folder, key, catalogue=catalogue, encoder=toy) as without:
            without.remember_many([one for one in memories if one is not left_out])
            asked, _ = without.scope_signs([left_out.text])
        # How certain the answer is depends on the weights, which the memory had a part in choosing.
        for sign in (ENERGY, NEAR):
            assert asked.values[0, sign] == pytest.approx(values[sign], abs=1e-4)


def test_the_only_memory_of_a_private_label_sets_no_threshold(device: Device) -> None:
    for number in range(LEAST_OWN):
        device.remember(f"parrot {number}", label=f"private label {number}")
    assert device.suggest("anything").scope.threshold == -np.inf


def test_the_threshold_changes_with_the_memory_and_comes_back_with_it(remembering: Device) -> None:
    before = remembering.suggest("ride").scope
    number = remembering.remember("a glacier in the evening", label="opera")
    assert remembering.suggest("ride").scope != before
    remembering.forget(number)
    assert remembering.suggest("ride").scope == before
