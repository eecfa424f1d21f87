"""Notebooks are committed as they ran: outputs there, none an error, and made by the sources that stand beside them."""

from __future__ import annotations

import os
import re
import runpy
from pathlib import Path
from typing import Any

import nbformat
import pytest

import tacit

FOLDER = Path(tacit.__file__).resolve().parent / "examples"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
RUN = runpy.run_path(str(FOLDER / "run.py"), run_name="run")


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def text_of(notebook: Any) -> str:
    """All that a reader sees as text in the outputs."""
    return "".join(
        output.get("text", "") + str(output.get("data", {}).get("text/plain", "")) for output in outputs(notebook)
    )


def assert_clean(notebook: Any) -> None:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "not run from top to bottom"
    assert outputs(notebook)
    assert {output.output_type for output in outputs(notebook)} <= {"stream", "display_data", "execute_result"}
    assert not [output.text for output in outputs(notebook) if output.get("name") == "stderr"]
    seen = text_of(notebook)
    assert "Warning" not in seen
    assert not re.search(r"it/s|\d+%\|", seen), "a progress bar"
    assert not re.search(r"(?<![\w.])/(home|tmp|root|Users|work|var|usr|private)\b|[A-Z]:\\\\", seen), (
        "a machine's path"
    )


def test_there_are_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["01_one_device", "02_personalization", "03_what_leaves_a_device"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_as_it_ran(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert_clean(notebook)
    assert notebook.metadata.tacit.source_sha256 == RUN["source_sha256"](notebook), (
        f"{path.name} was changed after it ran: python examples/run.py {path.stem}"
    )


@pytest.mark.parametrize(
    "name",
    ["01_one_device", *(pytest.param(path.stem, marks=pytest.mark.slow) for path in NOTEBOOKS[1:])],
)
def test_notebook_runs_and_says_what_is_committed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("PYTHONPATH", "PYTHONWARNINGS", "MPLBACKEND"):
        monkeypatch.setenv(variable, os.environ.get(variable, ""))  # Put back afterwards.
    committed = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    executed = RUN["execute"](nbformat.read(FOLDER / f"{name}.ipynb", as_version=4))
    assert_clean(executed)
    # Scores differ between processors in the last digits; the words do not.
    words = [re.sub(r" *[-+]?\d[\d.,]*(e[-+]\d+)?", " #", text_of(notebook)) for notebook in (committed, executed)]
    assert words[0] == words[1]
    pictures = [
        sum("image/png" in output.get("data", {}) for output in outputs(each)) for each in (committed, executed)
    ]
    assert pictures[0] == pictures[1] >= 1
