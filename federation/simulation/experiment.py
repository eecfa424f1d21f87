"""One run over simulated devices, from rows to figures: fill the devices, run the rounds, personalize, measure.

`tacit demo`, `tacit simulate` and `tacit evaluate routing` are this with different rows and different output. A run
lies in a folder, and one that was interrupted continues there: without noise to the same model, bit for bit. Where the
checkpoint in the folder was migrated to the next version of its catalogue, more rounds go on from it, on the same
devices.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.encoders.encoder import CachedEncoder, Vectors, encode_in_parts
from engine.model.catalogue import Catalogue
from engine.model.checkpoint import Checkpoint, start_checkpoint, write_atomically
from engine.model.model import Model
from engine.owner.modes import CENTRAL, OPEN, PRIVATE
from federation.agent.pool import DevicePool
from federation.agent.private import STAGES
from federation.data.dataset import Row
from federation.data.splits import Split, public_labels, within_labels
from federation.errors import CheckpointError, DataError, FederationError
from federation.rounds.config import SUMMARY, RunSettings
from federation.rounds.gate import canary_texts, refused_rounds
from federation.rounds.noisy_rounds import check_enough, whole_rho
from federation.rounds.public_inputs import encode_public, public_texts
from federation.rounds.server_app import CHECKPOINT_FILE
from federation.simulation.fleet import Fleet, Measured, Member, members
from federation.simulation.grid import Watch, run_rounds
from federation.simulation.history import History
from federation.simulation.out_of_scope import ScopeRead, read_scopes
from federation.simulation.run_lock import only_run

# Shows a step: (title, number of ticks) gives the function that ticks.
Progress = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
_TEXTS_AT_ONCE = 256
_ROUNDED_UP = 1.01
_RUN_FILE, _START_FILE, _PUBLIC_FILE = "run.json", "start.safetensors", "public.npy"


@contextlib.contextmanager
def no_progress(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Show nothing."""
    yield lambda: None


def titled(progress: Progress, name: str) -> Progress:
    """Return ``progress`` with a name before the title of each step."""

    @contextlib.contextmanager
    def shown(title: str, total: int) -> Iterator[Callable[[], None]]:
        with progress(f"{name}: {title}", total) as tick:
            yield tick

    return shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Rows split over devices, the labels all of them know, what to call it, and who joins after the rounds.

    ``outside`` are users' requests that are out of scope; where it is given, each device says which it takes for such.
    """

    title: str
    generated: bool
    split: Split
    catalogue: Catalogue
    late: frozenset[str] = frozenset()
    outside: Mapping[str, tuple[Row, ...]] | None = None

    @classmethod
    def of(
        cls,
        split: Split,
        *,
        title: str,
        generated: bool = False,
        late: frozenset[str] = frozenset(),
        outside: Mapping[str, tuple[Row, ...]] | None = None,
    ) -> "Experiment":
        """Make an experiment; public labels are the built-in services for generated people, or else those that at
        least two users of the rounds have. Raises `DataError` if no device has rows to measure on."""
        if not any(test for _, _, test in split):
            raise DataError("No user has rows to measure on: users with fewer than 20 rows only train. Give more rows.")
        split = within_labels(split)
        seen = [part for part in split if part[0] not in late]
        catalogue = Catalogue.builtin() if generated else Catalogue.from_names(public_labels(seen), title=title)
        return cls(title=title, generated=generated, split=split, catalogue=catalogue, late=late, outside=outside)

    @property
    def texts(self) -> list[str]:
        """All texts, each once."""
        return list(dict.fromkeys(row.text for _, train, test in self.split for row in [*train, *test]))

    @property
    def fingerprint(self) -> str:
        """Identifies rows, split and labels."""
        digest = hashlib.sha256(self.catalogue.to_json().encode())
        for user, train, test in self.split:
            digest.update(repr((user, train, test)).encode())
        if self.late:
            digest.update(repr(sorted(self.late)).encode())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run left: the members, their ranks, the final model, and the history of its rounds.

    ``scopes`` is how requests in scope and out of it scored, where there are any of the latter.
    """

    people: list[Member]
    measured: list[Measured]
    model: Checkpoint
    history: list[dict[str, Any]]
    examples: list[dict[str, Any]]
    scopes: list[ScopeRead] = dataclasses.field(default_factory=list)


def warm(encoder: CachedEncoder, texts: list[str], progress: Progress) -> None:
    """Encode all texts once, so that no device waits."""
    with progress("Encoding texts", len(texts)) as tick:
        encode_in_parts(encoder, texts, part=_TEXTS_AT_ONCE, tick=tick)


def run_experiment(
    experiment: Experiment,
    settings: RunSettings,
    folder: Path,
    encoder: CachedEncoder,
    progress: Progress = no_progress,
) -> Outcome:
    """Run it in ``folder``. With ``settings.resume`` an interrupted run there continues.

    Raises `CheckpointError` if the folder holds another run, `RunBusyError` if another process runs in it,
    `RoundError` if a round fails, and what the store raises.
    """
    with only_run(folder):
        return _run(experiment, settings, folder, encoder, progress)


def _run(
    experiment: Experiment, settings: RunSettings, folder: Path, encoder: CachedEncoder, progress: Progress
) -> Outcome:
    canary_texts(settings, experiment.catalogue)  # What is wrong with a file of them is said before all else.
    people = members(experiment.split, late=experiment.late)
    there = sum(not member.late for member in people)
    settings = dataclasses.replace(settings, cohort=min(settings.cohort, there))
    check_enough(settings, devices=there)
    settings, start = _prepare(experiment, settings, folder, encoder)
    latest = Checkpoint.load(folder / CHECKPOINT_FILE) if settings.resume else start
    experiment = dataclasses.replace(experiment, catalogue=latest.catalogue)
    warm(encoder, experiment.texts, progress)
    # These owners allow what the run takes, rounded up a little, and no more.
    rho = None if settings.mode == OPEN else _ROUNDED_UP * whole_rho(settings, start, devices=there)
    fleet = Fleet(folder, people, start=start, encoder=encoder, mode=settings.mode, rho=rho)
    with progress("Filling devices", len(people)) as tick:
        fleet.fill(tick=tick)
    history = History(folder, continued=settings.resume)
    with fleet.pool() as pool:
        if latest.begun:
            fleet.give(latest, pool)
        if settings.mode != OPEN:
            settings = dataclasses.replace(settings, roster=str(fleet.sign_roster(pool)))
        if settings.strategy == SUMMARY:
            settings = dataclasses.replace(settings, public=str(_public_file(folder, encoder, start)))
        model = _rounds(experiment, settings, fleet, pool, history, progress)
        with progress("Personalizing", len(people)) as tick:
            measured = fleet.measure(model, pool, tick=tick)
        scopes = [] if experiment.outside is None else read_scopes(people, experiment.outside, pool)
        examples = explained_examples(people, measured, pool) if experiment.generated else []
    return Outcome(
        people=people,
        measured=measured,
        model=model,
        history=history.rounds(),
        examples=examples,
        scopes=scopes,
    )


def _public_file(folder: Path, encoder: CachedEncoder, start: Checkpoint) -> Path:
    """Write the inputs of public texts, by the encoder that is open anyway; the file."""
    path, content = folder / _PUBLIC_FILE, io.BytesIO()
    np.save(content, encode_public(public_texts(), encoder, start))
    write_atomically(path, content.getvalue())
    return path


def _prepare(
    experiment: Experiment, settings: RunSettings, folder: Path, encoder: CachedEncoder
) -> tuple[RunSettings, Checkpoint]:
    """Lay out the folder, or check that what lies there is this run; return the settings to run with."""
    run = {
        "experiment": experiment.fingerprint,
        "encoder": encoder.fingerprint,
        "settings": settings.identity(),
    }
    about, first = folder / _RUN_FILE, folder / _START_FILE
    if settings.resume:
        _check_continues(folder, run)
    elif about.exists():
        raise CheckpointError(f"{folder} holds a run already. Continue it with --resume, or name another --out.")
    if not first.is_file():
        start_checkpoint(experiment.catalogue, encoder, title=experiment.title).save(first)
    write_atomically(about, json.dumps(run, indent=2).encode())
    # A run that was cut off before its first checkpoint starts its rounds anew on the devices that are there.
    has_rounds = settings.resume and (folder / CHECKPOINT_FILE).is_file()
    here = dataclasses.replace(settings, model=str(first), out=str(folder), resume=has_rounds)
    return here, Checkpoint.load(first)


def _check_continues(folder: Path, run: dict[str, Any]) -> None:
    """Raise `CheckpointError` unless ``run`` is the one in the folder, or follows a migration of its checkpoint."""
    about, latest = folder / _RUN_FILE, folder / CHECKPOINT_FILE
    if not about.is_file():
        raise CheckpointError(f"There is no run to resume in {folder}. Start it without --resume.")
    try:
        before = json.loads(about.read_text(encoding="utf-8"))
    except ValueError:
        raise CheckpointError(
            f"{about} is damaged, so the run cannot be resumed. Start anew with another --out."
        ) from None
    if isinstance(before, dict) and latest.is_file():
        model = Checkpoint.load(latest)
        if model.begun and model.round == model.begun:
            # Nothing has run since the migration, so what follows may have settings of its own.
            before = before | {"settings": run["settings"]}
    if before != run:
        raise CheckpointError(f"The run in {folder} has other data or settings. Repeat its command with --resume.")


def _rounds(
    experiment: Experiment,
    settings: RunSettings,
    fleet: Fleet,
    pool: DevicePool,
    history: History,
    progress: Progress,
) -> Checkpoint:
    tests = [row for member in fleet.people for row in member.test]
    texts = [row.text for row in tests]
    x = fleet.inputs(texts)

    def note(server_round: int, flat: Vectors) -> None:
        # A migration changes the size, and of another size is what a summary is taken against.
        if flat.size == len(experiment.catalogue) * (fleet.start.dimension + 1):
            history.model(server_round, _accuracy(flat, x, tests, experiment))

    if settings.strategy == SUMMARY:
        note(0, fleet.start.flat)
    there = sum(not member.late for member in fleet.people)
    # All are invited to a noisy round, and a private one has six exchanges.
    each = {OPEN: settings.cohort, CENTRAL: there, PRIVATE: there + settings.cohort * (len(STAGES) - 1)}[settings.mode]
    with progress("Federated rounds (devices)", settings.all_rounds * each) as tick:
        watch = Watch(
            on_round=lambda server_round, flat: note(server_round - 1, flat),
            on_reply=tick,
            on_traffic=history.traffic,
        )
        run_rounds(settings, [member.name for member in fleet.people if not member.late], pool, watch=watch)
    model = Checkpoint.load(fleet.folder / CHECKPOINT_FILE)
    if model.round - model.begun != settings.all_rounds:
        raise FederationError(f"Only {model.round - model.begun} of {settings.all_rounds} rounds completed.")
    history.model(model.round, _accuracy(model.flat, x, tests, experiment))
    for number, why in refused_rounds(model.notes).items():
        history.refused(number, why)
    return model


def _accuracy(flat: Vectors, x: Vectors, tests: list[Row], experiment: Experiment) -> float:
    """Share of test rows whose first answer by the shared model is the label."""
    if not tests:
        return float("nan")
    names = experiment.catalogue.names
    model = Model.from_flat(flat, classes=len(names), dimension=x.shape[1])
    answers = model.scores(x).argmax(axis=1)
    truth = [experiment.catalogue.current(row.label) for row in tests]
    return float(np.mean([names[answer] == label for answer, label in zip(answers, truth, strict=True)]))


def explained_examples(
    people: list[Member], measured: list[Measured], pool: DevicePool, *, most: int = 3
) -> list[dict[str, Any]]:
    """Return, from different people, the first requests that memory set right, with the memories that explain it.

    ``measured`` are the ranks of those people who have test rows, in their order.
    """
    examples: list[dict[str, Any]] = []
    for member, ranks in zip([member for member in people if member.test], measured, strict=True):
        device = pool.agent(member.name).device
        for row, shared, personal in zip(
            member.test, ranks.by_method["global"], ranks.by_method["personal"], strict=True
        ):
            if personal != 1 or shared == 1:
                continue
            suggestions = device.suggest(row.text, k=3)
            if not suggestions[0].because:
                continue
            examples.append(
                {
                    "text": row.text,
                    "truth": row.label,
                    "global": device.shared_answer(row.text),
                    "suggestions": [
                        {
                            "label": one.label,
                            "score": one.score,
                            "source": one.source,
                            "private": one.private,
                            "because": [{"text": m.text, "similarity": m.similarity} for m in one.because],
                        }
                        for one in suggestions
                    ],
                }
            )
            break
        if len(examples) == most:
            break
    return examples
