"""docs/cli.md is what the generator writes today, and the generator says when it is not."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import click
import pytest

import federation
from federation.cli.app import cli

ROOT = Path(federation.__file__).resolve().parents[1]


@pytest.fixture
def make_cli() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_cli", ROOT / "docs" / "make_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(make_cli: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_cli.main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_or_missing_page_is_status_1_and_is_not_written(
    make_cli: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "cli.md"
    monkeypatch.setattr(make_cli, "PAGE", page)
    assert make_cli.main(["--check"]) == 1
    assert not page.exists()
    assert make_cli.main([]) == 0
    assert make_cli.main(["--check"]) == 0
    page.write_text(page.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert make_cli.main(["--check"]) == 1
    assert "stale" in capsys.readouterr().err
    assert make_cli.main(["--chekc"]) == 2


def test_every_command_and_option_is_on_the_page(make_cli: ModuleType) -> None:
    page = make_cli.render(cli)
    seen = 0

    def walk(title: str, command: click.Command) -> None:
        nonlocal seen
        seen += 1
        section = page.split(f"# {title}\n", 1)[1].split("\n#", 1)[0]
        for param in command.params:
            if isinstance(param, click.Option):
                assert all(f"`{name}`" in section for name in param.opts), (title, param.opts)
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                assert below is not None
                walk(f"{title} {name}", below)

    walk("tacit", cli)
    assert seen > 15


def test_the_page_names_no_folder_of_this_machine(make_cli: ModuleType) -> None:
    page = make_cli.render(cli)
    assert str(ROOT) not in page
    assert str(Path.home()) not in page
