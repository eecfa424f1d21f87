"""The Flower ServerApp: runs the rounds that its configuration names and leaves a checkpoint after each.

The same object runs in a simulation and on a SuperLink. ``model`` names the checkpoint to start from (by default the
label names of the built-in services), ``out`` the folder of ``checkpoint.safetensors``; with ``resume`` the run
continues from that file, without noise to the same bits as a run that never stopped. Where that file was migrated to
the next version of its catalogue, a run of ``rounds`` more begins there, with the optimizer's state and settings of its
own.
"""

# isort: off
import federation.rounds.flower_env  # noqa: F401 - before Flower
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

# isort: on
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine.choices.model import ChoiceModel
from engine.model.catalogue import Catalogue
from engine.model.checkpoint import Checkpoint, start_checkpoint
from engine.owner.modes import OPEN
from federation.agent.names import ARRAY, CATALOGUE
from federation.errors import CheckpointError
from federation.rounds.choice_rounds import CHOICE_FILE, check_start, learn_choices
from federation.rounds.config import MODE_NOTICES, RunSettings
from federation.rounds.gate import check_same_canaries, make_gate, refused_rounds
from federation.rounds.noisy_rounds import learn_with_noise, load_roster
from federation.rounds.records import as_arrays
from federation.rounds.rescorer_rounds import learn_population_weights
from federation.rounds.strategy import TacitStrategy, make_strategy

CHECKPOINT_FILE = "checkpoint.safetensors"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all rounds. Raises `RoundError`, `CheckpointError` or `ConfigError`; a normal end means all completed."""
    settings = RunSettings.from_config(context.run_config)
    if settings.choice:
        _learn_choices(grid, settings)
        return
    strategy, model = make_strategy(settings), _start(settings)
    if model.round > model.begun:
        _check_same_run(settings, model)
    gate = strategy.gate = make_gate(settings, model)
    strategy.refused = refused_rounds(model.notes)
    if model.round > model.begun:
        check_same_canaries(model.notes, gate)
    keep = _keeper(settings)
    if settings.mode != OPEN:
        learn_with_noise(grid, strategy, settings, model, load_roster(settings), keep)
        return
    if model.round - model.begun < settings.rounds:
        model = _train(grid, strategy, settings, model, keep)
    learn_population_weights(grid, strategy, settings, model, keep)


def _learn_choices(grid: Grid, settings: RunSettings) -> None:
    """Run the rounds of a model of choices. Raises `RoundError` and `CheckpointError`."""
    path, notes = Path(settings.out) / CHOICE_FILE, _notes(settings)
    if settings.resume and not path.is_file():
        raise CheckpointError(f"There is nothing to resume: {path} does not exist. Start without --resume.")
    model = ChoiceModel.load(path) if settings.resume else check_start(ChoiceModel.load(Path(settings.choice)))
    if model.round:
        _check_same_run(settings, model)

    def keep(model: ChoiceModel) -> None:
        if settings.out:
            dataclasses.replace(model, notes=notes).save(path)

    learn_choices(grid, make_strategy(settings), settings, model, keep)


def _train(
    grid: Grid, strategy: TacitStrategy, settings: RunSettings, start: Checkpoint, keep: Callable[[Checkpoint], None]
) -> Checkpoint:
    """Run the rounds that are left of the model's; the last checkpoint."""
    if start.round:
        strategy.restore(start.tensors, next_round=start.round + 1, begun=start.begun)
    else:
        strategy.hold_to(start)
    latest = start

    def after_round(done: int, arrays: ArrayRecord) -> MetricRecord | None:
        nonlocal latest
        if done:
            flat = np.asarray(arrays[ARRAY].numpy(), dtype=np.float32)
            notes = {**start.notes, **strategy.notes()}
            latest = dataclasses.replace(
                start, flat=flat, round=start.round + done, tensors=strategy.state(), notes=notes
            )
            keep(latest)
        return None

    strategy.start(
        grid=grid,
        initial_arrays=as_arrays(start.flat),
        num_rounds=settings.rounds - (start.round - start.begun),
        timeout=settings.deadline_s,
        train_config=ConfigRecord(
            {
                "mode": settings.mode,
                "local-steps": settings.local_steps,
                "learning-rate": float(settings.learning_rate),
                "clip-norm": float(settings.clip_norm),
                "seed": settings.seed,
                CATALOGUE: start.catalogue.fingerprint,
            }
        ),
        evaluate_fn=after_round,
    )
    return latest


def _start(settings: RunSettings) -> Checkpoint:
    path = Path(settings.out) / CHECKPOINT_FILE
    if settings.resume:
        if not settings.out or not path.is_file():
            raise CheckpointError(f"There is nothing to resume: {path} does not exist. Start without --resume.")
        return Checkpoint.load(path)
    if settings.model:
        # A model of another run is a start, not something to continue.
        loaded = Checkpoint.load(Path(settings.model))
        return dataclasses.replace(loaded, round=0, begun=0, learned=None, tensors={}, notes={})
    from engine.encoders.encoder import load_encoder

    return start_checkpoint(Catalogue.builtin(), load_encoder())


def _check_same_run(settings: RunSettings, start: Checkpoint | ChoiceModel) -> None:
    before = json.loads(start.notes.get("settings", "{}"))
    # The number of rounds is among them: with more, the phases would not have been where they were.
    for name, value in settings.identity().items():
        if before.get(name) != value:
            raise CheckpointError(
                f"The run to resume has {name}={before.get(name)!r}, not {value!r}. Use its settings or start anew."
            )


def _keeper(settings: RunSettings) -> Callable[[Checkpoint], None]:
    """What puts a checkpoint into the folder that the settings name, if they do."""
    notes = _notes(settings)

    def keep(model: Checkpoint) -> None:
        if settings.out:
            dataclasses.replace(model, notes={**model.notes, **notes}).save(Path(settings.out) / CHECKPOINT_FILE)

    return keep


def _notes(settings: RunSettings) -> dict[str, str]:
    return {"settings": json.dumps(settings.to_config(), sort_keys=True), "mode": MODE_NOTICES[settings.mode]}
