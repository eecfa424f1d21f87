"""Transcripts of `tacit device allow-rounds`, `budget` and `ledger`: what an owner allows, and what left the device."""

from __future__ import annotations

import hashlib
import json
import math
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from engine.errors import BudgetError
from engine.owner.account import WEEK_S, Account, Contribution, Limits
from engine.owner.rho import epsilon_of, rho_of
from engine.owner.statement import statement
from store import DeviceKey, EncryptedStore

Call = Callable[..., Any]


def as_json(outcome: Any) -> Any:
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def lines(outcome: Any) -> list[str]:
    """The rows of a printed table, with single spaces."""
    assert outcome.code == 0, outcome.err
    return [re.sub(r"\s+", " ", line).strip() for line in outcome.out.splitlines() if line.strip(" ─")]


@pytest.fixture
def opened(home: Path) -> Callable[[], EncryptedStore]:
    return lambda: EncryptedStore.open(home / "phone", DeviceKey.from_file(home / "key"))


@pytest.fixture
def give(opened: Callable[[], EncryptedStore]) -> Callable[..., None]:
    """Let the device make contributions, as its agent does in a round."""

    def send(*rounds: int, now: float, rho: float | None = None) -> None:
        payload = b"update"
        with opened() as store:
            for number in rounds:
                Account(store).send(
                    Contribution(
                        time=now,
                        to="Flower [bold]run[/bold] 7\x1b[31m",
                        round=number,
                        mode="open" if rho is None else "private",
                        purpose="personalization",
                        asked=hashlib.sha256(b"%d" % number).hexdigest(),
                        model="ab" * 32,
                        sent=hashlib.sha256(payload).hexdigest(),
                        size_bytes=len(payload),
                        rho=rho,
                    ),
                    payload,
                    standing=Account(store).standing(),
                    expires=math.inf,
                )

    return send


def test_budget_of_a_new_device_has_no_limit(device: Call) -> None:
    assert lines(device("budget")) == [
        "contributions given allowed ε spent ε allowed ε left",
        "in all 0 any 0 any any",
        "this week 0 any 0 any any",
        "ε at δ = 1e-05.",
    ]
    none = {
        "given": 0,
        "allowed": None,
        "epsilon": {"spent": 0.0, "allowed": None, "left": None},
        "rho": {"spent": 0.0, "allowed": None},
    }
    assert as_json(device("budget", "--json")) == {"lifetime": none, "week": none, "delta": 1e-5, "unbounded": 0}


def test_budget_sets_each_epsilon_and_leaves_the_rest(device: Call) -> None:
    device("budget", "--lifetime", 10)
    told = as_json(device("budget", "--epsilon", 4, "--json"))["lifetime"]
    assert (told["allowed"], round(told["epsilon"]["allowed"], 6)) == (10, 4.0)
    both = as_json(device("budget", "--epsilon-week", "0.5", "--json"))
    assert [round(both[term]["epsilon"]["allowed"], 6) for term in ("lifetime", "week")] == [4.0, 0.5]
    # The limit never grows by being shown and set again.
    assert as_json(device("budget", "--week", 3, "--json"))["lifetime"]["rho"] == both["lifetime"]["rho"]
    lifted = as_json(device("budget", "--epsilon", "any", "--json"))
    assert (lifted["lifetime"]["epsilon"]["allowed"], lifted["lifetime"]["allowed"]) == (None, 10)
    assert lifted["week"]["epsilon"]["allowed"] == both["week"]["epsilon"]["allowed"]
    assert as_json(device("budget", "--epsilon", 0, "--json"))["lifetime"]["rho"]["allowed"] == 0.0


def test_budget_shows_what_was_spent_and_is_left_at_any_delta(device: Call, give: Callable[..., None]) -> None:
    now = time.time()
    device("budget", "--epsilon", 8)
    give(1, now=now - 3 * WEEK_S, rho=0.1)
    give(2, now=now, rho=0.2)
    shown = lines(device("budget"))
    assert shown[1:3] == ["in all 2 any 3.54 8 4.46", "this week 1 any 2.81 any any"]
    told = as_json(device("budget", "--json", "--delta", "1e-6"))
    assert (told["delta"], told["lifetime"]["rho"]["spent"]) == (1e-6, 0.3)
    assert told["lifetime"]["epsilon"]["spent"] == epsilon_of(0.3, 1e-6)
    assert told["lifetime"]["epsilon"]["left"] == pytest.approx(epsilon_of(rho_of(8.0), 1e-6) - epsilon_of(0.3, 1e-6))
    with pytest.raises(BudgetError):
        give(3, now=now, rho=1.0)
    # A limit below what was spent leaves nothing, and no less.
    assert as_json(device("budget", "--epsilon", 1, "--json"))["lifetime"]["epsilon"]["left"] == 0.0


def test_budget_at_another_delta_is_kept_as_rho(device: Call) -> None:
    told = as_json(device("budget", "--epsilon", 8, "--delta", "1e-6", "--json"))
    assert told["lifetime"]["rho"]["allowed"] == rho_of(8.0, 1e-6)
    assert lines(device("budget"))[1] == "in all 0 any 0 7.23 7.23"


def test_budget_says_what_no_epsilon_covers(device: Call, give: Callable[..., None]) -> None:
    give(1, 2, now=time.time())
    give(3, now=time.time(), rho=0.1)
    shown = device("budget")
    assert "Nothing bounds what 2 contributions in open mode told the server" in shown.out
    assert lines(shown)[1].startswith("in all 3 any 1.92")


@pytest.mark.parametrize("wrong", ["-1", "nan", "inf", "", "none", "１", "1e999"])
@pytest.mark.parametrize("option", ["--epsilon", "--epsilon-week"])
def test_budget_refuses_what_is_no_epsilon(device: Call, one_line: Call, option: str, wrong: str) -> None:
    refused = device("budget", option, wrong)
    assert refused.code == 2
    one_line(refused)
    assert as_json(device("budget", "--json"))["lifetime"]["epsilon"]["allowed"] is None


@pytest.mark.parametrize("wrong", ["0", "1", "-1", "nan", "x"])
def test_budget_refuses_what_is_no_delta(device: Call, one_line: Call, wrong: str) -> None:
    for command in ("budget", "ledger"):
        refused = device(command, "--delta", wrong)
        assert refused.code == 2
        one_line(refused)


# allow-rounds


@pytest.mark.parametrize("mode", ["private", "central"])
def test_rounds_with_a_bound_come_with_a_limit_of_epsilon(device: Call, mode: str) -> None:
    allowed = device("allow-rounds", mode)
    assert f"Federated rounds: allowed ({mode}: " in allowed.out
    assert "Limits: any in all, any a week; ε 8 in all, any a week, at δ = 1e-05." in allowed.out
    assert lines(device("budget"))[1] == "in all 0 any 0 8 8"
    assert as_json(device("show", "--json"))["allowed_rounds"] == mode
    assert ("It trusts no publisher" in allowed.out) == (mode == "private")
    device("publisher", "ab" * 32)
    assert "It trusts no publisher" not in device("allow-rounds", mode).out


def test_limit_of_the_owner_stays_and_open_rounds_are_past_it(device: Call, give: Callable[..., None]) -> None:
    device("budget", "--epsilon", 2)
    assert "ε 2 in all" in device("allow-rounds", "private").out
    opened = device("allow-rounds", "open")
    assert "it takes part in others only" in opened.out
    with pytest.raises(BudgetError):
        give(1, now=time.time())
    device("budget", "--epsilon", "any")
    assert "others only" not in device("allow-rounds", "open").out
    give(1, now=time.time())


# budget


def test_budget_sets_one_limit_and_leaves_the_other(device: Call) -> None:
    assert as_json(device("budget", "--lifetime", 10, "--json"))["lifetime"]["allowed"] == 10
    both = as_json(device("budget", "--week", 0, "--json"))
    assert (both["lifetime"]["allowed"], both["week"]["allowed"]) == (10, 0)
    assert as_json(device("budget", "--lifetime", "any", "--json"))["lifetime"]["allowed"] is None
    assert as_json(device("budget", "--json"))["week"]["allowed"] == 0


def test_budget_counts_what_was_given_this_week_and_before(device: Call, give: Callable[..., None]) -> None:
    now = time.time()
    give(1, 2, now=now - 3 * WEEK_S)
    give(3, now=now)
    assert lines(device("budget", "--lifetime", 5))[1:3] == ["in all 3 5 0 any any", "this week 1 any 0 any any"]


@pytest.mark.parametrize("wrong", ["-1", "1.5", "", "none", "１", "9" * 20, "1e3"])
def test_budget_refuses_what_is_no_number(device: Call, one_line: Call, wrong: str) -> None:
    refused = device("budget", "--week", wrong)
    assert refused.code == 2
    one_line(refused)
    assert as_json(device("budget", "--json"))["week"]["allowed"] is None


def test_ledger_of_a_new_device_is_empty(device: Call) -> None:
    assert device("ledger").out == "The ledger is empty: nothing has left this device, and nothing was forgotten.\n"
    assert as_json(device("ledger", "--json")) == {"entries": [], "delta": 1e-5, "chain": "00" * 32}


def test_ledger_lists_everything_in_order(
    device: Call, give: Callable[..., None], opened: Callable[[], EncryptedStore]
) -> None:
    device("allow-rounds", "open")
    give(4, now=1_700_000_000.0)
    device("forget", "1", "--yes")
    with opened() as store:
        store.append("consent", b'{"purpose": "personalization", "granted": false, "time": 1700000000.0}')
        store.append("app", b'{"time": 1700000000.0, "what": "an app\'s own"}')
        store.append("app", b"\xff\x00 no JSON")
    shown = device("ledger")
    rows = lines(shown)
    for part in (
        "rounds allowed (open: updates visible to the server)",
        "sent to Flower [bold]run[/bold] 7 [31m, round 4, mode open, for personalization",
        f"6 bytes {hashlib.sha256(b'update').hexdigest()[:12]}…, to model abababababab…",
        "receipt forget: 1 memory forgotten, epoch 2 began",
        "consent personalization: withdrawn",
        "app what an app's own",
        "app size_bytes 10",
    ):
        assert any(part in row for row in rows), (part, rows)
    assert "\x1b" not in shown.out
    told = as_json(device("ledger", "--json"))["entries"]
    assert [(its["number"], its["kind"]) for its in told[:3]] == [(1, "rounds"), (2, "sent"), (3, "receipt")]
    assert told[1]["sent"] == hashlib.sha256(b"update").hexdigest()
    assert told[1]["round"] == 4
    assert (told[1]["epsilon"], told[1]["epsilon_spent"]) == (None, None)
    assert any("no ε: nothing bounds what it tells" in row for row in rows)
    assert told[2]["ids"] == [1]
    assert len(told[2]["root_after"]) == 64


@pytest.mark.parametrize(
    "edit", ["DELETE FROM ledger WHERE number = 2", "UPDATE ledger SET number = 99 WHERE number = 2"]
)
def test_edited_ledger_is_reported_and_not_listed(
    device: Call, home: Path, give: Callable[..., None], one_line: Call, edit: str
) -> None:
    give(1, 2, 3, now=time.time())
    with closing(sqlite3.connect(home / "phone" / "memory.tacit")) as raw:
        raw.execute(edit)
        raw.commit()
    for args in (["ledger"], ["ledger", "--json"]):
        told = device(*args)
        assert (told.code != 0, told.out) == (True, "")
        one_line(told)


ODD = [
    b'{"kind": "receipt", "number": 1, "ids": []}',
    b'{"time": "yesterday"}',
    b'{"time": null, "to": 1}',
    b'{"time": 1' + b"0" * 400 + b"}",
    b"[" * 100_000,
    b'{"text": "\\ud800"}',
    b'{"a\\nb": "c\\nentry 9 forged\x1b"}',
    b'{"purpose": 1}',
    b"",
]


@pytest.mark.parametrize("kind", ["app", "sent", "consent", "rounds", "limits", "publisher", "two\nlines"])
def test_odd_entries_of_an_app_are_listed_as_what_they_are(
    device: Call, opened: Callable[[], EncryptedStore], kind: str
) -> None:
    with opened() as store:
        for content in ODD:
            store.append(kind, content)
    told = as_json(device("ledger", "--json"))["entries"]
    assert [(its["number"], its["kind"]) for its in told] == [(n, kind) for n in range(1, len(ODD) + 1)]
    shown = device("ledger")
    rows = lines(shown)
    assert [row.split()[0] for row in rows[1:-1]] == [str(n) for n in range(1, len(ODD) + 1)]
    assert "\x1b" not in shown.out


def test_one_limit_is_set_beside_another_processes(device: Call, opened: Callable[[], EncryptedStore]) -> None:
    device("budget", "--lifetime", 9)
    device("budget", "--week", 2)
    with opened() as store:
        assert Account(store).limits == Limits(lifetime=9, week=2)
    assert "limits 9 in all, 2 a week" in lines(device("ledger"))[-2]


@pytest.mark.parametrize("name", ["budget", "ledger", "consent", "publisher", "identity"])
def test_missing_device_and_wrong_key_are_refused_on_one_line(
    tacit: Call, home: Path, tmp_path: Path, one_line: Call, name: str
) -> None:
    missing = tacit(["device", name, tmp_path / "nowhere", "--key-file", home / "key"])
    other = tmp_path / "other"
    DeviceKey.generate().write(other)
    wrong = tacit(["device", name, home / "phone", "--key-file", other])
    for told in (missing, wrong):
        assert told.code not in (0, 1)
        one_line(told)
    assert missing.code != wrong.code


def test_ledger_tells_what_was_sent_what_it_cost_and_what_is_left(device: Call, give: Callable[..., None]) -> None:
    device("budget", "--epsilon", 8)
    give(1, now=1_700_000_000.0, rho=0.1)
    give(2, now=1_700_000_060.0, rho=0.2)
    rows = lines(device("ledger"))
    assert any("ε 1.92, 1.92 in all by then, 6.08 left (δ = 1e-05)" in row for row in rows)
    assert any("ε 2.81, 3.54 in all by then, 4.46 left (δ = 1e-05)" in row for row in rows)
    told = as_json(device("ledger", "--json", "--delta", "1e-6"))
    one = told["entries"][-1]
    assert one["epsilon_spent"] == pytest.approx(epsilon_of(0.3, 1e-6), abs=1e-6)
    assert one["epsilon_left"] == pytest.approx(epsilon_of(rho_of(8.0), 1e-6) - epsilon_of(0.3, 1e-6), abs=1e-6)
    assert (told["delta"], one["chain"]) == (1e-6, told["chain"])


@pytest.fixture
def exported(device: Call, give: Callable[..., None], tmp_path: Path) -> Path:
    """An export of a ledger with three entries."""
    device("allow-rounds", "private")
    give(1, now=1_700_000_000.0, rho=0.1)
    written = device("ledger", "--export", tmp_path / "ledger.json")
    assert written.code == 0, written.err
    return tmp_path / "ledger.json"


def test_export_is_checked_without_a_key(
    device: Call, tacit: Call, give: Callable[..., None], exported: Path, tmp_path: Path
) -> None:
    assert exported.stat().st_mode & 0o777 == 0o600
    end = as_json(device("ledger", "--json"))["chain"]
    seen = tacit(["device", "check-ledger", exported])
    assert seen.out.startswith(f"Whole: 3 entries, 1 of them about something sent. The chain ends in {end}.\n")
    assert "only its end can tell" in seen.out
    assert as_json(tacit(["device", "check-ledger", exported, "--end", end.upper(), "--json"])) == {
        "entries": 3,
        "sent": 1,
        "chain": end,
    }
    give(2, now=1_700_000_060.0, rho=0.1)
    later = tmp_path / "later.json"
    assert "Wrote 4 entries to" in device("ledger", "--export", later).out
    assert tacit(["device", "check-ledger", later, "--earlier", exported]).code == 0


def test_export_never_replaces_a_file(device: Call, exported: Path, one_line: Call, tmp_path: Path) -> None:
    before = exported.read_bytes()
    for place in (exported, tmp_path, tmp_path / "no folder" / "ledger.json"):
        one_line(device("ledger", "--export", place))
    assert exported.read_bytes() == before
    assert sorted(its.name for its in tmp_path.iterdir()) == ["home", "ledger.json"]


def test_edited_cut_or_other_export_is_refused(tacit: Call, exported: Path, one_line: Call, tmp_path: Path) -> None:
    text = exported.read_text(encoding="utf-8")
    edited = tmp_path / "edited.json"
    for content in (text.replace("private", "central "), text[:-9], text.replace('"epsilon": ', '"epsilon": 1'), ""):
        edited.write_text(content, encoding="utf-8")
        refused = tacit(["device", "check-ledger", edited])
        assert refused.code == 29
        one_line(refused)
    other = tmp_path / "other.json"
    other.write_text(statement([(1, "app", b"another story")]), encoding="utf-8")
    assert tacit(["device", "check-ledger", other]).code == 0
    for args in ([other, "--earlier", exported], [exported, "--earlier", other], [exported, "--end", "00" * 32]):
        refused = tacit(["device", "check-ledger", *args])
        assert refused.code == 29
        one_line(refused)
    one_line(tacit(["device", "check-ledger", tmp_path / "missing"]))
