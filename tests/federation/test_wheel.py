"""What `pip install` puts on a machine: three packages, one module, their marks of typing, and the format's text."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

PACKAGES = ("store", "engine", "federation")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"place": tmp_path_factory.mktemp("wheel")}


@pytest.fixture
def wheel(built: dict[str, Path], tree: Path, program: str, clean_env: dict[str, str]) -> zipfile.ZipFile:
    """The wheel of a copy of the tree, built once."""
    place = built["place"]
    if not list(place.glob("*.whl")):
        done = subprocess.run(
            [program, "-m", "build", "--wheel", "--no-isolation", "--outdir", place, tree],
            env=clean_env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    [path] = place.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_top_level_names_are_the_three_packages_and_tacit(wheel: zipfile.ZipFile) -> None:
    top = {name.split("/")[0] for name in wheel.namelist()}
    [info] = [name for name in top if name.endswith(".dist-info")]
    assert top - {info} == {"tacit.py", *PACKAGES}
    assert wheel.read(f"{info}/top_level.txt").decode().split() == ["engine", "federation", "store", "tacit"]


def test_wheel_holds_every_python_file_of_the_packages(wheel: zipfile.ZipFile, tree: Path) -> None:
    # Packages are listed by name, so a new folder that nobody listed would be left out.
    expected = {path.relative_to(tree).as_posix() for package in PACKAGES for path in (tree / package).rglob("*.py")}
    assert {name for name in wheel.namelist() if name.endswith(".py")} == expected | {"tacit.py"}


def test_wheel_holds_typing_marks_and_the_formats_text(wheel: zipfile.ZipFile, tree: Path) -> None:
    other = {name for name in wheel.namelist() if not name.endswith(".py") and ".dist-info/" not in name}
    wanted = {f"{package}/py.typed" for package in PACKAGES} | {"store/FORMAT.md"}
    assert wanted <= other
    assert other <= wanted | {"federation/PROTOCOL.md", "federation/secagg/PROTOCOL.md"}


def test_wheel_holds_the_licence_and_the_command(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    [entry] = [name for name in names if name.endswith("entry_points.txt")]
    assert "tacit = tacit:main" in wheel.read(entry).decode()


def test_installed_base_does_not_ask_for_flower(wheel: zipfile.ZipFile) -> None:
    [metadata] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    asked = [line for line in wheel.read(metadata).decode().splitlines() if line.startswith("Requires-Dist: flwr")]
    assert asked
    assert all("extra ==" in line for line in asked)
