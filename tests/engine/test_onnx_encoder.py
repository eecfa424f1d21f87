"""The default encoder: the vectors of its reference, exported once, and never from a file that was changed."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from engine.encoders import onnx_encoder as module
from engine.encoders.bert_graph import bert_as_onnx
from engine.encoders.encoder import WEIGHTS_SHA256, default_encoder_path
from engine.encoders.onnx_encoder import OnnxEncoder, cache_folder, exported
from engine.encoders.sentence_encoder import SentenceEncoder
from engine.errors import EncoderError
from federation.population import generate

ODD = [
    *(
        "",
        " ",
        "\n\t",
        "\0 null",
        "a",
        "A" * 600,
        "word " * 2000,
        "😀" * 40,
        "汉字很多。" * 90,
        "Ünïcödé",
        "ﬁ ligature",
    ),
    *(
        "naïve café",
        "1234567890 " * 30,
        "don't won't",
        "https://example.com/a?b=c#d",
        "<b>bold</b>",
        "[CLS] [SEP] [MASK]",
    ),
    *(
        "ab\u0301c",
        "\u202eright to left",
        "नमस्ते दुनिया",
        "안녕하세요",
        "مرحبا بالعالم",
        "tab\tand\u00a0space",
        "##piece",
        "…",
    ),
]


def sentences(count: int) -> list[str]:
    """Requests of generated people, pairs of them, and oddities: all different."""
    rows = list(dict.fromkeys(row.text for row in generate(30, seed=3).rows))
    pairs = [f"{first}, and {second}" for first, second in zip(rows, rows[7:], strict=False)]
    found = list(dict.fromkeys([*ODD, *rows[: count // 2], *pairs]))[:count]
    assert len(found) == count
    return found


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_vectors_are_those_of_sentence_transformers_on_a_thousand_sentences(count: int) -> None:
    texts = sentences(count)
    ours = OnnxEncoder(default_encoder_path()).encode(texts)
    theirs = SentenceEncoder.reference().encode(texts)
    cosines = np.einsum("ij,ij->i", ours.astype(np.float64), theirs.astype(np.float64))
    assert cosines.min() >= 0.99999, texts[int(cosines.argmin())]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_threads_that_share_an_encoder_get_their_own_vectors() -> None:
    encoder, texts = OnnxEncoder(default_encoder_path()), sentences(40)
    expected = np.concatenate([encoder.encode([text]) for text in texts])
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda text: encoder.encode([text])[0], texts * 3))
    np.testing.assert_allclose(np.stack(got), np.tile(expected, (3, 1)), atol=1e-6)
    np.testing.assert_allclose(encoder.encode(texts * 3), np.tile(expected, (3, 1)), atol=1e-5)


def test_answering_imports_neither_torch_nor_sentence_transformers(
    python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    ran = python("""
import sys
from engine.encoders.encoder import load_encoder
print(load_encoder().encode(["a table for two"]).shape)
print(sorted({"torch", "transformers", "sentence_transformers", "onnx"} & sys.modules.keys()))
""")
    assert ran.stdout.split("\n")[:2] == ["(1, 384)", "[]"], ran.stdout + ran.stderr


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own, with the export in it; returns the file."""
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    for export in cache_folder().glob("*.onnx"):  # Nothing else that is cached.
        shutil.copy2(export, folder)
    monkeypatch.setenv("TACIT_CACHE_DIR", str(folder))
    exported(default_encoder_path())
    (file,) = folder.iterdir()
    return file


def test_export_happens_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.name.startswith(WEIGHTS_SHA256[:32])
    monkeypatch.setattr(module, "bert_as_onnx", lambda *given: pytest.fail("exported again"))
    assert OnnxEncoder(default_encoder_path()).encode(["a"]).shape == (1, 384)


@pytest.mark.parametrize("damage", ["cut", "flip first", "flip middle", "flip hash", "empty", "other"])
def test_export_that_was_changed_is_never_run(cache: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    whole = cache.read_bytes()
    place = {"flip first": 0, "flip middle": len(whole) // 2, "flip hash": len(whole) - 1}.get(damage)
    if place is None:
        changed = {"cut": whole[: len(whole) // 3], "empty": b"", "other": b"some other file"}[damage]
    else:
        changed = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    cache.write_bytes(changed)
    with caplog.at_level(logging.WARNING, logger="tacit.engine"):
        assert exported(default_encoder_path()) == whole[:-32]
    assert "was changed or cut off: it is exported again" in caplog.text
    assert cache.read_bytes() == whole
    assert list(cache.parent.iterdir()) == [cache]


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_export_that_others_may_write_is_never_run(cache: Path, caplog: pytest.LogCaptureFixture, mode: int) -> None:
    whole = cache.read_bytes()
    other = whole[:-33] + bytes([whole[-33] ^ 1])
    cache.write_bytes(other + hashlib.sha256(other).digest())  # What fits its own hash is believed of nobody else.
    cache.chmod(mode)
    with caplog.at_level(logging.WARNING, logger="tacit.engine"):
        assert exported(default_encoder_path()) == whole[:-32]
    assert "others may write it" in caplog.text
    assert cache.stat().st_mode & 0o777 == 0o600


def test_export_that_does_not_run_is_an_error_with_a_type(cache: Path) -> None:
    cache.write_bytes(b"no graph" + hashlib.sha256(b"no graph").digest())
    with pytest.raises(EncoderError, match="ONNX Runtime cannot run"):
        OnnxEncoder(default_encoder_path()).encode(["a"])


def test_what_a_killed_export_left_is_removed_after_an_hour(cache: Path) -> None:
    old, young = (cache.with_name(f".{cache.name}.{name}.new") for name in ("old", "young"))
    for left in (old, young):
        left.write_bytes(b"half")
    os.utime(old, (0, 0))
    cache.unlink()
    exported(default_encoder_path())
    assert set(cache.parent.iterdir()) == {cache, young}


def test_cache_that_cannot_be_written_is_said_and_answers_still_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("TACIT_CACHE_DIR", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, logger="tacit.engine"):
        vectors = OnnxEncoder(default_encoder_path()).encode(["a table for two"])
    assert np.linalg.norm(vectors) == pytest.approx(1, abs=1e-5)
    assert "cannot be kept" in caplog.text
    assert "TACIT_CACHE_DIR" in caplog.text


def test_processes_that_export_at_once_leave_one_whole_file(cache: Path) -> None:
    whole = cache.read_bytes()
    cache.unlink()
    code = (
        "from engine.encoders.encoder import load_encoder; "
        "print(load_encoder().encode(['a table for two'])[0, :4].tolist())"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        for _ in range(3)
    ]
    answers = {process.communicate(timeout=120)[0] for process in started}
    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(answers) == 1
    assert list(cache.parent.iterdir()) == [cache]
    assert cache.read_bytes() == whole


def test_cache_lies_where_the_system_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TACIT_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "tacit"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache" / "tacit"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert cache_folder() == tmp_path / "caches" / "tacit"
    monkeypatch.setenv("TACIT_CACHE_DIR", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError

    for name in ("TACIT_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(EncoderError, match="set TACIT_CACHE_DIR"):
        OnnxEncoder(default_encoder_path()).encode(["a"])


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the encoder's folder that a test may change, the weights by link."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(default_encoder_path() / name, folder)
    (folder / "model.safetensors").symlink_to(default_encoder_path() / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_changed_or_missing_file_of_the_package_is_refused(
    package: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TACIT_CACHE_DIR", str(tmp_path / "empty"))
    path = package / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(EncoderError, match="are not the ones this release was made with"):
        OnnxEncoder(package).encode(["a"])
    path.unlink()
    with pytest.raises(EncoderError, match=f"{name}: No such file"):
        OnnxEncoder(package).encode(["a"])
    assert not (tmp_path / "empty").exists()


def test_model_of_another_make_is_refused() -> None:
    with pytest.raises(EncoderError, match="no BERT with GELU"):
        bert_as_onnx(b'{"model_type": "roberta", "hidden_act": "gelu"}', b"")
