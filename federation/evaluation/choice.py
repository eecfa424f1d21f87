"""`tacit evaluate choice`: the protocol for choices, by rounds over devices with sealed stores.

The rows of each person lie in a device of its own; the factors are learned in federated rounds through the apps; then
each device ranks all items for its own user's test rows. The training does not depend on the seed, which only draws the
items that a choice is ranked among, so it is done once.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.choices.model import FACTORS, ChoiceModel
from engine.model.catalogue import Catalogue
from engine.owner.modes import OPEN
from federation.agent.pool import DevicePool
from federation.data.choices import ChoiceRow, ChoiceSplit, public_items, split_choices
from federation.errors import DataError
from federation.evaluation.choice_metrics import Question, Ranks, Scores, answer, figures, questions
from federation.evaluation.choice_plain import Scorer, counted, plain_methods, without_had
from federation.evaluation.methods import baselines_module
from federation.evaluation.results import header, no_privacy
from federation.rounds.choice_rounds import CHOICE_FILE, all_choice_rounds
from federation.rounds.config import RunSettings
from federation.simulation.choice_fleet import ChoiceFleet
from federation.simulation.experiment import Progress, no_progress
from federation.simulation.grid import Watch, run_rounds

OURS = "personalized"
LEARNED = ("item_knn", "svd32", "ease")
POWER_STEPS = 5
_START = "start.safetensors"


def evaluate_choice(
    rows: Sequence[ChoiceRow],
    items: Sequence[str],
    *,
    title: str,
    seeds: int,
    all_methods: bool,
    factors: int = FACTORS,
    command: str,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Return the results, with ``methods.<name>.<metric>``; ``items`` are those that are listed beside the rows.

    Raises `DataError` for rows that nothing can be measured on, and `ConfigError` for methods that are not there.
    """
    learned = learned_methods() if all_methods else {}
    split = split_choices(rows)
    if len(split) < 2:
        raise DataError(f"Expected rows of at least 2 users, got {len(split)}.")
    places = {name: place for place, name in enumerate(sorted({*items, *(row.item for row in rows)}))}
    asked = questions(split, places, seeds=seeds)
    ranks, sent = _ours(split, items, places, asked, factors=factors, progress=progress)
    methods = {OURS: figures(asked, ranks, seed=0)}
    plain = plain_methods(split, places)
    with progress("Methods beside", len(plain) + len(learned)) as tick:
        for name in [*plain, *learned]:
            scorer = plain[name] if name in plain else _learned(learned[name], split, places)
            given = [answer(one, scorer(one.person, split[one.person].test[one.row].context)) for one in asked]
            methods[name] = figures(asked, given, seed=0)
            tick()
    return header(title, command, mode=OPEN) | {
        "kind": "choice",
        "privacy": no_privacy(),
        "methods": methods,
        "users": len({one.person for one in asked}),
        "rows": len(asked),
        "devices": len(split),
        "items": len(places),
        "seeds": seeds,
        "bytes": sent,
    }


def learned_methods() -> dict[str, Any]:
    """Return the makers of the centralised methods; raise `ConfigError` outside a source checkout."""
    return {name: baselines_module(f"choice_{name}").scorer for name in LEARNED}


def _learned(make: Any, split: Sequence[ChoiceSplit], places: Mapping[str, int]) -> Scorer:
    counts = counted(split, places)
    validation = _held_out(split, places)
    plain: Scorer = make(counts, validation)
    return without_had(plain, counts)


def _held_out(split: Sequence[ChoiceSplit], places: Mapping[str, int]) -> list[tuple[int, int]]:
    """Return (person, place of the last train item) for who has test rows: to choose a method's constants by."""
    last = [(person, one.train[-1].item) for person, one in enumerate(split) if one.test and len(one.train) > 1]
    return [(person, places[item]) for person, item in last]


def _ours(
    split: Sequence[ChoiceSplit],
    items: Sequence[str],
    places: Mapping[str, int],
    asked: Sequence[Question],
    *,
    factors: int,
    progress: Progress,
) -> tuple[list[Ranks], dict[str, float]]:
    """Return the ranks of our method, and the bytes that a device sent and received."""
    public = public_items(split, items)
    if len(public) < 2:
        raise DataError("Fewer than 2 items are listed or chosen by two people, so there is nothing to learn together.")
    catalogue = Catalogue.from_names(public, title="items")
    start = ChoiceModel.start(catalogue, factors=min(factors, len(public)))
    with tempfile.TemporaryDirectory(prefix="tacit-") as folder:
        fleet = ChoiceFleet(Path(folder), split, model=start)
        with progress("Filling devices", len(split)) as tick:
            fleet.fill(tick=tick)
        with fleet.pool() as pool:
            sent = _rounds(fleet, pool, start, progress)
            model = ChoiceModel.load(fleet.folder / CHOICE_FILE)
            with progress("Choosing", len(asked)) as tick:
                ranks = []
                for one, scores in _scores(fleet, pool, model, split, places, asked):
                    ranks.append(answer(one, scores))
                    tick()
    return ranks, sent


def _rounds(fleet: ChoiceFleet, pool: DevicePool, start: ChoiceModel, progress: Progress) -> dict[str, float]:
    """Run the rounds over all devices; the bytes that each sent and received."""
    names = [member.name for member in fleet.people]
    first = fleet.folder / _START
    start.save(first)
    settings = RunSettings(rounds=POWER_STEPS, cohort=len(names), choice=str(first), out=str(fleet.folder))
    with progress("Federated rounds (devices)", all_choice_rounds(settings) * len(names)) as tick:
        traffic = run_rounds(settings, names, pool, watch=Watch(on_reply=tick))
    return {
        "sent_per_device": sum(one.sent_bytes for one in traffic) / len(names),
        "received_per_device": sum(one.received_bytes for one in traffic) / len(names),
    }


def _scores(
    fleet: ChoiceFleet,
    pool: DevicePool,
    model: ChoiceModel,
    split: Sequence[ChoiceSplit],
    places: Mapping[str, int],
    asked: Sequence[Question],
) -> Iterator[tuple[Question, Scores]]:
    """Give each question with the scores (N,) of its user's device; what that does not know has 0."""
    before = -1
    for one in asked:
        device = pool.agent(fleet.people[one.person].name).device
        if one.person != before:
            device.load_choice_model(model)
            before = one.person
        names, own = device.choice_probabilities(split[one.person].test[one.row].context)
        scores = np.zeros(len(places))
        scores[[places[name] for name in names]] = own
        yield one, scores
