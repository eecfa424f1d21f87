"""The store's benchmark runs as documented, prints every figure, and judges each bound as its text says."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SIZE = 1500  # More than one segment.
COMPARED = {
    *("add", "add_mean", "batch", "search", "search_new", "search_uncached", "text", "hybrid", "size", "size_packed"),
    *("forget", "unlock", "unlock_answer", "unlock_text", "embedding", "growth"),
}
OURS_ALONE = {
    *(
        "speedup",
        "forget_commits",
        "forget_net",
        "forget_over_bare",
        "search_after",
        "argon2",
        "growth_apart",
        "lexical",
        "columns",
    ),
}
PLAIN_ONLY = {"size_packed", "embedding"}
BOUND = {"add", "batch", "search", "search_uncached", "size", "forget_net", "embedding", "growth_apart"}

Figures = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("benchmark")


@pytest.fixture(scope="module")
def printed(folder: Path) -> Figures:
    command = [sys.executable, "-m", "benchmarks.store", "--sizes", str(SIZE), "--repeats", "1", "--json"]
    done = subprocess.run([*command, "--folder", str(folder)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures: Figures = json.loads(done.stdout)
    return figures


@pytest.fixture(scope="module")
def rows(printed: Figures) -> dict[str, Figures]:
    return {row["key"]: row for row in printed["sizes"][str(SIZE)]}


def test_every_figure_is_there_and_finite(rows: dict[str, Figures]) -> None:
    assert set(rows) == COMPARED | OURS_ALONE | {"recall"}
    for key, row in rows.items():
        assert row["title"], key
        numbers = [value for value in row.values() if isinstance(value, float)]
        assert all(math.isfinite(number) for number in numbers), row
        assert row["ours"] > 0 or key in {"forget_net", "forget_over_bare", "growth", "growth_apart"}, row


def test_every_ratio_against_the_baselines_is_there(printed: Figures, rows: dict[str, Figures]) -> None:
    with_sqlcipher = "sqlcipher" in printed["engines"]
    # What is missing is said.
    assert with_sqlcipher or printed["notes"]
    for key in COMPARED:
        assert isinstance(rows[key]["ratio_plain"], float), key
        assert isinstance(rows[key]["ratio_sqlcipher"], float) == (with_sqlcipher and key not in PLAIN_ONLY), key
    for key in OURS_ALONE:
        assert rows[key]["plain"] is None, key


def test_recall_is_a_share_and_nearly_whole(rows: dict[str, Figures]) -> None:
    assert 0.9 <= rows["recall"]["ours"] <= 1.0


def test_verdicts_say_what_their_bounds_say(rows: dict[str, Figures]) -> None:
    judged = {key: row for key, row in rows.items() if row["bound"]}
    assert set(judged) == BOUND
    for key, row in judged.items():
        if key == "batch":
            assert row["met"] == (row["ours"] >= 15_000 or row["ratio_plain"] >= 0.5)
            continue
        match = re.fullmatch(r"<= ([\d.]+) (x plain|ms|MB)", row["bound"])
        assert match, row
        value = row["ratio_plain"] if match[2] == "x plain" else row["ours"]
        assert row["met"] == (value <= float(match[1])), row


def test_no_database_is_left(printed: Figures, folder: Path) -> None:
    assert printed["sizes"]
    assert not list(folder.iterdir())


@pytest.mark.parametrize("option", [["--sizes", "10"], ["--baseline", "sqlcipher"]])
def test_what_cannot_be_measured_is_refused(option: list[str]) -> None:
    command = [sys.executable, "-m", "benchmarks.store", *option]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Expected" in done.stderr
