"""The last rounds of a run: the re-scorer's population weights, by Newton steps on sums over devices.

Each device answers with the gradient and the Hessian of its own leave-one-out likelihood at the weights it was sent,
and with how well it fares for each of a few κ, cautions and chances of a changed habit (`engine.personal.together`):
one float32 array of fixed length, jointly clipped. The server adds them up, takes one step, and notes what else the sum
says. No device's share can be told from the sum's length, and what a later mode masks or adds noise to is one array.
Sampling, refusal of malformed replies and the least number of valid ones are those of the other rounds.
"""

# isort: off
import federation.rounds.flower_env  # noqa: F401 - before Flower
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.serverapp import Grid

# isort: on
import dataclasses
from collections.abc import Callable

import numpy as np

from engine.model.checkpoint import Checkpoint
from engine.personal.together import ANSWER_LENGTH, Learned
from federation.agent.names import CATALOGUE, RESCORER_MESSAGE, WEIGHTS
from federation.rounds.config import RunSettings
from federation.rounds.records import as_arrays
from federation.rounds.strategy import TacitStrategy


def learn_population_weights(
    grid: Grid,
    strategy: TacitStrategy,
    settings: RunSettings,
    model: Checkpoint,
    keep: Callable[[Checkpoint], None],
) -> None:
    """Take the steps that are left after ``model``, and ``keep`` a checkpoint after each. Raises `RoundError`."""
    after_rounds = model.begun + settings.rounds
    for step in range(model.round - after_rounds, settings.rescorer_steps):
        learned = Learned() if model.learned is None else model.learned
        arrays = ArrayRecord({**as_arrays(model.flat), WEIGHTS: Array(np.asarray(learned.weights, dtype=np.float64))})
        config = ConfigRecord(
            {
                "mode": settings.mode,
                "clip-norm": float(settings.rescorer_clip),
                CATALOGUE: model.catalogue.fingerprint,
            }
        )
        current = after_rounds + step + 1
        messages = strategy.invite(current, arrays, config, grid, function=RESCORER_MESSAGE)
        replies = grid.send_and_receive(messages, timeout=settings.deadline_s)
        most = settings.rescorer_clip
        arrays_of = strategy.valid_arrays(current, replies, length=ANSWER_LENGTH, most_norm=most)
        total = sum((array.astype(np.float64) for array in arrays_of), start=np.zeros(ANSWER_LENGTH))
        model = dataclasses.replace(model, learned=learned.after(total), round=current)
        keep(model)
