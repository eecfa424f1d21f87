"""A model on disk: what rounds wrote and a device can use. One safetensors file, written whole or not at all.

It holds the flat model, the catalogue, the encoder's fingerprint and the round, and whatever tensors and texts the
federation adds to continue a run. A digest over all of it makes damage an error instead of a wrong answer. No code
is ever unpickled.

>>> import numpy as np, tempfile
>>> checkpoint = Checkpoint(flat=np.zeros(6, dtype=np.float32), dimension=2, encoder="e", round=3,
...                         catalogue=Catalogue.from_names(["a", "b"]))
>>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
>>> checkpoint.save(path)
>>> Checkpoint.load(path).round
3
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.encoders.encoder import Encoder, Vectors
from engine.encoders.wording import wording_size
from engine.errors import CatalogueError, EncoderMismatchError, ModelError
from engine.model.catalogue import Catalogue
from engine.model.inputs import fits
from engine.personal.together import Learned

FORMAT = "tacit-checkpoint-5"
# Read as well: those that say less of what devices learned, and one of which only the catalogue can be used.
_WITHOUT_CHANCE, _WITHOUT_GAINS, _BEFORE = "tacit-checkpoint-4", "tacit-checkpoint-3", "tacit-checkpoint-2"
_STATE = "state."
_POPULATION = "population"
_ABOUT = "tacit"
MAX_PARAMETER = 1e15


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A flat model (C·(d+1),) with all that is needed to use it, and the state of the run that made it.

    ``title`` says where the data came from; "generated population" must be shown wherever the model is.
    The last ``wording`` of its ``dimension`` inputs are those of `engine.encoders.wording`.
    ``learned`` is what devices learned together for the re-scorer, ``None`` before they have.
    ``begun`` is the round after which its run began: 0, or that of the migration to its catalogue.
    ``tensors`` and ``notes`` are the federation's own.
    """

    flat: Vectors
    dimension: int
    encoder: str
    catalogue: Catalogue
    wording: int = 0
    round: int = 0
    begun: int = 0
    title: str = ""
    learned: Learned | None = None
    tensors: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.dimension < 1:
            raise ModelError(f"Expected dimension={self.dimension} to be at least 1.")
        if not 0 <= self.wording < self.dimension:
            raise ModelError(f"Expected wording={self.wording} to be 0 or fewer than {self.dimension} inputs.")
        if not 0 <= self.begun <= max(self.round, 0):
            raise ModelError(f"Expected begun={self.begun} to be a round from 0 to {self.round}.")
        expected = len(self.catalogue) * (self.dimension + 1)
        if self.flat.shape != (expected,):
            raise ModelError(f"Expected a model of {expected} numbers for this catalogue, got {self.flat.shape}.")
        # Written so that NaN fails as well; below the limit no score overflows.
        if not np.abs(self.flat).max(initial=0) <= MAX_PARAMETER:
            raise ModelError(f"The model holds NaN, infinity or sizes above {MAX_PARAMETER:g}, so it is refused.")

    def to_bytes(self) -> bytes:
        """Return the file's bytes; the same for equal checkpoints."""
        from safetensors.numpy import save

        tensors, about = self._content()
        about["digest"] = _digest(tensors, about)
        # One entry, because safetensors writes several in an order that changes from call to call.
        return bytes(save(tensors, metadata={_ABOUT: _canonical(about)}))

    def bare(self) -> "Checkpoint":
        """Return the model as a device keeps it: without what only continues a run on the server."""
        return replace(self, tensors={}, notes={})

    def content_hash(self) -> bytes:
        """Return SHA-256 (32 bytes) of all that it holds, which does not depend on how the file is laid out.

        Of the fields other than arrays as JSON with sorted keys, then of each array in the order of the names: name,
        type and shape, each before a zero byte, and its numbers.
        """
        return bytes.fromhex(_digest(*self._content()))

    def _content(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
        tensors: dict[str, npt.NDArray[Any]] = {"model": np.ascontiguousarray(self.flat, dtype=np.float32)}
        if self.learned is not None:
            tensors[_POPULATION] = np.ascontiguousarray(self.learned.weights, dtype=np.float64)
        tensors |= {_STATE + name: np.asarray(value, order="C") for name, value in sorted(self.tensors.items())}
        about = {
            "format": FORMAT,
            "dimension": str(self.dimension),
            "wording": str(self.wording),
            "encoder": self.encoder,
            "catalogue": self.catalogue.to_json(),
            "round": str(self.round),
            "begun": str(self.begun),
            "title": self.title,
            "notes": json.dumps(dict(self.notes), sort_keys=True),
        }
        if self.learned is not None:
            about |= {
                "kappa": repr(float(self.learned.kappa)),
                "gains": json.dumps(self.learned.gains.tolist()),
                "least chance": repr(float(self.learned.least_chance)),
            }
        return tensors, about

    @classmethod
    def from_bytes(cls, content: bytes, *, name: str = "checkpoint") -> "Checkpoint":
        """Read a file's bytes; raise `ModelError` that names it if it is damaged or of another format."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            tensors = load(content)
            head, written = _head(content)
            about = json.loads(written)
        except (SafetensorError, ValueError, KeyError, RecursionError) as error:
            raise ModelError(f"{name} is not a checkpoint or is cut short: {str(error).splitlines()[0]}") from None
        if not isinstance(about, dict) or about.get("format") not in (FORMAT, _WITHOUT_CHANCE, _WITHOUT_GAINS):
            got = about.get("format") if isinstance(about, dict) else None
            raise ModelError(f"{name} has format {got!r}; this release reads {FORMAT!r}.")
        # The digest covers what was read; the rest of the header has one spelling.
        is_canonical = written == _canonical(about) and head.rstrip(b" ").endswith(b"}")
        digest = about.pop("digest", "")
        is_canonical &= all(isinstance(value, str) for value in about.values())
        if not is_canonical or digest != _digest(tensors, about):
            raise ModelError(f"{name} is damaged: its content does not match its digest.")
        try:
            if tensors["model"].dtype != np.float32:
                raise ValueError(f"its model is {tensors['model'].dtype}, not float32")
            return cls(
                flat=tensors.pop("model"),
                dimension=int(about["dimension"]),
                wording=int(about["wording"]),
                encoder=about["encoder"],
                catalogue=Catalogue.from_json(about["catalogue"]),
                round=int(about["round"]),
                begun=int(about["begun"]),
                title=about["title"],
                learned=_learned(tensors.pop(_POPULATION, None), about),
                tensors={key.removeprefix(_STATE): value for key, value in tensors.items()},
                notes=dict(json.loads(about["notes"])),
            )
        except (KeyError, ValueError, TypeError, RecursionError, CatalogueError) as error:
            raise ModelError(f"{name} is not a whole checkpoint: {error}") from None

    def save(self, path: Path) -> None:
        """Write atomically: after a crash there is the old file or the new one. Raises `ModelError` (disk full)."""
        try:
            write_atomically(path, self.to_bytes())
        except OSError as error:
            raise ModelError(f"Cannot write {path}: {error.strerror}. The file before it, if any, is whole.") from error

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read a file; raise `ModelError` that names it if it is missing or damaged."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ModelError(f"Cannot read the checkpoint {path}: {error.strerror}.") from None
        return cls.from_bytes(content, name=str(path))


def earlier_catalogue(content: bytes) -> Catalogue | None:
    """Return the catalogue of a checkpoint in an earlier release's format; ``None`` for other bytes.

    The rest of such a checkpoint cannot be used: its model sees other inputs. ``content`` must come from where it
    cannot have been changed, as from a sealed store: nothing is checked.
    """
    try:
        about = json.loads(_head(content)[1])
        return Catalogue.from_json(about["catalogue"]) if about["format"] == _BEFORE else None
    except (ValueError, KeyError, TypeError, RecursionError, CatalogueError):
        return None


def _head(content: bytes) -> tuple[bytes, str]:
    """Return a file's header and what that says of the checkpoint, as it is written; "{}" where it says nothing.

    Raises ValueError for a header that is no JSON object.
    """
    head = content[8 : 8 + int.from_bytes(content[:8], "little")]
    told = json.loads(head)
    if not isinstance(told, dict):
        raise ValueError("its header is no JSON object")
    return head, (told.get("__metadata__") or {}).get(_ABOUT, "{}")


def _learned(weights: npt.NDArray[Any] | None, about: Mapping[str, str]) -> Learned | None:
    """What devices learned; what is public where the file's format did not have it yet."""
    if weights is None:
        return None
    learned = Learned(weights=weights, kappa=float(about["kappa"]))
    if about["format"] != _WITHOUT_GAINS:
        learned = replace(learned, gains=np.array(json.loads(about["gains"]), dtype=np.float64))
    if about["format"] == FORMAT:
        learned = replace(learned, least_chance=float(about["least chance"]))
    return learned


def _canonical(about: Mapping[str, str]) -> str:
    return json.dumps(dict(about), sort_keys=True)


def _digest(tensors: Mapping[str, npt.NDArray[Any]], about: Mapping[str, str]) -> str:
    digest = hashlib.sha256(_canonical(about).encode())
    for name in sorted(tensors):
        digest.update(f"{name}\0{tensors[name].dtype}\0{tensors[name].shape}\0".encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()


def start_checkpoint(
    catalogue: Catalogue, encoder: Encoder, *, title: str = "", with_wording: bool = True
) -> Checkpoint:
    """Return the model that no data has trained: the encoded label names, with their wording or without."""
    from engine.model.model import Model

    words = wording_size(encoder) if with_wording else 0
    dimension = encoder.dimension + words
    flat = Model.from_catalogue(catalogue, encoder, dimension).flat()
    return Checkpoint(
        flat=flat,
        dimension=dimension,
        wording=words,
        encoder=encoder.fingerprint,
        catalogue=catalogue,
        title=title,
    )


def check_encoder(model: Checkpoint, encoder: Encoder) -> None:
    """Raise `EncoderMismatchError` unless ``model`` was made with ``encoder``."""
    if model.encoder != encoder.fingerprint or not fits(model.dimension, encoder):
        raise EncoderMismatchError(
            f"This model was made for encoder {model.encoder[:12]}…, this device uses {encoder.name} "
            f"({encoder.fingerprint[:12]}…). Use a model made with the device's encoder."
        )


def write_atomically(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` durably, or raise OSError and leave it as it was."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
