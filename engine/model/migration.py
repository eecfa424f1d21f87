"""From one version of a catalogue to the next, between rounds: what a model, an optimizer and a device take along.

A round pins its catalogue. To add, rename or remove labels, `migrate` makes the checkpoint of the next version: labels
that stay keep their rows to the bit, new ones start from their encoded names as those of a new model do, and the rows
of removed ones go. The re-scorer's population weights say nothing of single labels and stay as they are.

Optimizer: Adam and Yogi keep a first and a second moment for each parameter and treat parameters apart, so the rows of
labels that stay go on as if nothing had happened. New rows start with both moments at zero, which says that no gradient
was seen yet and is what these optimizers start from; their floor τ keeps the first steps from being large. New rows
are held to half of their own start, as the others are (`engine/model/anchor.py`). Sources:
Kingma and Ba 2015 (algorithm 1); Zaheer et al. 2018 (algorithm 2); Reddi et al. 2021 (algorithm 2).

>>> before = Catalogue.from_names(["taxi", "pizza", "opera"])
>>> wanted = Catalogue(labels=(Label(name="pizza"), Label(name="cab", was=("taxi",)), Label(name="spa")))
>>> after = successor(before, wanted)
>>> after.version, after.parent == before.fingerprint, label_map(before, after).source.tolist()
(2, True, [1, 0, -1])
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.encoders.encoder import Encoder, Vectors
from engine.errors import CatalogueError, ModelError
from engine.model.anchor import ANCHOR, anchor_of
from engine.model.catalogue import Catalogue, Label
from engine.model.checkpoint import Checkpoint, check_encoder
from engine.model.inputs import name_vectors

NEW = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMap:
    """Where each label of ``after`` stands in ``before``: ``source`` (C,), `NEW` where it does not."""

    before: Catalogue
    after: Catalogue
    source: npt.NDArray[np.int64]

    @property
    def new(self) -> npt.NDArray[np.int64]:
        """Positions in ``after`` of the labels that ``before`` does not have."""
        return np.flatnonzero(self.source == NEW)

    @property
    def removed(self) -> tuple[str, ...]:
        """Names of the labels that only ``before`` has."""
        stay = set(self.source.tolist())
        return tuple(name for position, name in enumerate(self.before.names) if position not in stay)

    @property
    def renamed(self) -> tuple[tuple[str, str], ...]:
        """Names before and after of the labels that stay under another one."""
        pairs = zip(self.source.tolist(), self.after.names, strict=True)
        names = ((self.before.labels[at].name, name) for at, name in pairs if at != NEW)
        return tuple((old, name) for old, name in names if old != name)

    def rows(self, values: npt.NDArray[Any], fresh: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return rows for the labels of ``after``: those of ``values`` (C before, …), and ``fresh`` ones (new, …)."""
        moved = values[self.source]
        moved[self.new] = fresh
        return moved


def label_map(before: Catalogue, after: Catalogue) -> LabelMap:
    """Return where the labels of one catalogue stand in another of its line, older or newer, by all their names.

    Raises `CatalogueError` where one label would be two of the other catalogue, or two would be one.
    """
    source = np.full(len(after), NEW, dtype=np.int64)
    taken: dict[int, str] = {}
    for position, label in enumerate(after.labels):
        found = sorted({before.index(name) for name in (label.name, *label.was) if name in before})
        if len(found) > 1:
            names = " and ".join(repr(before.labels[at].name) for at in found)
            raise CatalogueError(f"Label {label.name!r} would be both {names}: keep one of them and remove the other.")
        for at in found:
            if at in taken:
                raise CatalogueError(
                    f"Labels {taken[at]!r} and {label.name!r} would both be {before.labels[at].name!r}: rename one."
                )
            taken[at], source[position] = label.name, at
    return LabelMap(before=before, after=after, source=source)


def successor(before: Catalogue, wanted: Catalogue) -> Catalogue:
    """Return ``wanted`` as the version that follows ``before``: numbered, in its line, with all former names.

    Where ``wanted`` has version 1, which is that of a file that does not say, it becomes the next. Raises
    `CatalogueError` where it cannot follow ``before``, or where nothing changes.
    """
    if wanted.parent and wanted.parent != before.fingerprint:
        raise CatalogueError(
            f"This catalogue follows {wanted.parent[:12]}…, and the checkpoint has {before.fingerprint[:12]}…: take "
            'the checkpoint that it was made for, or leave "parent" and "origin" out.'
        )
    version = wanted.version if wanted.version > 1 else before.version + 1
    if version <= before.version:
        raise CatalogueError(
            f"This catalogue has version {version}, and the checkpoint has {before.version} already: give a higher "
            "one, or none for the next."
        )
    moves = label_map(before, wanted)
    labels = tuple(_followed(label, before, int(at)) for label, at in zip(wanted.labels, moves.source, strict=True))
    if labels == before.labels:
        raise CatalogueError(
            "This catalogue has the labels that the checkpoint has already: there is nothing to migrate."
        )
    return replace(wanted, labels=labels, version=version, parent=before.fingerprint, origin=before.line)


def _followed(label: Label, before: Catalogue, at: int) -> Label:
    """The label with the former names of the one that it was."""
    for name in label.was:
        if name not in before:
            raise CatalogueError(
                f"Label {label.name!r} says that it was {name!r}, which the checkpoint's catalogue does not have."
            )
    if at == NEW:
        return label
    old = before.labels[at]
    former = dict.fromkeys((*old.was, old.name, *label.was))
    return replace(label, was=tuple(name for name in former if name != label.name))


def fresh_rows(moves: LabelMap, encoder: Encoder, dimension: int) -> Vectors:
    """Return the class vectors (new, dimension) that the new labels start from: their encoded meanings."""
    meanings = [moves.after.labels[at].meaning for at in moves.new]
    return name_vectors(meanings, encoder, dimension) if meanings else np.zeros((0, dimension), dtype=np.float32)


def migrate(checkpoint: Checkpoint, catalogue: Catalogue, encoder: Encoder) -> Checkpoint:
    """Return the checkpoint of the next version of its catalogue, from which its run goes on.

    The round stays and is where the run that follows begins. Raises `CatalogueError` where ``catalogue`` cannot follow
    the checkpoint's, `EncoderMismatchError` for another encoder, and `ModelError` for a state that is not the
    parameters' own.
    """
    check_encoder(checkpoint, encoder)
    moves = label_map(checkpoint.catalogue, successor(checkpoint.catalogue, catalogue))
    vectors = fresh_rows(moves, encoder, checkpoint.dimension)
    start = np.concatenate([vectors, np.zeros((len(vectors), 1), dtype=np.float32)], axis=1)  # (new, d + 1)
    return replace(
        checkpoint,
        flat=_moved(checkpoint.flat, moves, start),
        catalogue=moves.after,
        begun=checkpoint.round,
        tensors=_moved_state(checkpoint.tensors, moves, start),
    )


def _moved(flat: npt.NDArray[Any], moves: LabelMap, fresh: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """One number a parameter, (C·(d+1),), of the labels after."""
    return moves.rows(flat.reshape(len(moves.before), -1), fresh).reshape(-1)


def _moved_state(state: Mapping[str, npt.NDArray[Any]], moves: LabelMap, start: Vectors) -> dict[str, npt.NDArray[Any]]:
    expected = (len(moves.before) * start.shape[1],)
    for name, value in state.items():
        if value.shape != expected:
            raise ModelError(f"The state {name!r} is not one number a parameter, so it cannot go to other labels.")
    fresh = {ANCHOR: anchor_of(start)}
    return {
        name: _moved(value, moves, fresh.get(name, np.zeros(start.shape, dtype=value.dtype)))
        for name, value in state.items()
    }
