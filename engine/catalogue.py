"""The catalogue: the public labels that every device and the server know.

A catalogue file is JSON: ``{"title": …, "labels": [{"name": …, "description": …, "domain": …}, …]}``, where
description and domain may be left out. Labels that are not in it stay on the device that uses them.

>>> catalogue = Catalogue.from_names(["taxi", "pizza"])
>>> catalogue.index("pizza"), "opera" in catalogue
(1, False)
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import CatalogueError
from engine.services import SERVICES


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A public label: a service, an app or an intent, with what it is for."""

    name: str
    description: str = ""
    domain: str = ""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise CatalogueError("Expected a label name that is not empty.")
        try:
            f"{self.name}{self.description}{self.domain}".encode()
        except UnicodeEncodeError:
            raise CatalogueError(f"Label {self.name!r} holds a lone surrogate, which is no valid Unicode.") from None

    @property
    def meaning(self) -> str:
        """The text whose vector the label's class starts from."""
        words = self.name.replace("_", " ")
        return f"{words}: {self.description}" if self.description else words


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """Labels in a fixed order, at least two and no name twice; the order is the model's."""

    labels: tuple[Label, ...]
    title: str = "catalogue"
    _positions: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            raise CatalogueError(f"Expected at least 2 labels in a catalogue, got {len(self.labels)}.")
        for position, label in enumerate(self.labels):
            if label.name in self._positions:
                raise CatalogueError(f"Label {label.name!r} stands twice in the catalogue. Names must differ.")
            self._positions[label.name] = position

    def __len__(self) -> int:
        return len(self.labels)

    def __contains__(self, name: object) -> bool:
        return name in self._positions

    @property
    def names(self) -> tuple[str, ...]:
        """The labels' names, in the model's order."""
        return tuple(label.name for label in self.labels)

    def index(self, name: str) -> int:
        """Return the position of a label; raise `CatalogueError` if it is not in the catalogue."""
        if name not in self._positions:
            raise CatalogueError(f"Label {name!r} is not in the catalogue.")
        return self._positions[name]

    @classmethod
    def builtin(cls) -> "Catalogue":
        """Return the built-in services, the default of a new device."""
        labels = (Label(name=name, description=text, domain=domain) for name, text, domain in SERVICES)
        return cls(labels=tuple(labels), title="built-in services")

    @classmethod
    def from_names(cls, names: Iterable[str], *, title: str = "catalogue") -> "Catalogue":
        """Make a catalogue of bare names."""
        return cls(labels=tuple(Label(name=name) for name in names), title=title)

    @classmethod
    def from_file(cls, path: Path) -> "Catalogue":
        """Read a catalogue file; raise `CatalogueError` that names the file and what is wrong."""
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise CatalogueError(f"Cannot read the catalogue {path}: {error.strerror}.") from None
        except UnicodeDecodeError:
            raise CatalogueError(f"{path} is not UTF-8 text.") from None
        except CatalogueError as error:
            raise CatalogueError(f"{path}: {error}") from None

    @classmethod
    def from_json(cls, text: str) -> "Catalogue":
        """Read the text of a catalogue file; raise `CatalogueError` if it is malformed."""
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise CatalogueError(f"Not JSON: {error.msg} at line {error.lineno}.") from None
        except (ValueError, RecursionError):
            raise CatalogueError("Not a catalogue: nested too deeply, or a number too long.") from None
        if not isinstance(content, dict) or not isinstance(content.get("labels"), list):
            raise CatalogueError('Expected an object with a list "labels".')
        labels = tuple(_label(entry, number) for number, entry in enumerate(content["labels"], start=1))
        return cls(labels=labels, title=str(content.get("title", "catalogue")))

    def to_json(self) -> str:
        """Return the text of a catalogue file, the same for equal catalogues."""
        labels = [
            {"name": label.name, "description": label.description, "domain": label.domain} for label in self.labels
        ]
        return json.dumps({"title": self.title, "labels": labels}, ensure_ascii=False, sort_keys=True)

    @property
    def fingerprint(self) -> str:
        """Identifies names, descriptions, domains and their order: 32 hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:32]


def _label(entry: Any, number: int) -> Label:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise CatalogueError(f'Label {number}: expected an object with a string "name".')
    unknown = set(entry) - {"name", "description", "domain"}
    if unknown:
        raise CatalogueError(f"Label {number}: unknown field {sorted(unknown)[0]!r}; known: name, description, domain.")
    for name in ("description", "domain"):
        if not isinstance(entry.get(name, ""), str):
            raise CatalogueError(f"Label {number}: expected a string in {name!r}.")
    return Label(name=entry["name"], description=entry.get("description", ""), domain=entry.get("domain", ""))
