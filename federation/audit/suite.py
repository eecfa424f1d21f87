"""All audits, one after the other, and what they found together."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.encoders.encoder import CachedEncoder, Encoder
from federation.audit import canaries, extraction, inversion, malicious_server, membership, wire
from federation.audit.finding import BREACH, Finding, Ground, Progress

SEED = 0
AUDITS = (inversion.audit, canaries.audit, membership.audit, malicious_server.audit, wire.audit, extraction.audit)


def run_audits(encoder: Encoder, *, quick: bool, progress: Progress, seed: int = SEED) -> list[Finding]:
    """Return the findings of all audits; ``seed`` decides what is planted where and who is in or out."""
    import torch

    torch.set_num_threads(1)  # A device's training is a few small products.
    held = CachedEncoder(encoder)
    found: list[Finding] = []
    for number, audit in enumerate(AUDITS):
        rng = np.random.default_rng([seed, number])
        found += audit(Ground(encoder=held, rng=rng, quick=quick, progress=progress))
    return found


def as_results(found: Sequence[Finding], *, quick: bool, seconds: float, command: str) -> dict[str, Any]:
    """Return the findings for the report and for programs; ``seconds`` is how long they took."""
    return {
        "kind": "audit",
        "audits": [finding.to_json() for finding in found],
        "breaches": sum(finding.verdict == BREACH for finding in found),
        "quick": quick,
        "seconds": round(seconds, 1),
        "command": command,
    }
