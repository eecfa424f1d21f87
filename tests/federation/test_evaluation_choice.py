"""`tacit evaluate choice`: the protocol on invented people, with figures worked out by hand."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.data.choices import (
    ChoiceRow,
    items_beside,
    parse_choice,
    public_items,
    read_choices,
    read_items,
    split_choices,
)
from federation.errors import DataError
from federation.evaluation.choice import LEARNED, evaluate_choice
from federation.evaluation.choice_metrics import Question, answer, figures, questions, rank_of
from federation.evaluation.choice_plain import counted, plain_methods, repeat_share

NONE = np.zeros(0, dtype=np.int64)


def row(user: str, item: str, ts: float | None = None, **rest: Any) -> ChoiceRow:
    return ChoiceRow(user=user, item=item, ts=ts, **rest)


def habitual(users: int = 8, events: int = 40, *, timed: bool = True, seed: int = 0) -> list[ChoiceRow]:
    """People who open one app in the morning and another in the evening, and now and then any."""
    rng = random.Random(seed)
    rows = []
    for user in range(users):
        favourites = {when: f"app {rng.randrange(12)}" for when in ("morning", "evening")}
        for number in range(events):
            when, place = rng.choice(("morning", "evening")), rng.choice(("home", "out"))
            item = favourites[when] if rng.random() < 0.85 else f"app {rng.randrange(12)}"
            split = "test" if number >= events * 0.8 else "train"
            ts = 1000.0 * number + user if timed else None
            rows.append(row(f"user {user}", item, ts, context={"when": when, "place": place}, split=split))
    return rows


def evaluate(rows: list[ChoiceRow], items: list[str] | None = None, **changed: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {"title": "invented", "seeds": 2, "all_methods": False, "command": "tacit evaluate choice"}
    return evaluate_choice(rows, items or [], factors=4, **(plain | changed))


# Ranks.


@pytest.mark.parametrize(
    ("scores", "true", "among", "rank"),
    [
        ([0.9, 0.5, 0.1], 0, None, 1),
        ([0.9, 0.5, 0.1], 2, None, 3),
        ([0.5, 0.5, 0.5], 1, None, 3),
        ([0.0, 0.0, 0.0], 0, [1, 2], 3),
        ([0.5, 0.9, 0.5], 0, [2], 2),
        ([0.5, 0.9, 0.4], 0, [2], 1),
        ([0.5], 0, [], 1),
    ],
)
def test_ranks_count_ties_against_the_answer(
    scores: list[float], true: int, among: list[int] | None, rank: int
) -> None:
    others = None if among is None else np.array(among, dtype=np.int64)
    assert rank_of(np.array(scores), true, others) == rank


def test_figures_by_hand() -> None:
    """Two users; ranks 1 and 6 of all items, and 1, 12 and 3, 10 among the negatives of two seeds."""
    scores = np.arange(30, 0, -1, dtype=float)
    asked = [
        Question(person=0, row=0, item=0, negatives=(NONE + 0, np.arange(1, 12)), new=False, had_here=np.array([0])),
        Question(
            person=1, row=0, item=5, negatives=(np.arange(3, 5), np.arange(6)), new=True, had_here=np.array([1, 2])
        ),
    ]
    ranks = [answer(one, scores) for one in asked]
    assert [(one.full, one.sampled, one.elsewhere) for one in ranks] == [(1, (1, 1), None), (6, (3, 7), 4)]
    result = figures(asked, ranks, seed=0)
    assert result["accuracy"] == 0.5
    assert result["accuracy_at_5"] == 0.5
    assert result["mrr"] == pytest.approx((1 + 1 / 6) / 2)
    assert result["hit_rate_at_10"] == 1.0
    assert result["ndcg_at_10"] == pytest.approx((1 + 1 + 1 / math.log2(4) + 1 / math.log2(8)) / 4)
    assert result["rows"] == 2
    assert result["new_items"]["rows"] == result["not_in_this_context"]["rows"] == 1
    assert result["new_items"]["mrr"] == pytest.approx(1 / 6)
    # Without the two that the user had in this context, the sixth is the fourth.
    assert result["not_in_this_context"]["mrr"] == pytest.approx(1 / 4)
    assert result["not_in_this_context"]["accuracy_at_5"] == 1.0


def test_group_without_rows_has_no_figures() -> None:
    asked = [Question(person=0, row=0, item=0, negatives=(NONE,), new=False, had_here=np.array([0]))]
    result = figures(asked, [answer(one, np.ones(3)) for one in asked], seed=0)
    assert result["new_items"] is None
    assert result["not_in_this_context"] is None


# The split.


def test_last_row_by_time_and_then_by_line_is_left_out_for_users_with_twenty() -> None:
    rows = [row("b", f"i{n}", 5.0) for n in range(20)] + [row("a", f"i{n}", float(n)) for n in range(19)]
    rows.insert(3, row("b", "late", 9.0))
    first, second = split_choices(rows)
    assert (first.user, len(first.train), first.test) == ("a", 19, ())
    assert (second.user, [one.item for one in second.test]) == ("b", ["late"])
    assert [one.item for one in second.train] == [f"i{n}" for n in range(20)]
    tied = split_choices([row("b", f"i{n}", 5.0) for n in range(20)])[0]
    assert [one.item for one in tied.test] == ["i19"]


def test_split_is_used_as_it_stands_where_there_is_no_time() -> None:
    rows = [row("a", f"i{n}", split=split) for n, split in enumerate(["train", "test", "valid", "test", ""])]
    (one,) = split_choices(rows)
    assert [its.item for its in one.train] == ["i0", "i2", "i4"]
    assert [its.item for its in one.test] == ["i1", "i3"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("a", "i", None)] * 30, "none has the split 'test'"),
        ([row("a", "i", 1.0)] * 19, "20 rows of a user are needed"),
    ],
)
def test_rows_that_nothing_can_be_measured_on_are_refused(rows: list[ChoiceRow], message: str) -> None:
    with pytest.raises(DataError, match=message):
        split_choices(rows)


def test_public_are_listed_items_and_those_that_two_people_train_on() -> None:
    rows = [
        row(user, item, split=split)
        for user, item, split in (
            ("a", "both", "train"),
            ("b", "both", "train"),
            ("a", "alone", "train"),
            ("a", "alone", "train"),
            ("a", "later", "train"),
            ("b", "later", "test"),
            ("b", "listed", "test"),
        )
    ]
    assert public_items(split_choices(rows), ["listed"]) == ["both", "listed"]


def test_negatives_are_what_the_user_never_had_drawn_by_seed_and_user() -> None:
    rows = [row("u", f"i{n:03d}", float(n)) for n in range(25)]
    places = {f"i{n:03d}": n for n in range(200)}
    (asked,) = questions(split_choices(rows), places, seeds=3)
    for seed, negatives in enumerate(asked.negatives):
        naive = random.Random(f"{seed}:u").sample([f"i{n:03d}" for n in range(25, 200)], 99)
        assert [f"i{n:03d}" for n in negatives] == naive
    assert asked.new
    assert asked.had_here.tolist() == list(range(24))  # Of the one context there is, the empty one.
    (few,) = questions(split_choices(rows), {name: n for name, n in places.items() if n < 40}, seeds=1)
    assert sorted(few.negatives[0]) == list(range(25, 40))


# The whole.


@pytest.mark.parametrize("timed", [True, False])
def test_habits_in_context_are_found_by_rounds_and_no_plain_method_is_better(timed: bool) -> None:
    result = evaluate(habitual(users=12, timed=timed))
    methods = result["methods"]
    assert result["rows"] == 12 * (1 if timed else 8)
    assert result["devices"] == result["users"] == 12
    if not timed:
        assert methods["personalized"]["accuracy"] > methods["most_frequent"]["accuracy"] + 0.1
        assert methods["personalized"]["mrr"] >= methods["own_context"]["mrr"]
        assert methods["popularity"]["accuracy"] < methods["personalized"]["accuracy"] - 0.3
    for one in methods.values():
        low, high = one["hit_rate_interval"]
        assert 0 <= low <= one["hit_rate_at_10"] <= high <= 1
        assert one["accuracy"] <= one["accuracy_at_5"] <= 1
    json.dumps(result)


def test_people_who_never_repeat_get_what_goes_with_what_they_had() -> None:
    """Two tastes of 30 films each: nobody sees a film twice, and the last is of the user's own taste."""
    rng = random.Random(1)
    rows = []
    for user in range(24):
        films = rng.sample([f"{'xy'[user % 2]}{n}" for n in range(30)], 21)
        rows += [row(f"user {user}", film, float(n)) for n, film in enumerate(films)]
    result = evaluate(rows, [f"{taste}{n}" for taste in "xy" for n in range(30)], all_methods=True)
    methods = result["methods"]
    assert set(methods) == {"personalized", "most_frequent", "own_context", "popularity", *LEARNED}
    assert methods["personalized"]["hit_rate_at_10"] == 1.0  # 9 films of its taste are left.
    assert methods["personalized"]["mrr"] > 1.5 * methods["popularity"]["mrr"]
    assert methods["personalized"]["new_items"]["rows"] == 24
    again = evaluate(rows, [f"{taste}{n}" for taste in "xy" for n in range(30)])
    assert again["methods"]["personalized"] == methods["personalized"]


def test_answer_that_no_device_could_know_is_wrong_and_not_an_error() -> None:
    rows = [row(user, f"i{n % 5}", float(n)) for user in ("a", "b") for n in range(20)]
    rows += [row("a", "never seen", 99.0), row("b", "i0", 99.0)]
    ours = evaluate(rows)["methods"]["personalized"]
    assert ours["rows"] == 2
    assert ours["new_items"]["rows"] == 1
    assert ours["new_items"]["mrr"] == pytest.approx(1 / 6)  # Last of six: ties count against it.


def test_plain_methods_by_hand() -> None:
    rows = [
        row("a", item, context={"at": at}, split="train")
        for item, at in (
            ("tea", "home"),
            ("tea", "home"),
            ("beer", "pub"),
            ("tea", "pub"),
            ("beer", "pub"),
            ("tea", "home"),
        )
    ]
    rows += [row("b", "milk", split="train"), row("b", "milk", split="train"), row("a", "tea", split="test")]
    split, places = split_choices(rows), {"beer": 0, "milk": 1, "tea": 2}
    assert counted(split, places).tolist() == [[2, 0, 4], [0, 2, 0]]
    assert repeat_share(counted(split, places)) == pytest.approx(5 / 8)
    methods = plain_methods(split, places)
    assert [int(methods["most_frequent"](0, {}).argmax()), int(methods["own_context"](0, {"at": "pub"}).argmax())] == [
        2,
        0,
    ]
    assert int(methods["own_context"](0, {"at": "home"}).argmax()) == 2
    assert methods["popularity"](0, {}).tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3])


def test_where_nobody_repeats_plain_methods_name_nothing_twice() -> None:
    rows = [row(user, f"i{n}", float(n)) for user, first in (("a", 0), ("b", 3)) for n in range(first, first + 21)]
    split = split_choices(rows)
    places = {f"i{n}": n for n in range(24)}
    for scorer in plain_methods(split, places).values():
        order = np.argsort(-scorer(0, {}), kind="stable")
        assert set(order[:4].tolist()) == {20, 21, 22, 23}


# Files.


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "Line 7 is not JSON"),
        ("[]", "Line 7: expected a JSON object"),
        ('{"item": "a", "ts": 1}', "Line 7: expected a string in 'user'"),
        ('{"user": "u", "ts": 1}', "Line 7: expected a string in 'item'"),
        ('{"user": "u", "item": " "}', "Line 7: Expected 'item' not to be empty"),
        ('{"user": "u", "item": "a", "ts": "noon"}', "Line 7: expected a number or null in 'ts'"),
        ('{"user": "u", "item": "a", "ts": true}', "Line 7: expected a number or null in 'ts'"),
        ('{"user": "u", "item": "a", "ts": 1e999}', "Line 7: Expected ts=inf to be finite"),
        ('{"user": "u", "item": "a", "context": ["home"]}', "Line 7: Expected a context as a flat object"),
        ('{"user": "u", "item": "a", "context": {"at": 3}}', "Line 7: Expected a context as a flat object"),
        ('{"user": "u", "item": "\\ud800"}', "Line 7: Expected valid Unicode"),
    ],
)
def test_malformed_line_is_named(line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_choice(line, line=7)


def test_files_are_read_and_their_errors_name_them(tmp_path: Path) -> None:
    events, listed = tmp_path / "x.jsonl", tmp_path / "x_items.jsonl"
    events.write_text('{"user": 7, "ts": null, "item": 3, "value": 5, "context": null, "split": "train"}\n\n')
    listed.write_text('{"item": "3", "text": "three"}\n{"item": "4"}\n')
    assert read_choices(events) == [row("7", "3", split="train")]
    assert items_beside(events) == listed
    assert read_items(listed) == {"3": "three", "4": ""}
    listed.write_text('{"item": "3"}\n{"text": "no item"}\n')
    with pytest.raises(DataError, match=r"x_items\.jsonl: Line 2: expected a string in 'item'"):
        read_items(listed)
    events.write_text("")
    with pytest.raises(DataError, match="holds no rows"):
        read_choices(events)
    with pytest.raises(DataError, match="Cannot read"):
        read_choices(tmp_path / "missing.jsonl")


def test_one_user_and_items_of_one_user_alone_are_no_data() -> None:
    with pytest.raises(DataError, match="at least 2 users"):
        evaluate([row("a", f"i{n}", float(n)) for n in range(25)])
    with pytest.raises(DataError, match="nothing to learn together"):
        evaluate([row(user, f"{user} {n}", float(n)) for user in "ab" for n in range(25)])


def test_nan_counts_against_us() -> None:
    assert rank_of(np.array([np.nan, 0.5]), 0) == 2
    assert rank_of(np.array([np.nan, 0.5]), 0, np.array([1])) == 2
    assert rank_of(np.array([0.5, np.nan, 0.1]), 0) == 2
