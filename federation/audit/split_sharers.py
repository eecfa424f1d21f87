"""The attack that signed inputs must withstand: one device is told of other sharers than those that hold its secret.

It then masks without neighbours who are alive. Their shares of its own secret, which follows from the cohort alone,
would uncover an input that hardly anything else hides.
"""

from federation.audit.cohort import AuditedCohort
from federation.audit.split_view import opened_of
from federation.secagg.messages import OF_SELF, decode_forwarded, decode_input, encode_bitmap, encode_forwarded


def opened_for_other_sharers(size: int, *, victim: int) -> bool:
    """Whether any honest device opens the secret of a victim that masked with others than it was told of."""
    cohort = AuditedCohort(size=size)
    cohort.run_until("shares")
    server, others = cohort.server, [index for index in range(size) if index != victim]
    apart = [at for at in server._chosen[victim] if at not in server._choosers[victim]][: server.found.early]
    _, sealed = decode_forwarded(server.forwarded(victim), server.found)
    shown = encode_bitmap([at for at in range(size) if at not in apart], size)
    message = encode_forwarded(shown, [row for row in sealed if row[0] not in apart])
    signature = decode_input(cohort.ask("input", victim, message), cohort.dimension)[2]
    for index in others:
        server.input(index, cohort.ask("input", index, server.forwarded(index)))
    # What an honest server would not count it lists all the same, with the only signature that it has.
    server._commitments[victim], server._input_signatures[victim] = bytes(32), signature
    survivors = server.close_inputs()
    for index in others:
        server.agreement(index, cohort.ask("agree", index, survivors))
    server.close_agreements()
    told = ((index, server.signers(index)) for index in others)
    return any(OF_SELF in opened_of(victim, cohort, cohort.devices[index], index, message) for index, message in told)
