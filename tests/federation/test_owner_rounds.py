"""What the owner can read after rounds with noise: the same as the wire carried, byte for byte, and what it cost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from engine.owner.account import Limits, digest
from engine.owner.rho import epsilon_of
from engine.owner.statement import checked, statement
from federation.agent.names import MESSAGE
from federation.agent.private import STAGES
from federation.rounds.noisy_rounds import privacy_of
from federation.simulation import grid as simulation

DEVICES, ROUNDS = 13, 2


@pytest.fixture
def village(town_of: Callable[..., Any], rows: Callable[..., Any]) -> Any:
    """People enough for a secure sum, whose owners allow private rounds."""
    made = rows(users=DEVICES)
    users = sorted({row.user for row in made})
    return town_of([(user, [row for row in made if row.user == user], []) for user in users], mode="private")


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What devices answered in private rounds, as the wire carried it."""
    seen: list[bytes] = []
    encode = simulation.message_to_proto

    def recording(message: Any) -> Any:
        if message.metadata.reply_to_message_id and message.has_content():
            seen.append(bytes(message.content.config_records["config"][MESSAGE]))
        return encode(message)

    monkeypatch.setattr(simulation, "message_to_proto", recording)
    return seen


def test_ledgers_reconcile_with_the_wire(village: Any, carried: list[bytes]) -> None:
    model = village.run(rounds=ROUNDS, epsilon=6.0, local_steps=2)
    given = privacy_of(model)
    assert given is not None
    assert len(carried) == ROUNDS * DEVICES * len(STAGES)
    told: list[Any] = []
    with village.pool() as pool:
        for name in village.names:
            device = pool.agent(name).device
            mine = device.account.contributions()
            told += mine
            assert [its.round for its in mine] == [1, 2]
            assert not any(its.again for its in mine)
            # What it cost, added up as the device adds it, and the same from the ratchet.
            assert [its.rho_spent for its in mine] == pytest.approx([given.rho, 2 * given.rho], rel=1e-6)
            assert mine[-1].rho_spent == device.account.spent.rho >= 2 * given.rho
            assert device.account.spent.unbounded == 0
            # No less than what accounting says that as many participations cost.
            assert mine[-1].epsilon_spent(given.delta) >= given.eps_server
            assert mine[-1].epsilon_spent() == pytest.approx(given.eps_server, rel=0.1)
            left = epsilon_of(device.account.limits.rho) - epsilon_of(device.account.spent.rho)
            assert mine[-1].epsilon_left() == pytest.approx(left, abs=1e-6)
            exported = checked(statement(device.store.entries()))
            assert [json.loads(content)["sent"] for _, kind, content in exported.entries if kind == "sent"] == [
                its.sent for its in mine
            ]
    # Each masked array that the wire carried is in one ledger, and each entry was carried.
    sizes = {its.size_bytes for its in told}
    masked = Counter(digest(answer) for answer in carried if len(answer) in sizes)
    assert masked == Counter(its.sent for its in told)
    assert sum(masked.values()) == ROUNDS * DEVICES
    assert len(sizes) == 1


def test_devices_that_would_pass_their_limit_abstain_and_the_others_go_on(village: Any) -> None:
    first = village.run(rounds=1, epsilon=6.0, local_steps=2)
    given = privacy_of(first)
    assert given is not None
    for name in village.names[:3]:  # There is a graph for 10 devices, and none for 11 or 12.
        with village.fleet.open(name) as device:
            device.account.limit(Limits(rho=1.01 * given.rho), now=0.0)
    village.run(rounds=1, epsilon=2.0, local_steps=2, out=village.out / "second")
    with village.pool() as pool:
        counts = [len(pool.agent(name).device.account.contributions()) for name in village.names]
    assert counts == [1] * 3 + [2] * (DEVICES - 3)
