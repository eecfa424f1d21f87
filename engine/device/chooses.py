"""Choosing on a device: choices kept sealed, the next one ranked, and what a round may take of them."""

import time as clock
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.choices import factors, habits
from engine.choices.chooser import Choice, Chooser, empty_chooser
from engine.choices.factors import BLOCKS
from engine.choices.history import CHOICE, ChoiceHistory, Context, context_text
from engine.choices.model import Basis, ChoiceModel
from engine.device.keeper import EVERYTHING
from engine.device.participant import Participant
from engine.device.suggestion import Found
from engine.errors import ModelError
from engine.owner.publisher import require_signed
from engine.personal.rescorer import Floats
from store import Record, Where

_CHOICES = Where(purpose=CHOICE)
POWER = -1
"""Names the step of a round that gives the basis; the others are the blocks 0 to 3 of the features."""


REPEATS = 2
"""The last numbers of an answer: the share of repeats among the latest choices, and 1; or 0 and 0 without any."""


def reply_length(items: int, factors: int) -> int:
    """How many numbers a device gives in a round, in any step: block, Gram matrix, habits, repeats."""
    size = BLOCKS * factors
    return items * factors + size * (size + 1) // 2 + habits.STATISTICS_LENGTH + REPEATS


class Chooses(Participant):
    """The half of a `Device` that knows which item comes next. Use `Device`."""

    def note_choice(
        self, item: str, context: Context | None = None, time: float | None = None, *, scope: str = "default"
    ) -> int:
        """Keep that the user chose ``item`` in a context (a flat object of strings); the id of the memory.

        ``time`` is in Unix seconds, by default now. Kept sealed, for the purpose "choice". Raises ValueError.
        """
        return self.note_choices([(item, context or {}, time)], scope=scope)[0]

    def note_choices(
        self, choices: Sequence[tuple[str, Context, float | None]], *, scope: str = "default"
    ) -> list[int]:
        """Keep (item, context, time) of many choices, all or none; their ids, in order."""
        now = clock.time()
        records = [
            Record(
                text=context_text(context),
                label=item,
                time=now if time is None else time,
                scope=scope,
                purpose=CHOICE,
            )
            for item, context, time in choices
        ]
        # Few contexts differ, so few texts are encoded.
        texts = list(dict.fromkeys(record.text for record in records))
        rows = {text: row for row, text in enumerate(texts)}
        vectors = self._encode(texts)[[rows[record.text] for record in records]]
        with self._lock, self._store.transaction():
            self._check_encoder_is_current()
            return self._store.add_many(records, vectors)

    def choose(self, context: Context | None = None, k: int = 5, among: Collection[str] | None = None) -> list[Choice]:
        """Return the ``k`` items most probable as the next choice in this context, with the reason for each.

        Of those in ``among`` if given, the probabilities then being among them. Where consent to the purpose "choice"
        was withdrawn no choice is read, and what people choose on the whole remains. Raises ValueError.
        """
        with self._lock:
            return self._chooser().best(context or {}, k=k, among=among)

    def choice_probabilities(self, context: Context | None = None) -> tuple[tuple[str, ...], Floats]:
        """Return all items (C) that this device ranks and their probabilities (C,) in this context."""
        with self._lock:
            chooser = self._chooser()
            return chooser.items, chooser.probabilities(context or {})

    @property
    def choice_model(self) -> ChoiceModel | None:
        """What devices learned together about choices, if this device was given it."""
        with self._lock:
            return self._kept.choice_model()

    @property
    def choice_items(self) -> str | None:
        """The fingerprint of the list of items that this device's model of choices knows."""

        def read() -> str | None:
            model = self._kept.choice_model()
            return None if model is None else model.items.fingerprint

        with self._lock:
            return self._kept.once("choice items", read)

    def load_choice_model(self, model: ChoiceModel | Path | str, *, signature: bytes | None = None) -> None:
        """Use another shared model of choices from now on; ``signature`` as in `load_model`.

        Raises `ModelError`, and `PublisherError`.
        """
        file = None if isinstance(model, ChoiceModel) else Path(model)
        bare = (model if isinstance(model, ChoiceModel) else ChoiceModel.load(Path(model))).bare()
        with self._lock, self._store.transaction():
            require_signed(bare.content_hash, signature, file, publisher=self._kept.publisher())
            self._kept.use_choice_model(bare)

    def choice_statistics(self, basis: Basis, *, items: str, step: int, weights: Floats) -> tuple[Floats, Floats]:
        """Return what this device gives to a round: the sums of the factor model, and those of habits and repeats.

        ``basis`` (n, k) is of the items of this device's model of choices, whose list has the fingerprint ``items``;
        others than these count as never chosen.
        ``step`` is -1 for a step of the power iteration, 0 to 3 for a block of the regression. Raises `ModelError`.
        """
        with self._lock:
            model = self._kept.choice_model()
            if model is None:
                raise ModelError("This device has no list of items to choose from: load a model of choices first.")
            if model.items.fingerprint != items:
                raise ModelError("This device knows another list of items than is asked about.")
            if basis.shape != model.basis.shape or not np.isfinite(basis).all():
                raise ModelError(f"Expected finite factors of shape {model.basis.shape}, got {basis.shape}.")
            if step not in range(POWER, BLOCKS):
                raise ModelError(f"Expected step={step} from {POWER} to {BLOCKS - 1}.")
            history = self._choices().known_to(model.items)
            return _sums(history, model, basis, step), np.concatenate(habits.device_statistics(history, weights))

    def find_to_erase(self, text: str, k: int = 5, where: Where = EVERYTHING) -> list[Found]:
        """Return what `search` finds by both, choices included, to look at before it is forgotten."""
        return super()._search(text, k, where, by="both", purpose=None, now=None)

    def _search(
        self, text: str, k: int, where: Where, *, by: str, purpose: str | None, now: float | None
    ) -> list[Found]:
        # Hundreds of choices have the same few words: they are found where they are asked for by their purpose.
        with self._lock:
            chosen = self._kept.once("any choice", lambda: bool(self._store.count(_CHOICES)))
        if where.purpose is None and chosen:
            where = replace(where, without=CHOICE)
        return super()._search(text, k, where, by=by, purpose=purpose, now=now)

    def _chooser(self) -> Chooser:
        return self._kept.once("chooser", self._new_chooser)

    def _new_chooser(self) -> Chooser:
        history, model = self._choices(), self._kept.choice_model()
        return Chooser.of(history, model) if len(history) else empty_chooser(model)

    def _choices(self) -> ChoiceHistory:
        return self._kept.once("choices", self._read_choices)

    def _read_choices(self) -> ChoiceHistory:
        if not self._consents.granted(CHOICE):
            return ChoiceHistory.of([])
        stored = list(self._store.iter(purpose=CHOICE))
        self._kept.rests_on(one.record for one in stored)
        return ChoiceHistory.from_records(stored)


def _sums(history: ChoiceHistory, model: ChoiceModel, basis: Basis, step: int) -> Floats:
    """Return the step's block (n·k) and the packed Gram matrix, which is 0 in a power step."""
    k, items = basis.shape[1], history.items_in(model.items)
    size = BLOCKS * k
    if step == POWER:
        return np.concatenate([factors.power_block(items, basis).reshape(-1), np.zeros(size * (size + 1) // 2)])
    new, z = factors.examples(items, history.contexts, basis, ordered=history.ordered)  # (m,), (m, 4·k)
    block = factors.target_block(new, z[:, step * k : (step + 1) * k], basis.shape)
    return np.concatenate([block.reshape(-1), factors.gram(z)])
