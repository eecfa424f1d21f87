"""Invented people: habits, a rhythm, a way of speaking, and labels of their own.

Guarantees: `make_person` draws only from the generator passed in, which `generate` seeds from the seed and the
person's number, so person i is the same however many people there are. Private labels carry the person's number
in their name by a one-to-one mapping, so no two people share one.

>>> from random import Random
>>> make_person(7, name_offset=0, rng=Random("0:person:7")).user
'person-0007'
"""

from dataclasses import dataclass
from random import Random
from typing import Literal, TypeVar

from federation.population.needs import NEEDS
from federation.population.private import HOBBIES
from federation.population.voices import ABBREVIATIONS, CLOSERS, CODE_PHRASES, CODE_WORDS, FRAMES, OPENERS, SHORT
from federation.population.words import FIRST_NAMES, FOLKS, FRIENDS, HOMES, LAST_NAMES, SLOTS, WORKS

Cue = Literal["weekend", "late", "company", "none"]
CUES: tuple[Cue, ...] = ("weekend", "late", "company", "none")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Habit:
    """How one person meets one need.

    ``first`` and ``second`` are (before, after) the person's moment of change. ``cue`` says when the second choice
    takes over: at a weekend, late (after 20:00, or before 8:00), in company, or at random. ``weight`` is the
    need's share of the person's requests, ``shift_h`` moves its hours. ``pet`` is the person's own word
    for the thing and ``wordings`` are the sentences the person uses; both stay for good.
    """

    need: str
    first: tuple[str, str]
    second: tuple[str, str]
    cue: Cue
    weight: float
    shift_h: float
    pet: str
    wordings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Routine:
    """Something done so often that a short phrase is enough. ``phrases`` mean this to this person only."""

    need: str
    phrases: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """A way of writing. ``typo`` and the other rates are probabilities for one sentence."""

    frames: tuple[str, ...]
    openers: tuple[str, ...]
    opener_rate: float
    closers: tuple[str, ...]
    closer_rate: float
    abbreviations: tuple[tuple[str, str], ...]
    lower_case: bool
    full_stop: str
    typo: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateLabel:
    """A label that exists for one person: its name, the person's word for it, and wordings."""

    label: str
    word: str
    wordings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Everything that decides what a person asks, how, and what they mean by it.

    ``drift_at`` is the share of the person's requests after which some favourites change.
    ``slots`` are the person's own names for places and people.
    """

    user: str
    name: str
    habits: tuple[Habit, ...]
    routines: tuple[Routine, ...]
    shared_phrase: str
    voice: Voice
    private: tuple[PrivateLabel, ...]
    slots: tuple[tuple[str, tuple[str, ...]], ...]
    drift_at: float

    @property
    def favourites(self) -> dict[str, tuple[str, str]]:
        """For each need, the favourite service before and after the drift."""
        return {habit.need: habit.first for habit in self.habits}

    @property
    def private_labels(self) -> tuple[str, ...]:
        """The labels that this person alone has."""
        return tuple(private.label for private in self.private)


def _some(items: tuple[_T, ...], low: int, high: int, rng: Random) -> tuple[_T, ...]:
    return tuple(rng.sample(items, rng.randint(low, high)))


def name_of(number: int) -> str:
    """A name that no other number has.

    >>> name_of(0), name_of(1600)
    ('Nora Vale', 'Nora Vale 2')
    """
    again, position = divmod(number, len(FIRST_NAMES) * len(LAST_NAMES))
    last, first = divmod(position, len(FIRST_NAMES))
    # The last name is turned by the first, so that neighbours in the list do not look like a family.
    name = f"{FIRST_NAMES[first]} {LAST_NAMES[(last + first) % len(LAST_NAMES)]}"
    return name if again == 0 else f"{name} {again + 1}"


def _changes(weights: list[float], rng: Random) -> set[int]:
    """Positions of the needs whose favourite will change: one that matters to the person, and a few others."""
    by_weight = sorted(range(len(weights)), key=lambda i: -weights[i])
    return {rng.choice(by_weight[:4]), *rng.sample(range(len(weights)), rng.randint(1, 2))}


def _make_habits(rng: Random) -> tuple[Habit, ...]:
    weights = [rng.gammavariate(0.3, 1.0) + 0.01 for _ in NEEDS]  # a few needs make up most of a life
    total, changes = sum(weights), _changes(weights, rng)
    person_shift_h = rng.gauss(0.0, 0.8)  # early birds and night owls
    habits = []
    for position, (need, weight) in enumerate(zip(NEEDS, weights, strict=True)):
        first, second = rng.sample(need.services, 2)
        after = (second, first)
        if len(need.services) > 2 and rng.random() < 0.5:
            after = (rng.choice([name for name in need.services if name not in (first, second)]), first)
        habits.append(
            Habit(
                need=need.name,
                first=(first, after[0] if position in changes else first),
                second=(second, after[1] if position in changes else second),
                cue=rng.choice(CUES if need.social else tuple(cue for cue in CUES if cue != "company")),
                weight=weight / total,
                shift_h=person_shift_h + rng.gauss(0.0, 0.5),
                pet=rng.choice(need.pets),
                wordings=_some(need.wordings, 4, 6, rng),
            )
        )
    return tuple(habits)


def _make_routines(habits: tuple[Habit, ...], rng: Random) -> tuple[tuple[Routine, ...], str]:
    """Two to four routines for needs that come often; and one phrase that two of them share."""
    common = sorted(habits, key=lambda habit: -habit.weight)[:5]
    chosen = rng.sample(common, rng.randint(2, 4))
    phrases = rng.sample(SHORT, 3 * len(chosen) + 1)
    codes = rng.sample(CODE_WORDS, len(chosen))
    routines = []
    for position, habit in enumerate(chosen):
        code = rng.choice(CODE_PHRASES).format(code=codes[position])
        own = (*phrases[3 * position : 3 * position + 3], code)
        routines.append(Routine(need=habit.need, phrases=own))
    return tuple(routines), phrases[-1]


def _make_voice(rng: Random) -> Voice:
    return Voice(
        frames=_some(FRAMES, 3, 6, rng),
        openers=_some(OPENERS, 1, 3, rng),
        opener_rate=rng.choice((0.0, 0.1, 0.25, 0.5)),
        closers=_some(CLOSERS, 1, 2, rng),
        closer_rate=rng.choice((0.0, 0.1, 0.2, 0.4)),
        abbreviations=tuple(pair for pair in ABBREVIATIONS if rng.random() < 0.15) if rng.random() < 0.6 else (),
        lower_case=rng.random() < 0.4,
        full_stop=rng.choice(("", "", ".", "!", "...")),
        typo=rng.choice((0.0, 0.02, 0.05, 0.12)),
    )


def _make_private(name: str, rng: Random) -> tuple[PrivateLabel, ...]:
    hobbies = rng.sample(HOBBIES, rng.choices((1, 2, 3), (5, 3, 2))[0])
    return tuple(
        PrivateLabel(label=f"{name}'s {hobby.ending}", word=rng.choice(hobby.words), wordings=hobby.wordings)
        for hobby in hobbies
    )


def make_person(number: int, *, name_offset: int, rng: Random) -> Person:
    """Invent person ``number``; ``name_offset`` turns the list of names, the same for a whole population."""
    names = len(FIRST_NAMES) * len(LAST_NAMES)
    again, position = divmod(number, names)
    name = name_of(again * names + (position + name_offset) % names)
    habits = _make_habits(rng)
    routines, shared_phrase = _make_routines(habits, rng)
    cities = rng.sample(SLOTS["city"], 9)
    return Person(
        user=f"person-{number:04d}",
        name=name,
        habits=habits,
        routines=routines,
        shared_phrase=shared_phrase,
        voice=_make_voice(rng),
        private=_make_private(name, rng),
        slots=(
            ("home", (rng.choice(HOMES),)),
            ("work", (rng.choice(WORKS),)),
            ("folks", (rng.choice(FOLKS),)),
            ("friend", tuple(rng.sample(FRIENDS, 2))),
            ("colleague", tuple(rng.sample(SLOTS["colleague"], 5))),
            ("origin", (cities[0],)),
            ("city", tuple(cities[1:])),
        ),
        drift_at=rng.uniform(0.4, 0.6),
    )
