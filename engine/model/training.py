"""Local training: a few gradient steps from the shared model on the device's own labelled memories.

The loss is summed over rows and divided by a fixed reference count, so a device with few rows moves the model less
than one with many; the clip that follows bounds both. Sources: McMahan et al. 2017 (FedAvg); Li et al. 2020
(FedProx, eq. 2: the proximal term).

>>> import numpy as np
>>> start = np.zeros(6, dtype=np.float32)
>>> x, y = np.array([[1.0, 0.0]], dtype=np.float32), np.array([1])
>>> after = train(start, x, y, plan=TrainingPlan(steps=1), rng=np.random.default_rng(0))
>>> bool(after[3] > 0 > after[0])
True
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.encoders.encoder import Vectors
from engine.errors import ModelError
from engine.model.scoring import BIAS_GAIN, SCALE


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """How a device trains in a round: ``steps`` of gradient descent on at most ``batch_rows`` rows each."""

    steps: int = 5
    learning_rate: float = 0.3
    proximal_mu: float = 0.0
    batch_rows: int = 512
    reference_rows: int = 300

    def __post_init__(self) -> None:
        for name in ("steps", "batch_rows", "reference_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected {name}={getattr(self, name)} to be at least 1.")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"Expected learning_rate={self.learning_rate} to be positive and finite.")
        if not 0 <= self.proximal_mu < float("inf"):
            raise ValueError(f"Expected proximal_mu={self.proximal_mu} to be at least 0 and finite.")


def train(
    flat: Vectors, x: Vectors, y: npt.NDArray[np.int64], *, plan: TrainingPlan, rng: np.random.Generator
) -> Vectors:
    """Return the flat model (C·(d+1),) after ``plan.steps`` steps on unit vectors x (n, d) and labels y (n,).

    With no rows the model comes back unchanged. ``rng`` draws the batches where n exceeds ``plan.batch_rows``.
    Raises `ModelError` for a label outside 0..C-1.
    """
    rows, dimension = x.shape
    if rows == 0:
        return flat.copy()
    import torch

    from engine.model.model import class_count

    classes = class_count(flat, dimension)
    if y.min() < 0 or y.max() >= classes:
        raise ModelError(f"Expected labels in 0..{classes - 1}, got {int(y.min())}..{int(y.max())}.")
    if not np.isfinite(flat).all():
        raise ModelError("The model to train from holds NaN or infinity.")
    start = torch.from_numpy(flat.reshape(classes, dimension + 1))  # (C, d + 1), the bias in the last column
    table = start.clone()
    gain = torch.full((rows, 1), BIAS_GAIN)
    inputs = torch.cat([torch.from_numpy(np.ascontiguousarray(x)), gain], dim=1)  # (n, d + 1)
    targets = torch.nn.functional.one_hot(torch.from_numpy(y.astype(np.int64)), classes).float()  # (n, C)
    rate = plan.learning_rate * SCALE / max(rows, plan.reference_rows)
    for _ in range(plan.steps):
        batch_x, batch_y, share = inputs, targets, 1.0
        if rows > plan.batch_rows:
            chosen = torch.from_numpy(rng.choice(rows, size=plan.batch_rows, replace=False))
            batch_x, batch_y, share = inputs[chosen], targets[chosen], rows / plan.batch_rows
        # The gradient of the summed cross-entropy of Model.forward, written out: autograd costs five times as much
        # on matrices of this size.
        errors = torch.softmax(SCALE * (batch_x @ table.T), dim=1) - batch_y  # (n, C)
        pull = plan.learning_rate * plan.proximal_mu * (table - start) if plan.proximal_mu else 0.0
        table = table - (rate * share) * (errors.T @ batch_x) - pull  # (C, d + 1)
    trained: Vectors = table.reshape(-1).numpy()
    return trained
