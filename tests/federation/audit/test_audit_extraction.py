"""A secret that another device, a file or another purpose gives away is a breach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.device.device import Device
from engine.device.keeper import MemoryKeeper
from engine.owner.consent import Consents
from federation.audit import extraction
from federation.audit.finding import Finding, Ground

Find = Callable[[Sequence[Finding], str], Finding]
memories = MemoryKeeper.memories
open_device = Device.open.__func__  # type: ignore[attr-defined]


def test_memories_that_devices_share_are_a_breach(monkeypatch: pytest.MonkeyPatch, ground: Ground, one: Find) -> None:
    seen: list[Any] = []

    def cached(self: MemoryKeeper) -> list[Any]:
        seen.extend(memories(self))
        return seen

    monkeypatch.setattr(MemoryKeeper, "memories", cached)
    assert one(extraction.audit(ground), "secrets got from another device").verdict == "breach"


def test_a_text_in_a_file_is_a_breach(monkeypatch: pytest.MonkeyPatch, ground: Ground, one: Find) -> None:
    def noting(cls: type[Device], path: Path, unlock: Any, **given: Any) -> Device:
        device: Device = open_device(cls, path, unlock, **given)
        (Path(path) / "opened.log").write_text(repr(device.memories()), encoding="utf-8")
        return device

    monkeypatch.setattr(Device, "open", classmethod(noting))
    assert one(extraction.audit(ground), "secrets got from a locked store").verdict == "breach"


def test_a_purpose_that_is_not_asked_for_is_a_breach(
    monkeypatch: pytest.MonkeyPatch, ground: Ground, one: Find
) -> None:
    monkeypatch.setattr(Consents, "require", lambda *_: None)
    assert one(extraction.audit(ground), "secrets got from another purpose").verdict == "breach"


def test_training_on_what_was_kept_for_another_purpose_is_a_breach(
    monkeypatch: pytest.MonkeyPatch, ground: Ground, one: Find
) -> None:
    from engine.device import participant

    where = participant.Where
    monkeypatch.setattr(participant, "Where", lambda **_: where())
    assert one(extraction.audit(ground), "secrets got from another purpose").verdict == "breach"
