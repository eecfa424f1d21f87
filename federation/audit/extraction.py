"""Secrets asked of whom they are none of: another device, a locked store, another purpose.

What comes back, answers, errors and files, is looked through for every form of every secret.
"""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from engine.device.device import Device, Memory
from engine.errors import EngineError
from engine.model.training import TrainingPlan
from engine.owner.consent import PERSONALIZATION
from federation.audit.finding import Finding, Ground, at_most
from federation.audit.forms import Forms
from federation.audit.world import OTHER_PURPOSE, SERVICES, World
from store import DeviceKey, FileSecret, StoreError

AUDIT = "secrets asked for"
_MOST = 50


def audit(ground: Ground) -> list[Finding]:
    """Return one finding for each of the three."""
    with tempfile.TemporaryDirectory(prefix="tacit-audit-") as folder, ground.progress(AUDIT, 3) as tick:
        world = World(folder=Path(folder), encoder=ground.encoder, rng=ground.rng)
        victim, other = world.add(2)
        mine = [secret for secret in world.secrets if secret not in _secrets_of(world, other)]
        found: list[Finding] = []
        for what, ask in (
            ("another device", partial(_of_another, world, victim, other)),
            ("a locked store", partial(_of_locked, world, victim)),
            ("another purpose", partial(_for_another_purpose, world, victim)),
        ):
            secrets = [secret for secret in mine if secret.startswith("other")] if what == "another purpose" else mine
            texts = [text for text in world.texts if any(secret in text for secret in secrets)]
            forms = Forms(
                [secret for secret in secrets if not secret.startswith("folder")], world.encoder.encode(texts)
            )
            extracted = sorted(forms.found(ask()))
            note = f"of {len(secrets)}" + (f": {', '.join(extracted[:3])}" if extracted else "")
            found.append(at_most(f"secrets got from {what}", len(extracted), 0, note, audit=AUDIT))
            tick()
    return found


def _secrets_of(world: World, name: str) -> set[str]:
    with world.open(name) as device:
        told = repr([(found.text, found.label, found.scope, found.source) for found in device.memories()])
    return {secret for secret in world.secrets if secret in told or secret == name}


def _of_another(world: World, victim: str, other: str) -> bytes:
    """What another device says when it is asked for the victim's memories, and the victim's store to other keys."""
    with world.open(victim) as device:
        questions = [world.without_secrets(found.text) for found in device.memories()]
    heard: list[object] = []
    with world.open(other) as device:
        for question in questions:
            heard.append([asdict(found) for found in device.search(question, _MOST)])
            heard.append([asdict(answer) for answer in device.suggest(question, k=_MOST)])
        heard += [
            device.labels,
            device.memories(),
            device.train(
                device.model.flat, plan=TrainingPlan(), hold_back=False, rng=np.random.default_rng(0)
            ).tobytes(),
        ]
    for key, secret in (
        (world.key(other), victim),
        (world.key(victim), other),
        (DeviceKey.generate(), victim),
    ):
        heard.append(_tried(partial(_all_of, world, victim, key, secret)))
    return _bytes_of(heard)


def _of_locked(world: World, victim: str) -> bytes:
    """All files of the victim's store, in use and closed, a copy opened without its device secret, a closed device."""
    heard: list[object] = []
    folder = world.folder / victim
    device = world.open(victim)
    device.search(SERVICES[0])
    device.suggest(SERVICES[0])
    heard.append(_files(folder))
    device.close()
    heard.append(_files(folder))
    for ask in (
        lambda: device.search(SERVICES[0], _MOST),
        lambda: device.suggest(SERVICES[0], k=_MOST),
        device.memories,
        lambda: device.labels,
    ):
        heard.append(_tried(ask))
    copy = world.folder / "copy"
    shutil.copytree(folder, copy)
    missing = FileSecret(world.folder / "missing.secret")
    heard.append(_tried(lambda: Device.open(copy, world.key(victim), encoder=world.encoder, secret=missing).memories()))
    return _bytes_of(heard)


def _for_another_purpose(world: World, victim: str) -> bytes:
    """What is said for personalization of what was kept for another purpose, and of that purpose once withdrawn."""
    heard: list[object] = []
    with world.open(victim) as device:
        kept = [found for found in device.memories() if found.purpose == OTHER_PURPOSE]
        questions = [world.without_secrets(found.text) for found in kept]
        for question in questions:
            heard.append([asdict(found) for found in device.search(question, _MOST, purpose=PERSONALIZATION)])
            heard.append([asdict(answer) for answer in device.suggest(question, k=_MOST)])
        heard.append(device.labels)
        device.withdraw_purpose(OTHER_PURPOSE)
        for question in questions:
            heard.append(_tried(partial(device.search, question, _MOST, purpose=OTHER_PURPOSE)))
    [lone] = world.add(1)
    with world.open(lone) as device:
        device.forget([found.id for found in device.memories()])
        # Public labels, but for another purpose: nothing of it may train, so the model comes back as it was.
        device.remember_many([Memory(text=kept[0].text, label=label, purpose=OTHER_PURPOSE) for label in SERVICES])
        flat = device.model.flat
        trained = device.train(flat, plan=TrainingPlan(), hold_back=False, rng=np.random.default_rng(0))
        heard.append(b"" if np.array_equal(trained, flat) else kept[0].text.encode())
    return _bytes_of(heard)


def _all_of(world: World, name: str, key: DeviceKey, secret_of: str) -> object:
    secret = FileSecret(world.folder / f"{secret_of}.secret")
    with Device.open(world.folder / name, key, encoder=world.encoder, secret=secret) as device:
        return device.memories()


def _tried(ask: Callable[[], object]) -> object:
    """The answer, or the error's text, which may tell as much."""
    try:
        return ask()
    except (StoreError, EngineError, ValueError, OSError) as error:
        return repr(error)


def _files(folder: Path) -> bytes:
    return b"".join(path.name.encode() + path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def _bytes_of(heard: list[object]) -> bytes:
    return b"\n".join(one if isinstance(one, bytes) else repr(one).encode(errors="replace") for one in heard)
