"""Memories of every odd kind give sensible answers, and what was forgotten leaves no trace in any of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.device.device import Device, Memory
from engine.model.catalogue import Catalogue
from engine.model.training import TrainingPlan
from engine.personal.rescorer import PUBLIC_WEIGHTS
from store import DeviceKey, FileSecret

QUESTIONS = ["taxi to the station", "", "🍕🍕", "明日の天気は", "Wie komme ich zum Bahnhof?", "x" * 5000]
CASES: dict[str, list[tuple[str, str | None]]] = {
    "no memory": [],
    "one memory": [("taxi please", "taxi")],
    "one memory of a private label": [("feed the parrot", "parrot care")],
    "one label only": [(f"taxi to gate {n}", "taxi") for n in range(12)],
    "identical texts, one label": [("the usual", "pizza")] * 12,
    "identical texts, all labels": [("the usual", label) for label in ("taxi", "pizza", "opera", "parrot care")] * 4,
    "no labels": [(f"note {n}", None) for n in range(5)],
    "a habit that changed": [("the usual", label) for label in ["pizza"] * 8 + ["opera"] * 8],
    "emoji": [("🚕🏠", "taxi"), ("🍕", "pizza"), ("🎭👏🏽", "opera")] * 3,
    "languages": [("Taxi zum Flughafen", "taxi"), ("一个披萨", "pizza"), ("オペラの券", "opera"), ("بيتزا", "pizza")]
    * 3,
    "white space and signs": [(" . ", "taxi"), ("\t\n", "pizza"), ("?!", "opera")] * 3,
    "one very long": [("taxi " * 20_000, "taxi"), ("pizza", "pizza")],
    "private labels only": [(f"feed the parrot {n}", f"parrot {n % 3}") for n in range(9)],
}


def opened(folder: Path, catalogue: Catalogue, encoder: Any) -> Device:
    secret = FileSecret(folder / "secret")
    return Device.create(folder / "phone", DeviceKey.generate(), catalogue=catalogue, encoder=encoder, secret=secret)


def answers(device: Device, question: str) -> list[tuple[str, float]]:
    return [(one.label, one.score) for one in device.suggest(question, k=50)]


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_memory_is_answered_from(tmp_path: Path, catalogue: Catalogue, toy: Any, name: str) -> None:
    with opened(tmp_path, catalogue, toy) as device:
        device.remember_many(
            [Memory(text=text, label=label, time=float(n)) for n, (text, label) in enumerate(CASES[name])]
        )
        labels = {*catalogue.names, *(label for _, label in CASES[name] if label)}
        for question in QUESTIONS:
            for cautious in (False, True):
                suggested = device.suggest(question, k=50, cautious=cautious)
                assert {one.label for one in suggested} == labels
                assert all(0 <= one.score <= 1 for one in suggested)
                assert sum(one.score for one in suggested) == pytest.approx(1.0)
            found = device.search(question, k=3)
            assert len(found) == len({one.id for one in found}) <= min(3, len(CASES[name]))
            assert all(math.isfinite(one.similarity) for one in found)
        flat = device.train(device.model.flat, plan=TrainingPlan(), hold_back=False, rng=np.random.default_rng(0))
        assert np.isfinite(flat).all()
        assert np.isfinite(device.rescorer_statistics(device.model.flat, PUBLIC_WEIGHTS)).all()
        measured = device.evaluate([(question, "taxi") for question in QUESTIONS])
        assert all(1 <= rank <= len(labels) for rank in measured.personal_ranks)


@pytest.mark.parametrize("name", [name for name in CASES if len(CASES[name]) > 1])
def test_a_device_that_forgot_answers_as_one_that_never_knew(
    tmp_path: Path, catalogue: Catalogue, toy: Any, name: str
) -> None:
    kept, gone = CASES[name][::2], CASES[name][1::2]
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with opened(tmp_path / "one", catalogue, toy) as forgetful, opened(tmp_path / "two", catalogue, toy) as innocent:
        for device in (forgetful, innocent):
            device.remember_many([Memory(text=text, label=label, time=0.0) for text, label in kept])
        ids = forgetful.remember_many([Memory(text=text, label=label, time=1.0) for text, label in gone])
        for question in QUESTIONS:
            forgetful.suggest(question)
            forgetful.search(question)
        forgetful.forget(ids)
        for question in QUESTIONS:
            assert answers(forgetful, question) == answers(innocent, question)  # To the last bit.
            assert forgetful.search(question, k=9) == innocent.search(question, k=9)
        statistics = [each.rescorer_statistics(each.model.flat, PUBLIC_WEIGHTS) for each in (forgetful, innocent)]
        assert statistics[0].tobytes() == statistics[1].tobytes()


SAID = st.tuples(
    st.sampled_from(["taxi", "pizza for two", "opera", "parrot"]), st.sampled_from(["taxi", "pizza", "own"])
)


@given(said=st.lists(SAID, min_size=1, max_size=12))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_memories_that_came_one_by_one_answer_as_if_they_had_come_at_once(
    tmp_path_factory: pytest.TempPathFactory, catalogue: Catalogue, toy: Any, said: list[tuple[str, str]]
) -> None:
    folders = [tmp_path_factory.mktemp("device") for _ in range(2)]
    with opened(folders[0], catalogue, toy) as slow, opened(folders[1], catalogue, toy) as quick:
        for number, (text, label) in enumerate(said):
            slow.remember(text, label=label, time=float(number))
            slow.suggest("pizza")  # So that something is kept to bring up to date.
        quick.remember_many([Memory(text=text, label=label, time=float(n)) for n, (text, label) in enumerate(said)])
        for question in ("pizza", "a taxi and a parrot"):
            np.testing.assert_allclose(
                [score for _, score in answers(slow, question)],
                [score for _, score in answers(quick, question)],
                rtol=1e-9,
            )


@pytest.mark.slow
def test_a_hundred_thousand_memories_are_answered_from(tmp_path: Path, catalogue: Catalogue, toy: Any) -> None:
    labels = ["taxi", "pizza", "opera", "parrot care"]
    with opened(tmp_path, catalogue, toy) as device:
        for start in range(0, 100_000, 5_000):
            device.remember_many(
                [
                    Memory(text=f"number {n} for {labels[n % 4]}", label=labels[n % 4], time=float(n))
                    for n in range(start, start + 5_000)
                ]
            )
        assert device.suggest("parrot", k=1)[0].label == "parrot care"
        (best,) = device.search("number 77777 for pizza", k=1)
        assert best.text == "number 77777 for pizza"
        device.forget(best.id)
        assert device.search("number 77777 for pizza", k=1)[0].id != best.id
