"""The Flower ServerApp: runs the rounds that its configuration names and leaves a checkpoint after each.

The same object runs in a simulation and on a SuperLink. ``model`` names the checkpoint to start from (by default the
label names of the built-in services), ``out`` the folder of ``checkpoint.safetensors``; with ``resume`` the run
continues from that file to the same bits as a run that never stopped.
"""

# isort: off
import federation.flower_env  # noqa: F401 - before Flower
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

# isort: on
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine.catalogue import Catalogue
from engine.checkpoint import Checkpoint, start_checkpoint
from federation.config import MODE_NOTICE, RunSettings
from federation.errors import CheckpointError
from federation.strategy import ARRAY, TacitStrategy, as_arrays, make_strategy

CHECKPOINT_FILE = "checkpoint.safetensors"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all rounds. Raises `RoundError`, `CheckpointError` or `ConfigError`; a normal end means all completed."""
    settings = RunSettings.from_config(context.run_config)
    strategy, start = make_strategy(settings), _start(settings)
    if start.round:
        _check_same_run(settings, start)
        strategy.restore(start.tensors, next_round=start.round + 1)
    left = settings.rounds - start.round
    if left <= 0:
        return
    strategy.start(
        grid=grid,
        initial_arrays=as_arrays(start.flat),
        num_rounds=left,
        timeout=settings.deadline_s,
        train_config=ConfigRecord(
            {
                "mode": settings.mode,
                "local-steps": settings.local_steps,
                "learning-rate": float(settings.learning_rate),
                "clip-norm": float(settings.clip_norm),
                "seed": settings.seed,
            }
        ),
        evaluate_fn=_checkpointer(settings, strategy, start),
    )


def _start(settings: RunSettings) -> Checkpoint:
    path = Path(settings.out) / CHECKPOINT_FILE
    if settings.resume:
        if not settings.out or not path.is_file():
            raise CheckpointError(f"There is nothing to resume: {path} does not exist. Start without --resume.")
        return Checkpoint.load(path)
    if settings.model:
        # A model of another run is a start, not something to continue.
        loaded = Checkpoint.load(Path(settings.model))
        return dataclasses.replace(loaded, round=0, tensors={}, notes={})
    from engine.encoder import load_encoder

    return start_checkpoint(Catalogue.builtin(), load_encoder())


def _check_same_run(settings: RunSettings, start: Checkpoint) -> None:
    before = json.loads(start.notes.get("settings", "{}"))
    # The number of rounds is among them: with more, the phases would not have been where they were.
    for name, value in settings.identity().items():
        if before.get(name) != value:
            raise CheckpointError(
                f"The run to resume has {name}={before.get(name)!r}, not {value!r}. Use its settings or start anew."
            )


def _checkpointer(
    settings: RunSettings, strategy: TacitStrategy, start: Checkpoint
) -> Callable[[int, ArrayRecord], MetricRecord | None]:
    notes = {"settings": json.dumps(settings.to_config(), sort_keys=True), "mode": MODE_NOTICE}

    def after_round(done: int, arrays: ArrayRecord) -> MetricRecord | None:
        if done and settings.out:
            checkpoint = dataclasses.replace(
                start,
                flat=np.asarray(arrays[ARRAY].numpy(), dtype=np.float32),
                round=start.round + done,
                tensors=strategy.state(),
                notes=notes,
            )
            checkpoint.save(Path(settings.out) / CHECKPOINT_FILE)
        return None

    return after_round
