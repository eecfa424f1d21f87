"""The catalogue: the public labels that every device and the server know.

A catalogue file is JSON: ``{"title": …, "labels": [{"name": …, "description": …, "domain": …}, …]}``, where
description and domain may be left out. Labels that are not in it stay on the device that uses them.

Catalogues change between rounds, never within them. A label that has another name now says so by ``"was"`` (a name, or
a list of names), so that memories with the old name still mean it. ``engine/model/migration.py`` numbers the versions.

>>> catalogue = Catalogue.from_names(["taxi", "pizza"])
>>> catalogue.index("pizza"), "opera" in catalogue
(1, False)
>>> renamed = Catalogue(labels=(Label(name="cab", was=("taxi",)), Label(name="pizza")), version=2)
>>> renamed.index("taxi"), renamed.current("taxi"), renamed.names
(0, 'cab', ('cab', 'pizza'))
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import CatalogueError
from engine.model.services import SERVICES
from engine.text import is_unicode

_FIELDS = {"name", "description", "domain", "was"}
_MOST_VERSIONS = 10**9
_FINGERPRINT = re.compile(r"(?:[0-9a-f]{32})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A public label: a service, an app or an intent, with what it is for, and its former names, oldest first."""

    name: str
    description: str = ""
    domain: str = ""
    was: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all(name.strip() for name in (self.name, *self.was)):
            raise CatalogueError("Expected a label name that is not empty.")
        if not is_unicode("".join((self.name, self.description, self.domain, *self.was))):
            raise CatalogueError(f"Label {self.name!r} holds a lone surrogate, which is no valid Unicode.")

    @property
    def meaning(self) -> str:
        """The text whose vector the label's class starts from."""
        words = self.name.replace("_", " ")
        return f"{words}: {self.description}" if self.description else words


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """Labels in a fixed order, at least two and no name twice, former names included; the order is the model's.

    ``version`` grows along a line of catalogues; ``parent`` is the fingerprint of the one before and ``origin`` that of
    the line's first, both "" in the first itself.
    """

    labels: tuple[Label, ...]
    title: str = "catalogue"
    version: int = 1
    parent: str = ""
    origin: str = ""
    _positions: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            raise CatalogueError(f"Expected at least 2 labels in a catalogue, got {len(self.labels)}.")
        if self.version < 1:
            raise CatalogueError(f"Expected version={self.version} of a catalogue to be at least 1.")
        if not _FINGERPRINT.fullmatch(self.parent) or not _FINGERPRINT.fullmatch(self.origin):
            raise CatalogueError("Expected 32 hexadecimal digits in the parent and the origin of a catalogue.")
        for position, label in enumerate(self.labels):
            if label.name in self._positions:
                raise CatalogueError(f"Label {label.name!r} stands twice in the catalogue. Names must differ.")
            self._positions[label.name] = position
        for position, label in enumerate(self.labels):
            for name in label.was:
                # A memory with this name would mean two labels.
                if name in self._positions:
                    raise CatalogueError(
                        f"{name!r}, a former name of {label.name!r}, is also a name of "
                        f"{self.labels[self._positions[name]].name!r}. Names, former ones too, must differ."
                    )
                self._positions[name] = position

    def __len__(self) -> int:
        return len(self.labels)

    def __contains__(self, name: object) -> bool:
        return name in self._positions

    @property
    def names(self) -> tuple[str, ...]:
        """The labels' names, in the model's order."""
        return tuple(label.name for label in self.labels)

    def index(self, name: str) -> int:
        """Return the position of a label of this name, or formerly so; raise `CatalogueError` if there is none."""
        if name not in self._positions:
            raise CatalogueError(f"Label {name!r} is not in the catalogue.")
        return self._positions[name]

    def current(self, name: str) -> str:
        """Return what the label of this name, or formerly so, is called here; ``name`` itself if there is none."""
        position = self._positions.get(name)
        return name if position is None else self.labels[position].name

    @property
    def line(self) -> str:
        """Identifies the catalogues that one another's migrations have made: the first one's fingerprint."""
        return self.origin or self.fingerprint

    def is_older_than(self, other: "Catalogue") -> bool:
        """Whether this is an earlier version in the line of ``other``."""
        return self.version < other.version and self.line == other.line

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
        version = content.get("version", 1)
        if type(version) is not int or not 1 <= version <= _MOST_VERSIONS:
            raise CatalogueError(f'Expected a whole number from 1 in "version", got {json.dumps(version)[:20]}.')
        for name in ("parent", "origin"):
            if not isinstance(content.get(name, ""), str):
                raise CatalogueError(f'Expected a string in "{name}".')
        return cls(
            labels=labels,
            title=str(content.get("title", "catalogue")),
            version=version,
            parent=content.get("parent", ""),
            origin=content.get("origin", ""),
        )

    def to_json(self) -> str:
        """Return the text of a catalogue file, the same for equal catalogues."""
        # What a first version does not need is left out: its fingerprint is that of releases without versions.
        labels = [
            {"name": label.name, "description": label.description, "domain": label.domain}
            | ({"was": list(label.was)} if label.was else {})
            for label in self.labels
        ]
        line = {"version": self.version if self.version > 1 else "", "parent": self.parent, "origin": self.origin}
        stated = {name: value for name, value in line.items() if value}
        return json.dumps({"title": self.title, "labels": labels} | stated, ensure_ascii=False, sort_keys=True)

    @property
    def fingerprint(self) -> str:
        """Identifies the title, the version and its line, and the labels in their order: 32 hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:32]


def _label(entry: Any, number: int) -> Label:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise CatalogueError(f'Label {number}: expected an object with a string "name".')
    unknown = set(entry) - _FIELDS
    if unknown:
        known = "name, description, domain, was"
        raise CatalogueError(f"Label {number}: unknown field {sorted(unknown)[0]!r}; known: {known}.")
    for name in ("description", "domain"):
        if not isinstance(entry.get(name, ""), str):
            raise CatalogueError(f"Label {number}: expected a string in {name!r}.")
    was = entry.get("was", [])
    names = [was] if isinstance(was, str) else was
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CatalogueError(f"Label {number}: expected the former name, or a list of former names, in 'was'.")
    return Label(
        name=entry["name"],
        description=entry.get("description", ""),
        domain=entry.get("domain", ""),
        was=tuple(names),
    )
