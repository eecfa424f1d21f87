"""Transcripts of `tacit device erase`, and what it shares with `forget`: what goes, and what is asked before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.device.device import Device
from engine.encoders.encoder import Encoder
from store import DeviceKey

Call = Callable[..., Any]
DEAR = "the spare key lies under the blue pot"
NOTHING = "No memory fits: nothing was erased; 2 left.\n"


def as_json(outcome: Any) -> Any:
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def ids(call: Call) -> list[int]:
    return [memory["id"] for memory in as_json(call("show", "--memories", "--json"))["listed"]]


Opens = Callable[[], Any]


@pytest.fixture
def phone(home: Path, encoder: Encoder) -> Opens:
    """Open the filled device's memory for a block, for what the command does not offer."""

    @contextmanager
    def opened() -> Iterator[Device]:
        with Device.open(home / "phone", DeviceKey.from_file(home / "key"), encoder=encoder) as device:
            yield device

    return opened


# What goes


@pytest.mark.parametrize(
    ("args", "gone"),
    [
        (["--id", "2"], [2]),
        (["--id", "4", "--id", "1", "--id", "4"], [1, 4]),
        (["--query", "salad for lunch", "-k", "1"], [1]),
        (["--query", "salad for lunch", "-k", "9"], [1, 2, 3, 4]),
        (["--query", "salad for lunch", "--scope", "home"], [3]),
        (["--query", "salad for lunch", "--purpose", "none"], []),
        (["--scope", "home"], [3]),
        (["--purpose", "notes"], [4]),
        (["--source", "mail"], [4]),
        (["--source", "user", "--scope", "default"], [1, 2]),
        (["--until", "1700000000"], [4]),
        (["--since", "1700000000", "--until", "1700000001"], [3]),
        (["--since", "1700000000.5"], [1, 2]),
        (["--until", "inf"], [1, 2, 3, 4]),
        (["--scope", "nowhere"], []),
        (["--expired"], []),
    ],
)
def test_erase_takes_what_fits_and_search_finds_it_no_more(
    device: Call, home: Path, args: list[str], gone: list[int]
) -> None:
    row = '{"text": "a letter from the bank", "time": 5, "purpose": "notes", "source": "mail"}\n'
    (home / "more.jsonl").write_text(row, encoding="utf-8")
    assert device("remember", "--file", home / "more.jsonl").code == 0
    left = [id for id in range(1, 5) if id not in gone]
    erased = as_json(device("erase", *args, "--yes", "--json"))
    assert (erased["forgotten"], erased["memories"]) == (gone, len(left))
    found = as_json(device("search", "salad for lunch", "-k", "9", "--json"))["memories"]
    assert sorted(memory["id"] for memory in found) == ids(device) == left
    receipts = as_json(device("verify", "--json"))["receipts"]
    assert receipts == ([erased["receipt"]] if gone else [])
    assert (erased["receipt"] is None) == (not gone)


def test_erase_says_how_many_and_shows_a_receipt(device: Call) -> None:
    erased = device("erase", "--scope", "home", "--yes")
    (receipt,) = as_json(device("verify", "--json"))["receipts"]
    assert (receipt["what"], receipt["ids"], receipt["epoch"]) == ("forget", [3], 2)
    before, after = (receipt[name][:16] for name in ("root_before", "root_after"))
    assert (erased.code, erased.err) == (0, "")
    assert erased.out == f"Erased 1 memory; 2 left.\nReceipt: epoch 2, root {before} to {after}.\n"
    assert device("erase", "--scope", "home", "--yes").out == NOTHING


def test_erase_and_forget_take_what_was_derived_and_say_so(device: Call, phone: Opens) -> None:
    with phone() as opened:
        opened.remember("made of it", scope="other", derived_from=[3])
        opened.remember("over", expires=1.0, derived_from=[1])
        opened.remember("made of that", derived_from=[2])
    assert as_json(device("erase", "--expired", "--yes", "--json"))["forgotten"] == [5]
    assert device("erase", "--scope", "home", "--yes").out.startswith("Erased 2 memories; 3 left.\n")
    assert device("forget", "2", "--yes").out == "Forgot 2 memories; 1 left.\n"
    assert ids(device) == [1]


def test_erasing_for_a_purpose_needs_no_consent_to_it(device: Call, phone: Opens) -> None:
    with phone() as opened:
        opened.remember("the bank's letter about lunch", purpose="notes")
        opened.remember("the doctor's letter", purpose="notes")
        opened.withdraw_purpose("notes")
    assert device("search", "lunch", "--purpose", "notes").code == 24
    args = ["--query", "the bank's letter", "-k", "1", "--purpose", "notes"]
    asked = device("erase", *args, input="n\n", terminal=True)
    assert (asked.code, asked.err.splitlines()[0]) == (1, "     4  the bank's letter about lunch")
    assert as_json(device("erase", *args, "--yes", "--json"))["forgotten"] == [4]
    assert as_json(device("erase", "--purpose", "notes", "--yes", "--json"))["forgotten"] == [5]
    with phone() as opened:
        assert opened.withdrawn_purposes == ["notes"]


# What is asked


@pytest.mark.parametrize(
    ("args", "said", "number"),
    [
        (["--id", "3", "--id", "1"], f"     3  {DEAR}\n     1  two salads to the office please\n", "2 memories"),
        (["--query", "where is the spare key", "-k", "1"], f"     3  {DEAR}\n", "1 memory"),
        (["--scope", "home"], "", "1 memory"),
        (["--since", "1700000001"], "", "2 memories"),
        (["--source", "user", "--until", "inf"], "", "3 memories"),
    ],
)
def test_erase_says_how_many_asks_and_takes_no_for_an_answer(
    device: Call, args: list[str], said: str, number: str
) -> None:
    question = f"{said}Erase {number} for good? [y/N]: "
    kept = device("erase", *args, input="n\n", terminal=True)
    assert (kept.code, kept.out) == (1, "")
    assert kept.err == f"{question}Error: Not confirmed: nothing was erased.\n"
    assert ids(device) == [1, 2, 3]
    gone = device("erase", *args, input="y\n", terminal=True)
    assert (gone.code, gone.err) == (0, question)
    assert gone.out.startswith(f"Erased {number}; {3 - int(number[0])} left.\nReceipt: ")


def test_erase_where_nobody_can_be_asked_needs_yes(device: Call, one_line: Call) -> None:
    for args in (["--scope", "home"], ["--id", "3"], ["--expired"], ["--query", "key"]):
        unasked = device("erase", *args, input="y\n")
        assert unasked.code == 2
        assert "--yes" in one_line(unasked)
    assert ids(device) == [1, 2, 3]


@pytest.mark.parametrize("more", [[], ["--yes"]])
@pytest.mark.parametrize(
    "args", [["--scope", "nowhere"], ["--until", "0"], ["--expired"], ["--query", "key", "--scope", "nowhere"]]
)
def test_erase_says_without_asking_that_nothing_fits(device: Call, args: list[str], more: list[str]) -> None:
    assert device("forget", "2", "--yes").code == 0
    nothing = device("erase", *args, *more, terminal=not more)
    assert (nothing.code, nothing.out, nothing.err) == (0, NOTHING, "")
    told = as_json(device("erase", *args, *more, "--json", terminal=not more))
    assert told == {"forgotten": [], "memories": 2, "receipt": None}
    assert len(as_json(device("verify", "--json"))["receipts"]) == 1


@pytest.mark.parametrize(("name", "option"), [("erase", ["--id"]), ("forget", [])])
@pytest.mark.parametrize("more", [[], ["--yes"]])
def test_one_missing_id_and_none_is_erased(
    device: Call, one_line: Call, name: str, option: list[str], more: list[str]
) -> None:
    given = [word for id in ("1", "99", str(2**63)) for word in (*option, id)]
    kept = device(name, *given, *more, input="y\n", terminal=not more)
    assert kept.code == 17
    assert one_line(kept) == "Error: There is no record with id 99: it was deleted or never added."
    assert ids(device) == [1, 2, 3]


@pytest.mark.parametrize(("name", "option"), [("Erase", ["--id"]), ("Forget", [])])
@pytest.mark.parametrize("more", [[], ["--yes"]])
def test_a_replaced_and_an_expired_memory_go_too(
    device: Call, phone: Opens, name: str, option: list[str], more: list[str]
) -> None:
    with phone() as opened:
        opened.remember("the spare key is with Tom", supersedes=3)
        opened.remember("over", expires=1.0)
    assert ids(device) == [1, 2, 4]
    gone = device(name.lower(), *option, "3", *option, "5", *more, input="y\n", terminal=not more)
    assert gone.code == 0, gone.err
    asked = f"     3  {DEAR}\n     5  over\n{name} 2 memories for good? [y/N]: "
    assert gone.err == ("" if more else asked)
    assert ids(device) == [1, 2, 4]
    with phone() as opened:
        assert [found.text for found in opened.history(4)] == ["the spare key is with Tom"]
        assert [stored.id for stored in opened.store.iter(history=True)] == [1, 2, 4]


def test_erase_counts_the_replaced_and_the_expired_as_it_takes_them(device: Call, phone: Opens) -> None:
    with phone() as opened:
        opened.remember("the spare key is with Tom", scope="home", supersedes=3)
        opened.remember("over", scope="home", expires=1.0)
        opened.remember("not yet", scope="home", expires=1e300)
    expired = device("erase", "--expired", input="y\n", terminal=True)
    assert expired.err == "Erase 1 memory for good? [y/N]: "
    assert expired.out.startswith("Erased 1 memory; 4 left.\n")
    home = device("erase", "--scope", "home", input="y\n", terminal=True)
    assert home.err == "Erase 3 memories for good? [y/N]: "
    assert home.out.startswith("Erased 3 memories; 2 left.\n")


def test_what_is_listed_cannot_steer_the_terminal(device: Call, phone: Opens) -> None:
    with phone() as opened:
        opened.remember("one\n     9  another\x1b[2J")
    for args in (("erase", "--id", "4"), ("forget", "4")):
        kept = device(*args, input="n\n", terminal=True)
        assert kept.err.splitlines()[0] == "     4  one      9  another [2J"


# Called wrongly


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["-k", "3"],
        ["--id", "0"],
        ["--id", "one"],
        ["--id", "1", "--query", "salad"],
        ["--id", "1", "--scope", "home"],
        ["--id", "1", "--purpose", "personalization"],
        ["--id", "1", "--source", "user"],
        ["--id", "1", "--since", "0"],
        ["--id", "1", "--until", "inf"],
        ["--id", "1", "--expired"],
        ["--query", "salad", "--expired"],
        ["--expired", "--scope", "home"],
        ["--query", " "],
        ["--query", "x", "-k", "0"],
        ["--scope", ""],
        ["--until", "yesterday"],
        ["--until", "nan"],
        ["--since", "nan"],
        ["--colour", "red"],
    ],
)
def test_erase_called_wrongly_is_status_2_and_erases_nothing(device: Call, one_line: Call, args: list[str]) -> None:
    wrong = device("erase", *args, "--yes")
    assert wrong.code == 2
    one_line(wrong)
    assert ids(device) == [1, 2, 3]


def test_erase_says_first_that_there_is_no_device_or_no_secret(
    device: Call, tacit: Call, one_line: Call, home: Path
) -> None:
    nowhere = tacit(["device", "erase", home / "nothing", "--id", "1", "--yes", "--key-file", home / "key"])
    assert nowhere.code == 15
    assert "There is no device at" in one_line(nowhere)
    shutil.rmtree(home / "state")
    closed = device("erase", "--id", "1", terminal=True)
    assert closed.code == 30
    assert "put it back there" in one_line(closed)
