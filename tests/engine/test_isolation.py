"""What a device leaves on the disk, whom it asks, and which packages it gets: seen from outside, in new processes."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tacit
from engine.device.device import Device
from engine.model.catalogue import Catalogue
from engine.model.training import TrainingPlan
from store import DeviceKey, Passphrase

Run = Callable[..., subprocess.CompletedProcess[str]]

TEXTS = ["meet Ottoline Fernsby at the quayside", "insulin from the chemist", "call the oncologist back"]
WORDS = ["Ottoline", "Fernsby", "quayside", "insulin", "oncologist", "parrotcare", "secretscope", "secretpurpose"]
RUN_BYTES = 16


def windows(data: bytes) -> set[bytes]:
    return {data[start : start + RUN_BYTES] for start in range(len(data) - RUN_BYTES + 1)}


def leaks(folder: Path, *, vectors: np.ndarray) -> list[str]:
    """What of the planted words, or of any run of 16 bytes of the vectors, lies in a file of ``folder``."""
    runs: set[bytes] = set()
    for vector in vectors:
        for dtype in ("<f4", ">f4", "<f2", "<f8"):
            runs |= windows(vector.astype(dtype).tobytes())
    found = []
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        data = path.read_bytes()
        for word in WORDS:
            spellings = [word.encode(), word.lower().encode(), word.encode("utf-16-le"), word.encode().hex().encode()]
            found += [f"{word} in {path.name}" for spelling in spellings if spelling in data]
        found += [f"a vector in {path.name}"] if windows(data) & runs else []
    return found


@pytest.mark.parametrize("unlock", [DeviceKey(bytes(32)), Passphrase("quayside walks")], ids=["key", "passphrase"])
def test_planted_words_and_vectors_are_in_no_file_at_any_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unlock: DeviceKey | Passphrase, catalogue: Catalogue, toy: Any
) -> None:
    for name in ("TMPDIR", "SQLITE_TMPDIR"):
        (tmp_path / "temporary").mkdir(exist_ok=True)
        monkeypatch.setenv(name, str(tmp_path / "temporary"))
    planted = toy.encode([*TEXTS, "parrotcare"])

    def assert_sealed() -> None:
        assert leaks(tmp_path, vectors=planted) == []

    with Device.create(tmp_path / "phone", unlock, catalogue=catalogue, encoder=toy) as device:
        ids = [
            device.remember(text, label=label, scope="secretscope", purpose="secretpurpose")
            for text, label in zip(TEXTS, ("taxi", "parrotcare", "opera"), strict=True)
        ]
        assert_sealed()
        device.suggest("Ottoline")
        device.search("insulin")
        device.evaluate([("oncologist", "taxi")])
        device.feedback("the quayside", "pizza")
        assert_sealed()
        flat = device.train(device.model.flat, plan=TrainingPlan(), hold_back=True, rng=np.random.default_rng(0))
        flat = device.train(flat, plan=TrainingPlan(), hold_back=False, rng=np.random.default_rng(0))
        assert_sealed()
        model = device.model
        device.load_model(dataclasses.replace(model, flat=flat, title="quayside"))
        device.previous_model()
        assert_sealed()
        device.forget(ids[1:])
        assert_sealed()
    assert_sealed()
    with Device.reencode(tmp_path / "phone", unlock, encoder=type(toy)(8)):
        assert_sealed()
    assert_sealed()


def test_the_scan_would_find_a_leak(tmp_path: Path, toy: Any) -> None:
    planted = toy.encode(TEXTS)
    (tmp_path / "a").write_text("... Fernsby ...")
    (tmp_path / "b").write_bytes(b"x" + planted[1, 3:9].tobytes())
    assert sorted(leaks(tmp_path, vectors=planted)) == ["Fernsby in a", "a vector in b"]


def test_device_works_where_flwr_cannot_be_imported(tmp_path: Path, python: Run) -> None:
    ran = python(f"""
import runpy, sys


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "flwr":
            raise ImportError("flwr is blocked here")


sys.meta_path.insert(0, Refuse())
import numpy as np
from tacit import Catalogue, Device, DeviceKey, Memory
from engine.model.training import TrainingPlan

toy = runpy.run_path({str(Path(__file__).parents[1] / "conftest.py")!r})["HashEncoder"]()
key = DeviceKey.generate()
with Device.create({str(tmp_path / "phone")!r}, key, encoder=toy) as device:
    first = device.remember("salad at noon", label="Greenbowl healthy meals")
    device.remember_many([Memory(text="feed the parrot", label="parrot")])
    device.feedback("a light lunch", "Greenbowl healthy meals")
    device.suggest("salad"), device.search("parrot"), device.evaluate([("salad", "parrot")])
    flat = device.train(device.model.flat, plan=TrainingPlan(), hold_back=False, rng=np.random.default_rng(0))
    device.load_model(device.model)
    device.previous_model()
    device.forget(first)
with Device.open({str(tmp_path / "phone")!r}, key, encoder=toy) as device:
    print(device.count(), "flwr" in sys.modules)
""")
    assert ran.stdout.strip() == "2 False", ran.stderr


def test_device_looks_up_no_host_and_connects_to_none(tmp_path: Path, python: Run) -> None:
    ran = python(f"""
import sys

tried = []


def watch(event, details):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"):
        tried.append((event, details))
        raise OSError("no lookups here")
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = details[1]
        if not (isinstance(address, tuple) and str(address[0]).startswith("127.")):
            tried.append((event, address))
            raise OSError("only loopback here")


sys.addaudithook(watch)
import os
for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ.pop(name, None)  # The library has to see to it by itself.
from tacit import Device, DeviceKey

key = DeviceKey.generate()
with Device.create({str(tmp_path / "phone")!r}, key) as device:
    device.remember("two salads to the office please", label="Greenbowl healthy meals")
    device.remember("see https://example.com/menu.png", label="my own list")
    device.suggest("https://example.com/menu.png")
with Device.open({str(tmp_path / "phone")!r}, key) as device:
    print(device.suggest("salad at my desk", k=1)[0].label, tried)

import socket
for attempt in (lambda: socket.create_connection(("example.com", 80)), lambda: socket.gethostbyname("example.com")):
    try:
        attempt()
    except OSError as error:
        print(error)
""")
    assert ran.stdout.splitlines() == ["Greenbowl healthy meals []", "no lookups here", "no lookups here"], ran.stderr


# The public import.


@pytest.mark.parametrize("name", ["store", "engine", "federation"])
@pytest.mark.parametrize("kind", ["package", "module"])
def test_foreign_package_of_the_same_name_is_refused_in_one_line(
    tmp_path: Path, python: Run, name: str, kind: str
) -> None:
    if kind == "package":
        foreign = tmp_path / name
        foreign.mkdir()
        (foreign / "__init__.py").write_text("print('the app is here')")
    else:
        foreign = tmp_path / f"{name}.py"
        foreign.write_text("print('the app is here')")
    ran = python("import tacit", first=tmp_path)
    assert ran.returncode == 1
    last = ran.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert str(foreign) in last
    assert repr(name) in last
    assert ran.stdout == "", "the foreign package ran"


def test_foreign_package_that_is_loaded_already_is_refused(tmp_path: Path, python: Run) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "__init__.py").write_text("")
    code = f"import sys, store; sys.path.remove({str(tmp_path)!r})\nimport tacit"
    ran = python(code, first=tmp_path)
    assert ran.stderr.strip().splitlines()[-1].startswith("ImportError: The package 'store' at ")


def test_folder_of_the_same_name_that_holds_no_python_is_no_obstacle(tmp_path: Path, python: Run) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "prices.csv").write_text("a,b")
    assert python("import tacit", first=tmp_path).returncode == 0


def test_import_tacit_loads_no_heavy_library(python: Run) -> None:
    heavy = (
        "torch",
        "flwr",
        "sentence_transformers",
        "transformers",
        "faiss",
        "numpy",
        "sqlite_utils",
        "engine.device.device",
    )
    ran = python(f"import sys, tacit; print([name for name in {heavy!r} if name in sys.modules])")
    assert ran.stdout.strip() == "[]", ran.stderr


def test_device_loads_no_model_library_before_it_is_used(python: Run) -> None:
    ran = python(
        "import sys; from tacit import Device; "
        "print([name for name in ('flwr', 'sentence_transformers', 'transformers') if name in sys.modules])"
    )
    assert ran.stdout.strip() == "[]", ran.stderr


def test_every_public_name_is_there_and_is_the_one_of_its_home() -> None:
    from tacit import Device as Public

    assert Public is Device
    for name in set(tacit.__all__) - {"main", "generate"}:
        assert getattr(tacit, name).__name__
        assert getattr(tacit, name) is getattr(sys.modules[tacit._HOMES[name]], name)
    assert set(tacit.__all__) == set(tacit._HOMES)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tacit.nothing  # noqa: B018
