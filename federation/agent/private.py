"""The device's own side of a private round: what it checks at each stage, what it charges, what it lets out.

A round has six stages (`federation/secagg/PROTOCOL.md`). The device draws itself with q, trains once the sharers are
known, adds its share of the noise, masks; the charge and the ledger entry are durable, in one transaction with the
round's state, before the masked array leaves. Each stage may be a process of its own: state lies sealed in the store,
and a stage asked again for the same gives the same bytes or nothing.

Order (the threat model's): consent and budget, train, refuse NaN and infinity, clip, quantise, noise, mask, charge and
ledger, wire.
"""

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine.device.device import Device
from engine.errors import BudgetError, ChangedMeanwhileError, ConsentError
from engine.owner.account import Account, digest
from engine.owner.modes import PRIVATE
from federation.agent.entry import entry
from federation.agent.limits import LEAST_COHORT
from federation.agent.terms import NoisyTerms, asked_hash
from federation.agent.update import check_lengths, update_of
from federation.errors import PrivacyError, UpdateError
from federation.privacy.excess import EXCESS_BYTES, piece_keys, rung_of, rungs
from federation.privacy.mechanism import Residues, privatise
from federation.privacy.sampling import drawn
from federation.privacy.stream import KEY_BYTES, SecureStream
from federation.privacy.update import Floats
from federation.secagg import (
    Answer,
    DeviceRound,
    History,
    ModelError,
    Policy,
    ReplayError,
    Roster,
    SecAggError,
    SigningKey,
    StateError,
    Terms,
    open_roster,
)
from federation.secagg.terms import Announcement

ADVERT, REVEAL, SHARES, INPUT, AGREE, UNMASK = STAGES = ("advert", "reveal", "shares", "input", "agree", "unmask")
_HEAD = struct.Struct("<I")
_AHEAD_S = 86_400.0  # A number far ahead would lock the device out until that time comes.
_ATTEMPTS = 3  # To make an update while the device is used by others.


class PrivateAgent:
    """One device in private rounds. What it raises, `UpdateError`, is for its owner: a server sees one abstain."""

    def __init__(self, device: Device, *, stream: SecureStream | None = None) -> None:
        """``stream`` gives the noise and the coin; by default the system's secure source does."""
        self._device, self._stream = device, stream or SecureStream()

    def advert(self, announcement: bytes, *, terms: bytes, roster: bytes) -> bytes:
        """Answer an invitation with this round's keys, if the device draws itself, and may and will take part.

        ``terms`` are those of `NoisyTerms`, ``roster`` the signed list of devices. Raises `UpdateError`.
        """
        return self._guarded(lambda: self._advert(announcement, terms, roster))

    def answer(self, stage: str, message: bytes) -> bytes:
        """Answer a message of one of the stages that need no more than it. Raises `UpdateError`."""
        stages = {REVEAL: self.reveal, SHARES: self.shares, AGREE: self.agree, UNMASK: self.unmask}
        if stage not in stages:
            raise UpdateError(f"A round has no stage {stage!r} of this kind.")
        return stages[stage](message)

    def reveal(self, message: bytes) -> bytes:
        """Answer the cohort. Refuses one whose sum could hold less noise than is counted on. Raises `UpdateError`."""
        return self._guarded(lambda: self._reveal(message))

    def shares(self, message: bytes) -> bytes:
        """Answer the neighbours' keys with sealed shares. Raises `UpdateError`."""
        return self._guarded(lambda: self._step(lambda _, held: held.shares(message)))

    def input(self, message: bytes, *, flat: Floats) -> bytes:
        """Answer the sharers with this device's update for the model ``flat`` (d,), noised and masked.

        Asked for the same again it is the same bytes, noted again, while nothing was forgotten or withdrawn. Raises
        `UpdateError`.
        """
        return self._guarded(lambda: self._input(message, flat))

    def agree(self, message: bytes) -> bytes:
        """Sign the survivors. Raises `UpdateError`."""
        return self._guarded(lambda: self._step(lambda _, held: held.agree(message)))

    def unmask(self, message: bytes) -> bytes:
        """Give the shares that unmask the sum, once; the round's secrets are erased before. Raises `UpdateError`."""
        return self._guarded(lambda: self._unmask(message))

    # Inside

    def _advert(self, announcement: bytes, told: bytes, signed: bytes) -> bytes:
        device, stage = self._device, self._device.stage
        terms, asked = NoisyTerms.from_bytes(told), Announcement.decode(announcement)
        if terms.mode != PRIVATE or asked.number > (time.time() + _AHEAD_S) * 1000:
            raise UpdateError("The round is of another mode, or numbered for another day: refuse it.")
        device.require_allowed(terms.mode, terms.purpose)
        self._check_terms(terms, asked)
        with device.store.lock, device.store.transaction(witness=True):
            held = self._held(announcement)
            if held is not None:
                return held.advert(announcement).reply
            seen = History.from_bytes(stage.seen) if stage.seen is not None else History()
            roster = self._roster(signed, terms, seen)
            started = DeviceRound.start(
                announcement,
                model_hash=asked.model_hash,  # Checked where the model comes, with the sharers.
                roster=roster,
                policy=_policy(terms.dimension),
                history=seen,
                identity=SigningKey(stage.identity()),
            )
            # Noted whether or not the device is drawn: who could ask again until it is would choose the cohort.
            stage.note_seen(started.history.to_bytes())
            if drawn(terms.q, self._stream):
                stage.use_roster(signed)
                stage.keep(_packed(told, started.round))
                return started.reply
            stage.erase()
        raise UpdateError("This device did not draw itself into the round.")

    def _check_terms(self, terms: NoisyTerms, asked: Announcement) -> None:
        """Raise unless this device may take part on such terms: its labels, its model's size, its owner's limits."""
        check_lengths(terms, self._device.model)
        if asked.terms.dimension != terms.dimension:
            raise UpdateError("The secure sum is of another length than the update.")
        self._require_left(terms)

    def _require_left(self, terms: NoisyTerms) -> None:
        """Raise `BudgetError` where the owner's limits, or the run's own number of participations, are reached."""
        self._device.account.require_left(now=time.time(), rho=terms.rho)
        require_participations_left(self._device.account, terms)

    def _roster(self, signed: bytes, terms: NoisyTerms, seen: History) -> Roster:
        publisher = self._device.publisher
        if publisher is None:
            raise UpdateError(
                "This device trusts no publisher yet, so it can tell no other device: name its key first."
            )
        roster = open_roster(signed, publisher=publisher, seen=seen.roster_version)
        if len(roster.keys) != terms.devices:
            raise UpdateError(f"The terms count {terms.devices} devices, the roster has {len(roster.keys)}.")
        return roster

    def _reveal(self, message: bytes) -> bytes:
        def work(terms: NoisyTerms, held: DeviceRound) -> Answer:
            answer = held.reveal(message)
            found = answer.round.found
            noise = terms.noise_of(found.devices)
            if found.smallest_sum < noise.honest_survivors:
                raise UpdateError(
                    f"A sum may hold {found.smallest_sum} honest devices, and the noise is shared between "
                    f"{noise.honest_survivors:g}: too little would hide this one."
                )
            return answer

        return self._step(work)

    def _input(self, message: bytes, flat: Floats) -> bytes:
        # Before the state is read: what comes after it must not have changed when it is noted.
        device, standing = self._device, self._device.account.standing()
        now = self._now()
        terms, held, excess = now.terms, now.round, self._stream.words(EXCESS_BYTES // 8).tobytes()
        announced = Announcement.decode(held.announcement).model_hash
        if asked_hash(terms.to_bytes(), flat) != announced:
            raise ModelError("The model is another than the round announced: refuse the round.")
        asked = digest(announced + message)
        sent = device.contribute_again(asked, mode=terms.mode, purpose=terms.purpose)
        if sent is not None:
            return sent
        if held.stage == INPUT:  # What was masked may not leave again; fresh noise under its masks never may.
            raise ReplayError("This input left already and may not leave again.")
        self._require_left(terms)
        answer = held.input(message, self._update(terms, held, flat, excess))
        its = entry(terms, flat, asked=asked, payload=answer.reply, rho=terms.rho)
        kept = _packed(terms.to_bytes(), answer.round, excess)

        def advance() -> None:
            if device.stage.state != now.state:  # Two inputs under the same masks would uncover each other.
                raise ChangedMeanwhileError("Another process went on with this round: it is that one's now.")
            device.stage.keep(kept)

        device.contribute(its, answer.reply, standing=standing, also=advance)
        return answer.reply

    def _update(self, terms: NoisyTerms, held: DeviceRound, flat: Floats, excess: bytes) -> Residues:
        """This device's part, clipped, quantised and noised, uint32 (terms.dimension,)."""
        rng = np.random.default_rng([terms.seed, terms.server_round, held.index])
        update = update_of(self._device, terms, flat, rng=rng)
        if not np.isfinite(update).all():
            # Some models make NaN of certain memories alone: who abstained then would tell of them. So nothing of it
            # leaves but zeros under the noise, charged as ever.
            update = np.zeros_like(update)
        return privatise(update, terms.noise_of(held.found.devices), self._stream, excess=excess)

    def _unmask(self, message: bytes) -> bytes:
        with self._device.store.lock, self._device.store.transaction(witness=True):
            now = self._now()
            answer = now.round.unmask(message)
            noise = now.terms.noise_of(answer.round.found.devices)
            # A quorum signed the survivors, so nobody can tell another device of others: what is too much goes.
            given = rung_of(noise, answer.round.honest_in_sum)
            keys = piece_keys(now.excess, noise)
            reply = answer.reply + b"".join(key if at < given else bytes(len(key)) for at, key in enumerate(keys))
            self._device.stage.erase()
        return reply

    def _step(self, work: Callable[[NoisyTerms, DeviceRound], Answer]) -> bytes:
        """Take one step of the round that is kept, and keep the next one before its answer is given."""
        with self._device.store.lock, self._device.store.transaction(witness=True):
            now = self._now()
            self._device.require_allowed(now.terms.mode, now.terms.purpose)
            answer = work(now.terms, now.round)
            self._device.stage.keep(_packed(now.terms.to_bytes(), answer.round, now.excess))
        return answer.reply

    def _now(self) -> "_Kept":
        """The round that the device is in."""
        stage, publisher = self._device.stage, self._device.publisher
        state, signed = stage.state, stage.roster
        if state is None:
            raise UpdateError("This device is in no round.")
        if signed is None or publisher is None:
            raise UpdateError("This device trusts no publisher any more: the round is over for it.")
        told, excess, blob = _unpacked(state)
        terms = NoisyTerms.from_bytes(told)
        held = DeviceRound.from_bytes(
            blob,
            roster=open_roster(signed, publisher=publisher),
            policy=_policy(terms.dimension),
            identity=SigningKey(stage.identity()),
        )
        return _Kept(state=state, terms=terms, excess=excess, round=held)

    def _held(self, announcement: bytes) -> DeviceRound | None:
        """The round that is kept, if it is at its first stage and of this announcement.

        One that cannot be read, of an older release or another publisher's roster, is as good as none: the next
        replaces it, and would never come where it were an error.
        """
        if self._device.stage.state is None:
            return None
        try:
            held = self._now().round
        except (SecAggError, UpdateError):
            return None
        return held if held.stage == ADVERT and held.announcement == announcement else None

    def _guarded(self, work: Callable[[], bytes]) -> bytes:
        try:
            for _ in range(_ATTEMPTS - 1):
                try:
                    return work()
                except ChangedMeanwhileError:
                    continue
            return work()
        except (ConsentError, BudgetError, PrivacyError, SecAggError, ChangedMeanwhileError) as error:
            raise UpdateError(str(error)) from None


def unmask_parts(answer: bytes, terms: NoisyTerms, *, cohort: int) -> tuple[bytes, tuple[bytes, ...]]:
    """What a device answers at the stage unmask: the secure sum's message, and keys of pieces of noise, zeros kept."""
    pieces = len(rungs(terms.noise_of(cohort)))
    end = max(0, len(answer) - KEY_BYTES * pieces)
    return answer[:end], tuple(answer[at : at + KEY_BYTES] for at in range(end, len(answer), KEY_BYTES))


def require_participations_left(account: Account, terms: NoisyTerms) -> None:
    """Raise `BudgetError` where the device took part as often as the run's ε counts on."""
    given = sum(its.to == terms.run and not its.again for its in account.contributions())
    if given >= terms.participations:
        raise BudgetError(f"This device took part {given} times in this run, as often as the run counts on.")


def _policy(dimension: int) -> Policy:
    """The secure sums that a device takes part in."""
    return Policy(terms=(Terms(dimension=dimension),), min_cohort=LEAST_COHORT)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """What a device keeps of its round: ``state`` holds the rest. ``excess`` is the secret of its pieces of noise."""

    state: bytes
    terms: NoisyTerms
    excess: bytes
    round: DeviceRound

    def __repr__(self) -> str:
        return "_Kept(***)"


def _packed(terms: bytes, held: DeviceRound, excess: bytes = bytes(EXCESS_BYTES)) -> bytes:
    return _HEAD.pack(len(terms)) + terms + excess + held.to_bytes()


def _unpacked(state: bytes) -> tuple[bytes, bytes, bytes]:
    """The terms, the secret of the noise and the round of what was kept. Raises `StateError` for too few bytes."""
    if len(state) < _HEAD.size:
        raise StateError("The stored state of a round is damaged: abandon the round.")
    (size,) = _HEAD.unpack_from(state)
    end = _HEAD.size + size
    return state[_HEAD.size : end], state[end : end + EXCESS_BYTES], state[end + EXCESS_BYTES :]
