"""A device's side of one round: a message in, an answer and the state to keep out. It refuses what a liar would ask.

Keep ``answer.round.to_bytes()``, sealed and durable, **before** ``answer.reply`` leaves; a process that starts for the
next message takes it up with :meth:`DeviceRound.from_bytes`. The message answered last is answered with the same bytes
again; any other of a stage that has passed is refused with ``ReplayError``. Where a method raises, nothing may leave.

    started = DeviceRound.start(announcement, ...)          → advert; keep started.history too
    round.reveal(cohort)         → what was committed to     round.agree(survivors)  → signature
    round.shares(peers)          → sealed shares             round.unmask(signers)   → one share for each chooser
    round.input(sharers, vector) → the masked vector

``PROTOCOL.md`` has messages, refusals and proofs. Bonawitz et al. 2017, section 6.2; Bell et al. 2020, section 4.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from federation.secagg.agreed import honest_in_sum
from federation.secagg.binding import (
    advert_text,
    agreement_text,
    commitment,
    input_text,
    round_hash,
    secret_commitment,
)
from federation.secagg.checks import (
    Neighbourhood,
    check_agreement,
    check_inputs,
    check_peers,
    check_sharers,
    check_survivors,
)
from federation.secagg.cohort import Cohort
from federation.secagg.errors import GraphError, ModelError, ParameterError, ReplayError, StateError, WireError
from federation.secagg.graph import REVEALED_BYTES
from federation.secagg.keys import KEY_BYTES, AgreementKey, Secret, SigningKey, derive_key
from federation.secagg.masks import MaskedSum, Words, pair_mask_key, self_mask_key
from federation.secagg.messages import (
    AGREEMENT,
    COHORT,
    NOTHING,
    OF_MASK_KEY,
    OF_SELF,
    SEALED_BYTES,
    SURVIVORS,
    AdvertMessage,
    PeerRecord,
    RevealMessage,
    body,
    decode_forwarded,
    decode_peers,
    decode_signers,
    encode_input,
    encode_shares,
    encode_unmask,
    framed,
)
from federation.secagg.parameters import Parameters
from federation.secagg.roster import Roster
from federation.secagg.shamir import SHARE_BYTES, field_elements
from federation.secagg.sharing import make_shares, open_share, seal_share
from federation.secagg.state import RoundState, pack_held, pack_positions, unpack_held, unpack_positions
from federation.secagg.terms import Announcement, History, Policy

_ADVERT, _REVEAL, _SHARES, _INPUT, _AGREE, _UNMASK = range(1, 7)
_NAMES = ("", "advert", "reveal", "shares", "input", "agree", "unmask")
_Work = tuple[bytes, RoundState]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """``reply`` for the server, and the round to keep before it leaves."""

    reply: bytes
    round: DeviceRound


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Answer):
    """As :class:`Answer`, with the history to keep in the same transaction."""

    history: History


class DeviceRound(Secret):
    """One round of one device, at one stage. Immutable: each answer brings the next one."""

    __slots__ = ("_identity", "_policy", "_roster", "_state")

    def __init__(self, state: RoundState, roster: Roster, policy: Policy, identity: SigningKey) -> None:
        self._state, self._roster, self._policy, self._identity = state, roster, policy, identity

    @classmethod
    def start(
        cls,
        announcement: bytes,
        *,
        model_hash: bytes,
        roster: Roster,
        policy: Policy,
        history: History,
        identity: SigningKey,
    ) -> Started:
        """Take up a round; ``model_hash`` is SHA-256 of the model that came with it, as the device computed it.

        Raises ``WireError``, ``ParameterError``, ``ReplayError``, ``RosterError``, ``RosterRollbackError``,
        ``ModelError``.
        """
        return cls._start(announcement, model_hash, roster, policy, history, identity, secrets.token_bytes(KEY_BYTES))

    @classmethod
    def _start(
        cls,
        announcement: bytes,
        model_hash: bytes,
        roster: Roster,
        policy: Policy,
        history: History,
        identity: SigningKey,
        seed: bytes,
    ) -> Started:
        """The deterministic half of :meth:`start`, for test vectors: a seed used twice gives two inputs one mask."""
        asked = Announcement.decode(announcement)
        policy.check_terms(asked.terms)
        after = history.after(asked, roster)
        if asked.model_hash != model_hash:
            raise ModelError("The round names another model than the one that came with it: refuse the round.")
        index = roster.index(identity.public)
        keys = _Keys(seed, round_hash(asked))
        committed = commitment(keys.h0, index, keys.revealed)
        signed = advert_text(keys.h0, index, keys.share.public, keys.mask.public, committed)
        advert = AdvertMessage(
            index=index,
            share_key=keys.share.public,
            mask_key=keys.mask.public,
            commitment=committed,
            signature=identity.sign(signed),
        ).encode()
        state = RoundState(
            stage=_ADVERT,
            index=index,
            announcement=announcement,
            request=_digest(announcement),
            reply=advert,
            seed=seed,
        )
        return Started(reply=advert, round=cls(state, roster, policy, identity), history=after)

    @classmethod
    def from_bytes(cls, blob: bytes, *, roster: Roster, policy: Policy, identity: SigningKey) -> DeviceRound:
        """The round that :meth:`to_bytes` gave, with the roster of its start. Raises ``StateError``."""
        state = RoundState.from_bytes(blob)
        try:
            asked = Announcement.decode(state.announcement)
            if state.stage > _ADVERT:
                Parameters.decode(state.found)
        except (WireError, ParameterError, struct.error):
            raise StateError("The stored state of a round is damaged: abandon the round.") from None
        if roster.hash != asked.roster_hash or roster.keys[state.index : state.index + 1] != (identity.public,):
            raise StateError("The stored round is of another roster or device: abandon the round.")
        return cls(state, roster, policy, identity)

    def to_bytes(self) -> bytes:
        """The round as one blob. It holds secrets: seal it, and erase it when the round is over."""
        return self._state.to_bytes()

    @property
    def stage(self) -> str:
        """The last stage answered: advert, reveal, shares, input, agree or unmask."""
        return _NAMES[self._state.stage]

    def advert(self, announcement: bytes) -> Answer:
        """The advert again, for the same announcement, while nothing came after it. Raises ``ReplayError``."""
        return self._answer(_ADVERT, announcement, lambda: (b"", self._state))

    def reveal(self, message: bytes) -> Answer:
        """Answer the cohort with r. Raises ``WireError``, ``SurvivorError``, ``ParameterError``, ``FloorError``."""

        def work() -> _Work:
            bitmap = body(message, COHORT, (len(self._roster.keys) + 7) // 8)
            cohort = Cohort(self._announcement, self._roster, bitmap)
            cohort.position(self._state.index)
            self._policy.check(cohort.found)
            reply = RevealMessage(index=self._state.index, revealed=_Keys(self._state.seed, cohort.h0).revealed)
            return reply.encode(), replace(self._state, cohort=bitmap, found=cohort.found.encode())

        return self._answer(_REVEAL, message, work)

    def shares(self, message: bytes) -> Answer:
        """Answer the peers with sealed shares. Raises ``WireError``, ``PeerKeyError``, ``GraphError``."""

        def work() -> _Work:
            cohort = self._cohort()
            position = cohort.position(self._state.index)
            keys = _Keys(self._state.seed, cohort.h0)
            peers = decode_peers(message, cohort.found)
            chosen = cohort.arcs(position, keys.revealed)
            near = check_peers(cohort, position, chosen, (keys.share.public, keys.mask.public), peers)
            reply = encode_shares(_sealed_shares(cohort, position, keys, chosen, peers))
            return reply, replace(self._state, peers=message, choosers=pack_positions(near.choosers))

        return self._answer(_SHARES, message, work)

    def input(self, message: bytes, vector: Words) -> Answer:
        """Answer the sharers with ``vector`` (d,), uint32, masked. The seed leaves the state here.

        For the same message again ``vector`` is not looked at: the bytes masked first go out again.
        Raises ``WireError``, ``GraphError``, ``SurvivorError``, ``PeerKeyError``, and ``ValueError`` for a bad vector.
        """

        def work() -> _Work:
            cohort = self._cohort()
            dimension = self._announcement.terms.dimension
            if vector.dtype != np.uint32 or vector.shape != (dimension,):
                raise ValueError(
                    f"Expected a vector of shape ({dimension},), uint32, got {vector.shape}, {vector.dtype}."
                )
            position = cohort.position(self._state.index)
            keys = _Keys(self._state.seed, cohort.h0)
            bitmap, sealed = decode_forwarded(message, cohort.found)
            sharers = set(cohort.decode(bitmap))
            peers = {peer.position: peer for peer in decode_peers(self._state.peers, cohort.found)}
            choosers = unpack_positions(self._state.choosers)
            near = Neighbourhood(chosen=cohort.arcs(position, keys.revealed), choosers=choosers)
            check_sharers(cohort, position, sharers, near, peers)
            held = _opened_shares(cohort, position, keys, peers, [at for at in choosers if at in sharers], dict(sealed))
            active = [peer for at, peer in sorted(peers.items()) if at in sharers]
            masked = _masked(vector, position, keys, cohort.h1, cohort.h2(bitmap), active)
            committed = secret_commitment(cohort.h2(bitmap), position, keys.self_secret(cohort.h1))
            signature = self._identity.sign(input_text(cohort.h2(bitmap)))
            after = replace(self._state, seed=b"", peers=b"", choosers=b"", sharers=bitmap, held=pack_held(held))
            return encode_input(masked, committed, signature), after

        return self._answer(_INPUT, message, work)

    def agree(self, message: bytes) -> Answer:
        """Answer the survivors with a signature. Raises ``WireError``, ``SurvivorError``."""

        def work() -> _Work:
            cohort = self._cohort()
            bitmap = body(message, SURVIVORS, (cohort.found.devices + 7) // 8)
            sharers = cohort.decode(self._state.sharers)
            check_survivors(cohort, cohort.position(self._state.index), sharers, cohort.decode(bitmap))
            signature = self._identity.sign(agreement_text(cohort.h3(self._state.sharers, bitmap)))
            return framed(AGREEMENT, signature), replace(self._state, survivors=bitmap)

        return self._answer(_AGREE, message, work)

    def unmask(self, message: bytes) -> Answer:
        """Answer a quorum's signatures with one share for each chooser, then hold none. Raises ``SurvivorError``."""

        def work() -> _Work:
            cohort = self._cohort()
            held = unpack_held(self._state.held)
            bitmap, signatures, inputs = decode_signers(message, cohort.found)
            signers, survivors = cohort.decode(bitmap), set(cohort.decode(self._state.survivors))
            h3 = cohort.h3(self._state.sharers, self._state.survivors)
            check_agreement(cohort, h3, survivors, signers, signatures)
            alive = [at for at, _ in held if at in survivors]
            check_inputs(cohort, cohort.h2(self._state.sharers), sorted({*alive} - {*signers}), inputs)
            opened = [_opened(pair, alive=at in survivors) for at, pair in held]
            return encode_unmask(opened, cohort.found), replace(self._state, held=b"")

        return self._answer(_UNMASK, message, work)

    def _answer(self, stage: int, message: bytes, work: Callable[[], _Work]) -> Answer:
        """The answer to ``message``: again if it was answered at this stage, new if its turn has come."""
        state = self._state
        if state.stage == stage and state.request == _digest(message):
            return Answer(reply=state.reply, round=self)
        if state.stage != stage - 1:
            raise ReplayError(
                f"A message of stage {_NAMES[stage]} came when the last answered was {_NAMES[state.stage]}: refuse it."
            )
        reply, after = work()
        after = replace(after, stage=stage, request=_digest(message), reply=reply)
        return Answer(reply=reply, round=DeviceRound(after, self._roster, self._policy, self._identity))

    @property
    def found(self) -> Parameters:
        """What follows from the cohort, once it was answered. Raises ``ReplayError`` before."""
        if self._state.stage < _REVEAL:
            raise ReplayError("The cohort is not known yet: answer it first.")
        return Parameters.decode(self._state.found)

    @property
    def honest_in_sum(self) -> int:
        """The fewest honest devices in any sum, once the survivors were agreed on. Raises ``ReplayError`` before."""
        if self._state.stage < _AGREE:
            raise ReplayError("The survivors are not known yet: agree on them first.")
        return honest_in_sum(self.found, len(self._cohort().decode(self._state.survivors)))

    @property
    def announcement(self) -> bytes:
        """The message that opened the round."""
        return self._state.announcement

    @property
    def index(self) -> int:
        """The device's place on the roster."""
        return self._state.index

    @property
    def _announcement(self) -> Announcement:
        return Announcement.decode(self._state.announcement)

    def _cohort(self) -> Cohort:
        """The cohort that was answered; a state that has none yet is not asked."""
        return Cohort(self._announcement, self._roster, self._state.cohort, Parameters.decode(self._state.found))


class _Keys(Secret):
    """All that follows from a round's seed."""

    __slots__ = ("h0", "mask", "revealed", "seed", "share")

    def __init__(self, seed: bytes, h0: bytes) -> None:
        self.seed, self.h0 = seed, h0
        self.share = AgreementKey(derive_key(seed, "share key", salt=h0))
        self.mask = AgreementKey(derive_key(seed, "mask key", salt=h0))
        self.revealed = derive_key(seed, "revealed", salt=h0, size=REVEALED_BYTES)

    def self_secret(self, h1: bytes) -> bytes:
        """b: a uniform field element, 32 bytes."""
        (element,) = field_elements(derive_key(self.seed, "self", salt=h1, size=48))
        return element.to_bytes(SHARE_BYTES, "little")


def _sealed_shares(
    cohort: Cohort, position: int, keys: _Keys, chosen: tuple[int, ...], peers: tuple[PeerRecord, ...]
) -> list[bytes]:
    """For each of ``chosen`` its shares, sealed; zeros for those whose keys did not come."""
    own = (keys.self_secret(cohort.h1), keys.mask.private_bytes())
    points = [neighbour + 1 for neighbour in chosen]
    shares = make_shares(keys.seed, cohort.h1, own, points, cohort.found.threshold)
    known = {peer.position: peer.share_key for peer in peers}
    return [
        seal_share(keys.share, known[at], cohort.h1, position, at, share) if at in known else bytes(SEALED_BYTES)
        for at, share in zip(chosen, shares, strict=True)
    ]


def _opened_shares(
    cohort: Cohort,
    position: int,
    keys: _Keys,
    peers: dict[int, PeerRecord],
    choosers: list[int],
    sealed: dict[int, bytes],
) -> list[tuple[int, bytes | None]]:
    """What each chooser among the sharers gave this device to hold, or none. Raises ``GraphError`` for a stranger's."""
    if not set(sealed) <= set(choosers):
        raise GraphError("A share came from a device that is no sharer or did not choose this one: refuse the round.")
    return [
        (at, open_share(keys.share, peers[at].share_key, cohort.h1, at, position, sealed[at]) if at in sealed else None)
        for at in choosers
    ]


def _masked(vector: Words, position: int, keys: _Keys, h1: bytes, h2: bytes, peers: list[PeerRecord]) -> Words:
    """``vector`` (d,) + G(b) + the mask of each later peer − that of each earlier one, modulo 2^32."""
    total = MaskedSum(len(vector))
    total.add(vector)
    total.mask(self_mask_key(keys.self_secret(h1), h2, position), +1)
    for peer in peers:
        key = pair_mask_key(keys.mask, peer.mask_key, h2, position, peer.position)
        total.mask(key, +1 if position < peer.position else -1)
    return total.values


def _opened(pair: bytes | None, *, alive: bool) -> tuple[int, bytes]:
    """The one share that is given for a peer: of b if it survived, of its mask key if not, never the other too."""
    if pair is None:
        return NOTHING, bytes(SHARE_BYTES)
    return (OF_SELF, pair[:SHARE_BYTES]) if alive else (OF_MASK_KEY, pair[SHARE_BYTES:])


def _digest(message: bytes) -> bytes:
    return hashlib.sha256(message).digest()
