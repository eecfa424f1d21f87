"""The server's side of private rounds: six exchanges by the message ``train.private``, a sum, and never one update.

The server invites every node; devices draw themselves. What it gets to see are messages of a secure sum
(`federation/secagg/PROTOCOL.md`) and, at the end, the sum of noised updates, from which it takes the noise that devices
gave back, and to which it adds the noise of those that dropped out. A device that misses a stage has dropped out. The
mean is the sum over the fixed q·N.
"""

# isort: off
import federation.rounds.flower_env  # noqa: F401 - before Flower
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

# isort: on
import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from federation.agent.cohorts import steady_share
from federation.agent.limits import LEAST_COHORT
from federation.agent.names import MESSAGE, PRIVATE_MESSAGE, ROSTER, STAGE, TERMS
from federation.agent.private import ADVERT, AGREE, INPUT, REVEAL, SHARES, UNMASK, unmask_parts
from federation.agent.terms import NoisyTerms, asked_hash
from federation.errors import PrivacyError, RoundError
from federation.privacy.bound import check_mean
from federation.privacy.excess import left_after, on_rung, rung_of
from federation.privacy.mechanism import Residues, decode, top_up, without_excess
from federation.privacy.parameters import NoiseParameters
from federation.privacy.sampling import cohort_bounds
from federation.privacy.stream import SecureStream
from federation.privacy.update import Floats
from federation.rounds.nodes import connected
from federation.rounds.records import ARRAYS, CONFIG, answer_of, as_arrays
from federation.secagg import Announcement, ParameterError, Roster, SecAggError, ServerRound, Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRoster:
    """The list of devices as the publisher signed it, and as it reads."""

    signed: bytes
    roster: Roster


class PrivateRounds:
    """The rounds of one run in private mode, over the nodes of ``grid``."""

    def __init__(self, grid: Grid, roster: SignedRoster, *, deadline_s: float, stream: SecureStream) -> None:
        """``deadline_s`` bounds each of a round's six exchanges; ``stream`` gives the noise of those that drop out."""
        self._grid, self._roster, self._deadline_s, self._stream = grid, roster, deadline_s, stream
        self._number = 0  # Of the last round; each is above all that a device has seen.

    def mean(self, terms: NoisyTerms, flat: Floats) -> tuple[Floats, NoiseParameters]:
        """Return the noised mean update, float32 (d,), of one round for the model ``flat`` (d,), and what noise it has.

        Raises `RoundError` where too few devices took part or stayed, and `RefusedRoundError` where the mean is longer
        than clipped updates and the noise explain (`bound`); the model is as before.
        """
        self._number = max(self._number + 1, time.time_ns() // 1_000_000)
        roster = self._roster.roster
        announcement = Announcement(
            number=self._number,
            model_hash=asked_hash(terms.to_bytes(), flat),
            roster_version=roster.version,
            roster_hash=roster.hash,
            terms=Terms(dimension=terms.dimension),
        )
        server = ServerRound(announcement, roster)
        one = _Round(self._grid, server, terms.server_round, self._deadline_s)
        try:
            about = {TERMS: terms.to_bytes(), ROSTER: self._roster.signed}
            one.invite(announcement.encode(), about, least=min(LEAST_COHORT / terms.q, terms.devices))
            one.run(flat, terms)
            full = terms.noise_of(server.found.devices)
            rung = taken_off(full, server.honest_in_sum, devices=terms.devices, cohort=terms.cohort)
            survivors = len(server.survivors)
            total, noise = evened_out(
                server.sum(), one.keys.values(), full, rung, survivors=survivors, stream=self._stream
            )
            mean = decode(total, noise, denominator=terms.q * terms.devices)
        except (SecAggError, PrivacyError, RoundError) as error:
            raise RoundError(
                f"Round {terms.server_round} failed: {error} The model of the round before is kept, and what left is "
                "charged: continue with --resume, or with a new run where devices have given what they may."
            ) from None
        check_mean(mean, noise, devices=survivors, denominator=terms.q * terms.devices)
        return mean, noise


def taken_off(full: NoiseParameters, honest: int, *, devices: int, cohort: int) -> int:
    """How many pieces of noise are taken off where any sum holds ``honest`` devices.

    No more than any size that the cohort may have could spare if nobody left it: else how much noise is released would
    tell how many were drawn, which amplification by sampling counts on being hidden.
    """
    steady = steady_share(*cohort_bounds(devices, cohort))
    return rung_of(full, min(honest, steady * full.cohort))


def evened_out(
    total: Residues,
    keys: Collection[Sequence[bytes]],
    full: NoiseParameters,
    rung: int,
    *,
    survivors: int,
    stream: SecureStream,
) -> tuple[Residues, NoiseParameters]:
    """Return a sum ``total`` (d,) without ``rung`` pieces of who gave ``keys``, and with the noise of those gone.

    And how much noise is in it then. Raises as `top_up`.
    """
    given = [its[:rung] for its in keys] if rung else []
    left = top_up(without_excess(total, given, full), survivors, on_rung(full, rung), stream)
    return left, left_after(full, rung, whole=survivors - len(given))


class _Round:
    """One round's exchanges. Devices are known by their lines on the roster, which their own signatures tell."""

    def __init__(self, grid: Grid, server: ServerRound, server_round: int, deadline_s: float) -> None:
        self._grid, self._server, self._server_round, self._deadline_s = grid, server, server_round, deadline_s
        self._nodes: dict[int, int] = {}
        self.keys: dict[int, tuple[bytes, ...]] = {}
        """Of the noise that each device gave back: the keys of its pieces, by its line."""

    def invite(self, announcement: bytes, about: Mapping[str, bytes], *, least: float) -> None:
        """Invite every node, once ``least`` are connected, and note who advertised as which device."""
        nodes = connected(self._grid, least=least, within_s=self._deadline_s)
        asked = {node: {MESSAGE: announcement, **about} for node in nodes}
        for node, answer in self._ask(ADVERT, asked):
            with contextlib.suppress(SecAggError):  # No advert: as good as an abstain.
                self._nodes[self._server.advert(answer)] = node

    def run(self, flat: Floats, terms: NoisyTerms) -> None:
        """Take the round from its adverts to where its sum can be asked for. Raises `SecAggError`."""
        server = self._server
        try:
            cohort = server.close_adverts()
        except ParameterError as error:
            raise RoundError(
                f"{len(self._nodes)} devices took part: others' nodes were not there, or they did not draw themselves, "
                f"may not, or have given what they may. {error}"
            ) from None
        revealed = self._collect(REVEAL, self._all(self._nodes, cohort), server.reveal)
        server.close_reveals()
        shared = self._collect(SHARES, self._each(revealed, server.peers), server.shares)
        server.close_shares()
        there = self._collect(INPUT, self._each(shared, server.forwarded), server.input, flat=flat)
        agreed = self._collect(AGREE, self._all(there, server.close_inputs()), server.agreement)
        server.close_agreements()

        def unmask(index: int, answer: bytes) -> None:
            message, keys = unmask_parts(answer, terms, cohort=server.found.devices)
            server.unmask(index, message)
            self.keys[index] = keys

        self._collect(UNMASK, self._each(agreed, server.signers), unmask)

    def _all(self, indices: Iterable[int], message: bytes) -> dict[int, bytes]:
        return dict.fromkeys(indices, message)

    def _each(self, indices: Iterable[int], message: Callable[[int], bytes]) -> dict[int, bytes]:
        made = {}
        for index in indices:
            with contextlib.suppress(SecAggError):  # One that too many chose has dropped out.
                made[index] = message(index)
        return made

    def _collect(
        self,
        stage: str,
        messages: Mapping[int, bytes],
        take: Callable[[int, bytes], None],
        *,
        flat: Floats | None = None,
    ) -> list[int]:
        """Ask these devices, and let ``take`` take their answers; those whose were taken, the others dropped out."""
        lines, came = {self._nodes[index]: index for index in messages}, []
        asked = {node: {MESSAGE: messages[index]} for node, index in lines.items()}
        for node, answer in self._ask(stage, asked, flat):
            with contextlib.suppress(SecAggError):
                take(lines[node], answer)
                came.append(lines[node])
        return came

    def _ask(
        self, stage: str, asked: Mapping[int, Mapping[str, bytes]], flat: Floats | None = None
    ) -> list[tuple[int, bytes]]:
        """Send each node its message, with the model if there is one; who answered in time and what, by node."""
        sent = []
        for node, about in asked.items():
            content = RecordDict({CONFIG: ConfigRecord({"server-round": self._server_round, STAGE: stage, **about})})
            if flat is not None:
                content[ARRAYS] = as_arrays(flat)
            sent.append(Message(content, node, PRIVATE_MESSAGE, group_id=str(self._server_round)))
        replies = self._grid.send_and_receive(sent, timeout=self._deadline_s)
        answers = [(reply.metadata.src_node_id, answer_of(reply)) for reply in replies]
        return sorted((node, answer) for node, answer in answers if answer is not None and node in asked)
