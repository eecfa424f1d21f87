"""A ledger as a file for others: whole, or not, and the same chain as the store's."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.device.device import Device
from engine.errors import LedgerError
from engine.owner.account import Contribution, digest
from engine.owner.rho import epsilon_of
from engine.owner.statement import START, checked, statement

PAYLOAD = b"masked"


@pytest.fixture
def entries(device: Device) -> list[tuple[int, str, bytes]]:
    """A life of five entries, two of them about something sent."""
    device.allow_rounds("private")
    for number, rho in enumerate((0.1, 0.2)):
        one = Contribution(
            time=5.0,
            to="run",
            round=number,
            mode="private",
            purpose="personalization",
            asked=digest(b"%d" % number),
            model=digest(b"model"),
            sent=digest(PAYLOAD),
            size_bytes=len(PAYLOAD),
            rho=rho,
        )
        device.contribute(one, PAYLOAD, standing=device.account.standing())
    device.store.append("app", b"\xff\x00 no UTF-8")
    return device.store.entries()


def test_file_holds_each_entry_its_epsilon_and_the_chain(entries: list[tuple[int, str, bytes]]) -> None:
    told = json.loads(statement(entries, delta=1e-6))
    assert [one["kind"] for one in told["entries"]] == ["rounds", "limits", "sent", "sent", "app"]
    chain = bytes(32)
    for one, (_, kind, content) in zip(told["entries"], entries, strict=True):
        # As the module says it.
        name = kind.encode()
        entry = struct.pack(">I", len(name)) + name + struct.pack(">I", len(content)) + content
        chain = hashlib.sha256(chain + hashlib.sha256(entry).digest()).digest()
        assert one["chain"] == chain.hex()
    assert told["chain"] == chain.hex()
    second = told["entries"][3]
    assert second["epsilon"] == pytest.approx(epsilon_of(0.2, 1e-6), abs=1e-6)
    assert second["epsilon_spent"] == pytest.approx(epsilon_of(0.3, 1e-6), abs=1e-6)
    assert second["epsilon_left"] > 0
    assert json.loads(second["content"])["sent"] == digest(PAYLOAD)
    assert "epsilon" not in told["entries"][0]


def test_chain_at_the_end_is_the_one_in_the_stores_head(device: Device, entries: list[tuple[int, str, bytes]]) -> None:
    assert checked(statement(entries)).end == device.store._head().ledger_chain


def test_file_comes_back_as_it_was_written(entries: list[tuple[int, str, bytes]]) -> None:
    told = checked(statement(entries).encode())
    assert (list(told.entries), told.count) == (entries, 5)
    assert checked(statement([])).end == START


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), st.binary(max_size=9))))
def test_any_ledger_comes_back(contents: list[tuple[str, bytes]]) -> None:
    entries = [(number, kind, content) for number, (kind, content) in enumerate(contents, 1)]
    assert list(checked(statement(entries)).entries) == entries


def edit(text: str, change: Any) -> str:
    told = json.loads(text)
    change(told)
    return json.dumps(told, indent=1) + "\n"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda told: told["entries"][2].update(content=told["entries"][2]["content"].replace("run", "ran")),
            "Entry 3",
        ),
        (lambda told: told["entries"][1].update(kind="app"), "Entry 2"),
        (lambda told: told["entries"].pop(0), "Entry 1"),
        (lambda told: told["entries"].pop(2), "Entry 3"),
        (lambda told: told["entries"].reverse(), "Entry 1"),
        (lambda told: told["entries"].insert(3, told["entries"][2]), "Entry 4"),
        (lambda told: told["entries"].pop(), "ends elsewhere"),
        (lambda told: told.update(chain="00" * 32), "ends elsewhere"),
        (lambda told: told["entries"][3].update(number=9), "Entry 4"),
        (lambda told: told["entries"][2].update(epsilon=0.0), "was edited"),
        (lambda told: told["entries"][3].update(epsilon_left=99.0), "was edited"),
        (lambda told: told["entries"][0].update(note="nothing left"), "was edited"),
        (lambda told: told.update(delta=1e-3), "was edited"),
        (lambda told: told.update(format="tacit-ledger-2"), "another format"),
        (lambda told: told["entries"][0].update(content=7), "no ledger"),
        (lambda told: told["entries"][0].update(kind="\ud800"), "no ledger"),
        (lambda told: told.update(delta=2.0), "no ledger"),
        (lambda told: told.pop("entries"), "no ledger"),
    ],
)
def test_edited_file_is_refused(entries: list[tuple[int, str, bytes]], change: Any, says: str) -> None:
    with pytest.raises(LedgerError, match=says):
        checked(edit(statement(entries), change))


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "[" * 100_000, '{"format": "tacit-ledger-1"}', b"\xff"])
def test_what_is_no_ledger_is_refused(text: str | bytes) -> None:
    with pytest.raises(LedgerError):
        checked(text)


def test_cut_file_is_refused(entries: list[tuple[int, str, bytes]]) -> None:
    text = statement(entries)
    for size in range(0, len(text), 97):
        with pytest.raises(LedgerError):
            checked(text[:size])


def test_later_file_goes_on_from_an_earlier_one_and_not_from_another(entries: list[tuple[int, str, bytes]]) -> None:
    later = checked(statement(entries))
    for count in range(len(entries) + 1):
        assert later.goes_on_from(checked(statement(entries[:count])).end)
    # Anybody can chain another story: its end is another.
    other = [*entries[:-1], (5, "app", b"another story")]
    assert not later.goes_on_from(checked(statement(other)).end)


@pytest.mark.parametrize("delta", [0.0, 1.0, float("nan")])
def test_delta_that_is_none_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match="delta="):
        statement([], delta=delta)
