"""`tacit evaluate routing`: its JSON, and its figures beside naive ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from engine.encoders.encoder import CachedEncoder
from federation.data.dataset import Row, read_rows
from federation.errors import ConfigError, DataError
from federation.evaluation.routing import evaluate_routing

SETTINGS: dict[str, Any] = {"rounds": 3, "local_steps": 2}


def evaluate(rows: list[Row], toy: Any, **changed: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "title": "made-up rows",
        "settings": SETTINGS,
        "seeds": 2,
        "devices": None,
        "alphas": (),
        "command": "tacit evaluate routing",
    }
    return evaluate_routing(rows, encoder=CachedEncoder(toy), **(plain | changed))


def nameless(rows: list[Row]) -> list[Row]:
    return [Row(user="", order=row.order, text=row.text, label=row.label) for row in rows]


def check_block(block: dict[str, Any], *, graded: bool = False) -> None:
    methods, gain = block["methods"], block["gain"]
    for name, one in methods.items():
        says_how_sure = name in ("global", "personal", "cautious", "no_rounds")
        assert set(one) == {
            "accuracy", "accuracy_at_5", "mrr", "interval", "hurt", "hurt_significant", "worst_tenth",
            *(("ece", "nll") if says_how_sure else ()), *(("accuracy_any", "ndcg_at_5") if graded else ()),
        }  # fmt: skip
    for name in ("global", "personal"):
        assert 0 <= methods[name]["accuracy"] <= methods[name]["mrr"] <= 1
    personal = methods["personal"]
    assert 0 <= personal["hurt_significant"] <= personal["hurt"] <= 1
    assert 0 <= personal["worst_tenth"] <= personal["accuracy"] + 1e-9
    assert set(gain) == {"accuracy"}
    mean, low, high = gain["accuracy"]
    assert low <= mean <= high
    assert mean == pytest.approx(personal["accuracy"] - methods["global"]["accuracy"])


def test_rows_with_users_give_the_promised_json_at_the_top(rows: Any, toy: Any) -> None:
    made = rows(users=5, each=24)
    result = evaluate(made, toy)
    check_block(result)
    assert len(result["blocks"]) == 1
    assert result["blocks"][0]["alpha"] is None
    for name in ("methods", "gain", "users", "rows"):
        assert result[name] == result["blocks"][0][name]
    # Both seeds pool: each of 5 users has 24 - floor(0.7 * 24) = 8 test rows a seed.
    assert (result["users"], result["rows"]) == (5, 5 * 8 * 2)
    json.loads(json.dumps(result, allow_nan=False))
    assert result["mode"] == "open: updates visible to the server"
    from federation.report.results import check_results

    check_results(result)


def test_one_alpha_is_a_block_and_the_top(rows: Any, toy: Any) -> None:
    result = evaluate(nameless(rows(users=5, each=24)), toy, devices=4, alphas=(0.3,), seeds=1)
    check_block(result)
    assert [block["alpha"] for block in result["blocks"]] == [0.3]


def test_several_alphas_are_a_block_each_and_nothing_at_the_top(rows: Any, toy: Any) -> None:
    result = evaluate(nameless(rows(users=5, each=24)), toy, devices=4)
    assert [block["alpha"] for block in result["blocks"]] == [0.05, 0.3, 1.0, 5.0]
    for block in result["blocks"]:
        check_block(block)
        # A dealt device of one seed is another one in the next.
        assert block["users"] == 2 * 4
    assert "methods" not in result
    assert "gain" not in result


def test_small_users_train_and_are_not_measured(rows: Any, toy: Any) -> None:
    result = evaluate(rows(users=3, each=24) + [
        Row(user="small", order=n, text=f"cab ride {n}", label="taxi") for n in range(19)
    ], toy, seeds=1)  # fmt: skip
    assert (result["users"], result["rows"]) == (3, 3 * 8)
    assert "small" not in {one["device"] for one in result["blocks"][0]["devices"]}


def test_evaluation_gives_the_same_figures_again(rows: Any, toy: Any) -> None:
    made = rows(users=4, each=24)
    assert evaluate(made, toy) == evaluate(made, toy)


def test_interval_of_the_gain_is_over_users(rows: Any, toy: Any) -> None:
    block = evaluate(rows(users=6, each=24), toy)["blocks"][0]
    gains = [one["gain"] for one in block["devices"]]
    mean, low, high = block["gain"]["accuracy"]
    assert min(gains) <= low <= mean <= high <= max(gains)
    assert mean == pytest.approx(math.fsum(gains) / len(gains))  # all have as many rows


def test_evaluation_leaves_no_folder_behind(
    rows: Any, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    evaluate(rows(users=3, each=24), toy, seeds=1)
    assert list(tmp_path.iterdir()) == []


def test_alpha_for_rows_with_users_is_refused(rows: Any, toy: Any) -> None:
    with pytest.raises(ConfigError, match="alpha"):
        evaluate(rows(users=3, each=24), toy, alphas=(0.3,))


def test_rows_that_nobody_can_be_measured_on_are_a_clear_error(rows: Any, toy: Any) -> None:
    with pytest.raises(DataError) as error:
        evaluate(rows(users=3, each=5), toy, seeds=1)
    assert "\n" not in str(error.value)


def test_mixed_rows_are_refused(rows: Any, toy: Any) -> None:
    made = rows(users=3, each=24)
    with pytest.raises(DataError, match="name no user"):
        evaluate(made + nameless(made[:1]), toy)


REAL = Path("shared/data/routing/unimobile.jsonl")


@pytest.mark.slow
def test_real_users_are_better_off_personalized(root: Path, encoder: Any) -> None:
    path = root.parent / REAL
    if not path.is_file():
        pytest.skip(f"needs the research data at ../{REAL}, which is not shipped")
    result = evaluate_routing(
        read_rows(path),
        title=path.name,
        settings={"rounds": 10},
        seeds=1,
        devices=None,
        alphas=(),
        encoder=CachedEncoder(encoder),
        command="tacit evaluate routing",
    )
    check_block(result, graded=True)
    assert result["users"] == 38
    # Few rounds and one seed: the direction must be right, the size is the benchmark's matter.
    assert result["gain"]["accuracy"][0] > 0
    assert result["methods"]["personal"]["hurt_significant"] <= 0.06
