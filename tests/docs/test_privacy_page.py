"""docs/privacy.md quotes what `tacit privacy` prints today."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import federation

ROOT = Path(federation.__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"`tacit (privacy [^`]*)`:\n\n```\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize(("call", "quoted"), QUOTED)
def test_table_is_what_the_command_prints(call: str, quoted: str, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "TACIT_CACHE_DIR": str(tmp_path)}
    code = "from federation.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *shlex.split(call)], env=env, capture_output=True, text=True, check=True
    )
    printed = "\n".join(line.rstrip() for line in done.stdout.splitlines())
    assert printed.strip("\n") == quoted.strip("\n")


def test_page_quotes_the_command() -> None:
    assert len(QUOTED) == 2
