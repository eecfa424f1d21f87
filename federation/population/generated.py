"""The generated population: invented people and their requests, the same for the same seed in any process.

It stands in for users where no real data may be used. It is made, not observed: figures on it show that a
method does what it should, not how much it will help real people.

>>> population = generate(2, seed=0)
>>> [person.user for person in population.people]
['person-0000', 'person-0001']
"""

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random

from federation.data.dataset import Row
from federation.population.outside import outside_rows
from federation.population.people import Person, make_person
from federation.population.requests import Intent, make_rows
from federation.population.words import FIRST_NAMES, LAST_NAMES

TITLE = "generated population"
MIN_ROWS_PER_DEVICE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """People and all their rows, in person order and then in time order.

    ``intents`` runs beside ``rows`` and tells what lies behind each: for analysis (accuracy by form of request),
    never for a method. ``outside`` are further requests, which no service takes: a device should say that it does
    not know. They stand in no file.
    """

    people: tuple[Person, ...]
    rows: tuple[Row, ...]
    intents: tuple[Intent, ...]
    seed: int
    title: str = TITLE
    outside: tuple[Row, ...] = ()

    def __post_init__(self) -> None:
        if len(self.rows) != len(self.intents):
            raise ValueError(f"Expected {len(self.intents)} intents to be as many as the {len(self.rows)} rows.")

    def write_jsonl(self, path: Path) -> None:
        """Write one JSON object a row, UTF-8, with the key ``origin`` on each; `OSError` if that is not possible.

        `federation.data.dataset.read_rows` reads the same rows back.
        """
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for row in self.rows:
                fields = {
                    "user": row.user,
                    "order": row.order,
                    "text": row.text,
                    "label": row.label,
                    "labels": list(row.labels),
                    "split": row.split,
                    "time": row.time,
                    "origin": self.title,
                }
                file.write(json.dumps(fields, ensure_ascii=False) + "\n")


def generate(devices: int, *, seed: int, rows_per_device: int = 70, outside_per_device: int = 0) -> Population:
    """Invent ``devices`` people, each with about ``rows_per_device`` rows (0.5 to 1.7 times as many).

    Each also makes ``outside_per_device`` requests that are out of scope. Person i depends on ``seed``, i and
    ``rows_per_device`` only. Raises `ValueError` for fewer than one device or fewer than ten rows each.
    """
    if devices < 1:
        raise ValueError(f"Expected devices={devices} to be at least 1.")
    if outside_per_device < 0:
        raise ValueError(f"Expected outside_per_device={outside_per_device} to be 0 or more.")
    if rows_per_device < MIN_ROWS_PER_DEVICE:
        raise ValueError(f"Expected rows_per_device={rows_per_device} to be at least {MIN_ROWS_PER_DEVICE}.")
    name_offset = Random(f"{seed}:names").randrange(len(FIRST_NAMES) * len(LAST_NAMES))
    people: list[Person] = []
    rows: list[Row] = []
    intents: list[Intent] = []
    outside: list[Row] = []
    for number in range(devices):
        rng = Random(f"{seed}:person:{number}")
        person = make_person(number, name_offset=name_offset, rng=rng)
        count = round(rows_per_device * min(max(rng.lognormvariate(-0.04, 0.3), 0.5), 1.7))
        own_rows, own_intents = make_rows(person, count, rng=rng)
        people.append(person)
        rows += own_rows
        intents += own_intents
        outside += outside_rows(person, outside_per_device, rng=Random(f"{seed}:outside:{number}"))
    return Population(people=tuple(people), rows=tuple(rows), intents=tuple(intents), seed=seed, outside=tuple(outside))
