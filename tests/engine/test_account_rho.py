"""What contributions cost in ρ: charged once, before anything leaves, and within the owner's limits, whoever tries."""

from __future__ import annotations

import json
import math
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine
from engine.device.device import Device
from engine.errors import BudgetError, ConsentError
from engine.owner.account import DEFAULT_EPSILON, WEEK_S, Account, Contribution, Limits, Spent, digest
from engine.owner.ratchet import packed, unpacked
from engine.owner.rho import epsilon_of, rho_of
from store import AcceptRollback, AnchorFile, DeviceKey, EncryptedStore, FileSecret, RolledBackError

NOW = 3000 * WEEK_S + 5.0
PAYLOAD = b"a masked array"


def contribution(number: int, rho: float | None, *, mode: str = "private", now: float = NOW) -> Contribution:
    return Contribution(
        time=now,
        to="run",
        round=number,
        mode=mode,
        purpose="personalization",
        asked=digest(b"%d" % number),
        model=digest(b"model"),
        sent=digest(PAYLOAD),
        size_bytes=len(PAYLOAD),
        rho=rho,
    )


def give(device: Device, number: int, rho: float | None, *, mode: str = "private", now: float = NOW) -> None:
    device.contribute(contribution(number, rho, mode=mode, now=now), PAYLOAD, standing=device.account.standing())


def again(device: Device, number: int, *, mode: str = "private") -> bytes | None:
    return device.contribute_again(digest(b"%d" % number), mode=mode, purpose="personalization")


@pytest.fixture
def willing(device: Device) -> Device:
    device.allow_rounds("open")
    return device


def test_limit_in_all_is_kept_to_the_last_unit(willing: Device) -> None:
    willing.account.limit(Limits(rho=0.3), now=NOW)
    for number in (1, 2, 3):
        give(willing, number, 0.1)
    assert willing.account.spent.rho == 0.3
    before = willing.store.entries()
    with pytest.raises(BudgetError, match=r"ε = 3\.5\d at δ = 1e-05 in all"):
        give(willing, 4, 1e-9)
    assert willing.store.entries() == before
    give(willing, 5, 0.0)


def test_limit_of_the_week_ends_with_it(willing: Device) -> None:
    willing.account.limit(Limits(rho=1.0, rho_week=0.25), now=NOW)
    give(willing, 1, 0.2)
    with pytest.raises(BudgetError, match="a week"):
        give(willing, 2, 0.1)
    for earlier in (NOW - 2 * WEEK_S, -1.0):
        with pytest.raises(BudgetError, match="a week"):
            give(willing, 2, 0.1, now=earlier)
    give(willing, 2, 0.25, now=NOW + WEEK_S)
    spent = willing.account.spent
    assert [spent.rho_in_week_at(NOW + weeks * WEEK_S) for weeks in (1, 2)] == [0.25, 0.0]
    assert spent.rho == 0.45


def test_what_is_left_is_asked_before_the_work(willing: Device) -> None:
    willing.account.require_left(now=NOW, rho=1e9)
    willing.account.limit(Limits(rho=0.3), now=NOW)
    willing.account.require_left(now=NOW, rho=0.3)
    willing.account.require_left(now=NOW)
    for rho in (0.300000001, None):
        with pytest.raises(BudgetError):
            willing.account.require_left(now=NOW, rho=rho)
    assert willing.account.spent == Spent()


def test_what_nothing_bounds_is_past_every_limit_of_rho(willing: Device) -> None:
    give(willing, 1, None, mode="open")
    for limits in (Limits(rho=1e6), Limits(rho_week=1e6)):
        willing.account.limit(limits, now=NOW)
        with pytest.raises(BudgetError, match="nothing bounds"):
            give(willing, 2, None, mode="open")
        with pytest.raises(BudgetError, match="nothing bounds"):
            again(willing, 1, mode="open")
    willing.account.limit(Limits(), now=NOW)
    assert again(willing, 1, mode="open") == PAYLOAD
    give(willing, 2, None, mode="open")
    assert (willing.account.spent.unbounded, willing.account.spent.rho) == (2, 0.0)


def test_what_was_given_before_a_limit_counts(willing: Device) -> None:
    give(willing, 1, 0.2)
    give(willing, 2, None, mode="open")
    give(willing, 3, 0.2)
    willing.account.limit(Limits(rho=0.5), now=NOW)
    spent = willing.account.spent
    assert (spent.lifetime, spent.rho, spent.unbounded) == (3, 0.4, 1)
    with pytest.raises(BudgetError):
        give(willing, 4, 0.2)


def test_the_same_again_costs_nothing(willing: Device) -> None:
    willing.account.limit(Limits(rho=0.2), now=NOW)
    give(willing, 1, 0.2)
    assert again(willing, 1) == PAYLOAD
    assert [(its.again, its.rho, its.rho_spent, its.rho_left) for its in willing.account.contributions()] == [
        (False, 0.2, 0.2, 0.0),
        (True, 0.2, 0.2, 0.0),
    ]
    willing.account.limit(Limits(rho=0.1), now=NOW)
    with pytest.raises(BudgetError):
        again(willing, 1)


def test_each_entry_tells_what_was_spent_and_left(willing: Device) -> None:
    give(willing, 1, None, mode="open")
    give(willing, 2, 0.1)
    willing.account.limit(Limits(rho=0.5), now=NOW)
    give(willing, 3, 0.2)
    told = willing.account.contributions()
    assert [(its.rho_spent, its.rho_left) for its in told] == [(None, None), (0.1, None), (0.3, 0.2)]
    assert [its.epsilon_alone() for its in told] == [None, epsilon_of(0.1), epsilon_of(0.2)]
    assert (told[1].epsilon_spent(), told[1].epsilon_left()) == (epsilon_of(0.1), None)
    assert told[2].epsilon_spent(1e-6) == epsilon_of(0.3, 1e-6)
    # What is spent and what is left add up to what the owner allowed.
    assert told[2].epsilon_spent() + told[2].epsilon_left() == pytest.approx(epsilon_of(0.5))
    assert (told[0].epsilon_spent(), told[0].epsilon_left()) == (None, None)


@pytest.mark.parametrize("rho", [-0.1, math.nan, math.inf])
def test_cost_that_is_no_number_is_refused(rho: float) -> None:
    with pytest.raises(ValueError, match="rho="):
        contribution(1, rho)


@pytest.mark.parametrize("rho", [1e10, 1e300])
def test_cost_beyond_all_accounts_leaves_nothing(willing: Device, rho: float) -> None:
    with pytest.raises(BudgetError, match="more than a device"):
        give(willing, 1, rho)
    assert willing.account.contributions() == []
    assert willing.store.ratchet == b""


@pytest.mark.parametrize("name", ["rho", "rho_week"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, 1e7])
def test_limit_that_is_none_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}="):
        Limits(**{name: value})


# The owner's word.


@pytest.mark.parametrize("mode", ["private", "central"])
def test_rounds_with_a_bound_come_with_a_limit(device: Device, mode: str) -> None:
    device.allow_rounds(mode)
    assert device.account.limits == Limits(rho=rho_of(DEFAULT_EPSILON))
    assert epsilon_of(device.account.limits.rho or 0.0) == pytest.approx(8.0, abs=1e-6)
    assert [kind for _, kind, _ in device.store.entries()] == ["rounds", "limits"]
    with pytest.raises(ConsentError):
        give(device, 1, None, mode="open")
    give(device, 1, 1.0)
    with pytest.raises(BudgetError):
        give(device, 2, 1.0)


@pytest.mark.parametrize(
    "limits", [Limits(rho=0.01, lifetime=3), Limits(rho=0.0), Limits(rho_week=0.1), Limits(rho=1e5, rho_week=2.0)]
)
def test_limit_of_the_owner_is_never_replaced(device: Device, limits: Limits) -> None:
    device.account.limit(limits, now=NOW)
    device.allow_rounds("private")
    device.allow_rounds("open")
    device.allow_rounds("private")
    assert device.account.limits == limits


def test_limits_of_contributions_stay_beside_the_default(device: Device) -> None:
    device.account.limit(Limits(lifetime=7, week=2), now=NOW)
    device.allow_rounds("private")
    assert device.account.limits == Limits(lifetime=7, week=2, rho=rho_of(8.0))


def test_limit_by_default_and_the_word_are_one_change(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Account, "limit", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        device.allow_rounds("private")
    assert device.allowed_rounds is None


def test_device_takes_part_in_stronger_rounds_and_not_in_weaker_ones(device: Device) -> None:
    allowed = {"open": ["open", "central", "private"], "central": ["central", "private"], "private": ["private"]}
    number = 0
    for word, modes in allowed.items():
        device.allow_rounds(word)
        device.account.limit(Limits(), now=NOW)  # Else open rounds are refused for their cost.
        for mode in ("open", "central", "private", "secret"):
            number += 1
            rho = None if mode == "open" else 0.1
            if mode in modes:
                give(device, number, rho, mode=mode)
                assert again(device, number, mode=mode) == PAYLOAD
            else:
                with pytest.raises(ConsentError):
                    give(device, number, rho, mode=mode)
                with pytest.raises(ConsentError):
                    again(device, number, mode=mode)


def test_update_of_a_mode_that_is_too_weak_now_waits_no_more(device: Device) -> None:
    device.allow_rounds("open")
    give(device, 1, 0.1, mode="central")
    device.allow_rounds("open")
    assert again(device, 1, mode="central") == PAYLOAD
    device.allow_rounds("private")
    device.allow_rounds("open")
    assert again(device, 1, mode="central") is None


# The ratchet.


@settings(deadline=None)
@given(
    st.builds(
        Spent,
        **{name: st.integers(0, 2**63 - 1) for name in ("lifetime", "week", "in_week", "units", "unbounded")},
        units_in_week=st.integers(0, 2**63 - 1),
    ),
    st.builds(
        Limits,
        lifetime=st.none() | st.integers(0, 2**63 - 1),
        week=st.none() | st.integers(0, 2**63 - 1),
        rho=st.none() | st.integers(0, 10**15).map(lambda units: units / 10**9),
        rho_week=st.none() | st.integers(0, 10**15).map(lambda units: units / 10**9),
    ),
)
def test_ratchet_holds_what_it_is_given(spent: Spent, limits: Limits) -> None:
    assert unpacked(packed(spent, limits)) == (spent, limits)
    assert len(packed(spent, limits)) <= 192


def test_ratchet_of_the_first_format_is_read_and_goes_on_in_the_second(willing: Device) -> None:
    willing.store.charge(struct.pack(">B5Q", 1, 4, 3000, 2, 9, 2**64 - 1))
    assert willing.account.spent == Spent(lifetime=4, week=3000, in_week=2, unbounded=4)
    assert willing.account.limits == Limits(lifetime=9)
    give(willing, 1, 0.25)
    assert willing.store.ratchet[0] == 2
    expected = Spent(lifetime=5, week=3000, in_week=3, unbounded=4, units=250_000_000, units_in_week=250_000_000)
    assert (willing.account.spent, willing.account.limits) == (expected, Limits(lifetime=9))


def test_ledger_of_an_earlier_release_counts_as_unbounded(willing: Device) -> None:
    entry = json.loads(contribution(1, None, mode="open").to_bytes())
    for name in ("rho", "rho_spent", "rho_left"):
        del entry[name]
    willing.store.append("sent", json.dumps(entry).encode())
    assert willing.account.contributions() == [contribution(1, None, mode="open")]
    assert willing.account.spent.unbounded == 1


def test_older_copy_wins_no_epsilon_back(tmp_path: Path, key: DeviceKey, catalogue: Any, toy: Any) -> None:
    folder, outside = tmp_path / "phone", tmp_path / "outside"
    outside.mkdir()
    secret, witness = FileSecret(outside / "secret"), AnchorFile(outside / "anchor")
    device = Device.create(folder, key, catalogue=catalogue, encoder=toy, secret=secret, witness=witness)
    device.allow_rounds("private")
    give(device, 1, 0.5)
    device.stage.keep(b"masks that are used once")
    shutil.copytree(folder, tmp_path / "copy")
    give(device, 2, 0.5)
    device.account.limit(replace(device.account.limits, rho=1.1), now=NOW)
    device.store._database.close()  # As a crash ends it: nothing is settled.
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "copy", folder)
    with pytest.raises(RolledBackError):
        Device.open(folder, key, encoder=toy, secret=secret, witness=witness)
    accept = AcceptRollback()
    with Device.open(folder, key, encoder=toy, secret=secret, witness=witness, accept=accept) as old:
        assert [its.round for its in old.account.contributions()] == [1]
        assert (old.account.spent.rho, old.account.limits.rho) == (1.0, 1.1)
        # Nor does it go on with a round that the later one may have ended, or give again what that one gave.
        assert (old.stage.state, again(old, 1)) == (None, None)
        with pytest.raises(BudgetError):
            give(old, 3, 0.2)
        give(old, 3, 0.1)


GIVES = """
import hashlib, sys
from engine.errors import BudgetError, ChangedMeanwhileError
from engine.owner.account import Account, Contribution
from store import DeviceKey, EncryptedStore

folder, name, at = sys.argv[1], sys.argv[2], float(sys.argv[3])
payload, given = name.encode(), 0
with EncryptedStore.open(folder, DeviceKey(bytes(range(32)))) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    account = Account(store)
    for number in range(1000):
        asked = hashlib.sha256(f"{name} {number}".encode()).hexdigest()
        sent = hashlib.sha256(payload).hexdigest()
        one = Contribution(time=at, to=name, round=number, mode="private", purpose="p", asked=asked, model=asked,
                           sent=sent, size_bytes=len(payload), rho=0.05)
        try:
            account.send(one, payload, standing=account.standing(), expires=float("inf"))
        except ChangedMeanwhileError:
            continue
        except BudgetError:
            break
        given += 1
print(given)
"""


def test_two_processes_at_once_spend_no_more_than_one(device: Device, folder: Path) -> None:
    device.account.limit(Limits(rho=1.0), now=NOW)
    root = str(Path(engine.__file__).resolve().parents[1])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", GIVES, str(folder), name, repr(NOW)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
        )
        for name in ("one", "other")
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    given = [int(process.communicate(timeout=120)[0]) for process in started]
    assert sum(given) == 20 == len(device.account.contributions())
    assert device.account.spent.rho == 1.0


def test_charge_is_durable_before_anything_leaves(
    willing: Device, folder: Path, key: DeviceKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    willing.account.limit(Limits(rho=1.0), now=NOW)
    charge: Callable[..., None] = EncryptedStore.charge
    monkeypatch.setattr(EncryptedStore, "charge", lambda *args: [charge(*args), 1 / 0])
    with pytest.raises(ZeroDivisionError):
        give(willing, 1, 0.5)
    monkeypatch.undo()
    # Neither the charge without the entry nor the entry without the charge.
    assert (willing.account.spent.rho, willing.account.contributions()) == (0.0, [])
    give(willing, 1, 0.5)
    with EncryptedStore.open(folder, key) as same:
        assert Account(same).spent.rho == 0.5
