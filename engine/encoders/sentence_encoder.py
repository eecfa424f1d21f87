"""Encoders that sentence-transformers runs: any model of its kind, in a folder or from the hub.

It is also the reference that the default encoder's own way (``onnx_encoder.py``) is held against. Source: Reimers and
Gurevych 2019 (Sentence-BERT).

>>> SentenceEncoder.reference().dimension
384
"""

import functools
import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from engine.encoders.encoder import (
    DEFAULT_ENCODER,
    DIMENSION,
    WEIGHTS_SHA256,
    Vectors,
    changed_files,
    check_vectors,
    default_encoder_path,
    file_sha256,
)
from engine.errors import EncoderError

_FEW_TEXTS = 32


class SentenceEncoder:
    """An encoder that sentence-transformers runs, loaded at first use and safe to share between threads."""

    def __init__(self, folder: Path, *, name: str, fingerprint: str, weights_sha256: str | None = None) -> None:
        self._folder, self._name, self._fingerprint = folder, name, fingerprint
        self._weights_sha256 = weights_sha256
        self._lock = threading.Lock()
        self._loaded: Any = None

    @classmethod
    def reference(cls) -> Self:
        """The default encoder, run by sentence-transformers."""
        return cls(
            default_encoder_path(),
            name=DEFAULT_ENCODER,
            fingerprint=WEIGHTS_SHA256[:32],
            weights_sha256=WEIGHTS_SHA256,
        )

    @classmethod
    def in_folder(cls, folder: Path, *, name: str) -> Self:
        """The model in ``folder``; its fingerprint covers weights, tokenizer and configuration."""
        return cls(folder, name=name, fingerprint=_fingerprint(folder))

    @property
    def name(self) -> str:
        """The default's name, a folder or a hub name."""
        return self._name

    @property
    def fingerprint(self) -> str:
        """A hash of weights, tokenizer and configuration."""
        return self._fingerprint

    @property
    def dimension(self) -> int:
        """Floats in a vector."""
        if self._name == DEFAULT_ENCODER:
            return DIMENSION
        model = self._model()
        # Later releases renamed the method, and warn about the name that earlier ones have.
        ask = getattr(model, "get_embedding_dimension", None) or model.get_sentence_embedding_dimension
        return int(ask())

    @property
    def word_dimension(self) -> int:
        """Floats in a vector of a word: 0 for a model whose vocabulary is not one of WordPiece."""
        if self._name == DEFAULT_ENCODER:
            return DIMENSION
        words = self._words
        return 0 if words is None else int(words[1].shape[1])

    def word_table(self) -> tuple[dict[str, int], Vectors]:
        """The model's vocabulary, and its vector of each piece before any context. Raises `EncoderError`."""
        words = self._words
        if words is None:
            raise EncoderError(f"Encoder {self._name!r} has no table of words.")
        return words

    @functools.cached_property
    def _words(self) -> tuple[dict[str, int], Vectors] | None:
        model = self._model()
        try:
            vocabulary = dict(model.tokenizer.get_vocab())
            table = model[0].auto_model.get_input_embeddings().weight.detach().numpy()
        except (AttributeError, NotImplementedError):  # Not every model is a transformer with a tokenizer.
            return None
        return (vocabulary, table) if any(piece.startswith("##") for piece in vocabulary) else None

    def _model(self) -> Any:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def _load(self) -> Any:
        if self._weights_sha256 is not None and file_sha256(self._folder / "model.safetensors") != self._weights_sha256:
            raise changed_files(self._folder)
        # The folder is complete, so nobody has to be asked; libraries that would ask anyway are told not to.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        import transformers
        from sentence_transformers import SentenceTransformer

        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            return SentenceTransformer(str(self._folder), device="cpu", local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise EncoderError(f"Cannot load an encoder from {self._folder}: {first}") from error

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return unit vectors, float32 (len(texts), dimension); one thread for few texts, all cores for many."""
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        import torch

        model = self._model()
        # A bare string that looks like a link or an existing path would be opened as media: say that it is text.
        batch = [{"text": text} for text in texts]
        with self._lock:
            before = torch.get_num_threads()
            torch.set_num_threads(1 if len(texts) <= _FEW_TEXTS else os.cpu_count() or 1)
            try:
                vectors = model.encode(batch, batch_size=64, normalize_embeddings=True, show_progress_bar=False)
            finally:
                torch.set_num_threads(before)
        return check_vectors(vectors, count=len(texts), encoder=self)


def _fingerprint(folder: Path) -> str:
    """Hash what decides the vectors: weights, tokenizer and configuration, by name and content."""
    digest = hashlib.sha256()
    decisive = [
        path for path in folder.rglob("*") if path.suffix in (".safetensors", ".bin", ".json", ".txt", ".model")
    ]
    for path in sorted(decisive):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{file_sha256(path)}\n".encode())
    return digest.hexdigest()[:32]
