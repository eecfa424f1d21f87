"""What `tacit audit` says of code with a defect: each of six is put into one function, and the quick audit runs.

python -m benchmarks.audit_defects [NAME …]

A test asserts that each is a breach (tests/federation/audit/test_audit_defects.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np

from engine.device.participant import Participant
from engine.encoders.encoder import CachedEncoder, load_encoder
from federation.audit import canaries, inversion, malicious_server, membership, wire
from federation.audit.finding import Finding, Ground
from federation.privacy import mechanism
from federation.report.audit import cells
from federation.secagg import masks

Audit = Callable[[Ground], list[Finding]]
quantise, share, derive_key = mechanism.quantise, mechanism.share, masks.derive_key


def without_noise(noise: str, count: int, variance: float, stream: Any) -> np.ndarray:
    return np.zeros(count, dtype=np.int64)


def a_third_of_the_noise(noise: str, count: int, variance: float, stream: Any) -> np.ndarray:
    return share(noise, count, variance / 9, stream)


def weighted_by_memories(delta: np.ndarray, parameters: Any, stream: Any) -> np.ndarray:
    """Devices with long updates have many memories. The weights average to 1, so the sum is as long as ever."""
    weight = 1.6 if (np.abs(delta.astype(np.float64)) ** 2).sum() > 4 * parameters.clip_norm**2 else 0.4
    return np.rint(weight * quantise(delta, parameters, stream)).astype(np.int64)


def clipped_by_a_factor(delta: np.ndarray, parameters: Any, stream: Any) -> np.ndarray:
    """As Flower clips: infinity makes the factor 0 and NaN none, and all else passes as it is or is lost."""
    with np.errstate(all="ignore"):
        norm = np.sqrt((delta.astype(np.float64) ** 2).sum())
        factor = parameters.clip_norm / norm
        scaled = delta.astype(np.float64) * (factor if factor < 1 else 1.0) * parameters.scale / parameters.clip_norm
        return np.rint(scaled).astype(np.int64)


def keys_of_32_bits(secret: bytes, label: str, **given: Any) -> bytes:
    """A key of 32 bits that looks like one of 256."""
    return hashlib.sha256(derive_key(secret, label, **given)[:4]).digest()


def no_entry(*_: Any, **__: Any) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """``replacement`` in place of ``owner``'s ``name``; ``audits`` run, and findings that begin so are breaches."""

    owner: Any
    name: str
    replacement: Callable[..., Any]
    audits: Sequence[Audit]
    breaches: Sequence[str]
    slow: bool = False  # More than a few seconds.

    @contextlib.contextmanager
    def put_in(self) -> Iterator[None]:
        with mock.patch.object(self.owner, self.name, self.replacement):
            yield


def secure_sum(ground: Ground) -> list[Finding]:
    return malicious_server.secure_sum_findings(ground, lambda: None)


_BELLS = ("lower bound of ε", "estimate of ε", "share of noise missing")
DEFECTS: dict[str, Defect] = {
    "no noise": Defect(
        owner=mechanism, name="share", replacement=without_noise, audits=(canaries.audit,), breaches=_BELLS
    ),
    "a third of the noise": Defect(
        owner=mechanism, name="share", replacement=a_third_of_the_noise, audits=(canaries.audit,), breaches=_BELLS
    ),
    "weights by memories": Defect(
        owner=mechanism,
        name="quantise",
        replacement=weighted_by_memories,
        audits=(canaries.audit,),
        breaches=("estimate of ε",),
    ),
    "unclipped NaN": Defect(
        owner=mechanism,
        name="quantise",
        replacement=clipped_by_a_factor,
        audits=(canaries.audit,),
        breaches=("malformed updates",),
    ),
    "32-bit mask keys": Defect(
        owner=masks,
        name="derive_key",
        replacement=keys_of_32_bits,
        audits=(secure_sum,),
        breaches=("masks of other than 256-bit keys",),
    ),
    "a skipped ledger": Defect(
        owner=Participant,
        name="contribute",
        replacement=no_entry,
        audits=(wire.audit,),
        breaches=("updates that no ledger has",),
    ),
    "no noise, learned from": Defect(
        owner=mechanism,
        name="share",
        replacement=without_noise,
        audits=(inversion.audit, membership.audit),
        breaches=("texts recovered, private sums", "label rate, private sums", "true positives"),
        slow=True,
    ),
    "a third of the noise, learned from": Defect(
        owner=mechanism,
        name="share",
        replacement=a_third_of_the_noise,
        audits=(inversion.audit,),
        breaches=("label rate, private sums",),
        slow=True,
    ),
}


@contextlib.contextmanager
def silent(_: str, __: int) -> Iterator[Callable[[], None]]:
    yield lambda: None


def main(names: Sequence[str]) -> None:
    held = CachedEncoder(load_encoder())
    for name in names or DEFECTS:
        defect, ground = DEFECTS[name], Ground(encoder=held, rng=np.random.default_rng(0), quick=True, progress=silent)
        print(f"{name}:")
        with defect.put_in():
            for finding in [finding for audit in defect.audits for finding in audit(ground)]:
                if finding.verdict == "breach" or finding.name.startswith(tuple(defect.breaches)):
                    what, figure, limit, verdict = cells(finding.to_json())
                    print(f"  {what:48} {figure:>8}  at most {limit:>6}  {verdict}")


if __name__ == "__main__":
    main(sys.argv[1:])
