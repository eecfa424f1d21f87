"""The server and the colluders together: what they hold of a victim says nothing, and one share more would tell all."""

from __future__ import annotations

import secrets

import numpy as np
import pytest
from secagg_fleet import Fleet, seed_of

from federation.secagg import Terms
from federation.secagg.device import _Keys
from federation.secagg.keys import AgreementKey
from federation.secagg.masks import MaskedSum, pair_mask_key, self_mask_key
from federation.secagg.messages import OF_MASK_KEY, OF_SELF, decode_input, decode_unmask
from federation.secagg.shamir import PRIME, combine
from federation.secagg.sharing import open_share
from federation.secagg.state import unpack_held

N, D, VICTIM = 24, 8, 4
VECTORS = np.random.default_rng(3).integers(0, 2**32, (N, D), dtype=np.uint32)


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    fleet = Fleet(rows=N, terms=Terms(dimension=D), gone={0: "input", 1: "agree", 2: "unmask"})
    fleet.until("unmask", VECTORS)
    return fleet


def colluders(fleet: Fleet) -> list[int]:
    """As many as the promise covers, and the worst for the victim: its own neighbours first."""
    chosen = list(fleet.server._chosen[VICTIM])
    return [*chosen, *(at for at in range(N) if at not in chosen and at != VICTIM)][: fleet.server.found.colluding]


def known_shares(fleet: Fleet, holders: list[int]) -> dict[str, dict[int, int]]:
    """What the adversary has of the victim's two secrets: all that ``holders`` hold, and what honest ones gave."""
    known: dict[str, dict[int, int]] = {"self": {}, "mask key": {}}
    server = fleet.server
    for holder in holders:
        sealed = server._sealed[VICTIM].get(holder)
        if sealed is not None:
            own = _Keys(seed_of(holder), server._closed.h0).share
            pair = open_share(own, server._record(VICTIM).share_key, server._closed.h1, VICTIM, holder, sealed)
            assert pair is not None
            known["self"][holder + 1] = int.from_bytes(pair[:32], "little")
            known["mask key"][holder + 1] = int.from_bytes(pair[32:], "little")
    for holder in fleet.here("unmask"):
        opened = decode_unmask(fleet.sent["unmask", holder][1], fleet.server.found)
        for owner, (kind, share) in zip(fleet.server._held_by(holder), opened, strict=False):
            if owner == VICTIM:
                known[{OF_SELF: "self", OF_MASK_KEY: "mask key"}[kind]][holder + 1] = int.from_bytes(share, "little")
    return known


def test_colluders_and_server_hold_fewer_than_t_shares_of_a_survivors_mask_key(fleet: Fleet) -> None:
    known = known_shares(fleet, colluders(fleet))
    t = fleet.server.found.threshold
    assert 0 < len(known["mask key"]) < t
    assert len(known["self"]) >= t  # That one is opened for the sum.


def test_fewer_than_t_shares_are_consistent_with_every_secret(fleet: Fleet) -> None:
    """With t − 1 shares each value of the secret has exactly one polynomial through them, so all stay as likely."""
    t = fleet.server.found.threshold
    chosen = list(fleet.server._chosen[VICTIM])
    shares = dict(list(known_shares(fleet, chosen)["mask key"].items())[: t - 1])
    true = int.from_bytes(_Keys(seed_of(VICTIM), fleet.server._closed.h0).mask.private_bytes(), "little")
    for candidate in (0, 1, true, *(secrets.randbelow(PRIME) for _ in range(5))):
        points = {0: candidate, **shares}
        polynomial = interpolated(points)
        assert len(polynomial) == t
        assert all(evaluated(polynomial, point) == value for point, value in points.items())
    whole = dict(list(known_shares(fleet, chosen)["mask key"].items())[:t])
    assert combine(whole, threshold=t) == true


def test_with_t_shares_the_same_adversary_would_have_the_input(fleet: Fleet) -> None:
    """The attack has teeth: what the promise forbids, t colluding neighbours, does recover the vector."""
    t = fleet.server.found.threshold
    chosen = list(fleet.server._chosen[VICTIM])
    known = known_shares(fleet, chosen[:t])
    key = AgreementKey(combine(known["mask key"], threshold=t).to_bytes(32, "little"))
    secret = combine(known["self"], threshold=t).to_bytes(32, "little")
    assert (stripped(fleet, secret, lambda peer: key) == VECTORS[VICTIM]).all()


def test_what_the_promised_adversary_can_strip_leaves_a_masked_input(fleet: Fleet) -> None:
    """Server and colluders take off b, the masks with colluders and with the dropped; honest masks stay on."""
    bad = colluders(fleet)
    known = known_shares(fleet, bad)
    secret = combine(known["self"], threshold=fleet.server.found.threshold).to_bytes(32, "little")
    opened = {*bad, 0}  # Device 0 never sent an input: its mask key was opened.
    h0 = fleet.server._closed.h0
    ours = {at: _Keys(seed_of(at), h0).mask for at in opened}
    left = stripped(fleet, secret, ours.get)
    honest = stripped(fleet, secret, lambda peer: _Keys(seed_of(peer), h0).mask)
    assert (honest == VECTORS[VICTIM]).all()
    assert not (left == VECTORS[VICTIM]).any()


def test_each_honest_device_opens_one_kind_of_share_for_a_peer(fleet: Fleet) -> None:
    for holder in fleet.here("unmask"):
        opened = decode_unmask(fleet.sent["unmask", holder][1], fleet.server.found)
        for owner, (kind, share) in zip(fleet.server._held_by(holder), opened, strict=False):
            assert kind == (OF_MASK_KEY if owner == 0 else OF_SELF)
            pair = dict(unpack_held(fleet.before["unmask", holder]._state.held))[owner]
            assert pair is not None
            closed = pair[:32] if owner == 0 else pair[32:]
            assert share != closed
            assert closed not in fleet.sent["unmask", holder][1]


def stripped(fleet: Fleet, secret: bytes, key_of_peer) -> np.ndarray:  # type: ignore[no-untyped-def]
    """The victim's masked input without b's mask and without each pair's mask whose key is known (else none)."""
    server = fleet.server
    h2 = server._closed.h2(server._sharers)
    total = MaskedSum(D)
    total.add(decode_input(fleet.sent["input", VICTIM][1], D)[0])
    total.mask(self_mask_key(secret, h2, VICTIM), -1)
    own = server._record(VICTIM).mask_key
    for peer in sorted({*server._chosen[VICTIM], *server._choosers[VICTIM]}):
        key = key_of_peer(peer)
        if key is None:
            continue
        # From the victim's own key the other side's public key is needed, from a peer's key the victim's.
        other = server._record(peer).mask_key if key.public == own else own
        total.mask(pair_mask_key(key, other, h2, VICTIM, peer), -1 if peer > VICTIM else +1)
    return total.values


def interpolated(points: dict[int, int]) -> list[int]:
    """The coefficients, lowest first, of the polynomial through ``points``: Gaussian elimination modulo p."""
    size = len(points)
    rows = [[pow(x, power, PRIME) for power in range(size)] + [y] for x, y in points.items()]
    for column in range(size):
        pivot = next(row for row in range(column, size) if rows[row][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        inverse = pow(rows[column][column], -1, PRIME)
        rows[column] = [value * inverse % PRIME for value in rows[column]]
        for row in range(size):
            if row != column:
                factor = rows[row][column]
                rows[row] = [(a - factor * b) % PRIME for a, b in zip(rows[row], rows[column], strict=True)]
    return [row[-1] for row in rows]


def evaluated(polynomial: list[int], point: int) -> int:
    return sum(coefficient * pow(point, power, PRIME) for power, coefficient in enumerate(polynomial)) % PRIME
