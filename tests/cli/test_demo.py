"""Transcripts of `tacit demo`: private and open mode side by side, one device's ledger, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.owner.statement import checked

Call = Callable[..., Any]
DEVICES = 10  # The fewest that a private round hides.


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, tacit: Call) -> Any:
    """What `tacit demo` over ten people printed, and its folder."""
    out = tmp_path_factory.mktemp("demo") / "report"
    ran = tacit(["demo", "--devices", DEVICES, "--rounds", 1, "--out", out], env={"COLUMNS": "80"})
    assert ran.code == 0, ran.err
    return ran, out


def results_of(out: Path) -> Any:
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


def section(printed: str, mode: str) -> str:
    return re.split(r"\n\s*\n", printed[printed.index(f"{mode} mode, {DEVICES} users") :])[0]


def test_table_has_a_section_for_each_mode_with_both_epsilons_and_all_methods(demo: Any) -> None:
    ran, out = demo
    runs = results_of(out)["runs"]
    assert list(runs) == ["private", "open"]
    for mode, server in (("private", r"[0-3]\.\d\d|4\.00"), ("open", "∞")):
        its = section(ran.out, mode)
        assert re.search(rf"^ε against the server +({server})", its, re.MULTILINE)
        assert re.search(rf"^ε of the released model +({server})", its, re.MULTILINE)
        for name in ("global", "local", "personal", "most_frequent"):
            assert f"{100 * runs[mode]['methods'][name]['accuracy']:.1f}%" in its
    assert "generated population" in ran.out
    assert max(len(line) for line in ran.out.splitlines() if "chain" not in line and str(out) not in line) <= 100


def test_modes_measure_the_same_people_and_the_cost_is_the_difference(demo: Any) -> None:
    ran, out = demo
    results = results_of(out)
    private, opened = results["runs"]["private"], results["runs"]["open"]
    for name in ("local", "most_frequent"):  # Rounds change nothing in these.
        assert private["methods"][name]["accuracy"] == opened["methods"][name]["accuracy"]
    assert [one["device"] for one in private["devices"]] == [one["device"] for one in opened["devices"]]
    for name in ("personal", "global"):
        lost = opened["methods"][name]["accuracy"] - private["methods"][name]["accuracy"]
        assert results["cost"][name][0] == pytest.approx(lost)
    said = " ".join(ran.out.split())
    assert f"privacy costs these {DEVICES} devices" in said
    assert "docs/results.md, “Accuracy under privacy”" in said


def test_ledger_that_is_printed_is_a_devices_own_and_others_can_check_it(demo: Any, tacit: Call) -> None:
    ran, out = demo
    ledger = results_of(out)["ledger"]
    file = out / "ledger.json"
    whole = checked(file.read_bytes())
    assert ledger["chain"] == whole.end.hex()
    assert [one["kind"] for one in ledger["entries"]] == [kind for _, kind, _ in whole.entries]
    privacy = results_of(out)["runs"]["private"]["privacy"]
    sent = [one for one in ledger["entries"] if one["kind"] == "sent"]
    assert 1 <= len(sent) <= privacy["participations"]
    assert all(one["rho"] == privacy["rho"] for one in sent)
    for one in ledger["entries"]:
        assert one["words"] in ran.out
    assert tacit(["device", "check-ledger", file]).code == 0
    file.write_bytes(file.read_bytes().replace(b"personalization", b"advertisement  "))
    assert tacit(["device", "check-ledger", file]).code != 0


def test_report_of_the_folder_prints_the_same_again(demo: Any, tacit: Call) -> None:
    ran, out = demo
    (out / "report.html").unlink()
    again = tacit(["report", out], env={"COLUMNS": "80"})
    assert again.code == 0, again.err
    assert again.out.split("\nReport:")[0] == ran.out.split("\nReport:")[0]
    assert (out / "report.html").is_file()
    assert json.loads(tacit(["report", out, "--json"]).out) == results_of(out)
    for mode in ("private", "open"):  # Each run is whole by itself.
        assert tacit(["report", out / mode]).code == 0


def test_one_mode_alone_over_fewer_people(tmp_path: Path, tacit: Call) -> None:
    ran = tacit(["demo", "--devices", 2, "--rounds", 1, "--mode", "open", "--out", tmp_path / "out", "--json"])
    assert ran.code == 0, ran.err
    results = json.loads(ran.out)
    assert list(results["runs"]) == ["open"]
    assert {"cost", "ledger"}.isdisjoint(results)
    assert results == results_of(tmp_path / "out")


def test_too_few_for_private_mode_is_said_before_anything_is_replaced(tmp_path: Path, tacit: Call) -> None:
    (tmp_path / "results.json").write_text("earlier")
    ran = tacit(["demo", "--devices", 4, "--out", tmp_path])
    assert ran.code == 2
    assert "4 devices are too few for private mode" in ran.err
    assert "10" in ran.err
    assert (tmp_path / "results.json").read_text() == "earlier"
