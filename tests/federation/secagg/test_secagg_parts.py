"""The parts: Shamir's sharing, arcs, masks, keys, sealed shares, the codec, the stored state; and golden vectors."""

from __future__ import annotations

import copy
import hashlib
import hmac
import json
import pickle
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_fleet import STAGES, Fleet, key_of

from federation.secagg import (
    DeviceRound,
    History,
    PeerKeyError,
    Roster,
    SigningKey,
    StateError,
    Terms,
    WireError,
)
from federation.secagg.binding import advert_text, agreement_text, commitment, round_hash, secret_commitment
from federation.secagg.cohort import Cohort
from federation.secagg.device import _Keys
from federation.secagg.graph import arcs
from federation.secagg.keys import AgreementKey, derive_key, verify
from federation.secagg.masks import MaskedSum, pair_mask_key, self_mask_key
from federation.secagg.messages import decode_bitmap, encode_bitmap
from federation.secagg.shamir import PRIME, _split, combine, split
from federation.secagg.sharing import make_shares, open_share, seal_share

VECTORS = Path(__file__).parents[2] / "vectors" / "secagg1.json"
FIELD = st.one_of(st.integers(0, PRIME - 1), st.sampled_from([0, 1, PRIME - 1, 2**254]))


# Shamir


@settings(max_examples=60, deadline=None)
@given(FIELD, st.integers(1, 12), st.data())
def test_any_t_shares_give_the_secret(secret: int, threshold: int, data: st.DataObject) -> None:
    points = data.draw(st.lists(st.integers(1, 40), min_size=threshold, max_size=20, unique=True))
    shares = dict(zip(points, split(secret, points, threshold=threshold), strict=True))
    kept = data.draw(st.permutations(points))[:threshold]
    assert combine({point: shares[point] for point in kept}, threshold=threshold) == secret
    assert combine(shares, threshold=threshold) == secret


@settings(max_examples=60, deadline=None)
@given(FIELD, st.lists(FIELD, max_size=8), st.lists(st.integers(1, 2**20), min_size=1, max_size=8, unique=True))
def test_shares_are_values_of_the_polynomial(secret: int, coefficients: list[int], points: list[int]) -> None:
    want = [(secret + sum(c * point**power for power, c in enumerate(coefficients, 1))) % PRIME for point in points]
    assert _split(secret, points, coefficients) == want


def test_shares_of_one_secret_differ_each_time_and_fewer_than_t_are_refused() -> None:
    first, second = (split(5, [1, 2, 3], threshold=2) for _ in range(2))
    assert first != second
    with pytest.raises(ValueError, match="Expected 2 shares"):
        combine({1: first[0]}, threshold=2)


@pytest.mark.parametrize(("secret", "points"), [(-1, [1]), (PRIME, [1]), (1, [0]), (1, [1, 1]), (1, [PRIME])])
def test_secrets_and_points_outside_the_field_are_refused(secret: int, points: list[int]) -> None:
    with pytest.raises(ValueError, match="Expected"):
        split(secret, points, threshold=2)


def test_the_field_is_prime_and_takes_every_clamped_key() -> None:
    for base in (2, 3, 5, 7, 11, 13):  # Miller-Rabin; the primality of 2^255 − 19 is well known.
        odd, twos = PRIME - 1, 0
        while odd % 2 == 0:
            odd, twos = odd // 2, twos + 1
        powers = [pow(base, odd << shift, PRIME) for shift in range(twos)]
        assert powers[0] == 1 or PRIME - 1 in powers
    assert int.from_bytes(AgreementKey(b"\xe8" + b"\xff" * 31).private_bytes(), "little") < PRIME


# Arcs


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.binary(min_size=16, max_size=16), st.data())
def test_arcs_are_distinct_others_and_follow_from_hash_position_and_r(n: int, r: bytes, data: st.DataObject) -> None:
    k, position = data.draw(st.integers(1, n - 1)), data.draw(st.integers(0, n - 1))
    drawn = arcs(bytes(32), position=position, revealed=r, devices=n, neighbours=k)
    assert len(set(drawn)) == k
    assert set(drawn) <= set(range(n)) - {position}
    assert list(drawn) == sorted(drawn)
    assert drawn == arcs(bytes(32), position=position, revealed=r, devices=n, neighbours=k)


def test_arcs_are_uniform_over_all_subsets() -> None:
    rounds = 6000
    counts = Counter(
        arcs(bytes(32), position=2, revealed=struct.pack("<QQ", at, 0), devices=6, neighbours=3) for at in range(rounds)
    )
    assert len(counts) == 10
    expected = rounds / 10
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 33.7  # χ², 9 degrees, 1 in 10,000.


# Masks and keys


def test_mask_is_the_counter_mode_stream_of_aes_256() -> None:
    total = MaskedSum(8)
    total.mask(bytes(32), +1)
    # AES-256 of zero under the zero key (NIST's known answer), then of one.
    assert total.values.astype("<u4").tobytes()[:16].hex() == "dc95c078a2408989ad48a21492842087"
    total.mask(bytes(32), -1)
    assert not total.values.any()


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=1, max_size=40), st.binary(max_size=40), st.binary(max_size=8), st.integers(1, 100))
def test_derived_keys_are_hkdf_as_rfc_5869_writes_it(secret: bytes, salt: bytes, info: bytes, size: int) -> None:
    def mac(key: bytes, text: bytes) -> bytes:
        return hmac.new(key, text, hashlib.sha256).digest()

    extracted, stream, block = mac(salt or bytes(32), secret), b"", b""
    for counter in range(1, 5):
        block = mac(extracted, block + b"tacit/secagg/1/mask\0" + info + bytes((counter,)))
        stream += block
    assert derive_key(secret, "mask", salt=salt, info=info, size=size) == stream[:size]


def test_agreement_is_x25519_of_rfc_7748() -> None:
    nine = b"\x09" + bytes(31)
    first = "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"  # Section 5.2, after one iteration.
    assert AgreementKey(nine).agree(nine).hex() == first
    assert AgreementKey(nine).public.hex() == first
    one, other = AgreementKey(b"1" * 32), AgreementKey(b"2" * 32)
    assert one.agree(other.public) == other.agree(one.public)
    for low in (bytes(32), b"\1" + bytes(31)):
        with pytest.raises(PeerKeyError):
            one.agree(low)


def test_secrets_neither_print_nor_pickle_nor_copy() -> None:
    fleet = Fleet(rows=10, terms=Terms(dimension=1))
    fleet.start(0)
    device = fleet.devices[0]
    for secret in (SigningKey.generate(), AgreementKey(b"1" * 32), device, device._state):
        assert repr(secret) == f"{type(secret).__name__}(***)"
        assert f"{secret}" == repr(secret)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError):
                pickle.dumps(secret, protocol)
        with pytest.raises(TypeError):
            copy.copy(secret)
        with pytest.raises(TypeError):
            copy.deepcopy(secret)
    with pytest.raises(ValueError, match="32 bytes"):
        SigningKey(b"short")
    assert SigningKey.generate().public != SigningKey.generate().public


def test_signatures_verify_only_with_key_and_text() -> None:
    key = key_of("a")
    verify(key.public, key.sign(b"text"), b"text")
    for public, signature, text in (
        (key_of("b").public, key.sign(b"text"), b"text"),
        (key.public, key.sign(b"text"), b"other"),
        (b"\xff" * 32, key.sign(b"text"), b"text"),
        (key.public, b"", b"text"),
    ):
        with pytest.raises(PeerKeyError):
            verify(public, signature, text)


def test_sealed_shares_open_only_for_receiver_sender_and_cohort() -> None:
    sender, receiver, other = (AgreementKey(bytes((at,)) * 32) for at in (1, 2, 3))
    share, h1 = bytes(range(64)), b"h" * 32
    sealed = seal_share(sender, receiver.public, h1, 4, 5, share)
    assert len(sealed) == 81
    assert sealed[0] == 1
    assert open_share(receiver, sender.public, h1, 4, 5, sealed) == share
    for key, peer, salt, came, went in (
        (other, sender.public, h1, 4, 5),
        (receiver, other.public, h1, 4, 5),
        (receiver, sender.public, b"i" * 32, 4, 5),
        (receiver, sender.public, h1, 5, 4),
        (receiver, sender.public, h1, 4, 6),
    ):
        assert open_share(key, peer, salt, came, went, sealed) is None
    for at in (0, 1, 40, 80):
        changed = bytearray(sealed)
        changed[at] ^= 1
        assert open_share(receiver, sender.public, h1, 4, 5, bytes(changed)) is None


def test_a_sealed_share_is_aes_256_gcm_with_version_cohort_sender_and_receiver_as_associated_data() -> None:
    sender, receiver = AgreementKey(b"1" * 32), AgreementKey(b"2" * 32)
    sealed = seal_share(sender, receiver.public, b"h" * 32, 4, 5, bytes(64))
    key = derive_key(sender.agree(receiver.public), "share", salt=b"h" * 32, info=struct.pack("<II", 4, 5))
    bound = b"\1" + b"h" * 32 + struct.pack("<II", 4, 5)
    assert AESGCM(key).decrypt(bytes(12), sealed[1:], bound) == bytes(64)


# What keys and signatures are bound to


def all_differ(function: Callable[..., bytes], usual: Sequence[object], others: Sequence[object]) -> bool:
    """Whether ``function`` gives something else wherever one argument changes."""
    results = [function(*usual)]
    results += [function(*usual[:at], other, *usual[at + 1 :]) for at, other in enumerate(others)]
    return len(set(results)) == 1 + len(others)


def test_every_text_that_is_signed_or_committed_to_binds_each_of_its_parts() -> None:
    one, two = b"1" * 32, b"2" * 32
    assert all_differ(advert_text, (one, 1, one, one, one), (two, 2, two, two, two))
    assert all_differ(commitment, (one, 1, one), (two, 2, two))
    assert all_differ(secret_commitment, (one, 1, one), (two, 2, two))
    assert all_differ(agreement_text, (one,), (two,))
    fleet = Fleet(rows=12, terms=Terms(dimension=1), members=range(11))
    everyone, fewer = encode_bitmap(range(11), 11), encode_bitmap(range(10), 11)
    cohort = Cohort(fleet.announcement, fleet.roster, encode_bitmap(range(11), 12))
    other = Cohort(fleet.announcement, fleet.roster, encode_bitmap(range(1, 12), 12))
    assert all_differ(cohort.h3, (everyone, everyone), (fewer, fewer))
    assert cohort.h2(everyone) != cohort.h2(fewer)
    assert cohort.h3(everyone, everyone) != other.h3(everyone, everyone)
    for change in (
        {"number": 8},
        {"model_hash": bytes(32)},
        {"roster_version": 4},
        {"roster_hash": bytes(32)},
        {"terms": Terms(dimension=2)},
        {"terms": Terms(dimension=1, early=51)},
    ):
        assert round_hash(replace(fleet.announcement, **change)) != cohort.h0  # type: ignore[arg-type]


def test_mask_keys_bind_the_round_so_far_and_the_positions_and_are_the_same_from_both_sides() -> None:
    one, two, three = (AgreementKey(bytes((at,)) * 32) for at in (1, 2, 3))
    h2, other = b"h" * 32, b"i" * 32
    assert pair_mask_key(one, two.public, h2, 4, 9) == pair_mask_key(two, one.public, h2, 9, 4)
    assert all_differ(pair_mask_key, (one, two.public, h2, 4, 9), (three, three.public, other, 5, 8))
    assert all_differ(self_mask_key, (b"b" * 32, h2, 4), (b"c" * 32, other, 5))
    keys = _Keys(b"s" * 32, h2)
    assert keys.self_secret(h2) != keys.self_secret(other)
    assert make_shares(b"s" * 32, h2, [bytes(32)] * 2, [1], 3) != make_shares(b"s" * 32, other, [bytes(32)] * 2, [1], 3)
    pair = make_shares(b"s" * 32, h2, [bytes(32)] * 2, [1], 3)[0]
    assert pair[:32] != pair[32:]  # Each secret has a polynomial of its own.


# Codec and stored state


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.data())
def test_bitmaps_go_there_and_back_in_one_form(size: int, data: st.DataObject) -> None:
    places = tuple(sorted(data.draw(st.sets(st.integers(0, size - 1)))))
    encoded = encode_bitmap(places, size)
    assert len(encoded) == (size + 7) // 8
    assert decode_bitmap(encoded, size) == places
    assert [encoded[place // 8] >> place % 8 & 1 for place in places] == [1] * len(places)
    with pytest.raises(WireError):
        decode_bitmap(encoded + b"\0", size)


def test_stored_rounds_that_are_damaged_or_anothers_are_refused() -> None:
    fleet = Fleet(rows=10, terms=Terms(dimension=1))
    fleet.start(0)
    blob = fleet.devices[0].to_bytes()
    mine = {"roster": fleet.roster, "policy": fleet.policy, "identity": fleet.keys[0]}
    assert DeviceRound.from_bytes(blob, **mine).to_bytes() == blob  # type: ignore[arg-type]
    for bad in (
        b"",
        blob[:5],
        blob[:-1],
        blob + b"\0",
        b"\2" + blob[1:],
        blob[:1] + b"\7" + blob[2:],
        blob[:10] + rb"\9" + blob[11:],
    ):
        with pytest.raises(StateError):
            DeviceRound.from_bytes(bad, **mine)  # type: ignore[arg-type]
    with pytest.raises(StateError):
        DeviceRound.from_bytes(blob, **{**mine, "identity": fleet.keys[1]})  # type: ignore[arg-type]
    other = Roster(version=4, keys=fleet.roster.keys)
    with pytest.raises(StateError):
        DeviceRound.from_bytes(blob, **{**mine, "roster": other})  # type: ignore[arg-type]
    for bad in (b"", b"\2" + bytes(16), bytes(18)):
        with pytest.raises(StateError):
            History.from_bytes(bad)
    lost = replace(fleet.devices[0]._state, stage=2)  # Without the parameters that stage 2 keeps.
    with pytest.raises(StateError):
        DeviceRound.from_bytes(lost.to_bytes(), **mine)  # type: ignore[arg-type]


# Golden vectors: a change of any byte on the wire or in the state must change the version


def record() -> dict[str, object]:
    fleet = Fleet(rows=12, terms=Terms(dimension=3), members=range(1, 12), gone={2: "input", 3: "agree"})
    vectors = np.arange(36, dtype=np.uint32).reshape(12, 3)
    total = fleet.run(vectors)
    lines: dict[str, object] = {
        "roster": fleet.roster.hash.hex(),
        "announcement": fleet.announcement.encode().hex(),
        "advert": fleet.start(5).hex(),
        "arcs": list(fleet.server._chosen[4]),
        "sum": total.tolist(),
        "state": hashlib.sha256(fleet.before["agree", 5].to_bytes()).hexdigest(),
    }
    for stage in STAGES:
        message, reply = fleet.sent[stage, 5]
        lines[stage] = [hashlib.sha256(message).hexdigest(), hashlib.sha256(reply).hexdigest()]
    lines["input reply"] = fleet.sent["input", 5][1].hex()
    lines["unmask reply"] = fleet.sent["unmask", 5][1].hex()
    return lines


def test_a_round_of_known_seeds_gives_the_golden_bytes() -> None:
    assert record() == json.loads(VECTORS.read_text(encoding="utf-8"))
