"""What devices learn together about choices: item factors, how histories lead to new items, and how habits weigh.

The model knows a fixed list of public items; of any user it holds sums alone. ``basis`` (n, k) spans the directions in
which tastes differ, ``weights`` (n, 4·k) give each item's score to a person's features, and ``shares`` (n,) say how
often each is chosen as something new (`engine.choices.factors`). ``habits`` (K,) weigh what the person did before
(`engine.choices.habits`), ``repeat_rate`` says how often a choice repeats an earlier one.
On disk it is a `Checkpoint` whose classes are the items, so its file is checked like any other.

>>> model = ChoiceModel.start(Catalogue.from_names(["tea", "coffee", "milk"]), factors=2, seed=0)
>>> model.basis.shape, model.weights, ChoiceModel.from_bytes(model.to_bytes()).factors
((3, 2), None, 2)
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.choices.factors import BLOCKS, orthonormal
from engine.choices.habits import PUBLIC_HABITS, check_habits
from engine.errors import ModelError
from engine.model.catalogue import Catalogue
from engine.model.checkpoint import Checkpoint
from engine.personal.rescorer import Floats

# Stands where a checkpoint names its encoder: no device takes it for one of those.
KIND = "tacit choice factors 2"
KIND_WITHOUT_SHARES = "tacit choice factors 1"
_NO_SHARE = 1e-6
FACTORS = 32
MOST_FACTORS = 256
Basis = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceModel:
    """The shared part of choosing; ``weights`` and ``shares`` are ``None`` before rounds have learned them.

    Raises `ModelError`.
    """

    items: Catalogue
    basis: Basis
    weights: Basis | None = None
    shares: Floats | None = None
    habits: Floats = field(default_factory=PUBLIC_HABITS.copy)
    repeat_rate: float = 0.5
    round: int = 0
    tensors: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, k = len(self.items), self.factors
        if self.basis.shape != (n, k) or not 2 <= k <= MOST_FACTORS:
            raise ModelError(f"Expected factors of {n} items, 2 to {MOST_FACTORS} each, got shape {self.basis.shape}.")
        if self.weights is not None and self.weights.shape != (n, BLOCKS * k):
            raise ModelError(f"Expected weights of shape {(n, BLOCKS * k)}, got {self.weights.shape}.")
        if (self.shares is None) != (self.weights is None):
            raise ModelError("Expected weights and shares of items together.")
        if self.shares is not None and (
            self.shares.shape != (n,) or not 0 < self.shares.min() <= self.shares.max() <= 1
        ):
            raise ModelError(f"Expected shares of {n} items, each above 0 and at most 1.")
        for values in (self.basis, self.weights):
            if values is not None and not np.isfinite(values).all():
                raise ModelError("The model of choices holds NaN or infinity, so it is refused.")
        check_habits(self.habits)
        if not 0 <= self.repeat_rate <= 1:
            raise ModelError(f"Expected repeat_rate={self.repeat_rate} from 0 to 1.")

    @property
    def factors(self) -> int:
        """How many numbers stand for an item: k."""
        return int(self.basis.shape[-1])

    @classmethod
    def start(cls, items: Catalogue, *, factors: int = FACTORS, seed: int = 0) -> "ChoiceModel":
        """Return the model before any round: a random basis, the same for the same seed."""
        if not 2 <= factors <= MOST_FACTORS:
            raise ModelError(f"Expected factors={factors} from 2 to {MOST_FACTORS}.")
        drawn: Floats = np.random.default_rng(seed).normal(size=(len(items), factors))
        return cls(items=items, basis=orthonormal(drawn))

    def to_bytes(self) -> bytes:
        """Return the file's bytes; the same for equal models."""
        return self._checkpoint().to_bytes()

    @classmethod
    def from_bytes(cls, content: bytes, *, name: str = "model of choices") -> "ChoiceModel":
        """Read a file's bytes; raise `ModelError` that names it if it is damaged or another kind of model."""
        return cls._of(Checkpoint.from_bytes(content, name=name), name)

    def save(self, path: Path) -> None:
        """Write atomically. Raises `ModelError`."""
        self._checkpoint().save(path)

    @classmethod
    def load(cls, path: Path) -> "ChoiceModel":
        """Read a file; raise `ModelError` that names it."""
        return cls._of(Checkpoint.load(path), str(path))

    def bare(self) -> "ChoiceModel":
        """Return the model without what only continues a run on the server."""
        return dataclasses.replace(self, tensors={}, notes={})

    def content_hash(self) -> bytes:
        """Return SHA-256 (32 bytes) of all that it holds: see `Checkpoint.content_hash`."""
        return self._checkpoint().content_hash()

    def _checkpoint(self) -> Checkpoint:
        columns = [self.basis] if self.weights is None else [self.basis, self.weights]
        table = np.concatenate(columns, axis=1).astype(np.float32)  # (n, k) or (n, 5·k)
        own = {"choice.habits": self.habits, "choice.repeat_rate": np.array([self.repeat_rate])}
        if self.shares is not None:
            own["choice.shares"] = self.shares
        return Checkpoint(
            flat=table.reshape(-1),
            dimension=table.shape[1] - 1,
            encoder=KIND,
            catalogue=self.items,
            round=self.round,
            title=self.items.title,
            tensors={**self.tensors, **own},
            notes={**self.notes, "factors": str(self.factors)},
        )

    @classmethod
    def _of(cls, checkpoint: Checkpoint, name: str) -> "ChoiceModel":
        if checkpoint.encoder not in (KIND, KIND_WITHOUT_SHARES):
            raise ModelError(f"{name} is a model of labels, not of choices.")
        tensors, notes = dict(checkpoint.tensors), dict(checkpoint.notes)
        try:
            k = int(notes.pop("factors"))
            table = checkpoint.flat.reshape(len(checkpoint.catalogue), -1)
            weights = table[:, k:] if table.shape[1] > k else None
            shares = tensors.pop("choice.shares", None)
            if weights is not None and checkpoint.encoder == KIND_WITHOUT_SHARES:
                # What it says of who chose nothing yet comes nearest to them.
                shares = np.clip(weights[:, -1], _NO_SHARE, 1.0).astype(np.float64)
            return cls(
                items=checkpoint.catalogue,
                basis=table[:, :k],
                weights=weights,
                shares=shares,
                habits=tensors.pop("choice.habits"),
                repeat_rate=float(tensors.pop("choice.repeat_rate")[0]),
                round=checkpoint.round,
                tensors=tensors,
                notes=notes,
            )
        except (KeyError, ValueError, IndexError) as error:
            raise ModelError(f"{name} is not a whole model of choices: {error}") from None
