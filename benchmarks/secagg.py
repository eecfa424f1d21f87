"""What a secure sum costs a device and the server: `python -m benchmarks.secagg`.

For each cohort size one device goes through a whole round among real neighbours; every stage starts from its stored
state, as a new process would. Prints CPU-seconds and bytes (both ways), their ratios to the limits, and that of bytes
to sending the vector in the clear. The number of neighbours is the one derived for 30% dropouts after shares are
distributed, 5% before and 10% colluding. ``--neighbours`` takes the largest shares of dropouts and colluders, as 3 to
1, for which so many suffice. ``--server`` runs whole rounds in which 30% fail to send an input and prints the server's
CPU-seconds. ``--parameters`` prints what is derived. Options: --dimension, --cohorts, --repeats, --json.
"""

from __future__ import annotations

import argparse
import json
import secrets
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from federation.secagg import (
    Announcement,
    DeviceRound,
    History,
    ParameterError,
    Policy,
    Roster,
    ServerRound,
    SigningKey,
    Terms,
    parameters,
    sizes,
)
from federation.secagg.binding import agreement_text, input_text
from federation.secagg.messages import SEALED_BYTES, SHARES, SURVIVORS, encode_bitmap, encode_signers, framed
from federation.secagg.parameters import derive

MODEL = bytes(32)
CPU_LIMIT, BYTES_LIMIT = 0.2, 4.5
COHORTS = (24, 100, 160, 300, 1000, 3000)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCost:
    """One device's whole round: CPU-seconds, bytes a number, both over their limits, bytes over 4 a number."""

    devices: int
    neighbours: int
    threshold: int
    peers: int
    cpu_s: float
    bytes_a_number: float
    cpu_of_limit: float
    bytes_of_limit: float
    bytes_of_plain: float


class Crowd:
    """A cohort of ``devices`` of which one, at position 0, is measured and its neighbours are real."""

    def __init__(self, devices: int, terms: Terms) -> None:
        self.keys = [SigningKey.generate() for _ in range(devices)]
        self.roster = Roster(version=1, keys=tuple(key.public for key in self.keys))
        self.policy = Policy(terms=(terms,), min_cohort=2, min_threshold=2, min_sum=2)
        self.announcement = Announcement(
            number=1, model_hash=MODEL, roster_version=1, roster_hash=self.roster.hash, terms=terms
        )
        self.server = ServerRound(self.announcement, self.roster)
        self.cpu: list[float] = []
        self.rounds: dict[int, bytes] = {}
        self.vector = np.frombuffer(secrets.token_bytes(4 * terms.dimension), dtype=np.uint32)

    def start(self, index: int) -> bytes:
        started = DeviceRound.start(
            self.announcement.encode(),
            model_hash=MODEL,
            roster=self.roster,
            policy=self.policy,
            history=History(),
            identity=self.keys[index],
        )
        self.rounds[index] = started.round.to_bytes()
        return started.reply

    def ask(self, index: int, stage: str, message: bytes) -> bytes:
        """The reply of a device that takes up its round from bytes, as a new process does."""
        derive.cache_clear()
        taken = DeviceRound.from_bytes(
            self.rounds[index], roster=self.roster, policy=self.policy, identity=self.keys[index]
        )
        rest = (self.vector,) if stage == "input" else ()
        answer = getattr(taken, stage)(message, *rest)
        self.rounds[index] = answer.round.to_bytes()
        reply: bytes = answer.reply
        return reply

    def timed(self, work: Callable[[], bytes]) -> bytes:
        began = time.process_time()
        reply = work()
        self.cpu.append(time.process_time() - began)
        return reply

    def measure(self) -> tuple[float, int]:
        """CPU-seconds of the device at position 0, and its number of peers."""
        server, n = self.server, len(self.keys)
        server.advert(self.timed(lambda: self.start(0)))
        for index in range(1, n):
            server.advert(self.start(index))
        message = server.close_adverts()
        server.reveal(0, self.timed(lambda: self.ask(0, "reveal", message)))
        for index in range(1, n):
            device = DeviceRound.from_bytes(
                self.rounds[index], roster=self.roster, policy=self.policy, identity=self.keys[index]
            )
            answer = device.reveal(message)
            self.rounds[index] = answer.round.to_bytes()
            server.reveal(index, answer.reply)
        server.close_reveals()
        near = sorted({*server._chosen[0], *server._choosers[0]})
        peers = server.peers(0)
        server.shares(0, self.timed(lambda: self.ask(0, "shares", peers)))
        nothing = framed(SHARES, bytes(SEALED_BYTES * server.found.neighbours))
        for index in range(1, n):  # Only those who chose the device need to have sealed anything.
            real = index in server._choosers[0]
            server.shares(index, self.ask(index, "shares", server.peers(index)) if real else nothing)
        server.close_shares()
        forwarded = server.forwarded(0)
        self.timed(lambda: self.ask(0, "input", forwarded))
        everyone = encode_bitmap(range(n), n)
        self.timed(lambda: self.ask(0, "agree", framed(SURVIVORS, everyone)))
        text = agreement_text(server._closed.h3(server._sharers, everyone))
        quorum = server.found.quorum
        agreed = sorted(list(dict.fromkeys([*server._held_by(0), *range(n)]))[:quorum])
        signatures = [self.keys[at].sign(text) for at in agreed]
        masked_with = input_text(server._closed.h2(server._sharers))
        inputs = [self.keys[at].sign(masked_with) for at in server._held_by(0) if at not in agreed]
        signers = encode_signers(encode_bitmap(agreed, n), signatures, inputs)
        self.timed(lambda: self.ask(0, "unmask", signers))
        return sum(self.cpu), len(near)


def device_cost(devices: int, terms: Terms, repeats: int) -> DeviceCost:
    """The median of ``repeats`` rounds."""
    seconds, peers = zip(*(Crowd(devices, terms).measure() for _ in range(repeats)), strict=True)
    found = terms.derive(devices)
    # A device chose k, was chosen by k on average, and by k/(n − 1) of those whom it chose.
    known = round(found.neighbours * (2 - found.neighbours / (devices - 1)))
    unsigned = max(0, found.neighbours - found.quorum)
    messages = sizes(
        found, roster=devices, dimension=terms.dimension, peers=known, held=found.neighbours, unsigned=unsigned
    )
    total = sum(sum(both) for both in messages.values())
    cpu_s = statistics.median(seconds)
    return DeviceCost(
        devices=devices,
        neighbours=found.neighbours,
        threshold=found.threshold,
        peers=round(statistics.median(peers)),
        cpu_s=cpu_s,
        bytes_a_number=total / terms.dimension,
        cpu_of_limit=cpu_s / CPU_LIMIT,
        bytes_of_limit=total / terms.dimension / BYTES_LIMIT,
        bytes_of_plain=total / (4 * terms.dimension),
    )


def server_cost(devices: int, terms: Terms) -> float:
    """CPU-seconds of the server in a round whose inputs 30% of the devices fail to send, the dearest dropout."""
    crowd, spent = Crowd(devices, terms), 0.0
    server = crowd.server

    def on_server(work: Callable[..., object], *rest: object) -> object:
        nonlocal spent
        began = time.process_time()
        result = work(*rest)
        spent += time.process_time() - began
        return result

    everyone = range(devices)
    for index in everyone:
        on_server(server.advert, crowd.start(index))
    message = on_server(server.close_adverts)
    for index in everyone:
        on_server(server.reveal, index, crowd.ask(index, "reveal", message))  # type: ignore[arg-type]
    on_server(server.close_reveals)
    for index in everyone:
        peers = on_server(server.peers, index)
        on_server(server.shares, index, crowd.ask(index, "shares", peers))  # type: ignore[arg-type]
    on_server(server.close_shares)
    present = range(terms.dropout * devices // 1000, devices)
    for index in present:
        forwarded = on_server(server.forwarded, index)
        on_server(server.input, index, crowd.ask(index, "input", forwarded))  # type: ignore[arg-type]
    message = on_server(server.close_inputs)
    for index in present:
        on_server(server.agreement, index, crowd.ask(index, "agree", message))  # type: ignore[arg-type]
    on_server(server.close_agreements)
    for index in present:
        signers = on_server(server.signers, index)
        on_server(server.unmask, index, crowd.ask(index, "unmask", signers))  # type: ignore[arg-type]
    total = on_server(server.sum)
    expected = (crowd.vector.astype(np.uint64) * len(present) % 2**32).astype(np.uint32)
    if not np.array_equal(np.asarray(total), expected):
        raise SystemExit("The sum is wrong.")
    return spent


def terms_for(devices: int, dimension: int, neighbours: int) -> Terms | None:
    """The largest shares of dropouts and colluders, as 3 to 1, for which so many neighbours suffice."""
    for colluding in range(100, 0, -5):
        terms = Terms(dimension=dimension, dropout=3 * colluding, colluding=colluding, early=50)
        try:
            found = terms.derive(devices)
        except ParameterError:
            continue
        if found.neighbours <= neighbours:
            return terms
    return None


def print_parameters(cohorts: tuple[int, ...]) -> None:
    print("30% dropouts, 5% early, 10% colluding; failure and breach: −log2 of the bound on their chance")
    print(
        f"{'devices':>8} {'k':>5} {'t':>4} {'lost':>5} {'colluding':>9} {'quorum':>7} {'least sum':>9} {'failure':>8} "
        f"{'breach':>7}"
    )
    for devices in cohorts:
        try:
            f = parameters(devices, dropout=0.3, colluding=0.1)
        except ParameterError as error:
            print(f"{devices:8,} {error}")
            continue
        print(
            f"{devices:8,} {f.neighbours:5} {f.threshold:4} {f.lost:5} {f.colluding:9} {f.quorum:7} {f.smallest_sum:9}"
            f" {f.failure_bits:8.1f} {f.breach_bits:7.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dimension", type=int, default=100_000)
    parser.add_argument("--cohorts", type=int, nargs="+", default=list(COHORTS))
    parser.add_argument("--neighbours", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--server", action="store_true")
    parser.add_argument("--parameters", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if asked.parameters:
        print_parameters(tuple(asked.cohorts))
        return
    if asked.server:
        print(f"d = {asked.dimension:,}; 30% of the devices fail to send their input")
        for devices in asked.cohorts:
            seconds = server_cost(devices, Terms(dimension=asked.dimension))
            print(f"{devices:8,} devices: {seconds:8.2f} CPU-seconds, {1000 * seconds / devices:6.1f} ms a device")
        return
    rows = []
    print(f"d = {asked.dimension:,}; limits {CPU_LIMIT} CPU-seconds, {BYTES_LIMIT} bytes a number", file=sys.stderr)
    print(
        f"{'devices':>8} {'k':>5} {'t':>4} {'peers':>6} {'CPU-s':>7} {'×limit':>7} {'bytes/number':>13} {'×limit':>7} "
        f"{'×plain':>7} {'dropouts':>9} {'colluding':>10}"
    )
    for devices in asked.cohorts:
        terms: Terms | None = Terms(dimension=asked.dimension)
        if asked.neighbours:
            terms = terms_for(devices, asked.dimension, asked.neighbours)
        if terms is None:
            print(f"{devices:8,} no dropouts and colluders are borne by {asked.neighbours} neighbours")
            continue
        row = device_cost(devices, terms, asked.repeats)
        rows.append({**asdict(row), **asdict(terms)})
        print(
            f"{row.devices:8,} {row.neighbours:5} {row.threshold:4} {row.peers:6} {row.cpu_s:7.3f} "
            f"{row.cpu_of_limit:7.2f} {row.bytes_a_number:13.3f} {row.bytes_of_limit:7.3f} {row.bytes_of_plain:7.3f} "
            f"{terms.dropout / 10:8g}% {terms.colluding / 10:9g}%"
        )
    if asked.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
