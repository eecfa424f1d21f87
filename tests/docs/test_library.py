"""docs/library.md holds: its blocks run in order, and its table of errors names each error there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import engine.errors
import store
import tacit

PAGE = Path(tacit.__file__).resolve().parent / "docs" / "library.md"


def blocks(text: str) -> list[tuple[int, str]]:
    """The Python blocks, each with the number of its first line."""
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [(text[: match.start(1)].count("\n") + 1, match[1]) for match in found]


def test_every_block_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    names: dict[str, Any] = {"__name__": "page"}
    page = PAGE.read_text(encoding="utf-8")
    found = blocks(page)
    assert len(found) == page.count("```python")
    for line, block in found:
        # Blank lines before the block make an error name the page's own line.
        exec(compile("\n" * (line - 1) + block, str(PAGE), "exec"), names)
    assert names["device"].encoder is encoder


def test_table_names_every_error_of_store_and_engine() -> None:
    errors = {
        name
        for module, base in ((store, store.StoreError), (engine.errors, engine.errors.EngineError))
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, base) and value is not base
    }
    # A device always gives its store vectors of the right size.
    assert set(re.findall(r"^\| `(\w+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE)) == errors - {
        "DimensionError"
    }


def test_lines_fit_the_page() -> None:
    assert max(map(len, PAGE.read_text(encoding="utf-8").splitlines())) <= 125
