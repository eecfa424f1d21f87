"""Each published method against its paper's update rule, written naively: a device, a row, a matrix a time."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.baselines import ditto, fedavg, fedavg_finetuned, fedrep, knn_per, local, most_frequent, run
from benchmarks.baselines.common import Client, groups_of, inputs
from benchmarks.baselines.problem import FEWEST, Problem, with_held_out

PUBLIC, DIMENSION, ROUNDS = 3, 4, 3


def unit(rng: np.random.Generator, rows: int) -> np.ndarray:
    x = rng.standard_normal((rows, DIMENSION))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def town(seed: int = 0, sizes: tuple[int, ...] = (1, 2, 3, 5, 6, 6), *, late: bool = True) -> list[Client]:
    """Devices of unequal size; every second has a label of its own, the last one joins late, one label is unknown."""
    rng = np.random.default_rng(seed)
    public, clients = unit(rng, PUBLIC), []
    for number, size in enumerate(sizes):
        names = np.concatenate([public, unit(rng, number % 2)])
        y = rng.integers(len(names), size=size)
        truth = rng.integers(-1, len(names), size=number % 4)
        clients.append(
            Client(
                x=unit(rng, size),
                y=y,
                queries=unit(rng, len(truth)),
                truth=truth,
                names=names,
                public=PUBLIC,
                late=late and number == len(sizes) - 1,
            )
        )
    return clients


def problem(clients: list[Client], tables: list[np.ndarray] | None = None) -> Problem:
    made = Problem(clients=clients, rounds=ROUNDS, seed=0)
    made.tables = tables if tables is not None else naive_fedavg(clients, rate=0.05, steps=2)
    return made


# --- the papers' rules, for reading


def chances(scores: np.ndarray) -> np.ndarray:
    return np.exp(scores) / np.exp(scores).sum()


def gradient(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of F(W) = mean over rows of −log softmax(W·x)_y."""
    total = np.zeros_like(weights)
    for row, label in zip(x, y, strict=True):
        total += np.outer(chances(weights @ row) - np.eye(len(weights))[label], row)
    return total / max(len(y), 1)


def descended(weights: np.ndarray, x: np.ndarray, y: np.ndarray, *, rate: float, steps: int) -> np.ndarray:
    for _ in range(steps):
        weights = weights - rate * gradient(weights, x, y)
    return weights


def with_bias(names: np.ndarray) -> np.ndarray:
    return np.concatenate([names, np.zeros((len(names), 1))], axis=1)


def on_device(one: Client, table: np.ndarray) -> np.ndarray:
    """The shared table with the device's own labels below it."""
    return np.concatenate([table, with_bias(one.names[one.public :])])


def naive_fedavg(clients: list[Client], *, rate: float, steps: int) -> list[np.ndarray]:
    tables = [with_bias(clients[0].names[:PUBLIC])]
    for _ in range(ROUNDS):
        taking = [(inputs(one.x)[one.y < PUBLIC], one.y[one.y < PUBLIC]) for one in clients if not one.late]
        rows = sum(len(y) for _, y in taking)
        tables.append(
            sum(len(y) / rows * descended(tables[-1], x, y, rate=rate, steps=steps) for x, y in taking)  # type: ignore[arg-type]
        )
    return tables


def close(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


SIZES = st.lists(st.integers(0, 9), min_size=2, max_size=6).filter(lambda sizes: sum(sizes[:-1]) > 0).map(tuple)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), sizes=SIZES, steps=st.integers(1, 4))
def test_fedavg_averages_the_devices_models_by_their_rows(seed: int, sizes: tuple[int, ...], steps: int) -> None:
    clients = town(seed, sizes)
    if not any((one.y < PUBLIC).any() for one in clients if not one.late):
        return
    expected = naive_fedavg(clients, rate=0.05, steps=steps)
    made = Problem(clients=clients, rounds=ROUNDS, seed=0)
    close(fedavg.train(groups_of(clients), fedavg.start(made), rounds=ROUNDS, rate=0.05, steps=steps), expected)
    close(fedavg.fit(made, rate=0.05, steps=steps), [inputs(one.queries) @ expected[-1].T for one in clients])
    close(made.tables, expected)


def test_fine_tuning_descends_from_the_last_shared_model() -> None:
    made = problem(town())
    expected = [
        descended(on_device(one, made.tables[-1]), inputs(one.x), one.y, rate=0.04, steps=7) for one in made.clients
    ]
    found = fedavg_finetuned.fit(made, rate=0.04, steps=7)
    close(found, [inputs(one.queries) @ v.T for one, v in zip(made.clients, expected, strict=True)])


def test_local_descends_from_the_names_and_from_nothing_else() -> None:
    made = problem(town(), [])
    expected = [descended(with_bias(one.names), inputs(one.x), one.y, rate=0.04, steps=7) for one in made.clients]
    found = local.fit(made, rate=0.04, steps=7)
    close(found, [inputs(one.queries) @ v.T for one, v in zip(made.clients, expected, strict=True)])


@pytest.mark.parametrize("pull", [0.0, 0.3, 2.0])
def test_ditto_steps_on_its_loss_and_towards_the_rounds_shared_model(pull: float) -> None:
    made = problem(town())
    expected = []
    for one in made.clients:
        v = on_device(one, made.tables[-1] if one.late else made.tables[0])
        for number in range(ROUNDS):
            w = on_device(one, made.tables[-1] if one.late else made.tables[number])
            for _ in range(2):
                v = v - 0.05 * (gradient(v, inputs(one.x), one.y) + pull * (v - w))
        expected.append(inputs(one.queries) @ v.T)
    close(ditto.fit(made, rate=0.05, pull=pull, steps=2), expected)


@pytest.mark.parametrize("rank", [2, 5])
def test_fedrep_fits_heads_then_steps_on_the_representation_and_averages_it(rank: int) -> None:
    made = problem(town(), [])
    adapter = fedrep.start_adapter(fedavg.start(made), rank=rank, rng=made.rng())
    np.testing.assert_allclose(adapter @ adapter.T, np.eye(rank), atol=1e-12)
    heads = [with_bias(one.names) @ adapter.T for one in made.clients]
    for _ in range(ROUNDS):
        after = []
        for number, one in enumerate(made.clients):
            if one.late:
                continue
            x = inputs(one.x)
            heads[number] = descended(heads[number], x @ adapter.T, one.y, rate=0.05, steps=2)
            # ∇_A of the mean loss of V·A·x: Vᵀ · ∇_(V·A).
            step = heads[number].T @ gradient(heads[number] @ adapter, x, one.y)
            after.append(adapter - 0.02 * step)
        adapter = sum(after) / len(after)  # type: ignore[assignment]
    expected = []
    for one, head in zip(made.clients, heads, strict=True):
        z, more = inputs(one.x) @ adapter.T, 2
        if one.late:
            head, more = with_bias(one.names) @ adapter.T, 2 * (ROUNDS + 1)
        expected.append(inputs(one.queries) @ adapter.T @ descended(head, z, one.y, rate=0.05, steps=more).T)
    close(fedrep.fit(made, rank=rank, rate=0.05, shared_rate=0.02, steps=2), expected)


@pytest.mark.parametrize(("neighbours", "temperature"), [(1, 0.1), (3, 0.5), (50, 2.0)])
def test_knn_per_weighs_the_nearest_rows_by_a_kernel_and_mixes(neighbours: int, temperature: float) -> None:
    made = problem(town())
    for one in made.clients:
        expected = np.zeros((len(one.queries), len(one.names)))
        for row, query in zip(expected, one.queries, strict=True):
            apart = [float(np.linalg.norm(query - x)) for x in one.x]
            for place in sorted(range(len(apart)), key=apart.__getitem__)[:neighbours]:
                row[one.y[place]] += np.exp(-apart[place] / temperature)
            row /= row.sum()
        close([knn_per.nearest(one, neighbours=neighbours, temperature=temperature)], [expected])


def test_knn_per_final_answer_is_the_mix_that_the_held_out_rows_chose() -> None:
    clients = town(3, (12, 14, 30), late=False)
    made = with_held_out(clients, rounds=ROUNDS, seed=0)
    assert made.held is not None
    made.tables = naive_fedavg(list(made.clients), rate=0.05, steps=2)
    made.held.tables = naive_fedavg(list(made.held.clients), rate=0.05, steps=2)
    expected = []
    for one, less in zip(made.clients, made.held.clients, strict=True):

        def parts(c: Client, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            shared = np.zeros((len(c.queries), len(c.names)))
            for row, query in zip(shared, inputs(c.queries), strict=True):
                row[:PUBLIC] = chances(table @ query)
            return knn_per.nearest(c, neighbours=5, temperature=0.3), shared

        a, b = parts(less, made.held.tables[-1])
        likelihood = {
            mix: sum(np.log(max(mix * a[i, y] + (1 - mix) * b[i, y], 1e-12)) for i, y in enumerate(less.truth))
            for mix in knn_per.MIXES
        }
        mix = max(likelihood, key=likelihood.__getitem__)
        near, shared = parts(one, made.tables[-1])
        expected.append(mix * near + (1 - mix) * shared)
    close(knn_per.fit(made, neighbours=5, temperature=0.3), expected)


def test_most_frequent_ranks_by_count_then_by_first_appearance() -> None:
    one = town()[0]
    y = np.array([2, 0, 0, 2, 1])
    one = Client(x=np.zeros((5, 4)), y=y, queries=np.zeros((1, 4)), truth=np.array([0]), names=one.names, public=3)
    scores = most_frequent.fit(Problem(clients=[one], rounds=1, seed=0))[0][0]
    assert list(np.argsort(-scores)) == [2, 0, 1]


# --- what the methods see


def test_no_query_moves_what_others_or_other_queries_get() -> None:
    """Test rows are asked about and never learned from: other queries give the same answers to those that stay."""
    clients = town(5, (12, 15, 20), late=False)
    fewer = [
        Client(x=c.x, y=c.y, queries=c.queries[:1], truth=c.truth[:1], names=c.names, public=PUBLIC) for c in clients
    ]
    names = list(run.METHODS)
    all_, some = (run.run_baselines(each, names=names, rounds=ROUNDS, seed=1) for each in (clients, fewer))
    for name in names:
        assert [ranks[:1] for ranks in all_[name].ranks] == some[name].ranks
        assert all_[name].chosen == some[name].chosen


def test_rows_held_out_are_train_rows_and_train_no_more() -> None:
    clients = town(1, (FEWEST - 1, FEWEST, 40), late=False)
    held = with_held_out(clients, rounds=1, seed=0).held
    assert held is not None
    assert [len(one.queries) for one in held.clients] == [0, 3, 12]
    for one, less in zip(clients, held.clients, strict=True):
        pairs = {(tuple(x), int(y)) for x, y in zip(one.x, one.y, strict=True)}
        kept = {(tuple(x), int(y)) for x, y in zip(less.x, less.y, strict=True)}
        asked = {(tuple(x), int(y)) for x, y in zip(less.queries, less.truth, strict=True)}
        assert kept | asked == pairs
        assert not kept & asked


def test_accepted_labels_are_ranked_as_the_true_one_is() -> None:
    clients = [dataclasses.replace(one, accepted=tuple((int(y), 0, -1) for y in one.truth)) for one in town(4)]
    found = run.run_baselines(clients, names=list(run.METHODS), rounds=ROUNDS, seed=1)
    for fitted in found.values():
        for ranks, accepted in zip(fitted.ranks, fitted.accepted, strict=True):
            assert tuple(one[0] for one in accepted) == ranks
            assert all(one[2] == 0 for one in accepted)
    plain = run.run_baselines(town(4), names=["local"], rounds=ROUNDS, seed=1)["local"]
    assert plain.ranks == found["local"].ranks
    assert plain.accepted == [()] * len(clients)


def test_what_is_chosen_is_the_best_on_held_out_rows_and_its_models_stay() -> None:
    held = with_held_out(town(2, (14, 3, 20, 12), late=False), rounds=ROUNDS, seed=4).held
    assert held is not None
    chosen = run.choose(held, fedavg.fit, fedavg.GRID)
    tables, marks = held.tables, []
    for config in fedavg.GRID:
        ranks = [rank for its in run.ranks(held.clients, fedavg.fit(held, **config)) for rank in its]
        marks.append(sum(1 / rank for rank in ranks if rank) / len(ranks))
    assert len(set(marks)) > 1
    assert chosen == fedavg.GRID[marks.index(max(marks))]
    fedavg.fit(held, **chosen)
    close(tables, held.tables)


def test_every_method_tries_as_many_settings_and_repeats() -> None:
    clients = town(2, (14, 3, 20, 12))
    first, again = (run.run_baselines(clients, names=list(run.METHODS), rounds=ROUNDS, seed=4) for _ in range(2))
    assert first == again
    assert list(first) == list(run.METHODS)
    for name, (_, grid) in run.METHODS.items():
        assert len(grid) == (1 if name == "most_frequent" else run.BUDGET)
        assert len({repr(config) for config in grid}) == len(grid)
        assert first[name].chosen in grid


def test_a_label_of_one_devices_own_is_reached_by_what_the_device_fits_alone() -> None:
    rng = np.random.default_rng(0)
    public, own = unit(rng, PUBLIC), unit(rng, 1)
    rows = np.repeat(own, 12, axis=0)
    one = Client(
        x=rows, y=np.full(12, PUBLIC), queries=own, truth=np.array([PUBLIC]), names=np.concatenate([public, own]),
        public=PUBLIC,
    )  # fmt: skip
    other = Client(x=public, y=np.arange(PUBLIC), queries=public, truth=np.arange(PUBLIC), names=public, public=PUBLIC)
    found = run.run_baselines([one, other], names=list(run.METHODS), rounds=ROUNDS, seed=0)
    reached = {name: fitted.ranks[0][0] for name, fitted in found.items()}
    assert reached == dict.fromkeys(run.METHODS, 1) | {"fedavg": 0}
    # A label that the device never had is out of reach for all.
    stranger = Client(x=public, y=np.arange(PUBLIC), queries=own, truth=np.array([-1]), names=public, public=PUBLIC)
    found = run.run_baselines([stranger, other], names=list(run.METHODS), rounds=ROUNDS, seed=0)
    assert all(fitted.ranks[0] == (0,) for fitted in found.values())


EDGES: dict[str, tuple[int, ...]] = {
    "two-rows-in-all": (1, 1),
    "a-device-without-rows": (0, 5),
    "sizes-far-apart": (1, 70),
    "one-device": (12,),
}


@pytest.mark.parametrize("sizes", EDGES.values(), ids=EDGES)
def test_edge_cases_give_finite_scores_for_each_query(sizes: tuple[int, ...]) -> None:
    clients = town(7, sizes, late=False)
    made = problem(clients)
    fits: dict[str, Any] = {
        name: (fit, grid[0]) for name, (fit, grid) in run.METHODS.items() if name != "most_frequent"
    }
    for fit, config in fits.values():
        scores = fit(made, **config)
        assert [len(one) for one in scores] == [len(one.queries) for one in clients]
        assert all(np.isfinite(one).all() for one in scores)


def test_a_model_that_diverged_ranks_nothing() -> None:
    one = town()[3]
    assert run.ranks([one], [np.full((len(one.queries), len(one.names)), np.nan)]) == [(0,) * len(one.queries)]
