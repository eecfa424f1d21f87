"""Messages are put together from the pieces that nodes and their server exchanged, however they came; the rest is told.

It rests on how Flower takes a message apart, which these tests pin, too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

# isort: off
import federation.rounds.flower_env  # noqa: F401 - before Flower
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.task_identity import TaskIdentity

# isort: on
from federation.audit.finding import Ground
from federation.audit.frames import Frames
from federation.audit.heard import messages_of
from federation.audit.world import World

FLAT = np.arange(3000, dtype=np.float32)


def pieces_of(message: Message) -> list[bytes]:
    return [piece.deflate() for piece in get_all_nested_objects(message).values()]


def named(message: Message) -> Message:
    message.metadata.__dict__["_message_id"] = message.object_id
    return message


@pytest.fixture
def exchange() -> tuple[Message, Message, Message]:
    """The requests to two nodes, 11 and 12, and the update of the first."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
    arrays, config = ArrayRecord({"model": Array(FLAT)}), ConfigRecord({"server-round": 1, "message": b"\0Message"})
    asked = [named(Message(RecordDict({"arrays": arrays, "config": config}), node, "train")) for node in (11, 12)]
    TaskIdentity.node_id = 11
    content = RecordDict({"arrays": ArrayRecord({"model": Array(FLAT + 1)}), "metrics": MetricRecord({"weight": 1.0})})
    update = named(Message(content, reply_to=asked[0]))
    TaskIdentity.node_id = 12
    return asked[0], asked[1], update


def test_messages_are_put_together_whoever_sent_their_pieces(exchange: tuple[Message, Message, Message]) -> None:
    first, second, update = exchange
    to_first, to_second = pieces_of(first), [piece for piece in pieces_of(second) if piece not in pieces_of(first)]
    heard = messages_of(
        {"one": [b"POST\r\n\r\n".join(pieces_of(update))], "two": [b"", b"nothing"]},
        [b"200 OK".join(to_first) + b"\0", b"\x0a\x99".join(to_second)],
    )
    assert heard.problems == []
    assert heard.devices == {11: "one"}
    assert [message.metadata.message_id for message in heard.messages] == [
        first.object_id,
        second.object_id,
        update.object_id,
    ]
    assert [message.metadata.dst_node_id for message in heard.messages[:2]] == [11, 12]
    came = heard.messages[2]
    assert came.metadata.reply_to_message_id == first.object_id
    np.testing.assert_array_equal(came.content.array_records["arrays"]["model"].numpy(), FLAT + 1)
    assert dict(came.content.metric_records["metrics"]) == {"weight": 1.0}
    assert heard.messages[0].content.config_records["config"]["message"] == b"\0Message"


def test_an_error_is_a_message_too(exchange: tuple[Message, Message, Message]) -> None:
    _, second, _ = exchange
    abstained = named(Message(Error(code=100, reason="why"), reply_to=second))
    heard = messages_of({"two": pieces_of(abstained)}, pieces_of(second))
    assert heard.problems == []
    assert (heard.messages[1].error.code, heard.messages[1].error.reason) == (100, "why")


def test_what_is_no_whole_message_is_told(exchange: tuple[Message, Message, Message]) -> None:
    first, _, update = exchange
    cut = [piece[:-1] if piece.startswith(b"ArrayChunk") else piece for piece in pieces_of(update)]
    heard = messages_of({"one": cut}, pieces_of(first))
    assert "a message that was not heard whole" in heard.problems
    assert len(heard.messages) == 1
    stray = ConfigRecord({"note": "of no message"}).deflate()
    assert messages_of({"one": [stray]}, pieces_of(first)).problems == ["1 pieces of no message"]
    assert messages_of({"one": pieces_of(update)}, []).problems == ["a reply to nothing that was asked"]


def test_a_request_that_nobody_answered_is_held_to_the_protocol_too(
    exchange: tuple[Message, Message, Message], ground: Ground, tmp_path: Path
) -> None:
    world = World(folder=tmp_path, encoder=ground.encoder, rng=ground.rng)
    [problem] = Frames(world=world, messages=[exchange[0]]).problems()
    assert problem.startswith("terms ['message', ")
