"""The server's side of one round: it relays, checks what it can, adds up, and takes the masks off the sum.

Stages go forward only; each is closed by the caller, at its deadline or when all have answered. A message that is not
as the protocol asks raises a ``SecAggError`` and changes nothing: the caller counts its sender as dropped. The sender's
index is for the transport to know. What a malicious server could do instead is for devices to refuse.

    server = ServerRound(announcement, roster)             announcement → devices
    server.advert(message)                …  close_adverts() → the cohort, for all of it
    server.reveal(index, message)         …  close_reveals(), then peers(index)
    server.shares(index, message)         …  close_shares(), then forwarded(index)
    server.input(index, message)          …  close_inputs() → the survivors, for all of them
    server.agreement(index, message)      …  close_agreements(), then signers(index)
    server.unmask(index, message)         …  sum() → the vector (d,)
"""

from __future__ import annotations

from federation.secagg.agreed import honest_in_sum
from federation.secagg.binding import advert_text, agreement_text, commitment, input_text, round_hash, secret_commitment
from federation.secagg.cohort import Cohort
from federation.secagg.errors import (
    GraphError,
    PeerKeyError,
    ReplayError,
    RosterError,
    SurvivorError,
    UnmaskError,
    WireError,
)
from federation.secagg.keys import SIGNATURE_BYTES, AgreementKey, derive_key, verify
from federation.secagg.masks import MaskedSum, Words, pair_mask_key, self_mask_key
from federation.secagg.messages import (
    AGREEMENT,
    COHORT,
    NOTHING,
    OF_MASK_KEY,
    OF_SELF,
    SURVIVORS,
    AdvertMessage,
    PeerRecord,
    RevealMessage,
    body,
    decode_input,
    decode_shares,
    decode_unmask,
    encode_bitmap,
    encode_forwarded,
    encode_peers,
    encode_signers,
    framed,
)
from federation.secagg.parameters import Parameters
from federation.secagg.roster import Roster
from federation.secagg.shamir import PRIME, SHARE_BYTES, combine
from federation.secagg.terms import Announcement

_ADVERTS, _REVEALS, _SHARES, _INPUTS, _AGREEMENTS, _UNMASKING = range(1, 7)


class ServerRound:
    """One round. Positions are places in the cohort, indices places on the roster."""

    def __init__(self, announcement: Announcement, roster: Roster) -> None:
        if (announcement.roster_version, announcement.roster_hash) != (roster.version, roster.hash):
            raise RosterError("The announcement names another roster than the one given: build it from this one.")
        self._announcement, self._roster = announcement, roster
        self._stage = _ADVERTS
        self._adverts: dict[int, AdvertMessage] = {}  # By index.
        self._keys: set[bytes] = set()
        self._probe = AgreementKey(derive_key(announcement.encode(), "probe", salt=b""))
        self._cohort: Cohort | None = None
        self._revealed: dict[int, bytes] = {}  # From here on by position.
        self._chosen: dict[int, tuple[int, ...]] = {}
        self._choosers: dict[int, list[int]] = {}
        self._sealed: dict[int, dict[int, bytes]] = {}  # Sender, then receiver.
        self._sharers = self._survivors = b""
        self._total = MaskedSum(announcement.terms.dimension)
        self._commitments: dict[int, bytes] = {}
        self._input_signatures: dict[int, bytes] = {}
        self._signatures: dict[int, bytes] = {}
        self._opened: dict[int, dict[int, int]] = {}  # Owner, then point, to share.
        self._heard: set[int] = set()

    @property
    def found(self) -> Parameters:
        """The parameters of the cohort, once it is closed. Raises ``ReplayError`` before."""
        return self._closed.found

    @property
    def sharers(self) -> tuple[int, ...]:
        """The indices of those that shared, once shares are closed."""
        return tuple(self._closed.indices[at] for at in self._closed.decode(self._sharers))

    @property
    def survivors(self) -> tuple[int, ...]:
        """The indices of those whose inputs the sum holds, once inputs are closed."""
        return tuple(self._closed.indices[at] for at in self._closed.decode(self._survivors))

    def advert(self, message: bytes) -> int:
        """Take an advert and return its index. Raises ``WireError``, ``PeerKeyError``, ``ReplayError``."""
        self._at(_ADVERTS)
        advert = AdvertMessage.decode(message)
        if advert.index >= len(self._roster.keys):
            raise PeerKeyError("An advert is of no device on the roster: drop it.")
        if advert.index in self._adverts:
            raise ReplayError("A device sent a second advert: drop it.")
        keys = {advert.share_key, advert.mask_key}
        if len(keys) < 2 or keys & self._keys:
            raise PeerKeyError("An advert repeats a key: drop it.")
        h0 = round_hash(self._announcement)
        text = advert_text(h0, advert.index, advert.share_key, advert.mask_key, advert.commitment)
        verify(self._roster.keys[advert.index], advert.signature, text)
        for key in keys:
            self._probe.agree(key)  # Of low order, it would make each of its neighbours refuse.
        self._keys |= keys
        self._adverts[advert.index] = advert
        return advert.index

    def close_adverts(self) -> bytes:
        """Fix the cohort; the message for all of it. Raises ``ParameterError`` where it is too small."""
        self._at(_ADVERTS)
        bitmap = encode_bitmap(self._adverts, len(self._roster.keys))
        self._cohort = Cohort(self._announcement, self._roster, bitmap)
        self._stage = _REVEALS
        return framed(COHORT, bitmap)

    def reveal(self, index: int, message: bytes) -> None:
        """Take what a device had committed to. Raises ``WireError``, ``GraphError``, ``ReplayError``."""
        self._at(_REVEALS)
        reveal, position = RevealMessage.decode(message), self._closed.position(index)
        committed = commitment(self._closed.h0, index, reveal.revealed)
        if reveal.index != index or committed != self._adverts[index].commitment:
            raise GraphError("A device reveals what it had not committed to: drop it.")
        self._revealed[position] = reveal.revealed

    def close_reveals(self) -> None:
        """Fix the graph. Raises ``SurvivorError`` where more than ``early`` devices are gone."""
        self._at(_REVEALS)
        self._enough(self._revealed, self.found.devices - self.found.early)
        self._chosen = {at: self._closed.arcs(at, revealed) for at, revealed in sorted(self._revealed.items())}
        self._choosers = {at: [] for at in self._chosen}
        for at, chosen in self._chosen.items():
            for neighbour in chosen:
                if neighbour in self._choosers:
                    self._choosers[neighbour].append(at)
        self._stage = _SHARES

    def peers(self, index: int) -> bytes:
        """The neighbours' keys for one device. Raises ``GraphError`` for one that too many chose: it is dropped."""
        self._at(_SHARES)
        position = self._position(index, self._revealed)
        near = {*self._choosers[position], *(at for at in self._chosen[position] if at in self._revealed)}
        extra = near - set(self._chosen[position])
        if len(extra) > self.found.extra or len(self._choosers[position]) > self.found.choosers:
            raise GraphError("More devices chose this one than a message holds: drop it.")
        return encode_peers([self._record(at) for at in sorted(near)])

    def shares(self, index: int, message: bytes) -> None:
        """Take a device's sealed shares. Raises ``WireError``, ``ReplayError``."""
        self._at(_SHARES)
        position = self._position(index, self._revealed)
        sealed = decode_shares(message, self.found)
        self._sealed[position] = dict(zip(self._chosen[position], sealed, strict=True))

    def close_shares(self) -> None:
        """Fix the sharers. Raises ``SurvivorError`` where more than ``early`` devices are gone."""
        self._at(_SHARES)
        self._enough(self._sealed, self.found.devices - self.found.early)
        self._sharers = self._closed.encode(self._sealed)
        self._stage = _INPUTS

    def forwarded(self, index: int) -> bytes:
        """The sharers and the shares that were sent to one device."""
        self._at(_INPUTS)
        position = self._position(index, self._sealed)
        sealed = [(at, self._sealed[at][position]) for at in self._held_by(position)]
        return encode_forwarded(self._sharers, sealed)

    def input(self, index: int, message: bytes) -> None:
        """Add a masked vector. Raises ``WireError``, ``ReplayError``, ``PeerKeyError``."""
        self._at(_INPUTS)
        position = self._position(index, self._sealed)
        masked, committed, signature = decode_input(message, self._announcement.terms.dimension)
        if position in self._commitments:
            raise ReplayError("A device sent a second input: drop it.")
        verify(self._closed.keys[position], signature, input_text(self._closed.h2(self._sharers)))
        self._input_signatures[position] = signature
        self._commitments[position] = committed
        self._total.add(masked)

    def close_inputs(self) -> bytes:
        """Fix the survivors; the message for all of them. Raises ``SurvivorError`` where they are too few."""
        self._at(_INPUTS)
        self._enough(self._commitments, self.found.survivors)
        self._survivors = self._closed.encode(self._commitments)
        self._stage = _AGREEMENTS
        return framed(SURVIVORS, self._survivors)

    def agreement(self, index: int, message: bytes) -> None:
        """Take a survivor's signature. Raises ``WireError``, ``PeerKeyError``, ``ReplayError``."""
        self._at(_AGREEMENTS)
        position = self._position(index, self._commitments)
        signature = body(message, AGREEMENT, SIGNATURE_BYTES)
        h3 = self._closed.h3(self._sharers, self._survivors)
        verify(self._closed.keys[position], signature, agreement_text(h3))
        self._signatures[position] = signature

    def close_agreements(self) -> None:
        """Fix the quorum. Raises ``SurvivorError`` where they are too few."""
        self._at(_AGREEMENTS)
        self._enough(self._signatures, self.found.quorum)
        self._stage = _UNMASKING

    def signers(self, index: int) -> bytes:
        """The signatures of a quorum, and those that came with the inputs of who chose this device and is not in it.

        Those who chose it are in it as far as they signed, since a signature of H3 says which sharers they know of.
        """
        self._at(_UNMASKING)
        position = self._position(index, self._commitments)
        alive = [at for at in self._held_by(position) if at in self._commitments]
        first = dict.fromkeys([*(at for at in alive if at in self._signatures), *sorted(self._signatures)])
        signers = sorted(list(first)[: self.found.quorum])
        inputs = [self._input_signatures[at] for at in alive if at not in signers]
        signatures = [self._signatures[at] for at in signers]
        return encode_signers(self._closed.encode(signers), signatures, inputs)

    def unmask(self, index: int, message: bytes) -> None:
        """Take one device's shares of others' secrets. Raises ``WireError``, ``ReplayError``."""
        self._at(_UNMASKING)
        position = self._position(index, self._commitments)
        opened, held = decode_unmask(message, self.found), self._held_by(position)
        if position in self._heard:
            raise ReplayError("A device unmasked a second time: drop it.")
        if any(kind != NOTHING for kind, _ in opened[len(held) :]):
            raise WireError("A device opened shares that it cannot hold: drop it.")
        given = [
            (owner, int.from_bytes(share, "little"))
            for owner, (kind, share) in self._wanted(held, opened)
            if kind != NOTHING
        ]
        if any(share >= PRIME for _, share in given):
            raise WireError("A share is no element of the field: drop its sender.")
        self._heard.add(position)
        for owner, share in given:
            self._opened.setdefault(owner, {})[position + 1] = share

    @property
    def honest_in_sum(self) -> int:
        """The fewest honest devices that the devices know to be in the sum, once survivors are named."""
        return honest_in_sum(self.found, len(self.survivors))

    def sum(self) -> Words:
        """The sum (d,) of the survivors' vectors modulo 2^32. Raises ``UnmaskError``; may be asked again later."""
        self._at(_UNMASKING)
        h2 = self._closed.h2(self._sharers)
        survivors = self._closed.decode(self._survivors)
        dropped = sorted(set(self._closed.decode(self._sharers)) - set(survivors))
        secrets = {owner: self._secret(owner) for owner in (*survivors, *dropped)}
        for owner in survivors:
            if secret_commitment(h2, owner, secrets[owner]) != self._commitments[owner]:
                raise UnmaskError("Shares of a survivor's secret are wrong: the round is lost, start another.")
        keys = {owner: AgreementKey(secrets[owner]) for owner in dropped}
        for owner, key in keys.items():
            if key.public != self._record(owner).mask_key:
                raise UnmaskError("Shares of a dropped device's key are wrong: the round is lost, start another.")
        total = MaskedSum(self._announcement.terms.dimension)
        total.add(self._total.values)
        for owner in survivors:
            total.mask(self_mask_key(secrets[owner], h2, owner), -1)
        for owner, key in keys.items():
            for at in sorted({*self._chosen[owner], *self._choosers[owner]} & set(survivors)):
                mask = pair_mask_key(key, self._record(at).mask_key, h2, owner, at)
                total.mask(mask, -1 if at < owner else +1)  # `at` added it where it comes before `owner`.
        return total.values

    @property
    def _closed(self) -> Cohort:
        if self._cohort is None:
            raise ReplayError("The cohort is not fixed yet: close the adverts first.")
        return self._cohort

    def _at(self, stage: int) -> None:
        if self._stage != stage:
            raise ReplayError(f"The round is at stage {self._stage}, this is of stage {stage}: drop what came late.")

    def _position(self, index: int, among: dict[int, bytes] | dict[int, dict[int, bytes]]) -> int:
        position = self._closed.position(index)
        if position not in among:
            raise ReplayError("A device answers that had dropped out of the round: drop it.")
        return position

    def _enough(self, came: dict[int, bytes] | dict[int, dict[int, bytes]], least: int) -> None:
        if len(came) < least:
            raise SurvivorError(f"{len(came)} devices answered, at least {least} are needed: the round is lost.")

    def _record(self, position: int) -> PeerRecord:
        advert = self._adverts[self._closed.indices[position]]
        return PeerRecord(
            position=position,
            share_key=advert.share_key,
            mask_key=advert.mask_key,
            revealed=self._revealed[position],
            signature=advert.signature,
        )

    def _held_by(self, position: int) -> list[int]:
        """The sharers that chose the device at ``position``, ascending."""
        return [at for at in self._choosers[position] if at in self._sealed]

    def _wanted(self, held: list[int], opened: tuple[tuple[int, bytes], ...]) -> list[tuple[int, tuple[int, bytes]]]:
        """Each owner with what was opened of it. Raises ``WireError`` for a share of the kind that must stay closed."""
        survivors = set(self._closed.decode(self._survivors))
        pairs = list(zip(held, opened, strict=False))
        if any(kind not in (NOTHING, OF_SELF if owner in survivors else OF_MASK_KEY) for owner, (kind, _) in pairs):
            raise WireError("A device opened a share of the kind that must stay closed: drop it.")
        return pairs

    def _secret(self, owner: int) -> bytes:
        shares = self._opened.get(owner, {})
        if len(shares) < self.found.threshold:
            least = self.found.threshold
            raise UnmaskError(
                f"A secret has {len(shares)} shares of {least} needed: wait for more, or the round is lost."
            )
        return combine(shares, threshold=self.found.threshold).to_bytes(SHARE_BYTES, "little")
