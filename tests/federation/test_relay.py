"""The socket between node and agent: what a node may ask and gets, whatever code it runs."""

from __future__ import annotations

import contextlib
import socket
import stat
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.agent.agent import Agent
from federation.agent.answers import answer
from federation.agent.asked import Asked
from federation.agent.relay import ask, serve
from federation.errors import UpdateError


def training(flat: np.ndarray, catalogue: str, **changed: Any) -> Asked:
    values: dict[str, Any] = {
        "catalogue": catalogue,
        "server-round": 1,
        "mode": "open",
        "hold-back": False,
        "local-steps": 2,
        "learning-rate": 0.3,
        "clip-norm": 1.0,
        "seed": 0,
    }
    return Asked(kind="train", run="r", node_id=2, values=values | changed, arrays={"model": flat})


@contextlib.contextmanager
def listening(town: Any, path: Path) -> Iterator[list[str]]:
    """The agent of the first device, at ``path``; what it tells its owner."""
    told: list[str] = []
    stopped = threading.Event()
    with town.fleet.open("device-0001") as device:
        thread = threading.Thread(
            target=serve, args=(Agent(device), path), kwargs={"stop": stopped.is_set, "told": told.append}
        )
        thread.start()
        try:
            while not path.exists() and thread.is_alive():
                pass
            yield told
        finally:
            stopped.set()
            thread.join()


def test_asked_over_the_socket_it_is_what_a_call_gives(town: Any, tmp_path: Path) -> None:
    flat, catalogue = town.fleet.start.flat, town.fleet.start.catalogue.fingerprint
    with town.fleet.open("device-0001") as device:
        called = answer(Agent(device), training(flat, catalogue))
    with listening(town, tmp_path / "s") as told:
        came = ask(str(tmp_path / "s"), training(flat, catalogue))
        np.testing.assert_array_equal(came, called)
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
    assert told == [told[0]]
    assert told[0].startswith(f"train: {4 * flat.size:,} bytes leave")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "evaluate"},
        {"kind": "train.private", "values": {"stage": "key", "message": b""}},
        {"kind": "train.private", "values": {"stage": "unmask", "message": b""}},
        {"values": {}},
        {"arrays": {}},
        {"arrays": {"model": np.zeros(3, dtype=np.float32)}},
    ],
)
def test_anything_but_a_round_gets_nothing_and_no_reason(town: Any, tmp_path: Path, changed: dict[str, Any]) -> None:
    whole = training(town.fleet.start.flat, town.fleet.start.catalogue.fingerprint)
    plain = {"kind": whole.kind, "values": whole.values, "arrays": whole.arrays}
    with listening(town, tmp_path / "s") as told:
        with pytest.raises(UpdateError, match=r"^The device abstains\.$"):
            ask(str(tmp_path / "s"), Asked(run="r", node_id=2, **(plain | changed)))
        assert told[0].startswith("abstains: ")


def test_agent_outlives_what_is_no_question(town: Any, tmp_path: Path) -> None:
    flat, catalogue = town.fleet.start.flat, town.fleet.start.catalogue.fingerprint
    with listening(town, tmp_path / "s"):
        for sent in (
            b"",
            b"\x00",
            struct.pack(">Q", 2**60),
            struct.pack(">Q", 3) + b"abc",
            struct.pack(">Q", 9) + b"a",
        ):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as there:
                there.connect(str(tmp_path / "s"))
                there.sendall(sent)
                there.shutdown(socket.SHUT_WR)
                assert there.recv(64) in (b"", bytes(8))
        assert isinstance(ask(str(tmp_path / "s"), training(flat, catalogue)), np.ndarray)


def test_a_place_that_is_taken_is_refused_and_one_that_was_left_is_not(town: Any, tmp_path: Path) -> None:
    with town.fleet.open("device-0002") as device:
        (tmp_path / "file").write_text("mine")
        with pytest.raises(UpdateError, match="no socket"):
            serve(Agent(device), tmp_path / "file", stop=lambda: True)
        assert (tmp_path / "file").read_text() == "mine"
        with listening(town, tmp_path / "s"), pytest.raises(UpdateError, match="Another agent"):
            serve(Agent(device), tmp_path / "s", stop=lambda: True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
            left.bind(str(tmp_path / "s"))
        serve(Agent(device), tmp_path / "s", stop=lambda: True)


def test_no_agent_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(UpdateError, match="tacit device agent"):
        ask(str(tmp_path / "none"), training(np.zeros(2, dtype=np.float32), "c"))


values = st.one_of(st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False), st.text(), st.binary())
arrays = st.lists(st.floats(width=32, allow_nan=False), max_size=5).map(lambda row: np.array(row, dtype=np.float32))


@given(st.dictionaries(st.text(), values), st.dictionaries(st.text(), arrays), st.binary(max_size=40))
def test_asked_survives_its_encoding_and_nothing_else_does(
    told: dict[str, Any], some: dict[str, Any], more: bytes
) -> None:
    asked = Asked(kind="k", run="r", node_id=7, values=told, arrays=some)
    encoded = asked.encode()
    again = Asked.decode(encoded)
    assert (again.kind, again.run, again.node_id, dict(again.values)) == ("k", "r", 7, told)
    assert {name: array.tolist() for name, array in again.arrays.items()} == {n: a.tolist() for n, a in some.items()}
    for broken in (encoded + b"x", encoded[:-1], more):
        with pytest.raises(UpdateError):
            Asked.decode(broken)


def test_a_place_where_no_socket_can_be_made_is_one_line(town: Any, tmp_path: Path) -> None:
    with town.fleet.open("device-0001") as device:
        for place in (tmp_path / ("x" * 200), tmp_path / "missing" / "s"):
            with pytest.raises(UpdateError, match="Cannot listen at"):
                serve(Agent(device), place, stop=lambda: True)
