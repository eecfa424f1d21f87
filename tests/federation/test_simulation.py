"""The in-process Grid, the part of Flower's internals it rests on, and what it tells the one who watches.

The contract tests are the place to look when an upgrade of Flower breaks: `federation/simulation/grid.py` is the only
file that uses these names.
"""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from federation.simulation.grid import InProcessGrid, RoundTraffic, Watch

UPGRADE = "Flower's internals have changed: federation/simulation/grid.py rests on this. See its docstring."


# The contract


def test_contract_run_can_be_made_empty() -> None:
    from flwr.supercore.run import Run

    assert "run_id" in inspect.signature(Run.create_empty).parameters, UPGRADE
    assert Run.create_empty(7).run_id == 7, UPGRADE


def test_contract_task_identity_has_three_numbers_of_the_process() -> None:
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 2, 3
    assert (TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id) == (1, 2, 3), UPGRADE


def test_contract_messages_take_their_source_from_the_task_identity() -> None:
    from flwr.supercore.task_identity import TaskIdentity

    InProcessGrid(["a"])
    TaskIdentity.node_id = 17
    message = Message(RecordDict(), 2, "train")
    assert message.metadata.src_node_id == 17, UPGRADE
    assert message.metadata.dst_node_id == 2, UPGRADE
    assert "_message_id" in message.metadata.__dict__, UPGRADE
    message.metadata.__dict__["_message_id"] = "message-9"
    assert message.metadata.message_id == "message-9", UPGRADE


def test_contract_grid_asks_for_these_methods_and_no_others() -> None:
    asked = set(Grid.__abstractmethods__)
    known = {
        "run", "set_run", "create_message", "get_node_ids", "push_messages", "pull_messages", "send_and_receive",
    }  # fmt: skip
    assert asked <= known, f"{UPGRADE} New abstract methods of Grid: {sorted(asked - known)}."
    assert not InProcessGrid.__abstractmethods__, UPGRADE
    for name in asked - {"run"}:
        theirs, ours = inspect.signature(getattr(Grid, name)), inspect.signature(getattr(InProcessGrid, name))
        assert list(theirs.parameters) == list(ours.parameters), f"{UPGRADE} Grid.{name}{theirs} is now another call."


def content() -> RecordDict:
    flat = np.linspace(-1, 1, 33, dtype=np.float32)
    return RecordDict(
        {
            "arrays": ArrayRecord({"model": Array(flat)}),
            "config": ConfigRecord({"mode": "open", "server-round": 3, "learning-rate": 0.25, "hold-back": True}),
            "metrics": MetricRecord({"weight": 1.0}),
        }
    )


def test_contract_message_survives_the_wire_encoding() -> None:
    from flwr.common.serde import message_from_proto, message_to_proto
    from flwr.proto.message_pb2 import Message as ProtoMessage

    InProcessGrid(["a"])
    message = Message(content(), 2, "train", group_id="1", ttl=60.0)
    message.metadata.__dict__["_message_id"] = "message-1"
    again = message_from_proto(ProtoMessage.FromString(message_to_proto(message).SerializeToString()))
    assert again.content == message.content, UPGRADE
    for name in ("run_id", "message_id", "src_node_id", "dst_node_id", "group_id", "ttl", "message_type"):
        assert getattr(again.metadata, name) == getattr(message.metadata, name), f"{UPGRADE} Lost: {name}."
    reply = Message(again.content, reply_to=again)
    assert reply.metadata.reply_to_message_id == "message-1", UPGRADE
    assert (reply.metadata.src_node_id, reply.metadata.dst_node_id) == (2, message.metadata.src_node_id), UPGRADE


def test_contract_error_reply_carries_a_code_and_no_text() -> None:
    from flwr.common.serde import message_from_proto, message_to_proto
    from flwr.proto.message_pb2 import Message as ProtoMessage

    InProcessGrid(["a"])
    asked = Message(content(), 2, "train")
    asked.metadata.__dict__["_message_id"] = "message-1"
    reply = Message(Error(code=100), reply_to=asked)
    again = message_from_proto(ProtoMessage.FromString(message_to_proto(reply).SerializeToString()))
    assert again.has_error(), UPGRADE
    assert not again.has_content(), UPGRADE
    assert (again.error.code, again.error.reason or "") == (100, ""), UPGRADE


def test_contract_array_encodes_to_a_head_and_the_numbers() -> None:
    # `strategy.reply_array` reads the numbers behind this head without parsing anything.
    flat = np.linspace(-1, 1, 33, dtype=np.float32)
    array, zeros = Array(flat), Array(np.zeros_like(flat))
    assert array.data[-flat.nbytes :] == flat.tobytes(), UPGRADE
    assert array.data[: -flat.nbytes] == zeros.data[: -flat.nbytes], UPGRADE
    assert (array.stype, array.dtype, tuple(array.shape)) == ("numpy.ndarray", "float32", (33,)), UPGRADE


def test_only_one_file_of_the_packages_touches_flowers_internals(root: Path) -> None:
    public = ("flwr.app", "flwr.clientapp", "flwr.serverapp")
    found = set()
    for path in [*root.glob("federation/**/*.py"), *root.glob("engine/**/*.py"), *root.glob("store/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "flwr" and not name.startswith(public) for name in names):
                found.add(path.relative_to(root).as_posix())
    assert found == {"federation/simulation/grid.py"}


# The Grid


def test_flower_is_kept_quiet_before_it_is_imported(root: Path, program: str) -> None:
    code = """
import os
for name in [name for name in os.environ if name.startswith("FLWR_")]:
    del os.environ[name]
import federation.simulation.grid
for name in ("TELEMETRY_ENABLED", "DISABLE_UPDATE_CHECK", "DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"):
    print(os.environ["FLWR_" + name])
"""
    env = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([program, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.split() == ["0", "1", "1"]


def test_each_file_that_imports_flower_keeps_it_quiet_first(root: Path) -> None:
    """Flower reads whether it may tell anyone when it is imported, and any file may be the first to do so."""
    late = []
    for path in root.glob("federation/**/*.py"):
        imports = [
            node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        flower = [at for at, name in enumerate(imports) if name.split(".")[0] == "flwr"]
        quiet = [at for at, name in enumerate(imports) if name == "federation.rounds.flower_env"]
        if flower and not (quiet and quiet[0] < flower[0]):
            late.append(path.relative_to(root).as_posix())
    assert late == []


def test_nodes_are_the_same_in_every_run() -> None:
    assert list(InProcessGrid(["a", "b"]).get_node_ids()) == list(InProcessGrid(["c", "d"]).get_node_ids())


def test_pulled_replies_are_given_once(town: Any) -> None:
    from federation.agent.pool import serving

    grid = InProcessGrid(town.names)
    config = {
        "mode": "open", "server-round": 1, "hold-back": False, "local-steps": 1, "learning-rate": 0.1,
        "clip-norm": 1.0, "seed": 0, "catalogue": town.fleet.start.catalogue.fingerprint,
    }  # fmt: skip
    records = RecordDict(
        {"arrays": ArrayRecord({"model": Array(town.fleet.start.flat)}), "config": ConfigRecord(config)}
    )
    with town.pool() as pool, serving(pool):
        ids = list(grid.push_messages([grid.create_message(records, "train", 2, "1")]))
    assert len(ids) == 1
    assert len(list(grid.pull_messages(ids))) == 1
    assert list(grid.pull_messages(ids)) == []
    assert list(grid.push_messages([])) == []


def test_watch_sees_every_round_reply_and_byte(town: Any, wire: Any) -> None:
    rounds: list[tuple[int, bytes]] = []
    replies: list[None] = []
    traffic: list[RoundTraffic] = []
    watch = Watch(
        on_round=lambda number, flat: rounds.append((number, flat.tobytes())),
        on_reply=lambda: replies.append(None),
        on_traffic=traffic.append,
    )
    town.run(rounds=3, cohort=3, watch=watch)
    assert [number for number, _ in rounds] == [1, 2, 3]
    assert rounds[0][1] == town.fleet.start.flat.tobytes()
    assert len({flat for _, flat in rounds}) == 3
    assert len(replies) == 9
    assert [one.server_round for one in traffic] == [1, 2, 3]
    assert sum(one.sent_bytes for one in traffic) == sum(map(len, wire.replies))
    assert sum(one.received_bytes for one in traffic) == sum(map(len, wire.requests))
    assert traffic == town.traffic


def test_messages_to_devices_hold_nothing_but_the_model_and_the_plan(town: Any, wire: Any) -> None:
    from flwr.common.serde import message_from_proto
    from flwr.proto.message_pb2 import Message as ProtoMessage

    town.run(rounds=2, strategy="fedprox")
    for encoded in wire.requests:
        asked = message_from_proto(ProtoMessage.FromString(encoded)).content
        assert set(asked) == {"arrays", "config"}
        assert set(asked.config_records["config"]) == {
            "mode", "local-steps", "learning-rate", "clip-norm", "seed", "server-round", "hold-back", "proximal-mu",
            "catalogue",
        }  # fmt: skip
        assert str(town.fleet.folder).encode() not in encoded
