"""The server's gate: a round whose model does worse on public texts than the model before it is undone.

The server has no device's data, and in private mode sees no update. What it can do is to try each new model on texts
whose labels are public: pieces of the catalogue's own names and descriptions, and the rows of a file if there is one.
On each of these sets the model before the round and the one after it are compared text by text. With a margin m, a
round is refused where

- the answers that were right and are wrong now, less those that became right, are more than m of the right ones, or
- on rows, the geometric mean of the true labels' probabilities falls by more than the share m: −ln(1 − m) nats,

in each case by more than chance explains: three standard errors of the paired difference (for answers McNemar 1947),
and, where the step holds known noise, the mean and four standard deviations of what as much noise alone does to the
model before, over 64 draws. What is judged is the model's whole step, so it does not matter what made it. A model with
NaN or infinity is refused on sight.

Rows are what the model is for: an honest round makes it better on them, so their margin is small. The catalogue's
pieces are what the model begins with, and honest rounds unlearn some of it: one may take half of it in a run, evenly
over its rounds, or the margin if that is more; and how sure the model is of them says more of what made it than of who
lied, so answers alone count.

So a round that ruins the model is stopped. A lie about labels or texts that no canary asks about is not seen, nor one
that costs less than the margin, round after round (`docs/threat-model.md`).

>>> catalogue = Catalogue(labels=(Label(name="taxi", description="Books a ride."), Label(name="pizza")))
>>> [text for text, label in catalogue_texts(catalogue) if label == 0]
['taxi', 'books a', 'a ride', 'books', 'a', 'ride']
"""

import contextlib
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.encoders.encoder import Encoder, Vectors, load_encoder
from engine.errors import EncoderMismatchError
from engine.model.catalogue import Catalogue, Label
from engine.model.checkpoint import MAX_PARAMETER, Checkpoint, check_encoder
from engine.model.inputs import encode_inputs
from engine.model.scoring import BIAS_GAIN, SCALE, logits
from federation.data.dataset import read_rows
from federation.errors import CheckpointError, ConfigError
from federation.privacy.update import Floats
from federation.rounds.config import CATALOGUE_CANARIES, NO_CANARIES, RunSettings

REFUSED, CANARIES = "refused", "canaries"  # Notes of a checkpoint: rounds that were undone and why; who was asked.
_CHANCE = 3.0  # Standard errors of the paired difference.
_NOISE = 4.0  # Standard deviations of what noise alone does.
_DRAWS = 64
_UNLEARNT = 0.5  # Of what the catalogue says, by an honest run.
_WORD = re.compile(r"\w+")

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Canaries:
    """Public texts as a model sees them, x (n, D), their labels y (n,), and the ``name`` of where they come from.

    ``margin`` is the share that a round may take, and ``sure`` says whether it counts how sure a model is of them.
    """

    name: str
    x: Vectors
    y: Labels
    margin: float
    sure: bool = True

    def marks(self, table: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
        """Which answers of the logits ``table`` (…, n, C) are right, and the true labels' log probabilities."""
        top = table.max(axis=-1)
        own = np.take_along_axis(table, self.y.reshape(-1, 1), axis=-1)[..., 0]
        return own == top, own - top - np.log(np.exp(table - top[..., None]).sum(axis=-1))


class Gate:
    """Tries models on ``canaries``; ``seed`` and the round draw the noise that it compares with.

    Without canaries it refuses NaN and infinity alone.
    """

    def __init__(self, canaries: Sequence[Canaries] = (), *, seed: int = 0) -> None:
        self._canaries, self._seed = tuple(canaries), seed

    @property
    def fingerprint(self) -> str:
        """Identifies the texts, as the model sees them, and their labels."""
        digest = hashlib.sha256()
        for one in self._canaries:
            digest.update(f"{one.x.shape}\0".encode() + one.x.tobytes() + one.y.tobytes())
        return digest.hexdigest()[:32]

    def refusal(self, before: Floats, after: Floats, *, server_round: int, noise_std: float = 0.0) -> str | None:
        """Say why the model ``after`` (C·(D+1),) may not follow ``before``; ``None`` where it may.

        ``noise_std`` is the standard deviation of the known noise on each of the step's numbers.
        """
        # Written so that NaN fails as well.
        if not np.abs(after).max(initial=0) <= MAX_PARAMETER:
            return f"the model holds NaN, infinity or sizes above {MAX_PARAMETER:g}"
        for one in self._canaries:
            told = self._judged(one, before, after, server_round, noise_std)
            if told is not None:
                return told
        return None

    def _judged(self, one: Canaries, before: Floats, after: Floats, server_round: int, noise_std: float) -> str | None:
        was, now = _scores(one, before), _scores(one, after)
        (right, log), (right_now, log_now) = one.marks(was), one.marks(now)
        lost, won = int((right & ~right_now).sum()), int((~right & right_now).sum())
        falls, count = log - log_now, len(log)
        by_noise = (0.0, 0.0)
        if noise_std > 0:
            by_noise = _by_noise(one, was, noise_std, np.random.default_rng([self._seed, server_round]))
        wrong = one.margin * right.sum() + count * by_noise[0] + _CHANCE * math.sqrt(lost + won)
        nats = -math.log1p(-one.margin) + by_noise[1] + _CHANCE * float(falls.std()) / math.sqrt(count)
        if lost - won <= wrong and (falls.mean() <= nats or not one.sure):
            return None
        return (
            f"of {count} public texts ({one.name}) it sets {right_now.sum()} right, {right.sum()} before, and gives "
            f"their labels {math.exp(log_now.mean()):.3g} on average, {math.exp(log.mean()):.3g} before"
        )


def _scores(one: Canaries, flat: Floats) -> npt.NDArray[np.float64]:
    """Logits (n, C) of the canaries by a flat model."""
    table = flat.astype(np.float64).reshape(-1, one.x.shape[1] + 1)
    found: npt.NDArray[np.float64] = logits(one.x.astype(np.float64), table[:, :-1], table[:, -1])
    return found


def _by_noise(
    one: Canaries, was: npt.NDArray[np.float64], noise_std: float, rng: np.random.Generator
) -> tuple[float, float]:
    """By how much noise alone lowers the share of right answers and the mean log probability: mean and four deviations.

    The numbers of the noise are independent, so all that a text sees of it is its product with a Gaussian matrix.
    """
    inputs = np.column_stack([one.x, np.full(len(one.x), BIAS_GAIN, dtype=np.float32)])  # (n, D + 1)
    right, log = one.marks(was)
    falls = []
    for _ in range(_DRAWS):
        noise = rng.standard_normal((inputs.shape[1], was.shape[1]), dtype=np.float32)  # (D + 1, C)
        right_now, log_now = one.marks(was + SCALE * noise_std * (inputs @ noise))
        falls.append((float(right.mean() - right_now.mean()), float((log - log_now).mean())))
    found = np.array(falls)
    answers, nats = np.maximum(0.0, found.mean(axis=0) + _NOISE * found.std(axis=0))
    return float(answers), float(nats)


def catalogue_texts(catalogue: Catalogue) -> list[tuple[str, int]]:
    """Return public texts with the position of their labels: what a label's name and description are made of.

    These are the pairs of neighbouring words, and the single words; what two labels have in common says nothing and is
    left out. The whole name would be no test: the model starts from it, and knows it by its spelling whatever follows.
    A label that is left with nothing gives its name.
    """
    pieces = [_pieces(label) for label in catalogue.labels]
    having = Counter(piece for its in pieces for piece in its)
    found = []
    for position, (label, its) in enumerate(zip(catalogue.labels, pieces, strict=True)):
        own = [piece for piece in its if having[piece] == 1] or [label.name]
        found += [(piece, position) for piece in own]
    return found


def _pieces(label: Label) -> list[str]:
    words = [_WORD.findall(text.replace("_", " ").lower()) for text in (label.name, label.description)]
    whole = [its[0] for its in words if len(its) == 1]
    pairs = [" ".join(pair) for its in words for pair in pairwise(its)]
    return list(dict.fromkeys([*whole, *pairs, *(word for its in words for word in its)]))


def file_texts(path: Path, catalogue: Catalogue) -> list[tuple[str, int]]:
    """Return the texts of a file of public rows whose labels are in the catalogue, each once.

    Raises `DataError` for a malformed file, `ConfigError` for one of other labels.
    """
    rows = read_rows(path)
    found = list({row.text: catalogue.index(row.label) for row in rows if row.label in catalogue}.items())
    if not found:
        raise ConfigError(f"No row of {path} has a label of the catalogue: give public texts with its labels.")
    return found


def canary_texts(settings: RunSettings, catalogue: Catalogue) -> dict[str, list[tuple[str, int]]]:
    """Return the sets of public texts that ``settings`` name, by where they come from; none without a gate.

    Raises as `file_texts`.
    """
    if settings.canary == NO_CANARIES:
        return {}
    texts = {CATALOGUE_CANARIES: catalogue_texts(catalogue)}
    if settings.canary != CATALOGUE_CANARIES:
        texts[settings.canary] = file_texts(Path(settings.canary), catalogue)
    return texts


def make_gate(settings: RunSettings, model: Checkpoint) -> Gate:
    """Return the gate that ``settings`` name, for the labels of ``model``.

    Raises `ConfigError` where the server has no encoder for the model, and as `canary_texts`.
    """
    texts = canary_texts(settings, model.catalogue)
    if not texts:
        return Gate()
    encoder = load_encoder() if _encoder is None else _encoder
    try:
        check_encoder(model, encoder)
    except EncoderMismatchError as error:
        raise ConfigError(f"{error} The gate tries models on texts: canary={NO_CANARIES!r} runs without it.") from None
    own = CATALOGUE_CANARIES
    margins = {own: max(settings.gate_margin, _UNLEARNT / settings.rounds)}
    found = [
        Canaries(
            name=Path(name).name,
            x=encode_inputs([text for text, _ in pairs], encoder, model.dimension),
            y=np.array([label for _, label in pairs], dtype=np.int64),
            margin=margins.get(name, settings.gate_margin),
            sure=name != own,
        )
        for name, pairs in texts.items()
    ]
    return Gate(found, seed=settings.seed)


_encoder: Encoder | None = None


@contextlib.contextmanager
def encoding_by(encoder: Encoder | None) -> Iterator[None]:
    """Let gates that are made in the block encode by ``encoder`` (``None``: the default one), as the devices do."""
    global _encoder
    before, _encoder = _encoder, encoder
    try:
        yield
    finally:
        _encoder = before


def refused_rounds(notes: Mapping[str, str]) -> dict[int, str]:
    """Return the rounds that were undone, and why, as the notes of a checkpoint tell."""
    return {int(number): why for number, why in json.loads(notes.get(REFUSED, "{}")).items()}


def refused_note(refused: Mapping[int, str]) -> dict[str, str]:
    """Return the note that `refused_rounds` reads; none where no round was."""
    return {REFUSED: json.dumps({str(number): why for number, why in sorted(refused.items())})} if refused else {}


def check_same_canaries(notes: Mapping[str, str], gate: Gate) -> None:
    """Raise `CheckpointError` unless the run to resume was tried on the same texts."""
    if notes.get(CANARIES) != gate.fingerprint:
        raise CheckpointError("The run to resume was tried on other public texts. Give the same file or start anew.")
