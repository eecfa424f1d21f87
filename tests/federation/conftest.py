"""Small made-up people, a fleet of them on the toy encoder, and a way to run rounds and to see the wire."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import federation
from engine.model.catalogue import Catalogue
from engine.model.checkpoint import Checkpoint, start_checkpoint
from federation.agent.pool import DevicePool
from federation.data.dataset import Row
from federation.data.splits import Split, public_labels
from federation.rounds.config import RunSettings
from federation.simulation import grid as simulation
from federation.simulation.fleet import Fleet, members
from federation.simulation.grid import RoundTraffic, Watch, run_rounds

ROOT = Path(federation.__file__).resolve().parents[1]
LABELS = ("taxi", "pizza", "opera", "salon")
WORDS = {
    "taxi": ("ride", "cab", "airport", "driver", "pickup"),
    "pizza": ("slice", "dinner", "cheese", "hungry", "oven"),
    "opera": ("seats", "stage", "singer", "tickets", "evening"),
    "salon": ("haircut", "nails", "beard", "stylist", "colour"),
}


def some_rows(users: int = 4, each: int = 12, *, seed: int = 0) -> list[Row]:
    """Rows of people who each favour one label; texts are words of the label's own and a word of the person's."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        favour = rng.dirichlet(np.full(len(LABELS), 0.7))
        for number in range(each):
            label = LABELS[int(rng.choice(len(LABELS), p=favour))]
            words = rng.choice(WORDS[label], size=2, replace=False)
            text = f"{words[0]} {words[1]} own{user} number{number}"
            rows.append(Row(user=f"user-{user}", order=len(rows), text=text, label=label, labels=(label,)))
    return rows


@dataclass
class Town:
    """A fleet, the model it starts from, and rounds over it. ``traffic`` is that of the last run."""

    fleet: Fleet
    out: Path
    traffic: list[RoundTraffic] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [member.name for member in self.fleet.people]

    def settings(self, **given: Any) -> RunSettings:
        start, out = self.fleet.folder / "start.safetensors", given.pop("out", self.out)
        out.mkdir(parents=True, exist_ok=True)
        if not start.exists():
            self.fleet.start.save(start)
        plain: dict[str, Any] = {"rounds": 1, "strategy": "fedavg", "cohort": len(self.names), "model": str(start)}
        plain["rescorer_steps"] = 0  # The model's rounds alone, but for the tests of what comes after them.
        return RunSettings(**(plain | given), out=str(out))

    def run(self, *, watch: Watch | None = None, **given: Any) -> Checkpoint:
        """Run rounds (fedavg over all devices, no Newton steps, unless ``given`` says otherwise): the checkpoint."""
        self.traffic = []
        with self.fleet.pool() as pool:
            if self.fleet.mode != "open":
                given = {"mode": self.fleet.mode, "roster": str(self.fleet.sign_roster(pool))} | given
            settings = self.settings(**given)
            self.traffic = run_rounds(settings, self.names, pool, watch=watch)
        return Checkpoint.load(Path(settings.out) / "checkpoint.safetensors")

    @contextlib.contextmanager
    def pool(self) -> Iterator[DevicePool]:
        with self.fleet.pool() as pool:
            yield pool


@pytest.fixture
def rows() -> Callable[..., list[Row]]:
    return some_rows


@pytest.fixture
def town_of(tmp_path: Path, toy: Any) -> Callable[..., Town]:
    """Make a filled fleet of a split on the toy encoder."""

    def make(split: Split, *, name: str = "town", mode: str = "open") -> Town:
        catalogue = Catalogue.from_names(public_labels(split))
        fleet = Fleet(tmp_path / name, members(split), start=start_checkpoint(catalogue, toy), encoder=toy, mode=mode)
        fleet.fill()
        return Town(fleet=fleet, out=tmp_path / name / "out")

    return make


@pytest.fixture
def split() -> Split:
    """Four people whose rows all train."""
    made = some_rows()
    return [(user, [row for row in made if row.user == user], []) for user in sorted({row.user for row in made})]


@pytest.fixture
def town(town_of: Callable[..., Town], split: Split) -> Town:
    return town_of(split)


@pytest.fixture
def village_of(town_of: Callable[..., Town]) -> Callable[..., Town]:
    """People enough for a secure sum, whose owners allow rounds of a mode."""

    def make(mode: str = "private") -> Town:
        made = some_rows(users=16)
        users = sorted({row.user for row in made})
        split: Split = [(user, [row for row in made if row.user == user], []) for user in users]
        return town_of(split, mode=mode)

    return make


@pytest.fixture
def village(village_of: Callable[..., Town]) -> Town:
    return village_of()


@dataclass
class Wire:
    """What crossed the wire of a simulation, encoded, in order."""

    asked: list[tuple[int, int]] = field(default_factory=list)  # (round, node)
    requests: list[bytes] = field(default_factory=list)
    replies: list[bytes] = field(default_factory=list)
    updates: list[np.ndarray] = field(default_factory=list)  # The array in each reply that has one.
    protos: list[Any] = field(default_factory=list)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    """Record every message of the simulations that this test runs."""
    seen, encode = Wire(), simulation.message_to_proto

    def recording(message: Any) -> Any:
        proto = encode(message)
        if message.metadata.reply_to_message_id:
            seen.replies.append(proto.SerializeToString())
            if not message.has_error() and "arrays" in message.content:
                seen.updates.append(message.content.array_records["arrays"]["model"].numpy())
            seen.protos.append(proto)
        else:
            round_ = int(message.content.config_records["config"]["server-round"])
            seen.asked.append((round_, message.metadata.dst_node_id))
            seen.requests.append(proto.SerializeToString())
        return proto

    monkeypatch.setattr(simulation, "message_to_proto", recording)
    return seen


@pytest.fixture
def root() -> Path:
    """The folder of the checkout."""
    return ROOT


@pytest.fixture
def clean_env(tmp_path: Path) -> dict[str, str]:
    """An environment for subprocesses: this checkout first on the path, Flower's home in the temporary folder."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "FLWR_HOME": str(tmp_path / "flwr-home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
    }


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what git tracks or would track, in a folder named as a Flower app may be."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout: there is no list of the files that belong to it")
    copy = tmp_path / "tacit"
    for name in listed.stdout.decode().split("\0"):
        source = ROOT / name
        if name and source.is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(source.read_bytes())
    return copy


@pytest.fixture
def free_port() -> Callable[[], int]:
    from federation.audit import processes

    return processes.free_port


@pytest.fixture
def program() -> str:
    """The Python that runs the tests."""
    return sys.executable
