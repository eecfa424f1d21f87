"""The default encoder by ONNX Runtime: it answers a fraction of a second after a cold start, without PyTorch.

The model is exported once on this machine, from the installed package's weights, whose hash is checked then, into the
user's cache folder, with the hash of what was written behind it. A cached file that was cut off or changed is never
run: it is exported again, and a warning says so. The vectors are those of sentence-transformers to six digits, which a
test holds on 1,000 sentences, so both have one fingerprint and one device opens with either.
"""

import hashlib
import logging
import os
import secrets
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.bert_graph import IDS, MASK, VECTORS, bert_as_onnx
from engine.encoder import DEFAULT_ENCODER, DIMENSION, WEIGHTS_SHA256, Vectors, changed_files, check_vectors
from engine.errors import EncoderError

_EXPORT = 1  # Grows when another graph is made of the same weights.
_SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": WEIGHTS_SHA256,
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
_MOST_TOKENS = 256
_AT_ONCE = 32
_HASH_BYTES = 32
_log = logging.getLogger("tacit.engine")


class OnnxEncoder:
    """all-MiniLM-L6-v2 in a folder of the package's making, loaded at first use and safe to share between threads."""

    name = DEFAULT_ENCODER
    dimension = DIMENSION
    fingerprint = WEIGHTS_SHA256[:32]

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Any] | None = None

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return unit vectors, float32 (len(texts), 384); on one core for up to 32 texts, on all for more.

        Of a text only the first 256 tokens count. Raises `EncoderError`.
        """
        vectors = np.zeros((len(texts), DIMENSION), dtype=np.float32)
        if not texts:
            return vectors
        tokenizer, session = self._parts()
        tokens = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
        # Texts of like length together, so that little of a batch is padding.
        order = sorted(range(len(tokens)), key=lambda at: len(tokens[at]))
        batches = [order[start : start + _AT_ONCE] for start in range(0, len(order), _AT_ONCE)]

        def fill(batch: list[int]) -> None:
            vectors[batch] = _run(session, [tokens[at] for at in batch])

        if len(batches) == 1:
            fill(batches[0])
        else:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(fill, batches))
        return check_vectors(vectors, count=len(texts), encoder=self)

    def _parts(self) -> tuple[Any, Any]:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def _load(self) -> tuple[Any, Any]:
        """The tokenizer and the session."""
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            tokenizer = Tokenizer.from_buffer(_checked(self._folder, "tokenizer.json"))
            session = onnxruntime.InferenceSession(exported(self._folder), options, providers=["CPUExecutionProvider"])
        except (RuntimeError, ValueError) as error:  # What the two libraries raise derives from these.
            told = (str(error) or type(error).__name__).splitlines()[0]
            raise EncoderError(f"Cannot load an encoder from {self._folder}: {told}") from error
        tokenizer.no_padding()
        tokenizer.enable_truncation(_MOST_TOKENS)
        return tokenizer, session


def exported(folder: Path) -> bytes:
    """Return the ONNX model of the encoder in ``folder``, from the cache or exported now. Raises `EncoderError`.

    Where the cache cannot be written, the model is exported each time, and a warning says so.
    """
    cached = cache_folder() / f"{WEIGHTS_SHA256[:32]}-{_EXPORT}.onnx"
    try:
        data = cached.read_bytes()
        if data[-_HASH_BYTES:] == hashlib.sha256(memoryview(data)[:-_HASH_BYTES]).digest():
            return data[:-_HASH_BYTES]
        _log.warning("The exported encoder %s was changed or cut off: it is exported again.", cached)
    except FileNotFoundError:
        pass
    except OSError as error:
        _log.warning("The exported encoder %s cannot be read (%s): it is exported again.", cached, error.strerror)
    model = bert_as_onnx(_checked(folder, "config.json"), _checked(folder, "model.safetensors"))
    try:
        _write(cached, model + hashlib.sha256(model).digest())
    except OSError as error:
        _log.warning(
            "The exported encoder cannot be kept in %s (%s), so each process exports it anew: set TACIT_CACHE_DIR to a "
            "folder that can be written.",
            cached.parent,
            error.strerror,
        )
    return model


def cache_folder() -> Path:
    """Return where the exported encoder lies: $TACIT_CACHE_DIR, else $XDG_CACHE_HOME/tacit or ~/.cache/tacit."""
    chosen = os.environ.get("TACIT_CACHE_DIR")
    if chosen:
        return Path(chosen).absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "tacit"


def _checked(folder: Path, name: str) -> bytes:
    """The content of one of the package's files. Raises `EncoderError` unless it is that of this release."""
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise EncoderError(f"Cannot load an encoder from {folder}: {name}: {error.strerror}.") from None
    if hashlib.sha256(content).hexdigest() != _SHA256[name]:
        raise changed_files(folder)
    return content


def _write(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path``, whole or not at all, whoever else does the same."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    try:
        new.write_bytes(data)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _run(session: Any, tokens: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
    """The vectors (n, d) of n rows of tokens."""
    shape = len(tokens), max(map(len, tokens))
    ids, mask = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int32)
    for row, its in enumerate(tokens):
        ids[row, : len(its)], mask[row, : len(its)] = its, 1
    (vectors,) = session.run([VECTORS], {IDS: ids, MASK: mask})
    result: npt.NDArray[np.float32] = vectors
    return result
