"""The default encoder by ONNX Runtime: it answers a fraction of a second after a cold start, without PyTorch.

The model is exported once on this machine, from the installed package's weights, whose hash is checked then, into the
user's cache folder, with the hash of what was written behind it. A cached file that is damaged, or that another user
owns or may write, is never run: it is exported again, and a warning says so. The vectors are those of
sentence-transformers to six digits, which a test holds on 1,000 sentences, so both have one fingerprint and one device
opens with either.
"""

import contextlib
import hashlib
import json
import logging
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.encoders.bert_graph import IDS, MASK, STATES, VECTORS, bert_as_onnx
from engine.encoders.encoder import DEFAULT_ENCODER, DIMENSION, WEIGHTS_SHA256, Vectors, changed_files, check_vectors
from engine.encoders.reading import Reading
from engine.errors import EncoderError
from store.disk.folders import user_folder

_EXPORT = 2  # Grows when another graph is made of the same weights.
_SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": WEIGHTS_SHA256,
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
_MOST_TOKENS = 256
_WORD_TABLE = "embeddings.word_embeddings.weight"
_AT_ONCE = 32
_HASH_BYTES = 32
_LEFT_BEHIND_S = 3600.0
_log = logging.getLogger("tacit.engine")


class OnnxEncoder:
    """all-MiniLM-L6-v2 in a folder of the package's making, loaded at first use and safe to share between threads."""

    name = DEFAULT_ENCODER
    dimension = word_dimension = DIMENSION
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
            with _typed_errors(self._folder):
                vectors[batch] = _run(session, [tokens[at] for at in batch])

        if len(batches) == 1:
            fill(batches[0])
        else:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(fill, batches))
        return check_vectors(vectors, count=len(texts), encoder=self)

    def read(self, text: str) -> Reading:
        """Return the vector of ``text`` and the states of its words, from one run. Raises `EncoderError`."""
        tokenizer, session = self._parts()
        encoding = tokenizer.encode(text)
        with _typed_errors(self._folder):
            vectors, states = session.run([VECTORS, STATES], _inputs([encoding.ids]))
        spans: dict[int, tuple[int, int]] = {}
        sums: dict[int, Vectors] = {}
        for number, (start, end), state in zip(encoding.word_ids, encoding.offsets, states[0], strict=True):
            if number is not None:  # What the tokenizer itself put before and behind is of no word.
                spans[number] = (spans.get(number, (start, end))[0], end)
                sums[number] = sums[number] + state if number in sums else state
        return Reading(
            vector=check_vectors(vectors, count=1, encoder=self)[0],
            words=tuple(text[start:end] for start, end in spans.values()),
            states=np.array(list(sums.values()), dtype=np.float32).reshape(len(sums), self.dimension),
        )

    def word_table(self) -> tuple[dict[str, int], Vectors]:
        """The encoder's own vocabulary, and its vector of each piece before any context, float32 (pieces, 384).

        The table is mapped from the package's file, whose hash is checked first. Raises `EncoderError`.
        """
        path = self._folder / "model.safetensors"
        _checked(self._folder, path.name)
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            about = json.loads(file.read(size))[_WORD_TABLE]
        offset, shape = 8 + size + about["data_offsets"][0], tuple(about["shape"])
        table = np.memmap(path, dtype="<f4", mode="r", offset=offset, shape=shape)
        return self._parts()[0].get_vocab(), table

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
        tokenizer = Tokenizer.from_buffer(_checked(self._folder, "tokenizer.json"))
        with _typed_errors(self._folder):
            session = onnxruntime.InferenceSession(exported(self._folder), options, providers=["CPUExecutionProvider"])
        tokenizer.no_padding()
        tokenizer.enable_truncation(_MOST_TOKENS)
        return tokenizer, session


@contextlib.contextmanager
def _typed_errors(folder: Path) -> Iterator[None]:
    """A block in which ONNX Runtime's errors, which share no base class, leave as `EncoderError`."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    errors: tuple[type[Exception], ...] = (RuntimeError, *(getattr(state, name) for name in names))
    try:
        yield
    except errors as error:
        told = (str(error) or type(error).__name__).splitlines()[0]
        raise EncoderError(f"ONNX Runtime cannot run the encoder from {folder}: {told}") from error


def exported(folder: Path) -> bytes:
    """Return the ONNX model of the encoder in ``folder``, from the cache or exported now. Raises `EncoderError`.

    Where the cache cannot be written, the model is exported each time, and a warning says so.
    """
    cached = cache_folder() / f"{WEIGHTS_SHA256[:32]}-{_EXPORT}.onnx"
    try:
        data, own = _read_own(cached)
        if own and data[-_HASH_BYTES:] == hashlib.sha256(memoryview(data)[:-_HASH_BYTES]).digest():
            return data[:-_HASH_BYTES]
        _log.warning(
            "The exported encoder %s %s: it is exported again.",
            cached,
            "was changed or cut off" if own else "is another user's, or others may write it",
        )
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
    try:
        return user_folder("TACIT_CACHE_DIR", "XDG_CACHE_HOME", ".cache")
    except RuntimeError:
        raise EncoderError("This user has no home folder for the exported encoder: set TACIT_CACHE_DIR.") from None


def _checked(folder: Path, name: str) -> bytes:
    """The content of one of the package's files. Raises `EncoderError` unless it is that of this release."""
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise EncoderError(f"Cannot load an encoder from {folder}: {name}: {error.strerror}.") from None
    if hashlib.sha256(content).hexdigest() != _SHA256[name]:
        raise changed_files(folder)
    return content


def _read_own(path: Path) -> tuple[bytes, bool]:
    """Return a file's content, and whether this user alone can have written it."""
    with path.open("rb") as file:
        about = os.fstat(file.fileno())
        own = stat.S_ISREG(about.st_mode) and about.st_uid == os.geteuid() and not about.st_mode & 0o022
        return (file.read() if own else b""), own


def _write(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path``, whole or not at all, whoever else does the same."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in path.parent.glob(f".{path.name}.*.new"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _LEFT_BEHIND_S:
                left.unlink()  # By a process that was killed.
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _run(session: Any, tokens: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
    """The vectors (n, d) of n rows of tokens."""
    (vectors,) = session.run([VECTORS], _inputs(tokens))
    result: npt.NDArray[np.float32] = vectors
    return result


def _inputs(tokens: Sequence[Sequence[int]]) -> dict[str, npt.NDArray[np.int32]]:
    """What the graph takes of n rows of tokens: ids and mask, both (n, t)."""
    shape = len(tokens), max(map(len, tokens))
    ids, mask = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int32)
    for row, its in enumerate(tokens):
        ids[row, : len(its)], mask[row, : len(its)] = its, 1
    return {IDS: ids, MASK: mask}
