"""The generated population: the same for the same seed, varied, and solved neither by text nor by habit alone."""

import hashlib
import json
import math
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from engine.model.services import SERVICES
from federation.data.dataset import Row, read_rows
from federation.population import Person, Population, generate
from federation.population.needs import NEEDS
from federation.population.specific import SPECIFIC

TEXT_WEIGHT = 0.25
PUBLIC = {name for name, _, _ in SERVICES}
_DIGEST = """
import hashlib
from federation.population import generate
print(hashlib.sha256(repr(generate(5, seed=3).rows).encode()).hexdigest())
"""


@cache
def population(devices: int = 120, seed: int = 0) -> Population:
    return generate(devices, seed=seed)


def rows_by_user(rows: Iterable[Row]) -> dict[str, list[Row]]:
    by_user: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_user[row.user].append(row)
    return by_user


# --- what the lists promise


def test_services_names_unique_and_in_every_domain_of_the_issue() -> None:
    domains = Counter(domain for _, _, domain in SERVICES)
    assert len(PUBLIC) == len(SERVICES)
    assert set(domains) == {
        *("travel", "navigation", "tourism", "lifestyle", "food delivery"),
        *("event tickets", "films", "shopping", "office", "entertainment"),
    }
    assert min(domains.values()) >= 2


def test_needs_every_service_is_wanted_and_has_rivals() -> None:
    assert {service for need in NEEDS for service in need.services} == PUBLIC == set(SPECIFIC)
    assert all(2 <= len(need.services) <= 4 for need in NEEDS)


# --- the same seed, the same people


def test_generate_same_seed_same_rows_in_another_process() -> None:
    expected = hashlib.sha256(repr(generate(5, seed=3).rows).encode()).hexdigest()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", _DIGEST], env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout.strip() == expected


def test_generate_more_devices_leaves_earlier_people_as_they_were() -> None:
    small, large = generate(3, seed=1), generate(9, seed=1)
    assert large.people[:3] == small.people
    assert large.rows[: len(small.rows)] == small.rows


def test_generate_other_seed_other_rows() -> None:
    assert generate(2, seed=1).rows != generate(2, seed=2).rows


# --- variety


def test_sentences_at_least_5000_distinct_in_120_people() -> None:
    assert len({row.text for row in population().rows}) >= 5000


def test_sentences_have_no_slot_left_open() -> None:
    assert not [row.text for row in population().rows if "{" in row.text or "}" in row.text or "  " in row.text]


def test_people_no_two_alike() -> None:
    people = population(1000).people
    assert len({(tuple(person.favourites.items()), person.voice, person.routines) for person in people}) == 1000
    assert len({person.name for person in people}) == 1000
    # Favourites alone already differ between almost all of them.
    assert len({tuple(person.favourites.items()) for person in people}) > 990


def test_rows_per_person_vary_around_the_number_asked_for() -> None:
    counts = Counter(row.user for row in generate(200, seed=0, rows_per_device=40).rows)
    assert min(counts.values()) >= 20
    assert max(counts.values()) <= 68
    assert 36 <= sum(counts.values()) / 200 <= 44
    assert len(set(counts.values())) > 20


# --- labels


def test_labels_public_ones_are_services_and_private_ones_belong_to_one_person() -> None:
    generated = population(1000)
    owners = Counter(label for person in generated.people for label in person.private_labels)
    assert set(owners.values()) == {1}
    assert not PUBLIC & set(owners)
    private = {person.user: set(person.private_labels) for person in generated.people}
    assert all(1 <= len(labels) <= 3 for labels in private.values())
    assert all(row.label in PUBLIC or row.label in private[row.user] for row in generated.rows)


def test_labels_private_share_between_5_and_8_percent() -> None:
    rows = population(1000).rows
    assert 0.05 <= sum(row.label not in PUBLIC for row in rows) / len(rows) <= 0.08


def test_labels_best_first_distinct_and_three_at_most() -> None:
    for row in population().rows:
        assert row.labels[0] == row.label
        assert len(set(row.labels)) == len(row.labels) <= 3


def test_labels_about_four_percent_noise() -> None:
    generated = population(1000)
    noisy = sum(row.label != intent.meant for row, intent in zip(generated.rows, generated.intents, strict=True))
    assert 0.03 <= noisy / len(generated.rows) <= 0.05


# --- time


def test_time_strictly_grows_with_order_in_each_person() -> None:
    for rows in rows_by_user(population().rows).values():
        assert [row.order for row in rows] == list(range(len(rows)))
        times = [row.time for row in rows if row.time is not None]
        assert len(times) == len(rows)
        assert all(earlier < later for earlier, later in pairwise(times))


def test_split_first_seventy_percent_train() -> None:
    for rows in rows_by_user(population().rows).values():
        trained = round(0.7 * len(rows))
        assert [row.split for row in rows] == ["train"] * trained + ["test"] * (len(rows) - trained)


def test_time_meals_follow_a_daily_rhythm() -> None:
    generated = population()
    meals = [
        (row.time or 0.0) % 86_400 / 3600
        for row, intent in zip(generated.rows, generated.intents, strict=True)
        if intent.need == "meal"
    ]
    assert sum(10 <= hour < 23 for hour in meals) / len(meals) > 0.9


def test_drift_every_person_changes_a_favourite_and_acts_on_it() -> None:
    generated = population(300)
    before: list[bool] = []
    after: list[bool] = []
    people = {person.user: person for person in generated.people}
    sizes = Counter(row.user for row in generated.rows)
    for row, intent in zip(generated.rows, generated.intents, strict=True):
        person = people[row.user]
        old, new = person.favourites.get(intent.need, ("", ""))
        if old != new:
            drifted = row.order >= person.drift_at * sizes[row.user]
            (after if drifted else before).append(intent.meant == old)
    assert all(any(old != new for old, new in person.favourites.values()) for person in generated.people)
    assert sum(before) / len(before) > sum(after) / len(after) + 0.3


# --- not solved by one thing alone


def _words(text: str) -> list[str]:
    words = text.lower().replace(",", " ").rstrip(".!?").split()
    return [*words, *(f"{first} {second}" for first, second in pairwise(words))]


class _TextOnly:
    """Multinomial naive Bayes on words and pairs of words: the naive reader of text."""

    def __init__(self, rows: list[Row]) -> None:
        self.labels = sorted(PUBLIC)
        self.prior = Counter(row.label for row in rows)
        self.counts: dict[str, Counter[str]] = {label: Counter() for label in self.labels}
        for row in rows:
            if row.label in PUBLIC:
                self.counts[row.label].update(_words(row.text))
        self.totals = {label: sum(self.counts[label].values()) for label in self.labels}

    def scores(self, text: str) -> dict[str, float]:
        """Log likelihood of the text under each label, smoothed; without the prior."""
        words = _words(text)
        return {
            label: sum(math.log((self.counts[label][word] + 0.05) / (self.totals[label] + 200.0)) for word in words)
            for label in self.labels
        }


def _habit_prior(person: Person) -> dict[str, float]:
    """How often the person takes each service after the drift, for somebody who knows the habits."""
    prior = dict.fromkeys(PUBLIC, 0.002)
    for habit in person.habits:
        prior[habit.first[1]] += habit.weight * 0.72
        prior[habit.second[1]] += habit.weight * 0.2
    return prior


def _own_words_answer(person: Person, text: str) -> str | None:
    """What the text means to somebody who knows the person's own words: a private label, or a routine's favourite."""
    lowered = text.lower()
    for private in person.private:
        if private.word.lower() in lowered:
            return private.label
    for routine in person.routines:
        if any(lowered.startswith(phrase.lower()) for phrase in routine.phrases):
            return person.favourites[routine.need][1]
    return None


def _test_accuracies() -> list[float]:
    """Accuracy on test rows of 40 people of: text alone (trained on 80 others), favourites, both, and own words too."""
    generated = population()
    tested = {person.user: person for person in generated.people[80:]}
    reader = _TextOnly([row for row in generated.rows if row.user not in tested])
    hits = []
    for row in generated.rows:
        if row.user not in tested or row.split != "test":
            continue
        text, habit = reader.scores(row.text), _habit_prior(tested[row.user])
        by_text = max(text, key=lambda label: text[label] + math.log(reader.prior[label]))
        by_habit = max(habit, key=lambda label: habit[label])
        # Words of a sentence are not independent, so the reader is too sure of itself: its scores count less.
        by_both = max(text, key=lambda label: TEXT_WEIGHT * text[label] + math.log(habit[label]))
        by_all = _own_words_answer(tested[row.user], row.text) or by_both
        hits.append([row.label == answer for answer in (by_text, by_habit, by_both, by_all)])
    return [sum(column) / len(hits) for column in zip(*hits, strict=True)]


def test_most_frequent_label_far_from_solving_it() -> None:
    shares = []
    for rows in rows_by_user(population().rows).values():
        frequent = Counter(row.label for row in rows if row.split == "train").most_common(1)[0][0]
        answers = [row.label == frequent for row in rows if row.split == "test"]
        shares.append(sum(answers) / len(answers))
    assert 0.12 < sum(shares) / len(shares) < 0.35
    assert sum(share < 0.6 for share in shares) / len(shares) > 0.95


def test_text_alone_far_from_solving_it_and_habits_help() -> None:
    text_only, habit_only, both, with_own_words = _test_accuracies()
    assert 0.35 < text_only < 0.6
    assert habit_only < 0.4
    assert both > text_only + 0.06
    assert text_only + 0.12 < with_own_words < 0.9


def test_short_requests_mean_different_things_to_different_people() -> None:
    generated = population()
    meanings: dict[str, set[str]] = defaultdict(set)
    for person in generated.people:
        for routine in person.routines:
            for phrase in routine.phrases:
                meanings[phrase].add(routine.need)
    assert len(meanings["the usual"]) >= 3
    for person in generated.people:
        own = [phrase for routine in person.routines for phrase in routine.phrases]
        assert len(own) == len(set(own))


# --- requests out of scope


def test_requests_out_of_scope_change_no_other_row_and_are_the_same_for_the_same_seed() -> None:
    plain, more = generate(6, seed=4), generate(6, seed=4, outside_per_device=9)
    assert plain.outside == ()
    assert (plain.rows, plain.people) == (more.rows, more.people)
    assert more.outside == generate(6, seed=4, outside_per_device=9).outside
    assert more.outside[: 3 * 9] == generate(3, seed=4, outside_per_device=9).outside
    assert Counter(row.user for row in more.outside) == {person.user: 9 for person in more.people}


def test_requests_out_of_scope_are_nobodys_label_and_nobodys_words() -> None:
    made = generate(40, seed=0, outside_per_device=20)
    labels = {row.label for row in made.rows} | PUBLIC
    texts = {row.text.lower() for row in made.rows}
    assert {row.label for row in made.outside} == {"outside"}
    assert "outside" not in labels
    assert not texts & {row.text.lower() for row in made.outside}
    assert len({row.text for row in made.outside}) > 300
    assert not any("{" in row.text for row in made.outside)
    assert {row.split for row in made.outside} == {"test"}


# --- files and errors


def test_write_jsonl_reads_back_as_the_same_rows_with_their_origin(tmp_path: Path) -> None:
    generated = generate(3, seed=0)
    path = tmp_path / "rows.jsonl"
    generated.write_jsonl(path)
    assert tuple(read_rows(path)) == generated.rows
    lines = path.read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["origin"] for line in lines} == {"generated population"}


@pytest.mark.parametrize("devices", [0, -1])
def test_generate_refuses_fewer_than_one_device(devices: int) -> None:
    with pytest.raises(ValueError, match=rf"^Expected devices={devices} to be at least 1\.$"):
        generate(devices, seed=0)


def test_generate_refuses_fewer_than_no_requests_out_of_scope() -> None:
    with pytest.raises(ValueError, match=r"^Expected outside_per_device=-1 to be 0 or more\.$"):
        generate(1, seed=0, outside_per_device=-1)


@pytest.mark.parametrize("rows", [9, 0, -5])
def test_generate_refuses_fewer_than_ten_rows_per_device(rows: int) -> None:
    with pytest.raises(ValueError, match=rf"^Expected rows_per_device={rows} to be at least 10\.$"):
        generate(1, seed=0, rows_per_device=rows)
