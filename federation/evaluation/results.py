"""Turns outcomes into the figures of ``results.json``: by method, by device, by round."""

import importlib.metadata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.model.checkpoint import Checkpoint
from federation.evaluation.calibration import calibration
from federation.evaluation.graded import graded
from federation.evaluation.metrics import UserRanks, device_results, gain_interval, routing_result
from federation.rounds.config import MODE_NOTICES, RunSettings
from federation.rounds.noisy_rounds import privacy_of
from federation.simulation.experiment import Experiment, Outcome
from federation.simulation.fleet import Measured

NO_ROUNDS = "no rounds: nothing leaves a device"
_OWN = ("global", "personal")


def figures(measured: Sequence[Measured], *, seed: int) -> dict[str, Any]:
    """Return methods, gain, users, rows and devices of measured members, pooled by user.

    Methods that say how sure they are get ``ece`` and ``nll``; where rows have several accepted answers, all methods
    get ``accuracy_any`` and ``ndcg_at_5``.
    """
    users = [
        UserRanks(user=one.user, baseline=one.by_method["global"], personal=one.by_method["personal"])
        for one in measured
    ]
    further = [name for name in measured[0].by_method if name not in _OWN] if measured else []
    extra: dict[str, dict[str, list[int]]] = {name: defaultdict(list) for name in further}
    for one in measured:
        for name in further:
            extra[name][one.user].extend(one.by_method[name])
    memories = {one.user: one.memories for one in measured}
    result = routing_result(users, rng=np.random.default_rng(seed), extra=extra)
    for name in measured[0].answers if measured else ():
        result["methods"][name] |= calibration([one.answers[name] for one in measured])
    for name in measured[0].accepted if measured else ():
        result["methods"][name] |= graded([ranks for one in measured for ranks in one.accepted[name]])
    return result | {"devices": device_results(users, memories=memories)}


def versus_best(
    measured: Sequence[Measured], methods: Mapping[str, Mapping[str, float]], names: Sequence[str], *, seed: int
) -> dict[str, Any]:
    """Return the gain in accuracy of the personal model over the most accurate of the methods ``names``.

    With its 95% interval, paired, by bootstrap over users: ``{"name", "accuracy": [mean, low, high]}``.
    """
    best = max(names, key=lambda name: methods[name]["accuracy"])
    pairs = [
        UserRanks(user=one.user, baseline=one.by_method[best], personal=one.by_method["personal"]) for one in measured
    ]
    return {"name": best, "accuracy": list(gain_interval(pairs, rng=np.random.default_rng(seed)))}


def header(title: str, command: str, *, generated: bool = False, mode: str | None) -> dict[str, Any]:
    """Return what every results file begins with; ``mode`` is that of the rounds, or None where there are none."""
    return {
        "title": title,
        "generated": generated,
        "mode": NO_ROUNDS if mode is None else MODE_NOTICES[mode],
        "command": command,
        "version": _version("tacit"),
        "versions": {name: _version(name) for name in ("flwr", "torch", "sentence-transformers", "numpy")},
    }


def traffic(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return bytes of encoded messages a device, over all rounds of a run, as a mean over devices and runs."""
    devices = sum(not member.late for outcome in outcomes for member in outcome.people)
    totals = {
        name: sum(int(one[name]) for outcome in outcomes for one in outcome.history)
        for name in ("sent_bytes", "received_bytes")
    }
    return {
        "sent_per_device": totals["sent_bytes"] / devices,
        "received_per_device": totals["received_bytes"] / devices,
    }


def no_privacy() -> dict[str, Any]:
    """Return both ε of rounds in open mode: nothing bounds them."""
    told = "ε = ∞ against the server and of the released model: no noise is added"
    return {"eps_server": None, "eps_released": None, "delta": None, "text": told}


def privacy(model: Checkpoint) -> dict[str, Any]:
    """Return both ε that a run kept within, ``None`` for none, and in words what they rest on."""
    given = privacy_of(model)
    if given is None:
        return no_privacy()
    return given.to_json() | {"text": given.text}


def run_results(experiment: Experiment, settings: RunSettings, outcome: Outcome, *, command: str) -> dict[str, Any]:
    """Return the results of one run, for `tacit demo` and `tacit simulate`."""
    config = {name.replace("-", "_"): value for name, value in settings.to_config().items()}
    for name in ("model", "out", "resume", "roster", "public"):
        config.pop(name)
    config |= {"devices": len(outcome.people), "encoder": outcome.model.encoder, "numbers": outcome.model.flat.size}
    return (
        header(experiment.title, command, generated=experiment.generated, mode=settings.mode)
        | {"config": config, "rounds": outcome.history, "bytes": traffic([outcome])}
        | {"privacy": privacy(outcome.model)}
        | figures(outcome.measured, seed=settings.seed)
        | {"examples": outcome.examples}
    )


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
