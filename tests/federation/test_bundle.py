"""What `flwr build` ships to the devices: the Python of three packages, and what Flower adds itself."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

PACKAGES = ("store", "engine", "federation")


@pytest.fixture
def bundle(tree: Path, tmp_path: Path, clean_env: dict[str, str], program: str) -> Path:
    """The bundle of a copy of the tree, into which files were put that must not leave."""
    for name in (
        "notes.json", "secret.toml", "memory.yaml", ".hidden/notes.md", "engine/labels.json", "store/own.key",
        "federation/.cache/x.json", "tests/conftest.json", "build/lib/store/old.py",
    ):  # fmt: skip
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("{}", encoding="utf-8")
    flwr = Path(program).parent / "flwr"
    place = tmp_path / "built"
    place.mkdir()
    done = subprocess.run(
        [flwr, "build", "--app", tree],
        cwd=place,
        env=clean_env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [built] = place.glob("*.fab")
    return built


def test_bundle_holds_the_packages_python_files_and_nothing_else(bundle: Path, tree: Path) -> None:
    expected = {path.relative_to(tree).as_posix() for package in PACKAGES for path in (tree / package).rglob("*.py")}
    with zipfile.ZipFile(bundle) as opened:
        names = opened.namelist()
    assert len(names) == len(set(names))
    assert set(names) == expected | {"pyproject.toml", ".info/CONTENT"}
    assert {"federation/rounds/client_app.py", "federation/rounds/server_app.py", "federation/__init__.py"} <= set(
        names
    )
    assert bundle.stat().st_size < 2_000_000  # Far below Flower's limit, 10 MB: no data has crept in.


def test_bundle_holds_the_files_as_they_stand(bundle: Path, tree: Path) -> None:
    with zipfile.ZipFile(bundle) as opened:
        for name in opened.namelist():
            if name.endswith(".py"):
                assert opened.read(name) == (tree / name).read_bytes()


def test_apps_load_from_the_bundle_alone(bundle: Path, tmp_path: Path, clean_env: dict[str, str], program: str) -> None:
    with zipfile.ZipFile(bundle) as opened:
        opened.extractall(tmp_path / "unpacked")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from federation.rounds.client_app import app as client\n"
        "from federation.rounds.server_app import app as server\n"
        "import federation, engine, store\n"
        "assert all(m.__file__.startswith(sys.argv[1]) for m in (federation, engine, store))\n"
        "print(type(client).__name__, type(server).__name__)"
    )
    done = subprocess.run(
        [program, "-P", "-c", code, str(tmp_path / "unpacked")],
        cwd=tmp_path,
        env={name: value for name, value in clean_env.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.split() == ["ClientApp", "ServerApp"], done.stderr


def test_package_runs_nothing_while_it_is_bundled(root: Path) -> None:
    # Flower imports it during `flwr build`.
    import ast

    body = ast.parse((root / "federation" / "__init__.py").read_text(encoding="utf-8")).body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)
