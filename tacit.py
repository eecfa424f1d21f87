"""Tacit's public import: ``from tacit import Device``. Re-exports, nothing else.

The code lives in the packages ``store``, ``engine`` and ``federation`` beside this file. Where a package of the same
name from elsewhere comes first on the import path, importing this module raises one line that names it.
"""

import importlib.util as _util
import sys as _sys
from pathlib import Path as _Path
from typing import TYPE_CHECKING
from typing import Any as _Any

if TYPE_CHECKING:
    from engine.choices.chooser import Choice
    from engine.choices.model import ChoiceModel
    from engine.device.device import Device, Memory
    from engine.device.evaluation import Evaluation
    from engine.device.suggestion import Found, Suggestion, Suggestions
    from engine.encoders.encoder import Encoder, load_encoder
    from engine.errors import EngineError
    from engine.model.catalogue import Catalogue, Label
    from engine.model.checkpoint import Checkpoint
    from engine.model.migration import migrate
    from federation.cli import main
    from federation.population import generate
    from store import DeviceKey, Passphrase, StoreError

__version__ = "0.1.0"

# Where each public name lives: loaded at first use, so that `import tacit` costs nothing.
_HOMES = {
    "Catalogue": "engine.model.catalogue",
    "Checkpoint": "engine.model.checkpoint",
    "Choice": "engine.choices.chooser",
    "ChoiceModel": "engine.choices.model",
    "Device": "engine.device.device",
    "DeviceKey": "store",
    "Encoder": "engine.encoders.encoder",
    "EngineError": "engine.errors",
    "Evaluation": "engine.device.evaluation",
    "Found": "engine.device.suggestion",
    "Label": "engine.model.catalogue",
    "Memory": "engine.device.device",
    "Passphrase": "store",
    "StoreError": "store",
    "Suggestion": "engine.device.suggestion",
    "Suggestions": "engine.device.suggestion",
    "generate": "federation.population",
    "load_encoder": "engine.encoders.encoder",
    "main": "federation.cli",
    "migrate": "engine.model.migration",
}

__all__ = [
    "Catalogue",
    "Checkpoint",
    "Choice",
    "ChoiceModel",
    "Device",
    "DeviceKey",
    "Encoder",
    "EngineError",
    "Evaluation",
    "Found",
    "Label",
    "Memory",
    "Passphrase",
    "StoreError",
    "Suggestion",
    "Suggestions",
    "generate",
    "load_encoder",
    "main",
    "migrate",
]


def _refuse_foreign_packages() -> None:
    here = _Path(__file__).resolve().parent
    for name in ("store", "engine", "federation"):
        loaded = _sys.modules.get(name)
        spec = getattr(loaded, "__spec__", None) if loaded is not None else _util.find_spec(name)
        places = list(getattr(spec, "submodule_search_locations", None) or ()) or [getattr(spec, "origin", None)]
        found = places[0]
        if found is None or _Path(found).resolve() != here / name:
            raise ImportError(
                f"The package {name!r} at {found} hides Tacit's own at {here / name}. "
                "Rename it or put Tacit's folder before it on the import path."
            )


_refuse_foreign_packages()


def __getattr__(name: str) -> _Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tacit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


if __name__ == "__main__":
    from federation.cli import main as _main

    _main()
