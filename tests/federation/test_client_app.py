"""What leaves a device is one update or one code: whatever else a reply holds, the mod stops it on the device."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.common.serde import message_to_proto

from engine.model.catalogue import Catalogue
from federation.agent import pool as agents
from federation.agent.pool import DevicePool
from federation.errors import UpdateError
from federation.rounds import client_app
from federation.rounds.records import reply_array
from federation.simulation.grid import InProcessGrid

LENGTH = 5
SECRET = "the spare key lies under the third flowerpot"
LABELS = Catalogue.from_names(["opera", "pizza", "salon", "taxi"])  # Of the town, whose people have these.
GOOD = np.arange(LENGTH, dtype=np.float32)


@pytest.fixture(autouse=True)
def task() -> None:
    """Flower wants to know whose task this is before it lets anyone make a message."""
    InProcessGrid(["device"])


def request(values: np.ndarray | None = None, message_type: str = "train", **config: Any) -> Message:
    flat = np.zeros(LENGTH, dtype=np.float32) if values is None else values
    asked = {
        "mode": "open",
        "server-round": 1,
        "hold-back": False,
        "local-steps": 2,
        "learning-rate": 0.3,
        "clip-norm": 1.0,
        "seed": 0,
        "catalogue": LABELS.fingerprint,
    }
    content = RecordDict({"arrays": ArrayRecord({"model": Array(flat)}), "config": ConfigRecord(asked | config)})
    message = Message(content, 2, message_type)
    message.metadata.__dict__["_message_id"] = "message-1"
    return message


def context(name: str = "device") -> Context:
    return Context(run_id=1, node_id=2, node_config={"device": name}, state=RecordDict(), run_config={})


def update(values: np.ndarray = GOOD, **more: Any) -> RecordDict:
    records = {"arrays": ArrayRecord({"model": Array(values)}), "metrics": MetricRecord({"weight": 1.0})}
    return RecordDict(records | more)


def array_with(**changed: Any) -> Array:
    array = Array(GOOD)
    for name, value in changed.items():
        setattr(array, name, value)
    return array


def with_array(array: Array) -> RecordDict:
    return RecordDict({"arrays": ArrayRecord({"model": array}), "metrics": MetricRecord({"weight": 1.0})})


def without(name: str) -> RecordDict:
    content = update()
    del content[name]
    return content


def bad_value(value: float) -> np.ndarray:
    values = GOOD.copy()
    values[2] = value
    return values


OTHER_CONTENT: dict[str, Callable[[], RecordDict]] = {
    "nothing": RecordDict,
    "no array": lambda: without("arrays"),
    "no weight": lambda: without("metrics"),
    "an extra array record": lambda: update(extra=ArrayRecord({"model": Array(GOOD)})),
    "an extra metric record": lambda: update(extra=MetricRecord({"accuracy": 0.9})),
    "an extra config record": lambda: update(extra=ConfigRecord({"note": SECRET})),
    "an extra array": lambda: update(arrays=ArrayRecord({"model": Array(GOOD), "more": Array(GOOD)})),
    "an array of another name": lambda: update(arrays=ArrayRecord({SECRET: Array(GOOD)})),
    "a second metric": lambda: update(metrics=MetricRecord({"weight": 1.0, "loss": 0.3})),
    "another weight": lambda: update(metrics=MetricRecord({"weight": 2.0})),
    "num-examples": lambda: update(metrics=MetricRecord({"num-examples": 17})),
    "a list as weight": lambda: update(metrics=MetricRecord({"weight": [1.0]})),
    "float64": lambda: update(GOOD.astype(np.float64)),
    "float16": lambda: update(GOOD.astype(np.float16)),
    "bytes": lambda: update(np.zeros(LENGTH, dtype=np.uint8)),
    "too short": lambda: update(GOOD[:-1]),
    "too long": lambda: update(np.zeros(LENGTH + 1, dtype=np.float32)),
    "empty": lambda: update(np.zeros(0, dtype=np.float32)),
    "two-dimensional": lambda: update(GOOD[None]),
    "NaN": lambda: update(bad_value(math.nan)),
    "infinity": lambda: update(bad_value(math.inf)),
    "bytes behind the numbers": lambda: with_array(array_with(data=Array(GOOD).data + SECRET.encode())),
    "cut short": lambda: with_array(array_with(data=Array(GOOD).data[:-1])),
    "no data": lambda: with_array(array_with(data=b"")),
    "garbage": lambda: with_array(array_with(data=os.urandom(200))),
    "text in the header's padding": lambda: with_array(array_with(data=Array(GOOD).data.replace(b"    ", b"key ", 1))),
    "another encoding's name": lambda: with_array(array_with(stype=SECRET)),
    "another type's name": lambda: with_array(array_with(dtype=SECRET)),
    "another shape's name": lambda: with_array(array_with(shape=[1, LENGTH])),
}


def test_one_update_of_the_models_length_passes_untouched() -> None:
    asked = request()
    reply = client_app.only_updates_leave(asked, context(), lambda message, _: Message(update(), reply_to=message))
    assert reply.has_content()
    assert np.array_equal(reply.content.array_records["arrays"]["model"].numpy(), GOOD)


@pytest.mark.parametrize("name", OTHER_CONTENT)
def test_reply_with_other_content_becomes_a_code_without_text(name: str) -> None:
    content = OTHER_CONTENT[name]()
    reply = client_app.only_updates_leave(request(), context(), lambda asked, _: Message(content, reply_to=asked))
    assert reply.has_error()
    assert not reply.has_content()
    assert reply.error.code == client_app.ABSTAIN
    assert not reply.error.reason
    assert SECRET.encode() not in message_to_proto(reply).SerializeToString()


@pytest.mark.parametrize("name", OTHER_CONTENT)
def test_server_refuses_the_same_content_with_one_kind_of_error(name: str) -> None:
    with pytest.raises(UpdateError):
        reply_array(OTHER_CONTENT[name](), length=LENGTH)


def test_error_reply_of_the_app_loses_its_text() -> None:
    reply = client_app.only_updates_leave(
        request(), context(), lambda asked, _: Message(Error(code=3, reason=SECRET), reply_to=asked)
    )
    assert (reply.error.code, reply.error.reason or "") == (client_app.ABSTAIN, "")


class QuotingError(Exception):
    """An error that quotes what it choked on, as many do."""


@pytest.mark.parametrize("kind", [QuotingError, ValueError, KeyError, OSError, UpdateError, UnicodeError, MemoryError])
def test_exception_that_quotes_a_secret_leaves_no_byte_of_it(kind: type[Exception]) -> None:
    def fail(_: Message, __: Context) -> Message:
        raise kind(f"cannot parse {SECRET!r}") from QuotingError(SECRET)

    reply = client_app.only_updates_leave(request(), context(), fail)
    encoded = message_to_proto(reply).SerializeToString()
    assert reply.has_error()
    assert (reply.error.code, reply.error.reason or "") == (client_app.ABSTAIN, "")
    for word in [SECRET, *SECRET.split(), kind.__name__]:
        if len(word) > 3:
            assert word.encode() not in encoded
    assert b"Traceback" not in encoded


# Through the whole app, with real devices.


@pytest.fixture
def pool(town: Any) -> Iterator[DevicePool]:
    with town.fleet.pool() as opened, agents.serving(opened):
        yield opened


def ask(town: Any, name: str = "device-0001", **config: Any) -> Message:
    return client_app.app(request(town.fleet.start.flat, **config), context(name))


def error_bytes(reply: Message) -> bytes:
    """Everything of the encoded reply but its metadata."""
    proto = message_to_proto(reply)
    proto.ClearField("metadata")
    return proto.SerializeToString()


def test_device_that_takes_part_answers_with_one_update(town: Any, pool: DevicePool) -> None:
    reply = ask(town)
    values = reply_array(reply.content, length=town.fleet.start.flat.size)
    assert 0 < float(np.linalg.norm(values - town.fleet.start.flat)) <= 1.0 + 1e-5


def test_ledger_agrees_with_the_wire_byte_for_byte(town: Any, pool: DevicePool) -> None:
    replies = [ask(town, **config) for config in ({}, {"server-round": 2}, {"server-round": 2})]
    told = pool.agent("device-0001").device.account.contributions()
    assert [its.again for its in told] == [False, False, True]
    for reply, its in zip(replies, told, strict=True):
        array = reply.content.array_records["arrays"]["model"]
        values = np.asarray(array.numpy())
        assert array.data.endswith(values.tobytes())
        assert (its.sent, its.size_bytes) == (hashlib.sha256(values.tobytes()).hexdigest(), values.nbytes)


def test_unconsented_and_broken_devices_answer_with_the_same_bytes(town: Any) -> None:
    (town.fleet.folder / "devices" / "device-0002" / "memory.db").write_bytes(b"")
    for file in (town.fleet.folder / "devices" / "device-0002").iterdir():
        file.write_bytes(b"not a store any more")
    (town.fleet.folder / "keys" / "device-0003.key").unlink()
    with town.fleet.open("device-0001") as device:
        device.allow_rounds(None)
    with town.fleet.pool() as opened, agents.serving(opened):
        told = [ask(town, f"device-{number:04d}") for number in (1, 2, 3)]
        told.append(ask(town, "device-9999"))
        # A device that takes part is told apart by its update only; asked for another mode, it is not.
        told.append(ask(town, "device-0004", mode="private"))
    assert all(reply.has_error() for reply in told)
    assert len({error_bytes(reply) for reply in told}) == 1


@pytest.mark.parametrize("mode", ["central", "private", "", "OPEN", "open "])
def test_server_that_asks_for_another_mode_is_refused(town: Any, pool: DevicePool, mode: str) -> None:
    assert ask(town, mode=mode).error.code == client_app.ABSTAIN


@pytest.mark.parametrize(
    "config",
    [
        {"clip-norm": 0.0},
        {"clip-norm": math.nan},
        {"clip-norm": math.inf},
        {"local-steps": 0},
        {"local-steps": -1},
        {"learning-rate": math.nan},
        {"learning-rate": math.inf},
        {"learning-rate": 1e300},
        {"proximal-mu": -1.0},
        {"seed": -1},
        {"server-round": -1},
        {"mode": 1},
        {"local-steps": "many"},
    ],
)
def test_server_that_asks_for_nonsense_is_refused(town: Any, pool: DevicePool, config: dict[str, Any]) -> None:
    reply = ask(town, **config)
    assert reply.has_error()
    assert not reply.error.reason


@pytest.mark.parametrize("kind", ["NaN", "another length", "two-dimensional", "empty"])
def test_server_that_sends_a_malformed_model_is_refused(town: Any, pool: DevicePool, kind: str) -> None:
    flat = town.fleet.start.flat.copy()
    if kind == "NaN":
        flat[0] = math.nan
    sent = {"NaN": flat, "another length": flat[:-1], "two-dimensional": flat[None], "empty": flat[:0]}[kind]
    reply = client_app.app(request(sent), context("device-0001"))
    assert reply.has_error()
    assert not reply.error.reason


def test_server_that_names_a_path_does_not_move_the_device(town: Any, pool: DevicePool) -> None:
    # The path comes from the pool or the node's own configuration; a server's word for it changes nothing.
    plain = ask(town)
    moved = ask(town, device="device-0002", **{"key-file": "/etc/passwd"})
    assert error_bytes(moved) == error_bytes(plain)


@pytest.mark.parametrize("kind", ["evaluate", "query"])
def test_a_message_for_metrics_or_queries_gets_the_one_abstain(town: Any, kind: str) -> None:
    grid = InProcessGrid(town.names)
    content = RecordDict({"config": ConfigRecord({"server-round": 1})})
    with town.fleet.pool() as opened, agents.serving(opened):
        (reply,) = grid.send_and_receive([Message(content, 2, kind)])
    assert reply.has_error()
    assert (reply.error.code, reply.error.reason) == (client_app.ABSTAIN, None)


RELAYED = """
import socket, struct, sys, threading
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from federation.rounds import client_app

here = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
here.bind(sys.argv[1])
here.listen()

def agent():
    there, _ = here.accept()
    with there, there.makefile("rb") as asked:
        asked.read(*struct.unpack(">Q", asked.read(8)))
        there.sendall(struct.pack(">Q", 4) + b"\\x02yes")

threading.Thread(target=agent).start()
TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 2
content = RecordDict({"config": ConfigRecord({"server-round": 1, "stage": "agree", "message": b"?"})})
message = Message(content, 2, "train.private")
message.metadata.__dict__["_message_id"] = "message-1"
told = Context(run_id=1, node_id=2, node_config={"agent": sys.argv[1]}, state=RecordDict(), run_config={})
print(client_app.app(message, told).content["config"]["message"].decode())
print(*sorted({name.split(".")[0] for name in sys.modules} & {"store", "engine", "torch", "faiss", "onnxruntime"}))
print(*sorted({"federation.agent.agent", "federation.secagg", "federation.rounds.strategy"} & set(sys.modules)))
"""


def test_a_nodes_process_relays_without_loading_anything_of_a_device(tmp_path: Any, root: Any, program: str) -> None:
    """Flower starts one for each message of each device, and runs in it what the server ships."""
    done = subprocess.run(
        [program, "-c", RELAYED, str(tmp_path / "s")],
        capture_output=True, text=True, check=True, timeout=60, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.stdout.splitlines() == ["yes", "", ""]
