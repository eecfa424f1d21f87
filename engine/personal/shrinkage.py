"""How strongly devices hold their own weights to the shared ones: κ of the re-scorer, chosen on sums over devices.

People differ, some populations more than others: where all are alike, a device's own weights fit noise, and where they
are not, weights held too tightly leave the person out. So each device marks a few κ on its own evidence, by five-fold
cross-validation: weights fitted on four fifths rank the rows of the last fifth, and the mark is what the sum of
reciprocal ranks gains over that of the default. Marks travel beside the statistics of a Newton step, the server adds
them up, and the κ with the highest sum holds for all, the default where none gains. Sources: Stone 1974
(cross-validation); Efron and Morris 1975 (shrinking many estimates by what their ensemble shows).

>>> chosen(np.array([1.0, 2.0, -1.5])), chosen(np.array([-1.0, 0.0, -1.5]))
(50.0, 100.0)
"""

import numpy as np

from engine.errors import ModelError
from engine.personal.rescorer import KAPPA, Floats, Judged, local_weights

KAPPAS = (20.0, 50.0, 300.0)
"""What the default, `KAPPA`, is held against."""
FOLDS = 5


def marks(judged: Judged, shared: Floats) -> Floats:
    """Return by how much each κ raises the sum of reciprocal ranks of rows that weights were not fitted to.

    ``shared`` (K,) are the weights that the device's own are held to. Ties count against the true label.
    """
    fold = np.arange(len(judged.y)) % FOLDS
    found = np.zeros(1 + len(KAPPAS))
    for out in range(min(FOLDS, len(judged.y))):
        kept, asked = _part(judged, fold != out), _part(judged, fold == out)
        for place, kappa in enumerate((KAPPA, *KAPPAS)):
            scores = asked.phi @ local_weights(kept, shared, kappa=kappa)  # (a, C)
            true = scores[np.arange(len(asked.y)), asked.y]
            found[place] += (1.0 / (scores >= true[:, None]).sum(axis=1)).sum()
    gains: Floats = found[1:] - found[0]
    return gains


def chosen(summed: Floats) -> float:
    """Return the κ for the summed marks (len(KAPPAS),) of devices. Raises `ModelError` for what is not finite."""
    if summed.shape != (len(KAPPAS),) or not np.isfinite(summed).all():
        raise ModelError(f"Expected {len(KAPPAS)} finite sums of marks.")
    best = int(np.argmax(summed))
    return KAPPAS[best] if summed[best] > 0 else KAPPA


def _part(judged: Judged, rows: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Judged:
    return Judged(phi=judged.phi[rows], y=judged.y[rows])
