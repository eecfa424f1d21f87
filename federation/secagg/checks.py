"""What a device checks of what the server tells it. Each function raises the error that ``PROTOCOL.md`` lists."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from federation.secagg.binding import advert_text, agreement_text, commitment, input_text
from federation.secagg.cohort import Cohort
from federation.secagg.errors import GraphError, PeerKeyError, SurvivorError
from federation.secagg.keys import verify
from federation.secagg.messages import PeerRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbourhood:
    """Positions, ascending: whom a device chose, and who chose it among those that the server showed it."""

    chosen: tuple[int, ...]
    choosers: tuple[int, ...]


def check_peers(
    cohort: Cohort, position: int, chosen: tuple[int, ...], own_keys: Sequence[bytes], peers: Sequence[PeerRecord]
) -> Neighbourhood:
    """The neighbourhood that follows from ``peers``. Raises ``GraphError`` and ``PeerKeyError``."""
    keys = [*own_keys, *(key for peer in peers for key in (peer.share_key, peer.mask_key))]
    if len(set(keys)) != len(keys):
        raise PeerKeyError("Two peers have the same key, or one has two uses: refuse the round.")
    picked, choosers = set(chosen), []
    for peer in peers:
        check_advert(cohort, peer)
        if position in cohort.arcs(peer.position, peer.revealed):
            choosers.append(peer.position)
        elif peer.position not in picked:
            raise GraphError("A peer neither chose this device nor was chosen by it, or is itself: refuse the round.")
    missing = picked - {peer.position for peer in peers}
    if len(missing) > cohort.found.early:
        raise GraphError(
            f"{len(missing)} chosen neighbours are missing, at most {cohort.found.early} may be: refuse the round."
        )
    if len(choosers) > cohort.found.choosers:
        raise GraphError(f"More than {cohort.found.choosers} devices chose this one: refuse the round.")
    return Neighbourhood(chosen=chosen, choosers=tuple(choosers))


def check_advert(cohort: Cohort, peer: PeerRecord) -> None:
    """Raise ``PeerKeyError`` unless the peer's roster key signed its keys and its commitment, for this round."""
    index = cohort.indices[peer.position]
    committed = commitment(cohort.h0, index, peer.revealed)
    text = advert_text(cohort.h0, index, peer.share_key, peer.mask_key, committed)
    verify(cohort.keys[peer.position], peer.signature, text)


def check_sharers(
    cohort: Cohort, position: int, sharers: Collection[int], near: Neighbourhood, known: Collection[int]
) -> None:
    """Raise ``SurvivorError`` unless the device can mask with enough neighbours; ``known`` are those it has keys of."""
    found = cohort.found
    if position not in sharers:
        raise SurvivorError("The server leaves this device out of the sharers though it shared: refuse the round.")
    if len(sharers) < found.devices - found.early:
        raise SurvivorError(
            f"{len(sharers)} sharers, at least {found.devices - found.early} are needed: refuse the round."
        )
    present = [neighbour for neighbour in near.chosen if neighbour in sharers]
    if any(neighbour not in known for neighbour in present):
        raise SurvivorError("The keys of a neighbour that shared were withheld: refuse the round.")
    if len(present) < found.threshold:
        raise SurvivorError(
            f"{len(present)} neighbours shared, at least {found.threshold} are needed: refuse the round."
        )


def check_survivors(cohort: Cohort, position: int, sharers: Collection[int], survivors: Collection[int]) -> None:
    """Raise ``SurvivorError`` unless the survivors are enough, sharers all, and this device one of them."""
    if position not in survivors:
        raise SurvivorError("The server lists this device as dropped though it is alive: refuse the round.")
    if not set(survivors) <= set(sharers):
        raise SurvivorError("A survivor is listed that never shared: refuse the round.")
    if len(survivors) < cohort.found.survivors:
        raise SurvivorError(
            f"{len(survivors)} survivors, at least {cohort.found.survivors} are needed: refuse the round."
        )


def check_agreement(
    cohort: Cohort, h3: bytes, survivors: Collection[int], signers: Sequence[int], signatures: Sequence[bytes]
) -> None:
    """Raise ``SurvivorError`` unless a quorum of survivors signed this very H3."""
    if len(signers) != cohort.found.quorum or len(signatures) != len(signers):
        raise SurvivorError(f"{len(signers)} devices agreed, {cohort.found.quorum} are needed: refuse to unmask.")
    if not set(signers) <= set(survivors):
        raise SurvivorError("A device agreed that is no survivor: refuse to unmask.")
    text = agreement_text(h3)
    for signer, signature in zip(signers, signatures, strict=True):
        try:
            verify(cohort.keys[signer], signature, text)
        except PeerKeyError:
            raise SurvivorError("A survivor did not sign these survivors: refuse to unmask.") from None


def check_inputs(cohort: Cohort, h2: bytes, owners: Sequence[int], signatures: Sequence[bytes]) -> None:
    """Raise ``SurvivorError`` unless each of ``owners``, and nobody else, signed these sharers with its input.

    They are those whose b is asked for and who did not sign H3, which covers the sharers. Otherwise one may have masked
    with others than this device was told of, and what its b uncovers would be bare.
    """
    if len(owners) != len(signatures):
        raise SurvivorError(f"{len(signatures)} inputs are signed, {len(owners)} need be: refuse to unmask.")
    for owner, signature in zip(owners, signatures, strict=True):
        try:
            verify(cohort.keys[owner], signature, input_text(h2))
        except PeerKeyError:
            raise SurvivorError("A survivor did not mask with these sharers: refuse to unmask.") from None
