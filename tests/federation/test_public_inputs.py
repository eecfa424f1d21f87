"""Inputs of public texts: by the default encoder where it fits the model, from a file, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.encoders.encoder import CachedEncoder
from engine.errors import EncoderError
from engine.model.catalogue import Catalogue
from engine.model.checkpoint import Checkpoint, start_checkpoint
from federation.errors import ConfigError
from federation.rounds import public_inputs as module
from federation.rounds.public_inputs import encode_public, public_inputs


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Few public texts, since the real encoder takes its time over many."""
    texts = ["a cab to the airport", "two seats at the opera", "a haircut on friday"]
    monkeypatch.setattr(module, "public_texts", lambda: texts)
    return texts


def model_for(encoder: Any) -> Checkpoint:
    return start_checkpoint(Catalogue.from_names(["taxi", "opera"]), encoder)


def refused(path: str, model: Checkpoint, *, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        public_inputs(path, model)
    assert "\n" not in str(error.value)


def test_model_of_the_default_encoder_needs_no_file(few: list[str], encoder: Any) -> None:
    model = model_for(encoder)
    made = public_inputs("", model)
    assert made.shape == (3, model.dimension)
    assert np.array_equal(made, encode_public(few, CachedEncoder(encoder), model))


def test_model_of_another_encoder_needs_a_file(few: list[str], toy: Any) -> None:
    refused("", model_for(toy), says="not the default one: name a file")


def test_server_without_the_default_encoder_needs_a_file(
    few: list[str], toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_nothing() -> Any:
        raise EncoderError("The default encoder is not installed.")

    monkeypatch.setattr(module, "load_encoder", load_nothing)
    refused("", model_for(toy), says="not installed. Or name a file")


def test_file_serves_a_model_of_any_encoder(tmp_path: Path, toy: Any) -> None:
    model, path = model_for(toy), tmp_path / "public.npy"
    inputs = np.arange(2 * model.dimension, dtype=np.float32).reshape(2, -1)
    np.save(path, inputs)
    assert np.array_equal(public_inputs(str(path), model), inputs)
    np.save(path, inputs[:, 1:])
    refused(str(path), model, says=f"public inputs of {model.dimension} numbers a text")
    path.write_text("no numbers", encoding="utf-8")
    refused(str(path), model, says="cannot be read")
    refused(str(tmp_path / "none.npy"), model, says="cannot be read")
