"""`tacit audit --quick` on the running code passes; a breach is a status of its own, a page and one line."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from federation.audit import suite
from federation.audit.finding import Ground, at_most, reported
from federation.cli.app import main
from federation.cli.audit import command
from federation.report.audit import ABOUT

KEYS = {"name", "figure", "limit", "verdict", "note"}


def test_the_running_code_passes_the_quick_audit() -> None:
    done = CliRunner().invoke(command, ["--quick", "--json"])
    assert done.exit_code == 0, (done.exception, done.output)
    audits = json.loads(done.stdout)["audits"]
    assert len(audits) >= 30
    assert all(set(one) == KEYS for one in audits)
    assert {one["verdict"] for one in audits} == {"pass"}
    assert {one["name"].split(": ")[0] for one in audits} == set(ABOUT)
    assert len({one["name"] for one in audits}) == len(audits)
    # What attacks find where nothing is promised shows that they attack.
    found = {one["name"]: one["figure"] for one in audits}
    assert found["gradient inversion: texts recovered, single updates"] >= 95
    assert found["gradient inversion: label rate, sums without noise"] > 0.1
    assert found["canary clients: lower bound of ε, one run"] > 0.8


def some_findings(_: Ground) -> list[Any]:
    return [
        at_most("ε <b>leaks</b>", float("inf"), 3.3, "all of <it>", audit="canary clients"),
        at_most("lies answered", 0, 0, "of 9", audit="malicious server"),
        reported("labels", 0.154, "", audit="gradient inversion"),
    ]


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[Any, str, str]:
    monkeypatch.setattr(suite, "AUDITS", (some_findings,))
    monkeypatch.setattr(sys, "argv", ["/x/tacit", "audit", *arguments])
    status: Any = 0
    try:
        main(["audit", *arguments])
    except SystemExit as end:
        status = end.code
    told = capsys.readouterr()
    return status, told.out, told.err


def test_a_breach_has_a_status_of_its_own_and_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = call(monkeypatch, capsys, "--quick")
    assert status == 8
    assert err.splitlines()[-1] == "Error: 1 of 3 findings are breaches: canary clients: ε <b>leaks</b>."
    assert "∞" in out
    assert "3.300" in out
    assert "reported" in out
    assert "3 findings, 1 breaches; a quick run" in out


def test_json_and_the_page_say_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, out, _ = call(monkeypatch, capsys, "--json", "--out", str(tmp_path / "found"))
    assert status == 8
    told = json.loads(out)
    assert told == json.loads((tmp_path / "found" / "audit.json").read_text(encoding="utf-8"))
    assert [one["verdict"] for one in told["audits"]] == ["breach", "pass", "pass"]
    assert [one["figure"] for one in told["audits"]] == [None, 0, 0.154]
    assert [one["limit"] for one in told["audits"]] == [3.3, 0, None]
    page = (tmp_path / "found" / "report.html").read_text(encoding="utf-8")
    assert "<strong>breach</strong>" in page
    assert "<b>leaks" not in page
    assert "&lt;b&gt;leaks" in page
    assert "<script" not in page
    assert "1 finding above the limit" in page


def test_a_full_run_is_told_apart(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    grounds: list[Ground] = []
    monkeypatch.setattr(suite, "AUDITS", (grounds.append,))
    with contextlib.suppress(TypeError):  # What the stand-in returns is no list.
        suite.run_audits(object(), quick=False, progress=None)  # type: ignore[arg-type]
    assert not grounds[0].quick
    assert grounds[0].sized(1, 2) == 2
