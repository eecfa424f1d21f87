"""Settings are checked where they enter, and unknown ones are refused."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest

from federation.errors import ConfigError
from federation.rounds.config import RunSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rounds", 0),
        ("rounds", -1),
        ("rounds", True),
        ("rounds", 2.0),
        ("rounds", "3"),
        ("cohort", 0),
        ("min-replies", -1),
        ("local-steps", 0),
        ("seed", -1),
        ("learning-rate", 0.0),
        ("learning-rate", math.nan),
        ("learning-rate", math.inf),
        ("learning-rate", "fast"),
        ("server-learning-rate", -0.1),
        ("proximal-mu", -0.1),
        ("proximal-mu", math.nan),
        ("clip-norm", 0),
        ("clip-norm", math.inf),
        ("deadline-s", 0),
        ("strategy", "random"),
        ("strategy", "FedAvg"),
        ("mode", "private"),
        ("mode", ""),
    ],
)
def test_setting_out_of_range_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name) as refused:
        RunSettings.from_config({name: value})
    assert "\n" not in str(refused.value)


def test_min_replies_above_the_cohort_is_refused() -> None:
    with pytest.raises(ConfigError, match="min-replies=3 to be at most cohort=2"):
        RunSettings(cohort=2, min_replies=3)


@pytest.mark.parametrize("given", [{"mode": "open"}, {"rounds": 2}, {"mode": "central", "rounds": 90}])
def test_one_release_is_refused_in_open_mode_and_in_more_than_one_round(given: dict[str, Any]) -> None:
    noisy: dict[str, Any] = {"strategy": "summary", "mode": "private", "rounds": 1, "rescorer_steps": 0}
    assert RunSettings(**noisy).strategy == "summary"
    with pytest.raises(ConfigError, match="Expected strategy='summary' with rounds=1") as refused:
        RunSettings(**noisy | given)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["round", "local_steps", "noisiness", ""])
def test_unknown_setting_is_refused_and_the_known_ones_are_named(name: str) -> None:
    with pytest.raises(ConfigError, match="Unknown setting") as refused:
        RunSettings.from_config({name: 1})
    assert "local-steps" in str(refused.value)


def test_settings_survive_the_flat_configuration() -> None:
    settings = RunSettings(rounds=7, strategy="fedprox", cohort=5, min_replies=4, proximal_mu=0.0, out="x", seed=3)
    assert RunSettings.from_config(settings.to_config()) == settings
    assert all(type(value) in (bool, int, float, str) for value in settings.to_config().values())


@pytest.mark.parametrize(
    ("cohort", "min_replies", "needed"), [(1, 0, 1), (2, 0, 1), (5, 0, 3), (5, 5, 5), (5, 1, 1), (306, 0, 153)]
)
def test_needed_replies_are_half_of_the_cohort_rounded_up_unless_set(
    cohort: int, min_replies: int, needed: int
) -> None:
    assert RunSettings(cohort=cohort, min_replies=min_replies).needed == needed


@pytest.mark.parametrize(("rounds", "held_back"), [(1, []), (2, [1]), (3, [1, 2]), (5, [1, 2, 3]), (6, [1, 2, 3, 4])])
def test_hold_back_is_the_first_two_thirds_of_the_run(rounds: int, held_back: list[int]) -> None:
    settings = RunSettings(rounds=rounds)
    assert [number for number in range(1, rounds + 1) if settings.hold_back(number)] == held_back


def test_defaults_in_pyproject_are_settings(root: Path) -> None:
    # `flwr run -c` may only override keys that stand there, and unknown ones are refused by the ServerApp.
    app = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["flwr"]["app"]
    settings = RunSettings.from_config(app["config"])
    assert set(app["config"]) == set(settings.to_config())
    plain = RunSettings().to_config()
    assert {name: plain[name] for name in app["config"] if name != "rounds"} == {
        name: value for name, value in app["config"].items() if name != "rounds"
    }
    assert app["components"] == {
        "serverapp": "federation.rounds.server_app:app",
        "clientapp": "federation.rounds.client_app:app",
    }
