"""A person's requests, in time order.

Guarantees: `order` counts from 0 and `time` grows strictly with it; the first 70% in time are "train", the rest
"test"; everything is drawn from the generator passed in.
"""

from dataclasses import dataclass
from random import Random
from typing import Literal

from engine.model.services import SERVICES
from federation.data.dataset import Row
from federation.population.needs import NEEDS, Need
from federation.population.people import Habit, Person
from federation.population.specific import SPECIFIC
from federation.population.voices import SHORT_TAILS
from federation.population.wording import fill, speak

Form = Literal["specific", "ambiguous", "short", "private"]

TRAIN_SHARE = 0.7
NOISE = 0.04
# Shares of the forms of request, for a person of average habits.
SPECIFIC_SHARE, SHORT_SHARE, PRIVATE_SHARE = 0.36, 0.14, 0.065
_START = 1_704_067_200  # Monday 2024-01-01 00:00 UTC
_DAY_S = 86_400
_NEEDS = {need.name: need for need in NEEDS}
_NAMES = tuple(name for name, _, _ in SERVICES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What lies behind a row, for analysis only: no method may see it.

    ``meant`` is the service that the person wanted; a row's label differs from it where the label is noise.
    ``need`` is "" for a private label.
    """

    form: Form
    need: str
    meant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    """When something is asked, and after which share of the person's requests."""

    time_s: int
    form: Form
    need: str
    drifted: bool = False

    @property
    def hour(self) -> float:
        return self.time_s % _DAY_S / 3600

    @property
    def weekend(self) -> bool:
        return (self.time_s - _START) // _DAY_S % 7 >= 5


def _day(habit_weekend: float, days: int, rng: Random) -> int:
    """A day from 0, at a weekend more often by the given factor."""
    while True:
        day = rng.randrange(days)
        if rng.random() * max(1.0, habit_weekend) < (habit_weekend if day % 7 >= 5 else 1.0):
            return day


def _moment(person: Person, form: Form, start: int, days: int, rng: Random) -> _Moment:
    routine_needs = {routine.need for routine in person.routines}
    habits = [habit for habit in person.habits if form != "short" or habit.need in routine_needs]
    habit = rng.choices(habits, [habit.weight for habit in habits])[0]
    if form == "private":
        hour, day = rng.gauss(18.0, 2.5), rng.randrange(days)
    else:
        need = _NEEDS[habit.need]
        hours, weights = zip(*need.hours, strict=True)
        hour = rng.gauss(rng.choices(hours, weights)[0] + habit.shift_h, 0.9)
        day = _day(need.weekend, days, rng)
    second_of_day = int(min(max(hour, 5.0), 23.9) * 3600)
    return _Moment(time_s=start + day * _DAY_S + second_of_day, form=form, need="" if form == "private" else habit.need)


def _schedule(person: Person, count: int, rng: Random) -> list[_Moment]:
    """``count`` moments in time order, no two in the same second."""
    start, days = _START + 7 * _DAY_S * rng.randrange(20), rng.randint(90, 180)
    shares = (SPECIFIC_SHARE, SHORT_SHARE, PRIVATE_SHARE, 1 - SPECIFIC_SHARE - SHORT_SHARE - PRIVATE_SHARE)
    forms: tuple[Form, ...] = ("specific", "short", "private", "ambiguous")
    tilted = [share * rng.uniform(0.75, 1.3) for share in shares]
    drawn = [_moment(person, rng.choices(forms, tilted)[0], start, days, rng) for _ in range(count)]
    drawn.sort(key=lambda moment: moment.time_s)
    moments: list[_Moment] = []
    for position, moment in enumerate(drawn):
        time_s = max(moment.time_s, moments[-1].time_s + 1) if moments else moment.time_s
        drifted = position >= person.drift_at * count
        moments.append(_Moment(time_s=time_s, form=moment.form, need=moment.need, drifted=drifted))
    return moments


def choose(habit: Habit, moment: _Moment, *, company: bool, rng: Random) -> str:
    """The service a person takes: the favourite, or the second choice on its cue, seldom another."""
    first, second = habit.first[moment.drifted], habit.second[moment.drifted]
    late = moment.hour >= 20 or moment.hour < 8
    cued = {"weekend": moment.weekend, "late": late, "company": company, "none": False}[habit.cue]
    if rng.random() < 0.03:
        return rng.choice(_NEEDS[habit.need].services)
    # Loyal most of the time, so that habit pays; never so much that the favourite is always right.
    second_rate = 0.65 if cued else 0.12 if habit.cue == "none" else 0.03
    return second if rng.random() < second_rate else first


def _accepted(label: str, habit: Habit, need: Need, drifted: bool) -> tuple[str, ...]:
    """The label, then the person's own choices, then others that would do: three at most."""
    ranked = dict.fromkeys((label, habit.first[drifted], habit.second[drifted], *need.services))
    return tuple(ranked)[:3]


def _short_phrase(person: Person, need: str, rng: Random) -> str:
    phrases = next(routine.phrases for routine in person.routines if routine.need == need)
    # The first two routines share a phrase: only the hour, if anything, tells what it means.
    shared = need in {routine.need for routine in person.routines[:2]} and rng.random() < 0.2
    return f"{person.shared_phrase if shared else rng.choice(phrases)} {rng.choice(SHORT_TAILS)}".strip()


def _public(person: Person, moment: _Moment, rng: Random) -> tuple[str, str, tuple[str, ...]]:
    """(text, the service meant, accepted answers) of a request for a public service."""
    habit = next(habit for habit in person.habits if habit.need == moment.need)
    need = _NEEDS[moment.need]
    company = need.social and moment.form != "specific" and rng.random() < (0.3 if habit.cue == "company" else 0.08)
    service = choose(habit, moment, company=company, rng=rng)
    slots = {**dict(person.slots), "pet": (habit.pet,)}
    if moment.form == "specific":
        # People name a service most when it is not what they always take.
        service = rng.choice(need.services) if rng.random() < 0.25 else service
        wording = rng.choice(SPECIFIC[service])
    elif moment.form == "ambiguous":
        wording = rng.choice(habit.wordings)
        accepted = _accepted(service, habit, need, moment.drifted)
    else:
        wording = _short_phrase(person, moment.need, rng)
    if moment.form != "ambiguous":
        accepted = (service,)
    clause = fill(wording, slots, hour=moment.hour, rng=rng)
    friend = dict(person.slots)["friend"]
    if company and not clause.endswith("?") and not any(name in clause for name in friend):
        clause = f"{clause} with {rng.choice(friend)}"
    framed = moment.form != "short" and wording[0].islower()
    return speak(clause, person.voice, rng=rng, framed=framed), service, accepted


def _request(person: Person, moment: _Moment, rng: Random) -> tuple[str, str, tuple[str, ...]]:
    if moment.form != "private":
        return _public(person, moment, rng)
    private = rng.choice(person.private)
    slots = {**dict(person.slots), "it": (private.word,)}
    text = fill(rng.choice(private.wordings), slots, hour=moment.hour, rng=rng)
    return speak(text, person.voice, rng=rng, framed=False), private.label, (private.label,)


def _mislabel(meant: str, need: str, rng: Random) -> str:
    """A slip: as often a rival of the service meant as anything else."""
    near = _NEEDS[need].services if need and rng.random() < 0.5 else _NAMES
    return rng.choice([name for name in near if name != meant])


def make_rows(person: Person, count: int, *, rng: Random) -> tuple[list[Row], list[Intent]]:
    """``count`` rows in time order, and what lies behind each."""
    rows, intents = [], []
    for order, moment in enumerate(_schedule(person, count, rng)):
        text, meant, accepted = _request(person, moment, rng)
        noisy = rng.random() < NOISE
        label = _mislabel(meant, moment.need, rng) if noisy else meant
        rows.append(
            Row(
                user=person.user,
                order=order,
                text=text,
                label=label,
                labels=(label,) if noisy else accepted,
                split="train" if order < round(TRAIN_SHARE * count) else "test",
                time=float(moment.time_s),
            )
        )
        intents.append(Intent(form=moment.form, need=moment.need, meant=meant))
    return rows, intents
