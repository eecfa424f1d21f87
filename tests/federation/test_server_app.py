"""What crosses the wire, and what the server is left with: a model of public labels, and nothing anyone wrote."""

from __future__ import annotations

import base64
import dataclasses
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
from flwr.app import Array, Context, RecordDict

from engine.encoders.encoder import CachedEncoder
from engine.encoders.spelling import SPELLING
from engine.model.checkpoint import Checkpoint
from engine.model.model import flat_size
from engine.personal.together import ANSWER_LENGTH
from federation.data.dataset import Row
from federation.data.splits import public_labels
from federation.errors import CheckpointError, ConfigError
from federation.rounds import server_app
from federation.rounds.client_app import ABSTAIN
from federation.rounds.rescorer_rounds import RESCORER_MESSAGE
from federation.simulation.experiment import Experiment, run_experiment
from federation.simulation.grid import InProcessGrid

TEXT_SECRET = "zebra-meridian-47 pays for Quixotica clinic"
LABEL_SECRET = "Quixotica clinic for rare ailments"
USER_SECRET = "Ottoline Featherstonehaugh"
FOLDER_SECRET = "wellspring-of-ottoline"


@pytest.fixture
def secret_split(rows: Any) -> list[tuple[str, list[Row], list[Row]]]:
    """Three people who share labels; each says secrets of their own, one has a label that only they have."""
    split = []
    for number, name in enumerate(sorted({row.user for row in rows(users=3)})):
        own = [row for row in rows(users=3) if row.user == name]
        own = [
            dataclasses.replace(
                row, user=f"{USER_SECRET} {number}", text=f"{row.text} {TEXT_SECRET} {number}-{row.order}"
            )
            for row in own
        ]
        if number == 0:
            private = dataclasses.replace(own[0], label=LABEL_SECRET, labels=(LABEL_SECRET,))
            own += [dataclasses.replace(private, text=f"{private.text} again {n}") for n in range(5)]
        split.append((f"{USER_SECRET} {number}", own, own[-1:]))
    return split


@pytest.fixture
def secretive(town_of: Any, secret_split: Any) -> Any:
    return town_of(secret_split, name=FOLDER_SECRET)


def disguises(text: str) -> dict[str, bytes]:
    """The byte forms in which a text could stand in a message."""
    plain = text.encode()
    forms = {
        "plain": plain,
        "lower case": text.lower().encode(),
        "upper case": text.upper().encode(),
        "utf-16 little-endian": text.encode("utf-16-le"),
        "utf-16 big-endian": text.encode("utf-16-be"),
        "hex": plain.hex().encode(),
        "HEX": plain.hex().upper().encode(),
        "reversed": plain[::-1],
    }
    # Base64 depends on where in a group of three bytes the text starts: the inner part of each.
    for shift in range(3):
        forms[f"base64 at {shift}"] = base64.b64encode(b"x" * shift + plain)[4 : 4 * (len(plain) // 3)]
    return forms


def secrets_of(town: Any) -> set[str]:
    found = {TEXT_SECRET, LABEL_SECRET, USER_SECRET, FOLDER_SECRET, "device-000", str(town.fleet.folder)}
    for member in town.fleet.people:
        found |= {member.user, *(row.text for row in member.train)}
    return found


def inflated(encoded: bytes) -> bytes:
    """What any zlib stream inside the message would unpack to."""
    unpacked = b""
    for start in range(len(encoded) - 1):
        if encoded[start] == 0x78 and (encoded[start] * 256 + encoded[start + 1]) % 31 == 0:
            try:
                unpacked += zlib.decompressobj().decompress(encoded[start:], 1 << 16)
            except zlib.error:
                continue
    return unpacked


def test_no_secret_leaves_in_any_disguise(secretive: Any, wire: Any) -> None:
    secretive.run(rounds=3, strategy="fedadam")
    assert len(wire.replies) == 9
    needles = {(text, name): form for text in secrets_of(secretive) for name, form in disguises(text).items()}
    everything = b"\0".join(wire.replies)
    assert [key for key, form in needles.items() if form in everything] == []
    inner = b"\0".join(inflated(one) for one in wire.replies)
    assert [text for text in secrets_of(secretive) if text.encode() in inner] == []
    # A text that repeats in a message would pack smaller there than numbers do.
    for one, sent in zip(wire.replies, wire.updates, strict=True):
        rest = one.replace(Array(sent).data, b"")
        assert len(one) - len(rest) > 4 * sent.size
        assert len(rest) < 400
        # Entries of spelling that only one text has, or none, have the same numbers as others have: each is taken once.
        numbers = sent[np.sort(np.unique(sent, return_index=True)[1])]
        assert len(numbers) > 100
        assert len(zlib.compress(numbers.tobytes(), 9)) > 0.85 * numbers.nbytes
    # And the needles are sharp: they do find a secret where there is one.
    planted = everything + base64.b64encode(b"ab" + TEXT_SECRET.encode() + b"c")
    assert any(form in planted for (text, _), form in needles.items() if text == TEXT_SECRET)


def test_no_vector_of_a_memory_leaves(secretive: Any, wire: Any) -> None:
    secretive.run(rounds=3, local_steps=1, clip_norm=100.0)
    everything = b"\0".join(wire.replies)
    for member in secretive.fleet.people:
        for row in secretive.fleet._encoder.encode([row.text for row in member.train]):
            for form in (row.astype("<f4"), row.astype(">f4"), row.astype("<f2"), row.astype("<f8")):
                # Not even four numbers of it in a row.
                for start in range(0, len(form) - 4, 4):
                    assert form[start : start + 4].tobytes() not in everything
    # The labels' vectors, which are public, are found there before training: the search works.
    assert secretive.fleet.start.flat[:4].tobytes() in b"\0".join(wire.requests)


def test_every_update_has_the_same_size(town_of: Any, rows: Any, wire: Any) -> None:
    # One who said much, one who said little and one who said nothing: nothing of that shows.
    made = rows(users=2, each=30)
    mine, theirs = ([row for row in made if row.user == f"user-{n}"] for n in (0, 1))
    town = town_of([("much", mine, []), ("little", theirs[:3], []), ("nothing", [], [])])
    town.run(rounds=3)
    sizes = set()
    for proto in wire.protos:
        proto.ClearField("metadata")
        sizes.add(proto.ByteSize())
    assert len(sizes) == 1
    # With its envelope, whose message numbers have as many digits here.
    assert len({len(one) for one in wire.replies}) == 1


def test_every_abstention_has_the_same_size_and_content(secretive: Any, wire: Any) -> None:
    with secretive.fleet.open("device-0001") as device:
        device.allow_rounds(None)
    for file in (secretive.fleet.folder / "devices" / "device-0002").iterdir():
        file.write_bytes(TEXT_SECRET.encode())
    secretive.run(rounds=2, min_replies=1)
    errors = [proto for proto in wire.protos if proto.HasField("error")]
    assert len(errors) == 4
    assert {(proto.error.code, proto.error.reason) for proto in errors} == {(ABSTAIN, "")}
    assert len({len(proto.SerializeToString()) for proto in errors}) == 1


def test_label_of_one_user_enters_neither_catalogue_nor_model(
    tmp_path: Path, secret_split: Any, toy: Any, wire: Any
) -> None:
    experiment = Experiment.of(secret_split, title="three people")
    assert LABEL_SECRET not in experiment.catalogue
    assert list(experiment.catalogue.names) == public_labels(secret_split)
    from federation.rounds.config import RunSettings

    outcome = run_experiment(experiment, RunSettings(rounds=2, cohort=3), tmp_path / "run", CachedEncoder(toy))
    expected = flat_size(len(experiment.catalogue), toy.dimension + SPELLING)
    assert outcome.model.flat.shape == (expected,)
    for proto in wire.protos:
        steps = proto.metadata.message_type == RESCORER_MESSAGE and proto.metadata.src_node_id != 1
        size = ANSWER_LENGTH if steps else expected
        assert Array(np.zeros(size, dtype=np.float32)).data[:128] in proto.SerializeToString()
    # The checkpoint, the history and all else that lies beside the devices hold none of it either.
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert LABEL_SECRET.encode() not in content
            assert TEXT_SECRET.encode() not in content


def test_server_learns_nothing_from_a_device_whose_labels_are_all_private(town_of: Any, split: Any, wire: Any) -> None:
    alone = [
        Row(user="hermit", order=n, text=f"{TEXT_SECRET} {n}", label=f"{LABEL_SECRET} {n % 2}", labels=())
        for n in range(20)
    ]
    town = town_of([*split, ("hermit", alone, [])])
    town.run(rounds=1)
    start = town.fleet.start.flat.tobytes()
    sent = [proto.SerializeToString() for proto in wire.protos if proto.metadata.src_node_id == 6]
    assert len(sent) == 1
    assert start in sent[0]  # the model as it came: an update of zero


def test_server_logs_nothing_of_a_device(
    secretive: Any, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for file in (secretive.fleet.folder / "devices" / "device-0002").iterdir():
        file.write_bytes(TEXT_SECRET.encode())
    secretive.run(rounds=2)
    said = "".join(capfd.readouterr()) + caplog.text
    assert not [text for text in secrets_of(secretive) if text in said]


# The ServerApp's own start


def start(**config: Any) -> None:
    grid = InProcessGrid(["a", "b"])
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config)
    server_app.app(grid, context)


@pytest.mark.parametrize("config", [{"rounds": 0}, {"unknown": 1}, {"mode": "private"}, {"min-replies": 9}])
def test_server_refuses_a_configuration_that_is_wrong(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        start(**config)


def test_server_refuses_to_resume_where_there_is_nothing(tmp_path: Path) -> None:
    for config in ({"resume": True}, {"resume": True, "out": str(tmp_path)}):
        with pytest.raises(CheckpointError, match="nothing to resume"):
            start(**config)


@pytest.mark.parametrize("changed", [{"rounds": 3}, {"seed": 1}, {"strategy": "fedyogi"}, {"clip_norm": 2.0}])
def test_server_refuses_to_continue_a_run_of_other_settings(town: Any, changed: dict[str, Any]) -> None:
    town.run(rounds=2, strategy="fedadam")
    with pytest.raises(CheckpointError, match="The run to resume has"):
        town.run(**({"rounds": 2, "strategy": "fedadam"} | changed), resume=True)


def test_model_of_another_run_is_a_start_and_not_continued(town: Any) -> None:
    first = town.run(rounds=2, strategy="fedadam", out=town.out / "first")
    other = town.out / "first" / "checkpoint.safetensors"
    again = town.run(rounds=1, strategy="fedadam", model=str(other), out=town.out / "second")
    assert again.round == 1
    assert again.flat.tobytes() != first.flat.tobytes()
    assert set(again.tensors) == {"m_t", "v_t", "anchor"}
    half = first.flat.reshape(len(first.catalogue), -1)[:, :-1] / 2
    np.testing.assert_array_equal(again.tensors["anchor"].reshape(len(first.catalogue), -1)[:, :-1], half)


def test_checkpoint_says_how_it_was_made(town: Any) -> None:
    made = town.run(rounds=2)
    assert made.notes["mode"] == "open: updates visible to the server"
    assert '"strategy": "fedavg"' in made.notes["settings"]
    assert made.round == 2
    assert made.catalogue == town.fleet.start.catalogue


def test_checkpoint_is_there_after_each_round(town: Any) -> None:
    from federation.simulation.grid import Watch

    seen: list[int] = []

    def look(_: int, __: Any) -> None:
        path = town.out / "checkpoint.safetensors"
        seen.append(Checkpoint.load(path).round if path.exists() else 0)

    town.run(rounds=3, watch=Watch(on_round=look))
    assert seen == [0, 1, 2]
    assert [path.name for path in town.out.iterdir()] == ["checkpoint.safetensors"]  # no temporary file stays


def test_disk_that_is_full_is_one_line_and_the_checkpoint_before_stays(
    town: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    import engine.model.checkpoint
    from engine.errors import EngineError

    write = engine.model.checkpoint.write_atomically
    written = 0

    def full(path: Path, content: bytes) -> None:
        nonlocal written
        written += path.name == "checkpoint.safetensors"
        if written == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, content)

    monkeypatch.setattr(engine.model.checkpoint, "write_atomically", full)
    with pytest.raises(EngineError, match="No space left") as error:
        town.run(rounds=3)
    assert "\n" not in str(error.value)
    assert Checkpoint.load(town.out / "checkpoint.safetensors").round == 1
