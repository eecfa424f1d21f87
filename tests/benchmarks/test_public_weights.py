"""The fit of the public weights: at its optimum, on people apart, and of devices that know what theirs said alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks import public_weights as module
from benchmarks.public_weights import (
    ALONE,
    RIDGE,
    Setting,
    cell,
    compared,
    gains_by,
    line,
    measured,
    optimum,
    settings_of,
)
from engine.model.catalogue import Catalogue
from engine.personal.caution import CAUTIONS
from engine.personal.rescorer import PUBLIC_WEIGHTS, K, statistics
from federation.data.dataset import Row

LABELS = ("taxi", "pizza", "opera")


@pytest.fixture
def crowd() -> list[list[Row]]:
    """Twelve people, each of whom prefers one label for texts that do not tell, and has a label of their own."""
    rng = np.random.default_rng(0)
    people = []
    for number in range(12):
        favour = rng.dirichlet(np.full(3, 0.4))
        labels = [str(rng.choice(LABELS, p=favour)) for _ in range(30)]
        texts = [f"the usual {rng.integers(9)} {label[:2] * int(rng.integers(2))}" for label in labels]
        rows = [
            Row(user=str(number), order=0, text=text, label=label) for text, label in zip(texts, labels, strict=True)
        ]
        own = [Row(user=str(number), order=0, text=f"own thing {n}", label=f"own {number}") for n in range(3)]
        people.append(rows[:15] + own + rows[15:])
    return people


@pytest.fixture
def found(crowd: list[list[Row]], toy: Any) -> list[Setting]:
    return settings_of("made-up", [crowd], toy, Catalogue.from_names(LABELS), fit=True)


def test_weights_are_at_the_optimum_of_the_penalised_likelihood_and_the_first_is_1(found: list[Setting]) -> None:
    cells = [cell(one.fit, size, np.random.default_rng(0)) for one in found for size in (2, 11)]
    w = optimum(cells)
    assert w[0] == 1.0
    slope = -RIDGE * (w - ALONE)
    for judged in cells:
        requests = sum(len(one.y) for one in judged)
        slope += sum(statistics(one, w).gradient for one in judged) / requests / len(cells)
    assert np.abs(slope[1:]).max() < 1e-6
    assert np.abs(w[1:]).max() > 0.05


def test_people_train_fit_or_are_measured_on_and_never_two_of_these(found: list[Setting], crowd: Any) -> None:
    for one in found:
        fit, held_out = ({name for person in part for name in person.names[3:]} for part in (one.fit, one.held_out))
        assert fit == {f"own {n}" for n in (1, 4, 7, 10)}
        assert held_out == {f"own {n}" for n in (2, 5, 8, 11)}


def test_people_to_check_on_are_in_no_fit(crowd: list[list[Row]], toy: Any) -> None:
    for one in settings_of("made-up", [crowd], toy, Catalogue.from_names(LABELS), fit=False):
        assert one.fit == []
        assert len(one.held_out) == 8


def test_device_knows_the_labels_of_what_it_remembers_and_no_other_of_its_person(found: list[Setting]) -> None:
    person = found[0].fit[0]
    memory, logs, names = person.device(np.array([0, 1]))
    assert names == LABELS
    assert logs.shape == (33, 3)
    memory, logs, names = person.device(np.array([0, 16]))
    assert names == (*LABELS, person.names[-1])
    assert memory.y[-1] == 3
    assert memory.public == 3
    np.testing.assert_allclose(np.exp(logs).sum(axis=1), 1.0)


def test_same_weights_gain_nothing_and_what_they_cannot_know_is_wrong(found: list[Setting]) -> None:
    told = compared(found[0], 3, (ALONE, PUBLIC_WEIGHTS, PUBLIC_WEIGHTS), 0)
    assert told["gain"] == told["gain_error"] == [0.0, 0.0]
    assert "+0.000 ± 0.000" in line(told)
    table = measured(found[0].held_out, 1, ALONE, np.random.default_rng(0))
    assert table.shape == (4, 2)
    assert (table[:, 1] <= 30 / 32).all()


def test_script_knows_as_many_weights_as_the_engine() -> None:
    assert module.ALONE.shape == PUBLIC_WEIGHTS.shape == (K,)


def test_gains_are_none_by_the_shared_model_alone_and_some_by_habits(crowd: list[list[Row]], toy: Any) -> None:
    public = [[row for row in rows if row.label in LABELS] for rows in crowd]
    settings = settings_of("made-up", [public], toy, Catalogue.from_names(LABELS), fit=True)
    assert gains_by(settings, ALONE, 0).tolist() == [0.0] * len(CAUTIONS)
    gains = gains_by(settings, PUBLIC_WEIGHTS, 0)
    assert gains[0] > 0.02
    assert gains[-1] < gains[0]
