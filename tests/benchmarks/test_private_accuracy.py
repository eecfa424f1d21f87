"""The curve of accuracy against ε: its devices, its plain averaging, its table and picture."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import private_accuracy as bench
from benchmarks.private_fleet import Crowd, by_averaging, by_one_release, crowd_of, inner, measured, public_rows
from engine.encoders.encoder import CachedEncoder
from engine.model.catalogue import Catalogue
from engine.model.scoring import BIAS_GAIN, SCALE
from federation.data.splits import split_as_marked
from federation.population import generate


@pytest.fixture
def crowd(toy: Any) -> Crowd:
    split = split_as_marked(generate(4, seed=0, rows_per_device=12).rows)
    return crowd_of(split, Catalogue.builtin(), CachedEncoder(toy))


def test_a_round_of_plain_averaging_is_the_mean_of_clipped_steps(crowd: Crowd) -> None:
    classes, size = len(crowd.start.catalogue), crowd.start.dimension
    start = crowd.start.flat.reshape(classes, size + 1).astype(np.float64)
    expected = start.copy()
    for one in crowd.devices:
        x, y = public_rows(one, classes)
        slope = np.zeros_like(start)
        for row, label in zip(x, y, strict=True):
            inputs = np.append(row, BIAS_GAIN)
            scores = np.exp(SCALE * (start @ inputs))
            slope += np.outer(scores / scores.sum() - np.eye(classes)[label], inputs)
        expected -= 0.7 / len(crowd.devices) * slope / np.linalg.norm(slope)
    found = by_averaging(crowd, 0.0, 1.0, rounds=1, step=0.7, seed=0)
    assert np.allclose(found, expected.reshape(-1), atol=1e-5)


def test_the_noise_of_plain_averaging_is_the_mechanisms(crowd: Crowd) -> None:
    quiet = by_averaging(crowd, 0.0, 1.0, rounds=1, step=1.0, seed=0)
    noise = by_averaging(crowd, 2.0, 0.25, rounds=1, step=1.0, seed=0) - quiet
    assert np.std(noise) == pytest.approx(2.0 / math.sqrt(0.25) / len(crowd.devices), rel=0.05)


def test_one_release_is_measured_on_rows_that_no_device_remembers(crowd: Crowd) -> None:
    flat, plan = by_one_release(crowd, 50.0, 1.0)
    assert flat.shape == crowd.start.flat.shape
    assert plan.directions < 384
    shared, personal = measured(crowd, flat, most=4)
    assert 0 <= shared <= 1
    assert 0 < personal <= 1


def test_inner_splits_hold_train_rows_alone() -> None:
    split = split_as_marked(generate(3, seed=0, rows_per_device=12).rows)
    for (_, train, test), (_, whole, held) in zip(inner(split, 0), split, strict=True):
        assert {row.order for row in [*train, *test]} == {row.order for row in whole}
        assert not {row.order for row in [*train, *test]} & {row.order for row in held}


def test_all_rows_of_a_fleet_become_a_table_and_a_picture(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        bench, "multiplier", lambda epsilon, rounds: (0.0 if math.isinf(epsilon) else 9.0, epsilon, epsilon)
    )
    given = argparse.Namespace(
        inner=False, measured=3, honest_share=1.0, epsilon=[2.0, math.inf], without=[], rounds=2, steps=[0.8], draws=1
    )
    rows = list(bench.rows_of(bench.GENERATED, 3, 0, CachedEncoder(toy), given))
    found = bench.means(rows)
    assert [one["method"] for one in found] == [
        bench.NAMES,
        *(2 * [bench.RELEASE, bench.AVERAGED, bench.TUNED]),
        bench.POOLED,
    ]
    bench.print_table(found)
    assert "∞" in capsys.readouterr().out
    bench.draw(found, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
