"""Choosing on a device: the ranking beside a naive one, why each item is there, what is kept, forgotten, let out."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.choices.chooser import Chooser
from engine.choices.factors import BLOCKS, context_features, profiles
from engine.choices.habits import PUBLIC_HABITS, Habits
from engine.choices.history import CHOICE, ChoiceHistory
from engine.choices.model import FACTORS, ChoiceModel
from engine.device.chooses import POWER, reply_length
from engine.device.device import Device
from engine.errors import ModelError
from engine.model.catalogue import Catalogue
from engine.model.checkpoint import Checkpoint
from store import DeviceKey, Where

FILMS = ("alien", "brazil", "casablanca", "dune", "eraserhead", "fargo")


def learned(names: tuple[str, ...] = FILMS, *, factors: int = 3, seed: int = 0, **changed: Any) -> ChoiceModel:
    rng = np.random.default_rng(seed)
    start = ChoiceModel.start(Catalogue.from_names(names), factors=factors, seed=seed)
    weights = rng.normal(scale=0.2, size=(len(names), BLOCKS * factors)).astype(np.float32)
    plain: dict[str, Any] = {"items": start.items, "basis": start.basis, "weights": weights}
    return ChoiceModel(**(plain | {"shares": rng.dirichlet(np.ones(len(names)))} | changed))


@pytest.fixture
def filled(device: Device) -> Device:
    """Someone who has coffee at work and tea at home, and one choice of another kind."""
    for number in range(6):
        at = "work" if number % 2 else "home"
        device.note_choice(
            "coffee" if number % 2 else "tea", {"at": at, "day": f"day {number % 3}"}, time=float(number)
        )
    device.note_choice("alien", {"at": "home"}, time=6.0)
    return device


# The ranking.


def test_probabilities_are_the_mixture_of_repeats_and_new_items() -> None:
    model = learned(repeat_rate=0.4)
    made = [("alien", {"at": "a"}, 0.0), ("own film", {}, 1.0), ("dune", {"at": "b"}, 2.0), ("alien", {"at": "a"}, 3.0)]
    history = ChoiceHistory.of(made)
    chooser = Chooser.of(history, model)
    p = chooser.probabilities({"at": "a"})
    assert chooser.items == (*FILMS, "own film")
    assert p.sum() == pytest.approx(1)
    habits = Habits.fit(history, shared=model.habits, repeat_rate=0.4)
    assert habits.repeat == pytest.approx((1 + 5 * 0.4) / (4 + 5))
    for name, share in zip(history.names, habits.shares({"at": "a"}), strict=True):
        assert p[chooser.items.index(name)] == pytest.approx(habits.repeat * share)
    # Items of this user alone have no factors, so that the profile is of the others.
    z = np.concatenate([profiles(np.array([0, 3, 0]), model.basis)[-1], context_features([{"at": "a"}], 3)[0]])
    assert model.weights is not None
    assert model.shares is not None
    scores = {name: float(model.weights[place] @ z) for place, name in enumerate(FILMS)}
    least = {name: 0.5 * float(share) for name, share in zip(FILMS, model.shares, strict=True)}
    new = {name: max(score, least[name]) for name, score in scores.items() if name not in history.names}
    for name, value in new.items():
        assert p[chooser.items.index(name)] == pytest.approx((1 - habits.repeat) * value / sum(new.values()), rel=1e-4)
    assert {scores[name] < least[name] for name in new} == {True, False}


def test_who_never_repeats_gets_new_items_first_and_who_always_does_gets_own_ones() -> None:
    model = learned(repeat_rate=0.5)
    once = ChoiceHistory.of([(name, {}, float(n)) for n, name in enumerate([*FILMS[:3], *map(str, range(60))])])
    again = ChoiceHistory.of([(FILMS[n % 3], {}, float(n)) for n in range(60)])
    assert {one.item for one in Chooser.of(once, model).best({}, k=3)} == set(FILMS[3:])
    assert {one.item for one in Chooser.of(again, model).best({}, k=3)} == set(FILMS[:3])


def test_new_items_are_ranked_by_their_scores_and_where_these_say_little_by_what_people_choose() -> None:
    weights = np.zeros((6, BLOCKS * 3), dtype=np.float32)
    weights[:, -1] = [-0.1, -0.5, 0.18, 0.4, 0.0, -0.4]  # The constant's.
    shares = np.array([0.1, 0.4, 0.1, 0.05, 0.05, 0.3])
    best = Chooser.of(ChoiceHistory.of([]), learned(weights=weights, shares=shares)).best({}, k=6)
    assert [one.item for one in best] == ["dune", "brazil", "casablanca", "fargo", "alien", "eraserhead"]
    expected = np.array([0.4, 0.2, 0.18, 0.15, 0.05, 0.025])
    np.testing.assert_allclose([one.probability for one in best], expected / expected.sum(), rtol=1e-6)
    assert best[0].explanation == "people choose this often"


@pytest.mark.parametrize("model", [None, learned(), ChoiceModel.start(Catalogue.from_names(FILMS), factors=2)])
@pytest.mark.parametrize("names", [[], ["mine"], ["alien"], list(FILMS), [*FILMS, "mine"]], ids=str)
def test_any_history_and_model_gives_probabilities(model: ChoiceModel | None, names: list[str]) -> None:
    chooser = Chooser.of(ChoiceHistory.of([(name, {}, float(n)) for n, name in enumerate(names)]), model)
    p = chooser.probabilities({"at": "home"})
    assert len(p) == len(chooser.items) == len({*names, *(FILMS if model else ())})
    assert (p >= 0).all()
    assert not len(p) or p.sum() == pytest.approx(1)
    assert len(chooser.best({}, k=3)) == min(3, len(p))


# On a device.


def test_device_chooses_by_context_and_says_why(filled: Device) -> None:
    best = filled.choose({"at": "home"}, k=2)
    assert best[0].item == "tea"
    assert best[0].explanation == "chosen 3 times, 3 of them with at home"
    assert filled.choose({"at": "work"}, k=1)[0].item == "coffee"
    once = next(one for one in filled.choose({"at": "work"}, k=3) if one.item == "alien")
    assert once.explanation == "chosen once, 0 of them with at work"
    assert filled.choose(k=1)[0].explanation == "chosen 3 times"


def test_new_items_are_explained_by_those_that_lead_to_them(filled: Device) -> None:
    weights = np.zeros((6, BLOCKS * 3), dtype=np.float32)
    model = learned(weights=weights)
    weights[FILMS.index("dune"), :3] = model.basis[0]  # Of the profile that fades fastest: likes what alien is.
    filled.load_choice_model(learned(weights=weights))
    found = {one.item: one for one in filled.choose(k=10)}
    assert found["dune"].alike == ("alien",)
    assert found["dune"].explanation == "people who choose alien also choose this"
    assert set(found) == {*FILMS, "tea", "coffee"}


def test_among_limits_the_answer_and_its_probabilities(filled: Device) -> None:
    among = filled.choose({"at": "home"}, k=5, among={"coffee", "alien", "unknown"})
    assert {one.item for one in among} == {"coffee", "alien"}
    assert sum(one.probability for one in among) == pytest.approx(1)
    assert filled.choose(among=[]) == []


def test_empty_device_and_bad_arguments(device: Device) -> None:
    assert device.choose() == []
    for bad in ({"at": 1}, "home", {"at": {"deep": "x"}}):
        with pytest.raises(ValueError, match="flat object of strings"):
            device.choose(bad)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="flat object of strings"):
            device.note_choice("tea", bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="k=0"):
        device.choose(k=0)
    for item in ("", "x" * 1001, "\ud800"):
        with pytest.raises(ValueError, match="label"):
            device.note_choice(item)
    assert device.count() == 0


def test_one_refused_choice_keeps_all_out(device: Device) -> None:
    with pytest.raises(ValueError, match="label"):
        device.note_choices([("tea", {}, 1.0), ("", {}, 2.0)])
    assert device.count() == 0
    assert device.note_choices([]) == []


def test_choice_is_an_ordinary_memory_that_outlives_the_process(
    filled: Device, folder: Path, key: DeviceKey, toy: Any
) -> None:
    before = filled.choose({"at": "home"}, k=3)
    filled.close()
    with Device.open(folder, key, encoder=toy) as again:
        assert again.choose({"at": "home"}, k=3) == before
        memory = again.memories()[0]
        assert (memory.label, memory.purpose, memory.time) == ("tea", CHOICE, 0.0)
        assert json.loads(memory.text) == {"at": "home", "day": "day 0"}
        assert again.search("home", purpose=CHOICE)


def test_choices_train_no_labels_and_labels_are_no_choices(filled: Device) -> None:
    from engine.model.training import TrainingPlan

    flat = filled.model.flat
    trained = filled.train(flat, plan=TrainingPlan(), hold_back=False, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(trained, flat)
    assert filled.private_labels == ()
    filled.remember("a ride home", label="taxi")
    assert "taxi" not in {one.item for one in filled.choose(k=10)}


def test_forgotten_choice_is_gone_from_counts_as_if_it_had_never_been(filled: Device) -> None:
    before = filled.choose({"at": "home"}, k=3)
    number = filled.note_choice("gin", {"at": "home"}, time=9.0)
    assert {one.item for one in filled.choose({"at": "home"}, k=9)} == {"tea", "coffee", "alien", "gin"}
    filled.forget(number)
    assert filled.choose({"at": "home"}, k=3) == before
    filled.erase(Where(purpose=CHOICE))
    assert filled.choose() == []


def test_expired_choice_counts_no_more(filled: Device) -> None:
    filled.remember('{"at":"home"}', label="gin", purpose=CHOICE, expires=time.time() + 0.2)
    assert "gin" in {one.item for one in filled.choose(k=9)}
    time.sleep(0.25)
    assert "gin" not in {one.item for one in filled.choose(k=9)}


def test_withdrawn_purpose_leaves_what_people_choose_on_the_whole(filled: Device) -> None:
    weights = np.zeros((6, BLOCKS * 3), dtype=np.float32)
    weights[FILMS.index("fargo"), -1] = 0.5
    filled.load_choice_model(learned(weights=weights, repeat_rate=1.0))
    assert filled.choose({"at": "home"}, k=1)[0].item == "tea"
    filled.withdraw_purpose(CHOICE)
    best = filled.choose({"at": "home"}, k=9)
    assert best[0].item == "fargo"
    assert {one.item for one in best} == set(FILMS)
    filled.allow_purpose(CHOICE)
    assert filled.choose({"at": "home"}, k=1)[0].item == "tea"


def test_memory_of_that_purpose_without_an_item_or_a_context_is_no_choice(filled: Device) -> None:
    before = filled.choose(k=9)
    filled.remember("not a context", label="gin", purpose=CHOICE)
    filled.remember('{"at": 3}', label="gin", purpose=CHOICE)
    filled.remember("{}", purpose=CHOICE)
    assert filled.choose(k=9) == before


# What a round may take.


@pytest.mark.parametrize("step", range(POWER, BLOCKS))
def test_items_that_the_list_lacks_say_nothing_and_the_length_is_fixed(filled: Device, step: int) -> None:
    model = learned()
    filled.load_choice_model(model)
    with_private = filled.choice_statistics(
        model.basis, items=model.items.fingerprint, step=step, weights=PUBLIC_HABITS
    )
    sums, habits = with_private
    assert len(sums) + len(habits) == reply_length(len(FILMS), 3)
    block = sums[: len(FILMS) * 3].reshape(len(FILMS), 3)
    assert not block[1:].any()  # Of alien alone.
    filled.erase(Where(purpose=CHOICE))
    filled.note_choice("alien", {"at": "home"}, time=6.0)
    alone = filled.choice_statistics(model.basis, items=model.items.fingerprint, step=step, weights=PUBLIC_HABITS)
    np.testing.assert_array_equal(np.concatenate(with_private), np.concatenate(alone))


@pytest.mark.parametrize("step", range(POWER, BLOCKS))
def test_when_an_item_that_the_list_lacks_was_chosen_says_nothing(device: Device, step: int) -> None:
    model = learned()
    device.load_choice_model(model)
    device.note_choices([(item, {}, 5.0) for item in ("alien", "dune", "alien")])  # Nothing tells their order.
    terms = {"items": model.items.fingerprint, "step": step, "weights": PUBLIC_HABITS}
    before = np.concatenate(device.choice_statistics(model.basis, **terms))
    device.note_choice("of my own", {}, time=6.0)
    np.testing.assert_array_equal(np.concatenate(device.choice_statistics(model.basis, **terms)), before)


def test_statistics_are_of_the_list_that_is_asked_about_alone(filled: Device) -> None:
    asked, other = learned(), learned((*FILMS[:-1], "another"))
    filled.load_choice_model(other)
    with pytest.raises(ModelError, match="another list"):
        filled.choice_statistics(asked.basis, items=asked.items.fingerprint, step=0, weights=PUBLIC_HABITS)


def test_many_items_far_below_zero_are_ranked_by_what_people_choose() -> None:
    names = tuple(f"film {n:04d}" for n in range(2000))
    weights = np.zeros((len(names), BLOCKS * 3), dtype=np.float32)
    weights[:, -1] = -0.5 - np.arange(len(names)) / 1e4
    shares = 1.0 / np.arange(1, 2001)
    chooser = Chooser.of(ChoiceHistory.of([("film 1999", {}, 0.0)]), learned(names, weights=weights, shares=shares))
    p = chooser.probabilities({})
    assert np.isfinite(p).all()
    assert p.sum() == pytest.approx(1.0)
    assert [one.item for one in chooser.best({}, k=3, among=names[:10])] == list(names[:3])


def test_a_lone_surrogate_inside_a_context_is_no_context(filled: Device) -> None:
    before = filled.choose(k=9)
    filled.remember('{"a":"\\ud800"}', label="alien", purpose=CHOICE)
    assert filled.choose(k=9) == before
    with pytest.raises(ValueError, match="surrogate"):
        filled.note_choice("alien", {"a": "\ud800"})


def test_statistics_need_the_list_and_a_whole_request(filled: Device) -> None:
    model = learned()
    with pytest.raises(ModelError, match="load a model"):
        filled.choice_statistics(model.basis, items=model.items.fingerprint, step=0, weights=PUBLIC_HABITS)
    filled.load_choice_model(model)
    for basis, step in ((model.basis[:3], 0), (model.basis * np.nan, 0), (model.basis, 4), (model.basis, -2)):
        with pytest.raises(ModelError):
            filled.choice_statistics(basis, items=model.items.fingerprint, step=step, weights=PUBLIC_HABITS)


# The model on disk.


def test_model_comes_back_from_its_bytes_to_the_bit(tmp_path: Path) -> None:
    for model in (learned(repeat_rate=0.3, round=7), ChoiceModel.start(Catalogue.from_names(FILMS), factors=2)):
        model.save(tmp_path / "m.safetensors")
        again = ChoiceModel.load(tmp_path / "m.safetensors")
        assert again.to_bytes() == model.to_bytes()
        np.testing.assert_array_equal(again.basis, model.basis)
        assert (again.weights is None) == (model.weights is None)
        np.testing.assert_array_equal(again.shares, model.shares)
        assert (again.items, again.round, again.repeat_rate) == (model.items, model.round, model.repeat_rate)


def test_a_model_of_the_form_before_shares_is_read_and_ranks_by_what_it_knows() -> None:
    model = learned()
    weights = np.array(model.weights)
    weights[:, -1] = [0.3, -0.1, 0.2, 0.1, 0.05, 0.25]  # The constant's.
    whole = Checkpoint.from_bytes(learned(weights=weights).to_bytes())
    tensors = {name: value for name, value in whole.tensors.items() if name != "choice.shares"}
    old = dataclasses.replace(whole, encoder="tacit choice factors 1", tensors=tensors)
    again = ChoiceModel.from_bytes(old.to_bytes())
    np.testing.assert_allclose(again.shares, [0.3, 1e-6, 0.2, 0.1, 0.05, 0.25])
    np.testing.assert_array_equal(again.weights, weights)
    assert Chooser.of(ChoiceHistory.of([]), again).best({}, k=1)[0].item == "alien"
    with pytest.raises(ModelError):
        ChoiceModel.from_bytes(dataclasses.replace(whole, tensors=tensors).to_bytes())


def test_models_of_the_wrong_kind_or_shape_are_refused(device: Device, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="labels, not of choices"):
        ChoiceModel.from_bytes(device.model.to_bytes())
    content = learned().to_bytes()
    with pytest.raises(ModelError):
        ChoiceModel.from_bytes(content[:-3])
    items = Catalogue.from_names(FILMS)
    for changed in (
        {"basis": np.zeros((5, 3), dtype=np.float32)},
        {"basis": np.full((6, 3), np.nan, dtype=np.float32)},
        {"weights": np.zeros((6, 3), dtype=np.float32)},
        {"habits": np.full(5, np.nan)},
        {"weights": None},
        {"shares": None},
        {"shares": np.ones(5)},
        {"shares": np.array([1.0, 1.0, 0.0, 1.0, 1.0, 1.0])},
        {"shares": np.array([1.0, 1.0, np.nan, 1.0, 1.0, 1.0])},
        {"shares": np.array([1.0, 1.0, 2.0, 1.0, 1.0, 1.0])},
        {"repeat_rate": 1.5},
    ):
        with pytest.raises(ModelError):
            learned(**changed)
    for factors in (1, 257):
        with pytest.raises(ModelError):
            ChoiceModel.start(items, factors=factors)
    assert FACTORS == 32


def test_starts_of_one_seed_are_equal() -> None:
    items = Catalogue.from_names(FILMS)
    assert ChoiceModel.start(items, factors=3).to_bytes() == ChoiceModel.start(items, factors=3).to_bytes()
    assert ChoiceModel.start(items, factors=3, seed=1).to_bytes() != ChoiceModel.start(items, factors=3).to_bytes()


def test_search_leaves_choices_out_unless_they_are_asked_for(filled: Device) -> None:
    note = filled.remember("home insurance runs out in may")
    assert [found.id for found in filled.search("home", k=9)] == [note]
    for by in ("meaning", "words"):
        assert [found.id for found in filled.search("home", k=9, by=by)] == [note]
    assert len(filled.search("home", k=9, purpose=CHOICE)) == 7
    # What is to be forgotten is looked for everywhere.
    assert len(filled.find_to_erase("home", k=9)) == 8
