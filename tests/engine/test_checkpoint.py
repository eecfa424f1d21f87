"""Checkpoints: what is written comes back to the bit, damage is an error, and a full disk costs nothing."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save

from engine.encoders.spelling import spelling
from engine.errors import EncoderMismatchError, ModelError
from engine.model import checkpoint as module
from engine.model.catalogue import Catalogue
from engine.model.checkpoint import (
    FORMAT,
    Checkpoint,
    check_encoder,
    earlier_catalogue,
    start_checkpoint,
    write_atomically,
)
from engine.personal.caution import CAUTIONS, PUBLIC_GAINS
from engine.personal.drift import PUBLIC_CHANCE
from engine.personal.rescorer import MOST_WEIGHT, K
from engine.personal.together import Learned

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
CATALOGUES = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda name: bool(name.strip())),
    min_size=2,
    max_size=4,
    unique=True,
).map(Catalogue.from_names)
STATES = st.dictionaries(
    TEXTS,
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    ),
    max_size=3,
)


LEARNED = st.builds(
    Learned,
    weights=hnp.arrays(np.float64, K, elements=st.floats(-MOST_WEIGHT, MOST_WEIGHT)),
    kappa=st.floats(1e-3, 1e6),
    gains=hnp.arrays(np.float64, len(CAUTIONS), elements=st.floats(-1, 1)),
    least_chance=st.floats(0.5, 1.0),
)


@st.composite
def checkpoints(draw: st.DrawFn) -> Checkpoint:
    catalogue, dimension = draw(CATALOGUES), draw(st.integers(1, 4))
    finite = st.floats(-1e10, 1e10, width=32)
    return Checkpoint(
        flat=draw(hnp.arrays(np.float32, len(catalogue) * (dimension + 1), elements=finite)),
        dimension=dimension,
        encoder=draw(TEXTS),
        catalogue=catalogue,
        round=draw(st.integers(0, 10**6)),
        title=draw(TEXTS),
        wording=draw(st.integers(0, dimension - 1)),
        learned=draw(st.none() | LEARNED),
        tensors=draw(STATES),
        notes=draw(st.dictionaries(TEXTS, TEXTS, max_size=3)),
    )


def small(*, round: int = 3) -> Checkpoint:
    return Checkpoint(
        flat=np.arange(6, dtype=np.float32),
        dimension=2,
        encoder="e",
        catalogue=Catalogue.from_names(["café", "taxi"]),
        round=round,
        title="generated population",
        tensors={"momentum": np.ones(2), "draws": np.arange(3)},
        notes={"seed": "0"},
    )


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    for name in ("dimension", "encoder", "catalogue", "round", "title", "wording"):
        assert getattr(one, name) == getattr(other, name), name
    assert dict(one.notes) == dict(other.notes)
    assert one.flat.tobytes() == other.flat.tobytes()
    assert (one.learned is None) is (other.learned is None)
    if one.learned is not None and other.learned is not None:
        assert one.learned.weights.tobytes() == other.learned.weights.tobytes()
        assert one.learned.kappa == other.learned.kappa
        assert one.learned.gains.tobytes() == other.learned.gains.tobytes()
    assert one.tensors.keys() == other.tensors.keys()
    for name, value in one.tensors.items():
        assert (value.dtype, value.shape) == (other.tensors[name].dtype, other.tensors[name].shape)
        assert value.tobytes() == other.tensors[name].tobytes()


@settings(max_examples=60, deadline=None)
@given(checkpoints())
def test_checkpoint_comes_back_to_the_bit(checkpoint: Checkpoint) -> None:
    content = checkpoint.to_bytes()
    again = Checkpoint.from_bytes(content)
    assert_same(checkpoint, again)
    assert again.to_bytes() == content


def test_equal_checkpoints_have_equal_bytes() -> None:
    assert len({small().to_bytes() for _ in range(20)}) == 1
    assert small(round=4).to_bytes() != small().to_bytes()


def test_every_flipped_bit_is_an_error() -> None:
    content = small().to_bytes()
    for place in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            with pytest.raises(ModelError):
                Checkpoint.from_bytes(bytes(damaged))


def test_every_byte_replaced_is_an_error() -> None:
    content = small().to_bytes()
    rng = random.Random(0)
    for place in range(len(content)):
        # White space and digits first: the bytes that a parser forgives.
        for value in {*b" \t\n\r0", rng.randrange(256)} - {content[place]}:
            with pytest.raises(ModelError):
                Checkpoint.from_bytes(content[:place] + bytes([value]) + content[place + 1 :])


def test_every_cut_is_an_error_and_so_is_anything_added() -> None:
    content = small().to_bytes()
    for size in range(len(content)):
        with pytest.raises(ModelError, match="model-7"):
            Checkpoint.from_bytes(content[:size], name="model-7")
    for extra in (b"\0", b" ", content):
        with pytest.raises(ModelError):
            Checkpoint.from_bytes(content + extra)


@given(st.binary(max_size=200))
def test_any_other_bytes_are_an_error(content: bytes) -> None:
    with pytest.raises(ModelError):
        Checkpoint.from_bytes(content)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {"format": "pt"},
        {"tacit": "{}"},
        {"tacit": "[]"},
        {"tacit": "3"},
        {"tacit": "no JSON"},
        {"tacit": json.dumps({"format": "tacit-checkpoint-999"})},
    ],
)
def test_safetensors_of_another_format_are_refused(metadata: dict[str, str] | None) -> None:
    with pytest.raises(ModelError, match=r"format|not a checkpoint"):
        Checkpoint.from_bytes(save({"model": np.zeros(6, np.float32)}, metadata=metadata))


def test_the_format_that_was_found_and_the_one_expected_are_named() -> None:
    other = save({"model": np.zeros(6, np.float32)}, metadata={"tacit": json.dumps({"format": "tacit-checkpoint-999"})})
    with pytest.raises(ModelError, match=f"tacit-checkpoint-999.*{FORMAT}"):
        Checkpoint.from_bytes(other)


def forged(**changes: Any) -> bytes:
    """A file whose digest is right and whose content is not: a digest without a key keeps nobody from that."""
    about: dict[str, Any] = {
        "format": FORMAT,
        "dimension": "2",
        "encoder": "e",
        "catalogue": Catalogue.from_names("ab").to_json(),
        "round": "3",
        "begun": "0",
        "title": "",
        "wording": "0",
        "notes": "{}",
    }
    tensors = {"model": changes.pop("model", np.zeros(6, np.float32))}
    if "kappa" in changes:
        about |= {"kappa": "100.0", "gains": json.dumps([0.0] * len(CAUTIONS)), "least chance": "0.5"}
        tensors["population"] = np.zeros(K)
    about = {name: value for name, value in (about | changes).items() if value is not ...}
    about["digest"] = module._digest(tensors, about)
    return bytes(save(tensors, metadata={"tacit": module._canonical(about)}))


def test_the_forger_of_these_tests_can_write_a_good_file() -> None:
    assert Checkpoint.from_bytes(forged()).round == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"model": np.zeros(6, np.float64)},
        {"model": np.zeros(6, np.int32)},
        {"model": np.full(6, np.nan, np.float32)},
        {"model": np.full(6, 3e38, np.float32)},
        {"model": np.zeros(5, np.float32)},
        {"model": np.zeros((2, 3), np.float32)},
        {"model": np.zeros(0, np.float32), "dimension": "-1"},
        {"dimension": "two"},
        {"dimension": None},
        {"dimension": ...},
        {"round": "1.5"},
        {"catalogue": "{}"},
        {"catalogue": None},
        {"catalogue": "[" * 100_000},
        {"title": ["a"]},
        {"wording": "2"},
        {"wording": "-1"},
        {"kappa": "100.0", "gains": "2"},
        {"kappa": "100.0", "gains": "[0.1]"},
        {"kappa": "100.0", "gains": str([2.0] * len(CAUTIONS))},
        {"kappa": "100.0", "gains": f"[{'NaN,' * (len(CAUTIONS) - 1)}NaN]"},
        {"kappa": "100.0", "gains": "many"},
        {"kappa": "100.0", "gains": ...},
        {"kappa": "-1"},
        {"kappa": "nan"},
        {"kappa": ...},
        {"notes": "3"},
        {"notes": "[1]"},
        {"notes": "[" * 100_000},
        {"encoder": ...},
    ],
    ids=lambda changes: " ".join(f"{name} {str(value)[:12]}" for name, value in changes.items()),
)
def test_forged_content_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        Checkpoint.from_bytes(forged(**changes))


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    import pickle

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    with pytest.raises(ModelError):
        Checkpoint.from_bytes(pickle.dumps(Trap()))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "flat",
    [np.zeros(5), np.zeros(0), np.zeros((2, 3)), np.full(6, np.nan), np.array([0] * 5 + [np.inf]), np.full(6, -1e16)],
    ids=["short", "empty", "shape", "NaN", "inf", "overflowing"],
)
def test_unusable_model_is_refused(flat: np.ndarray) -> None:
    with pytest.raises(ModelError):
        Checkpoint(flat=flat.astype(np.float32), dimension=2, encoder="e", catalogue=Catalogue.from_names("ab"))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nothing\.safetensors"):
        Checkpoint.load(tmp_path / "nothing.safetensors")
    with pytest.raises(ModelError, match="Cannot write"):
        small().save(tmp_path / "no folder" / "model.safetensors")


def test_saving_replaces_the_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    small().save(path)
    small(round=4).save(path)
    assert_same(Checkpoint.load(path), small(round=4))
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "model.safetensors"
    small().save(path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[failing], full)
    with pytest.raises(ModelError, match="No space left"):
        small(round=4).save(path)
    monkeypatch.undo()
    assert_same(Checkpoint.load(path), small())
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    path = tmp_path / "model.safetensors"
    small().save(path)
    ran = python(f"""
import resource
from pathlib import Path
import numpy as np
from engine.model.catalogue import Catalogue
from engine.model.checkpoint import Checkpoint
from engine.errors import ModelError
flat = np.zeros(200_000, np.float32)
big = Checkpoint(flat=flat, dimension=99_999, encoder="e", catalogue=Catalogue.from_names("ab"))
big.to_bytes()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    big.save(Path({str(path)!r}))
except ModelError as error:
    print("refused:", error)
""")
    assert ran.stdout.startswith("refused: Cannot write"), ran.stderr
    assert_same(Checkpoint.load(path), small())
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_write_atomically_keeps_the_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "file", b"")


def test_start_checkpoint_is_the_encoded_label_names(catalogue: Catalogue, toy: Any) -> None:
    start = start_checkpoint(catalogue, toy, title="t")
    meanings = [label.meaning for label in catalogue.labels]
    table = np.concatenate([toy.encode(meanings), 0.5 * spelling(meanings), np.zeros((len(meanings), 1))], axis=1)
    np.testing.assert_array_equal(start.flat, table.astype(np.float32).ravel())
    bare = start_checkpoint(catalogue, toy, with_wording=False)
    np.testing.assert_array_equal(bare.flat, np.delete(table, slice(toy.dimension, -1), axis=1).ravel())
    check_encoder(bare, toy)
    assert (start.round, start.title, start.encoder) == (0, "t", toy.fingerprint)
    check_encoder(start, toy)


def test_model_of_another_encoder_is_refused(catalogue: Catalogue, toy: Any, toy_class: Any) -> None:
    start = start_checkpoint(catalogue, toy)
    for other in (toy_class(32, seed=1), toy_class(8)):
        with pytest.raises(EncoderMismatchError, match=other.name):
            check_encoder(start, other)


@pytest.mark.parametrize("population", [np.zeros(K - 1), np.full(K, np.nan), np.full(K, 2 * MOST_WEIGHT)])
def test_weights_of_the_population_that_are_none_are_refused(population: np.ndarray) -> None:
    with pytest.raises(ModelError, match=f"Expected {K} weights"):
        Learned(weights=population)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kappa": 0.0},
        {"kappa": np.inf},
        {"gains": np.zeros(len(CAUTIONS) + 1)},
        {"gains": np.full(len(CAUTIONS), 1.1)},
        {"gains": np.full(len(CAUTIONS), np.nan)},
        {"least_chance": 0.4},
        {"least_chance": 1.1},
        {"least_chance": float("nan")},
    ],
)
def test_what_devices_cannot_have_learned_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=f"Expected {next(iter(wrong))}"):
        Learned(**wrong)


@pytest.mark.parametrize(
    ("fields", "gains"),
    [
        ({"format": "tacit-checkpoint-3", "gain": "0.5", "caution": "10.0", "gains": ...}, PUBLIC_GAINS),
        ({"format": "tacit-checkpoint-4"}, None),
    ],
)
def test_file_of_a_format_before_is_read_with_what_is_public(
    fields: dict[str, Any], gains: tuple[float, ...] | None
) -> None:
    content = forged(kappa="20.0", **{"least chance": ...}, **fields)
    learned = Checkpoint.from_bytes(content).learned
    assert learned is not None
    assert (learned.kappa, learned.least_chance) == (20.0, PUBLIC_CHANCE)
    assert gains is None or learned.gains.tolist() == list(gains)
    assert earlier_catalogue(content) is None
