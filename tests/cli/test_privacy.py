"""Transcripts of `tacit privacy`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from federation.secagg.parameters import parameters

Call = Callable[..., Any]
RUN = ("privacy", "--devices", 1000, "--cohort", 100, "--rounds", 5, "--participations", 4)


def test_table_has_the_noise_and_both_figures_of_each_epsilon(tacit: Call) -> None:
    done = tacit([*RUN, "--epsilon", 8, "--epsilon", 2])
    assert done.code == 0
    assert "q = 0.1, rounds: 5, of one device at most 4; 58 to 148 devices" in done.out
    assert "private mode, discrete Gaussian noise, accounted by PLD, δ = 1e-05" in done.out
    rows = [[float(cell) for cell in line.split()] for line in done.out.splitlines() if re.match(r" *\d+ +\d+\.", line)]
    assert [row[0] for row in rows] == [8, 2]
    assert [row[1] for row in rows] == pytest.approx([1.20, 3.99], abs=0.01)
    for wanted, _, server, released, _ in rows:
        assert wanted - 0.02 <= server <= wanted
        assert 0 < released < server


def test_json_holds_the_guarantee(tacit: Call) -> None:
    done = tacit([*RUN, "--epsilon", 8, "--noise", "skellam", "--json"])
    value = json.loads(done.out)
    share = value["cohort"].pop("honest_share")
    assert value["cohort"] == {"expected": 100, "floor": 58, "ceiling": 148}
    # A sum that a lying server unmasks holds so many honest devices at least, whatever the cohort's size.
    assert all(parameters(size, 0.3, 0.1).smallest_sum >= share * size for size in range(58, 149))
    [row] = value["rows"]
    assert share < row["honest_share_where_all_stay"] == 0.83
    # z over the root of 0.83 of the cohort's noise, on 10,000 numbers of a mean over 100.
    assert row["noise_on_the_mean"] == pytest.approx(row["z"] / 0.83**0.5, rel=1e-3)
    assert row["mechanism"] == "Skellam"
    assert row["method"] == "RDP"
    assert row["eps_released"] < row["eps_server"] <= row["epsilon"] == 8
    assert row["wrap_log2"] is None or row["wrap_log2"] < -40
    assert row["z"] == pytest.approx(1.277, abs=0.002)


def test_central_mode_keeps_the_released_model_and_nothing_from_the_server(tacit: Call) -> None:
    done = tacit([*RUN, "--mode", "central", "--epsilon", 0.5, "--noise", "skellam", "--json"])
    [row] = json.loads(done.out)["rows"]
    assert row["eps_server"] is None
    assert 0.49 < row["eps_released"] <= 0.5
    refused = tacit([*RUN, "--mode", "central", "--against", "server"])
    assert refused.code == 2
    assert "In central mode nothing is kept from the server" in refused.err


def test_without_sampling_both_figures_are_the_same(tacit: Call) -> None:
    [row] = json.loads(tacit(["privacy", "--devices", 50, "--epsilon", 4, "--json"]).out)["rows"]
    assert row["eps_server"] == row["eps_released"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--cohort", 1001), "cohort=1001"),
        (("--epsilon", 0), "epsilon=0.0"),
        (("--epsilon", "nan"), "epsilon=nan"),
        (("--delta", 1), "delta=1.0"),
        (("--participations", 6), "participations=6"),
        (("--numbers", 10**15), "too long"),
    ],
)
def test_wrong_settings_are_one_line_and_status_2(tacit: Call, more: tuple[object, ...], told: str) -> None:
    done = tacit([*RUN, *more])
    assert done.code == 2
    assert told in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert done.out == ""


@pytest.mark.parametrize("more", [("--devices", 9), ("--devices", 100, "--dropout", 0.9)])
def test_a_cohort_that_no_secure_sum_bears_is_told(tacit: Call, more: tuple[object, ...]) -> None:
    done = tacit(["privacy", *more])
    assert done.code != 0
    assert "No graph" in done.err
    assert done.out == ""


def test_without_the_accountant_one_line_says_what_to_install(tacit: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    done = tacit([*RUN, "--epsilon", 3])
    assert done.code != 0
    assert done.err == "Error: This command needs dp_accounting. Install it with: pip install 'tacit[federation]'\n"
