"""From ε to the noise: the least that keeps it, the same from the cache, and never what a damaged cache says."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.owner.modes import CENTRAL
from federation.errors import PrivacyError
from federation.privacy import calibration
from federation.privacy.accounting import PrivacyPlan
from federation.privacy.calibration import RELEASED, SERVER, calibrate, epsilon_at, least_multiplier
from federation.privacy.noise import SKELLAM

PLAN = PrivacyPlan(devices=1000, cohort=100, rounds=10, participations=4, delta=1e-5, dimension=10_000)
SAMPLED = PrivacyPlan(devices=1000, cohort=100, rounds=2, participations=2, delta=1e-5, dimension=500)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TACIT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept(cache: Path) -> Path:
    [file] = cache.glob("noise-*.json")
    return file


@pytest.mark.parametrize(("epsilon", "z"), [(8.0, 1.20), (4.0, 2.16), (2.0, 3.99)])
def test_noise_is_the_least_thousandth_that_keeps_epsilon(cache: Path, epsilon: float, z: float) -> None:
    found = calibrate(PLAN, epsilon)
    assert found == pytest.approx(z, abs=0.01)
    assert epsilon_at(PLAN, found, SERVER) <= epsilon < epsilon_at(PLAN, found - 0.001, SERVER)


def test_noise_for_the_released_model_is_the_least_too(cache: Path) -> None:
    found = calibrate(SAMPLED, 0.3, against=RELEASED)
    assert epsilon_at(SAMPLED, found, RELEASED) <= 0.3 < epsilon_at(SAMPLED, found - 0.001, RELEASED)
    assert found < calibrate(SAMPLED, 0.3)


def test_skellam_noise_needs_what_its_own_bound_says(cache: Path) -> None:
    skellam = PrivacyPlan(
        devices=1000, cohort=100, rounds=10, participations=4, delta=1e-5, dimension=10_000, noise=SKELLAM
    )
    assert calibrate(PLAN, 8.0) < calibrate(skellam, 8.0) < 1.1 * calibrate(PLAN, 8.0)


@pytest.mark.parametrize("guess", [0.001, 0.4, 1.0, 50.0])
@pytest.mark.parametrize("root", [0.001, 0.0405, 1.0, 77.7777])
def test_search_finds_the_root_from_any_guess(guess: float, root: float) -> None:
    found = least_multiplier(lambda z: root / z, 1.0, guess)
    assert root <= found * (1 + 1e-12)
    assert found - 0.001 < root


def test_a_wish_that_no_noise_grants_is_refused() -> None:
    with pytest.raises(PrivacyError, match="No noise"):
        least_multiplier(lambda z: 1.0, 0.5)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan"), float("inf")])
def test_epsilon_out_of_range_is_refused(cache: Path, epsilon: float) -> None:
    with pytest.raises(PrivacyError, match="epsilon"):
        calibrate(PLAN, epsilon)


def test_figures_that_are_none_are_refused(cache: Path) -> None:
    with pytest.raises(PrivacyError, match="against"):
        calibrate(PLAN, 1.0, against="everyone")
    central = PrivacyPlan(devices=9, cohort=9, rounds=1, participations=1, delta=1e-5, dimension=5, mode=CENTRAL)
    with pytest.raises(PrivacyError, match="central mode"):
        calibrate(central, 1.0)


def test_second_time_comes_from_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = calibrate(PLAN, 8.0)
    before = kept(cache).read_bytes()
    assert kept(cache).stat().st_mode & 0o077 == 0
    monkeypatch.setattr(calibration, "least_multiplier", lambda *_: pytest.fail("searched again"))
    assert calibrate(PLAN, 8.0) == found
    assert kept(cache).read_bytes() == before
    assert [path.name for path in cache.iterdir()] == [kept(cache).name]


def test_another_wish_is_not_answered_by_it(cache: Path) -> None:
    assert calibrate(PLAN, 8.0) < calibrate(PLAN, 7.9)
    assert len(list(cache.glob("noise-*.json"))) == 2


def changed(**values: Any) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps(json.loads(content) | values).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"\xff" + content,
        lambda content: b"[1]",
        lambda content: b"{}",
        changed(noise_multiplier=0.001),
        changed(noise_multiplier="2"),
        changed(digest="0" * 64),
    ],
)
def test_a_damaged_cache_is_told_of_and_computed_again(
    cache: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    found = calibrate(PLAN, 8.0)
    whole = kept(cache).read_bytes()
    kept(cache).write_bytes(damage(whole))
    with caplog.at_level(logging.WARNING):
        assert calibrate(PLAN, 8.0) == found
    assert "computed again" in caplog.text
    assert kept(cache).read_bytes() == whole


def test_too_little_noise_is_not_believed_even_with_its_digest(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = calibrate(PLAN, 8.0)
    held = json.loads(kept(cache).read_text())
    key = {name: held[name] for name in ("plan", "epsilon", "against", "accounting")}
    held |= {"noise_multiplier": 0.2, "digest": calibration._digest([key, 0.2])}
    kept(cache).write_text(json.dumps(held))
    with caplog.at_level(logging.WARNING):
        assert calibrate(PLAN, 8.0) == found
    assert "too little" in caplog.text


def test_a_cache_that_cannot_be_written_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TACIT_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING):
        assert calibrate(PLAN, 8.0) == pytest.approx(1.2, abs=0.01)
    assert "TACIT_CACHE_DIR" in caplog.text


def test_cache_lies_where_the_encoders_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from engine.encoders import onnx_encoder

    for name, value in (("TACIT_CACHE_DIR", str(tmp_path)), ("TACIT_CACHE_DIR", ""), ("XDG_CACHE_HOME", "/x")):
        monkeypatch.setenv(name, value)
        assert calibration.cache_folder() == onnx_encoder.cache_folder()
    assert os.environ["XDG_CACHE_HOME"] == "/x"
