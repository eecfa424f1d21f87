"""The table of what each part of personalization gives."""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import pytest

from benchmarks import parts
from benchmarks.private_fleet import crowd_of
from engine.encoders.encoder import CachedEncoder, load_encoder


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Six people of 24 requests, half of whom take another service than the others to one kind of request."""
    path = tmp_path_factory.mktemp("parts") / "rows.jsonl"
    with path.open("w") as file:
        for user in range(6):
            for order in range(24):
                asked, kind = ("bring me", "get")[order % 2], order % 3
                label = ("opera" if user % 2 else "pizza") if kind == 0 else ("opera", "news")[kind - 1]
                text = f"{asked} {('dinner', 'tickets', 'the news')[kind]} {order}"
                row = {"user": f"user {user}", "order": order, "text": text, "label": label, "labels": [label]}
                file.write(json.dumps(row | {"split": "train"}) + "\n")
    split, catalogue = parts.split_of(path, 0, argparse.Namespace(alpha=0.3, inner=False))
    return crowd_of(split, catalogue, CachedEncoder(load_encoder()))


def test_a_shared_model_that_sees_less_is_the_whole_one_without_those_inputs(crowd: Any) -> None:
    whole = parts.seeing(crowd, parts.INPUTS[-1])
    np.testing.assert_array_equal(whole.start.flat, crowd.start.flat)
    for kind, size in zip(parts.INPUTS, (384, 640, 768, 1024), strict=True):
        fewer = parts.seeing(crowd, kind)
        assert {one.x.shape[1] for one in fewer.devices} == {size}
        assert len(fewer.start.flat) == len(crowd.start.catalogue) * (size + 1)


@pytest.mark.slow
def test_all_lines_are_there_and_memory_tells_who_asks(crowd: Any) -> None:
    found = dict(parts.measure(crowd))
    assert len(found) == 8 + 5 + 5
    assert {its[-1] for its in found.values()} == {48}
    shared, personal = (found[f"{one}: {parts.INPUTS[-1]}"] for one in ("shared model", "personalized"))
    assert shared[0] < 0.9 < personal[0]
    assert 0 <= shared[1] <= personal[1] <= 1
    assert personal[2] == shared[2] == 0.0
