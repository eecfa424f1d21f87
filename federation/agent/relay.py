"""The socket between a node and its device's agent, which is a process of its own, from the installed packages.

Flower ships the app's code from the server to the node, so the process that runs it may be anything: it is handed a
path, and gets answers, never a store or a key. A frame is its length (8 bytes, big-endian) and that many bytes; one
connection carries one question and one answer: a byte for its kind and its content, or nothing where the device
abstains.
"""

import contextlib
import logging
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from federation.agent.asked import Answer, Asked
from federation.errors import UpdateError

if TYPE_CHECKING:
    from federation.agent.agent import Agent

MOST_BYTES = 256 * 1024 * 1024
_LENGTH = struct.Struct(">Q")
_ARRAY, _MESSAGE = b"\x01", b"\x02"
_PATIENCE_S = 600.0  # To make an update; a node that waits longer has lost its round anyway.
_TALK_S = 30.0  # To hand over what was asked.
_log = logging.getLogger("tacit.agent")


def ask(path: str, asked: Asked) -> Answer:
    """Ask the agent that listens at ``path``. Raises `UpdateError` where it abstains or is not there."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as there:
            there.settimeout(_PATIENCE_S)
            there.connect(path)
            _send(there, asked.encode())
            came = _received(there)
    except OSError as error:
        raise UpdateError(
            f"The agent at {path} does not answer ({error.strerror or error}): start `tacit device agent`."
        ) from None
    if came[:1] == _ARRAY:
        return np.frombuffer(came, dtype="<f4", offset=1).astype(np.float32)
    if came[:1] == _MESSAGE:
        return came[1:]
    raise UpdateError("The device abstains.")


def serve(
    agent: "Agent",
    path: Path,
    *,
    stop: Callable[[], bool] = lambda: False,
    told: Callable[[str], None] = _log.info,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Answer what comes at ``path`` (a socket of mode 0600, made here) until ``stop`` says so, one question at a time.

    ``told`` gets a line for the owner on each answer: what left, or why nothing did; ``ready`` is called once it
    listens. Raises `UpdateError` where the socket cannot be made, or another agent listens there already.
    """
    _make_way(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as here:
        made = path.with_name(f".{path.name}.{os.getpid()}")
        before = os.umask(0o177)
        try:
            here.bind(str(made))
        except OSError as error:
            raise UpdateError(
                f"Cannot listen at {path} ({error.strerror or error}): name a short path in a folder of your own."
            ) from None
        finally:
            os.umask(before)
        try:
            here.listen()
            here.settimeout(0.2)
            made.rename(path)  # Who finds it there is answered.
            ready()
            while not stop():
                with contextlib.suppress(TimeoutError):
                    there, _ = here.accept()
                    with there:
                        _answer_one(agent, there, told)
        finally:
            made.unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def _make_way(path: Path) -> None:
    """Remove what an agent that died left at ``path``."""
    if not path.exists():
        return
    if not path.is_socket():
        raise UpdateError(f"{path} is no socket: name another place for it.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as there:
        try:
            there.connect(str(path))
        except OSError:
            path.unlink()
            return
    raise UpdateError(f"Another agent listens at {path} already.")


def _answer_one(agent: "Agent", there: socket.socket, told: Callable[[str], None]) -> None:
    """Take one question and answer it; whoever asks hears nothing of what went wrong."""
    from federation.agent.answers import answer  # Not at the top: a node's process asks alone and loads no store.

    there.settimeout(_TALK_S)
    started = time.monotonic()
    try:
        came = answer(agent, asked := Asked.decode(_received(there)))
        reply = _MESSAGE + came if isinstance(came, bytes) else _ARRAY + came.astype("<f4").tobytes()
        what = f"{asked.kind} {asked.values.get('stage') or ''!s}".strip()
        told(f"{what}: {len(reply) - 1:,} bytes leave, after {time.monotonic() - started:.1f} s")
    # The edge of the device: whatever is asked, the agent lives on, and who asked hears nothing of what went wrong.
    except Exception as error:  # noqa: BLE001
        reply = b""
        told(f"abstains: {error}")
    with contextlib.suppress(OSError):  # Who hung up gets nothing.
        _send(there, reply)


def _send(there: socket.socket, content: bytes) -> None:
    there.sendall(_LENGTH.pack(len(content)) + content)


def _received(there: socket.socket) -> bytes:
    (length,) = _LENGTH.unpack(_exactly(there, _LENGTH.size))
    if length > MOST_BYTES:
        raise UpdateError(f"A frame of {length:,} bytes is more than {MOST_BYTES:,}.")
    return _exactly(there, length)


def _exactly(there: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        part = there.recv(min(count, 1 << 20))
        if not part:
            raise UpdateError("The other side hung up in the middle.")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
