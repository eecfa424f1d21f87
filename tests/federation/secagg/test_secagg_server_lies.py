"""A malicious server: each lie that PROTOCOL.md lists is refused by the device, with its own error and one line."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from secagg_fleet import MODEL, STAGES, Fleet, key_of, seed_of

from federation.secagg import (
    Announcement,
    DeviceRound,
    FloorError,
    GraphError,
    History,
    ModelError,
    ParameterError,
    PeerKeyError,
    Policy,
    ReplayError,
    Roster,
    RosterError,
    RosterRollbackError,
    SecAggError,
    SigningKey,
    SurvivorError,
    Terms,
    WireError,
    open_roster,
    sign_roster,
)
from federation.secagg.binding import advert_text, agreement_text, commitment
from federation.secagg.checks import Neighbourhood, check_sharers
from federation.secagg.cohort import Cohort
from federation.secagg.device import _Keys
from federation.secagg.masks import MaskedSum, self_mask_key
from federation.secagg.messages import (
    AGREEMENT,
    PeerRecord,
    RevealMessage,
    body,
    decode_forwarded,
    decode_input,
    decode_peers,
    decode_shares,
    decode_signers,
    decode_unmask,
    encode_bitmap,
    encode_forwarded,
    encode_peers,
    encode_signers,
    framed,
)

N = 26
TERMS = Terms(dimension=4)
VICTIM = 5


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    """An honest round of which every device is kept as it was before each stage."""
    fleet = Fleet(rows=N, terms=TERMS, gone={0: "input", 1: "agree"})
    fleet.until("unmask", np.arange(N * 4, dtype=np.uint32).reshape(N, 4))
    return fleet


@contextmanager
def refused(error: type[SecAggError]) -> Iterator[None]:
    with pytest.raises(error) as caught:
        yield
    assert type(caught.value) is error
    assert str(caught.value)
    assert "\n" not in str(caught.value)


def tell(fleet: Fleet, stage: str, message: bytes, index: int = VICTIM) -> bytes:
    """What the device says to ``message`` at this stage of the honest round."""
    rest = (np.zeros(4, dtype=np.uint32),) if stage == "input" else ()
    reply: bytes = getattr(fleet.before[stage, index], stage)(message, *rest).reply
    return reply


def heard(fleet: Fleet, stage: str) -> bytes:
    """The honest message to the victim."""
    return fleet.sent[stage, VICTIM][0]


# The announcement


def begin(fleet: Fleet, *, history: History | None = None, policy: Policy | None = None, **changes: object) -> bytes:
    announcement = replace(fleet.announcement, **changes)  # type: ignore[arg-type]
    return DeviceRound.start(
        announcement.encode(),
        model_hash=MODEL,
        roster=fleet.roster,
        policy=policy or fleet.policy,
        history=history or History(roster_version=3, number=6),
        identity=fleet.keys[VICTIM],
    ).reply


def test_honest_announcement_is_taken_up(fleet: Fleet) -> None:
    assert begin(fleet)


@pytest.mark.parametrize(
    "terms",
    [
        Terms(dimension=5),
        Terms(dimension=4, colluding=0),
        Terms(dimension=4, dropout=301),
        Terms(dimension=4, early=51),
    ],
)
def test_terms_off_the_list_are_refused(fleet: Fleet, terms: Terms) -> None:
    with refused(ParameterError):
        begin(fleet, terms=terms)


@pytest.mark.parametrize("number", [0, 1, 6, 6 + 2**42 + 1])
def test_a_round_that_is_not_new_is_refused(fleet: Fleet, number: int) -> None:
    with refused(ReplayError):
        begin(fleet, number=number)


def test_a_replayed_round_is_refused_by_the_history_that_its_start_gave(fleet: Fleet) -> None:
    device = {"model_hash": MODEL, "roster": fleet.roster, "policy": fleet.policy, "identity": fleet.keys[VICTIM]}
    started = DeviceRound.start(fleet.announcement.encode(), history=History(), **device)  # type: ignore[arg-type]
    kept = History.from_bytes(started.history.to_bytes())
    with refused(ReplayError):
        DeviceRound.start(fleet.announcement.encode(), history=kept, **device)  # type: ignore[arg-type]


def test_another_model_is_refused(fleet: Fleet) -> None:
    with refused(ModelError):
        begin(fleet, model_hash=bytes(32))


@pytest.mark.parametrize("changes", [{"roster_version": 4}, {"roster_hash": bytes(32)}])
def test_another_roster_is_refused(fleet: Fleet, changes: dict[str, object]) -> None:
    with refused(RosterError):
        begin(fleet, **changes)


def test_a_roster_older_than_seen_is_refused(fleet: Fleet) -> None:
    with refused(RosterRollbackError):
        begin(fleet, roster_version=2)
    with refused(RosterRollbackError):
        begin(fleet, history=History(roster_version=4, number=6))
    publisher = key_of("publisher")
    with refused(RosterRollbackError):
        open_roster(sign_roster(fleet.roster, publisher), publisher=publisher.public, seen=4)


def test_a_roster_that_the_publisher_did_not_sign_is_refused(fleet: Fleet) -> None:
    publisher = key_of("publisher")
    signed = sign_roster(fleet.roster, publisher)
    assert open_roster(signed, publisher=publisher.public, seen=3) == fleet.roster
    with refused(RosterError):
        open_roster(sign_roster(fleet.roster, key_of("server")), publisher=publisher.public)
    for at in (0, 1, 9, 40, len(signed) - 1):
        changed = bytearray(signed)
        changed[at] ^= 1
        with refused(RosterError):
            open_roster(bytes(changed), publisher=publisher.public)
    for cut in (b"", signed[:-1], signed[:64], signed[:70]):
        with refused(RosterError):
            open_roster(cut, publisher=publisher.public)


def test_a_roster_that_names_a_key_twice_or_not_this_device_is_refused(fleet: Fleet) -> None:
    with refused(RosterError):
        Roster(version=1, keys=(bytes(32), bytes(32)))
    stranger = Roster(version=3, keys=(key_of("other").public,))
    announcement = replace(fleet.announcement, roster_hash=stranger.hash)
    with refused(RosterError):
        DeviceRound.start(
            announcement.encode(),
            model_hash=MODEL,
            roster=stranger,
            policy=fleet.policy,
            history=History(),
            identity=fleet.keys[VICTIM],
        )


# The cohort


def cohort_of(indices: Sequence[int], size: int = N) -> bytes:
    return framed(2, encode_bitmap(indices, size))


@pytest.mark.parametrize(
    "floors", [{"min_cohort": N + 1}, {"min_threshold": 7}, {"min_sum": 20}], ids=lambda floors: next(iter(floors))
)
def test_cohort_threshold_and_sum_below_the_floor_are_refused(fleet: Fleet, floors: dict[str, int]) -> None:
    strict = Policy(terms=(TERMS,), **floors)
    device = DeviceRound(fleet.before["reveal", VICTIM]._state, fleet.roster, strict, fleet.keys[VICTIM])
    with refused(FloorError):
        device.reveal(heard(fleet, "reveal"))


def test_a_cohort_that_no_graph_protects_is_refused(fleet: Fleet) -> None:
    for indices in ([VICTIM], [VICTIM, 6], range(8)):
        with refused(ParameterError):
            tell(fleet, "reveal", cohort_of(indices))


def test_a_cohort_without_this_device_is_refused(fleet: Fleet) -> None:
    with refused(SurvivorError):
        tell(fleet, "reveal", cohort_of([index for index in range(N) if index != VICTIM]))


# The peers: the victim's neighbours


def peers(fleet: Fleet) -> list[PeerRecord]:
    return list(decode_peers(heard(fleet, "shares"), fleet.server.found))


def tell_peers(fleet: Fleet, records: Sequence[PeerRecord]) -> bytes:
    return tell(fleet, "shares", encode_peers(records))


def resigned(fleet: Fleet, peer: PeerRecord, signer: SigningKey, h0: bytes | None = None) -> PeerRecord:
    """``peer`` with a signature over what it now says."""
    h0 = h0 or fleet.server._closed.h0
    committed = commitment(h0, peer.position, peer.revealed)
    text = advert_text(h0, peer.position, peer.share_key, peer.mask_key, committed)
    return replace(peer, signature=signer.sign(text))


def test_unsigned_and_wrongly_signed_keys_are_refused(fleet: Fleet) -> None:
    first, *rest = peers(fleet)
    fresh = key_of("agreement of the server").public
    other_round = fleet.server._closed.h1
    for bad in (
        replace(first, signature=bytes(64)),
        replace(first, mask_key=fresh),
        replace(first, share_key=fresh),
        replace(first, share_key=first.mask_key, mask_key=first.share_key),
        resigned(fleet, replace(first, mask_key=fresh), key_of("server")),
        resigned(fleet, first, fleet.keys[rest[0].position]),
        resigned(fleet, first, fleet.keys[first.position], h0=other_round),
        replace(first, revealed=bytes(16)),
    ):
        with refused(PeerKeyError):
            tell_peers(fleet, [bad, *rest])


def test_repeated_keys_are_refused_even_when_signed(fleet: Fleet) -> None:
    first, second, *rest = peers(fleet)
    own = fleet.server._adverts[VICTIM]
    for change in (
        {"mask_key": first.share_key},
        {"mask_key": second.mask_key},
        {"share_key": second.mask_key},
        {"mask_key": own.mask_key},
        {"share_key": own.mask_key},
    ):
        bad = resigned(fleet, replace(first, **change), fleet.keys[first.position])
        with refused(PeerKeyError):
            tell_peers(fleet, [bad, second, *rest])


def test_keys_of_low_order_are_refused(fleet: Fleet) -> None:
    records = peers(fleet)
    chosen = fleet.server._chosen[VICTIM]
    at = next(place for place, peer in enumerate(records) if peer.position in chosen)
    bad = resigned(fleet, replace(records[at], share_key=bytes(32)), fleet.keys[records[at].position])
    with refused(PeerKeyError):
        tell_peers(fleet, [*records[:at], bad, *records[at + 1 :]])
    bad = resigned(fleet, replace(records[at], mask_key=bytes(32)), fleet.keys[records[at].position])
    device = fleet.before["shares", VICTIM].shares(encode_peers([*records[:at], bad, *records[at + 1 :]]))
    with refused(PeerKeyError):
        device.round.input(heard(fleet, "input"), np.zeros(4, dtype=np.uint32))


def test_a_graph_that_does_not_follow_from_the_adverts_is_refused(fleet: Fleet) -> None:
    records = peers(fleet)
    known = {peer.position for peer in records}
    chosen = set(fleet.server._chosen[VICTIM])
    stranger = next(at for at in range(N) if at not in known and at != VICTIM)
    # A stranger in the place of one who is only a chooser, so that the places suffice.
    kept = records[:-1] if len(records) == fleet.server.found.neighbours + fleet.server.found.extra else records
    with refused(GraphError):
        tell_peers(fleet, sorted([*kept, fleet.server._record(stranger)], key=lambda peer: peer.position))
    me = resigned(
        fleet,
        replace(fleet.server._record(VICTIM), share_key=key_of("a").public, mask_key=key_of("b").public),
        fleet.keys[VICTIM],
    )
    with refused(GraphError):
        tell_peers(fleet, sorted([*kept, me], key=lambda peer: peer.position))
    allowed = fleet.server.found.early
    dropped = sorted(chosen)[: allowed + 1]
    with refused(GraphError):
        tell_peers(fleet, [peer for peer in records if peer.position not in dropped])
    assert tell_peers(fleet, [peer for peer in records if peer.position not in dropped[1:]])


def test_more_choosers_than_an_answer_has_places_for_are_refused(fleet: Fleet) -> None:
    """Colluders can all choose one device. It leaves; what it would have answered had no room for all of them."""
    state, found = fleet.before["shares", VICTIM]._state, fleet.server.found
    for room, refuses in (
        (len(fleet.server._choosers[VICTIM]), False),
        (len(fleet.server._choosers[VICTIM]) - 1, True),
    ):
        tight = replace(state, found=replace(found, choosers=room).encode())
        device = DeviceRound(tight, fleet.roster, fleet.policy, fleet.keys[VICTIM])
        with refused(GraphError) if refuses else nullcontext():
            device.shares(heard(fleet, "shares"))


# The sharers


def shown(fleet: Fleet) -> tuple[bytes, list[tuple[int, bytes]]]:
    bitmap, sealed = decode_forwarded(heard(fleet, "input"), fleet.server.found)
    return bitmap, list(sealed)


def test_sharers_without_this_device_or_too_few_are_refused(fleet: Fleet) -> None:
    bitmap, sealed = shown(fleet)
    found = fleet.server.found
    everyone = range(N)
    without = encode_bitmap([at for at in everyone if at != VICTIM], N)
    few = encode_bitmap([VICTIM, *[at for at in everyone if at != VICTIM][: N - found.early - 2]], N)
    for lie in (without, few):
        with refused(SurvivorError):
            tell(fleet, "input", encode_forwarded(lie, sealed))
    assert tell(fleet, "input", encode_forwarded(bitmap, sealed))


def test_a_neighbour_that_shared_but_whose_keys_were_withheld_is_refused(fleet: Fleet) -> None:
    records = peers(fleet)
    hidden = next(peer for peer in records if peer.position in fleet.server._chosen[VICTIM])
    device = fleet.before["shares", VICTIM].shares(encode_peers([peer for peer in records if peer is not hidden]))
    _, sealed = shown(fleet)
    message = encode_forwarded(encode_bitmap(range(N), N), [row for row in sealed if row[0] != hidden.position])
    with refused(SurvivorError):
        device.round.input(message, np.zeros(4, dtype=np.uint32))


def test_a_share_of_a_stranger_is_refused(fleet: Fleet) -> None:
    bitmap, sealed = shown(fleet)
    choosers = {at for at, _ in sealed}
    stranger = next(at for at in range(N) if at not in choosers)
    with refused(GraphError):
        tell(fleet, "input", encode_forwarded(bitmap, sorted([*sealed, (stranger, bytes(81))])))


def test_too_few_neighbours_among_the_sharers_are_refused() -> None:
    fleet = Fleet(rows=100, terms=Terms(dimension=1, early=350, dropout=0, colluding=100))
    cohort = Cohort(fleet.announcement, fleet.roster, encode_bitmap(range(100), 100))
    chosen, t = cohort.arcs(VICTIM, bytes(16)), cohort.found.threshold
    near = Neighbourhood(chosen=chosen, choosers=())
    for left, refuses in ((t, False), (t - 1, True)):
        sharers = set(range(100)) - set(chosen[left:])
        assert len(sharers) >= 100 - cohort.found.early  # Enough of them, were it not for who they are.
        with refused(SurvivorError) if refuses else nullcontext():
            check_sharers(cohort, VICTIM, sharers, near, chosen)


@pytest.mark.parametrize("lie", [False, True])
def test_masks_cancel_only_between_devices_that_were_shown_the_same_sharers(lie: bool) -> None:
    """Given every b, the server has the sum if all saw the same, and else neither that of all nor that of the rest."""
    fleet = Fleet(rows=N, terms=TERMS)
    vectors = np.arange(N * 4, dtype=np.uint32).reshape(N, 4)
    fleet.until("shares", vectors)
    found, closed = fleet.server.found, fleet.server._closed
    without_own_masks = {}
    near = {*fleet.server._chosen[VICTIM], *fleet.server._choosers[VICTIM], VICTIM}
    hidden = next(at for at in range(N) if at not in near)  # Nobody whom the victim masks with, so all masks are there.
    for index in range(N):
        message = fleet.server.forwarded(index)
        bitmap, sealed = decode_forwarded(message, found)
        if index == VICTIM and lie:
            bitmap = encode_bitmap([at for at in range(N) if at != hidden], N)
            message = encode_forwarded(bitmap, sealed)
        total = MaskedSum(4)
        total.add(decode_input(fleet.devices[index].input(message, vectors[index]).reply, 4)[0])
        secret = _Keys(seed_of(index), closed.h0).self_secret(closed.h1)
        total.mask(self_mask_key(secret, closed.h2(bitmap), index), -1)
        without_own_masks[index] = total.values
    for members in (range(N), [at for at in range(N) if at != VICTIM], [VICTIM]):
        got = sum((without_own_masks[at] for at in members), np.zeros(4, np.uint32))
        assert (got == vectors[members].sum(axis=0, dtype=np.uint32)).all() == (len(members) == N and not lie)


# The survivors


def survivors_of(fleet: Fleet, *, without: Sequence[int] = (), extra: Sequence[int] = ()) -> bytes:
    present = fleet.server._closed.decode(fleet.server._survivors)
    return framed(5, encode_bitmap(sorted({*present, *extra} - set(without)), N))


def test_a_peer_listed_as_dropped_that_is_alive_refuses(fleet: Fleet) -> None:
    with refused(SurvivorError):
        tell(fleet, "agree", survivors_of(fleet, without=[VICTIM]))


def test_survivors_below_the_least_are_refused(fleet: Fleet) -> None:
    present = fleet.server._closed.decode(fleet.server._survivors)
    others = [at for at in present if at != VICTIM]
    least = fleet.server.found.survivors
    assert tell(fleet, "agree", survivors_of(fleet, without=others[: len(present) - least]))
    with refused(SurvivorError):
        tell(fleet, "agree", survivors_of(fleet, without=others[: len(present) - least + 1]))


def test_a_survivor_that_never_shared_is_refused() -> None:
    fleet = Fleet(rows=N, terms=TERMS, gone={2: "shares"})
    fleet.until("input", np.zeros((N, 4), dtype=np.uint32))
    present = fleet.server._closed.decode(fleet.server._survivors)
    with refused(SurvivorError):
        fleet.devices[VICTIM].agree(framed(5, encode_bitmap(sorted({*present, 2}), N)))


def test_a_device_agrees_to_one_survivor_set_only(fleet: Fleet) -> None:
    with refused(ReplayError):
        fleet.before["unmask", VICTIM].agree(survivors_of(fleet, without=[9]))


# The signatures


def signers(fleet: Fleet) -> tuple[list[int], list[bytes]]:
    bitmap, signatures, _ = decode_signers(heard(fleet, "unmask"), fleet.server.found)
    return list(fleet.server._closed.decode(bitmap)), list(signatures)


def tell_signers(fleet: Fleet, who: Sequence[int], signatures: Sequence[bytes]) -> bytes:
    return tell(fleet, "unmask", told_signers(fleet, who, signatures))


def told_signers(fleet: Fleet, who: Sequence[int], signatures: Sequence[bytes]) -> bytes:
    """The victim's message of this stage with these signatures of H3."""
    server = fleet.server
    owing = [at for at in server._held_by(VICTIM) if at in server._commitments and at not in who]
    return encode_signers(encode_bitmap(who, N), signatures, [server._input_signatures[at] for at in owing])


def test_too_few_wrong_and_foreign_signatures_are_refused(fleet: Fleet) -> None:
    who, signatures = signers(fleet)
    found = fleet.server.found
    closed = fleet.server._closed
    other = closed.h3(fleet.server._sharers, encode_bitmap(range(N), N))
    dropped = 0
    right = agreement_text(closed.h3(fleet.server._sharers, fleet.server._survivors))
    assert tell_signers(fleet, who, signatures)
    for members, texts in (
        (who[:-1], [*signatures[:-1], bytes(64)]),
        (who, [*signatures[:-1], bytes(64)]),
        (who, [*signatures[:-1], signatures[0]]),
        (who, [*signatures[:-1], fleet.keys[who[-1]].sign(agreement_text(other))]),
        (who, [*signatures[:-1], key_of("server").sign(right)]),
        (sorted([dropped, *who[1:]]), [fleet.keys[dropped].sign(right), *signatures[1:]]),
    ):
        assert len(texts) == found.quorum
        with refused(SurvivorError):
            tell_signers(fleet, members, texts)


def test_no_two_survivor_sets_reach_a_quorum_even_with_the_colluders() -> None:
    """The server tells half of the devices that the victim is alive, the other half that it dropped."""
    fleet = Fleet(rows=N, terms=TERMS)
    fleet.until("input", np.zeros((N, 4), dtype=np.uint32))
    found, closed = fleet.server.found, fleet.server._closed
    colluding = range(N - found.colluding, N)
    honest = [index for index in range(N) if index not in colluding and index != VICTIM]
    alive, dropped = encode_bitmap(range(N), N), encode_bitmap([at for at in range(N) if at != VICTIM], N)
    votes: dict[bytes, dict[int, bytes]] = {alive: {}, dropped: {}}
    agreed: dict[int, DeviceRound] = {}
    for index, said in zip([*honest, VICTIM], itertools.cycle((alive, dropped)), strict=False):
        said = alive if index == VICTIM else said
        answer = fleet.devices[index].agree(framed(5, said))
        agreed[index] = answer.round
        votes[said][index] = answer.reply[2:]
    for said, texts in votes.items():
        h3 = closed.h3(fleet.server._sharers, said)
        texts.update({index: fleet.keys[index].sign(agreement_text(h3)) for index in colluding})
    assert min(len(texts) for texts in votes.values()) < found.quorum
    for said, texts in votes.items():
        if len(texts) >= found.quorum:
            continue
        # Filled up with what the other half signed, or with nothing.
        rest = {index: bytes(64) for index in range(N) if index not in texts and index in closed.decode(said)}
        filled = dict(sorted([*texts.items(), *rest.items()])[: found.quorum])
        for index in set(texts) - set(colluding):
            owing = [at for at in fleet.server._held_by(index) if at in closed.decode(said) and at not in filled]
            inputs = [fleet.server._input_signatures[at] for at in owing]
            message = encode_signers(encode_bitmap(filled, N), [filled[at] for at in sorted(filled)], inputs)
            with refused(SurvivorError):
                agreed[index].unmask(message)


def test_b_is_opened_only_with_its_owner_s_word_for_the_sharers(fleet: Fleet) -> None:
    """Who chose the device either is among the signers of H3, or its input's signature of H2 has to be there."""
    server = fleet.server
    who, _ = signers(fleet)
    alive = [at for at in server._held_by(VICTIM) if at in server._commitments]
    agreed = set(alive) & set(server._signatures)
    assert len(agreed & set(who)) == min(len(agreed), server.found.quorum)  # As few signatures of H2 as can be.
    right = agreement_text(server._closed.h3(server._sharers, server._survivors))
    others = [at for at in server._closed.decode(server._survivors) if at not in alive]
    few = sorted([*others, *alive][: server.found.quorum])
    owing = [at for at in alive if at not in few]
    assert owing
    message = told_signers(fleet, few, [fleet.keys[at].sign(right) for at in few])
    assert tell(fleet, "unmask", message)
    head, inputs = message[: -64 * len(owing)], [server._input_signatures[at] for at in owing]
    for bad in (
        inputs[:-1],
        [*inputs[:-1], bytes(64)],
        [*inputs[:-1], fleet.keys[owing[-1]].sign(right)],
        [*inputs, server._input_signatures[few[0]]],
    ):
        with refused(SurvivorError):
            tell(fleet, "unmask", head + b"".join(bad))


def test_a_second_unmasking_is_refused(fleet: Fleet) -> None:
    who, signatures = signers(fleet)
    spare = next(at for at in fleet.server._closed.decode(fleet.server._survivors) if at not in who)
    right = agreement_text(fleet.server._closed.h3(fleet.server._sharers, fleet.server._survivors))
    others = dict(zip([*who[:-1], spare], [*signatures[:-1], fleet.keys[spare].sign(right)], strict=True))
    message = told_signers(fleet, sorted(others), [others[at] for at in sorted(others)])
    assert tell(fleet, "unmask", message)  # As a first one it is sound.
    with refused(ReplayError):
        fleet.devices[VICTIM].unmask(message)
    assert fleet.devices[VICTIM].unmask(heard(fleet, "unmask")).reply == fleet.sent["unmask", VICTIM][1]


# Every stage


@pytest.mark.parametrize("stage", STAGES)
def test_messages_of_wrong_size_version_or_kind_are_refused(fleet: Fleet, stage: str) -> None:
    message = heard(fleet, stage)
    for bad in (b"", message[:-1], message + b"\0", bytes((2,)) + message[1:], message[:1] + b"\x63" + message[2:]):
        with refused(WireError):
            tell(fleet, stage, bad)
    announcement = fleet.announcement.encode()
    for bad in (announcement[:-1], announcement + b"\0", b"\2" + announcement[1:]):
        with refused(WireError):
            Announcement.decode(bad)


@pytest.mark.parametrize("stage", ["reveal", "input", "agree", "unmask"])
def test_bits_beyond_the_end_of_a_bitmap_are_refused(fleet: Fleet, stage: str) -> None:
    message = bytearray(heard(fleet, stage))
    message[2 + (N + 7) // 8 - 1] |= 0x80  # N = 26: bit 31.
    with refused(WireError):
        tell(fleet, stage, bytes(message))


def test_lists_out_of_order_too_long_or_cut_are_refused(fleet: Fleet) -> None:
    records = peers(fleet)
    with refused(WireError):
        tell_peers(fleet, [records[1], records[0], *records[2:]])
    with refused(WireError):
        tell_peers(fleet, [records[0], records[0], *records[2:]])
    with refused(WireError):
        tell_peers(fleet, [*records[:-1], replace(records[-1], position=N)])
    bitmap, sealed = shown(fleet)
    found = fleet.server.found
    for message in (heard(fleet, "input")[:-1], heard(fleet, "input") + bytes(1)):
        with refused(WireError):
            tell(fleet, "input", message)
    assert encode_forwarded(bitmap, sealed) == heard(fleet, "input")
    with refused(WireError):
        decode_forwarded(heard(fleet, "input"), replace(found, choosers=len(sealed) - 1))
    with refused(WireError):
        decode_peers(heard(fleet, "shares"), replace(found, extra=len(records) - 1 - found.neighbours))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_answered_in_its_turn_and_to_one_message_only(fleet: Fleet, stage: str) -> None:
    message = heard(fleet, stage)
    rest = (np.zeros(4, dtype=np.uint32),) if stage == "input" else ()
    at = STAGES.index(stage)
    if at:
        with refused(ReplayError):
            getattr(fleet.before[STAGES[at - 1], VICTIM], stage)(message, *rest)
    after = getattr(fleet.before[stage, VICTIM], stage)(message, *rest).round
    with refused(ReplayError):
        getattr(after, stage)(message[:-1] + bytes((message[-1] ^ 1,)), *rest)
    if at + 2 < len(STAGES):
        with refused(ReplayError):
            getattr(fleet.before[STAGES[at + 2], VICTIM], stage)(message, *rest)


def test_two_announcements_split_the_cohort_into_devices_that_refuse_each_other() -> None:
    """Another model for some devices (Pasquini et al. 2022): their adverts are signed for another round."""
    other = replace(Fleet(rows=N, terms=TERMS).announcement, model_hash=bytes(32))
    fleet = Fleet(rows=N, terms=TERMS)
    message = fleet.adverts()
    started = DeviceRound._start(
        other.encode(), bytes(32), fleet.roster, fleet.policy, History(), fleet.keys[VICTIM], seed_of(VICTIM)
    )
    fleet.devices[VICTIM] = started.round
    for index in range(N):
        fleet.ask("reveal", index, message)
        if index != VICTIM:
            fleet.server.reveal(index, fleet.sent["reveal", index][1])
    fleet.server._revealed[VICTIM] = fleet.sent["reveal", VICTIM][1][6:]
    fleet.server._adverts[VICTIM] = type(fleet.server._adverts[VICTIM]).decode(started.reply)
    fleet.server.close_reveals()
    refusals = 0
    for index in range(N):
        try:
            fleet.devices[index].shares(fleet.server.peers(index))
        except PeerKeyError:
            refusals += 1
    near = {*fleet.server._chosen[VICTIM], *fleet.server._choosers[VICTIM]}
    assert refusals == len(near) + 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(STAGES), st.data())
def test_changed_bytes_are_refused_or_answered_but_never_crash(fleet: Fleet, stage: str, data: st.DataObject) -> None:
    for side in (0, 1):
        message = bytearray(fleet.sent[stage, VICTIM][side])
        for _ in range(data.draw(st.integers(1, 3))):
            message[data.draw(st.integers(0, len(message) - 1))] ^= data.draw(st.integers(1, 255))
        with suppress(SecAggError):
            if side == 0:
                tell(fleet, stage, bytes(message))
            else:
                decode_reply(fleet, stage, bytes(message))


def decode_reply(fleet: Fleet, stage: str, reply: bytes) -> None:
    """As the server reads a device's answer."""
    found = fleet.server.found
    readers = {
        "reveal": RevealMessage.decode,
        "shares": lambda text: decode_shares(text, found),
        "input": lambda text: decode_input(text, 4),
        "agree": lambda text: body(text, AGREEMENT, 64),
        "unmask": lambda text: decode_unmask(text, found),
    }
    readers[stage](reply)


def test_a_vector_of_another_shape_or_type_is_refused(fleet: Fleet) -> None:
    device = fleet.before["input", VICTIM]
    for vector in (np.zeros(5, np.uint32), np.zeros(4, np.int64), np.zeros((4, 1), np.uint32), np.zeros(4, np.float32)):
        with pytest.raises(ValueError, match="Expected a vector"):
            device.input(heard(fleet, "input"), vector)  # type: ignore[arg-type]


# Different sharers to one device: its input would come out alone


def test_b_of_a_device_that_was_told_other_sharers_is_not_opened() -> None:
    """The victim masks without neighbours who are alive; b would uncover what it masked with the dropped alone."""
    rows, victim = 40, 0
    terms = Terms(dimension=4)
    fleet = Fleet(rows=rows, terms=terms)
    vectors = np.arange(rows * 4, dtype=np.uint32).reshape(rows, 4)
    fleet.until("shares", vectors)
    server, found, closed = fleet.server, fleet.server.found, fleet.server._closed
    hidden = [at for at in server._chosen[victim] if at not in server._choosers[victim]][: found.early]
    assert hidden
    apart = encode_bitmap([at for at in range(rows) if at not in hidden], rows)
    bitmap, sealed = decode_forwarded(server.forwarded(victim), found)
    near = encode_forwarded(apart, [row for row in sealed if row[0] not in hidden])
    masked = fleet.devices[victim].input(near, vectors[victim]).reply
    with refused(PeerKeyError):  # An honest server does not count what was masked with others.
        server.input(victim, masked)
    signature = decode_input(masked, 4)[2]
    for index in range(1, rows):
        server.input(index, fleet.ask("input", index, server.forwarded(index), vectors[index]))
    # A server that lies says to the others that it was, and shows the only signature that it has.
    server._commitments[victim], server._input_signatures[victim] = bytes(32), signature
    message = server.close_inputs()
    for index in range(1, rows):
        server.agreement(index, fleet.ask("agree", index, message))
    server.close_agreements()
    holders = [at for at in server._chosen[victim] if at != victim]
    for index in range(1, rows):
        told = server.signers(index)
        if index in holders:
            with refused(SurvivorError):
                fleet.devices[index].unmask(told)
        else:
            assert fleet.devices[index].unmask(told)
    assert bitmap != apart
    assert closed.decode(apart) != closed.decode(bitmap)
