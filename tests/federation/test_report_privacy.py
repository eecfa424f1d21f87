"""What the table and the page say of privacy: both ε beside the accuracy, what left by mode, what privacy costs."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import Page, evaluation_results, printed, run_results

from federation.errors import DataError
from federation.report import check_results
from federation.report.page import render
from federation.report.words import WHAT_LEFT, epsilon, privacy_sentence, share

Results = dict[str, Any]
PRIVATE = "private: the server sees sums, with noise from the devices"
NOISED = {"eps_server": 3.99856, "eps_released": 1.2311, "delta": 1e-5, "text": "ε = 4.00 by PLD, z = 2.163"}
OPEN = {"eps_server": None, "eps_released": None, "delta": None, "text": "ε = ∞: no noise is added"}
CENTRAL = {**NOISED, "eps_server": None}


def private_run() -> Results:
    return run_results() | {"mode": PRIVATE, "privacy": dict(NOISED)}


def comparison() -> Results:
    """Runs over the same people in both modes, the private one less accurate, and a ledger."""
    runs = {"private": private_run(), "open": run_results() | {"privacy": dict(OPEN)}}
    runs["private"]["methods"]["personal"]["accuracy"] = 0.5
    runs["open"]["methods"]["personal"]["accuracy"] = 0.62
    entries = [
        {"number": 1, "time": 1.0e9, "kind": "limits", "words": "ε 4.3 in all"},
        {"number": 2, "time": 1.0e9, "kind": "sent", "words": "round 1: 114,850 bytes <b>ab…"},
    ]
    ledger = {"device": "device-0001", "chain": "0f" * 32, "delta": 1e-5, "entries": entries}
    about = {name: runs["open"][name] for name in ("title", "generated", "command", "version")}
    cost = {"personal": [0.12, 0.05, 0.2], "global": [-0.01, -0.04, 0.02]}
    return about | {"kind": "modes", "mode": "private and open", "runs": runs, "cost": cost, "ledger": ledger}


def line(output: str, begins: str) -> str:
    return next(line for line in output.splitlines() if line.startswith(begins))


# --- one run


@pytest.mark.parametrize(
    ("privacy", "server", "released"),
    [(NOISED, "4.00 (δ = 1e-05)", "1.24 (δ = 1e-05)"), (OPEN, "∞", "∞"), (CENTRAL, "∞", "1.24 (δ = 1e-05)")],
    ids=["private", "open", "central"],
)
def test_both_epsilons_stand_in_the_table_and_on_the_page(privacy: Results, server: str, released: str) -> None:
    results = run_results() | {"privacy": privacy}
    check_results(results)
    output, text = printed(results), Page(render(results)).text
    assert max(map(len, output.splitlines())) <= 80
    assert line(output, "ε against the server").rstrip().endswith(f" {server}")
    assert line(output, "ε of the released model").rstrip().endswith(f" {released}")
    assert f"ε = {server.split()[0]} against the server, ε = {released.split()[0]} of the released model" in text
    assert ("δ = 1e-05" in text) is (privacy is not OPEN)
    assert ("Accounted: ε = 4.00 by PLD" in output) is ("Accounted: ε = 4.00 by PLD" in text) is (privacy is not OPEN)


def test_results_from_before_epsilons_were_stated_name_none() -> None:
    assert "ε" not in printed(run_results()) + Page(render(run_results())).text


def test_terminal_without_such_letters_says_epsilon_by_name() -> None:
    assert "epsilon against the server" in printed(private_run(), encoding="ascii")
    assert "?" not in printed(comparison(), encoding="ascii")


@given(st.floats(0, 1e6))
def test_epsilon_as_shown_holds(value: float) -> None:
    assert float(epsilon(value)) >= value
    assert float(epsilon(value)) <= value + 0.01 * (1 + 1e-9) + value * 1e-12


# --- an evaluation


def test_each_block_of_an_evaluation_has_its_own_epsilons() -> None:
    results = evaluation_results()
    for one, eps in zip(results["blocks"], (1.0, 2.0), strict=True):
        one["privacy"] = NOISED | {"eps_server": eps}
    check_results(results)
    output = printed(results)
    assert re.findall(r"ε against the server +([\d.]+)", output) == ["1.00", "2.00"]
    first, second = (Page(render(results)).text.index(f"ε = {eps} against the server") for eps in ("1.00", "2.00"))
    assert first < second


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"eps_server": "4"}, "eps_server"),
        ({"eps_released": -1}, "eps_released"),
        ({"delta": 2}, "delta"),
        ({"text": None}, "text"),
        ({"eps_server": math.inf}, "eps_server"),
    ],
)
def test_malformed_privacy_is_named_by_its_place(wrong: Results, name: str) -> None:
    with pytest.raises(DataError, match=rf"'privacy\.{name}'"):
        check_results(run_results() | {"privacy": NOISED | wrong})
    results = evaluation_results()
    results["blocks"][1]["privacy"] = NOISED | wrong
    with pytest.raises(DataError, match=rf"'blocks\[1\]\.privacy\.{name}'"):
        check_results(results)


# --- what left


def test_page_words_what_left_by_the_mode_of_the_rounds() -> None:
    said = {mode: Page(render(run_results() | {"mode": f"{mode}: as it is"})).text for mode in WHAT_LEFT}
    for mode, text in said.items():
        assert [other for other, words in WHAT_LEFT.items() if words in text] == [mode]
    assert "one masked array" in said["private"]
    assert "constant weight" not in said["private"]
    unknown = Page(render(run_results() | {"mode": "another"})).text
    assert not any(words in unknown for words in WHAT_LEFT.values())


# --- modes side by side


def test_comparison_has_a_section_a_mode_each_with_its_epsilons_and_the_cost() -> None:
    results = comparison()
    check_results(results)
    output, page = printed(results), Page(render(results))
    assert max(map(len, output.splitlines())) <= 80
    private, opened = output.index("private mode, 6 users"), output.index("open mode, 6 users")
    assert private < output.index("4.00 (δ = 1e-05)") < opened < output.index("∞")
    assert [share(value) in output for value in (0.5, 0.62)] == [True, True]
    said = (
        "In accuracy, privacy costs these 6 devices 12.0 points personalized (50.0% instead of 62.0%; 95% interval "
        "+5.0 to +20.0) and nothing in the shared model"
    )
    for text in (output, page.text):
        assert said in " ".join(text.split())
        assert "docs/results.md, “Accuracy under privacy”" in " ".join(text.split())
        assert PRIVATE in text
        assert "open: updates visible to the server" in text
    for words in (WHAT_LEFT["private"], WHAT_LEFT["open"], "The ledger of device-0001", "0f" * 32):
        assert words in page.text
    assert "round 1: 114,850 bytes <b>ab…" in page.text
    assert "b" not in page.tags  # What stood in the ledger is text, whatever it looks like.
    [alt] = [alt for alt in page.values("img", "alt") if alt.startswith("Accuracy by mode")]
    assert "private mode: local only" in alt
    assert "personalized 50.0%" in alt


def test_rounds_of_a_mode_that_were_undone_are_said_with_the_mode() -> None:
    results = comparison()
    results["runs"]["private"]["rounds"][1]["refused"] = "its norm"
    check_results(results)
    said = "Round 1 was undone"
    assert f"private mode: {said}" in printed(results)
    text = Page(render(results)).text
    assert text.count(said) == 1
    assert text.index("Private mode") < text.index(said) < text.index("Open mode")


def test_one_mode_alone_has_no_cost() -> None:
    results = comparison()
    del results["runs"]["private"], results["cost"], results["ledger"]
    check_results(results)
    assert "privacy costs" not in printed(results) + Page(render(results)).text
    assert "The ledger" not in Page(render(results)).text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda r: r["runs"].pop("open"), "expected a private and an open run in 'runs'"),
        (lambda r: r.update(runs={}), "expected one run or more in 'runs'"),
        (lambda r: r["runs"].update(loud=r["runs"]["open"]), "each by its mode"),
        (lambda r: r["runs"]["open"].pop("gain"), "'runs.open.gain', which is missing"),
        (lambda r: r["runs"]["private"].update(generated=False), "no 'examples' unless"),
        (lambda r: r["cost"].update(personal=[1]), "3 entries in 'cost.personal'"),
        (lambda r: r["ledger"]["entries"][0].pop("words"), r"'ledger.entries\[0\].words', which is missing"),
    ],
)
def test_malformed_comparison_is_named_by_its_place(change: Any, expected: str) -> None:
    results = copy.deepcopy(comparison())
    change(results)
    with pytest.raises(DataError, match=expected):
        check_results(results)


def test_sentence_of_both_epsilons_is_empty_where_there_are_none() -> None:
    assert privacy_sentence({}) == ""
