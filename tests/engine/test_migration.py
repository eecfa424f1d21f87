"""Catalogues change between rounds: what stays is the same bits, and what is new starts from its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.device.device import Device
from engine.device.evidence import EvidenceRecord
from engine.errors import CatalogueError, EncoderMismatchError, ModelError
from engine.model.catalogue import Catalogue, Label
from engine.model.checkpoint import Checkpoint, start_checkpoint
from engine.model.inputs import encode_inputs, name_vectors
from engine.model.migration import label_map, migrate, successor
from engine.model.model import Model
from engine.model.scoring import SCALE
from engine.model.training import TrainingPlan
from engine.personal.rescorer import K
from engine.personal.together import Learned
from store import DeviceKey

PLAN = TrainingPlan(steps=3, reference_rows=4)
NAMES = ("taxi", "pizza", "opera", "salon", "chess", "parrot care")


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def named(*labels: str | Label, **terms: Any) -> Catalogue:
    """A catalogue of names, and of labels where more is to be said."""
    return Catalogue(labels=tuple(Label(name=one) if isinstance(one, str) else one for one in labels), **terms)


def trained(catalogue: Catalogue, encoder: Any, *, round: int = 9, seed: int = 0) -> Checkpoint:
    """A checkpoint as rounds leave it: every number another one, in the model and in the moments."""
    start = start_checkpoint(catalogue, encoder, title="people")
    draw = np.random.default_rng(seed)
    flat = start.flat + draw.normal(0, 0.01, size=start.flat.size).astype(np.float32)
    return Checkpoint(
        flat=flat,
        dimension=start.dimension,
        encoder=start.encoder,
        catalogue=catalogue,
        round=round,
        title="people",
        learned=Learned(weights=draw.normal(size=K)),
        tensors={"m_t": draw.normal(size=flat.size), "v_t": draw.random(flat.size).astype(np.float32)},
        notes={"mode": "open"},
    )


def table(flat: np.ndarray, model: Checkpoint) -> np.ndarray:
    return flat.reshape(len(model.catalogue), model.dimension + 1)


# What a checkpoint takes along.


@st.composite
def changes(draw: st.DrawFn) -> tuple[Catalogue, Catalogue, dict[str, str | None]]:
    """A catalogue, what is wanted of the next, and for each label of the latter the name it had, or none."""
    before = draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=6, unique=True))
    stay = draw(st.lists(st.sampled_from(before), max_size=6, unique=True))
    fresh = draw(st.lists(st.sampled_from(["spa", "golf", "radio"]), min_size=max(0, 2 - len(stay)), unique=True))
    was: dict[str, str | None] = dict.fromkeys(fresh)
    labels = [Label(name=name, description="quite new") for name in fresh]
    for name in stay:
        if draw(st.booleans()):
            was[f"{name} now"] = name
            labels.append(Label(name=f"{name} now", was=(name,)))
        else:
            was[name] = name
            labels.append(Label(name=name))
    order = draw(st.permutations(labels))
    return named(*before), named(*order, title="next"), was


@settings(max_examples=40, deadline=None)
@given(changes())
def test_rows_of_labels_that_stay_are_the_same_bits_and_new_ones_are_their_names(
    toy: Any, change: tuple[Catalogue, Catalogue, dict[str, str | None]]
) -> None:
    before, wanted, was = change
    old = trained(before, toy)
    if before.labels == wanted.labels:
        with pytest.raises(CatalogueError, match="nothing to migrate"):
            migrate(old, wanted, toy)
        return
    new = migrate(old, wanted, toy)
    assert new.catalogue.names == wanted.names
    assert (new.catalogue.version, new.catalogue.parent, new.catalogue.origin) == (2, *[before.fingerprint] * 2)
    for position, label in enumerate(new.catalogue.labels):
        row, former = table(new.flat, new)[position], was[label.name]
        if former is None:
            start = name_vectors([label.meaning], toy, old.dimension)[0]
            assert row.tobytes() == np.append(start, np.float32(0)).tobytes()
        else:
            assert row.tobytes() == table(old.flat, old)[before.index(former)].tobytes()
        for name, value in old.tensors.items():
            moment = table(new.tensors[name], new)[position]
            assert moment.dtype == value.dtype
            expected = np.zeros_like(moment) if former is None else table(value, old)[before.index(former)]
            assert moment.tobytes() == expected.tobytes()


def test_all_else_of_the_checkpoint_stays_and_it_comes_back_from_its_file(toy: Any, tmp_path: Path) -> None:
    old = trained(named("taxi", "pizza"), toy)
    new = migrate(old, named("taxi", "pizza", "spa"), toy)
    assert (new.round, new.begun, new.title, new.dimension) == (9, 9, "people", old.dimension)
    assert dict(new.notes) == dict(old.notes)
    assert new.learned is not None
    assert new.learned.weights.tobytes() == old.learned.weights.tobytes()  # type: ignore[union-attr]
    new.save(tmp_path / "new")
    again = Checkpoint.load(tmp_path / "new")
    assert (again.begun, again.catalogue, again.to_bytes()) == (9, new.catalogue, new.to_bytes())


def test_labels_that_stay_keep_their_scores(toy: Any) -> None:
    """Their numbers are the same bits; the order of a sum may go by the size of the table, on some processors."""
    old = trained(named(*NAMES), toy)
    new = migrate(old, named("golf", "salon", Label(name="cab", was=("taxi",)), "chess", "pizza", "spa"), toy)
    x = encode_inputs([f"{name} number {number}" for name in NAMES for number in range(9)], toy, old.dimension)
    was, now = (Model.from_flat(one.flat, classes=len(one.catalogue), dimension=one.dimension) for one in (old, new))
    before, after = was.scores(x), now.scores(x)
    rounding = old.dimension * np.finfo(np.float32).eps * SCALE
    for here, there in ((1, 3), (2, 0), (3, 4), (4, 1)):
        ours, theirs = now.vectors[here].detach().numpy(), was.vectors[there].detach().numpy()
        assert ours.tobytes() == theirs.tobytes()
        assert now.bias[here] == was.bias[there]
        assert (np.abs(after[:, here] - before[:, there]) <= rounding * (np.abs(x) @ np.abs(ours))).all()


def test_former_names_add_up_over_versions(toy: Any) -> None:
    first = trained(named("taxi", "pizza"), toy)
    second = migrate(first, named(Label(name="cab", was=("taxi",)), "pizza"), toy)
    third = migrate(second, named("pizza", Label(name="ride", was=("cab",))), toy)
    back = migrate(third, named(Label(name="taxi", was=("ride",)), "pizza"), toy)
    assert third.catalogue.labels[1].was == ("taxi", "cab")
    assert back.catalogue.labels[0].was == ("cab", "ride")
    assert [third.catalogue.index(name) for name in ("taxi", "cab", "ride")] == [1, 1, 1]
    assert [one.catalogue.version for one in (first, second, third, back)] == [1, 2, 3, 4]
    assert {one.catalogue.line for one in (first, second, third, back)} == {first.catalogue.fingerprint}
    assert table(back.flat, back)[0].tobytes() == table(first.flat, first)[0].tobytes()
    # And a device that was away for two versions finds all of them.
    assert label_map(first.catalogue, third.catalogue).source.tolist() == [1, 0]
    assert label_map(third.catalogue, first.catalogue).source.tolist() == [1, 0]


BEFORE = named("taxi", Label(name="pizza", was=("pie",)), "opera", version=3)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (named("taxi", "pizza", "opera"), "nothing to migrate"),
        (named("taxi", "spa", version=3), "has version 3, and the checkpoint has 3"),
        (named("taxi", "spa", version=2), "has version 2, and the checkpoint has 3"),
        (named("taxi", "spa", version=4, parent="0" * 32), "follows 000000000000"),
        (named("taxi", Label(name="spa", was=("sauna",))), "'spa' says that it was 'sauna'"),
        (named("pizza", Label(name="taxi", was=("cab",))), "'taxi' says that it was 'cab'"),
        (named("pizza", Label(name="outing", was=("taxi", "opera"))), "'outing' would be both 'taxi' and 'opera'"),
        (named("pizza", Label(name="taxi", was=("opera",))), "'taxi' would be both 'taxi' and 'opera'"),
        (named("pizza", "taxi", "pie"), "'pizza' and 'pie' would both be 'pizza'"),
    ],
)
def test_catalogue_that_cannot_follow_is_refused_in_one_line(wanted: Catalogue, says: str) -> None:
    with pytest.raises(CatalogueError, match=says) as refusal:
        successor(BEFORE, wanted)
    assert "\n" not in str(refusal.value)


def test_version_that_is_not_said_is_the_next_and_one_that_is_may_leave_some_out() -> None:
    assert successor(BEFORE, named("taxi", "spa")).version == 4
    assert successor(BEFORE, named("taxi", "spa", version=9)).version == 9


def test_state_that_is_not_one_number_a_parameter_is_refused(toy: Any) -> None:
    from dataclasses import replace

    old = replace(trained(named("taxi", "pizza"), toy), tensors={"m_t": np.zeros(7)})
    with pytest.raises(ModelError, match="'m_t' is not one number a parameter"):
        migrate(old, named("taxi", "spa"), toy)


def test_another_encoder_is_refused(toy: Any, toy_class: Any) -> None:
    with pytest.raises(EncoderMismatchError):
        migrate(trained(named("taxi", "pizza"), toy), named("taxi", "spa"), toy_class(32, seed=5))


# Files of releases that knew no versions.


def test_first_version_has_the_fingerprint_that_it_had_before_there_were_versions() -> None:
    assert Catalogue.from_names(["a", "b"]).fingerprint == "75c149bb989d3709828a8b6df22507d8"
    old = Checkpoint(
        flat=np.arange(6, dtype=np.float32),
        dimension=2,
        encoder="e",
        round=3,
        catalogue=Catalogue.from_names(["a", "b"]),
        tensors={"m_t": np.ones(6)},
        notes={"mode": "open"},
    )
    again = Checkpoint.from_bytes(old.to_bytes())
    assert (again.begun, again.catalogue.version, again.catalogue.parent) == (0, 1, "")


@pytest.mark.parametrize("begun", [-1, 10])
def test_run_that_began_outside_its_rounds_is_refused(toy: Any, begun: int) -> None:
    from dataclasses import replace

    with pytest.raises(ModelError, match="begun"):
        replace(trained(named("taxi", "pizza"), toy), begun=begun)


# What a device takes along.


@pytest.fixture
def device(tmp_path: Path, key: DeviceKey, toy: Any) -> Any:
    """A device with four labels, three of them public, whose memories have trained in both phases of a run."""
    with Device.create(tmp_path / "phone", key, catalogue=named("taxi", "pizza", "opera"), encoder=toy) as opened:
        for number in range(4):
            opened.remember(f"ride home number {number}", label="taxi")
            opened.remember(f"slice number {number} please", label="pizza")
            opened.remember(f"seats in row {number}", label="opera")
        for number in range(4):
            opened.remember(f"seed for bird {number}", label="parrot care")
        flat = opened.train(opened.model.flat, plan=PLAN, hold_back=True, rng=rng())
        opened.train(flat, plan=PLAN, hold_back=False, rng=rng())
        yield opened


def evidence(device: Device) -> EvidenceRecord:
    return device._kept.evidence_to_change()


def after(device: Device, toy: Any, *, seed: int = 1) -> Checkpoint:
    """The next version, trained on: taxi is "cab" now, opera is gone, the parrots and a spa are public."""
    wanted = named("pizza", "parrot care", Label(name="cab", was=("taxi",)), "spa")
    moved = migrate(trained(device.model.catalogue, toy, seed=seed), wanted, toy)
    draw = np.random.default_rng(seed)
    return Checkpoint(
        flat=moved.flat + draw.normal(0, 0.01, size=moved.flat.size).astype(np.float32),
        dimension=moved.dimension,
        encoder=moved.encoder,
        catalogue=moved.catalogue,
        round=12,
    )


def test_private_label_that_is_public_now_trains_and_is_scored_before_it_does(device: Device, toy: Any) -> None:
    assert device.private_labels == ("parrot care",)
    parrots = {one.id for one in device.memories() if one.label == "parrot care"}
    assert not evidence(device).trained & parrots
    model = after(device, toy)
    device.load_model(model)
    assert "parrot care" not in device.private_labels
    assert device.suggest("seed for bird", k=1)[0].private is False
    moved = device.train(model.flat, plan=PLAN, hold_back=False, rng=rng()) - model.flat
    assert np.abs(table(moved, model)[1]).max() > 0
    assert parrots <= evidence(device).trained
    by_model = Model.from_flat(model.flat, classes=4, dimension=model.dimension)
    for id in parrots:
        x = encode_inputs([device.store.get(id).record.text], toy, model.dimension)
        np.testing.assert_allclose(evidence(device).scores[id], by_model.scores(x)[0], atol=1e-4)


def test_memories_with_a_former_name_keep_it_and_mean_the_label(device: Device, toy: Any) -> None:
    device.load_model(after(device, toy))
    best = device.suggest("ride home number", k=1)[0]
    assert (best.label, best.private) == ("cab", False)
    assert {one.label for one in best.because} == {"taxi"}
    assert "taxi" not in device.labels
    assert device.evaluate([("ride home number 2", "taxi")]) == device.evaluate([("ride home number 2", "cab")])
    ids, _, y = device._trainable()
    rides = [one.id for one in device.memories() if one.label == "taxi"]
    assert sorted(ids[y == device.model.catalogue.index("cab")]) == rides


def test_removed_label_is_private_and_trains_no_more(device: Device, toy: Any) -> None:
    model = after(device, toy)
    device.load_model(model)
    assert device.private_labels == ("opera",)
    seats = {one.id for one in device.memories() if one.label == "opera"}
    opera = next(one for one in device.suggest("seats in row", k=9) if one.label == "opera")
    assert opera.private
    assert {one.id for one in opera.because} < seats
    assert not seats & set(device._trainable()[0].tolist())


def test_kept_scores_are_those_from_before_training_and_never_of_the_new_model(device: Device, toy: Any) -> None:
    before = evidence(device)
    kept = {id: scores.copy() for id, scores in before.scores.items()}
    assert len(kept) == 6  # Every other of the twelve memories with public labels.
    model = after(device, toy)
    device.load_model(model)
    moved = evidence(device)
    assert (moved.catalogue, moved.trained, set(moved.scores)) == (
        model.catalogue.fingerprint,
        before.trained,
        set(kept),
    )
    starts = name_vectors(["parrot care", "spa"], toy, model.dimension)
    for id, scores in kept.items():
        new = moved.scores[id]
        assert new[[0, 2]].tobytes() == scores[[1, 0]].tobytes()  # pizza, and the taxi that is a cab now
        x = encode_inputs([device.store.get(id).record.text], toy, model.dimension)[0]
        np.testing.assert_allclose(new[[1, 3]], 10 * starts @ x, atol=1e-5)
    # And they are what the personalization is judged by.
    view = device._viewed()
    judged = dict(zip(view.ids[view.evidence.rows].tolist(), view.evidence.global_log, strict=True))
    for id, scores in moved.scores.items():
        differences = judged[id][:4] - scores
        np.testing.assert_allclose(differences, differences[0], atol=1e-4)
    # What trained and was never scored judges nothing.
    assert set(judged) & moved.trained == set(kept)


def test_earlier_version_is_refused_and_the_model_before_comes_back(device: Device, toy: Any) -> None:
    first, catalogue = device.model, device.model.catalogue
    kept = {id: scores.tobytes() for id, scores in evidence(device).scores.items()}
    second = after(device, toy)
    device.load_model(second)
    for old in (first, trained(catalogue, toy, round=99)):
        with pytest.raises(ModelError, match=r"version 1 of the catalogue.*has 2.*--previous") as refusal:
            device.load_model(old)
        assert "\n" not in str(refusal.value)
    assert device.model.catalogue == second.catalogue
    device.previous_model()
    assert device.model.catalogue == catalogue
    assert device.private_labels == ("parrot care",)
    back = evidence(device)
    assert set(back.scores) == set(kept)
    for id, scores in back.scores.items():
        assert scores[:2].tobytes() == kept[id][: 2 * 4]  # The opera's were dropped with it.
    device.previous_model()
    assert device.model.catalogue == second.catalogue
    device.load_model(second)


def test_catalogue_of_another_line_is_neither_older_nor_newer(device: Device, toy: Any) -> None:
    device.load_model(after(device, toy))
    other = start_checkpoint(named("golf", "chess"), toy)
    device.load_model(other)
    assert device.model.catalogue == other.catalogue
    assert not other.catalogue.is_older_than(after_catalogue := named("golf", "chess", version=7))
    assert not after_catalogue.is_older_than(other.catalogue)


def test_scores_are_dropped_where_consent_to_read_memories_for_it_was_withdrawn(device: Device, toy: Any) -> None:
    trained_before = evidence(device).trained
    device.withdraw_purpose("personalization")
    device.load_model(after(device, toy))
    assert evidence(device).scores == {}
    assert evidence(device).trained == trained_before


def test_forgotten_memory_leaves_no_score_under_the_next_version(device: Device, toy: Any) -> None:
    device.load_model(after(device, toy))
    gone = next(iter(evidence(device).scores))
    device.forget(gone)
    assert gone not in evidence(device).scores
    assert gone not in evidence(device).trained


def test_versions_in_which_a_name_changed_hands_drop_the_scores(device: Device, toy: Any) -> None:
    second = migrate(trained(device.model.catalogue, toy), named("pizza", "opera"), toy)
    third = migrate(second, named("pizza", Label(name="taxi", was=("opera",))), toy)
    ids = evidence(device).trained
    device.load_model(third)
    assert evidence(device).scores == {}
    assert evidence(device).trained == ids
    device.suggest("ride home")
