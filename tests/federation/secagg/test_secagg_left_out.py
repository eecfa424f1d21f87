"""A server that leaves honest survivors out of a sum: it can where nobody in the sum chose them, and else never."""

from __future__ import annotations

import numpy as np
import pytest
from secagg_fleet import Fleet

from federation.secagg import SurvivorError, Terms
from federation.secagg.graph import arcs as plain
from federation.secagg.masks import MaskedSum, self_mask_key
from federation.secagg.messages import decode_input

N, D, VECTORS = 16, 4, np.random.default_rng(5).integers(0, 2**32, (16, 4), dtype=np.uint32)


def choose(monkeypatch: pytest.MonkeyPatch, out: set[int], by: set[int]) -> None:
    """Let nobody choose a device in ``out`` but these and those of ``by``, who choose all of them."""

    def arcs(cohort_hash: bytes, *, position: int, devices: int, neighbours: int, **given: bytes) -> tuple[int, ...]:
        chosen = set(plain(cohort_hash, position=position, devices=devices, neighbours=neighbours, **given))
        if position in out:
            return tuple(sorted(chosen))
        first = out if position in by else set()
        rest = [at for at in (*sorted(chosen), *range(devices)) if at not in out and at != position]
        return tuple(sorted(list(dict.fromkeys([*first, *rest]))[:neighbours]))

    monkeypatch.setattr("federation.secagg.cohort.arcs", arcs)


def hidden(fleet: Fleet, out: set[int], shown: set[int]) -> None:
    """Tell nobody but ``shown`` that the devices in ``out`` chose them."""
    message = fleet.adverts()
    for index in range(N):
        fleet.server.reveal(index, fleet.ask("reveal", index, message))
    fleet.server.close_reveals()
    for at, choosers in fleet.server._choosers.items():
        if at not in out | shown:
            fleet.server._choosers[at] = [its for its in choosers if its not in out]


def finish(fleet: Fleet) -> None:
    """The stages that are left."""
    server = fleet.server
    for index in range(N):
        server.shares(index, fleet.ask("shares", index, server.peers(index)))
    server.close_shares()
    for index in range(N):
        server.input(index, fleet.ask("input", index, server.forwarded(index), VECTORS[index]))
    message = server.close_inputs()
    for index in range(N):
        server.agreement(index, fleet.ask("agree", index, message))
    server.close_agreements()
    for index in range(N):
        server.unmask(index, fleet.ask("unmask", index, server.signers(index)))


def is_bare(fleet: Fleet, out: set[int]) -> bool:
    """Whether the masked inputs of all but ``out``, less what devices opened of these, are the sum of their vectors."""
    server, total = fleet.server, MaskedSum(D)
    for index in sorted({*range(N)} - out):
        total.add(decode_input(fleet.sent["input", index][1], D)[0])
        total.mask(self_mask_key(server._secret(index), server._closed.h2(server._sharers), index), -1)
    return np.array_equal(total.values, VECTORS[sorted({*range(N)} - out)].sum(axis=0, dtype=np.uint32))


@pytest.mark.parametrize("out", [{3}, {3, 7}])
def test_who_is_chosen_by_nobody_in_a_sum_can_be_left_out_of_it(monkeypatch: pytest.MonkeyPatch, out: set[int]) -> None:
    """The one way to a smaller sum that is counted with, so that its chance has to be bounded."""
    choose(monkeypatch, out, by=set())
    fleet = Fleet(rows=N, terms=Terms(dimension=D))
    hidden(fleet, out, shown=set())
    finish(fleet)
    assert is_bare(fleet, out)
    assert not is_bare(fleet, {*out, 5})
    # One of so few is likely enough to be counted on; two are not, once all of them survived.
    honest = N - len(out) - fleet.server.found.colluding
    assert (honest >= fleet.server.honest_in_sum) == (len(out) == 1)


def test_who_is_chosen_by_one_device_is_in_the_sum_or_that_device_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    out, by = {3}, {11}
    choose(monkeypatch, out, by=by)
    fleet = Fleet(rows=N, terms=Terms(dimension=D))
    hidden(fleet, out, shown=by)
    finish(fleet)
    assert not any(is_bare(fleet, gone) for gone in (out, out | by))
    # Nor can the chosen one's keys be withheld, since it shared.
    fleet = Fleet(rows=N, terms=Terms(dimension=D))
    hidden(fleet, out, shown=set())
    server = fleet.server
    server._choosers[3] = []
    server._chosen[11] = tuple(at for at in server._chosen[11] if at != 3)
    message = server.peers(11)
    server._chosen[11] = tuple(sorted({*server._chosen[11], 3}))
    for index in range(N):
        server.shares(index, fleet.ask("shares", index, message if index == 11 else server.peers(index)))
    server.close_shares()
    with pytest.raises(SurvivorError, match="withheld"):
        fleet.devices[11].input(server.forwarded(11), VECTORS[11])
