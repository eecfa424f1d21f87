"""Rounds about choices: the shared factors of items, from sums over devices, by the message ``train.choice``.

First come ``rounds`` steps of a block power iteration, each of which sends the sum's orthonormal basis out again; then
four rounds in each of which devices add one block of the regression's right side, and its Gram matrix. Each answer also
carries the statistics of a Newton step of the habits' shared weights, and the share of repeats. All are sums in one
array whose length depends on the model alone, so that a mode that masks or adds noise needs no other message. What is
summed is divided by the number of answers: a round that some devices miss weighs the same. There is no learning rate.
"""

# isort: off
import federation.rounds.flower_env  # noqa: F401 - before Flower
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

# isort: on
import dataclasses
from collections.abc import Callable

import numpy as np

from engine.choices import habits
from engine.choices.factors import BLOCKS, orthonormal, solve
from engine.choices.model import ChoiceModel
from engine.device.chooses import POWER, REPEATS, reply_length
from engine.personal.rescorer import Floats
from federation.agent.names import CHOICE_MESSAGE, FACTORS, ITEMS, STEP, WEIGHTS
from federation.errors import CheckpointError
from federation.rounds.config import RunSettings
from federation.rounds.records import as_arrays
from federation.rounds.strategy import TacitStrategy

CHOICE_FILE = "choice.safetensors"
_GRAM, _TARGETS = "gram", "targets"
_ROUNDING = 1 + 1e-6


def all_choice_rounds(settings: RunSettings) -> int:
    """How many rounds a run about choices takes: the power iteration's, and one for each block."""
    return settings.rounds + BLOCKS


def learn_choices(
    grid: Grid,
    strategy: TacitStrategy,
    settings: RunSettings,
    model: ChoiceModel,
    keep: Callable[[ChoiceModel], None],
) -> ChoiceModel:
    """Run the rounds that are left after ``model``, and ``keep`` the model after each. Raises `RoundError`."""
    n, k = model.basis.shape
    length = reply_length(n, k)
    for done in range(model.round, all_choice_rounds(settings)):
        step = POWER if done < settings.rounds else done - settings.rounds
        messages = _invitations(grid, strategy, settings, model, step=step, current=done + 1)
        replies = grid.send_and_receive(messages, timeout=settings.deadline_s)
        # Of two parts, each clipped for itself, and of two numbers that are at most 1.
        most = float(np.sqrt(2.0 * settings.choice_clip**2 + REPEATS)) * _ROUNDING
        given = strategy.valid_arrays(done + 1, replies, length=length, most_norm=most)
        total = np.zeros(length)
        for array in given:
            total += array
            if not 0 <= array[-2] <= array[-1] <= 1:  # No share: whoever says so has no say in the repeats.
                total[-REPEATS:] -= array[-REPEATS:]
        model = dataclasses.replace(after_step(model, total, len(given), step=step), round=done + 1)
        keep(model)
    return model


def after_step(model: ChoiceModel, total: Floats, answers: int, *, step: int) -> ChoiceModel:
    """Return the model after a round whose ``answers`` sum up to ``total`` (`reply_length`,)."""
    n, k = model.basis.shape
    size = BLOCKS * k
    cuts = np.cumsum([n * k, size * (size + 1) // 2, habits.STATISTICS_LENGTH])
    block, gram, habit, repeats = np.split(total, cuts)
    learned = dataclasses.replace(
        model,
        habits=habits.newton_step(model.habits, habit),
        # As if of two more devices one repeated always and one never.
        repeat_rate=float(np.clip((repeats[0] + 1) / (repeats[1] + 2), 0.0, 1.0)),
    )
    block = block.reshape(n, k)
    if step == POWER:
        return dataclasses.replace(learned, basis=orthonormal(block))
    targets = np.zeros((n, size)) if step == 0 else np.array(_state(model, _TARGETS, (n, size)))
    before = np.zeros(len(gram)) if step == 0 else _state(model, _GRAM, gram.shape)
    targets[:, step * k : (step + 1) * k] = block / max(answers, 1)
    mean = (before * step + gram / max(answers, 1)) / (step + 1)
    if step < BLOCKS - 1:
        return dataclasses.replace(learned, tensors={_GRAM: mean, _TARGETS: targets})
    weights, shares = solve(mean * answers, targets * answers)
    return dataclasses.replace(learned, weights=weights, shares=shares, tensors={})


def _state(model: ChoiceModel, name: str, shape: tuple[int, ...]) -> Floats:
    """What earlier rounds left for the next. Raises `CheckpointError`."""
    value = model.tensors.get(name)
    if value is None or value.shape != shape:
        raise CheckpointError("The run to resume left no sums of the rounds before: start anew without --resume.")
    return value.astype(np.float64)


def _invitations(
    grid: Grid, strategy: TacitStrategy, settings: RunSettings, model: ChoiceModel, *, step: int, current: int
) -> list[Message]:
    weights = Array(np.asarray(model.habits, dtype=np.float64))
    arrays = ArrayRecord({**as_arrays(model.basis.reshape(-1)), WEIGHTS: weights})
    config = ConfigRecord(
        {
            "mode": settings.mode,
            "clip-norm": float(settings.choice_clip),
            FACTORS: model.factors,
            ITEMS: model.items.fingerprint,
            STEP: step,
        }
    )
    return strategy.invite(current, arrays, config, grid, function=CHOICE_MESSAGE)


def check_start(model: ChoiceModel) -> ChoiceModel:
    """Return what a run starts from: the model's items and basis, and nothing else that another run learned."""
    return ChoiceModel(items=model.items, basis=model.basis)
