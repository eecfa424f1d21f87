"""A text as its encoder read it: one vector of the whole, and what became of each word in its context.

The vector is the mean over all pieces of words. Where some words matter more than others, as in a question, the states
of the words can be added with other weights, at no further run of the model.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reading:
    """A text's unit ``vector`` (d,), its ``words`` as they stand in it, and the ``states`` (len(words), d) of these.

    A word's state is the sum over its pieces, so that the sum over all words points nearly where ``vector`` does.
    """

    vector: Vectors
    words: tuple[str, ...]
    states: Vectors

    def __post_init__(self) -> None:
        if self.states.shape != (len(self.words), len(self.vector)):
            raise ValueError(f"Expected states of {len(self.words)} words, got shape {self.states.shape}.")


def unread(vector: Vectors) -> Reading:
    """The reading by an encoder that tells nothing of single words."""
    return Reading(vector=vector, words=(), states=np.zeros((0, len(vector)), dtype=np.float32))
