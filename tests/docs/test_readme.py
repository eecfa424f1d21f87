"""The README holds: its first code runs, its commands are real, its links lead somewhere, its table is the demo's."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

import tacit
from federation.cli.app import cli
from federation.report.words import MORE_DEVICES

ROOT = Path(tacit.__file__).resolve().parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(path for pattern in ("*.md", "*/*.md") for path in ROOT.glob(pattern) if ".venv" not in path.parts)


def test_first_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    block = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    assert len([line for line in block.splitlines() if line.strip()]) <= 11
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out
    assert "Pronto pizza delivery" in printed.splitlines()[0]
    assert "because you said: the usual for friday night" in printed


def commands() -> list[list[str]]:
    lines = [
        line.split("#")[0].strip()
        for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
        for line in block.splitlines()
    ]
    lines += re.findall(r"`(tacit [^`]+)`", README)
    words = [shlex.split(line.removeprefix(".venv/bin/")) for line in lines]
    return [line[1:] for line in words if line and line[0] == "tacit"]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_parse(words: list[str]) -> None:
    """Each command of the README names commands and options that exist; none is run."""
    context = click.Context(cli, info_name="tacit")
    command: click.Command = cli
    while isinstance(command, click.Group) and words:
        name, command, words = command.resolve_command(context, words)
        assert command is not None, name
        context = click.Context(command, info_name=name, parent=context)
    command.make_parser(context).parse_args(list(words))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_table_that_the_demo_points_to_is_there() -> None:
    page, heading = re.fullmatch(r"(\S+), “(.+)”", MORE_DEVICES).groups()  # type: ignore[union-attr]
    assert f"\n## {heading}\n" in (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.slow
def test_table_is_what_the_demo_prints(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tacit", "demo", "--out", "tacit-report"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    promised, printed = figures(README), figures(run.stdout)
    assert promised.keys() == printed.keys()
    assert len(printed) == 2 * (4 + 2)
    for name, value in printed.items():
        # Another processor's rounding may tip a few of the 541 rows; the noise of private mode is new in each run.
        assert value == pytest.approx(promised[name], abs=5 if name[0] == "private" else 1.5), name
    out = tmp_path / "tacit-report"
    assert {path.name for path in out.iterdir()} >= {"report.html", "results.json", "ledger.json", "private", "open"}
    assert all((out / mode / "checkpoint.safetensors").is_file() for mode in ("private", "open"))


def figures(text: str) -> dict[tuple[str, str], float]:
    """The accuracies and both ε of a table of the demo, by mode and line."""
    found, mode = {}, ""
    names = r"The user's most frequent label|Global model|Local only|Personalized|ε [a-z ]+?"
    pattern = rf"^(private|open) mode,|^({names})\s+([\d.]+|∞)"
    for begins, name, value in re.findall(pattern, text, re.MULTILINE):
        mode = begins or mode
        if name:
            found[mode, name] = float(value.replace("∞", "inf"))
    return found
