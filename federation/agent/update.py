"""What a device computes for a round with noise, by the terms' task: its change to the model, or a summary.

Both are one float32 array of the terms' length, before clipping; how long it is follows from public numbers alone.
"""

import numpy as np

from engine.device.device import Device
from engine.model.checkpoint import Checkpoint
from engine.model.summary import SummaryPlan
from federation.agent.terms import SUMMARY, NoisyTerms
from federation.errors import UpdateError
from federation.privacy.update import Floats


def check_lengths(terms: NoisyTerms, model: Checkpoint, flat: Floats | None = None) -> None:
    """Raise `UpdateError` unless the terms, and what came with them, are of the length of this device's model."""
    classes, sent = len(model.catalogue), len(model.flat)
    length = sent
    if terms.task == SUMMARY:
        length = classes * (terms.directions + 1) + terms.scatter * (terms.scatter + 1) // 2
        sent = terms.directions * (model.dimension + classes)
    if terms.catalogue != model.catalogue.fingerprint or terms.dimension != length:
        raise UpdateError("This device has another version of the catalogue than the server asks about.")
    if flat is not None and flat.shape != (sent,):
        raise UpdateError(f"Expected {sent} numbers with the request, got {flat.shape}.")


def update_of(device: Device, terms: NoisyTerms, flat: Floats, *, rng: np.random.Generator) -> Floats:
    """Return this device's part, float32 (terms.dimension,), for what came with the round, ``flat``.

    Raises `UpdateError` for what does not fit, and what the engine raises.
    """
    model = device.model
    check_lengths(terms, model, flat)
    if terms.task != SUMMARY:
        return device.train(flat, plan=terms.training, hold_back=terms.hold_back, rng=rng) - flat
    return device.summarise(
        unpack_plan(
            flat,
            directions=terms.directions,
            dimension=model.dimension,
            scatter=terms.scatter,
        )
    )


def pack_plan(plan: SummaryPlan) -> Floats:
    """A plan as it travels, float32 (d·(D + C),): its directions row by row, then its centres."""
    return np.concatenate([plan.basis.reshape(-1), plan.centres.reshape(-1)])


def unpack_plan(flat: Floats, *, directions: int, dimension: int, scatter: int) -> SummaryPlan:
    """What :func:`pack_plan` gave. Raises `ModelError`."""
    end = directions * dimension
    return SummaryPlan(
        basis=flat[:end].reshape(directions, dimension),
        centres=flat[end:].reshape(-1, directions),
        scatter=scatter,
    )
