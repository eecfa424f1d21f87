"""Whole rounds: sums are exact for all dropouts that were promised, fail clean beyond, resume to the same bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_fleet import MODEL, STAGES, Fleet

from federation.secagg import (
    DeviceRound,
    History,
    ReplayError,
    SecAggError,
    SurvivorError,
    Terms,
    UnmaskError,
    WireError,
    parameters,
    sizes,
)


def vectors_of(rows: int, dimension: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**32, (rows, dimension), dtype=np.uint32)


def oracle(vectors: np.ndarray, indices: tuple[int, ...]) -> list[int]:
    """The sum in whole numbers, for reading."""
    return [sum(int(vectors[index, column]) for index in indices) % 2**32 for column in range(vectors.shape[1])]


SIZES = st.sampled_from([10, 13, 15, 20])


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_sum_is_exact_for_any_promised_dropouts(data: st.DataObject) -> None:
    n = data.draw(SIZES)
    dimension = data.draw(st.integers(1, 40))
    found = parameters(n, 0.3, 0.1)
    spare = data.draw(st.integers(0, 3))
    members = sorted(data.draw(st.permutations(range(n + spare)))[:n])
    lost = data.draw(st.integers(0, found.lost))
    who = data.draw(st.permutations(members))[:lost]
    stages = [data.draw(st.sampled_from(STAGES if at < found.early else STAGES[2:])) for at in range(lost)]
    fleet = Fleet(
        rows=n + spare, terms=Terms(dimension=dimension), members=members, gone=dict(zip(who, stages, strict=True))
    )
    vectors = vectors_of(n + spare, dimension, seed=n)
    total = fleet.run(vectors)
    sent_input = tuple(index for index in members if index not in fleet.gone or fleet.gone[index] in STAGES[3:])
    assert fleet.server.survivors == sent_input
    assert total.dtype == np.uint32
    assert total.tolist() == oracle(vectors, sent_input)


@pytest.mark.parametrize("stage", STAGES[2:])
def test_sum_is_exact_when_all_promised_dropouts_come_at_one_stage(stage: str) -> None:
    found = parameters(25, 0.3, 0.1)
    gone = dict.fromkeys(range(found.lost), stage)
    fleet = Fleet(rows=25, terms=Terms(dimension=3), gone=gone)
    vectors = vectors_of(25, 3)
    assert fleet.run(vectors).tolist() == oracle(vectors, fleet.server.survivors)


@pytest.mark.slow
def test_sum_of_a_large_cohort_with_dropouts_at_all_stages_is_exact() -> None:
    n = 150
    found = parameters(n, 0.3, 0.1)
    early = {index: ("reveal", "shares")[index % 2] for index in range(found.early)}
    late = {index: STAGES[2 + index % 3] for index in range(found.early, found.lost)}
    fleet = Fleet(rows=n, terms=Terms(dimension=1000), gone={**early, **late})
    vectors = vectors_of(n, 1000)
    want = vectors[fleet.here("input")].sum(axis=0, dtype=np.uint32)
    assert (fleet.run(vectors) == want).all()


def test_sum_over_the_complete_graph_is_exact() -> None:
    terms = Terms(dimension=5, dropout=50, early=0, colluding=850)
    fleet = Fleet(rows=20, terms=terms, gone={4: "input"})
    vectors = vectors_of(20, 5)
    assert fleet.run(vectors).tolist() == oracle(vectors, fleet.server.survivors)
    assert fleet.server.found.complete


@pytest.mark.parametrize("stage", STAGES)
def test_one_dropout_too_many_fails_clean(stage: str) -> None:
    found = parameters(20, 0.3, 0.1)
    allowed = found.early if stage in ("reveal", "shares") else found.lost
    # Beyond `lost`, agreement still has its quorum; unmasking fails only once a secret has too few holders.
    beyond = {"agree": 20 - found.quorum, "unmask": 20 - found.threshold}.get(stage, allowed)
    fleet = Fleet(rows=20, terms=Terms(dimension=2), gone=dict.fromkeys(range(beyond + 1), stage))
    with pytest.raises(UnmaskError if stage == "unmask" else SurvivorError) as caught:
        fleet.run(vectors_of(20, 2))
    assert "\n" not in str(caught.value)


def test_a_masked_input_says_nothing_that_its_seed_does_not() -> None:
    """Equal vectors from two devices, and zero vectors, leave as numbers that look uniform."""
    fleet = Fleet(rows=10, terms=Terms(dimension=4000))
    fleet.until("input", np.zeros((10, 4000), dtype=np.uint32))
    masked = [np.frombuffer(fleet.sent["input", index][1][2:-32], dtype="<u4") for index in range(10)]
    for words in masked:
        bits = np.unpackbits(words.view(np.uint8)).mean()
        assert abs(bits - 0.5) < 0.01  # Seven standard deviations of 128,000 fair bits.
    assert len({words.tobytes() for words in masked}) == 10


def test_a_crash_before_or_after_any_answer_gives_the_same_bytes() -> None:
    plain = Fleet(rows=12 + 1, terms=Terms(dimension=6))
    vectors = vectors_of(13, 6)
    want = plain.run(vectors)
    revived: list[str] = []

    def afresh(device: DeviceRound, index: int) -> DeviceRound:
        revived.append(device.stage)
        again = Fleet(rows=13, terms=Terms(dimension=6))
        return DeviceRound.from_bytes(
            device.to_bytes(), roster=again.roster, policy=again.policy, identity=again.keys[index]
        )

    crashing = Fleet(rows=13, terms=Terms(dimension=6), through=afresh)
    assert (crashing.run(vectors) == want).all()
    assert set(revived) == {"advert", *STAGES}
    assert crashing.sent == plain.sent
    for (stage, index), (message, reply) in plain.sent.items():
        before = afresh(crashing.before[stage, index], index)  # Crashed before the answer was kept.
        rest = (vectors[index],) if stage == "input" else ()
        answer = getattr(before, stage)(message, *rest)
        assert answer.reply == reply
        kept = afresh(answer.round, index)  # Crashed once it was kept, before or after it left.
        other = (vectors[index] + 1,) if stage == "input" else ()
        assert getattr(kept, stage)(message, *other).reply == reply
    assert afresh(crashing.before["reveal", 0], 0).advert(plain.announcement.encode()).reply


def test_two_rounds_of_a_device_share_no_randomness() -> None:
    fleet = Fleet(rows=10, terms=Terms(dimension=2))
    starts = [
        DeviceRound.start(
            fleet.announcement.encode(),
            model_hash=MODEL,
            roster=fleet.roster,
            policy=fleet.policy,
            history=History(),
            identity=fleet.keys[0],
        ).reply
        for _ in range(2)
    ]
    assert starts[0] != starts[1]


def test_secrets_leave_the_state_when_they_are_used() -> None:
    fleet = Fleet(rows=12 + 2, terms=Terms(dimension=2))
    fleet.run(vectors_of(14, 2))
    for index in range(14):
        seed = fleet.before["input", index]._state.seed
        assert seed
        assert seed not in fleet.before["agree", index].to_bytes()
        held = fleet.before["unmask", index]._state.held
        assert held
        assert fleet.devices[index]._state.held == b""


def unsigned(fleet: Fleet, index: int) -> int:
    """How many of those that chose a device survived and did not sign the survivors, or for want of places."""
    server = fleet.server
    alive = [at for at in server._held_by(index) if at in server._commitments]
    return len(alive) - min(len(set(alive) & set(server._signatures)), server.found.quorum)


def test_every_message_has_the_size_that_public_numbers_give() -> None:
    n, dimension = 16, 7
    quiet = Fleet(rows=19, terms=Terms(dimension=dimension), members=range(16))
    lossy = Fleet(
        rows=19, terms=Terms(dimension=dimension), members=range(16), gone={3: "shares", 4: "input", 5: "agree"}
    )
    found = parameters(n, 0.3, 0.1)
    most = sizes(found, roster=19, dimension=dimension)
    for fleet, vectors in ((quiet, vectors_of(19, dimension)), (lossy, np.zeros((19, dimension), dtype=np.uint32))):
        fleet.run(vectors)
        for (stage, index), (message, reply) in fleet.sent.items():
            peers = fleet.server._choosers[index] + [
                at for at in fleet.server._chosen[index] if at in fleet.server._revealed
            ]
            want = sizes(
                found,
                roster=19,
                dimension=dimension,
                peers=len(set(peers)),
                held=len(fleet.server._held_by(index)),
                unsigned=unsigned(fleet, index) if stage == "unmask" else 0,
            )
            assert (len(message), len(reply)) == want[stage]
            assert len(message) <= most[stage][0]
            assert len(reply) == most[stage][1]  # What a device sends is as long whoever its neighbours are.
    assert (len(quiet.announcement.encode()), len(quiet.start(0))) == want["advert"]


def test_server_refuses_second_and_stray_answers() -> None:
    fleet = Fleet(rows=12 + 1, terms=Terms(dimension=2), gone={0: "input"})
    vectors = vectors_of(13, 2)
    fleet.until("input", vectors)
    server = fleet.server
    with pytest.raises(ReplayError):
        server.input(1, fleet.sent["input", 1][1])
    with pytest.raises(ReplayError):
        server.shares(1, fleet.sent["shares", 1][1])
    for index in fleet.here("agree"):
        answer = fleet.devices[index].agree(b"\x01\x05" + server._survivors)
        server.agreement(index, answer.reply)
        fleet.devices[index] = answer.round
    with pytest.raises(ReplayError):
        server.agreement(0, answer.reply)
    with pytest.raises(SecAggError):
        server.agreement(1, answer.reply)  # Another device's signature.
    server.close_agreements()
    reply = fleet.devices[1].unmask(server.signers(1)).reply
    with pytest.raises(WireError):
        server.unmask(1, reply[:-1])
    kinds = bytearray(reply)
    kinds[2] = 3 - kinds[2]
    with pytest.raises(WireError):
        server.unmask(1, bytes(kinds))
    server.unmask(1, reply)
    with pytest.raises(ReplayError):
        server.unmask(1, reply)


def test_wrong_shares_are_noticed_and_too_few_can_be_waited_for() -> None:
    fleet = Fleet(rows=10, terms=Terms(dimension=2), gone={0: "input"})
    vectors = vectors_of(10, 2)
    fleet.until("agree", vectors)
    for index in range(1, 10):
        with pytest.raises(UnmaskError):
            fleet.server.sum()
        reply = bytearray(fleet.ask("unmask", index, fleet.server.signers(index)))
        if index == 1:
            honest = bytes(reply)
            reply[20] ^= 1  # In the first share.
        fleet.server.unmask(index, bytes(reply))
    with pytest.raises(UnmaskError, match="wrong"):
        fleet.server.sum()
    fleet.server._heard.discard(1)
    fleet.server.unmask(1, honest)
    assert fleet.server.sum().tolist() == oracle(vectors, tuple(range(1, 10)))
