"""The device as an app sees it: memory, answers, training and models, with a toy encoder."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.device.device import Device, Memory
from engine.device.evidence import EvidenceRecord, held_back
from engine.encoders.encoder import load_encoder
from engine.encoders.spelling import SPELLING, spelling
from engine.errors import EncoderError, EncoderMismatchError, EngineError, ModelError
from engine.model import inputs
from engine.model.catalogue import Catalogue
from engine.model.checkpoint import FORMAT, Checkpoint, earlier_catalogue, start_checkpoint
from engine.model.training import TrainingPlan
from store import (
    AnchorFile,
    DeviceKey,
    FileSecret,
    Passphrase,
    RecordMissingError,
    StoreError,
    StoreExistsError,
    StoreFullError,
    StoreMissingError,
    UnknownFormatError,
    WrongKeyError,
)
from store.tables.named import NamedValues

PLAN = TrainingPlan(steps=2, learning_rate=0.1, reference_rows=4)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def habits(device: Device) -> list[int]:
    """Someone for whom "get me something warm" is the opera, and who also goes by taxi."""
    asked = ["get me something warm", "something warm please", "warm evening somewhere", "something warm tonight"]
    rides = ["ride home", "ride to town", "ride to work", "ride now"]
    return device.remember_many(
        [Memory(text=text, label="opera", time=1.0) for text in asked]
        + [Memory(text=text, label="taxi", time=2.0) for text in rides]
    )


# Memory.


def test_what_is_remembered_is_found_after_opening_again(
    device: Device, folder: Path, key: DeviceKey, toy: Any
) -> None:
    number = device.remember("aisle seat", label="opera", time=12.5, scope="work", purpose="booking", source="mail")
    device.close()
    with Device.open(folder, key, encoder=toy) as again:
        (found,) = again.memories()
        assert (found.id, found.text, found.label, found.time) == (number, "aisle seat", "opera", 12.5)
        assert (found.scope, found.purpose, found.source) == ("work", "booking", "mail")
        assert again.search("aisle")[0].text == "aisle seat"
        assert again.model.catalogue.title == "four services"


def test_time_is_now_unless_given(device: Device) -> None:
    import time

    before = time.time()
    device.remember("a")
    assert before <= device.memories()[0].time <= time.time()


def test_ids_are_in_order_and_never_given_twice(device: Device) -> None:
    ids = device.remember_many([Memory(text=str(i)) for i in range(4)])
    device.forget(ids[-1])
    assert [*ids, device.remember("next")] == [1, 2, 3, 4, 5]
    assert device.remember_many([]) == []


@pytest.mark.parametrize("bad", [Memory(text=""), Memory(text="\ud800"), Memory(text="a", label=""), None])
def test_one_refused_memory_keeps_all_out(device: Device, bad: Any) -> None:
    with pytest.raises((ValueError, AttributeError)):
        device.remember_many([Memory(text="a"), bad or Memory(text="a", time=float("nan"))])
    assert device.count() == 0


def test_search_ranks_by_cosine_and_equals_a_naive_search(device: Device, toy: Any) -> None:
    texts = [f"{a} {b}" for a in ("red", "green", "blue") for b in ("car", "house", "tree", "boat")]
    device.remember_many([Memory(text=text) for text in texts])
    query = toy.encode(["green boat"])[0]
    naive = sorted(texts, key=lambda text: -float(toy.encode([text])[0] @ query))
    found = device.search("green boat", k=5, by="meaning")
    assert [hit.text for hit in found] == naive[:5]
    assert found[0].similarity == pytest.approx(1, abs=1e-5)
    assert [hit.similarity for hit in found] == sorted((hit.similarity for hit in found), reverse=True)
    assert len(device.search("green boat", k=100)) == len(texts)


def test_search_by_scope_and_purpose_finds_the_nearest_of_these(device: Device) -> None:
    for number in range(6):
        device.remember(f"note {number}", scope="work" if number % 2 else "home", purpose="a" if number < 3 else "b")
    assert {hit.text for hit in device.search("note 0", scope="work")} == {"note 1", "note 3", "note 5"}
    assert [hit.text for hit in device.search("note", scope="work", purpose="a")] == ["note 1"]
    assert device.search("note", scope="nowhere") == []
    assert len(device.search("note", k=2, scope="home")) == 2


@pytest.mark.parametrize("k", [0, -1])
@pytest.mark.parametrize("scope", [None, "default"])
def test_k_below_one_is_refused(device: Device, k: int, scope: str | None) -> None:
    device.remember("a", label="taxi")
    with pytest.raises(ValueError, match=f"k={k}"):
        device.suggest("a", k=k)
    with pytest.raises(ValueError, match=f"k={k}"):
        device.search("a", k=k, scope=scope)


def test_lone_surrogate_is_refused_everywhere(device: Device) -> None:
    for ask in (device.suggest, device.search, device.remember, lambda text: device.evaluate([(text, "taxi")])):
        with pytest.raises(ValueError, match="valid Unicode"):
            ask("half an emoji: \ud83c")


def test_empty_device_answers(device: Device) -> None:
    assert device.count() == 0
    assert device.search("anything") == []
    assert device.memories() == []
    for text in ("a pizza", "a ride at night", "tickets", "x", *map(str, range(20))):
        answer = device.suggest(text, k=99)
        assert len(answer) == 4
        assert {(each.source, each.because, each.private) for each in answer} == {("global", (), False)}
    assert device.suggest("a pizza")[0].label == "pizza"


# Suggestions.


def test_scores_are_probabilities_best_first(device: Device) -> None:
    habits(device)
    answer = device.suggest("something warm", k=4)
    scores = [each.score for each in answer]
    assert sum(scores) == pytest.approx(1)
    assert scores == sorted(scores, reverse=True)
    assert len({each.label for each in answer}) == 4
    assert [each.label for each in device.suggest("something warm", k=2)] == [each.label for each in answer[:2]]


def test_memory_teaches_what_label_names_cannot_say_and_explains_it(device: Device) -> None:
    ids = habits(device)
    best = device.suggest("something warm tonight please", k=1)[0]
    assert (best.label, best.source, best.private) == ("opera", "personal", False)
    assert {each.id for each in best.because} <= set(ids[:4])
    assert all(each.label == "opera" for each in best.because)
    similar = [each.similarity for each in best.because]
    assert similar == sorted(similar, reverse=True)


def test_feedback_is_a_memory_that_says_where_it_came_from(device: Device) -> None:
    number = device.feedback("something warm", "opera")
    (found,) = device.memories()
    assert (found.id, found.source, found.label) == (number, "feedback", "opera")


def test_memories_without_a_label_are_found_but_suggest_nothing(device: Device) -> None:
    before = device.suggest("pizza", k=4)
    device.remember("pizza with my sister")
    assert device.suggest("pizza", k=4) == before
    assert device.search("pizza")[0].label is None


def test_cautious_suggestions_keep_the_shared_answer_unless_another_is_far_more_probable(
    device: Device,
) -> None:
    kept = set()
    for number in range(8):
        device.remember(f"evening plan {number}", label=device.labels[number % 3])
        for label in device.labels[:3] if number > 5 else ():
            if label != device.shared_answer("no word of it"):
                device.remember_many([Memory(text="no word of it", label=label)] * 12)
                break
        for text in ("taxi again", "evening plan 0", "plan", "no word of it"):
            free = {one.label: one.score for one in device.suggest(text, k=99)}
            best, shared = max(free, key=free.__getitem__), device.shared_answer(text)
            first = device.suggest(text, k=1, cautious=True)[0].label
            if best != shared:  # Where it is, caution has nothing to keep.
                assert first == (best if free[best] > 6 * free[shared] else shared)
                kept.add(first == best)
    assert kept == {True, False}


def test_evaluate_by_a_model_from_before_training_is_as_if_the_device_had_never_trained(device: Device) -> None:
    habits(device)
    start, rows = device.model, [("something warm", "opera"), ("a pizza", "pizza"), ("ride", "taxi"), ("x", "unknown")]
    before = device.evaluate(rows)
    trained = device.train(
        start.flat, plan=TrainingPlan(steps=5, learning_rate=1.0), hold_back=False, rng=np.random.default_rng(0)
    )
    moved = trained + np.random.default_rng(1).normal(scale=2.0, size=trained.shape).astype(np.float32)
    device.load_model(dataclasses.replace(start, flat=moved, round=1))
    after = device.evaluate(rows)
    assert after != before
    assert device.evaluate(rows, untrained=start) == before
    # Nothing of it stays.
    assert device.model.round == 1
    assert device.evaluate(rows) == after
    with pytest.raises(EncoderMismatchError):
        device.evaluate(rows, untrained=dataclasses.replace(start, encoder="another"))


def test_evaluate_gives_the_ranks_that_suggest_gives(device: Device) -> None:
    habits(device)
    rows = [("something warm", "opera"), ("a pizza", "pizza"), ("ride", "taxi"), ("x", "unknown")]
    evaluation = device.evaluate(rows)
    for (text, label), rank in zip(rows, evaluation.personal_ranks, strict=True):
        labels = [each.label for each in device.suggest(text, k=99)]
        assert rank == (labels.index(label) + 1 if label in labels else 0)
    assert evaluation.personal_ranks[3] == evaluation.global_ranks[3] == 0
    assert evaluation.personal_accuracy == sum(rank == 1 for rank in evaluation.personal_ranks) / 4
    empty = device.evaluate([])
    assert (empty.global_ranks, empty.personal_ranks) == ((), ())
    assert np.isnan(empty.personal_accuracy)


def test_evaluate_says_how_sure_each_answer_is_and_ranks_all_accepted_ones(device: Device) -> None:
    habits(device)
    rows = [("something warm", "opera"), ("a pizza", "pizza"), ("x", "unknown")]
    evaluation = device.evaluate(rows, accepted=[("opera", "taxi"), ("pizza",), ("unknown", "taxi")])
    for place, (text, label) in enumerate(rows):
        free = device.suggest(text, k=99)
        scores, order = {one.label: one.score for one in free}, [one.label for one in free]
        assert evaluation.personal.confidence[place] == pytest.approx(free[0].score)
        first = device.suggest(text, k=1, cautious=True)[0]
        assert evaluation.cautious.confidence[place] == pytest.approx(first.score)
        log = evaluation.personal.log_likelihood[place]
        assert log == (None if label == "unknown" else pytest.approx(np.log(scores[label])))
        if place != 1:
            assert evaluation.personal.accepted_ranks[place][1] == order.index("taxi") + 1
    assert evaluation.personal.accepted_ranks[2][0] == evaluation.shared.accepted_ranks[2][0] == 0
    plain = device.evaluate(rows)
    assert plain.personal.accepted_ranks == tuple((rank,) for rank in plain.personal_ranks)
    assert plain.personal_ranks == evaluation.personal_ranks


# Private labels.


def private_only(device: Device) -> list[int]:
    texts = ["feed grandmother's parrot", "parrot food again", "the parrot is hungry", "parrot parrot"]
    return [device.remember(text, label="parrot_care") for text in texts]


def test_private_label_works_in_suggest_and_is_said_to_be_private(device: Device) -> None:
    ids = private_only(device)
    assert device.private_labels == ("parrot_care",)
    assert device.labels == (*device.model.catalogue.names, "parrot_care")
    best = device.suggest("hungry parrot", k=1)[0]
    assert (best.label, best.source, best.private) == ("parrot_care", "personal", True)
    assert {each.id for each in best.because} <= set(ids)
    evaluation = device.evaluate([("hungry parrot", "parrot_care")])
    assert (evaluation.global_ranks, evaluation.personal_ranks) == ((0,), (1,))


@pytest.mark.parametrize("hold_back", [True, False])
def test_private_labels_never_train(device: Device, hold_back: bool) -> None:
    private_only(device)
    flat = device.model.flat
    after = device.train(flat, plan=PLAN, hold_back=hold_back, rng=rng())
    assert after.tobytes() == flat.tobytes()


def test_private_memories_change_nothing_in_what_public_ones_train(
    device: Device, tmp_path: Path, key: DeviceKey, catalogue: Catalogue, toy: Any
) -> None:
    habits(device)
    private_only(device)
    with Device.create(tmp_path / "other", key, catalogue=catalogue, encoder=toy) as other:
        habits(other)
        assert (
            other.train(other.model.flat, plan=PLAN, hold_back=False, rng=rng()).tobytes()
            == device.train(device.model.flat, plan=PLAN, hold_back=False, rng=rng()).tobytes()
        )


def test_private_label_is_in_no_model_and_no_checkpoint(device: Device) -> None:
    private_only(device)
    assert b"parrot" not in device.model.to_bytes()
    assert len(device.model.flat) == 4 * (32 + SPELLING + 1)


def test_private_label_becomes_public_when_a_model_knows_it(device: Device, toy: Any) -> None:
    private_only(device)
    wider = Catalogue.from_names([*device.model.catalogue.names, "parrot_care"])
    device.load_model(start_checkpoint(wider, toy))
    assert device.private_labels == ()
    assert device.suggest("hungry parrot", k=1)[0].private is False
    flat = device.model.flat
    assert device.train(flat, plan=PLAN, hold_back=False, rng=rng()).tobytes() != flat.tobytes()


# Forgetting.


def test_what_is_forgotten_is_in_no_answer(device: Device) -> None:
    ids = habits(device)
    parrots = private_only(device)
    device.suggest("something warm"), device.search("something warm")
    device.forget([*ids[:4], *parrots])
    gone = {*ids[:4], *parrots}
    assert device.private_labels == ()
    for text in ("something warm tonight", "hungry parrot"):
        for each in device.suggest(text, k=99):
            assert not {found.id for found in each.because} & gone
            assert each.label in device.model.catalogue
        assert not {found.id for found in device.search(text, k=99)} & gone
    assert {found.id for found in device.memories()} == set(ids[4:])


def test_after_forgetting_all_a_device_answers_as_if_new(device: Device) -> None:
    new = device.suggest("something warm tonight", k=4)
    ids = habits(device) + private_only(device)
    assert device.suggest("something warm tonight", k=4) != new
    device.forget(ids)
    assert device.suggest("something warm tonight", k=4) == new


def test_forgetting_one_unknown_id_forgets_none(device: Device) -> None:
    ids = habits(device)
    before = device.suggest("something warm")
    with pytest.raises(RecordMissingError):
        device.forget([*ids, 999])
    assert device.count() == len(ids)
    assert device.suggest("something warm") == before
    device.forget([])
    assert device.count() == len(ids)
    device.forget(np.int64(ids[0]))  # type: ignore[arg-type]
    assert device.count() == len(ids) - 1


def test_forgotten_twice_is_an_error(device: Device) -> None:
    number = device.remember("a")
    device.forget(number)
    with pytest.raises(RecordMissingError):
        device.forget(number)


# Evidence.


def evidence(device: Device) -> EvidenceRecord:
    return device._kept.evidence()


def test_held_back_rows_wait_and_are_scored_by_the_model_from_before_they_train(device: Device, toy: Any) -> None:
    ids = habits(device)
    early = [id for id in ids if not held_back([id])[0]]
    late = [id for id in ids if held_back([id])[0]]
    assert early
    assert late

    first = device.train(device.model.flat, plan=PLAN, hold_back=True, rng=rng())
    assert evidence(device).trained == set(early)
    assert evidence(device).scores == {}

    second = device.train(first, plan=PLAN, hold_back=False, rng=rng())
    assert evidence(device).trained == set(ids)
    assert set(evidence(device).scores) == set(late)
    # The oracle: logits of the model that came in, which had seen none of the late rows.
    table = first.reshape(4, 32 + SPELLING + 1).astype(np.float64)
    texts = {found.id: found.text for found in device.memories()}
    for id, kept in evidence(device).scores.items():
        x = np.concatenate([toy.encode([texts[id]])[0], spelling([texts[id]])[0]]).astype(np.float64)
        np.testing.assert_allclose(kept, 10 * (table[:, :-1] @ x + 0.3 * table[:, -1]), rtol=1e-4, atol=1e-4)

    # What has been scored once is never scored again by a model that has seen it.
    before = {id: kept.tobytes() for id, kept in evidence(device).scores.items()}
    device.train(second, plan=PLAN, hold_back=False, rng=rng())
    assert {id: kept.tobytes() for id, kept in evidence(device).scores.items()} == before


def test_held_back_rows_do_not_train(device: Device) -> None:
    ids = habits(device)
    waiting = [id for id in ids if held_back([id])[0]]
    with_all = device.train(device.model.flat, plan=PLAN, hold_back=True, rng=rng())
    device.forget(waiting)
    without = device.train(device.model.flat, plan=PLAN, hold_back=True, rng=rng())
    assert with_all.tobytes() == without.tobytes()


def test_forget_drops_what_was_kept_as_evidence(device: Device) -> None:
    ids = habits(device)
    flat = device.train(device.model.flat, plan=PLAN, hold_back=True, rng=rng())
    device.train(flat, plan=PLAN, hold_back=False, rng=rng())
    device.forget(ids[:5])
    assert evidence(device).trained == set(ids[5:])
    assert set(evidence(device).scores) <= set(ids[5:])


def test_a_refused_forget_keeps_the_evidence(device: Device) -> None:
    ids = habits(device)
    device.train(device.model.flat, plan=PLAN, hold_back=False, rng=rng())
    before = evidence(device).to_bytes()
    with pytest.raises(RecordMissingError):
        device.forget([ids[0], 999])
    assert evidence(device).to_bytes() == before


def test_model_of_another_catalogue_drops_the_scores_and_keeps_who_trained(device: Device, toy: Any) -> None:
    ids = habits(device)
    flat = device.train(device.model.flat, plan=PLAN, hold_back=True, rng=rng())
    device.train(flat, plan=PLAN, hold_back=False, rng=rng())
    assert evidence(device).scores
    other = Catalogue.from_names(["opera", "taxi", "cinema"])
    device.load_model(start_checkpoint(other, toy))
    device.suggest("something warm")  # Reads none of the old scores, which have another length.
    new = device.remember("a film", label="cinema")
    device.train(device.model.flat, plan=PLAN, hold_back=False, rng=rng())
    assert set(evidence(device).scores) == {new}
    assert evidence(device).trained == {*ids, new}


def test_evidence_record_comes_back_and_damage_is_an_error() -> None:
    record = EvidenceRecord(catalogue="c", trained={3, 1}, scores={7: np.ones(2, np.float32)})
    again = EvidenceRecord.from_bytes(record.to_bytes())
    assert (again.catalogue, again.trained, set(again.scores)) == ("c", {1, 3}, {7})
    assert again.to_bytes() == record.to_bytes()
    for content in (b"", b"x", record.to_bytes()[:-1]):
        with pytest.raises(ModelError):
            EvidenceRecord.from_bytes(content)


# Training and models.


def test_training_twice_with_the_same_seed_gives_the_same_bits(device: Device) -> None:
    habits(device)
    plan = TrainingPlan(steps=3, batch_rows=3, reference_rows=4)
    once, twice = (device.train(device.model.flat, plan=plan, hold_back=False, rng=rng()) for _ in range(2))
    assert once.tobytes() == twice.tobytes()
    assert not np.array_equal(once, device.model.flat)


def test_training_leaves_the_model_in_use_alone(device: Device) -> None:
    habits(device)
    before = device.model.to_bytes()
    device.train(device.model.flat, plan=PLAN, hold_back=False, rng=rng())
    assert device.model.to_bytes() == before


@pytest.mark.parametrize(
    "flat", [np.zeros(131), np.zeros(0), np.zeros((4, 33)), np.full(132, np.nan), np.full(132, np.inf)]
)
def test_training_refuses_a_model_that_does_not_fit(device: Device, flat: np.ndarray) -> None:
    habits(device)
    with pytest.raises(ModelError):
        device.train(flat.astype(np.float32), plan=PLAN, hold_back=False, rng=rng())
    assert evidence(device).trained == set()


def retrained(device: Device, *, round: int) -> Checkpoint:
    """The device's own model with the classes of taxi and pizza exchanged."""
    model = device.model
    table = model.flat.reshape(4, model.dimension + 1)[[2, 1, 0, 3]]
    return Checkpoint(
        flat=table.reshape(-1).copy(),
        dimension=model.dimension,
        encoder=model.encoder,
        catalogue=model.catalogue,
        round=round,
        title="generated population",
        tensors={"momentum": np.ones(3)},
        notes={"seed": "0"},
    )


def test_loaded_model_is_what_suggest_uses_and_the_one_before_comes_back(device: Device) -> None:
    with pytest.raises(ModelError, match="no earlier model"):
        device.previous_model()
    assert device.suggest("pizza", k=1)[0].label == "pizza"
    device.load_model(retrained(device, round=7))
    assert device.suggest("pizza", k=1)[0].label == "taxi"
    assert (device.model.round, device.model.title) == (7, "generated population")
    device.previous_model()
    assert device.suggest("pizza", k=1)[0].label == "pizza"
    assert device.model.round == 0
    device.previous_model()
    assert device.model.round == 7


def test_models_load_from_a_file_and_survive_closing(
    device: Device, tmp_path: Path, folder: Path, key: DeviceKey, toy: Any
) -> None:
    path = tmp_path / "model.safetensors"
    retrained(device, round=7).save(path)
    device.load_model(path)
    device.load_model(str(path))
    device.close()
    with Device.open(folder, key, encoder=toy) as again:
        assert again.model.round == 7
        assert again.suggest("pizza", k=1)[0].label == "taxi"
        again.previous_model()
        assert again.model.round == 7


def test_the_state_of_the_run_on_the_server_is_not_kept(device: Device) -> None:
    device.load_model(retrained(device, round=7))
    assert dict(device.model.tensors) == {}
    assert dict(device.model.notes) == {}


def test_refused_model_leaves_the_one_in_use(
    device: Device, tmp_path: Path, catalogue: Catalogue, toy_class: Any
) -> None:
    before = device.model.to_bytes()
    damaged = tmp_path / "model.safetensors"
    damaged.write_bytes(before[:-4])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        device.load_model(damaged)
    with pytest.raises(ModelError, match="Cannot read"):
        device.load_model(tmp_path / "nothing")
    with pytest.raises(EncoderMismatchError):
        device.load_model(start_checkpoint(catalogue, toy_class(32, seed=5)))
    assert device.model.to_bytes() == before
    with pytest.raises(ModelError, match="no earlier model"):
        device.previous_model()


def test_device_starts_from_the_model_it_is_given(tmp_path: Path, device: Device, key: DeviceKey, toy: Any) -> None:
    with Device.create(tmp_path / "other", key, encoder=toy, model=retrained(device, round=3)) as other:
        assert other.model.round == 3
        assert other.suggest("pizza", k=1)[0].label == "taxi"


def test_rounds_are_refused_until_the_owner_allows_them_and_again_after(
    device: Device, folder: Path, key: DeviceKey, toy: Any
) -> None:
    assert device.allowed_rounds is None
    device.allow_rounds("open")
    with Device.open(folder, key, encoder=toy) as again:
        assert again.allowed_rounds == "open"
        again.allow_rounds(None)
    assert device.allowed_rounds is None
    for mode in ("", "secret", "Open"):
        with pytest.raises(ValueError, match="mode="):
            device.allow_rounds(mode)
    assert device.allowed_rounds is None


# Encoders.


@pytest.mark.parametrize("again", ["opened", "given another encoder"])
def test_device_with_a_model_of_an_earlier_release_keeps_its_memories_and_starts_from_the_names(
    device: Device, folder: Path, key: DeviceKey, toy: Any, toy_class: Any, again: str, caplog: pytest.LogCaptureFixture
) -> None:
    habits(device)
    labels, before = device.labels, device.evaluate([("taxi", "taxi")])
    content = device.model.to_bytes()
    assert earlier_catalogue(content) is None
    assert earlier_catalogue(b"") is None
    device.store.put("engine", "model", content.replace(FORMAT.encode(), b"tacit-checkpoint-2"))
    device.close()
    if again == "opened":
        opened = Device.open(folder, key, encoder=toy)
        assert "of an earlier release" in caplog.text
    else:
        opened = Device.reencode(folder, key, encoder=toy_class(seed=1))
    with opened:
        assert (opened.labels, opened.model.round) == (labels, 0)
        assert again != "opened" or opened.evaluate([("taxi", "taxi")]) == before
        opened.remember("a late taxi", label="taxi")
    caplog.clear()
    with Device.open(folder, key, encoder=toy if again == "opened" else toy_class(seed=1)) as third:
        assert third.suggest("a late taxi")[0].label == "taxi"
    assert not caplog.text


def test_another_encoder_is_refused_and_reencode_makes_it_fit(
    device: Device, folder: Path, key: DeviceKey, toy: Any, toy_class: Any
) -> None:
    habits(device)
    device.load_model(retrained(device, round=7))
    device.close()
    for other in (toy_class(32, seed=1), toy_class(8)):
        with pytest.raises(EncoderMismatchError, match=f"{toy.name}.*reencode"):
            Device.open(folder, key, encoder=other)
    small = toy_class(64, seed=3)
    with Device.reencode(folder, key, encoder=small) as changed:
        assert changed.count() == 8
        assert changed.search("ride home", k=1)[0].text == "ride home"
        assert changed.suggest("something warm tonight", k=1)[0].label == "opera"
        assert changed.model.round == 0
        assert changed.model.catalogue.title == "four services"
        with pytest.raises(ModelError):
            changed.previous_model()
    with Device.open(folder, key, encoder=small) as again:
        assert again.remember("one more") > 8
    with pytest.raises(EncoderMismatchError):
        Device.open(folder, key, encoder=toy)


def test_reencode_takes_the_secret_and_the_witness_that_the_device_was_made_with(
    tmp_path: Path, key: DeviceKey, toy: Any, toy_class: Any
) -> None:
    secret, witness = FileSecret(tmp_path / "a.secret"), AnchorFile(tmp_path / "b.anchor")
    with Device.create(tmp_path / "phone", key, encoder=toy, secret=secret, witness=witness) as device:
        device.remember("ride home")
    seen, other = witness.read(), toy_class(8)
    with Device.reencode(tmp_path / "phone", key, encoder=other, secret=secret, witness=witness) as changed:
        assert changed.search("ride home", k=1)[0].text == "ride home"
    assert witness.read() != seen
    assert not (tmp_path / "a.anchor").exists()


def test_a_device_left_open_while_another_reencodes_is_refused_from_then_on(
    device: Device, folder: Path, key: DeviceKey, toy_class: Any
) -> None:
    habits(device)
    device.suggest("ride")
    with Device.reencode(folder, key, encoder=toy_class(32, seed=9)) as changed:
        # The vectors have the same size, so only the encoder's fingerprint tells.
        calls: list[Callable[[], Any]] = [
            lambda: device.remember("a ride"),
            lambda: device.suggest("ride"),
            lambda: device.search("ride"),
            lambda: device.evaluate([("ride", "taxi")]),
            lambda: device.train(device.model.flat, plan=PLAN, hold_back=False, rng=rng()),
        ]
        for call in calls:
            with pytest.raises(EncoderMismatchError, match="Open the device again"):
                call()
        assert changed.count() == 8


def test_a_failed_reencode_changes_nothing(
    device: Device, folder: Path, key: DeviceKey, toy: Any, toy_class: Any
) -> None:
    habits(device)
    expected = device.suggest("something warm")
    device.close()

    class Broken(toy_class):  # type: ignore[misc, valid-type]
        def encode(self, texts: Any) -> Any:
            return super().encode(texts) * np.nan

    with pytest.raises(EngineError):
        Device.reencode(folder, key, encoder=Broken(8))
    with Device.open(folder, key, encoder=toy) as again:
        assert again.suggest("something warm") == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite_store_nothing(
    tmp_path: Path, key: DeviceKey, catalogue: Catalogue, toy_class: Any, bad: float
) -> None:
    class Sick(toy_class):  # type: ignore[misc, valid-type]
        def encode(self, texts: Any) -> Any:
            vectors = super().encode(texts)
            vectors[[text == "poison" for text in texts]] = bad
            return vectors

    with Device.create(tmp_path / "phone", key, catalogue=catalogue, encoder=Sick()) as device:
        with pytest.raises(EncoderError, match="Nothing was stored"):
            device.remember_many([Memory(text="fine"), Memory(text="poison")])
        for ask in (device.suggest, device.search, device.remember):
            with pytest.raises(EncoderError):
                ask("poison")
        assert device.count() == 0
        device.remember("fine", label="taxi")
        assert device.count() == 1


def test_open_without_an_encoder_takes_the_one_the_device_was_made_with(
    tmp_path: Path, key: DeviceKey, encoder: Any
) -> None:
    Device.create(tmp_path / "phone", key).close()
    with Device.open(tmp_path / "phone", key) as device:
        assert device.encoder is load_encoder() is encoder
        assert device.model.catalogue == Catalogue.builtin()


def test_open_without_a_custom_encoder_is_an_error_that_names_it(
    device: Device, folder: Path, key: DeviceKey, toy: Any
) -> None:
    device.close()
    with pytest.raises(EncoderError, match=toy.name):
        Device.open(folder, key)


# Keys and folders.


def test_wrong_keys_have_their_own_error(device: Device, folder: Path, toy: Any) -> None:
    device.close()
    for wrong in (DeviceKey.generate(), Passphrase("a guess")):
        with pytest.raises(WrongKeyError):
            Device.open(folder, wrong, encoder=toy)


def test_passphrase_opens_and_a_wrong_one_does_not(tmp_path: Path, catalogue: Catalogue, toy: Any) -> None:
    folder = tmp_path / "phone"
    Device.create(folder, Passphrase("correct horse"), catalogue=catalogue, encoder=toy).close()
    with pytest.raises(WrongKeyError):
        Device.open(folder, Passphrase("correct house"), encoder=toy)
    with Device.open(folder, Passphrase("correct horse"), encoder=toy) as device:
        assert device.count() == 0


def test_missing_taken_and_foreign_folders_have_their_own_errors(
    device: Device, folder: Path, tmp_path: Path, key: DeviceKey, toy: Any
) -> None:
    with pytest.raises(StoreMissingError):
        Device.open(tmp_path / "nothing", key, encoder=toy)
    with pytest.raises(StoreExistsError):
        Device.create(folder, key, encoder=toy)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "memory.tacit").write_bytes(b"no database at all" * 100)
    with pytest.raises(UnknownFormatError):
        Device.open(tmp_path / "foreign", key, encoder=toy)
    assert device.count() == 0


def test_create_with_a_model_of_another_encoder_leaves_no_device(
    tmp_path: Path, key: DeviceKey, catalogue: Catalogue, toy: Any, toy_class: Any
) -> None:
    with pytest.raises(EncoderMismatchError):
        Device.create(tmp_path / "phone", key, encoder=toy, model=start_checkpoint(catalogue, toy_class(8)))
    assert not (tmp_path / "phone").exists()


def test_closing_twice_is_fine_and_a_closed_device_says_so(device: Device) -> None:
    device.close()
    device.close()
    for ask in (device.count, device.memories, lambda: device.suggest("a"), lambda: device.remember("a")):
        with pytest.raises(StoreError):
            ask()


def test_create_that_fails_on_a_full_disk_leaves_no_device(
    tmp_path: Path, key: DeviceKey, catalogue: Catalogue, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreFullError("The disk is full.")

    monkeypatch.setattr(NamedValues, "put", full)
    with pytest.raises(StoreFullError):
        Device.create(tmp_path / "phone", key, catalogue=catalogue, encoder=toy)
    monkeypatch.undo()
    with Device.create(tmp_path / "phone", key, catalogue=catalogue, encoder=toy) as device:
        assert device.count() == 0


@pytest.mark.parametrize("name", ["two\nlines", "", "汉字"])
def test_any_name_of_an_encoder_opens_again(
    tmp_path: Path, key: DeviceKey, catalogue: Catalogue, toy_class: Any, name: str
) -> None:
    named = toy_class()
    named.name = name
    Device.create(tmp_path / "phone", key, catalogue=catalogue, encoder=named).close()
    with Device.open(tmp_path / "phone", key, encoder=named) as device:
        assert device.encoder.name == name


# Several hands on one device.


def in_threads(count: int, work: Callable[[int], None]) -> None:
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 (handed to the test's own thread)
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert errors == []
    assert not any(thread.is_alive() for thread in threads)


def test_several_threads_remember_suggest_and_forget_at_once(device: Device) -> None:
    kept: list[int] = []

    def work(number: int) -> None:
        for turn in range(8):
            id = device.remember(f"something warm {number} {turn}", label=("opera", "taxi", "my own")[turn % 3])
            suggestions = device.suggest(f"warm {number}", k=3)
            assert len(suggestions) == 3
            assert sum(each.score for each in suggestions) <= 1 + 1e-9
            assert device.search(f"something warm {number} {turn}", k=1)
            if turn % 4 == 3:
                device.forget(id)
            else:
                kept.append(id)
            device.train(device.model.flat, plan=PLAN, hold_back=True, rng=rng())

    in_threads(5, work)
    assert device.count() == 5 * 6
    assert sorted(kept) == [found.id for found in device.memories()]


def test_a_second_device_on_the_folder_sees_what_the_first_writes(
    device: Device, folder: Path, key: DeviceKey, toy: Any
) -> None:
    with Device.open(folder, key, encoder=toy) as second:
        assert second.suggest("something warm tonight", k=1)[0].source == "global"
        ids = habits(device)
        assert second.count() == len(ids)
        assert second.suggest("something warm tonight", k=1)[0].label == "opera"
        assert second.search("ride home", k=1)[0].text == "ride home"
        second.forget(ids[:4])
        found = [each.id for suggestion in device.suggest("something warm", k=4) for each in suggestion.because]
        assert not {*found} & {*ids[:4]}
        device.load_model(retrained(device, round=9))
        assert second.model.round == 9


def test_processes_on_one_device_lose_nothing(
    device: Device, folder: Path, toy: Any, python: Callable[..., Any]
) -> None:
    code = f"""
import runpy, sys
from engine.device.device import Device
from store import DeviceKey
HashEncoder = runpy.run_path({str(Path(__file__).parents[1] / "conftest.py")!r})["HashEncoder"]
with Device.open({str(folder)!r}, DeviceKey(bytes(range(32))), encoder=HashEncoder()) as device:
    for turn in range(10):
        device.remember(f"from elsewhere {{turn}}", label="taxi")
        device.suggest("a ride")
"""
    results: list[Any] = []
    in_threads(
        2, lambda number: results.append(python(code)) if number else [device.remember("here") for _ in range(10)]
    )
    assert results[0].returncode == 0, results[0].stderr
    assert device.count() == 20


def test_wordings_are_made_once_and_gone_with_the_memories(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    honest = inputs.wording
    monkeypatch.setattr(inputs, "wording", lambda texts, encoder: made.extend(texts) or honest(texts, encoder))
    device.remember_many([Memory(text="a taxi home", label="taxi"), Memory(text="a pizza", label="pizza")])
    device.suggest("something")
    assert {"a taxi home", "a pizza"} <= set(made)
    made.clear()
    third = device.remember("another pizza", label="pizza")
    device.suggest("something else")
    assert "another pizza" in made
    assert not {"a taxi home", "a pizza"} & set(made)
    device.forget(third)
    assert not any("pizza" in text for text in device._wordings)
    device.suggest("something")
    assert set(device._wordings) == {"a taxi home", "a pizza"}


ASKED = ["a ride", "a pizza now", "warm seats", "parrot food"]
TAUGHT = st.tuples(st.sampled_from(ASKED), st.sampled_from(["taxi", "pizza", "opera", "parrots", None]))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("remember"), st.lists(TAUGHT, min_size=1, max_size=3)),
        st.tuples(st.just("replace"), st.tuples(st.integers(0, 30), TAUGHT)),
        st.tuples(st.just("forget"), st.integers(0, 30)),
        st.tuples(st.just("undone"), TAUGHT),
        st.tuples(st.just("search"), st.just(None)),
        st.tuples(st.just("model"), st.booleans()),
    ),
    max_size=12,
)


@given(steps=STEPS)
@settings(max_examples=25, deadline=None)
def test_a_device_that_changed_step_by_step_answers_as_one_that_reads_all_anew(steps: list[Any], toy: Any) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder, secret, key = Path(place) / "phone", FileSecret(Path(place) / "secret"), DeviceKey(bytes(32))
        start = start_checkpoint(Catalogue.from_names(["taxi", "pizza", "opera"], title="three"), toy)
        other = dataclasses.replace(start, flat=start.flat[::-1].copy())
        with Device.create(folder, key, model=start, encoder=toy, secret=secret) as device:
            for step, given_ in steps:
                change(device, step, given_, models=(start, other))
                said = everything_said(device)
                with Device.open(folder, key, encoder=toy, secret=secret) as anew:
                    assert everything_said(anew) == said


def change(device: Device, step: str, given_: Any, *, models: tuple[Checkpoint, Checkpoint]) -> None:
    """One step of those that may happen to a device, where there is something for it to happen to."""
    ids = [found.id for found in device.memories()]
    match step:
        case "remember":
            device.remember_many([Memory(text=text, label=label) for text, label in given_])
        case "replace" if ids:
            at, (text, label) = given_
            device.remember(text, label=label, supersedes=ids[at % len(ids)])
        case "forget" if ids:
            device.forget(ids[given_ % len(ids)])
        case "undone":
            with contextlib.suppress(ZeroDivisionError), device.store.transaction():
                device.remember(given_[0], label=given_[1])
                device.suggest("a ride")
                raise ZeroDivisionError
        case "search":
            device.search("a warm ride", k=3)
        case "model":
            device.load_model(models[given_])


def everything_said(device: Device) -> list[Any]:
    """All suggestions to some requests with their scores and reasons, to the bit."""
    answers = [device.suggest(text, k=9) for text in ("a ride home", "hungry parrot", "pizza")]
    return [[(each.label, each.score, each.because) for each in answer] + [answer.scope] for answer in answers]
