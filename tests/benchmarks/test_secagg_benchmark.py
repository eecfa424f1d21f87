"""The benchmark of secure sums runs real rounds, checks their sum, and counts the bytes that really go."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import secagg


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["secagg", *arguments])
    secagg.main()
    return capsys.readouterr().out


def test_device_costs_are_printed_with_ratios(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = run(capsys, monkeypatch, "--cohorts", "13", "--dimension", "1000", "--repeats", "1", "--json")
    [row] = json.loads(out.splitlines()[-1])
    assert row["cpu_s"] > 0
    assert row["bytes_of_plain"] == pytest.approx(row["bytes_a_number"] / 4)
    assert row["bytes_of_limit"] == pytest.approx(row["bytes_a_number"] / 4.5)


def test_server_costs_are_of_a_round_whose_sum_is_right(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "13 devices" in run(capsys, monkeypatch, "--server", "--cohorts", "13", "--dimension", "10")


def test_parameters_are_printed_and_small_cohorts_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = run(capsys, monkeypatch, "--parameters", "--cohorts", "5", "100")
    assert "the next that works is 10" in out
    assert out.splitlines()[-1].split()[:3] == ["100", "38", "12"]
