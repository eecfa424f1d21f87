"""The attack that double masking must withstand: one device listed as alive to some, as dropped out to others.

A server that got both a device's own secret and its mask key could unmask its input alone. With the most colluders that
the parameters are made for, it collects signatures for two sets of survivors and asks each half to unmask for its own.
"""

import itertools

from federation.audit.cohort import AuditedCohort
from federation.secagg import DeviceRound, SecAggError
from federation.secagg.binding import agreement_text
from federation.secagg.messages import (
    OF_MASK_KEY,
    OF_SELF,
    SURVIVORS,
    decode_unmask,
    encode_bitmap,
    encode_signers,
    framed,
)


def unmasked_twice(size: int, *, victim: int) -> bool:
    """Whether honest devices open both kinds of the victim's shares, be it only one of each."""
    cohort = AuditedCohort(size=size)
    cohort.run_until("input")
    found, closed, sharers = cohort.server.found, cohort.server._closed, cohort.server._sharers
    colluding = range(size - found.colluding, size)
    honest = [index for index in range(size) if index not in colluding and index != victim]
    alive, dropped = encode_bitmap(range(size), size), encode_bitmap([at for at in range(size) if at != victim], size)
    agreed: dict[bytes, dict[int, DeviceRound]] = {alive: {}, dropped: {}}
    votes: dict[bytes, dict[int, bytes]] = {alive: {}, dropped: {}}
    for index, said in [(victim, alive), *zip(honest, itertools.cycle((alive, dropped)), strict=False)]:
        answer = cohort.devices[index].agree(framed(SURVIVORS, said))
        agreed[said][index], votes[said][index] = answer.round, answer.reply[2:]
    for said, texts in votes.items():
        h3 = closed.h3(sharers, said)
        texts.update({index: cohort.keys[index].sign(agreement_text(h3)) for index in colluding})
    kinds = set()
    for said, devices in agreed.items():
        # Filled up with what the other half signed: signatures of survivors, but over another set.
        other = votes[dropped if said == alive else alive]
        rest = {index: text for index, text in other.items() if index in closed.decode(said)}
        filled = dict(sorted({**rest, **votes[said]}.items())[: found.quorum])
        agreed_by = [filled[index] for index in sorted(filled)]
        for index, device in devices.items():
            owing = [at for at in cohort.server._held_by(index) if at in closed.decode(said) and at not in filled]
            inputs = [cohort.server._input_signatures[at] for at in owing]
            message = encode_signers(encode_bitmap(filled, size), agreed_by, inputs)
            kinds |= opened_of(victim, cohort, device, index, message)
    return {OF_SELF, OF_MASK_KEY} <= kinds


def opened_of(victim: int, cohort: AuditedCohort, device: DeviceRound, index: int, message: bytes) -> set[int]:
    """The kinds of the victim's shares that a device opens when it is told ``message``; none if it refuses."""
    try:
        reply = device.unmask(message).reply
    except SecAggError:
        return set()
    held = cohort.server._held_by(index)
    return {
        kind
        for owner, (kind, _) in zip(held, decode_unmask(reply, cohort.server.found), strict=False)
        if owner == victim
    }
