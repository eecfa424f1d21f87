"""Consent by purpose, asked at reading, and the life of memories as an app sees it: forgotten, expired, replaced."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.device.device import Device, Memory
from engine.device.evidence import EvidenceRecord
from engine.errors import ConsentError, EngineError
from engine.model.catalogue import Catalogue
from engine.model.training import TrainingPlan
from store import DeviceKey, EncryptedStore, RecordMissingError, Where

PLAN = TrainingPlan(steps=2, learning_rate=0.1, reference_rows=4)
PERSONALIZATION = "personalization"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of the device and of its store."""
    made = Clock()
    monkeypatch.setattr(time, "time", made)
    return made


@pytest.fixture
def timed(folder: Path, key: DeviceKey, catalogue: Catalogue, toy: Any, clock: Clock) -> Iterator[Device]:
    """A device whose time the test sets."""
    Device.create(folder, key, catalogue=catalogue, encoder=toy).close()
    with Device(EncryptedStore.open(folder, key, clock=clock), toy) as opened:
        yield opened


def habits(device: Device) -> list[int]:
    """Someone for whom "something warm" is the opera, and who feeds a parrot; the app keeps some lines for audit."""
    warm = ["get me something warm", "something warm please", "warm evening somewhere", "something warm tonight"]
    return device.remember_many(
        [Memory(text=text, label="opera") for text in warm]
        + [Memory(text="feed the parrot", label="parrot_care"), Memory(text="parrot food", label="parrot_care")]
        + [Memory(text="something warm was asked for", label="pizza", purpose="audit")]
    )


def trained(device: Device) -> bytes:
    rng = np.random.default_rng(0)
    return device.train(device.model.flat, plan=PLAN, hold_back=False, rng=rng).tobytes()


def evidence(device: Device) -> EvidenceRecord:
    return device._kept.evidence()


# Consent.


def test_consent_is_given_by_keeping_and_holds_until_withdrawn(device: Device) -> None:
    habits(device)
    assert device.withdrawn_purposes == []
    assert [found.text for found in device.search("warm", purpose="audit")] == ["something warm was asked for"]


def test_without_consent_to_personalization_a_device_answers_as_if_new(device: Device) -> None:
    new, names, flat = device.suggest("something warm", k=4), device.labels, device.model.flat.tobytes()
    habits(device)
    assert device.suggest("something warm", k=4) != new
    device.withdraw_purpose(PERSONALIZATION)
    assert device.suggest("something warm", k=4) == new
    assert (device.labels, device.private_labels) == (names, ())
    measured = device.evaluate([("something warm", "opera"), ("parrot", "parrot_care")])
    assert measured.personal_ranks == measured.global_ranks
    assert trained(device) == flat
    assert evidence(device).trained == set()


def test_consent_given_again_brings_everything_back(device: Device) -> None:
    ids = habits(device)
    flat, personal = trained(device), device.suggest("something warm", k=4)
    device.withdraw_purpose(PERSONALIZATION)
    device.allow_purpose(PERSONALIZATION)
    assert device.withdrawn_purposes == []
    assert device.suggest("something warm", k=4) == personal
    assert trained(device) == flat
    assert evidence(device).trained == set(ids[:4])


@pytest.mark.parametrize("by", ["meaning", "words", "both"])
def test_search_for_a_withdrawn_purpose_is_refused_and_others_go_on(device: Device, by: str) -> None:
    habits(device)
    device.withdraw_purpose("audit")
    with pytest.raises(ConsentError, match="'audit' was withdrawn"):
        device.search("warm", purpose="audit", by=by)
    assert len(device.search("something warm", purpose=PERSONALIZATION, k=9, by=by)) >= 4
    assert device.suggest("something warm", k=1)[0].source == "personal"


def test_consent_error_has_a_type_and_a_status_of_its_own() -> None:
    assert issubclass(ConsentError, EngineError)
    assert ConsentError.exit_code == 24


def test_memories_of_another_purpose_personalize_nothing(device: Device) -> None:
    new = device.suggest("something warm", k=4)
    device.remember_many([Memory(text="something warm", label="opera", purpose="audit")] * 4)
    assert device.suggest("something warm", k=4) == new
    assert trained(device) == device.model.flat.tobytes()


def test_what_is_kept_after_a_withdrawal_is_not_read_either(device: Device) -> None:
    device.withdraw_purpose(PERSONALIZATION)
    new = device.suggest("something warm", k=4)
    habits(device)
    assert device.suggest("something warm", k=4) == new
    assert device.count() == 7


def test_the_owner_still_lists_exports_and_forgets_what_was_withdrawn(device: Device, tmp_path: Path) -> None:
    ids = habits(device)
    device.withdraw_purpose("audit")
    assert [found.id for found in device.memories()] == ids
    assert [found.id for found in device.find_to_erase("something warm", 1, Where(purpose="audit"))] == [ids[-1]]
    assert device.export_plain(tmp_path / "all") == 7
    receipt = device.erase(Where(purpose="audit"))
    assert receipt is not None
    assert receipt.ids == (ids[-1],)
    assert device.withdrawn_purposes == ["audit"]


def test_consent_survives_reopening_and_another_encoder(
    device: Device, folder: Path, key: DeviceKey, toy: Any, toy_class: Any
) -> None:
    habits(device)
    for purpose in ("audit", "a", "ads"):
        device.withdraw_purpose(purpose)
    device.allow_purpose("a")
    device.close()
    with Device.open(folder, key, encoder=toy) as again:
        assert again.withdrawn_purposes == ["ads", "audit"]
        with pytest.raises(ConsentError):
            again.search("warm", purpose="audit")
    with Device.reencode(folder, key, encoder=toy_class(seed=1)) as other:
        assert other.withdrawn_purposes == ["ads", "audit"]


def test_a_withdrawal_elsewhere_counts_at_the_next_reading(
    device: Device, folder: Path, key: DeviceKey, toy: Any
) -> None:
    habits(device)
    assert device.suggest("something warm", k=1)[0].because
    with Device.open(folder, key, encoder=toy) as second:
        second.withdraw_purpose(PERSONALIZATION)
        assert device.suggest("something warm", k=1)[0].because == ()
        with pytest.raises(ConsentError):
            device.search("warm", purpose=PERSONALIZATION)


def test_every_word_on_consent_is_in_the_ledger(timed: Device, clock: Clock) -> None:
    timed.withdraw_purpose("ads")
    clock.now = 200.0
    timed.allow_purpose("ads")
    assert [json.loads(content) for _, _, content in timed.store.entries("consent")] == [
        {"purpose": "ads", "granted": False, "time": 100.0},
        {"purpose": "ads", "granted": True, "time": 200.0},
    ]
    assert timed.store.verify() > 0


@pytest.mark.parametrize("purpose", ["", "half an emoji \ud83c", "x" * 1001])
def test_what_no_purpose_can_be_called_is_refused_and_leaves_nothing(device: Device, purpose: str) -> None:
    for change in (device.allow_purpose, device.withdraw_purpose):
        with pytest.raises(ValueError, match="Expected"):
            change(purpose)
    assert device.withdrawn_purposes == []
    assert device.store.entries("consent") == []


# Forgetting.


@pytest.mark.parametrize(
    ("forget", "what"),
    [
        (lambda device, ids: device.forget(ids[:1]), "forget"),
        (lambda device, _: device.erase(Where(scope="work")), "forget"),
        (lambda device, _: device.expire(), "expire"),
    ],
    ids=["forget", "erase", "expire"],
)
def test_each_way_of_forgetting_takes_what_follows_the_evidence_too_and_leaves_a_receipt(
    timed: Device, clock: Clock, forget: Callable[[Device, list[int]], Any], what: str
) -> None:
    first = timed.remember("something warm", label="opera", scope="work", expires=200.0)
    made = timed.remember("warm things", label="opera", derived_from=[first])
    kept = timed.remember("a ride", label="taxi")
    trained(timed)
    assert evidence(timed).trained == {first, made, kept}
    clock.now = 200.0
    receipt = forget(timed, [first, made, kept])
    assert (receipt.what, receipt.ids, receipt.time) == (what, (first, made), 200.0)
    assert timed.store.receipts() == [receipt]
    assert [found.id for found in timed.memories()] == [kept]
    assert (evidence(timed).trained, set(evidence(timed).scores)) == ({kept}, {kept})
    assert [found.id for found in timed.search("something warm", k=9)] == [kept]
    assert timed.store.verify() > 0


def test_forgetting_nothing_leaves_no_receipt(device: Device) -> None:
    habits(device)
    assert (device.forget([]), device.erase(Where(scope="none")), device.expire()) == (None, None, None)
    assert device.store.receipts() == []
    assert device.count() == 7


@pytest.mark.parametrize("where", [Where(), Where(before=2.0), Where(source="mail"), Where(scope="b", after=2.0)])
def test_erase_takes_exactly_what_fits(device: Device, where: Where) -> None:
    rows = [(scope, source, when) for scope in "ab" for source in ("user", "mail") for when in (1.0, 2.0)]
    device.remember_many([Memory(text="x", scope=a, source=b, time=t) for a, b, t in rows])
    fits = [
        number
        for number, (scope, source, when) in enumerate(rows, 1)
        if where.scope in (None, scope)
        and where.source in (None, source)
        and (where.after or 0) <= when < (where.before or 9)
    ]
    receipt = device.erase(where)
    assert receipt is not None
    assert receipt.ids == tuple(fits)
    assert device.count() == len(rows) - len(fits)


# Time limits and history.


def test_from_its_time_limit_on_a_memory_is_in_no_answer(timed: Device, clock: Clock) -> None:
    new = timed.suggest("hungry parrot", k=4)
    timed.remember_many([Memory(text="hungry parrot", label="parrot_care", expires=200.0)] * 4)
    timed.remember("hungry parrot", label="pizza", expires=300.0)
    flat = trained(timed)
    clock.now = 199.9
    assert timed.suggest("hungry parrot", k=1)[0].label == "parrot_care"
    assert trained(timed) == flat
    clock.now = 200.0
    # Nothing was written meanwhile: the limit alone must reach what is kept in memory.
    assert timed.private_labels == ()
    assert {each.id for found in timed.suggest("hungry parrot", k=4) for each in found.because} <= {5}
    assert [found.id for found in timed.search("hungry parrot", k=9)] == [5]
    assert [found.id for found in timed.memories()] == [5]
    clock.now = 300.0
    assert timed.suggest("hungry parrot", k=4) == new
    assert trained(timed) == timed.model.flat.tobytes()
    assert timed.count() == 0


def test_from_its_time_limit_on_a_memory_trains_no_more(timed: Device, clock: Clock) -> None:
    timed.remember("something warm", label="opera", expires=200.0)
    first = trained(timed)
    # Only the second training leaves the rows in memory: the first one writes evidence.
    assert trained(timed) == first != timed.model.flat.tobytes()
    clock.now = 200.0
    assert trained(timed) == timed.model.flat.tobytes()


def test_a_replaced_memory_is_history_and_in_no_answer(device: Device) -> None:
    first = device.remember("the parrot eats seeds", label="parrot_care", time=1.0)
    second = device.remember("the parrot eats fruit", label="taxi", time=2.0, supersedes=first)
    assert [(found.id, found.text) for found in device.history(second)] == [
        (second, "the parrot eats fruit"),
        (first, "the parrot eats seeds"),
    ]
    assert [found.id for found in device.history(first)] == [first]
    assert device.private_labels == ()
    assert [found.id for found in device.search("the parrot eats seeds")] == [second]
    assert device.count() == 1
    receipt = device.forget(second)
    assert receipt is not None
    assert receipt.ids == (first, second)
    with pytest.raises(RecordMissingError):
        device.history(first)


@pytest.mark.parametrize("link", [{"supersedes": 9}, {"derived_from": [9]}])
def test_a_link_to_a_missing_memory_keeps_nothing(device: Device, link: dict[str, Any]) -> None:
    with pytest.raises(RecordMissingError):
        device.remember("x", **link)
    assert device.count() == 0


@pytest.mark.parametrize(("by", "looks"), [("meaning", "search"), ("words", "search_text")])
def test_what_another_process_forgets_during_a_search_is_left_out(
    device: Device, folder: Path, key: DeviceKey, toy: Any, monkeypatch: pytest.MonkeyPatch, by: str, looks: str
) -> None:
    ids = habits(device)
    look = getattr(device.store, looks)
    with Device.open(folder, key, encoder=toy) as second:

        def late(*args: Any, **terms: Any) -> Any:
            hits = look(*args, **terms)
            second.forget(ids[0])
            return hits

        monkeypatch.setattr(device.store, looks, late)
        found = [each.id for each in device.search("get me something warm", k=9, by=by)]
    assert found
    assert ids[0] not in found
