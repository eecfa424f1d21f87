"""A forget that is cut off, at whatever step and by whatever error, is done or not, and nobody is locked out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from homes import KEY, Home, matrix

from store import AcceptRollback, EncryptedStore, ForgottenEpoch, Record

NAMES = ("prepare", "commit", "fold", "destroy", "witness")
STEPS = [f"{when} {name}" for name in NAMES for when in ("before", "after")]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "now").mkdir()
    return Home(tmp_path / "now")


class TornError(OSError):
    """What the operating system might raise."""


@contextmanager
def broken(memory: EncryptedStore, step: str, error: type[BaseException], image: Callable[[], None]) -> Iterator[None]:
    """Within the block, ``error`` is raised before or after a step of the next forget; ``image`` runs just then."""
    when, name = step.split()
    core = memory._core
    owner, method = {
        "prepare": (core.secret, "prepare"),
        "commit": (core.database, "run"),
        "fold": (core.database, "fold_journal"),
        "destroy": (core.secret, "commit"),
        "witness": (core.witness, "write"),
    }[name]
    inner = getattr(owner, method)

    def breaking(*arguments: object) -> object:
        if name == "commit" and arguments[0] != "COMMIT":
            return inner(*arguments)
        answer = inner(*arguments) if when == "after" else None
        image()
        raise error("torn")
        return answer

    setattr(owner, method, breaking)
    try:
        yield
    finally:
        delattr(owner, method)


@pytest.mark.parametrize("error", [TornError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("step", STEPS)
def test_forget_cut_off_at_any_step_is_before_or_after_and_locks_nobody_out(
    home: Home, step: str, error: type[BaseException]
) -> None:
    memory = home.create(5)
    old, images = home.copy("old"), []
    with broken(memory, step, error, lambda: images.append(home.copy("image"))), suppress(error):
        memory.forget([2])
    is_done = step not in ("before prepare", "after prepare", "before commit")
    for at in (images[0], home):
        opened = memory if at is home else at.open()
        assert opened.count() == (4 if is_done else 5)
        assert [s.id for s in opened.iter()] == ([1, 3, 4, 5] if is_done else [1, 2, 3, 4, 5])
        assert opened.verify() > 0
        assert len(opened.receipts()) == is_done
        opened.add(Record(text="later", time=0.0), matrix(1)[0])
        assert opened.forget([3]) is not None
        assert sorted(at.secret.read()) == [3 if is_done else 2]
        opened.close()
        with at.open() as again:
            assert [s.id for s in again.iter()] == ([1, 4, 5, 6] if is_done else [1, 2, 4, 5, 6])
        with pytest.raises(ForgottenEpoch):
            EncryptedStore.open(old.folder, KEY, secret=at.secret, accept=AcceptRollback())
