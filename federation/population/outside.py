"""Requests that no service of the catalogue takes: each person asks them in the person's own way of speaking.

Guarantees: drawn from the generator passed in alone; no wording asks for what a service or a hobby of the generated
people is for. Their label is `OUTSIDE`, which no device knows and no method may learn.

>>> from random import Random
>>> from federation.population.people import make_person
>>> person = make_person(0, name_offset=0, rng=Random("0:person:0"))
>>> {row.label for row in outside_rows(person, 3, rng=Random("0:outside:0"))}
{'outside'}
"""

from random import Random

from federation.data.dataset import Row
from federation.population.people import Person
from federation.population.wording import fill, speak

OUTSIDE = "outside"
_DAY_S = 86_400
_START = 1_719_792_000  # Monday 2024-07-01 00:00 UTC: after the people's own requests.

# One list a topic; a wording that begins with a small letter is a clause that a person's phrases may wrap.
TOPICS: dict[str, tuple[str, ...]] = {
    "facts": (
        "What is the capital of Peru?",
        "How tall is the tallest mountain in Africa?",
        "explain how vaccines work",
        "Who discovered penicillin?",
        "tell me why the sky is blue",
    ),
    "sums": (
        "What's seventeen per cent of {price}?",
        "convert {n} miles to kilometres",
        "work out the square root of 1764",
        "solve x squared plus {mins} equals 200",
    ),
    "languages": (
        "translate good morning into Polish",
        "How do you say thank you in Japanese?",
        "Is it affect or effect in this sentence?",
        "find a word that rhymes with orange",
    ),
    "programming": (
        "write a regular expression for postcodes",
        "debug this segmentation fault",
        "reverse a linked list in Python",
        "Why does my unit test fail only on Linux?",
    ),
    "body": (
        "Is a temperature of 39 dangerous for a toddler?",
        "Can I take ibuprofen and paracetamol together?",
        "remind the pharmacy about my prescription",
        "tell me what to do about a swollen ankle",
    ),
    "money": (
        "transfer {price} to my savings account",
        "What is my bank balance?",
        "sell {n} shares of that oil company",
        "What's the exchange rate for Swiss francs?",
        "block my credit card, it was stolen",
    ),
    "home control": (
        "turn off the bedroom lights",
        "set the thermostat to {n} degrees less",
        "lock the front door",
        "close the blinds in the kitchen",
        "start the robot vacuum",
    ),
    "telephone": (
        "turn up the volume of the ringer",
        "switch on flight mode",
        "Why is my battery draining so fast?",
        "take a screenshot of this",
        "delete blurry photos from my camera roll",
    ),
    "weather": (
        "Will it rain in {city} {day}?",
        "check the pollen forecast",
        "How cold does it get tonight?",
        "Is there a storm warning?",
    ),
    "state": (
        "renew my passport online",
        "fill in the tax return",
        "register to vote before {month}",
        "What papers do I need for a visa?",
    ),
    "small talk": (
        "tell me a joke about penguins",
        "Are you a robot?",
        "What's the meaning of life?",
        "Do you ever sleep?",
        "sing me happy birthday",
    ),
    "vehicles": (
        "My car makes a grinding noise when I brake",
        "check the tyre pressure",
        "book the van in for its yearly inspection",
        "Which oil does a diesel engine need?",
    ),
    "animals": (
        "Why does my cat eat grass?",
        "call the vet about the limping dog",
        "How long do hamsters live?",
        "Is chocolate poisonous for dogs?",
    ),
    "news and law": (
        "Who won the election in Chile?",
        "read the headlines to me",
        "Can my landlord keep the deposit?",
        "draft a letter of resignation",
    ),
    "love and work": (
        "find me a date for the weekend",
        "polish my CV for a nursing job",
        "Should I text my ex?",
        "look for vacancies for welders",
    ),
    "nonsense": (
        "blue seven table however",
        "asdf jkl",
        "testing one two",
        "hmm never mind",
    ),
}


def outside_rows(person: Person, count: int, *, rng: Random) -> list[Row]:
    """Return ``count`` requests of a person that are out of scope, "test" rows in time order."""
    rows = []
    for order in range(count):
        wording = rng.choice(TOPICS[rng.choice(list(TOPICS))])
        clause = fill(wording, dict(person.slots), hour=12.0, rng=rng)
        text = speak(clause, person.voice, rng=rng, framed=wording[0].islower() and wording not in TOPICS["nonsense"])
        rows.append(
            Row(
                user=person.user,
                order=order,
                text=text,
                label=OUTSIDE,
                labels=(OUTSIDE,),
                split="test",
                time=float(_START + order * _DAY_S),
            )
        )
    return rows
