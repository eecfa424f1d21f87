"""What a device gave to rounds: noted before it leaves, bounded by the owner, and never won back."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from engine.device.device import Device, Memory
from engine.errors import BudgetError, ChangedMeanwhileError, ConsentError
from engine.owner.account import WEEK_S, Account, Contribution, Limits, Spent, digest
from store import (
    AcceptRollback,
    AnchorFile,
    DeviceKey,
    EncryptedStore,
    FileSecret,
    RolledBackError,
    StoreError,
    StoreFullError,
    TamperedError,
    Where,
)

NOW = 3000 * WEEK_S + 5.0
PAYLOAD = bytes(range(200))
TERMS = {"mode": "open", "purpose": "personalization"}


def contribution(number: int = 1, *, payload: bytes = PAYLOAD, **changed: Any) -> Contribution:
    plain: dict[str, Any] = {
        "time": NOW,
        "to": "Flower run 7",
        "round": number,
        "mode": "open",
        "purpose": "personalization",
        "asked": digest(b"request %d" % number),
        "model": digest(b"model"),
        "sent": digest(payload),
        "size_bytes": len(payload),
    }
    return Contribution(**(plain | changed))


@pytest.fixture
def willing(device: Device) -> Device:
    device.allow_rounds("open")
    return device


def give(device: Device, *numbers: int, now: float = NOW) -> None:
    for number in numbers:
        device.contribute(contribution(number, time=now), PAYLOAD, standing=device.account.standing())


def test_contributions_are_listed_in_order_and_survive(willing: Device, folder: Path, key: DeviceKey, toy: Any) -> None:
    given = [contribution(1), contribution(2, payload=b"other", to="Flower run 8", round=3)]
    willing.contribute(given[0], PAYLOAD, standing=willing.account.standing())
    willing.contribute(given[1], b"other", standing=willing.account.standing())
    with Device.open(folder, key, encoder=toy) as same:
        assert same.account.contributions() == given
        assert same.account.spent == Spent(lifetime=2, week=3000, in_week=2, unbounded=2)


@pytest.mark.parametrize(("payload", "size"), [(b"another", len(PAYLOAD)), (PAYLOAD, 7)])
def test_ledger_takes_no_entry_that_does_not_fit_its_payload(willing: Device, payload: bytes, size: int) -> None:
    with pytest.raises(ValueError, match="hash or size"):
        willing.contribute(contribution(size_bytes=size), payload, standing=willing.account.standing())
    assert willing.account.contributions() == []


def test_same_request_gets_the_same_bytes_noted_again_and_free(willing: Device) -> None:
    willing.account.limit(Limits(lifetime=1), now=NOW)
    give(willing, 1)
    assert willing.contribute_again(contribution(1).asked, **TERMS) == PAYLOAD
    first, again = willing.account.contributions()
    assert (first.again, again.again) == (False, True)
    assert (again.sent, again.asked, again.round) == (first.sent, first.asked, first.round)
    assert willing.account.spent.lifetime == 1
    with pytest.raises(BudgetError):
        give(willing, 2)


def test_another_request_gets_nothing_that_was_queued(willing: Device) -> None:
    give(willing, 1, 2)
    assert willing.contribute_again(contribution(1).asked, **TERMS) is None
    assert willing.contribute_again(contribution(3).asked, **TERMS) is None
    assert len(willing.account.contributions()) == 2


def test_queued_bytes_go_with_a_memory_they_were_made_from(willing: Device) -> None:
    id = willing.remember("a taxi to the opera", label="taxi")
    give(willing, 1)
    willing.forget(id)
    assert willing.contribute_again(contribution(1).asked, **TERMS) is None


def test_queued_bytes_go_with_consent_and_do_not_come_back(willing: Device) -> None:
    for withdraw, give_back in (
        (lambda: willing.allow_rounds(None), lambda: willing.allow_rounds("open")),
        (lambda: willing.withdraw_purpose("personalization"), lambda: willing.allow_purpose("personalization")),
    ):
        give(willing, 1)
        withdraw()
        with pytest.raises(ConsentError):
            willing.contribute_again(contribution(1).asked, **TERMS)
        with pytest.raises(ConsentError):
            give(willing, 2)
        give_back()
        assert willing.contribute_again(contribution(1).asked, **TERMS) is None
    assert [its.round for its in willing.account.contributions()] == [1, 1]


def test_consent_of_the_owner_stands_in_the_ledger(willing: Device) -> None:
    willing.allow_rounds(None)
    assert [content.split(b",")[0] for _, _, content in willing.store.entries("rounds")] == [
        b'{"mode": "open"',
        b'{"mode": null',
    ]


def test_limits_hold_in_all_and_by_the_week(willing: Device) -> None:
    willing.account.limit(Limits(lifetime=3, week=2), now=NOW)
    give(willing, 1, 2)
    with pytest.raises(BudgetError, match="2 a week"):
        give(willing, 3)
    give(willing, 3, now=NOW + WEEK_S)
    with pytest.raises(BudgetError, match="3 in all"):
        give(willing, 4, now=NOW + WEEK_S)
    assert [its.round for its in willing.account.contributions()] == [1, 2, 3]
    willing.account.limit(Limits(), now=NOW)
    give(willing, 4)
    assert willing.account.spent.lifetime == 4


def test_clock_set_back_wins_no_week(willing: Device) -> None:
    willing.account.limit(Limits(week=1), now=NOW)
    give(willing, 1)
    for earlier in (NOW - 2 * WEEK_S, 0.0, -1.0):
        with pytest.raises(BudgetError):
            give(willing, 2, now=earlier)


def test_what_was_given_before_the_limit_counts(willing: Device) -> None:
    give(willing, 1, 2)
    willing.account.limit(Limits(lifetime=2), now=NOW)
    with pytest.raises(BudgetError):
        give(willing, 3)


def test_none_is_allowed_where_the_limit_is_zero(willing: Device) -> None:
    willing.account.limit(Limits(lifetime=0), now=NOW)
    with pytest.raises(BudgetError):
        willing.account.require_left(now=NOW)
    with pytest.raises(ValueError, match="lifetime=-1"):
        Limits(lifetime=-1)


def test_refused_contribution_changes_nothing(willing: Device) -> None:
    willing.account.limit(Limits(lifetime=1), now=NOW)
    give(willing, 1)
    before = willing.store.entries()
    with pytest.raises(BudgetError):
        give(willing, 2)
    assert willing.store.entries() == before
    assert willing.contribute_again(contribution(1).asked, **TERMS) == PAYLOAD


def test_older_copy_of_the_device_gets_nothing_back(tmp_path: Path, key: DeviceKey, catalogue: Any, toy: Any) -> None:
    folder, outside = tmp_path / "phone", tmp_path / "outside"
    outside.mkdir()
    secret, witness = FileSecret(outside / "secret"), AnchorFile(outside / "anchor")
    device = Device.create(folder, key, catalogue=catalogue, encoder=toy, secret=secret, witness=witness)
    device.allow_rounds("open")
    device.account.limit(Limits(lifetime=9), now=NOW)
    give(device, 1)
    shutil.copytree(folder, tmp_path / "copy")
    device.account.limit(Limits(lifetime=2, week=7), now=NOW)
    give(device, 2)
    device.store._database.close()  # As a crash ends it: nothing is settled, and the epoch is that of the copy.
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "copy", folder)
    with pytest.raises(RolledBackError):
        Device.open(folder, key, encoder=toy, secret=secret, witness=witness)
    accept = AcceptRollback()
    with Device.open(folder, key, encoder=toy, secret=secret, witness=witness, accept=accept) as old:
        assert [its.round for its in old.account.contributions()] == [1]
        assert (old.account.spent.lifetime, old.account.limits) == (2, Limits(lifetime=2, week=7))
        with pytest.raises(BudgetError):
            give(old, 3)


def test_spent_of_another_release_is_refused(willing: Device) -> None:
    willing.store.charge(b"\x02later")
    with pytest.raises(BudgetError, match="another release"):
        give(willing, 1)


def test_contribution_leaves_what_is_kept_in_memory(willing: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    willing.remember("a taxi to the opera", label="taxi")
    willing.suggest("taxi")
    reads: list[object] = []
    whole = type(willing.store).read
    monkeypatch.setattr(type(willing.store), "read", lambda *args, **terms: reads.append(1) or whole(*args, **terms))
    give(willing, 1)
    willing.suggest("taxi")
    assert not reads
    willing.remember("pizza for two", label="pizza")
    willing.suggest("taxi")
    assert reads


def test_change_by_another_process_during_a_contribution_is_seen(
    willing: Device, folder: Path, key: DeviceKey, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    willing.suggest("parrot")
    version = type(willing.store).data_version
    asked: list[int] = []

    def after_another_write(store: Any) -> int:
        asked.append(1)
        if store is willing.store and len(asked) == 2:  # Between the commit and the look at what it changed.
            monkeypatch.undo()
            with Device.open(folder, key, encoder=toy) as other:
                other.remember_many([Memory(text=f"parrot food {n}", label="parrot_care") for n in range(6)])
        return version(store)

    monkeypatch.setattr(type(willing.store), "data_version", after_another_write)
    give(willing, 1)
    assert len(asked) == 2
    assert willing.suggest("parrot food")[0].label == "parrot_care"


def test_contribution_is_refused_where_something_was_forgotten_or_allowed_since(
    willing: Device, folder: Path, key: DeviceKey, toy: Any
) -> None:
    for change in (
        lambda other: other.forget(other.remember("a taxi to the opera", label="taxi")),
        lambda other: other.withdraw_purpose("personalization") or other.allow_purpose("personalization"),
        lambda other: other.allow_rounds(None) or other.allow_rounds("open"),
        lambda other: give(other, 7),
    ):
        standing = willing.account.standing()
        with Device.open(folder, key, encoder=toy) as other:
            change(other)
        given = willing.account.contributions()
        with pytest.raises(ChangedMeanwhileError):
            willing.contribute(contribution(1), PAYLOAD, standing=standing)
        assert willing.account.contributions() == given


def test_no_contribution_inside_a_transaction_that_could_undo_it(willing: Device) -> None:
    give(willing, 1)
    with willing.store.transaction():
        with pytest.raises(StoreError, match="inside a transaction"):
            give(willing, 2)
        with pytest.raises(StoreError, match="inside a transaction"):
            willing.contribute_again(contribution(1).asked, **TERMS)
    assert [its.round for its in willing.account.contributions()] == [1]


def test_word_that_was_undone_does_not_count(willing: Device) -> None:
    willing.allow_rounds(None)
    with contextlib.suppress(RuntimeError), willing.store.transaction():
        willing.allow_rounds("open")
        assert willing.allowed_rounds == "open"
        raise RuntimeError
    assert willing.allowed_rounds is None
    with pytest.raises(ConsentError):
        give(willing, 1)


def test_consent_is_asked_for_the_purpose_of_the_contribution(willing: Device) -> None:
    willing.withdraw_purpose("research")
    with pytest.raises(ConsentError, match="research"):
        willing.contribute(contribution(purpose="research"), PAYLOAD, standing=willing.account.standing())


@pytest.mark.parametrize("end", ["expire", "delete", "erase"])
def test_queued_bytes_do_not_outlive_what_they_rest_on(
    willing: Device, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    now = time.time()
    id = willing.remember("a taxi to the opera", label="taxi", expires=now + 100)
    willing.suggest("taxi")
    give(willing, 1)
    if end == "expire":
        monkeypatch.setattr(time, "time", lambda: now + 100)  # Nobody has called expire().
    elif end == "delete":
        willing.store.delete(id)
    else:
        willing.store.erase(Where())
    assert willing.contribute_again(contribution(1).asked, **TERMS) is None


def test_the_same_is_given_a_few_times_and_while_the_limits_hold(willing: Device) -> None:
    give(willing, 1)
    asked = contribution(1).asked
    for _ in range(8):
        assert willing.contribute_again(asked, **TERMS) == PAYLOAD
    with pytest.raises(BudgetError, match="more than 8 times"):
        willing.contribute_again(asked, **TERMS)
    give(willing, 2)
    willing.account.limit(Limits(lifetime=1), now=NOW)
    with pytest.raises(BudgetError, match="1 in all"):
        willing.contribute_again(contribution(2).asked, **TERMS)
    assert [its.round for its in willing.account.contributions()] == [1] * 9 + [2]
    assert willing.account.spent == Spent(lifetime=2, week=3000, in_week=2, unbounded=2)


def test_repeats_do_not_count_where_no_limit_was_set(willing: Device) -> None:
    give(willing, 1)
    willing.contribute_again(contribution(1).asked, **TERMS)
    assert willing.account.spent.lifetime == 1


def test_contributions_of_another_week_are_not_of_this_one() -> None:
    spent = Spent(lifetime=5, week=3000, in_week=4)
    assert [spent.in_week_at(NOW + weeks * WEEK_S) for weeks in (-1, 0, 1)] == [4, 4, 0]
    assert spent.plus_one(NOW + WEEK_S) == Spent(lifetime=6, week=3001, in_week=1)


def test_withdrawal_and_the_end_of_the_queue_are_one_change(willing: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    give(willing, 1)

    def full(*_: object) -> None:
        raise StoreFullError("The disk is full.")

    monkeypatch.setattr(Account, "drop_queued", full)
    for withdraw in (lambda: willing.withdraw_purpose("personalization"), lambda: willing.allow_rounds(None)):
        with pytest.raises(StoreFullError):
            withdraw()
    assert (willing.withdrawn_purposes, willing.allowed_rounds) == ([], "open")
    assert willing.contribute_again(contribution(1).asked, **TERMS) == PAYLOAD


def test_closing_after_contributions_begins_no_epoch(willing: Device, folder: Path, key: DeviceKey, toy: Any) -> None:
    epoch = willing.store.epoch
    for number in range(3):
        with Device.open(folder, key, encoder=toy) as same:
            give(same, number)
    assert willing.store.epoch == epoch


def test_limits_stand_in_the_ledger(willing: Device) -> None:
    willing.account.limit(Limits(lifetime=3), now=NOW)
    assert [json.loads(content) for _, _, content in willing.store.entries("limits")] == [
        {"lifetime": 3, "week": None, "rho": None, "rho_week": None, "time": NOW}
    ]


@pytest.mark.parametrize(
    "ratchet",
    [b"\1", b"\1" + bytes(39), b"\1" + bytes(41), b"\1" + b"\xff" * 40, b"\2" + b"\xff" * 80, b"3 of 10 spent"],
)
def test_ratchet_of_an_app_is_a_typed_error(willing: Device, ratchet: bytes) -> None:
    willing.store.charge(ratchet)
    for use in (
        lambda: give(willing, 1),
        lambda: willing.account.spent,
        lambda: willing.account.limits,
        lambda: willing.account.limit(Limits(), now=NOW),
    ):
        with pytest.raises(BudgetError, match="by an app"):
            use()


@pytest.mark.parametrize("content", [b"no JSON", b"{}", b"[1]", b'{"to": 1}', b"[" * 100_000])
def test_entry_of_an_app_under_the_kind_of_contributions_is_a_typed_error(willing: Device, content: bytes) -> None:
    willing.store.append("sent", content)
    with pytest.raises(BudgetError, match="by an app"):
        willing.account.contributions()


def test_two_threads_use_a_device_and_its_store(willing: Device, folder: Path, key: DeviceKey, toy: Any) -> None:
    """What one thread notes is there when it returns, whatever another has in its own transaction."""
    ended, failed = threading.Event(), list[BaseException]()

    def use_the_store() -> None:
        try:
            while not ended.is_set():
                with willing.store.transaction():
                    willing.store.put("app", "count", b"x")
                    willing.suggest("taxi")
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            failed.append(error)

    thread = threading.Thread(target=use_the_store)
    thread.start()
    try:
        for number in range(1, 25):
            give(willing, number)
            with EncryptedStore.open(folder, key) as same:
                assert len(same.entries("sent")) == number
    finally:
        ended.set()
        thread.join()
    assert not failed


def test_edited_ledger_is_noticed(willing: Device, folder: Path) -> None:
    give(willing, 1, 2)
    with sqlite3.connect(folder / "memory.tacit") as raw:
        raw.execute("DELETE FROM ledger WHERE number = 3")
    raw.close()
    with pytest.raises(TamperedError):
        willing.account.contributions()


def test_time_of_a_repeated_answer_is_its_own(willing: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    give(willing, 1)
    monkeypatch.setattr(time, "time", lambda: NOW + 60)
    willing.contribute_again(contribution(1).asked, **TERMS)
    assert [its.time for its in willing.account.contributions()] == [NOW, NOW + 60]
