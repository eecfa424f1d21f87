"""A server that lies to devices in a secure sum: each lie must be refused, and nothing may be answered to it.

Each lie is the smallest of its kind, so that the one check that ought to refuse it is what refuses. The kinds are those
of ``federation/secagg/PROTOCOL.md``, "What a device refuses".
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np

from federation.audit.agent_lies import agent_finding
from federation.audit.cohort import NUMBER, STAGES, VERSION, AuditedCohort
from federation.audit.finding import Finding, Ground, at_most
from federation.audit.mask_keys import mask_findings
from federation.audit.private_lies import private_finding
from federation.audit.split_sharers import opened_for_other_sharers
from federation.audit.split_view import unmasked_twice
from federation.secagg import (
    DeviceRound,
    History,
    Policy,
    Roster,
    SecAggError,
    SigningKey,
    Terms,
    open_roster,
    sign_roster,
)
from federation.secagg.binding import advert_text, agreement_text, commitment
from federation.secagg.keys import AgreementKey
from federation.secagg.messages import (
    COHORT,
    SURVIVORS,
    PeerRecord,
    decode_forwarded,
    decode_peers,
    decode_signers,
    encode_bitmap,
    encode_forwarded,
    encode_peers,
    encode_signers,
    framed,
)
from federation.secagg.terms import LONGEST_STEP

AUDIT = "malicious server"
SIZE = 26
VICTIM, LATE = 5, 0
SPARSE_SIZE = 40
Lie = Callable[[], object]


def audit(ground: Ground) -> list[Finding]:
    """Return one finding for each kind of lie, those on the masks' keys, and that on requests to agents."""
    with ground.progress(AUDIT, len(_KINDS) + 3) as tick:
        found = secure_sum_findings(ground, tick)
        found.append(agent_finding(ground, audit=AUDIT))
        tick()
        found.append(private_finding(ground, audit=AUDIT))
        tick()
    return found


def secure_sum_findings(ground: Ground, tick: Callable[[], None]) -> list[Finding]:
    """Return the findings on the secure sum alone."""
    cohort = AuditedCohort(size=SIZE, late=(LATE,))
    cohort.run_until("unmask")
    found = [_honest(cohort)]
    for name, lies_of in _KINDS.items():
        lies = list(lies_of(cohort))
        answered = sum(map(_answered, lies))
        found.append(at_most(f"{name}: lies answered", answered, 0, f"of {len(lies)} told", audit=AUDIT))
        tick()
    found += mask_findings(cohort, ground, audit=AUDIT)
    tick()
    return found


def _honest(cohort: AuditedCohort) -> Finding:
    """Without lies the sum comes out right: else refusing them would say nothing."""
    right = sum((cohort.vectors[at] for at in range(SIZE) if at != LATE), np.zeros(cohort.dimension, dtype=np.uint32))
    wrong = int((cohort.server.sum() != right).sum())
    return at_most("an honest round: wrong numbers", wrong, 0, f"of {cohort.dimension}, {SIZE} devices", audit=AUDIT)


def _answered(lie: Lie) -> bool:
    """Whether the device did anything else than to refuse, a crash without a word of its own included."""
    try:
        return lie() is not False
    except SecAggError:
        return False
    # Whatever else comes out was not foreseen by the device: no refusal.
    except Exception:  # noqa: BLE001
        return True


def _double_unmasking(cohort: AuditedCohort) -> Iterator[Lie]:
    who, signatures = _signers(cohort)
    server = cohort.server
    survivors = server._closed.decode(server._survivors)
    spare = next(at for at in survivors if at not in who)
    right = agreement_text(server._closed.h3(server._sharers, server._survivors))
    others = dict(zip([*who[:-1], spare], [*signatures[:-1], cohort.keys[spare].sign(right)], strict=True))
    message = _told(cohort, sorted(others), [others[at] for at in sorted(others)])
    yield lambda: cohort.devices[VICTIM].unmask(message)
    fewer = encode_bitmap([at for at in survivors if at not in (9, VICTIM)] + [VICTIM], SIZE)
    yield lambda: cohort.before["unmask", VICTIM].agree(framed(SURVIVORS, fewer))
    yield lambda: unmasked_twice(SIZE, victim=VICTIM)
    # So few neighbours choose nobody back in a small cohort that there is none to leave out.
    yield lambda: opened_for_other_sharers(SPARSE_SIZE, victim=VICTIM)


def _key_swap(cohort: AuditedCohort) -> Iterator[Lie]:
    first, second, *rest = _peers(cohort)
    fresh, own = AgreementKey(SigningKey.generate().private_bytes()).public, cohort.server._adverts[VICTIM]
    signer, stranger = cohort.keys[first.position], SigningKey.generate()
    other_round = cohort.server._closed.h1
    for bad in (
        replace(first, mask_key=fresh),
        replace(first, share_key=fresh),
        replace(first, signature=bytes(64)),
        replace(first, share_key=first.mask_key, mask_key=first.share_key),
        replace(first, revealed=bytes(16)),
        _signed(cohort, replace(first, mask_key=fresh), stranger),
        _signed(cohort, first, signer, h0=other_round),
        # Signed by a device that lies too, with keys that are no keys of its own.
        _signed(cohort, replace(first, mask_key=second.mask_key), signer),
        _signed(cohort, replace(first, mask_key=own.mask_key), signer),
        _signed(cohort, replace(first, mask_key=first.share_key), signer),
    ):
        yield partial(_tell_peers, cohort, [bad, second, *rest])
    weak = _signed(cohort, replace(first, share_key=bytes(32), mask_key=bytes(31) + b"\1"), signer)
    yield lambda: _input_after(cohort, [weak, second, *rest])


def _small_roster(cohort: AuditedCohort) -> Iterator[Lie]:
    for members in ([VICTIM], [VICTIM, 6], range(8)):
        yield partial(cohort.tell, "reveal", VICTIM, framed(COHORT, encode_bitmap(members, SIZE)))
    careful = _with_policy(cohort, min_cohort=SIZE + 1)
    yield lambda: careful.reveal(cohort.heard["reveal", VICTIM])
    server = SigningKey.generate()
    sybils = Roster(version=VERSION + 1, keys=(cohort.roster.keys[VICTIM], server.public))
    yield lambda: open_roster(sign_roster(sybils, server), publisher=cohort.publisher.public, seen=VERSION)
    older = sign_roster(replace(cohort.roster, version=VERSION - 1), cohort.publisher)
    yield lambda: open_roster(older, publisher=cohort.publisher.public, seen=VERSION)
    changed = bytearray(cohort.signed_roster)
    changed[40] ^= 1
    yield lambda: open_roster(bytes(changed), publisher=cohort.publisher.public, seen=VERSION)
    yield lambda: Roster(version=VERSION, keys=(server.public, server.public))
    for lie in ({"roster_hash": bytes(32)}, {"roster_version": VERSION + 1}, {"roster_version": VERSION - 1}):
        message = replace(cohort.announcement, **lie).encode()
        yield partial(cohort.begin, VICTIM, message)


def _inconsistent_models(cohort: AuditedCohort) -> Iterator[Lie]:
    named = replace(cohort.announcement, model_hash=bytes(32))
    yield lambda: cohort.begin(VICTIM, named.encode())
    yield lambda: cohort.begin(VICTIM, cohort.announcement.encode(), model=bytes(32))
    # Some devices are shown another model (Pasquini et al. 2022). Their adverts then are of another round.
    first, *rest = _peers(cohort)
    advert = cohort.begin(first.position, named.encode(), model=bytes(32))
    shown = replace(first, share_key=advert[6:38], mask_key=advert[38:70], signature=advert[102:])
    yield lambda: _tell_peers(cohort, [shown, *rest])


def _replay(cohort: AuditedCohort) -> Iterator[Lie]:
    for number in (0, NUMBER - 2, NUMBER - 1, NUMBER + LONGEST_STEP):
        message = replace(cohort.announcement, number=number).encode()
        yield partial(cohort.begin, VICTIM, message)
    done = History(roster_version=VERSION, number=NUMBER)
    yield lambda: cohort.begin(VICTIM, cohort.announcement.encode(), history=done)
    for stage, later in pairwise(STAGES):
        message = cohort.heard[stage, VICTIM]
        changed = message[:-1] + bytes((message[-1] ^ 1,))
        # To a device that answered this stage already, another message of it; and a stage before its turn.
        yield partial(cohort.tell, stage, VICTIM, changed, at=later)
        yield partial(cohort.tell, later, VICTIM, cohort.heard[later, VICTIM], at=stage)


def _parameter_downgrade(cohort: AuditedCohort) -> Iterator[Lie]:
    own = cohort.dimension
    for terms in (
        Terms(dimension=own + 1),
        Terms(dimension=own, colluding=0),
        Terms(dimension=own, dropout=0),
        Terms(dimension=own, dropout=500),
        Terms(dimension=own, early=0),
    ):
        message = replace(cohort.announcement, terms=terms).encode()
        yield partial(cohort.begin, VICTIM, message)
    found = cohort.server.found
    for floors in ({"min_threshold": found.threshold + 1}, {"min_sum": found.smallest_sum + 1}):
        careful = _with_policy(cohort, **floors)
        yield partial(careful.reveal, cohort.heard["reveal", VICTIM])
    for stage in STAGES:
        message = cohort.heard[stage, VICTIM]
        for bad in (message[:-1], message + b"\0", b"\0" + message[1:]):
            yield partial(cohort.tell, stage, VICTIM, bad)


def _dropout_lies(cohort: AuditedCohort) -> Iterator[Lie]:
    server, found, everyone = cohort.server, cohort.server.found, range(SIZE)
    present = server._closed.decode(server._survivors)
    others = [at for at in present if at != VICTIM]
    for said in (others, [*others[len(present) - found.survivors + 1 :], VICTIM]):
        message = framed(SURVIVORS, encode_bitmap(sorted(said), SIZE))
        yield partial(cohort.tell, "agree", VICTIM, message)
    bitmap, sealed = decode_forwarded(cohort.heard["input", VICTIM], found)
    without = [at for at in everyone if at != VICTIM]
    few = [VICTIM, *without[: SIZE - found.early - 2]]
    for sharers in (without, few):
        message = encode_forwarded(encode_bitmap(sharers, SIZE), sealed)
        yield partial(cohort.tell, "input", VICTIM, message)
    choosers = {at for at, _ in sealed}
    stranger = next(at for at in everyone if at not in choosers)
    foreign = encode_forwarded(bitmap, sorted([*sealed, (stranger, bytes(81))]))
    yield lambda: cohort.tell("input", VICTIM, foreign)
    # A neighbour whose keys were withheld: its mask would be missing, and who holds shares decided by the server.
    records, chosen = _peers(cohort), cohort.server._chosen[VICTIM]
    hidden = next(peer for peer in records if peer.position in chosen)
    yield lambda: _input_after(cohort, [peer for peer in records if peer is not hidden])
    gone = sorted(chosen)[: found.early + 1]
    yield lambda: _tell_peers(cohort, [peer for peer in records if peer.position not in gone])
    yield from _bad_agreements(cohort)


def _bad_agreements(cohort: AuditedCohort) -> Iterator[Lie]:
    who, signatures = _signers(cohort)
    closed, sharers = cohort.server._closed, cohort.server._sharers
    right = agreement_text(closed.h3(sharers, cohort.server._survivors))
    other = agreement_text(closed.h3(sharers, encode_bitmap(range(SIZE), SIZE)))
    last = cohort.keys[who[-1]]
    for members, texts in (
        (who[:-1], signatures[:-1]),
        (who, [*signatures[:-1], bytes(64)]),
        (who, [*signatures[:-1], signatures[0]]),
        (who, [*signatures[:-1], last.sign(other)]),
        (who, [*signatures[:-1], SigningKey.generate().sign(right)]),
        (sorted([LATE, *who[1:]]), [cohort.keys[LATE].sign(right), *signatures[1:]]),
    ):
        message = _told(cohort, members, texts)
        yield partial(cohort.tell, "unmask", VICTIM, message)


_KINDS: dict[str, Callable[[AuditedCohort], Iterator[Lie]]] = {
    "double unmasking": _double_unmasking,
    "key swap": _key_swap,
    "small roster": _small_roster,
    "inconsistent models": _inconsistent_models,
    "replay": _replay,
    "parameter downgrade": _parameter_downgrade,
    "lies about dropouts": _dropout_lies,
}


def _with_policy(cohort: AuditedCohort, **floors: int) -> DeviceRound:
    """The victim before it was told its cohort, with floors of its owner's."""
    strict = Policy(terms=(cohort.terms,), **floors)
    blob = cohort.before["reveal", VICTIM].to_bytes()
    return DeviceRound.from_bytes(blob, roster=cohort.roster, policy=strict, identity=cohort.keys[VICTIM])


def _peers(cohort: AuditedCohort) -> list[PeerRecord]:
    return list(decode_peers(cohort.heard["shares", VICTIM], cohort.server.found))


def _signed(cohort: AuditedCohort, peer: PeerRecord, signer: SigningKey, h0: bytes | None = None) -> PeerRecord:
    """``peer`` with a signature of ``signer`` over what it now says."""
    h0 = h0 or cohort.server._closed.h0
    committed = commitment(h0, peer.position, peer.revealed)
    text = advert_text(h0, peer.position, peer.share_key, peer.mask_key, committed)
    return replace(peer, signature=signer.sign(text))


def _tell_peers(cohort: AuditedCohort, records: Sequence[PeerRecord]) -> bytes:
    return cohort.tell("shares", VICTIM, encode_peers(records))


def _input_after(cohort: AuditedCohort, records: Sequence[PeerRecord]) -> bytes:
    """What the victim masks and sends after it was shown these peers; the shares of all others were forwarded."""
    found = cohort.server.found
    known = {peer.position for peer in records}
    answer = cohort.before["shares", VICTIM].shares(encode_peers(records))
    bitmap, sealed = decode_forwarded(cohort.heard["input", VICTIM], found)
    message = encode_forwarded(bitmap, [row for row in sealed if row[0] in known])
    return answer.round.input(message, cohort.vectors[VICTIM]).reply


def _signers(cohort: AuditedCohort) -> tuple[list[int], list[bytes]]:
    bitmap, signatures, _ = decode_signers(cohort.heard["unmask", VICTIM], cohort.server.found)
    return list(cohort.server._closed.decode(bitmap)), list(signatures)


def _told(cohort: AuditedCohort, who: Sequence[int], signatures: Sequence[bytes]) -> bytes:
    """What the victim hears last, with these signatures of H3."""
    server = cohort.server
    owing = [at for at in server._held_by(VICTIM) if at in server._commitments and at not in who]
    return encode_signers(encode_bitmap(who, SIZE), signatures, [server._input_signatures[at] for at in owing])
