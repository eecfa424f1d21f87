"""Transcripts of `tacit device budget` and `ledger`: what an owner allows, and what the device says left it."""

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

from engine.owner.account import WEEK_S, Account, Contribution, Limits
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

    def send(*rounds: int, now: float) -> None:
        payload = b"update"
        with opened() as store:
            for number in rounds:
                Account(store).send(
                    Contribution(
                        time=now,
                        to="Flower [bold]run[/bold] 7\x1b[31m",
                        round=number,
                        mode="open",
                        purpose="personalization",
                        asked=hashlib.sha256(b"%d" % number).hexdigest(),
                        model="ab" * 32,
                        sent=hashlib.sha256(payload).hexdigest(),
                        size_bytes=len(payload),
                    ),
                    payload,
                    standing=Account(store).standing(),
                    expires=math.inf,
                )

    return send


def test_budget_of_a_new_device_has_no_limit(device: Call) -> None:
    assert lines(device("budget")) == ["contributions given allowed", "in all 0 any", "this week 0 any"]
    assert as_json(device("budget", "--json")) == {
        "lifetime": {"given": 0, "allowed": None},
        "week": {"given": 0, "allowed": None},
    }


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
    assert lines(device("budget", "--lifetime", 5)) == ["contributions given allowed", "in all 3 5", "this week 1 any"]


@pytest.mark.parametrize("wrong", ["-1", "1.5", "", "none", "１", "9" * 20, "1e3"])
def test_budget_refuses_what_is_no_number(device: Call, one_line: Call, wrong: str) -> None:
    refused = device("budget", "--week", wrong)
    assert refused.code == 2
    one_line(refused)
    assert as_json(device("budget", "--json"))["week"]["allowed"] is None


def test_ledger_of_a_new_device_is_empty(device: Call) -> None:
    assert device("ledger").out == "The ledger is empty: nothing has left this device, and nothing was forgotten.\n"
    assert as_json(device("ledger", "--json")) == {"entries": []}


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


@pytest.mark.parametrize("kind", ["app", "sent", "consent", "rounds", "limits", "two\nlines"])
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
    assert [row.split()[0] for row in rows[1:]] == [str(n) for n in range(1, len(ODD) + 1)]
    assert "\x1b" not in shown.out


def test_one_limit_is_set_beside_another_processes(device: Call, opened: Callable[[], EncryptedStore]) -> None:
    device("budget", "--lifetime", 9)
    device("budget", "--week", 2)
    with opened() as store:
        assert Account(store).limits == Limits(lifetime=9, week=2)
    assert "limits 9 in all, 2 a week" in lines(device("ledger"))[-1]


@pytest.mark.parametrize("name", ["budget", "ledger"])
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
