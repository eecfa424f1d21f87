"""Private rounds over the wire: the sum is right, drop-outs cost nothing but themselves, what was refused is gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from federation.data.splits import Split
from federation.rounds.noisy_rounds import privacy_of

DEVICES = 13


@pytest.fixture
def village(town_of: Callable[..., Any], rows: Callable[..., Any]) -> Any:
    """People enough for a secure sum, whose owners allow private rounds."""
    made = rows(users=DEVICES)
    users = sorted({row.user for row in made})
    split: Split = [(user, [row for row in made if row.user == user], []) for user in users]
    return town_of(split, mode="private")


def test_private_rounds_give_a_model_and_what_holds_for_its_devices(village: Any) -> None:
    model = village.run(rounds=2, epsilon=6.0)
    given = privacy_of(model)
    assert model.round == 2
    assert given is not None
    assert given.eps_server <= 6.0
